import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeprune_benchmarks import device_runner
from edgeprune_benchmarks.device_runner import Integral, Meter, rising
from edgeprune_benchmarks.energy import energy_of, reading
from edgeprune_benchmarks.process import RunnerProcess

from .system_files import command, grow

RAPL = "sys/class/powercap/intel-rapl:"
TEGRA = {"etc/nv_tegra_release": "# R36 (release), REVISION: 4.4, GCID: 1, BOARD: generic\n"}
SENSOR = {
    **{"sys/class/hwmon/hwmon1/name": "ina3221", "sys/class/hwmon/hwmon1/in1_label": "VDD_IN"},
    **{"sys/class/hwmon/hwmon1/in1_input": "5000", "sys/class/hwmon/hwmon1/curr1_input": "2000"},
    "sys/class/hwmon/hwmon1/in2_label": "VDD_SOC",
    **{"sys/class/hwmon/hwmon1/in2_input": "5000", "sys/class/hwmon/hwmon1/curr2_input": "400"},
}


def zone(name: str, kind: str, used: int, span: int = 1000_000_000) -> dict[str, str]:
    folder = f"{RAPL}{name}/"
    return {
        **{folder + "name": kind, folder + "energy_uj": str(used)},
        folder + "max_energy_range_uj": str(span),
    }


def test_rapl_adds_up_the_packages_and_no_zone_inside_them(tmp_path: Path) -> None:
    files = {
        **zone("0", "package-0", 5_000_000),
        **zone("1", "package-1", 7_000_000),
        **zone("0:0", "core", 1_000_000),
        **zone("2", "psys", 9_000_000),
    }
    root = grow(tmp_path, files)
    meter = Meter(root=root)
    assert meter.read() == {
        **{"source": "rapl", "joules": 0.0, "reason": "the CPU packages, all processes"},
        "at_ns": pytest.approx(time.monotonic_ns(), abs=5e9),
    }
    for name, used in (("0", 6_500_000), ("1", 9_000_000), ("0:0", 900_000_000), ("2", 1)):
        Path(root, f"{RAPL}{name}", "energy_uj").write_text(str(used))
    assert meter.read()["joules"] == pytest.approx(1.5 + 2.0)


def test_rapl_goes_on_where_its_counter_starts_again(tmp_path: Path) -> None:
    root = grow(tmp_path, zone("0", "package-0", 262_000_000, span=262_143_328))
    meter = Meter(root=root)
    Path(root, f"{RAPL}0", "energy_uj").write_text("100000")
    assert meter.read()["joules"] == pytest.approx(0.143328 + 0.1)
    Path(root, f"{RAPL}0", "energy_uj").write_text("400000")
    assert meter.read()["joules"] == pytest.approx(0.143328 + 0.4)


def test_rapl_that_only_root_may_read_says_how_to_change_that(tmp_path: Path) -> None:
    root = grow(tmp_path, zone("0", "package-0", 1))
    energy = Path(root, f"{RAPL}0", "energy_uj")
    energy.unlink()
    energy.mkdir()  # root, who may run this test, could read any file
    found = Meter(root=root).read()
    assert (found["source"], found["joules"]) == (None, None)
    assert found["reason"] == (
        "RAPL's energy_uj is for root only (since CVE-2020-8694): "
        "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"
    )


def test_a_counter_that_becomes_unreadable_gives_no_joules_but_a_reason(tmp_path: Path) -> None:
    root = grow(tmp_path, zone("0", "package-0", 1))
    meter = Meter(root=root)
    Path(root, f"{RAPL}0", "energy_uj").unlink()
    found = meter.read()
    assert (found["source"], found["joules"]) == ("rapl", None)
    assert "for root only" in found["reason"]


def test_a_device_without_any_counter_says_so(tmp_path: Path) -> None:
    found = Meter(root=grow(tmp_path, {})).read()
    assert (found["source"], found["joules"]) == (None, None)
    assert found["reason"] == "there is no energy counter here: no RAPL, no Jetson"
    without = grow(tmp_path, {f"{RAPL}0/name": "psys"})
    assert Meter(root=without).read()["reason"] == "RAPL has no CPU package here"


def test_a_jetsons_sensors_are_added_up_over_time(tmp_path: Path) -> None:
    root = grow(tmp_path, {**TEGRA, **SENSOR, **zone("0", "package-0", 1)})
    meter = Meter(root=root, pause=0.02)
    first = meter.read()
    time.sleep(0.3)
    second = meter.read()
    assert (first["source"], first["reason"]) == ("ina3221", "the module (VDD_IN), all processes")
    watts = (second["joules"] - first["joules"]) / (second["at_ns"] - first["at_ns"]) * 1e9
    assert watts == pytest.approx(10.0, rel=0.1)  # 5 V at 2 A
    Path(root, "sys/class/hwmon/hwmon1/curr1_input").write_text("4000")
    time.sleep(0.1)
    third = meter.read()
    time.sleep(0.3)
    fourth = meter.read()
    watts = (fourth["joules"] - third["joules"]) / (fourth["at_ns"] - third["at_ns"]) * 1e9
    assert watts == pytest.approx(20.0, rel=0.1)


