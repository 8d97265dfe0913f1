"""What one or two intervals show, and on what a gate's measurements rest."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeprune.errors import MeasureError, UsageError
from edgeprune_benchmarks import gate
from edgeprune_benchmarks.gate import check_latency, decide, limit_of, ratio_of
from edgeprune_benchmarks.measurement import Comparison, MeasureSettings, Subject
from edgeprune_benchmarks.statistics import Ratio

from .bench_report_case import MACHINE, QUIET, measurement
from .conftest import Tiny, images

ALLOWED = 0.02


def ratio(value: float, low: float, high: float) -> Ratio:
    return Ratio(value=value, low=low, high=high, verdict="")


def status(first: Ratio, second: Ratio | None = None, *, floor: float = 0.0) -> str:
    return decide(first, second, allowed=ALLOWED, noise_floor=floor)[0]


SLOWER = ratio(1.05, 1.03, 1.07)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (ratio(0.90, 0.88, 0.92), None, "pass"),
        (ratio(1.00, 0.99, 1.01), None, "pass"),
        (ratio(1.02, 1.00, 1.04), None, "pass"),  # twice what is allowed is just excluded
        (ratio(1.00, 0.70, 1.03), None, "pass"),  # how fast it may be does not matter
        (ratio(1.00, 0.95, 1.05), None, "inconclusive"),  # too coarse
        (ratio(1.025, 1.01, 1.035), None, "inconclusive"),  # rather more than is allowed
        (SLOWER, None, "inconclusive"),  # measured once only
        (SLOWER, ratio(1.05, 1.021, 1.09), "regression"),
        (SLOWER, ratio(1.03, 1.02, 1.04), "inconclusive"),  # not confirmed
        (SLOWER, ratio(1.00, 0.99, 1.01), "inconclusive"),  # contradicted
    ],
)
def test_a_regression_takes_two_measurements_and_a_pass_a_narrow_one(
    first: Ratio, second: Ratio | None, expected: str
) -> None:
    assert status(first, second) == expected


def test_what_lies_within_the_noise_floor_neither_passes_nor_fails() -> None:
    assert status(SLOWER, floor=0.10) == "inconclusive"
    _, reason = decide(SLOWER, None, allowed=ALLOWED, noise_floor=0.10)
    assert "hidden by this machine's noise floor of 10.0%" in reason


def test_a_noise_floor_never_makes_a_pass() -> None:
    """A 5 % slow-down on a machine whose equals differ by 17 %."""
    assert status(ratio(1.05, 0.95, 1.15), floor=0.17) == "inconclusive"
    assert status(ratio(1.00, 0.90, 1.10), floor=0.17) == "inconclusive"


def test_beyond_the_noise_floor_a_slow_down_is_a_regression() -> None:
    much = ratio(1.30, 1.20, 1.40)
    assert status(much, much, floor=0.17) == "regression"


@pytest.mark.parametrize(("allowed", "floor", "limit"), [(0.02, 0, 1.02), (0.02, 0.05, 1.05)])
def test_the_limit_is_the_larger_of_allowed_and_noise(
    allowed: float, floor: float, limit: float
) -> None:
    assert limit_of(allowed, floor) == pytest.approx(limit)


# --- measuring ------------------------------------------------------------------------


def comparison(slowdown: float, *, tainted: Sequence[str] = ()) -> Comparison:
    """Return a made-up comparison in which the candidate takes so many times as long."""
    settings = MeasureSettings(rounds=4, blocks=2)
    sides = {"dense": measurement("a", 10.0, 20, "f32")}
    sides["slim"] = measurement("b", 10.0 * slowdown, 20, "f32")
    return Comparison(
        settings=settings,
        **sides,
        order=(("dense", "slim", "slim", "dense"),) * 4,
        machine=MACHINE,
        conditions=(QUIET,) * 4,
        tainted=tuple(tainted),
    )


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Comparison]:
    """Return what the next measurements give; what was taken is taken off."""
    coming: list[Comparison] = []
    monkeypatch.setattr(gate, "compare", lambda *_args, **_how: coming.pop(0))
    return coming


def check(**how: float) -> gate.LatencyCheck:
    subject = Subject(name="made up", artifact=Path("model.onnx"))
    return check_latency(subject, subject, images(1), MeasureSettings(), allowed=ALLOWED, **how)  # type: ignore[arg-type]


def test_equals_are_measured_once(measured: list[Comparison]) -> None:
    measured += [comparison(1.0), comparison(1.0)]
    found = check()
    assert (found.status, found.second, len(found.comparisons)) == ("pass", None, 1)
    assert len(measured) == 1


def test_a_slower_candidate_is_measured_again_before_it_fails(measured: list[Comparison]) -> None:
    measured += [comparison(1.05), comparison(1.06)]
    found = check()
    assert (found.status, len(found.comparisons)) == ("regression", 2)
    assert found.second is not None
    assert (found.first.value, found.second.value) == pytest.approx((1.05, 1.06))


def test_an_alarm_that_does_not_come_again_is_no_regression(measured: list[Comparison]) -> None:
    measured += [comparison(1.05), comparison(1.0)]
    assert check().status == "inconclusive"


def test_a_slow_down_within_the_noise_floor_is_not_measured_again(
    measured: list[Comparison],
) -> None:
    measured += [comparison(1.05)]
    assert check(noise_floor=0.10).status == "inconclusive"


def uneven(*slowdowns: float) -> Comparison:
    """Return a made-up comparison whose rounds take so many times as long."""
    rounds = [comparison(each) for each in slowdowns]
    made = rounds[0]
    runs = tuple(run for each in rounds for run in each.slim.runs[:1])
    dense = replace(made.dense, runs=made.dense.runs[: len(runs)])
    return replace(made, dense=dense, slim=replace(made.slim, runs=runs))


COARSE = (1.10, 0.92, 1.09, 0.95)  # around 1, and far apart


def test_what_is_too_coarse_is_measured_as_long_again_and_all_rounds_count(
    measured: list[Comparison],
) -> None:
    measured += [uneven(*COARSE), comparison(1.05), comparison(1.05)]
    alone, both = ratio_of(measured[0]), ratio_of(measured[0], measured[1])
    found = check()
    assert len(found.comparisons) == 2, "the rounds of both do not show a regression"
    assert found.second is None
    assert found.first.value == both.value != alone.value


def test_what_stays_too_coarse_is_given_up(measured: list[Comparison]) -> None:
    measured += [uneven(*COARSE)] * 3
    found = check()
    assert (found.status, len(found.comparisons)) == ("inconclusive", 2)


def test_a_confirmation_that_is_too_coarse_is_measured_as_long_again(
    measured: list[Comparison],
) -> None:
    close = uneven(1.03, 1.05, 1.018, 1.06)
    measured += [comparison(1.05), close, comparison(1.05)]
    assert ratio_of(close).low < 1.02
    found = check()
    assert (found.status, len(found.comparisons)) == ("regression", 3)


def test_a_crowded_machine_is_told_and_does_not_decide(measured: list[Comparison]) -> None:
    measured += [comparison(1.05, tainted=["busy"]), comparison(1.05, tainted=["busy", "hot"])]
    found = check()
    assert (found.status, found.tainted) == ("regression", ("busy", "hot"))


def test_the_ratio_is_the_candidate_s_time_over_the_baseline_s() -> None:
    assert ratio_of(comparison(2.0)).value == pytest.approx(2.0)
    swapped = replace(comparison(2.0), dense=comparison(2.0).slim, slim=comparison(2.0).dense)
    assert ratio_of(swapped).value == pytest.approx(0.5)


@pytest.mark.parametrize("how", [{"allowed": -0.01}, {"noise_floor": float("nan")}])
def test_shares_below_nothing_are_refused(how: dict[str, float], tiny: Tiny) -> None:
    subject = Subject(name="tiny", artifact=tiny.onnx)
    with pytest.raises(UsageError, match="must not be below 0"):
        check_latency(subject, subject, images(1), MeasureSettings(), **how)  # type: ignore[arg-type]


def test_an_artifact_that_is_not_there_is_an_error(tmp_path: Path, tiny: Tiny) -> None:
    here, gone = (Subject(name=p.stem, artifact=p) for p in (tiny.onnx, tmp_path / "gone.onnx"))
    with pytest.raises(MeasureError, match="gone"):
        check_latency(here, gone, np.zeros((1, 3, 16, 16), np.float32), MeasureSettings.quick())
