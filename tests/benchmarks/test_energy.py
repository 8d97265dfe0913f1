import pytest

from edgeprune_benchmarks.energy import Reading, energy_of, reading


def at(seconds: float, joules: float | None, **other: object) -> Reading:
    words = {"source": "rapl", "reason": "the CPU packages, all processes", **other}
    return reading({"id": 1, "ok": True, "joules": joules, "at_ns": int(seconds * 1e9), **words})


REST = (at(0, 0.0), at(2, 20.0))  # 10 W


def test_energy_of_an_inference_is_what_rest_would_not_have_used() -> None:
    blocks = [(at(2, 20.0), at(3, 45.0)), (at(5, 65.0), at(7, 115.0))]  # 25 W for 3 s
    energy, covers = energy_of(REST, blocks, inferences=90)
    assert energy is not None
    assert (energy.joules, energy.seconds, energy.idle_watts) == (75.0, 3.0, 10.0)
    assert energy.joules_per_inference == pytest.approx((25 - 10) * 3 / 90)
    assert (energy.source, covers) == ("rapl", "the CPU packages, all processes")


def test_a_device_without_a_counter_gives_its_reason() -> None:
    nothing = at(1, None, source=None, reason="no RAPL, no Jetson")
    assert energy_of((nothing, nothing), [(nothing, nothing)], 5) == (None, "no RAPL, no Jetson")


def test_a_counter_that_falls_silent_gives_its_reason() -> None:
    blocks = [(at(2, 20.0), at(4, None, reason="tegrastats shows no power any more"))]
    assert energy_of(REST, blocks, 5) == (None, "tegrastats shows no power any more")
    silent = [(at(2, 20.0), at(4, None, reason=None))]
    assert energy_of(REST, silent, 5) == (None, "the energy counter gave no answer")


@pytest.mark.parametrize(
    ("blocks", "inferences", "reason"),
    [
        ([(at(2, 20.0), at(4, 60.0))], 0, "nothing ran"),
        ([], 5, r"counted for 0.00 s, and 2.00 s of rest; at least 1 s and 0.5 s are needed"),
        ([(at(2, 20.0), at(2.2, 60.0))], 5, "counted for 0.20 s"),
        ([(at(2, 20.0), at(4, 10.0))], 5, "went backwards"),
        ([(at(2, 20.0), at(4, 20.0))], 5, "stood still for 2.0 s"),
        ([(at(2, 20.0), at(4, 38.0))], 5, r"9.00 W at work, 10.00 W at rest"),
        ([(at(2, 20.0), at(4, 60.0, source="nvml"))], 5, "changed during the measurement"),
    ],
)
def test_energies_that_mean_nothing_are_withheld_with_the_reason(
    blocks: list[tuple[Reading, Reading]], inferences: int, reason: str
) -> None:
    energy, said = energy_of(REST, blocks, inferences)
    assert energy is None
    assert said is not None
    assert reason in said


def test_a_rest_that_was_too_short_is_no_baseline() -> None:
    energy, said = energy_of((at(0, 0.0), at(0.1, 1.0)), [(at(1, 2.0), at(3, 90.0))], 5)
    assert energy is None
    assert said == "counted for 2.00 s, and 0.10 s of rest; at least 1 s and 0.5 s are needed"


def test_an_answer_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"energy.joules is 'much'"):
        reading({"source": "rapl", "joules": "much", "at_ns": 1, "reason": None})
