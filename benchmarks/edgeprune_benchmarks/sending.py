"""Bring files to a device that may have them already, or a part of them.

A file is known by its SHA-256. The device says how far each one got; a part that is
the beginning of our file is continued, anything else starts again. Invariant: what
``send`` leaves there under a hash has that hash.
"""

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgeprune.errors import MeasureError
from edgeprune.files import sha256
from edgeprune.progress import Reporter
from edgeprune_benchmarks.process import RunnerProcess

__all__ = ["PATIENCE", "files_under", "receive", "send"]

PIECE: Final = 1 << 20  # bytes in one message
PATIENCE: Final = 60.0  # seconds for a message, on top of what hashing takes
SLOWEST: Final = 10e6  # bytes a second that any device hashes, and its disk writes
ATTEMPTS: Final = 3  # until a file that arrives damaged is given up


def files_under(folder: Path, files: Sequence[Path]) -> dict[str, Path]:
    """Return files by their names in a folder; ``MeasureError`` when one is not there."""
    for path in files:
        if not path.is_file():
            raise MeasureError(f"there is no file {path}")
        if not path.absolute().is_relative_to(folder.absolute()):
            raise MeasureError(f"{path} does not lie in {folder}")
    return {p.absolute().relative_to(folder.absolute()).as_posix(): p for p in files}


def send(
    device: RunnerProcess, files: Mapping[str, Path], *, keep: bool, reporter: Reporter
) -> tuple[str, int]:
    """Send what is missing of files, {name: path}.

    Returns the folder there that shows them under their names, and how many bytes
    had to travel. Raises ``MeasureError`` when the connection or the disk gives out.
    """
    hashes = {name: sha256(path) for name, path in files.items()}
    paths = {hashes[name]: path for name, path in files.items()}
    patience = PATIENCE + sum(path.stat().st_size for path in paths.values()) / SLOWEST
    seen = device.ask("have", patience, names=list(paths), keep=keep)
    parts = [_part(key, paths[key], found) for key, found in seen["files"].items()]
    missing = sum(part.size - part.start for part in parts)
    _check_room(device.name, missing, seen["free"])
    sent = 0
    shown = reporter.track(f"copying to {device.name}", missing) if missing > PIECE else None
    with shown or nullcontext() as move:
        for part in (part for part in parts if not part.whole):
            for count in _send(device, part, patience, keep=keep):
                sent += count
                if move is not None:
                    move(min(sent, missing), f"{sent / 1e6:.1f} of {missing / 1e6:.1f} MB")
    there = device.ask("folder", patience, names=hashes, keep=keep)["folder"]
    return str(there), sent


def receive(device: RunnerProcess, there: str, here: Path) -> None:
    """Copy a file from the device; ``MeasureError`` when it is not there."""
    with here.open("wb") as file:
        size = None
        while size is None or file.tell() < size:
            answer = device.ask("read", PATIENCE, path=there, at=file.tell())
            size = int(answer["size"])
            file.write(base64.b64decode(answer["data"]))


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A file, and how much of it is there."""

    key: str  # SHA-256
    path: Path
    size: int
    start: int  # bytes that are there and are the file's own
    whole: bool


def _part(key: str, path: Path, found: Mapping[str, Any]) -> _Part:
    size, there = path.stat().st_size, int(found["size"])
    if not found["whole"] and not _begins(path, there, found["sha256"]):
        there = 0
    return _Part(key=key, path=path, size=size, start=there, whole=found["whole"])


def _begins(path: Path, count: int, key: str | None) -> bool:
    """Say whether a file's first ``count`` bytes have this hash."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while count > 0 and (piece := file.read(min(count, PIECE))):
            digest.update(piece)
            count -= len(piece)
    return count == 0 and digest.hexdigest() == key


def _send(device: RunnerProcess, part: _Part, patience: float, *, keep: bool) -> Iterator[int]:
    """Send the rest of a file, and yield the bytes of every message."""
    if part.start == 0:
        device.ask("drop", PATIENCE, name=part.key, keep=keep)
    at, begun, whole = part.start, 0, False
    with part.path.open("rb") as file:
        while not whole:
            file.seek(at)
            piece = file.read(PIECE)
            begun += at == 0
            if begun > ATTEMPTS:
                changed = f"{part.path} changes while it is copied, or arrives damaged"
                raise MeasureError(f"{device.name}: {changed}; copied {ATTEMPTS} times in vain")
            answer = device.ask(
                "append",
                patience,
                name=part.key,
                at=at,
                data=base64.b64encode(piece).decode(),
                size=part.size,
                keep=keep,
            )
            yield len(piece)
            at, whole = int(answer["at"]), bool(answer["whole"])


def _check_room(device: str, missing: int, free: int) -> None:
    if missing > free:
        raise MeasureError(
            f"{device} has {free / 1e6:.0f} MB free where files are kept, and "
            f"{missing / 1e6:.0f} MB have to be copied there: make room, or name another "
            "folder by adding ?cache=FOLDER to the address"
        )
