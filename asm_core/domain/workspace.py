"""Workspace: a folder that a run changes. What is asked of its snapshots, and what they say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.fields import parse_datetime, timestamp_text, to_jsonable
from asm_core.domain.session import require_mapping, require_text

DEFAULT_MAX_PATCH_BYTES = 1_048_576
LARGEST_PATCH_BYTES = 4_194_304
"""A patch that is embedded travels in the run's row."""
DEFAULT_MAX_UNTRACKED_BYTES = 1024**3
MAX_PATHS = 10_000
"""Names of changed files that a diff tells in its plain form."""
NOT_TOLD = frozenset({"file_hashes"})
"""Metadata of a snapshot as large as its folder; they stay out of a run's row."""


class Strategy(StrEnum):
    AUTO = "auto"
    """git inside of a repository, else hash."""
    GIT = "git"
    HASH = "hash"


def _invalid(name: str, problem: str) -> AsmError:
    field_name = f"workspace.{name}"
    return AsmError(ErrorCode.VALIDATION_ERROR, f"{field_name} {problem}", details={"field": field_name})


def _is_absolute(path: Any) -> bool:
    return path is None or (isinstance(path, str) and PurePosixPath(path).is_absolute())


def _only_known(name: str, value: Any, known: tuple[str, ...]) -> dict[str, Any]:
    """The mapping without what is not said. Raises `validation_error`."""
    if not isinstance(value, Mapping):
        raise _invalid(name, "must be a mapping")
    if unknown := sorted(str(key) for key in value.keys() - set(known)):
        raise _invalid(f"{name}.{unknown[0]}".lstrip("."), f"is not known; there are {', '.join(sorted(known))}")
    return {key: item for key, item in value.items() if item is not None}


@dataclass(frozen=True, slots=True)
class Ignore:
    """What a snapshot leaves out, beside what it always does; git applies it to files that it does not track."""

    paths: tuple[str, ...] = ()
    """Names of folders or files, at any depth; with a `/` inside, paths from the root."""
    globs: tuple[str, ...] = ()
    """`*`, `?` and `**`, of the whole path from the root; without a `/`, of the name at any depth."""

    @classmethod
    def from_map(cls, value: Any) -> Ignore:
        """Raises `validation_error` naming the field."""
        given = _only_known("ignore", value, ("paths", "globs"))
        for name, patterns in given.items():
            if not isinstance(patterns, list | tuple) or not all(isinstance(one, str) and one for one in patterns):
                raise _invalid(f"ignore.{name}", "must be a list of texts")
        return cls(**{name: tuple(patterns) for name, patterns in given.items()})

    def to_map(self) -> dict[str, list[str]]:
        given = {"paths": list(self.paths), "globs": list(self.globs)}
        return {name: patterns for name, patterns in given.items() if patterns}


NOTHING_IGNORED = Ignore()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkspaceOptions:
    """
    What a run asks for around its execution.

    Raises:
        AsmError: `validation_error` naming the field.

    Source: spec/05 §13.
    """

    enabled: bool = False
    path: str | None = None
    """An absolute path on the worker; the folder in which the agent works when None."""
    strategy: Strategy = Strategy.AUTO
    capture_patch: bool = True
    max_patch_bytes: int = DEFAULT_MAX_PATCH_BYTES
    """Of a patch kept with the run; where artifacts are kept, it is one of them, whole."""
    max_untracked_bytes: int = DEFAULT_MAX_UNTRACKED_BYTES
    """Of files that git neither tracks nor ignores, which a snapshot writes into the repository; more is an error."""
    rollback_on_failure: bool = False
    """Whether a run that does not complete leaves the folder as it was; with git only."""
    ignore: Ignore = NOTHING_IGNORED

    def __post_init__(self) -> None:
        for name in ("enabled", "capture_patch", "rollback_on_failure"):
            if not isinstance(getattr(self, name), bool):
                raise _invalid(name, "must be true or false")
        if not _is_absolute(self.path):
            raise _invalid("path", f"must be an absolute path, not {self.path!r}")
        if self.strategy not in Strategy._value2member_map_:
            raise _invalid("strategy", f"must be one of {', '.join(Strategy)}, not {self.strategy!r}")
        object.__setattr__(self, "strategy", Strategy(self.strategy))
        most = self.max_patch_bytes
        if type(most) is not int or not 0 <= most <= LARGEST_PATCH_BYTES:
            raise _invalid("max_patch_bytes", f"must be from 0 to {LARGEST_PATCH_BYTES}, not {most!r}")
        if type(self.max_untracked_bytes) is not int or self.max_untracked_bytes < 0:
            raise _invalid("max_untracked_bytes", f"must be an integer from 0, not {self.max_untracked_bytes!r}")
        if self.rollback_on_failure and self.strategy is Strategy.HASH:
            raise _invalid("rollback_on_failure", "needs git; hashes cannot restore anything")

    @classmethod
    def from_map(cls, value: Any) -> WorkspaceOptions:
        """Raises `validation_error` naming an unknown field, or one of the wrong kind."""
        given = _only_known("", value, tuple(option.name for option in fields(cls)))
        if "ignore" in given:
            given["ignore"] = Ignore.from_map(given["ignore"])
        return cls(**given)

    def to_map(self) -> dict[str, Any]:
        """Empty for a run without."""
        if self == NO_WORKSPACE:
            return {}
        given = {option.name: getattr(self, option.name) for option in fields(self)}
        return {**given, "strategy": str(self.strategy), "ignore": self.ignore.to_map()}


