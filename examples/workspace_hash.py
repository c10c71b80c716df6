"""A folder outside of any repository: what changed is seen by digests, without patch and without a way back."""

from __future__ import annotations

from _common import claim, main, refusal, temporary_folder

from asm_core import ErrorCode
from asm_core.domain.workspace import Ignore
from asm_core.workspace.opening import diff, rollback, take_snapshot


async def example() -> None:
    with temporary_folder() as folder:
        (folder / "kept.txt").write_text("same")
        (folder / "changed.txt").write_text("one")
        ignore = Ignore(paths=("cache",), globs=("*.log",))
        before = await take_snapshot(str(folder), label="before", ignore=ignore)
        claim("a plain folder is seen by hashes", before.backend == "hash")

        (folder / "changed.txt").write_text("two")
        (folder / "new.txt").write_text("new")
        (folder / "debug.log").write_text("noise")
        (folder / "cache").mkdir()
        (folder / "cache" / "x").write_text("noise")
        after = await take_snapshot(str(folder), label="after", ignore=ignore)
        found = await diff(before, after, capture_patch=True)
        print(f"  added {found.added}, modified {found.modified}, deleted {found.deleted}")
        claim(
            "what was added and what was changed is told",
            (found.added, found.modified) == (("new.txt",), ("changed.txt",)),
        )
        claim("what is ignored does not count", found.files_changed == 2)
        claim("there is no patch", found.patch is None)
        error = await refusal(rollback(before))
        claim("and no way back", error.code == ErrorCode.INVALID_OPERATION)


if __name__ == "__main__":
    main(example)
