"""What ends a measurement, or casts doubt on it: every one in a sentence of its own."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeprune.errors import MeasureError
from edgeprune.files import sha256
from edgeprune_benchmarks.harness import MeasureSettings, Subject, compare, predict
from edgeprune_benchmarks.hosts import LocalHost
from edgeprune_benchmarks.measurement import Comparison
from edgeprune_benchmarks.process import RUNNER, RunnerProcess
from edgeprune_benchmarks.rounds import doubts

from .conftest import Tiny, images, random_weight

BRIEF = MeasureSettings(
    rounds=2,
    blocks=2,
    block_seconds=0.01,
    warmup_seconds=0.02,
    warmup_limit=0.1,
    timeout=60.0,
)
WRAPPED = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("device_runner", {runner!r})
runner = sys.modules["device_runner"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(runner)
{change}
sys.exit(runner.main())
"""


def changed_runner(folder: Path, change: str) -> LocalHost:
    """Start the real runner with a line of it changed."""
    path = folder / "changed_runner.py"
    path.write_text(WRAPPED.format(runner=str(RUNNER), change=change))
    return LocalHost(path)


def test_an_artifact_that_changes_between_rounds_is_named_with_both_hashes(
    network: Callable[..., Path],
) -> None:
    path = network()
    subject, before = Subject(name="dense", artifact=path), sha256(path)

    def meddle(done: int, total: int) -> None:
        network(weight=2 * random_weight())

    with pytest.raises(MeasureError, match=r"^dense: network\.onnx is not what it was") as caught:
        compare(subject, subject, images(1), BRIEF, meddle)
    assert before != sha256(path)
    assert f"was {before} and is {sha256(path)} now" in str(caught.value)


def test_what_was_built_on_the_device_has_to_stay_the_same_too(tiny: Tiny, tmp_path: Path) -> None:
    change = """
import os
load = runner.Runner.load
def building(self, artifact, **words):
    answer = load(self, artifact, **words)
    answer["files"]["built"] = str(os.getpid())
    return answer
runner.Runner.load = building
"""
    subject = Subject(name="slim", artifact=tiny.onnx)
    with (
        changed_runner(tmp_path, change) as host,
        pytest.raises(MeasureError, match=r"^slim: built is not what it was"),
    ):
        compare(subject, subject, images(1), BRIEF, host=host)


def test_a_pinned_subject_is_the_same_in_every_measurement_or_none(
    network: Callable[..., Path],
) -> None:
    subject = Subject(name="dense", artifact=network()).pinned()
    predict(subject, images(1), BRIEF)
    network(weight=2 * random_weight())
    for measure in (
        lambda: predict(subject, images(1), BRIEF),
        lambda: compare(subject, subject, images(1), BRIEF),
    ):
        with pytest.raises(MeasureError, match=r"^dense: network\.onnx is not what it was"):
            measure()


def test_weights_that_lie_beside_an_artifact_belong_to_it(tmp_path: Path) -> None:
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Add", ["x", "w"], ["y"])],
            "g",
            [onnx.helper.make_tensor_value_info("x", 1, ["n", 3, 8, 8])],
            [onnx.helper.make_tensor_value_info("y", 1, ["n", 3, 8, 8])],
            [onnx.numpy_helper.from_array(np.ones((3, 8, 8), np.float32), "w")],
        )
    )
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    subject = Subject(name="dense", artifact=path)
    assert sorted(subject.hashed()) == ["m.onnx", "weights"]
    (tmp_path / "weights").unlink()
    with pytest.raises(MeasureError, match=r"^dense: m\.onnx keeps its weights in weights, which"):
        compare(subject, subject, images(1), BRIEF)


def test_a_recipe_and_its_engine_stand_for_their_folder(tmp_path: Path) -> None:
    for name in ("engine.plan", "engine.json", "recipe.json", "model.onnx", "run.py"):
        (tmp_path / name).write_text(name)
    for name in ("engine.plan", "recipe.json"):
        subject = Subject(name="slim", artifact=tmp_path / name)
        assert subject.files[0].name == name
        assert set(subject.files) == set(tmp_path.iterdir())


