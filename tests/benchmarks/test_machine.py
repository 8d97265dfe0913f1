import json
import re
from dataclasses import fields, replace

import pytest

from edgeprune_benchmarks.codec import decode, encode
from edgeprune_benchmarks.device_runner import machine, state
from edgeprune_benchmarks.machine import (
    Conditions,
    Machine,
    conditions,
    differences,
    fingerprint,
    limits,
    taints,
)

HERE = decode(Machine, machine())
QUIET = Conditions(
    steal=0.0,
    others=0.02,
    waited=0.001,
    throttled=0,
    load=(9.0, 9.0, 9.0),
    mhz=(2000.0, 1950.0),
    celsius=50.0,
    headroom=30.0,
    gpu_mhz=(300.0, 1980.0),
)


def answer(**other: object) -> dict[str, object]:
    return {
        **{"id": 1, "ok": True, "at_ns": 0, "ticks": 1000, "busy_ticks": 100, "steal_ticks": 0},
        **{"tick_s": 0.01, "process_s": 1.0, "waited_s": 0.0, "load": [0.0, 0.0, 0.0]},
        **{"throttled": 0, "slowed": [], "mhz": [800.0, 2000.0], "celsius": 50.0},
        **{"headroom": 40.0, "power_mode": None},
        **other,
    }


def test_this_machine_and_its_state_fit_the_record() -> None:
    assert decode(Machine, json.loads(json.dumps(encode(HERE)))) == HERE
    found = conditions([state()], [state()])
    assert decode(Conditions, json.loads(json.dumps(encode(found)))) == found


def test_a_machine_has_every_field_that_the_runner_tells() -> None:
    assert {each.name for each in fields(Machine)} == set(machine())


def test_conditions_are_what_changed_between_the_states() -> None:
    before = answer(mhz=[800.0, 3000.0], headroom=12.0, slowed=["under-voltage"])
    ends = [
        answer(at_ns=2 * 10**9, ticks=2000, busy_ticks=700, steal_ticks=30, process_s=3.0),
        answer(
            **{"at_ns": 2 * 10**9, "ticks": 2000, "busy_ticks": 700, "steal_ticks": 30},
            **{"process_s": 4.0, "waited_s": 0.5, "throttled": 3, "mhz": [900.0, 2500.0]},
            **{"celsius": 71.0, "headroom": 14.0, "load": [1.0, 0.5, 0.2]},
        ),
    ]
    found = conditions([before, before], ends)
    assert found.steal == pytest.approx(0.03)
    assert found.others == pytest.approx((600 - 500) / 1000)
    assert found.waited == pytest.approx(0.5 / 5.5)
    assert (found.throttled, found.slowed) == (3, ("under-voltage",))
    assert (found.mhz, found.celsius, found.headroom) == ((3000.0, 2500.0), 71.0, 12.0)
    assert found.load == (1.0, 0.5, 0.2)
    assert (found.gpu_mhz, found.gpu_capped, found.gpu_hot, found.power_modes) == (*[None] * 3, ())


def test_conditions_of_a_gpu_and_a_power_mode_are_kept() -> None:
    start = answer(gpu_mhz=1980, gpu_celsius=40, gpu_capped_ns=0, gpu_hot_ns=5, power_mode="15W")
    end = answer(
        **{"at_ns": 10**9, "gpu_mhz": 1500, "gpu_celsius": 80, "gpu_capped_ns": 10**8},
        **{"gpu_hot_ns": 5, "power_mode": "25W"},
    )
    found = conditions([start], [end])
    assert (found.gpu_mhz, found.gpu_celsius) == ((1980.0, 1500.0), 80.0)
    assert found.gpu_capped == pytest.approx(0.1)
    assert found.gpu_hot == 0.0
    assert found.power_modes == ("15W", "25W")


def test_a_system_that_tells_nothing_gives_conditions_without_numbers() -> None:
    silent = answer(
        **{"ticks": None, "busy_ticks": None, "steal_ticks": None, "tick_s": None},
        **{"waited_s": None, "load": None, "mhz": None, "celsius": None, "headroom": None},
    )
    found = conditions([silent], [silent])
    assert (found.steal, found.others, found.waited, found.mhz) == (None, None, None, None)
    assert taints([found]) == ()
    assert conditions([answer(), silent], [answer(waited_s=1.0), silent]).waited is None


