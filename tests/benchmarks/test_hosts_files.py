"""Against a real sshd on loopback: what arrives there, and what stays."""

import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from edgeprune.errors import MeasureError
from edgeprune.progress import Advance
from edgeprune_benchmarks.hosts import SshHost

from .ssh_server import SshServer, login, needs_sshd, until

pytestmark = needs_sshd
PATIENCE = 60.0
MIB = 1 << 20
MONTH = 31 * 86400


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    server = SshServer(folder=tmp_path_factory.mktemp("sshd"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def host(server: SshServer) -> Iterator[SshHost]:
    with login(server) as host:
        yield host


def cut(host: SshHost) -> None:
    """End the connection as a cable that is pulled does: without a word."""
    os.kill(host._connected().pid, signal.SIGKILL)


class Watcher:
    """A reporter that calls ``seen`` with how many bytes have been copied."""

    def __init__(self, seen: Callable[[int], None]) -> None:
        self.seen = seen

    def stage(self, title: str) -> None: ...

    def say(self, text: str) -> None: ...

    @contextmanager
    def track(self, title: str, total: int | None) -> Iterator[Advance]:
        assert "device" in title
        assert total

        def advance(done: int, words: str = "", *, total: int | None = None) -> None:
            self.seen(done)

        yield advance


def noise(path: Path, size: int, seed: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(np.random.default_rng(seed).bytes(size))
    return path


def stored(server: SshServer, path: Path, suffix: str = "") -> Path:
    """Return where the device keeps a file, or a part of it."""
    return server.cache / "files" / (hashlib.sha256(path.read_bytes()).hexdigest() + suffix)


def test_files_are_shown_under_their_names_and_sent_once(host: SshHost, tmp_path: Path) -> None:
    names = ["model.xml", "model.bin", "parts/same.bin", "parts/empty"]
    files = [
        noise(tmp_path / name, size, 1) for name, size in zip(names, (9, 70, 70, 0), strict=True)
    ]
    there = Path(host.give(tmp_path, files))
    assert {str(p.relative_to(there)) for p in there.rglob("*") if p.is_file()} == set(names)
    assert all((there / name).read_bytes() == (tmp_path / name).read_bytes() for name in names)
    assert host.sent_bytes == 79
    assert host.give(tmp_path, files) == str(there)
    assert host.sent_bytes == 79


def test_what_was_built_beside_files_is_there_the_next_time(host: SshHost, tmp_path: Path) -> None:
    recipe = noise(tmp_path / "recipe", 100, 2)
    there = Path(host.give(tmp_path, [recipe]))
    (there / "engine").write_text("built")
    assert (Path(host.give(tmp_path, [recipe])) / "engine").read_text() == "built"


def test_a_changed_file_comes_to_another_folder(host: SshHost, tmp_path: Path) -> None:
    file = noise(tmp_path / "file", 100, 3)
    before = host.give(tmp_path, [file])
    noise(file, 100, 4)
    after = host.give(tmp_path, [file])
    assert before != after
    assert (Path(after) / "file").read_bytes() == file.read_bytes()


def test_a_file_that_was_damaged_on_the_device_is_sent_again(
    host: SshHost, server: SshServer, tmp_path: Path
) -> None:
    file = noise(tmp_path / "file", 1000, 5)
    there = Path(host.give(tmp_path, [file]))
    stored(server, file).write_bytes(b"damaged")
    assert host.give(tmp_path, [file]) == str(there)
    assert (there / "file").read_bytes() == file.read_bytes()
    assert host.sent_bytes == 2000


def test_what_is_not_to_be_kept_is_gone_after_closing(server: SshServer, tmp_path: Path) -> None:
    file = noise(tmp_path / "patient", 1000, 6)
    with login(server) as host:
        there = Path(host.give(tmp_path, [file], keep=False))
        scratch = Path(host.scratch())
        assert (there / "patient").stat().st_size == 1000
        assert not stored(server, file).exists()
    assert not there.exists()
    assert not scratch.exists()


def test_what_is_not_to_be_kept_makes_room_for_the_next_of_its_name(
    host: SshHost, tmp_path: Path
) -> None:
    model = Path(host.give(tmp_path, [noise(tmp_path / "model", 10, 20)], keep=False))
    before = Path(host.give(tmp_path, [noise(tmp_path / "inputs", 1000, 21)], keep=False))
    after = Path(host.give(tmp_path, [noise(tmp_path / "inputs", 1000, 22)], keep=False))
    assert not before.exists()
    assert (after / "inputs").read_bytes() == (tmp_path / "inputs").read_bytes()
    assert (model / "model").exists()
    assert len(list((after.parent.parent / "files").iterdir())) == 2


def test_what_is_not_to_be_kept_goes_with_a_connection_that_is_killed(
    server: SshServer, tmp_path: Path
) -> None:
    file = noise(tmp_path / "patient", 1000, 7)
    with login(server) as host:
        there = Path(host.give(tmp_path, [file], keep=False))
        cut(host)
        until(lambda: not there.exists(), "the file stays")


def test_what_a_device_had_to_leave_behind_goes_with_the_next_connection(
    server: SshServer, host: SshHost, tmp_path: Path
) -> None:
    alive = Path(host.scratch())
    left = noise(server.cache / "sessions/left/patient", 10, 8)
    with login(server) as other:
        other.scratch()
        assert not left.parent.exists()
        assert alive.exists()


def test_a_transfer_that_was_cut_off_goes_on_where_it_stopped(
    server: SshServer, tmp_path: Path
) -> None:
    size = 8 * MIB + 17
    file = noise(tmp_path / "weights", size, 9)

    def halfway(done: int) -> None:
        if done >= size // 2:
            cut(host)

    with login(server, Watcher(halfway)) as host, pytest.raises(MeasureError, match="run it again"):
        host.give(tmp_path, [file])
    partial = stored(server, file, ".partial")
    assert size // 2 <= partial.stat().st_size < size
    assert not stored(server, file).exists()
    with login(server) as again:
        there = again.give(tmp_path, [file])
    assert (Path(there) / "weights").read_bytes() == file.read_bytes()
    assert again.sent_bytes <= size // 2
    assert not partial.exists()


def test_a_partial_file_that_is_no_part_of_the_file_is_dropped(
    server: SshServer, host: SshHost, tmp_path: Path
) -> None:
    file = noise(tmp_path / "file", 2 * MIB, 10)
    host.scratch()
    for wrong in (b"x" * MIB, b"x" * 3 * MIB):
        stored(server, file, ".partial").write_bytes(wrong)
        before = host.sent_bytes
        there = host.give(tmp_path, [file])
        assert (Path(there) / "file").read_bytes() == file.read_bytes()
        assert host.sent_bytes - before == 2 * MIB
        stored(server, file).unlink()


def test_a_file_that_changes_while_it_is_copied_is_given_up(
    server: SshServer, tmp_path: Path
) -> None:
    file = noise(tmp_path / "file", 2 * MIB, 11)
    with (
        login(server, Watcher(lambda done: noise(file, 2 * MIB, done) and None)) as host,
        pytest.raises(MeasureError, match="changes while it is copied"),
    ):
        host.give(tmp_path, [file])


def test_what_another_brought_meanwhile_is_not_sent_again(
    server: SshServer, tmp_path: Path
) -> None:
    file = noise(tmp_path / "file", 8 * MIB, 14)
    others: list[int] = []

    def overtake(done: int) -> None:
        if not others:
            with login(server) as other:
                other.give(tmp_path, [file])
                others.append(other.sent_bytes)

    with login(server, Watcher(overtake)) as host:
        there = host.give(tmp_path, [file])
        assert (Path(there) / "file").read_bytes() == file.read_bytes()
        assert (host.sent_bytes, others) == (2 * MIB, [7 * MIB])


def test_two_at_once_bring_the_same_file_whole(server: SshServer, tmp_path: Path) -> None:
    file = noise(tmp_path / "file", 12 * MIB, 12)
    both, sent = threading.Barrier(2, timeout=PATIENCE), []

    def bring() -> None:
        with login(server) as host:
            host.scratch()
            both.wait()
            there = Path(host.give(tmp_path, [file])) / "file"
            if there.read_bytes() == file.read_bytes():
                sent.append(host.sent_bytes)

    threads = [threading.Thread(target=bring) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sent) == 2


def test_a_file_that_cannot_be_fetched_leaves_what_was_there(host: SshHost, tmp_path: Path) -> None:
    here = noise(tmp_path / "here", 3, 13)
    with pytest.raises(MeasureError, match=r"absent cannot be read: No such file"):
        host.fetch(f"{host.scratch()}/absent", here)
    assert here.stat().st_size == 3


def test_what_nobody_asked_for_in_a_month_is_removed(server: SshServer, tmp_path: Path) -> None:
    old, used = noise(tmp_path / "old", 10, 30), noise(tmp_path / "used", 10, 31)
    with login(server) as host:
        folders = [Path(host.give(tmp_path, [file])) for file in (old, used)]
    foreign = noise(server.cache / "files" / "foreign", 10, 32)
    past = time.time() - MONTH
    for path in (foreign, *folders, stored(server, old), stored(server, used)):
        os.utime(path, (past, past))
    for path in (folders[1], stored(server, used)):
        os.utime(path, (time.time(), past))
    with login(server) as host:
        host.scratch()
    assert not stored(server, old).exists()
    assert not folders[0].exists()
    assert (folders[1] / "used").exists()
    assert stored(server, used).exists()
    assert foreign.exists()


def test_a_file_that_is_asked_for_stays(server: SshServer, tmp_path: Path) -> None:
    file = noise(tmp_path / "file", 10, 33)
    past = time.time() - MONTH / 2
    with login(server) as host:
        there = Path(host.give(tmp_path, [file]))
        for path in (there, stored(server, file)):
            os.utime(path, (past, past))
        host.give(tmp_path, [file])
    assert stored(server, file).stat().st_atime > past + 60
    assert there.stat().st_atime > past + 60


def test_only_their_owner_can_look_into_the_files(server: SshServer, tmp_path: Path) -> None:
    with login(server) as host:
        host.give(tmp_path, [noise(tmp_path / "file", 10, 34)])
        session = Path(host.scratch()).parent
        modes = {path.stat().st_mode & 0o777 for path in (server.cache, session)}
    assert modes == {0o700}