NO_WORKSPACE = WorkspaceOptions()


def check_trusted_workspace(options: WorkspaceOptions) -> None:
    """Raises AsmError `forbidden`: a folder of the submitter's choice is read and restored on the worker."""
    if options.path is not None:
        message = "workspace.path is open to trusted submitters only (ASM_TRUSTED_SUBMITTERS)"
        raise AsmError(ErrorCode.FORBIDDEN, message, details={"field": "workspace.path"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state of a folder at one moment, by reference. Source: spec/05 §9."""

    backend: str
    path: str
    ref: str
    captured_at: datetime
    label: str | None = None
    """`before`, `after` or `after_failure`, around a run."""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def to_map(self) -> dict[str, Any]:
        return {
            "backend": self.backend,
            "path": self.path,
            "ref": self.ref,
            "label": self.label,
            "captured_at": timestamp_text(self.captured_at),
            "metadata": to_jsonable(self.metadata),
        }

    def told(self) -> dict[str, Any]:
        """For a run's row: `to_map` without what is as large as the folder."""
        kept = {key: value for key, value in self.metadata.items() if key not in NOT_TOLD}
        return self.to_map() | {"metadata": to_jsonable(kept)}

    @classmethod
    def from_map(cls, value: object) -> Snapshot:
        """The snapshot that `to_map` wrote. Raises `validation_error`."""
        given = require_mapping("snapshot", value)
        try:
            captured_at = parse_datetime(given.get("captured_at"))
        except ValueError as cause:
            raise AsmError(ErrorCode.VALIDATION_ERROR, str(cause), details={"field": "captured_at"}) from cause
        return cls(
            backend=require_text("snapshot", "backend", given.get("backend")),
            path=require_text("snapshot", "path", given.get("path")),
            ref=require_text("snapshot", "ref", given.get("ref")),
            label=given.get("label"),
            captured_at=captured_at,
            metadata=given.get("metadata") or {},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """What lies between two snapshots of one folder. Source: spec/05 §9."""

    backend: str
    from_ref: str
    to_ref: str
    added: tuple[str, ...] = ()
    modified: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    insertions: int = 0
    """Lines; those of binary files do not count, and hashes know of none."""
    deletions: int = 0
    patch: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Of a patch that was asked for: `patch_bytes`, `patch_truncated`; `patch_ref` where it became an artifact."""

    @property
    def changed_paths(self) -> list[str]:
        return sorted([*self.added, *self.modified, *self.deleted])

    @property
    def files_changed(self) -> int:
        return len(self.added) + len(self.modified) + len(self.deleted)

    def summary(self) -> dict[str, Any]:
        return {
            "files_changed": self.files_changed,
            "insertions": self.insertions,
            "deletions": self.deletions,
            "changed_paths": self.changed_paths[:MAX_PATHS],
        }

    def to_map(self) -> dict[str, Any]:
        """Of very many paths the first ones; `files_changed` counts all."""
        names = {"added": self.added, "modified": self.modified, "deleted": self.deleted}
        return {
            "backend": self.backend,
            "from_ref": self.from_ref,
            "to_ref": self.to_ref,
            **self.summary(),
            **{name: list(paths[:MAX_PATHS]) for name, paths in names.items()},
            "patch": self.patch,
            "metadata": to_jsonable(self.metadata),
        }


@dataclass(frozen=True, slots=True)
class Rollback:
    """A folder was restored."""

    ref: str
    """The state that it has again."""
    guard: Snapshot
    """What it was before: rolling back to this undoes the rollback."""