def test_a_state_with_a_field_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match="state has fields that are not known: owner"):
        conditions([answer(owner="me")], [answer()])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"steal": 0.03}, "the hypervisor took 3.0% of the CPU time"),
        ({"others": 0.5}, "other processes used 50% of the CPU time"),
        ({"waited": 0.04}, "the runners were kept waiting for a CPU for 4.0% of their time"),
        ({"throttled": 3}, "the CPU was throttled 3 times"),
        ({"slowed": ("under-voltage",)}, "the device was slowed down: under-voltage"),
        ({"gpu_capped": 0.25}, "the GPU was at its power limit for 25% of a round"),
        ({"gpu_hot": 0.02}, "the GPU was slowed down for heat for 2% of a round"),
        ({"mhz": (2000.0, 1700.0)}, "the CPU's clock was between 1700 and 1950 MHz"),
        ({"gpu_mhz": (1980.0, 1500.0)}, "the GPU's clock was between 1500 and 1980 MHz"),
        (
            {"headroom": 0.5},
            "a sensor came within 0.5 °C of where the kernel slows things down",
        ),
        ({"power_modes": ("15W", "25W")}, "the power mode changed: 15W, then 25W"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_one_bad_round_taints_and_says_why(change: dict[str, object], reason: str) -> None:
    assert taints([QUIET, replace(QUIET, **change), QUIET]) == (reason,)  # type: ignore[arg-type]


def test_a_quiet_machine_taints_nothing() -> None:
    rested = replace(QUIET, mhz=(800.0, 1850.0), gpu_mhz=(300.0, 1900.0), power_modes=("15W",))
    assert taints([QUIET, rested]) == ()
    assert taints([]) == ()


def test_a_quota_below_the_threads_holds_them_back() -> None:
    granted = replace(HERE, cgroup_cpus=1.5, governor=None)
    assert limits(granted, [QUIET], 2) == ("the cgroup grants 1.5 CPUs, for 2 threads",)
    assert limits(granted, [QUIET], 1) == ()
    assert limits(replace(granted, cgroup_cpus=2.0), [QUIET], 2) == ()


def test_powersave_is_a_doubt_only_where_it_kept_the_clock_down() -> None:
    saving = replace(HERE, cgroup_cpus=None, governor="powersave", max_mhz=4000.0)
    kept = ("the governor 'powersave' kept the CPU at 2000 of 4000 MHz",)
    assert limits(saving, [QUIET], 1) == kept
    assert limits(saving, [QUIET, replace(QUIET, mhz=(3900.0, 3900.0))], 1) == ()
    assert limits(replace(saving, governor="schedutil"), [QUIET], 1) == ()
    assert limits(saving, [replace(QUIET, mhz=None)], 1) == ()


def test_the_fingerprint_knows_speed_and_not_versions() -> None:
    original = fingerprint(HERE)
    assert re.fullmatch("[0-9a-f]{12}", original)
    same = replace(HERE, python="3.8.0", versions={}, system="Linux 1", gpu_driver="1")
    assert fingerprint(same) == original
    for change in ({"cpu": "another"}, {"cores": 99}, {"power_mode": "7W"}, {"gpu": "another"}):
        assert fingerprint(replace(HERE, **change)) != original


def test_the_fingerprint_counts_memory_in_whole_gibibytes() -> None:
    some, less, half = (replace(HERE, memory_bytes=n << 20) for n in (16_300, 16_280, 8_100))
    assert fingerprint(some) == fingerprint(less) != fingerprint(half)
    fingerprint(replace(HERE, memory_bytes=None))


def test_differences_name_field_and_values() -> None:
    other = replace(HERE, flags=("asimd",), power_mode="25W", versions={"numpy": "1.0"})
    here = replace(HERE, flags=("avx", "avx2"), power_mode=None, versions={"numpy": "2.0"})
    assert differences(here, other) == (
        "flags: avx, avx2, not asimd",
        "power_mode: unknown, not 25W",
        "versions of numpy: 2.0, not 1.0",
    )
    assert differences(HERE, HERE) == ()
