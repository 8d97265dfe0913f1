"""What an interrupted measurement had finished, so that it goes on where it was.

A file of JSON lines: the first says what it is, every other one holds a finished
part and the key of the measurement it belongs to. So one file serves a job of
several measurements, and what was measured of another artifact, in another way or
on another machine is never taken over. Each line is synced before the next part
begins. Invariant: a part is there as a whole or not at all.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from edgeprune.errors import StorageError
from edgeprune_benchmarks.codec import encode

HEADER: Final = {"format": "edgeprune-journal", "version": 1}

Say = Callable[[str], None]


def silent(text: str) -> None:
    """Say nothing."""
    del text


def key_of(content: object) -> str:
    """Return what stands for everything that decides a measurement, as SHA-256."""
    text = json.dumps(encode(content), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Journal:
    """The finished parts of one measurement; without a path, it remembers nothing."""

    def __init__(self, path: Path | None, key: str, say: Say = silent) -> None:
        """Read what is there; ``say`` hears of a file that had to be set aside.

        Raises ``StorageError`` where nothing can be written.
        """
        self._path = path
        self._key = key
        self._parts: dict[str, Any] = {}
        if path is not None:
            self._parts = _opened(path, key, say)

    def get(self, part: str) -> Any | None:  # noqa: ANN401  a JSON value
        """Return what a finished part gave, as a JSON value, or None."""
        return self._parts.get(part)

    def put(self, part: str, value: object) -> None:
        """Store what a part gave, for good."""
        if self._path is not None:
            _append(self._path, {"key": self._key, "part": part, "value": encode(value)})


def _opened(path: Path, key: str, say: Say) -> dict[str, Any]:
    """Drop a line that was never finished, and return the parts stored under the key."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stored = path.read_bytes() if path.exists() else b""
        whole = stored[: stored.rfind(b"\n") + 1]
        if len(whole) < len(stored):
            os.truncate(path, len(whole))
        if whole and (lines := _lines(whole)) is not None:
            return {line["part"]: line["value"] for line in lines if line["key"] == key}
        if whole:
            aside = _free(path)
            path.replace(aside)
            say(f"{path.name} is not a journal that can be continued: it is now {aside.name}")
    except OSError as error:
        raise StorageError(f"{path} cannot be used as a journal: {error.strerror}") from error
    _append(path, HEADER)
    return {}


def _lines(whole: bytes) -> list[dict[str, Any]] | None:
    """Return every line after the first, or None when this is no journal of ours."""
    try:
        first, *rest = (json.loads(line) for line in whole.splitlines())
        known = first == HEADER and all(line.keys() == {"key", "part", "value"} for line in rest)
    except (ValueError, AttributeError):
        return None
    return rest if known else None


def _free(path: Path) -> Path:
    """Return a name beside the file that nothing has yet."""
    number = 1
    while (aside := path.with_name(f"{path.name}.old{number}")).exists():
        number += 1
    return aside


def _append(path: Path, line: Mapping[str, object]) -> None:
    data = json.dumps(line, allow_nan=False).encode() + b"\n"
    try:
        with path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error
