"""Against a real sshd on loopback: what runs there."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeprune.errors import MeasureError
from edgeprune_benchmarks.hosts import SshHost, open_host
from edgeprune_benchmarks.ssh_address import Address

from .conftest import Tiny, images
from .ssh_server import SshServer, alive, login, needs_sshd, offspring, until

pytestmark = needs_sshd
PATIENCE = 60.0


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


def test_a_runner_there_predicts_what_the_network_gives(
    host: SshHost, tiny: Tiny, tmp_path: Path
) -> None:
    batch = images(3)
    np.save(tmp_path / "inputs.npy", batch)
    there = host.give(tiny.onnx.parent, [tiny.onnx])
    inputs = host.give(tmp_path, [tmp_path / "inputs.npy"], keep=False)
    outputs = f"{host.scratch()}/outputs.npy"
    with host.runner("tiny") as runner:
        runner.ask("load", PATIENCE, artifact=f"{there}/{tiny.onnx.name}")
        runner.ask("predict", PATIENCE, inputs=f"{inputs}/inputs.npy", outputs=outputs)
    host.fetch(outputs, tmp_path / "outputs.npy")
    np.testing.assert_allclose(np.load(tmp_path / "outputs.npy"), tiny.expected(batch), rtol=1e-5)


def test_programs_there_are_compiled_before_they_are_measured(
    server: SshServer, host: SshHost
) -> None:
    with host.runner("tiny") as runner:
        runner.ask("info", PATIENCE)
    compiled = {path: path.stat().st_mtime_ns for path in server.cache.rglob("*.pyc")}
    assert {path.name.partition(".")[0] for path in compiled} == {"device_runner", "device_files"}
    with login(server) as again, again.runner("tiny") as runner:
        runner.ask("info", PATIENCE)
    assert {path: path.stat().st_mtime_ns for path in server.cache.rglob("*.pyc")} == compiled


def test_a_device_is_reached_through_a_jump_host(server: SshServer) -> None:
    host, _ = open_host(server.url("beyond"), config=server.config)
    with host, host.runner("tiny") as runner:
        assert runner.ask("info", PATIENCE)["ok"]


def test_a_connection_that_the_user_keeps_open_is_used(server: SshServer) -> None:
    words = [str(shutil.which("ssh")), "-F", str(server.config), "-M", "-S", str(server.socket)]
    opened = subprocess.Popen([*words, "-N", "device"])
    try:
        until(server.socket.exists, "no connection is opened")
        host, _ = open_host(server.url("opened"), config=server.config)
        with host, host.runner("tiny") as runner:
            assert runner.ask("info", PATIENCE)["ok"]
        assert opened.poll() is None
    finally:
        opened.kill()
        opened.wait()


def test_one_login_serves_everything(server: SshServer) -> None:
    before = server.logins()
    with login(server) as host:
        host.scratch()
        for _ in range(2):
            with host.runner("tiny") as runner:
                runner.ask("info", PATIENCE)
        host.call(["true"], PATIENCE)
    assert server.logins() == before + 1


def test_a_command_there_keeps_its_words_and_tells_how_it_ended(host: SshHost) -> None:
    called = host.call(["sh", "-c", "printf '%s' \"$1\"; echo bad >&2; exit 4", "-", "a $b 'c"], 9)
    assert (called.code, called.out, called.err) == (4, "a $b 'c", "bad\n")
    with pytest.raises(MeasureError, match="device cannot run no-such-program: there is no"):
        host.call(["no-such-program"], PATIENCE)


def test_a_command_that_takes_too_long_is_ended_there_too(
    server: SshServer, host: SshHost, tmp_path: Path
) -> None:
    host.scratch()
    script = f"echo $$ > {tmp_path}/pid; exec sleep 1000"
    with pytest.raises(MeasureError, match=r"sh on device did not end within 1\.5 s"):
        host.call(["sh", "-c", script], 1.5)
    pid = int((tmp_path / "pid").read_text())
    until(lambda: not alive(pid), "the command is still running")


def test_a_runner_that_hangs_is_ended_with_its_connection(server: SshServer, host: SshHost) -> None:
    with host.runner("dense") as runner:
        runner.ask("info", PATIENCE)
        (hung,) = running(server, "device_runner.py")
        os.kill(hung, signal.SIGSTOP)
    until(lambda: not alive(hung), "the runner is still there")


def test_a_runner_that_is_killed_there_is_told(server: SshServer, host: SshHost) -> None:
    with host.runner("dense") as runner:
        runner.ask("info", PATIENCE)
        (there,) = running(server, "device_runner.py")
        os.kill(there, signal.SIGKILL)
        with pytest.raises(MeasureError, match=r"on device was killed by signal 9 \(out of memory"):
            runner.ask("info", PATIENCE)


def test_a_runner_that_fails_there_is_quoted_without_a_word_of_ssh(
    server: SshServer, tmp_path: Path
) -> None:
    fails = tmp_path / "device_runner.py"
    fails.write_text("import sys\ndef main():\n print('cannot', file=sys.stderr)\n return 3\n")
    address = Address(host="device", python=sys.executable, cache=str(server.cache))
    with (
        SshHost(address, runner=fails, config=server.config) as host,
        host.runner("dense") as runner,
        pytest.raises(MeasureError) as caught,
    ):
        runner.ask("info", PATIENCE)
    said = "the device runner of dense on device ended with exit code 3 during 'info'"
    assert str(caught.value) == f"{said}; its last words:\ncannot"


def running(server: SshServer, name: str) -> list[int]:
    """Return the processes that serve as a program of ours for connections."""
    assert server.process is not None
    found = []
    for pid in offspring(server.process.pid):
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        if [Path(word).name for word in words[-3:-1]] == [name, "serve"] and "run" not in words:
            found.append(pid)
    return found
