"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from asm_core.domain.errors import AsmError, ErrorCode


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """
    Take the file's place when the block is done; what was there stays when it fails.

    Raises:
        AsmError: `storage_error` when it cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as cause:
        message = f"cannot write {path}: {cause.strerror or cause}"
        raise AsmError(ErrorCode.STORAGE_ERROR, message, details={"path": str(path)}) from cause
    finally:
        with suppress(OSError):
            part.unlink()
