"""Where a measurement runs: on this machine, or on another one.

Whoever measures asks a host for runners and gives it files; that a host is at the
other end of a network changes nothing else. Invariant: a host's name appears in
messages only, never in what is measured.
"""

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from edgeprune.errors import MeasureError, UsageError
from edgeprune.files import replacing
from edgeprune_benchmarks.commands import Called, run
from edgeprune_benchmarks.process import RUNNER, RunnerProcess

__all__ = ["Called", "Host", "LocalHost", "open_host"]


class Host(Protocol):
    """A machine that runs device runners; a context manager that leaves no scratch behind."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def python(self) -> str:
        """The Python that runs there."""
        ...

    def runner(self, name: str) -> RunnerProcess:
        """Start a device runner there; ``name`` is what errors call it."""
        ...

    def give(self, folder: Path, files: Sequence[Path], *, keep: bool = True) -> str:
        """Make files available there, under their names relative to ``folder``.

        Returns the folder there; names below it are separated by ``/``. What is not
        to be kept, as images of patients, is gone after ``close``.
        """
        ...

    def scratch(self) -> str:
        """Return an empty folder there, for outputs, that ``close`` removes."""
        ...

    def fetch(self, there: str, here: Path) -> None:
        """Copy a file from there, whole or not at all."""
        ...

    def call(self, command: Sequence[str], timeout: float) -> Called:
        """Run a command there for at most ``timeout`` seconds."""
        ...

    def close(self) -> None:
        """End what was started there and remove what is not to stay."""
        ...

    def __enter__(self) -> Self:
        """Return itself."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        ...


class LocalHost:
    """This machine: nothing is copied."""

    name = "this machine"

    def __init__(self, runner: Path = RUNNER, python: str = sys.executable) -> None:
        """Take the runner to start, and the Python that starts it."""
        self.python = python
        self._runner = runner
        self._scratch: list[str] = []

    def runner(self, name: str) -> RunnerProcess:
        """Start a device runner."""
        return RunnerProcess(name, [self.python, str(self._runner), "serve"])

    def give(self, folder: Path, files: Sequence[Path], *, keep: bool = True) -> str:
        """Return the folder itself; ``MeasureError`` when a file is not there."""
        del keep  # nothing is copied
        check_files(folder, files)
        return str(folder.resolve())

    def scratch(self) -> str:
        """Return a new temporary folder."""
        self._scratch.append(tempfile.mkdtemp(prefix="edgeprune-"))
        return self._scratch[-1]

    def fetch(self, there: str, here: Path) -> None:
        """Copy a file."""
        with replacing(here) as partial:
            shutil.copyfile(there, partial)

    def call(self, command: Sequence[str], timeout: float) -> Called:
        """Run a command."""
        return run(command, timeout)

    def close(self) -> None:
        """Remove the temporary folders."""
        while self._scratch:
            shutil.rmtree(self._scratch.pop(), ignore_errors=True)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the temporary folders."""
        self.close()


def check_files(folder: Path, files: Sequence[Path]) -> None:
    """Raise ``MeasureError`` for a file that is not there, or not in the folder."""
    for path in files:
        if not path.is_file():
            raise MeasureError(f"there is no file {path}")
        if not path.resolve().is_relative_to(folder.resolve()):
            raise MeasureError(f"{path} does not lie in {folder}")


def open_host(device: str) -> tuple[Host, str]:
    """Return the host that ``device`` names, and what that host calls the device.

    ``cpu`` and ``cuda:N`` are of this machine.
    """
    if device == "cpu" or (device.startswith("cuda:") and device[5:].isdecimal()):
        return LocalHost(), device
    known = "cpu, cuda:0, or ssh://user@host for another machine"
    raise UsageError(f"there is no device {device!r}: use {known}")
