"""A real sshd on loopback, with keys of its own, and what can go wrong with it."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgeprune.progress import Reporter
from edgeprune_benchmarks.hosts import SshHost, open_host

PATIENCE = 20.0
SERVER = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
needs_sshd = pytest.mark.skipif(
    SERVER is None or shutil.which("ssh") is None,
    reason="there is no OpenSSH server or client (apt install openssh-server)",
)


@dataclass(kw_only=True)
class SshServer:
    """``start`` it, and ``url`` names it as a device; aliases stand in ``config``."""

    folder: Path
    options: Mapping[str, object] = field(default_factory=dict)
    environment: str = ""
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def config(self) -> Path:
        return self.folder / "ssh_config"

    @property
    def socket(self) -> Path:
        """Of a connection that the user keeps open, for the alias ``opened``."""
        return self.folder / "socket"

    def url(self, alias: str = "device", *, python: str | Path = sys.executable) -> str:
        return f"ssh://{alias}?python={python}&cache={self.cache}"

    def start(self) -> None:
        if os.geteuid() == 0:  # where sshd then puts processes that may do nothing
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        for name in ("host", "other_host", "key", "other_key"):
            self._make_key(self.folder / name)
        self.port = self.port or free_port()
        self._write()
        command = [str(SERVER), "-D", "-e", "-f", str(self.folder / "sshd_config")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log)
        until(lambda: listens(self.port), "sshd does not listen")
        probe = [str(shutil.which("ssh")), "-F", str(self.config), "-oBatchMode=yes", "device"]
        if subprocess.run([*probe, "true"], check=False, capture_output=True).returncode:
            self.stop()
            last = (self.folder / "log").read_text().strip().rpartition("\n")[2]
            pytest.skip(f"this account cannot log in on loopback: {last}")

    def stop(self) -> None:
        """End sshd, and what serves its connections."""
        if self.process is not None:
            for child in [*offspring(self.process.pid), self.process.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def logins(self) -> int:
        return (self.folder / "log").read_text().count("Accepted publickey")

    def _make_key(self, path: Path) -> None:
        if not path.exists():
            words = ["-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)]
            subprocess.run([str(shutil.which("ssh-keygen")), *words], check=True)

    def _write(self) -> None:
        (self.folder / "sshd_config").write_text(
            f"Port {self.port}\n"
            "ListenAddress 127.0.0.1\n"
            f"HostKey {self.folder / 'host'}\n"
            f"AuthorizedKeysFile {self.folder / 'key.pub'}\n"
            "PidFile none\nStrictModes no\nUsePAM no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            f"SetEnv HOME={self.folder} {self.environment}\n"  # no start-up files of a shell
            + "".join(f"{name} {value}\n" for name, value in self.options.items())
        )
        for name, key in {"known": "host", "changed": "other_host"}.items():
            public = (self.folder / f"{key}.pub").read_text()
            (self.folder / name).write_text(f"[127.0.0.1]:{self.port} {public}")
        aliases = {
            "device": ("known", "key"),
            "unknown": ("nothing", "key"),
            "changed": ("changed", "key"),
            "stranger": ("known", "other_key"),
        }
        text = "".join(self._alias(name, *keys) for name, keys in aliases.items())
        text += self._alias("beyond", "known", "key", "ProxyJump device")
        text += self._alias("closed", "known", "key", "ProxyJump stranger")
        text += self._alias("opened", "known", "other_key", f"ControlPath {self.socket}")
        self.config.write_text(text)

    def _alias(self, name: str, known: str, key: str, more: str = "") -> str:
        return (
            f"Host {name}\n {more}\n HostName 127.0.0.1\n Port {self.port}\n IdentitiesOnly yes\n"
            f" IdentityAgent none\n IdentityFile {self.folder / key}\n"
            f" UserKnownHostsFile {self.folder / known}\n GlobalKnownHostsFile /dev/null\n"
        )


def login(server: SshServer, reporter: Reporter | None = None) -> SshHost:
    """Return the server as a host; it is met when it is first needed."""
    host, _ = open_host(server.url(), config=server.config, reporter=reporter)
    assert isinstance(host, SshHost)
    return host


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def offspring(pid: int) -> list[int]:
    """Return the children of a process and theirs."""
    try:
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [each for child in map(int, words) for each in (child, *offspring(child))]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def until(done: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def program(path: Path, text: str) -> Path:
    """Write something executable that stands where a device's Python is looked for."""
    path.write_text(text)
    path.chmod(0o755)
    return path
