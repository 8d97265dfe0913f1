"""A whole measurement over a real sshd on loopback, as on this machine."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeprune.errors import MeasureError
from edgeprune_benchmarks.codec import encode
from edgeprune_benchmarks.harness import compare, predict
from edgeprune_benchmarks.hosts import SshHost
from edgeprune_benchmarks.measurement import Comparison, MeasureSettings, Subject
from edgeprune_benchmarks.process import RunnerProcess

from .conftest import Tiny, images
from .ssh_server import SshServer, login, needs_sshd

pytestmark = needs_sshd
SETTINGS = MeasureSettings(
    rounds=2, blocks=2, block_seconds=0.02, warmup_seconds=0.02, warmup_limit=0.1
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    server = SshServer(folder=tmp_path_factory.mktemp("sshd"))
    server.start()
    yield server
    server.stop()


def measured(
    tiny: Tiny, host: SshHost | None, journal: Path | None = None, heard: list[str] | None = None
) -> Comparison:
    dense = Subject(name="dense", artifact=tiny.ir)
    slim = Subject(name="slim", artifact=tiny.onnx)
    say = [] if heard is None else heard
    return compare(dense, slim, images(4), SETTINGS, host=host, journal=journal, say=say.append)


@pytest.fixture(scope="module")
def there(server: SshServer, tiny: Tiny) -> Comparison:
    with login(server) as host:
        return measured(tiny, host)


def without_numbers(value: object) -> object:
    """Return a JSON value with its shape and its words, but no measured number."""
    match value:
        case dict():
            return {key: without_numbers(each) for key, each in value.items()}
        case list():
            return [without_numbers(each) for each in value[:1]]
        case bool() | int() | float() | None:
            return None
    return value


def test_a_comparison_on_a_device_has_all_that_one_here_has(there: Comparison, tiny: Tiny) -> None:
    here = measured(tiny, None)
    assert there.machine == here.machine
    assert there.order == here.order
    for name in ("dense", "slim"):
        ours, theirs = getattr(here, name), getattr(there, name)
        assert theirs.files == ours.files
        assert without_numbers(encode(theirs.runs[0])) == without_numbers(encode(ours.runs[0]))
        assert all(time > 0 for run in theirs.blocks for block in run for time in block)


def test_a_comparison_tells_nothing_of_where_the_device_is(
    server: SshServer, there: Comparison
) -> None:
    text = json.dumps(encode(there))
    for secret in ("127.0.0.1", str(server.port), str(server.folder), str(Path.home()), "ssh"):
        assert secret not in text


def test_a_device_gives_the_outputs_that_this_machine_gives(server: SshServer, tiny: Tiny) -> None:
    batch = images(70)  # more than cross at a time
    subject = Subject(name="slim", artifact=tiny.onnx)
    with login(server) as host:
        there = predict(subject, batch, SETTINGS, host=host)
    np.testing.assert_array_equal(there, predict(subject, batch, SETTINGS))


def test_no_image_stays_on_the_device(server: SshServer, tiny: Tiny) -> None:
    with login(server) as host:
        predict(Subject(name="slim", artifact=tiny.onnx), images(3), SETTINGS, host=host)
    left = [path for path in server.cache.rglob("*") if path.is_file()]
    assert {path.suffix for path in left} <= {".py", ".pyc", ".onnx", ".xml", ".bin", ""}
    assert not any(path.read_bytes().startswith(b"\x93NUMPY") for path in left)


def test_a_measurement_cut_off_in_a_block_goes_on_with_the_next_round(
    server: SshServer, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, started = tmp_path / "journal", []
    with login(server) as host, monkeypatch.context() as patch:
        starts = host.runner

        def runner(name: str) -> RunnerProcess:
            started.append(name)
            process = starts(name)
            if len(started) == 5:  # the second of the second round
                send = process.send

                def cut(do: str, /, **words: object) -> None:
                    send(do, **words)
                    if do == "block":
                        os.kill(host._connected().pid, signal.SIGKILL)

                patch.setattr(process, "send", cut)
            return process

        patch.setattr(host, "runner", runner)
        with pytest.raises(MeasureError, match="the connection to device broke"):
            measured(tiny, host, journal)
    heard: list[str] = []
    with login(server) as host:
        result = measured(tiny, host, journal, heard)
    assert heard == ["1 of 2 rounds are from the earlier run"]
    assert len(result.dense.runs) == len(result.slim.runs) == 2
