"""Where a measurement runs: on this machine, or on another one.

Whoever measures asks a host for runners and gives it files; that a host is at the
other end of a network changes nothing else. Invariant: a host's name appears in
messages only, never in what is measured.
"""

import compileall
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from edgeprune.errors import UsageError
from edgeprune.files import replacing
from edgeprune.progress import Reporter
from edgeprune_benchmarks.closing import Closing
from edgeprune_benchmarks.commands import Called, program, run
from edgeprune_benchmarks.process import RUNNER, RunnerProcess
from edgeprune_benchmarks.sending import files_under
from edgeprune_benchmarks.ssh import SshHost
from edgeprune_benchmarks.ssh_address import SCHEME, parse_address

__all__ = ["Called", "Host", "LocalHost", "SshHost", "open_host"]


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
        to be kept, as images of patients, is gone after ``close``, or once other files
        of the same names are given so.
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


class LocalHost(Closing):
    """This machine: nothing is copied."""

    name = "this machine"

    def __init__(self, runner: Path = RUNNER, python: str = sys.executable) -> None:
        """Take the runner, a file with a ``main()``, and the Python that runs it."""
        self.python = python
        self._runner = runner
        compileall.compile_file(str(runner), quiet=2)  # not in the first process that is measured
        self._scratch: list[str] = []

    def runner(self, name: str) -> RunnerProcess:
        """Start a device runner."""
        return RunnerProcess(name, program(self.python, self._runner, "serve"))

    def give(self, folder: Path, files: Sequence[Path], *, keep: bool = True) -> str:
        """Return the folder itself; ``MeasureError`` when a file is not there."""
        del keep  # nothing is copied
        files_under(folder, files)
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


def open_host(
    device: str, *, reporter: Reporter | None = None, config: Path | None = None
) -> tuple[Host, str]:
    """Return the host that ``device`` names, and what that host calls the device.

    ``cpu`` and ``cuda:N`` are of this machine, ``ssh://[user@]host[:port][/cuda:N]`` is
    another one, reached by the user's configuration of ``ssh`` or by the one named, here
    or in ``EDGEPRUNE_SSH_CONFIG``. Raises ``UsageError`` for anything else.
    """
    if device.startswith(SCHEME):
        address, there = parse_address(device)
        named = config or os.environ.get("EDGEPRUNE_SSH_CONFIG")
        return SshHost(address, config=Path(named) if named else None, reporter=reporter), there
    if device == "cpu" or re.fullmatch(r"cuda:\d+", device):
        return LocalHost(), device
    shown = device.rpartition("@")[2]  # what stands before it may be a password
    known = "cpu, cuda:0, or ssh://user@host for another machine"
    raise UsageError(f"there is no device {shown!r}: use {known}")
