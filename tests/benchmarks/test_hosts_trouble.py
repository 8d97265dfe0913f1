"""Against a real sshd on loopback: what can be wrong with a device, and what is said."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeprune.errors import MeasureError
from edgeprune_benchmarks.hosts import SshHost, open_host
from edgeprune_benchmarks.ssh_address import Address

from .conftest import Tiny
from .ssh_server import SshServer, free_port, needs_sshd, program

pytestmark = needs_sshd
PATIENCE = 60.0
EXEC = f'exec {sys.executable} "$@"\n'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    folder = tmp_path_factory.mktemp("sshd")
    server = SshServer(folder=folder, environment="OMP_NUM_THREADS=7")
    server.start()
    yield server
    server.stop()


def trouble(server: SshServer, url: str) -> str:
    """Return what is said when the device is first needed."""
    host, _ = open_host(url, config=server.config)
    with host, pytest.raises(MeasureError) as caught:
        host.scratch()
    return str(caught.value)


def test_an_unknown_host_key_is_not_accepted(server: SshServer) -> None:
    said = trouble(server, server.url("unknown"))
    assert "shows a host key that this machine does not know" in said
    assert said.endswith("ssh unknown")
    assert not (server.folder / "nothing").exists()


def test_a_changed_host_key_is_not_accepted(server: SshServer) -> None:
    assert "shows another host key than the one" in trouble(server, server.url("changed"))


def test_a_refused_login_says_how_a_key_gets_there(server: SshServer) -> None:
    said = trouble(server, server.url("stranger"))
    assert "refuses the login" in said
    assert said.endswith("ssh-copy-id stranger")


def test_a_refused_login_at_a_jump_host_is_told(server: SshServer) -> None:
    said = trouble(server, server.url("closed"))
    assert "refuses the login" in said


def test_a_name_that_does_not_resolve_is_told(server: SshServer) -> None:
    assert "cannot be resolved" in trouble(server, "ssh://no-such-host.invalid")


def test_a_device_without_an_ssh_server_is_told(server: SshServer) -> None:
    assert "refuses connections" in trouble(server, f"ssh://127.0.0.1:{free_port()}")


def test_a_machine_without_ssh_is_told(server: SshServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(server.folder))
    assert "install OpenSSH's client" in trouble(server, server.url())


def test_a_device_without_python_is_told(server: SshServer) -> None:
    said = trouble(server, server.url(python="no-python"))
    assert "device has no 'no-python'" in said
    assert "apt install python3" in said


def test_a_python_that_is_too_old_is_told(server: SshServer, tmp_path: Path) -> None:
    old = program(
        tmp_path / "python3.6",
        f"#!{sys.executable}\nimport sys\n_, _, text, *sys.argv[1:] = sys.argv\n"
        "sys.version_info = (3, 6, 15)\nexec(compile(text, '<string>', 'exec'))\n",
    )
    assert "is Python 3.6.15; 3.8 or newer is needed" in trouble(server, server.url(python=old))
    older = program(tmp_path / "python2", "#!/bin/sh\necho 'SyntaxError: invalid' >&2\nexit 1\n")
    assert "too old to say which version" in trouble(server, server.url(python=older))


def test_a_python_without_numpy_is_told(server: SshServer, tmp_path: Path) -> None:
    bare = program(tmp_path / "python", f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    said = trouble(server, server.url(python=bare))
    assert "has no numpy" in said
    assert f"{bare} -m pip install numpy" in said


def test_a_python_that_fails_is_quoted(server: SshServer, tmp_path: Path) -> None:
    broken = program(tmp_path / "python", "#!/bin/sh\necho 'bus error' >&2\nexit 5\n")
    assert trouble(server, server.url(python=broken)).endswith("(exit code 5): bus error")


def test_a_runtime_that_is_missing_there_is_told_without_a_traceback(
    server: SshServer, tmp_path: Path, tiny: Tiny
) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('no onnxruntime')\n")
    python = program(tmp_path / "python", f"#!/bin/sh\nexport PYTHONPATH={tmp_path}\n{EXEC}")
    with connected(server, python) as host:
        there = host.give(tiny.onnx.parent, [tiny.onnx])
        with host.runner("tiny") as runner, pytest.raises(MeasureError) as caught:
            runner.ask("load", PATIENCE, artifact=f"{there}/{tiny.onnx.name}")
    said = str(caught.value)
    assert said.startswith("tiny on device: onnxruntime cannot be imported")
    assert "pip install onnxruntime" in said
    assert "Traceback" not in said


def test_a_runner_sees_the_environment_it_would_have_here(
    server: SshServer, tmp_path: Path
) -> None:
    shows = tmp_path / "device_runner.py"
    answer = "{'id': 1, 'ok': True, 'names': list(os.environ)}"
    shows.write_text(f"import json, os\ndef main():\n input()\n print(json.dumps({answer}))")
    address = Address(host="device", python=sys.executable, cache=str(server.cache))
    with SshHost(address, runner=shows, config=server.config) as host:
        with host.runner("tiny") as runner:
            names = set(runner.ask("show", PATIENCE)["names"])
        assert "OMP_NUM_THREADS=7" in host.call(["env"], PATIENCE).out
    assert {"PATH", "HOME", "OPENBLAS_NUM_THREADS"} <= names
    assert not {"OMP_NUM_THREADS", "SSH_CONNECTION", "USER"} & names


def test_a_disk_that_is_full_there_is_told(server: SshServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 3_000_000)
    python = program(tmp_path / "python", f"#!/bin/bash\nulimit -f 2000\n{EXEC}")
    with connected(server, python) as host, pytest.raises(MeasureError) as caught:
        host.give(tmp_path, [tmp_path / "file"])
    assert "device: files cannot be kept in" in str(caught.value)
    assert "?cache=FOLDER" in str(caught.value)


def test_a_device_without_room_is_told_before_anything_is_sent(
    server: SshServer, tmp_path: Path
) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(3_000_000)
    python = program(
        tmp_path / "python",
        f"#!{sys.executable}\nimport shutil, sys, types\n_, _, text, *sys.argv[1:] = sys.argv\n"
        "shutil.disk_usage = lambda path: types.SimpleNamespace(free=1_000_000)\n"
        "exec(compile(text, '<string>', 'exec'))\n",
    )
    with connected(server, python) as host:
        with pytest.raises(MeasureError, match=r"has 1 MB free .* and 3 MB have to be copied"):
            host.give(tmp_path, [tmp_path / "file"])
        assert host.sent_bytes == 0


def test_a_folder_that_cannot_be_made_there_is_told(server: SshServer) -> None:
    url = "ssh://device?python=" + sys.executable + "&cache=/proc/edgeprune"
    assert "files cannot be kept in /proc/edgeprune" in trouble(server, url)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("MaxSessions", 1),  # per connection
        ("ForceCommand", "/bin/sh -c 'echo Welcome; printf to; eval \"$SSH_ORIGINAL_COMMAND\"'"),
    ],
)
def test_servers_that_greet_or_take_one_session_each_do_no_harm(
    option: str, value: object, tmp_path: Path
) -> None:
    server = SshServer(folder=tmp_path, options={option: value})
    server.start()
    try:
        with connected(server, Path(sys.executable)) as host:
            with host.runner("tiny") as runner:
                assert runner.ask("info", PATIENCE)["ok"]
            assert host.call(["echo", "here"], PATIENCE).out == "here\n"
    finally:
        server.stop()


def test_a_server_that_dies_is_told(tmp_path: Path) -> None:
    server = SshServer(folder=tmp_path)
    server.start()
    with connected(server, Path(sys.executable)) as host:
        host.scratch()
        server.stop()
        with pytest.raises(MeasureError, match="the connection to device broke"):
            host.scratch()


def connected(server: SshServer, python: Path) -> SshHost:
    host, _ = open_host(server.url(python=python), config=server.config)
    assert isinstance(host, SshHost)
    return host
