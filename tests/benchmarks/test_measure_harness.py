import ast
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgeprune_benchmarks
from edgeprune.errors import MeasureError
from edgeprune_benchmarks import harness
from edgeprune_benchmarks.harness import MeasureSettings, Subject, compare, predict
from edgeprune_benchmarks.process import RunnerProcess
from edgeprune_benchmarks.statistics import latency_ratio

from .conftest import Tiny, images

BRIEF = MeasureSettings(
    rounds=2,
    blocks=3,
    block_seconds=0.01,
    warmup_seconds=0.02,
    warmup_limit=0.2,
    timeout=60.0,
)


def test_dense_and_slim_take_turns_as_abba_and_then_baab(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []
    ask = RunnerProcess.ask

    def listening(self: RunnerProcess, do: str, timeout: float, /, **words: object) -> object:
        if do == "block":
            asked.append((self.name, self.pid))
        return ask(self, do, timeout, **words)

    monkeypatch.setattr(RunnerProcess, "ask", listening)
    dense, slim = Subject(name="A", artifact=tiny.onnx), Subject(name="B", artifact=tiny.ir)
    found = compare(dense, slim, images(3), BRIEF)
    assert "".join(name for name, _ in asked) == "ABBAAB" + "BAABBA"
    assert len({pid for _, pid in asked}) == 4  # a fresh process per subject and round
    assert found.order[0] == ("dense", "slim", "slim", "dense", "dense", "slim")
    assert [len(run.blocks_ns) for run in found.dense.runs] == [3, 3]


def test_a_comparison_says_what_ran_and_how(tiny: Tiny) -> None:
    dense, slim = Subject(name="dense", artifact=tiny.onnx), Subject(name="slim", artifact=tiny.ir)
    done: list[tuple[int, int]] = []
    found = compare(
        dense, slim, images(2), replace(BRIEF, batch=2), progress=lambda n, of: done.append((n, of))
    )
    assert done == [(1, 2), (2, 2)]
    assert (found.dense.backend, found.slim.backend) == ("onnxruntime", "openvino")
    assert found.dense.bytes == tiny.onnx.stat().st_size
    weights = tiny.ir.with_suffix(".bin").stat().st_size
    assert found.slim.bytes == tiny.ir.stat().st_size + weights
    assert found.machine.versions["onnxruntime"] == found.dense.version
    for run in (*found.dense.runs, *found.slim.runs):
        assert (run.precision, run.threads) == ("f32", 1)
        assert run.import_ns > 0 < run.load_ns
        assert run.first_ns > 0
        assert run.peak_bytes is None or run.peak_bytes > 1e7


def test_more_work_is_found_to_be_slower(tiny: Tiny, heavy: Path) -> None:
    light = Subject(name="light", artifact=tiny.onnx)
    found = compare(light, Subject(name="heavy", artifact=heavy), images(2), BRIEF)
    ratio = latency_ratio(found.dense.blocks, found.slim.blocks)
    assert ratio.verdict == "slower"
    assert ratio.value > 3


def test_a_precision_that_was_not_honoured_taints_the_comparison(tiny: Tiny) -> None:
    subject = Subject(name="tiny", artifact=tiny.onnx)
    found = compare(subject, subject, images(1), replace(BRIEF, precision="bf16"))
    assert "tiny ran in f32, not in bf16" in found.tainted


def test_a_warm_up_that_did_not_settle_taints_the_comparison(tiny: Tiny) -> None:
    subject = Subject(name="tiny", artifact=tiny.onnx)
    hasty = replace(BRIEF, warmup_limit=0.0, warmup_seconds=1e-6)
    found = compare(subject, subject, images(1), hasty)
    assert "tiny was not steady after its warm-up in 2 of 2 runs" in found.tainted


def test_predict_equals_the_network_for_an_array_and_for_an_iterator(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "PREDICT_IMAGES", 4)
    every = images(11)

    def stream() -> Iterator[np.ndarray]:
        yield every[:3]
        yield every[3:]

    for path in (tiny.onnx, tiny.ir):
        subject = Subject(name="tiny", artifact=path)
        for inputs in (every, stream()):
            found = predict(subject, inputs, replace(BRIEF, batch=2))
            np.testing.assert_allclose(found, tiny.expected(every), rtol=1e-4, atol=1e-6)


def test_a_file_that_is_no_model_is_reported_by_the_subjects_name(
    tiny: Tiny, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"not a model")
    dense, slim = Subject(name="dense", artifact=tiny.onnx), Subject(name="slim", artifact=bad)
    with pytest.raises(MeasureError, match=r"^slim: .*bad\.onnx"):
        compare(dense, slim, images(1), BRIEF)


def test_a_missing_file_and_a_missing_image_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    subject = Subject(name="dense", artifact=tiny.onnx)
    gone = Subject(name="slim", artifact=tmp_path / "gone.onnx")
    with pytest.raises(MeasureError, match=r"slim: there is no file .*gone\.onnx"):
        compare(subject, gone, images(1), BRIEF)
    with pytest.raises(MeasureError, match=r"\(0, 3, 16, 16\)"):
        predict(subject, images(0), BRIEF)
    with pytest.raises(MeasureError, match="no images to predict"):
        predict(subject, iter(()), BRIEF)


def test_a_runner_killed_between_rounds_ends_the_comparison_in_one_error(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, count = RunnerProcess.ask, iter(range(1000))

    def fatal(self: RunnerProcess, do: str, timeout: float, /, **words: object) -> object:
        if do == "block" and next(count) == 2:
            self._child.kill()
        return ask(self, do, timeout, **words)

    monkeypatch.setattr(RunnerProcess, "ask", fatal)
    subject = Subject(name="dense", artifact=tiny.onnx)
    with pytest.raises(MeasureError, match="was killed by signal 9"):
        compare(subject, subject, images(1), BRIEF)


@pytest.mark.parametrize(
    "wrong", [{"rounds": 0}, {"rounds": 3}, {"threads": 0}, {"batch": -1}, {"timeout": 0.0}]
)
def test_settings_that_measure_nothing_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(MeasureError):
        MeasureSettings(**wrong)  # type: ignore[arg-type]


def test_nothing_in_this_package_but_the_runner_imports_a_runtime() -> None:
    folder = Path(next(iter(edgeprune_benchmarks.__path__)))
    for path in folder.glob("*.py"):
        if path.name == "device_runner.py":
            continue
        imported = {
            name.partition(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in [getattr(node, "module", None) or "", *(a.name for a in node.names)]
        }
        assert not imported & {"torch", "onnxruntime", "openvino", "tensorrt"}, path.name
