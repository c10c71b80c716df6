"""Artifacts as values."""

from __future__ import annotations

from typing import Any

import pytest

from asm_core.domain.artifact import Artifact
from asm_core.domain.errors import AsmError, ErrorCode
from tests.builders import NOW

CHECKSUM = "ab" * 32


def an_artifact(**given: Any) -> Artifact:
    attrs = {"key": "k", "byte_size": 0, "checksum_sha256": CHECKSUM, "storage_backend": "s3", "storage_ref": "r"}
    return Artifact.new(attrs | given, id="art_1", tenant_id="acme", now=NOW)


def test_a_new_artifact_is_live_and_as_old_as_its_registration() -> None:
    row = an_artifact(metadata=None, session_id=None)
    assert (row.id, row.tenant_id, row.created_at, row.deleted_at) == ("art_1", "acme", NOW, None)
    assert (row.metadata, row.session_id) == ({}, None)


def test_an_id_that_is_given_stands() -> None:
    assert an_artifact(id="art_mine").id == "art_mine"


def test_metadata_become_plain_json() -> None:
    assert an_artifact(metadata={1: NOW, "nan": float("nan")}).metadata == {
        "1": "2025-06-01T12:00:00.000000Z",
        "nan": None,
    }


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"byte_size": -1}, "byte_size"),
        ({"byte_size": True}, "byte_size"),
        ({"byte_size": 1.5}, "byte_size"),
        ({"byte_size": 2**63}, "byte_size"),
        ({"checksum_sha256": CHECKSUM.upper()}, "checksum_sha256"),
        ({"checksum_sha256": "ab"}, "checksum_sha256"),
        ({"fence": "3"}, "fence"),
        ({"session_id": ""}, "session_id"),
        ({"run_id": "nul\0"}, "run_id"),
        ({"content_type": "a\nb"}, "content_type"),
        ({"created_at": NOW}, "created_at"),
        ({"tenant_id": "other"}, "tenant_id"),
        ({"surprise": 1}, "surprise"),
    ],
    ids=str,
)
def test_what_a_row_cannot_hold_is_named(given: dict[str, Any], field: str) -> None:
    """Nobody writes under another tenant or another time, either."""
    with pytest.raises(AsmError) as caught:
        an_artifact(**given)
    assert (caught.value.code, caught.value.details["field"]) == (ErrorCode.VALIDATION_ERROR, field)


@pytest.mark.parametrize("attrs", [None, [], "key"])
def test_attributes_are_a_mapping(attrs: Any) -> None:
    with pytest.raises(AsmError) as caught:
        Artifact.new(attrs, id="art_1", tenant_id="acme", now=NOW)
    assert caught.value.code is ErrorCode.VALIDATION_ERROR
