"""Hold files for measurements on this device, and end what nobody waits for any more.

The text of this file is given to ``python3 -c`` over ssh, so that nothing has to be
installed. It needs the standard library alone, and so little of it that a Python too
old for the device runner can still say that it is.

``serve`` answers JSON lines as the device runner does. ``run`` starts a command and
kills it when its own input closes: a runtime that hangs would outlive the connection.
Invariants: a file is named by its SHA-256 once it is whole, ``.partial`` before; and
what is not to be kept goes when the connection does, or when the next one comes.
"""

import sys

if __name__ == "__main__":  # with -c, Python looks for modules where one logs in
    sys.path[:] = [entry for entry in sys.path if entry]

import base64
import compileall
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any

GRACE = 1.0  # seconds a command gets to see for itself that its input has closed
UNUSED = 30 * 86400.0  # seconds after which a kept file is removed
OURS = re.compile("[0-9a-f]{64}(?:[.]partial)?")
PIECE = 1 << 20


class Store:
    """Files by hash, and folders that show them under their names."""

    def __init__(self, root: Path) -> None:
        """Make the folders; only their owner may look into them."""
        self.files, self.folders = root / "files", root / "folders"
        for folder in (root, self.files, self.folders):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def found(self, name: str) -> "dict[str, Any]":
        """Say how much of a file is here, and what that hashes to; a damaged one goes."""
        whole, partial = self.files / name, self.files / (name + ".partial")
        if whole.is_file():
            if digest(whole) == name:
                touch(whole)
                return {"whole": True, "size": whole.stat().st_size, "sha256": name}
            whole.unlink()
        if not partial.is_file():
            return {"whole": False, "size": 0, "sha256": None}
        return {"whole": False, "size": partial.stat().st_size, "sha256": digest(partial)}

    def append(self, name: str, at: int, data: bytes, size: int) -> "dict[str, Any]":
        """Add bytes where the partial file ends, and say where it ends now.

        Bytes for another place are left out: whoever sends them has to look again.
        """
        whole, partial = self.files / name, self.files / (name + ".partial")
        if whole.is_file():
            return {"at": size, "whole": True}
        with partial.open("ab") as file:
            if file.tell() == at:
                file.write(data)
            file.flush()
            end = file.tell()
            if end >= size:
                os.fsync(file.fileno())
        if end < size:
            return {"at": end, "whole": False}
        if digest(partial) == name:
            partial.replace(whole)
            return {"at": size, "whole": True}
        partial.unlink()
        return {"at": 0, "whole": False}

    def folder(self, names: "dict[str, str]") -> Path:
        """Return the folder that shows these files, {name: hash}, and what was built in it."""
        key = hashlib.sha256(json.dumps(sorted(names.items())).encode()).hexdigest()
        folder = self.folders / key
        for name, content in names.items():
            shown = folder / name
            shown.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            show(self.files / content, shown)
        compileall.compile_dir(str(folder), quiet=2)  # not in the first process that is measured
        touch(folder)
        return folder

    def replace(self, names: "dict[str, str]") -> Path:
        """Return a folder as ``folder`` does; what had these names before is removed."""
        new = self.folder(names)
        for folder in self.folders.iterdir():
            if folder != new and any((folder / name).exists() for name in names):
                remove(folder)
        for file in self.files.iterdir():
            if file.stat().st_nlink == 1:  # shown nowhere any more
                file.unlink()
        return new

    def forget_unused(self) -> None:
        """Remove what no measurement has asked for in a long time."""
        for path in [*self.files.iterdir(), *self.folders.iterdir()]:
            if OURS.fullmatch(path.name) and time.time() - path.stat().st_atime > UNUSED:
                remove(path)


