import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgeprune_benchmarks import device_runner
from edgeprune_benchmarks.device_runner import (
    clocks,
    frequencies,
    heat,
    hypervisor,
    machine,
    memory,
    memory_limit,
    quota,
    slowed,
    spread,
    state,
    turbo,
    waited,
)

from .system_files import grow

ARM_CORE = (
    "processor\t: {0}\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd asimddp asimdhp\n"
    "CPU implementer\t: {1}\nCPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: {2}\n\n"
)
CPU = "sys/devices/system/cpu/"


def arm(*cores: tuple[str, str], more: str = "") -> str:
    return "".join(ARM_CORE.format(k, *core) for k, core in enumerate(cores)) + more


@pytest.mark.parametrize(
    ("cpuinfo", "board", "name"),
    [
        ("model name\t: AMD EPYC 7B13\nflags\t: avx2\n", "", "AMD EPYC 7B13"),
        (arm(("0x41", "0xd42"), ("0x41", "0xd42")), "NVIDIA Jetson AGX Orin", "Arm Cortex-A78AE"),
        (
            arm(*[("0x41", "0xd05")] * 4, *[("0x41", "0xd0b")] * 2),
            *("Some board", "Arm Cortex-A55 + Arm Cortex-A76"),
        ),
        # Older Jetsons put a model name beside the part that says less.
        (
            arm(("0x4e", "0x004"), more="model name\t: ARMv8 Processor rev 0 (v8l)\n"),
            *("", "NVIDIA Carmel"),
        ),
        (arm(("0x41", "0xfff")), "", "Arm part 0xfff"),
        (arm(("0x99", "0x001")), "", "implementer 0x99 part 0x001"),
        ("Hardware\t: BCM2835\n", "Raspberry Pi 3 Model B\0", "Raspberry Pi 3 Model B"),
    ],
)
def test_the_cpu_is_named(tmp_path: Path, cpuinfo: str, board: str, name: str) -> None:
    root = grow(tmp_path, {"proc/cpuinfo": cpuinfo, "proc/device-tree/model": board})
    assert machine(root=root)["cpu"] == name


def test_what_an_arm_cpu_multiplies_with_is_listed(tmp_path: Path) -> None:
    root = grow(tmp_path, {"proc/cpuinfo": arm(("0x41", "0xd0b"))})
    assert machine(root=root)["flags"] == ["asimd", "asimdhp", "asimddp"]


def test_a_pc_is_described_by_clocks_threads_and_nodes(tmp_path: Path) -> None:
    files = {
        "proc/cpuinfo": "model name\t: Intel\nflags\t: fpu avx2\n",
        "proc/meminfo": "MemTotal:       16303412 kB\nMemFree: 1 kB\n",
        CPU + "cpu0/topology/thread_siblings_list": "0,4",
        CPU + "cpu0/cpufreq/scaling_governor": "powersave",
        **{CPU + f"cpu{k}/cpufreq/cpuinfo_min_freq": "800000" for k in (0, 1)},
        **{CPU + f"cpu{k}/cpufreq/cpuinfo_max_freq": f"4{k}00000" for k in (0, 1)},
        **{CPU + f"cpufreq/policy{k}/scaling_min_freq": "800000" for k in (0, 1)},
        **{CPU + f"cpufreq/policy{k}/scaling_max_freq": f"4{k}00000" for k in (0, 1)},
        **{CPU + "intel_pstate/no_turbo": "0", "sys/devices/system/node/node0/cpulist": "0-7"},
    }
    found = machine(root=grow(tmp_path, files))
    wanted = {
        **{"threads_per_core": 2, "numa_nodes": 1, "governor": "powersave", "turbo": True},
        **{"min_mhz": 800.0, "max_mhz": 4100.0, "memory_bytes": 16303412 * 1024},
        **{"hypervisor": False, "clocks": {"cpu": "800 to 4000 MHz, 800 to 4100 MHz"}},
        **{"board": None, "l4t": None, "power_mode": None},
    }
    assert {key: found[key] for key in wanted} == wanted


