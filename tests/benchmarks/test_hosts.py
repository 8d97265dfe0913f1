import os
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeprune.errors import MeasureError, UsageError
from edgeprune_benchmarks.commands import program, run
from edgeprune_benchmarks.hosts import Host, LocalHost, SshHost, open_host
from edgeprune_benchmarks.ssh_address import Address, parse_address
from edgeprune_benchmarks.ssh_failure import connection_broke, no_connection

from .conftest import Tiny, images

PATIENCE = 60.0


@pytest.mark.parametrize(
    ("text", "address", "device"),
    [
        ("ssh://jetson", Address(host="jetson"), "cpu"),
        ("ssh://Jetson.Local/", Address(host="Jetson.Local"), "cpu"),
        ("ssh://ann@10.0.0.7:2222", Address(host="10.0.0.7", user="ann", port=2222), "cpu"),
        ("ssh://ann%40clinic@pc", Address(host="pc", user="ann@clinic"), "cpu"),
        ("ssh://[fe80::1%eth0]:22/cuda:1", Address(host="fe80::1%eth0", port=22), "cuda:1"),
        (
            "ssh://pi/cpu?python=/opt/v/bin/python",
            Address(host="pi", python="/opt/v/bin/python"),
            "cpu",
        ),
        ("ssh://pi?python=~/v/bin/python", Address(host="pi", python="./v/bin/python"), "cpu"),
        (
            "ssh://mac:22?python=/brew/python@3.12/bin/python&cache=~/big disk",
            Address(host="mac", port=22, python="/brew/python@3.12/bin/python", cache="~/big disk"),
            "cpu",
        ),
    ],
)
def test_an_address_says_where_and_on_what_device(text: str, address: Address, device: str) -> None:
    assert parse_address(text) == (address, device)


