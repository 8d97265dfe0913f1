"""Another machine, reached by OpenSSH's own client.

The user's configuration, agent, jump hosts and known hosts hold as they are: nothing
here loosens a check, and nothing ever asks for a password. One connection carries
everything: its process serves files (``device_files.py``) and lets device runners
through beside it. Invariant: whatever was started there ends when the connection does.
"""

import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from edgeprune.errors import MeasureError
from edgeprune.files import replacing
from edgeprune.progress import Reporter, Silent
from edgeprune_benchmarks.closing import Closing
from edgeprune_benchmarks.commands import Called, program, run
from edgeprune_benchmarks.process import KEPT, RUNNER, Answer, RunnerProcess
from edgeprune_benchmarks.sending import PATIENCE, files_under, receive, send
from edgeprune_benchmarks.ssh_address import Address
from edgeprune_benchmarks.ssh_failure import (
    connection_broke,
    no_connection,
    no_numpy,
    old_python,
)

__all__ = ["SshHost"]

FILES: Final = Path(__file__).with_name("device_files.py")
MARKER: Final = "edgeprune: from here on"
LOGIN: Final = 60.0  # seconds to log in, through any number of jump hosts
FAREWELL: Final = 10.0  # seconds for the other end to remove what is not to stay
SOCKET: Final = 80  # longest path of a socket; ssh adds 17 characters, systems allow 104
OLDEST: Final = (3, 8)
YES_NO: Final = {True: "yes", False: "no"}
OPTIONS: Final = {
    "BatchMode": "yes",
    "ConnectTimeout": "20",
    "ServerAliveInterval": "15",  # a link that is dead ends within a minute
    "ServerAliveCountMax": "3",
    "LogLevel": "ERROR",  # no banners
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "PermitLocalCommand": "no",
    "ControlPersist": "no",  # the connection ends with the process that made it
}
# BatchMode is of the last host only: this makes a question of a jump host fail as well.
SILENCED: Final = {"SSH_ASKPASS_REQUIRE": "force", "SSH_ASKPASS": "false"}