class Keeper:
    """The files of one connection; what is not to be kept lives in its session folder."""

    def __init__(self) -> None:
        """Start with nothing; ``hello`` says where files go."""
        self.cache = Path()
        self.session = Path()
        self.lock = None  # type: IO[bytes] | None
        self.stores = {}  # type: dict[bool, Store]

    def hello(self, cache: "str | None") -> "dict[str, Any]":
        """Make a place for files, and say what this Python is."""
        usual = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "edgeprune"
        named = cache or os.environ.get("EDGEPRUNE_CACHE") or usual
        self.cache = Path(named).expanduser().absolute()
        self.stores[True] = Store(self.cache)
        sessions = self.cache / "sessions"
        sessions.mkdir(mode=0o700, exist_ok=True)
        with lock(self.cache / "lock"):
            forget_sessions(sessions)
            self.stores[True].forget_unused()
            self.session = Path(tempfile.mkdtemp(dir=str(sessions)))
            self.lock = lock(self.session / "lock")
        self.stores[False] = Store(self.session)
        return {
            "python": list(sys.version_info[:3]),
            "numpy": importlib.util.find_spec("numpy") is not None,
        }

    def have(self, names: "list[str]", keep: bool) -> "dict[str, Any]":
        """Say what is here of files, by hash, and how much room there is."""
        found = {name: self.stores[keep].found(name) for name in names}
        return {"files": found, "free": shutil.disk_usage(str(self.cache)).free}

    def append(self, name: str, at: int, data: str, size: int, keep: bool) -> "dict[str, Any]":
        """Add bytes to a file; one connection at a time."""
        with lock(self.cache / "lock"):
            return self.stores[keep].append(name, at, base64.b64decode(data), size)

    def drop(self, name: str, keep: bool) -> "dict[str, Any]":
        """Forget a partial file that is not a part of what it should be."""
        with lock(self.cache / "lock"):
            remove(self.stores[keep].files / (name + ".partial"))
        return {}

    def folder(self, names: "dict[str, str]", keep: bool) -> "dict[str, Any]":
        """Show files under their names; thousands of images do not pile up."""
        store = self.stores[keep]
        with lock(self.cache / "lock"):
            return {"folder": str(store.folder(names) if keep else store.replace(names))}

    def scratch(self) -> "dict[str, Any]":
        """Make an empty folder that goes with the connection."""
        return {"folder": tempfile.mkdtemp(prefix="scratch-", dir=str(self.session))}

    def read(self, path: str, at: int) -> "dict[str, Any]":
        """Return a piece of a file."""
        with Path(path).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(at)
            return {"data": base64.b64encode(file.read(PIECE)).decode(), "size": size}

    def close(self) -> "dict[str, Any]":
        """Remove what is not to be kept."""
        if self.lock is not None:
            remove(self.session)
            self.lock.close()
            self.lock = None
        return {}

    def answer(self, message: "dict[str, Any]") -> "dict[str, Any]":
        """Carry out one command; a failure is an answer too."""
        words = {key: value for key, value in message.items() if key not in ("id", "do")}
        try:
            return {"ok": True, **getattr(self, message["do"])(**words)}
        except OSError as error:
            if message["do"] == "read":
                return {"ok": False, "error": f"{error.filename} cannot be read: {error.strerror}"}
            what = f"files cannot be kept in {self.cache} ({error.strerror})"
            mend = "make room there, or name another folder by adding ?cache=FOLDER to the address"
            return {"ok": False, "error": f"{what}: {mend}"}


def digest(path: Path) -> str:
    """Return a file's SHA-256."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        for piece in iter(lambda: file.read(PIECE), b""):
            total.update(piece)
    return total.hexdigest()


def show(content: Path, shown: Path) -> None:
    """Give a file another name; a link that leads elsewhere would be refused by runtimes."""
    if shown.is_file() and (shown.samefile(content) or digest(shown) == content.name):
        return
    remove(shown)
    try:
        os.link(str(content), str(shown))
    except OSError:  # a memory card's file system knows no links
        shutil.copyfile(str(content), str(shown))


def touch(path: Path) -> None:
    """Remember when a file was used; when it was changed, Python's compiled files depend on."""
    os.utime(str(path), (time.time(), path.stat().st_mtime))


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(str(path), ignore_errors=True)
    elif path.exists():
        path.unlink()


def lock(path: Path, wait: bool = True) -> "IO[bytes]":
    """Open a file for this process alone; ``BlockingIOError`` when another has it."""
    file = path.open("ab")
    fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file


def forget_sessions(sessions: Path) -> None:
    """Remove what connections left that ended without a chance to."""
    for session in sessions.iterdir():
        with contextlib.suppress(OSError), lock(session / "lock", wait=False):
            remove(session)


def serve() -> int:
    """Answer commands until nobody is there to ask."""
    keeper = Keeper()
    try:
        for line in sys.stdin:
            message = json.loads(line)
            sys.stdout.write(json.dumps({"id": message["id"], **keeper.answer(message)}) + "\n")
            sys.stdout.flush()
    finally:
        keeper.close()
    return 0


def run(command: "list[str]", kept: "list[str] | None") -> int:
    """Run a command until it ends or its input closes; return its exit code as shells do.

    Of the environment only the ``kept`` names reach it, as on the machine that asks.
    """
    names = os.environ if kept is None else [name for name in kept if name in os.environ]
    environment = {name: os.environ[name] for name in names}
    if kept is not None:
        environment["OPENBLAS_NUM_THREADS"] = "1"
    child = subprocess.Popen(command, env=environment, start_new_session=True)
    threading.Thread(target=end_with_input, args=(child.pid,), daemon=True).start()
    code = child.wait()
    return code if code >= 0 else 128 - code


def end_with_input(group: int) -> None:
    """Kill a process group some seconds after this process's input has closed."""
    waiting = select.poll()
    waiting.register(0, getattr(select, "POLLRDHUP", 0))  # a hang-up is always told
    waiting.poll()
    time.sleep(GRACE)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def main() -> int:
    """Serve, or run a command; the marker tells where a login's greeting ends."""
    verb, marker = sys.argv[1:3]
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    if verb == "run" and shutil.which(sys.argv[4]) is None:
        sys.exit("there is no such program")
    sys.stdout.write(marker + "\n")
    sys.stdout.flush()
    return run(sys.argv[4:], json.loads(sys.argv[3])) if verb == "run" else serve()


if __name__ == "__main__":
    sys.exit(main())
