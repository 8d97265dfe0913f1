"""A disk that fills up, told as one sentence.

Every library reports it in its own way: an ``OSError``, one without a number
(numpy), or an error of its own (safetensors). What was whole stays whole, since
nothing is written under its final name.
"""

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from safetensors import SafetensorError

from edgeprune.errors import StorageError

# numpy gives no number when it could write only a part.
FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None)


@contextmanager
def told_as_one_line(folder: Path) -> Iterator[None]:
    """Turn whatever says that a file below ``folder`` cannot be written into a StorageError."""
    try:
        yield
    except SafetensorError as error:
        raise StorageError(_full(str(error), folder)) from error
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in FULL:
            raise StorageError(_full(reason, folder)) from error
        place = f"'{error.filename}'" if error.filename else "a file"
        raise StorageError(
            f"{place} cannot be used ({reason}): make it readable and writable, then continue "
            "with --resume, or choose another --out"
        ) from error


def _full(reason: str, folder: Path) -> str:
    return (
        f"a file could not be written ({reason}): free some space for '{folder}' and for temporary "
        f"files in '{tempfile.gettempdir()}', then continue with --resume"
    )