def test_a_sensor_that_vanishes_gives_a_reason_and_no_smaller_total(tmp_path: Path) -> None:
    root = grow(tmp_path, {**TEGRA, **SENSOR})
    meter = Meter(root=root, pause=0.01)
    Path(root, "sys/class/hwmon/hwmon1/in1_input").unlink()
    time.sleep(0.2)
    found = meter.read()
    assert (found["joules"], found["reason"]) == (None, "INA3221 shows no power any more")


def test_energy_of_inferences_comes_from_a_runner_on_a_jetson(tmp_path: Path) -> None:
    root = grow(tmp_path, {**TEGRA, **SENSOR})
    script = tmp_path / "runner.py"
    script.write_text(
        "import functools, sys\n"
        f"sys.path.insert(0, {str(Path(device_runner.__file__).parent)!r})\n"
        "import device_runner as r\n"
        f"r.Meter = functools.partial(r.Meter, root={root!r}, pause=0.02)\n"
        "sys.exit(r.main())\n"
    )
    with RunnerProcess("jetson", [sys.executable, str(script), "serve"]) as runner:
        rested = [reading(runner.ask("energy", 30.0))]
        time.sleep(0.6)
        rested.append(reading(runner.ask("energy", 30.0)))
        Path(root, "sys/class/hwmon/hwmon1/curr1_input").write_text("6000")  # 30 W instead of 10
        time.sleep(1.1)
        worked = reading(runner.ask("energy", 30.0))
    energy, covers = energy_of((rested[0], rested[1]), [(rested[1], worked)], inferences=11)
    assert energy is not None, covers
    assert energy.joules_per_inference == pytest.approx((30 - 10) * 1.1 / 11, rel=0.15)
    assert (energy.source, covers) == ("ina3221", "the module (VDD_IN), all processes")


TEGRASTATS = """
test "$1" = --interval || exit 1
trap '' TERM
while true; do
  echo "RAM 1/2MB GR3D_FREQ 0% VDD_GPU_SOC 3000mW/1mW VDD_CPU_CV 1000mW/1mW VIN_SYS_5V0 4000mW/1mW"
  sleep 0.05
done
"""


def test_tegrastats_is_added_up_where_no_sensor_is_in_sys(tmp_path: Path) -> None:
    """In a process of its own: the child must end with it, however it ends."""
    tool = command(tmp_path / "bin" / "tegrastats", TEGRASTATS)
    root = grow(tmp_path, TEGRA)
    code = (
        "import os, sys, time; sys.path.insert(0, sys.argv[1]); import device_runner as r\n"
        "meter = r.Meter(root=sys.argv[2], pause=0.05); a = meter.read(); time.sleep(0.5)\n"
        "b = meter.read(); print(a['source'], (b['joules'] - a['joules']) / "
        "(b['at_ns'] - a['at_ns']) * 1e9, flush=True); os.kill(os.getpid(), 9)"
    )
    path = f"{tool.parent}{os.pathsep}{os.environ['PATH']}"
    words = [sys.executable, "-c", code, str(Path(device_runner.__file__).parent), root]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, env={"PATH": path}, check=False)
    source, watts = done.stdout.split()
    assert source == "tegrastats"
    assert float(watts) == pytest.approx(8.0, rel=0.1)
    end = time.monotonic() + 5
    while running(str(tool)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not running(str(tool))


def running(program: str) -> bool:
    """Whether any process has the program in its command line."""
    lines = (path / "cmdline" for path in Path("/proc").iterdir() if path.name.isdigit())
    for line in lines:
        try:
            if program.encode() in line.read_bytes():
                return True
        except OSError:
            continue  # it ended meanwhile
    return False


def test_a_jetson_without_sensors_and_tegrastats_names_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    reason = Meter(root=grow(tmp_path, TEGRA)).read()["reason"]
    assert "no INA3221 sensor can be read" in reason
    assert "there is no tegrastats here" in reason


def test_power_that_never_comes_is_a_reason() -> None:
    with pytest.raises(OSError, match="sensor shows no power here"):
        Integral(iter(()), "sensor")


def test_the_thread_that_reads_power_keeps_off_the_cpus_in_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one CPU only")
    before = os.sched_getaffinity(0)
    used = min(before)
    seen: list[set[int]] = []

    def watts() -> Iterator[float]:
        seen.append(os.sched_getaffinity(0))
        yield 1.0

    try:
        os.sched_setaffinity(0, {used})
        Integral(watts(), "sensor")
    finally:
        os.sched_setaffinity(0, before)
    assert seen
    assert used not in seen[0]


def test_counting_starts_at_the_first_look() -> None:
    values = iter([5.0, 7.0, 1.0])
    joules = rising(lambda: next(values), wraps_at=8.0)
    assert [joules(), joules()] == [2.0, 4.0]