def test_a_device_that_tells_nothing_is_described_by_none(tmp_path: Path) -> None:
    root = grow(tmp_path, {})
    told = {key for key, value in machine(root=root).items() if value not in (None, "", [], {})}
    assert told <= {"cpu", "cores", "system", "architecture", "python", "versions"}
    found = state(root=root)
    assert (found["ticks"], found["mhz"], found["celsius"]) == (None, None, None)
    assert found["throttled"] == 0
    assert memory(root=root)["peak_reason"] == "this system has no VmHWM in /proc/self/status"


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"intel_pstate/no_turbo": "1"}, False),
        ({"intel_pstate/no_turbo": "0", "cpufreq/boost": "0"}, True),
        ({"cpufreq/boost": "1"}, True),
        ({"cpufreq/boost": "0"}, False),
        ({}, None),
    ],
)
def test_turbo_is_read_where_either_driver_keeps_it(
    tmp_path: Path, files: dict[str, str], found: bool | None
) -> None:
    assert turbo(grow(tmp_path, {CPU + name: text for name, text in files.items()})) is found


@pytest.mark.parametrize(
    ("cpuinfo", "files", "found"),
    [
        ("flags\t: fpu hypervisor avx2\n", {}, True),
        ("flags\t: fpu avx2\n", {}, False),
        (arm(("0x41", "0xd0c")), {"proc/device-tree/hypervisor/compatible": "xen"}, True),
        (arm(("0x41", "0xd0c")), {"sys/hypervisor/type": "xen"}, True),
        (arm(("0x41", "0xd0c")), {}, None),
    ],
)
def test_a_virtual_machine_is_known_where_the_cpu_tells(
    tmp_path: Path, cpuinfo: str, files: dict[str, str], found: bool | None
) -> None:
    assert hypervisor(cpuinfo, grow(tmp_path, files)) is found


def test_a_quota_of_cgroup_v2_is_the_tightest_up_to_the_root(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/jobs/one\n",
        "sys/fs/cgroup/jobs/cpu.max": "150000 100000\n",
        "sys/fs/cgroup/jobs/one/cpu.max": "max 100000\n",
        "sys/fs/cgroup/jobs/memory.max": "max\n",
        "sys/fs/cgroup/jobs/one/memory.max": "536870912\n",
        "sys/fs/cgroup/jobs/one/cpu.stat": "usage_usec 1\nnr_periods 9\nnr_throttled 4\n",
    }
    root = grow(tmp_path, files)
    assert quota(root) == 1.5
    assert memory_limit(root) == 536870912
    assert state(root=root)["throttled"] == 4


def test_a_quota_of_cgroup_v1_is_read_and_no_limit_is_none(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:memory:/box\n2:cpu,cpuacct:/box\n",
        "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "50000\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/cpu/box/cpu.stat": "nr_periods 9\nnr_throttled 2\nthrottled_time 1\n",
    }
    root = grow(tmp_path, files)
    assert quota(root) == 0.5
    assert memory_limit(root) is None
    assert state(root=root)["throttled"] == 2


def test_ticks_of_guests_are_not_counted_twice(tmp_path: Path) -> None:
    root = grow(tmp_path, {"proc/stat": "cpu  100 20 30 400 50 6 7 80 90 10\ncpu0 1 2 3\n"})
    found = state(root=root)
    assert found["ticks"] == 100 + 20 + 30 + 400 + 50 + 6 + 7 + 80
    assert found["busy_ticks"] == 100 + 20 + 30 + 6 + 7
    assert found["steal_ticks"] == 80


def test_the_clock_is_that_of_the_cpus_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 2}, raising=False)
    speeds = {0: "400000", 1: "3100000", 2: "2900000"}
    root = grow(
        tmp_path, {CPU + f"cpu{k}/cpufreq/scaling_cur_freq": khz for k, khz in speeds.items()}
    )
    assert frequencies(root) == [2900.0, 3100.0]
    told = "".join(f"processor\t: {k}\ncpu MHz\t\t: {2000 + k}.5\n" for k in range(3))
    assert frequencies(grow(tmp_path, {"proc/cpuinfo": told})) == [2001.5, 2002.5]
    assert frequencies(grow(tmp_path, {})) is None