class SshHost(Closing):
    """A machine at the other end of ``ssh``; it is met when it is first needed."""

    def __init__(
        self,
        address: Address,
        *,
        runner: Path = RUNNER,
        config: Path | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        """Take the address; ``config`` takes the place of ``~/.ssh/config``."""
        self.name, self.python = address.name, address.python
        self.sent_bytes = 0
        self._address, self._config, self._file = address, config, runner
        self._reporter = reporter or Silent()
        self._sockets: str | None = None
        self._device: RunnerProcess | None = None
        self._met = False
        self._given: dict[Path, str] = {}

    def runner(self, name: str) -> RunnerProcess:
        """Start a device runner there, with the environment it would have here."""
        command = program(self.python, self._own(self._file), "serve")
        called = name if name == self.name else f"{name} on {self.name}"
        return self._process(called, self._attended(command, KEPT))

    def give(self, folder: Path, files: Sequence[Path], *, keep: bool = True) -> str:
        """Copy what is missing there, and return the folder that shows the files."""
        named = files_under(folder, files)
        there, sent = send(self._connected(), named, keep=keep, reporter=self._reporter)
        self.sent_bytes += sent
        return there

    def scratch(self) -> str:
        """Return a new folder there."""
        return str(self._connected().ask("scratch", PATIENCE)["folder"])

    def fetch(self, there: str, here: Path) -> None:
        """Copy a file from there."""
        with replacing(here) as path:
            receive(self._connected(), there, path)

    def call(self, command: Sequence[str], timeout: float) -> Called:
        """Run a command there, with the environment of a login."""
        called = run(
            self._attended(command, None),
            timeout,
            name=f"{command[0]} on {self.name}",
            environment=_environment(),
        )
        _, marker, out = called.out.partition(f"{MARKER}\n")
        if not marker:
            why = connection_broke(self.name, called.code, called.err)
            heard = called.err.strip()
            raise MeasureError(why or f"{self.name} cannot run {command[0]}: {heard}")
        return Called(code=called.code, out=out, err=called.err)

    def close(self) -> None:
        """End the connection; the other end then removes what is not to stay."""
        if self._device is not None:
            # Where the connection is gone, the other end has seen that by itself.
            with suppress(MeasureError):
                if self._met:
                    self._device.ask("close", FAREWELL)
            self._device.close()
        if self._sockets is not None:
            shutil.rmtree(self._sockets, ignore_errors=True)
        self._device = self._sockets = None
        self._met = False
        self._given.clear()

    def _connected(self) -> RunnerProcess:
        """Return the process that keeps files there; the first call logs in."""
        if self._device is None:
            if shutil.which("ssh") is None:
                install = "install OpenSSH's client (sudo apt install openssh-client)"
                raise MeasureError(f"there is no ssh here to reach {self.name} with: {install}")
            self._sockets = self._sockets_folder()
            text = FILES.read_text(encoding="utf-8")
            command = [self.python, "-c", text, "serve", MARKER]
            self._device = self._process(self.name, self._remote(command, leads=True))
        if not self._met:
            self._check(self._device.ask("hello", LOGIN, cache=self._address.cache))
            self._met = True
        return self._device

    def _check(self, hello: Answer) -> None:
        """Raise ``MeasureError`` when the Python there cannot run a device runner."""
        version = tuple(hello["python"])
        if version < OLDEST:
            raise MeasureError(old_python(self._address, "Python " + ".".join(map(str, version))))
        if not hello["numpy"]:
            raise MeasureError(no_numpy(self._address))

    def _process(self, name: str, command: Sequence[str]) -> RunnerProcess:
        return RunnerProcess(
            name, command, environment=_environment(), marker=MARKER, explain=self._meaning
        )

    def _meaning(self, code: int, words: str) -> str | None:
        if self._met:
            return connection_broke(self.name, code, words)
        return no_connection(self._address, code, words)

    def _own(self, file: Path) -> str:
        """Return where a program of ours lies there, after bringing it there once."""
        if file not in self._given:
            self._given[file] = f"{self.give(file.parent, [file])}/{file.name}"
        return self._given[file]

    def _attended(self, command: Sequence[str], kept: Sequence[str] | None) -> list[str]:
        """Return the command line that runs a command there for as long as we wait for it."""
        words = ["run", MARKER, json.dumps(kept), *command]
        return self._remote(program(self.python, self._own(FILES), *words))

    def _remote(self, command: Sequence[str], *, leads: bool = False) -> list[str]:
        """Return the command line that runs a command there."""
        return [*self._ssh(leads=leads), "--", self._address.host, shlex.join(command)]

    def _ssh(self, *, leads: bool) -> list[str]:
        """Return ``ssh`` with its options; the first process leads, others go through it."""
        options = [f"-o{name}={value}" for name, value in OPTIONS.items()]
        if self._sockets is not None:
            options += [f"-oControlPath={self._sockets}/s", f"-oControlMaster={YES_NO[leads]}"]
        return ["ssh", *self._reached(), *options]

    def _reached(self) -> list[str]:
        """Return the options that say where to log in, and as whom."""
        address = self._address
        return [
            *(["-F", str(self._config)] if self._config else []),
            *(["-l", address.user] if address.user else []),
            *(["-p", str(address.port)] if address.port else []),
        ]

    def _sockets_folder(self) -> str | None:
        """Return a folder for the connection's socket, or None where there is to be none.

        A connection that the user keeps open, after a password or a second factor, is
        used as it is.
        """
        check = ["ssh", *self._reached(), "-O", "check", "--", self._address.host]
        if os.name == "nt" or run(check, LOGIN, environment=_environment()).code == 0:
            return None
        for place in (None, "/tmp"):  # noqa: S108  a folder in it, of a name nobody can guess
            folder = tempfile.mkdtemp(prefix="ep-", dir=place)
            if len(folder) <= SOCKET:
                return folder
            Path(folder).rmdir()
        return None


def _environment() -> dict[str, str]:
    """Return what ``ssh`` needs of the environment: all of it, for its agent and its files."""
    return {**os.environ, **SILENCED}
