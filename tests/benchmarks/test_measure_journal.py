import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeprune.errors import StorageError
from edgeprune_benchmarks import harness
from edgeprune_benchmarks.harness import MeasureSettings, Subject, compare, predict
from edgeprune_benchmarks.journal import Journal, key_of
from edgeprune_benchmarks.process import RunnerProcess

from .conftest import Tiny, images
from .test_measure_bad_input import changed_runner

BRIEF = MeasureSettings(
    rounds=2,
    blocks=2,
    block_seconds=0.01,
    warmup_seconds=0.02,
    warmup_limit=0.2,
    timeout=60.0,
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every command that any runner is asked from now on."""
    heard: list[str] = []
    send = RunnerProcess.send

    def listening(self: RunnerProcess, do: str, /, **words: object) -> None:
        heard.append(do)
        send(self, do, **words)

    monkeypatch.setattr(RunnerProcess, "send", listening)
    return heard


def stored(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()[1:]]


def test_a_part_is_found_again_under_its_own_key_only(tmp_path: Path) -> None:
    path = tmp_path / "work" / "journal.jsonl"
    Journal(path, "a").put("round 0", {"value": 1})
    Journal(path, "b").put("round 0", {"value": 2})
    assert Journal(path, "a").get("round 0") == {"value": 1}
    assert Journal(path, "b").get("round 0") == {"value": 2}
    assert Journal(path, "c").get("round 0") is None
    assert Journal(path, "a").get("round 1") is None


def test_keys_differ_with_what_they_stand_for() -> None:
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    assert key_of(BRIEF) != key_of(replace(BRIEF, threads=2))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1))
def test_a_journal_cut_off_anywhere_holds_whole_parts_and_goes_on(
    tmp_path: Path, share: float
) -> None:
    path = tmp_path / "journal.jsonl"
    path.unlink(missing_ok=True)
    for number in range(4):
        Journal(path, "k").put(f"part {number}", list(range(number, number + 9)))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    again = Journal(path, "k")
    found = [number for number in range(4) if again.get(f"part {number}") is not None]
    assert found == list(range(len(found)))
    assert all(again.get(f"part {n}") == list(range(n, n + 9)) for n in found)
    again.put("part 9", [9])
    assert Journal(path, "k").get("part 9") == [9]
    assert [f.name for f in tmp_path.iterdir()] == ["journal.jsonl"]


@pytest.mark.parametrize(
    "content",
    [
        b"some notes of mine\n",
        b'{"format": "edgeprune-journal", "version": 0}\n',
        b'{"format": "edgeprune-journal", "version": 1}\nrubbish\n',
        b'{"format": "edgeprune-journal", "version": 1}\n{"key": "k"}\n',
        b"\x00\xff\n",
    ],
)
def test_a_file_that_is_no_journal_is_set_aside_and_said_so(tmp_path: Path, content: bytes) -> None:
    path, heard = tmp_path / "journal.jsonl", list[str]()
    for number in (1, 2):
        path.write_bytes(content)
        Journal(path, "k", heard.append).put("part", number)
        assert (tmp_path / f"journal.jsonl.old{number}").read_bytes() == content
    assert Journal(path, "k").get("part") == 2
    assert heard[0].endswith("continued: it is now journal.jsonl.old1")


def test_a_place_where_nothing_can_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"journal\.jsonl cannot be used as a journal"):
        Journal(tmp_path / "file" / "journal.jsonl", "k")


KILLED = """
import sys
from pathlib import Path
import numpy as np
from edgeprune_benchmarks.harness import MeasureSettings, Subject, compare
onnx, ir, inputs, journal = sys.argv[1:]
compare(
    Subject(name="dense", artifact=Path(onnx)), Subject(name="slim", artifact=Path(ir)),
    np.load(inputs), MeasureSettings({}), journal=Path(journal),
)
"""


def test_a_measurement_killed_in_the_middle_goes_on_with_the_rounds_that_are_missing(
    tiny: Tiny, tmp_path: Path, asked: list[str]
) -> None:
    journal, inputs, four = tmp_path / "journal.jsonl", images(2), replace(BRIEF, rounds=4)
    np.save(tmp_path / "inputs.npy", inputs)
    words = ", ".join(f"{name}={value!r}" for name, value in vars(four).items())
    paths = [tiny.onnx, tiny.onnx, tmp_path / "inputs.npy", journal]
    child = subprocess.Popen([sys.executable, "-c", KILLED.format(words), *map(str, paths)])
    while child.poll() is None and (not journal.exists() or len(stored(journal)) < 2):
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    done = len(stored(journal))
    assert 2 <= done < four.rounds

    heard: list[str] = []
    dense, slim = Subject(name="A", artifact=tiny.onnx), Subject(name="B", artifact=tiny.onnx)
    found = compare(dense, slim, inputs, four, journal=journal, say=heard.append)
    assert heard == [f"{done} of 4 rounds are from the earlier run"]
    assert asked.count("load") == 2 * (four.rounds - done)
    assert [line["part"] for line in stored(journal)] == [f"round {n}" for n in range(4)]

    fresh = compare(dense, slim, inputs, four)
    for one, other in ((found.dense, fresh.dense), (found.slim, fresh.slim)):
        assert replace(one, runs=()) == replace(other, runs=())
        assert [len(run.blocks_ns) for run in one.runs] == [
            len(run.blocks_ns) for run in other.runs
        ]
    assert (found.settings, found.order, found.machine) == (
        fresh.settings,
        fresh.order,
        fresh.machine,
    )


def test_a_finished_measurement_is_not_measured_again(
    tiny: Tiny, tmp_path: Path, asked: list[str]
) -> None:
    subject, journal = Subject(name="dense", artifact=tiny.onnx), tmp_path / "journal.jsonl"
    first = compare(subject, subject, images(1), BRIEF, journal=journal)
    asked.clear()
    steps: list[int] = []
    again = compare(
        subject, subject, images(1), BRIEF, lambda n, _: steps.append(n), journal=journal
    )
    assert again == first
    assert "load" not in asked
    assert steps == [1, 2]


def test_rounds_of_another_artifact_other_images_or_settings_are_not_taken_over(
    network: Callable[..., Path], tmp_path: Path, asked: list[str]
) -> None:
    path, journal = network(), tmp_path / "journal.jsonl"
    subject = Subject(name="dense", artifact=path)
    compare(subject, subject, images(2), BRIEF, journal=journal)

    def loads(inputs: np.ndarray, how: MeasureSettings) -> int:
        asked.clear()
        compare(subject, subject, inputs, how, journal=journal)
        return asked.count("load")

    assert loads(images(2), replace(BRIEF, timeout=50.0)) == 0
    assert loads(images(2, seed=1), BRIEF) == 4
    assert loads(images(2), replace(BRIEF, blocks=1)) == 4
    network(layers=1)  # the same name, another content
    assert loads(images(2), BRIEF) == 4


def test_rounds_of_another_machine_are_not_taken_over(
    tiny: Tiny, tmp_path: Path, asked: list[str]
) -> None:
    subject, journal = Subject(name="dense", artifact=tiny.onnx), tmp_path / "journal.jsonl"
    compare(subject, subject, images(1), BRIEF, journal=journal)
    asked.clear()
    slower = "machine = runner.machine; runner.machine = lambda gpu: {**machine(gpu), 'cpu': 'old'}"
    with changed_runner(tmp_path, slower) as host:
        compare(subject, subject, images(1), BRIEF, journal=journal, host=host)
    assert asked.count("load") == 4


def test_outputs_that_were_predicted_before_are_not_predicted_again(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    monkeypatch.setattr(harness, "PREDICT_IMAGES", 4)
    subject, journal = Subject(name="tiny", artifact=tiny.onnx), tmp_path / "journal.jsonl"
    every = images(11)
    before = predict(subject, every[:8], BRIEF, journal=journal)
    asked.clear()
    found = predict(subject, every, BRIEF, journal=journal)
    assert asked.count("predict") == 1
    np.testing.assert_array_equal(found[:8], before)
    np.testing.assert_allclose(found, tiny.expected(every), rtol=1e-4, atol=1e-6)
    asked.clear()
    np.testing.assert_array_equal(predict(subject, every, BRIEF, journal=journal), found)
    assert "load" not in asked


def test_parts_of_another_shape_are_made_again(
    tiny: Tiny, tmp_path: Path, asked: list[str]
) -> None:
    subject, journal = Subject(name="tiny", artifact=tiny.onnx), tmp_path / "journal.jsonl"
    predict(subject, images(3), BRIEF, journal=journal)
    compare(subject, subject, images(1), BRIEF, journal=journal)
    header, *lines = journal.read_text().splitlines()
    old = [json.dumps(json.loads(line) | {"value": {"shape": [1], "mood": 1}}) for line in lines]
    journal.write_text("\n".join((header, *old, "")))
    asked.clear()
    predict(subject, images(3), BRIEF, journal=journal)
    compare(subject, subject, images(1), BRIEF, journal=journal)
    assert (asked.count("predict"), asked.count("load")) == (1, 1 + 2 * BRIEF.rounds)