def test_a_batch_needs_as_many_images(tiny: Tiny) -> None:
    subject = Subject(name="dense", artifact=tiny.onnx)
    with pytest.raises(MeasureError, match="there are 3 images, too few for one batch of 4"):
        compare(subject, subject, images(3), replace(BRIEF, batch=4))


def test_a_batch_that_the_artifact_does_not_take_is_named(network: Callable[..., Path]) -> None:
    subject = Subject(name="dense", artifact=network(batch=2))
    with pytest.raises(MeasureError, match=r"^dense: this artifact takes batches of 2, not of 4"):
        compare(subject, subject, images(4), replace(BRIEF, batch=4))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"idle_seconds": -1.0}, "idle_seconds is -1.0; at least 0"),
        ({"device": "gpu"}, "device is 'gpu'; cpu or cuda:0"),
        ({"cuda_graph": True}, "a CUDA graph needs a device such as cuda:0"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(MeasureError, match=message):
        replace(BRIEF, **wrong)  # type: ignore[arg-type]


def test_a_runner_that_hangs_in_a_block_ends_the_comparison(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = RunnerProcess.send

    def stopping(self: RunnerProcess, do: str, /, **words: object) -> None:
        if do == "block":
            os.kill(self.pid, signal.SIGSTOP)
            self.answer = lambda timeout: RunnerProcess.answer(self, timeout / 100)  # type: ignore[method-assign]
        send(self, do, **words)

    monkeypatch.setattr(RunnerProcess, "send", stopping)
    subject = Subject(name="dense", artifact=tiny.onnx)
    with pytest.raises(MeasureError, match=r"runner of dense did not answer 'block' within 0\.6"):
        compare(subject, subject, images(1), BRIEF)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "runner.memory = lambda gpu=None: {'peak_bytes': 'much', 'peak_reason': None}",
            r"of dense cannot be understood: run\.peak_bytes is 'much', not",
        ),
        ("runner.state = lambda gpu: {}", r"cannot be understood: state lacks ticks"),
        ("runner.machine = lambda gpu: {'cpu': 1}", r"cannot be understood: machine lacks"),
        ("runner.Meter.read = lambda self: {'joules': 1}", "energy cannot be understood"),
        ("runner.digest = lambda path: '0' * 64", r"tiny\.onnx is not what it was: .* is 0000"),
        ("runner.Runner.block = None", "dense: .*'NoneType' object is not callable"),
    ],
)
def test_an_answer_that_makes_no_sense_ends_the_comparison(
    tiny: Tiny, tmp_path: Path, change: str, message: str
) -> None:
    subject = Subject(name="dense", artifact=tiny.onnx)
    how = replace(BRIEF, blocks=1, block_seconds=1.0) if "Meter" in change else BRIEF
    with changed_runner(tmp_path, change) as host, pytest.raises(MeasureError, match=message):
        compare(subject, subject, images(1), how, host=host)


@pytest.fixture(scope="module")
def measured(tiny: Tiny) -> Comparison:
    subject = Subject(name="tiny", artifact=tiny.onnx)
    return compare(subject, subject, images(1), BRIEF)


def test_an_artifact_that_ran_elsewhere_than_asked_casts_doubt(measured: Comparison) -> None:
    asked = replace(BRIEF, device="cuda:0")
    assert "tiny ran on cpu, not on cuda:0" in list(doubts([measured.dense], asked))
    engine = replace(measured.dense, backend="tensorrt")
    runs = tuple(replace(run, device="cuda:0", threads=None, steady=True) for run in engine.runs)
    assert list(doubts([replace(engine, runs=runs)], BRIEF)) == []


def test_threads_that_were_not_taken_cast_doubt(measured: Comparison) -> None:
    found = list(doubts([measured.dense], replace(BRIEF, threads=3)))
    assert "tiny ran on [1] threads, not on 3" in found


def test_one_restless_run_among_many_casts_no_doubt_and_several_do(measured: Comparison) -> None:
    calm, restless = (replace(measured.dense.runs[0], steady=steady) for steady in (True, False))
    for share, said in (((restless,), False), ((restless,) * 3, True)):
        runs = (*share, *(calm,) * (8 - len(share)))
        found = list(doubts([replace(measured.dense, runs=runs)], BRIEF))
        assert bool(found) is said