def test_heat_is_that_of_the_hottest_sensor_and_the_nearest_trip_point(tmp_path: Path) -> None:
    zones = {
        **{"thermal_zone0/temp": "61500", "thermal_zone0/type": "cpu-thermal"},
        **{"thermal_zone0/trip_point_0_type": "active", "thermal_zone0/trip_point_0_temp": "62000"},
        **{"thermal_zone0/trip_point_1_type": "passive"},
        **{"thermal_zone0/trip_point_1_temp": "95000"},
        **{"thermal_zone1/temp": "70000", "thermal_zone1/type": "tj-thermal"},
        **{"thermal_zone1/trip_point_0_type": "critical"},
        **{"thermal_zone1/trip_point_0_temp": "104500"},
        # A Jetson's PMIC always reads 100 °C, sensors that are off -256 °C; 0 is no limit.
        **{"thermal_zone2/temp": "100000", "thermal_zone2/type": "PMIC-Die"},
        **{"thermal_zone3/temp": "-256000", "thermal_zone3/type": "CV0-therm"},
        **{"thermal_zone4/temp": "30000", "thermal_zone4/type": "acpitz"},
        **{"thermal_zone4/trip_point_0_type": "passive", "thermal_zone4/trip_point_0_temp": "0"},
    }
    root = grow(tmp_path, {f"sys/class/thermal/{name}": text for name, text in zones.items()})
    assert heat(root) == (70.0, 33.5)
    assert heat(grow(tmp_path, {})) == (None, None)


def test_heat_of_a_cpu_that_is_no_thermal_zone_is_read_from_its_sensor(tmp_path: Path) -> None:
    sensors = {
        **{"hwmon0/name": "nvme", "hwmon0/temp1_input": "83000", "hwmon0/temp1_crit": "84000"},
        **{"hwmon1/name": "k10temp", "hwmon1/temp1_input": "64250"},
        **{"hwmon2/name": "coretemp", "hwmon2/temp2_input": "60000", "hwmon2/temp2_crit": "100000"},
    }
    root = grow(tmp_path, {f"sys/class/hwmon/{name}": text for name, text in sensors.items()})
    assert heat(root) == (64.25, 40.0)


def test_a_raspberry_pi_says_what_slows_it_now_and_not_what_did(tmp_path: Path) -> None:
    path = "sys/devices/platform/soc/soc:firmware/get_throttled"
    assert slowed(grow(tmp_path, {path: "50005"})) == ["under-voltage", "throttling"]
    assert slowed(grow(tmp_path, {path: "50000"})) == []


def test_throttle_counters_of_all_cpus_are_added(tmp_path: Path) -> None:
    counts = {CPU + f"cpu{k}/thermal_throttle/core_throttle_count": str(k) for k in (2, 3)}
    assert state(root=grow(tmp_path, counts))["throttled"] == 5


def test_lists_of_cpus_are_read_as_the_kernel_writes_them() -> None:
    assert spread("0-2,8") == [0, 1, 2, 8]
    assert spread("") == []


def test_files_that_hold_no_number_are_passed_over(tmp_path: Path) -> None:
    files = {CPU + "cpufreq/policy0/scaling_min_freq": "<unsupported>"}
    assert clocks(grow(tmp_path, files)) == {}


def test_nothing_told_names_the_host_or_its_user() -> None:
    told = f"{machine()} {state()} {memory()}"
    assert os.uname().nodename not in told
    assert str(Path.home()) not in told


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="no schedstat here")
def test_a_process_that_shares_its_cpu_sees_that_it_waited() -> None:
    code = (
        "import os, sys, time; sys.path.insert(0, sys.argv[1]); import device_runner as r\n"
        "os.sched_setaffinity(0, {int(sys.argv[2])}); a = r.state(); end = time.time() + 0.6\n"
        "while time.time() < end: pass\n"
        "b = r.state(); waited = b['waited_s'] - a['waited_s']\n"
        "print(waited / (waited + b['process_s'] - a['process_s']))"
    )
    cpu = max(os.sched_getaffinity(0))
    spin = f"import os\nos.sched_setaffinity(0, {{{cpu}}})\nwhile True: pass"
    neighbour = subprocess.Popen([sys.executable, "-c", spin])
    try:
        time.sleep(0.2)
        folder = str(Path(device_runner.__file__).parent)
        words = [sys.executable, "-c", code, folder, str(cpu)]
        share = float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    finally:
        neighbour.kill()
        neighbour.wait()
    assert share > 0.2
    assert waited("/") is not None
