"""The benchmark of the measurements themselves: what it plants, and how it counts."""

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("trust", reason="benchmarks need an editable install")

import trust_slowed_runner
from edgeprune_benchmarks.commands import program
from edgeprune_benchmarks.process import RunnerProcess
from edgeprune_benchmarks.statistics import Ratio
from trust_agreement import Agreement
from trust_gates import Outcome

from .conftest import Tiny, images

SLOWED = program(sys.executable, str(trust_slowed_runner.__file__), "serve")


def outcome(first: float, second: float | None) -> Outcome:
    """A gate whose intervals begin at these ratios."""
    made = [
        None if low is None else Ratio(value=low + 0.01, low=low, high=low + 0.02, verdict="")
        for low in (first, second)
    ]
    assert made[0] is not None
    return Outcome(
        runtime="openvino", status="", first=made[0], second=made[1], seconds=1.0, tainted=()
    )


def test_a_planted_artifact_predicts_the_same_and_spins_for_a_twentieth(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = tmp_path / "slowed.onnx"
    artifact.write_bytes(tiny.onnx.read_bytes())
    np.save(tmp_path / "in.npy", images(3))
    with RunnerProcess("slowed", SLOWED) as runner:
        runner.ask("load", 60.0, artifact=str(artifact))
        words = {"inputs": str(tmp_path / "in.npy"), "outputs": str(tmp_path / "out.npy")}
        runner.ask("predict", 60.0, **words)
    expected = tiny.expected(images(3))
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=1e-5, atol=1e-6)

    ticks = iter([0, 1000, 1000, 1049, 1050])
    monkeypatch.setattr(trust_slowed_runner.time, "perf_counter_ns", lambda: next(ticks))
    trust_slowed_runner._slower(lambda given: given)(images(1))
    assert next(ticks, None) is None, "it spins until 1,050, and not on"


def test_an_alarm_needs_both_measurements_beyond_the_limit() -> None:
    assert outcome(1.03, 1.03).alarm(0.02, 0.0)
    assert not outcome(1.03, 1.01).alarm(0.02, 0.0)
    assert not outcome(1.03, None).alarm(0.02, 0.0)
    assert not outcome(1.03, 1.03).alarm(0.05, 0.0)
    assert not outcome(1.03, 1.03).alarm(0.02, 0.04), "the noise floor is a limit too"


def test_figures_agree_within_the_limit_and_not_beyond() -> None:
    def row(ours: float) -> str:
        made = Agreement(what="w", peer="p", ours=ours, theirs=100.0, unit="ms", limit=0.03)
        return made.row()

    assert row(102.9).endswith("| yes |")
    assert row(97.1).endswith("| yes |")
    assert row(103.1).endswith("| **no** |")
    assert row(96.9).endswith("| **no** |")