@pytest.mark.parametrize(
    "text",
    [
        "ssh://-oProxyCommand=reboot",
        "ssh://-oProxyCommand=reboot@pc",
        "ssh://-l@pc",
        "ssh://-v",
        "ssh://[-6]",
        "ssh://pc;reboot",
        "ssh://$(reboot)@pc",
        "ssh://two words",
        "ssh://pc\n",
        "ssh://",
        "ssh://@pc",
        "ssh://pc:0",
        "ssh://pc:65536",
        "ssh://pc:²",
        "ssh://pc:",
        "ssh://pc/gpu",
        "ssh://pc/cuda:0/x",
        "ssh://pc?pyhton=python3",
        "ssh://pc?python=",
        "ssh://pc?python=a&nice=1",
        "ssh://[::1",
        "npu",
        "cuda:",
        "cuda:0\n",
        "",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"ssh://"):
        open_host(text)


@pytest.mark.parametrize(
    "text",
    [
        "ssh://ann:secret@pc",
        "ssh://ann:secret/x@pc",
        "ssh://ann:secret?x#y@pc:22/cuda:0",
        "ssh://ann:x@secret@pc",
        "ssh://:secret@pc?python=python3",
        "SSH://ann:secret@pc",
        "sftp://ann:secret@pc",
    ],
)
def test_a_password_in_an_address_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_host(text)
    assert "secret" not in str(caught.value)


def test_devices_of_this_machine_need_no_other_host() -> None:
    for device in ("cpu", "cuda:0", "cuda:12"):
        host, there = open_host(device)
        assert isinstance(host, LocalHost)
        assert there == device


def test_an_address_leads_to_another_host_without_a_login() -> None:
    host, device = open_host("ssh://ann@jetson.invalid:22/cuda:0")
    assert isinstance(host, SshHost)
    assert (host.name, device) == ("ann@jetson.invalid port 22", "cuda:0")
    host.close()


def test_a_runner_of_this_machine_predicts_and_its_outputs_are_fetched(
    tiny: Tiny, tmp_path: Path
) -> None:
    batch = images(3)
    np.save(tmp_path / "inputs.npy", batch)
    with LocalHost() as host:
        there = host.give(tiny.onnx.parent, [tiny.onnx])
        inputs = host.give(tmp_path, [tmp_path / "inputs.npy"], keep=False)
        scratch = host.scratch()
        with host.runner("tiny") as runner:
            runner.ask("load", PATIENCE, artifact=f"{there}/{tiny.onnx.name}")
            words = {"inputs": f"{inputs}/inputs.npy", "outputs": f"{scratch}/outputs.npy"}
            runner.ask("predict", PATIENCE, **words)
        host.fetch(f"{scratch}/outputs.npy", tmp_path / "here.npy")
    np.testing.assert_allclose(np.load(tmp_path / "here.npy"), tiny.expected(batch), rtol=1e-5)
    assert not Path(scratch).exists()
    assert (tmp_path / "inputs.npy").exists()


def test_a_program_sees_its_words_and_nothing_of_how_it_is_started(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong numpy')")
    path = tmp_path / "shown.py"
    path.write_text(
        "import sys, numpy, dataclasses\n@dataclasses.dataclass\nclass Word:\n    text: 'str'\n"
        "def main():\n    print(__name__, __file__, sys.argv[1:])\n    return 7\n"
    )
    words = program(sys.executable, path, "a", "b c")
    clean = {"PATH": os.environ["PATH"]}  # where compiled files may be written
    called = run(["env", "-C", str(tmp_path), *words], PATIENCE, environment=clean)
    assert (called.code, called.err) == (7, "")
    assert called.out == f"shown {path} ['a', 'b c']\n"
    assert list(tmp_path.glob("__pycache__/shown.*.pyc"))


def test_a_runner_of_this_machine_is_compiled_before_it_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "runner.py"
    path.write_text("def main(): ...\n")
    LocalHost(runner=path)
    assert list(tmp_path.glob("__pycache__/runner.*.pyc"))


def test_files_that_are_missing_or_elsewhere_are_not_given(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "file").touch()
    with LocalHost() as host:
        with pytest.raises(MeasureError, match="there is no file"):
            host.give(tmp_path, [tmp_path / "absent"])
        with pytest.raises(MeasureError, match="does not lie in"):
            host.give(tmp_path / "inner", [tmp_path / "file"])


def test_a_command_tells_how_it_ended_and_what_it_said() -> None:
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    with LocalHost() as host:
        called = host.call([host.python, "-c", code], PATIENCE)
    assert (called.code, called.out, called.err) == (3, "out\n", "err\n")


def test_a_command_that_takes_too_long_or_is_not_there_is_reported() -> None:
    with LocalHost() as host:
        with pytest.raises(MeasureError, match=r"did not end within 0\.2 s"):
            host.call([sys.executable, "-c", "import time; time.sleep(60)"], 0.2)
        with pytest.raises(MeasureError, match="no-such-program cannot be started"):
            host.call(["no-such-program"], PATIENCE)


def test_both_hosts_offer_the_same() -> None:
    hosts: list[Host] = [LocalHost(), SshHost(Address(host="pc"))]
    names = [name for name in vars(Host) if not name.startswith("_")]
    assert len(names) == 8
    assert all(hasattr(host, name) for host in hosts for name in names)


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        ("ssh: connect to host pc port 22: Connection timed out", "is it switched on"),
        ("ssh: connect to host pc port 22: No route to host", "is it switched on"),
        ("Received disconnect from pc: Too many authentication failures", "IdentityFile"),
        ("kex_exchange_identification: {braces}", r"\{braces\}.*ssh -p 2222 ann@pc"),
        ("", "it says nothing"),
    ],
)
def test_what_keeps_ssh_from_connecting_is_told_with_advice(words: str, meaning: str) -> None:
    address = Address(host="pc", user="ann", port=2222)
    with pytest.raises(MeasureError, match=meaning):
        raise MeasureError(no_connection(address, 255, words))


def test_a_runner_killed_on_a_device_is_told_from_a_broken_connection() -> None:
    assert "killed by signal 9 (out of memory?)" in str(connection_broke("pc", 137, "words"))
    assert "connection to pc broke" in str(connection_broke("pc", 255, ""))
    assert connection_broke("pc", 3, "its own words") is None
