import os
from pathlib import Path

import pytest

from edgeprune_benchmarks.device_runner import (
    ina3221,
    l4t,
    machine,
    nvpmodel,
    power_mode,
    slowed,
    state,
    tegrastats_line,
    total_power,
)

from .system_files import command, grow

ORIN_NANO = (
    "10-08-2026 04:35:02 RAM 6712/7620MB (lfb 12x4MB) SWAP 369/3810MB (cached 8MB) "
    "CPU [38%@1497,29%@1497,31%@1497,30%@1497,16%@1497,18%@1497] EMC_FREQ 61%@2133 "
    "GR3D_FREQ 99%@[612] NVDEC off NVJPG off NVJPG1 off VIC off OFA off APE 200 cpu@57.125C "
    "soc2@56.062C soc0@56.281C gpu@58.625C tj@58.312C soc1@56.937C "
    "VDD_IN 16321mW/11204mW VDD_CPU_GPU_CV 7104mW/4944mW VDD_SOC 3120mW/3659mW"
)
AGX_ORIN = (
    "11-21-2025 08:49:48 RAM 13983/62780MB (lfb 424x4MB) SWAP 126/31390MB (cached 0MB) "
    "CPU [90%@2201,100%@2201,off,off] EMC_FREQ 1%@2133 GR3D_FREQ 14%@[407,407] VIC_FREQ 115 "
    "NVDLA0_FREQ @1600 APE 174 CV0@-256C CPU@77.281C Tboard@62C SOC2@70C tj@77.281C "
    "VDD_GPU_SOC 3150mW/2971mW VDD_CPU_CV 14312mW/12415mW VIN_SYS_5V0 4968mW/5048mW "
    "NC 0mW/0mW VDDQ_VDD2_1V8AO 1091mW/1091mW NC 0mW/0mW"
)
AGX_XAVIER = (
    "RAM 4181/31919MB (lfb 4230x4MB) SWAP 0/15959MB (cached 0MB) CPU [0%@1190,1%@1190,0%@1190,"
    "0%@1189,0%@1190,0%@1191,0%@1190,0%@1190] EMC_FREQ 0%@1331 GR3D_FREQ 0%@114 VIC_FREQ 115 "
    "APE 150 AUX@36C CPU@36.5C thermal@35.7C Tboard@37C AO@35C GPU@35C Tdiode@38.75C PMIC@50C "
    "GPU 467mW/467mW CPU 467mW/467mW SOC 1245mW/1245mW CV 0mW/0mW VDDRQ 311mW/311mW "
    "SYS5V 2768mW/2768mW"
)
AGX_XAVIER_BARE = (
    "RAM 10881/31919MB (lfb 4230x4MB) SWAP 0/15959MB (cached 0MB) CPU [17%@1190,17%@1190] "
    "EMC_FREQ 55%@2133 GR3D_FREQ 95%@1377 APE 150 MTS fg 0% bg 10% AO@48C GPU@54.5C "
    "Tdiode@53.25C PMIC@100C AUX@46C CPU@49C thermal@49.45C Tboard@47C GPU 18401/18525 "
    "CPU 2301/2330 SOC 4602/4602 CV 0/0 VDDRQ 2914/2911 SYS5V 4632/4620"
)
THOR = (
    "08-08-2026 21:00:39 RAM 8353/125749MB (lfb 31x4MB) CPU [90%@2601,75%@2601,off,7%@2601] "
    "EMC_FREQ 34%@4266 GR3D_FREQ @[1574,1574,1574] NVENC0_FREQ @1691 VIC off "
    "cpu@58.25C/61.75C tj@66.625C/66.625C gpu@56.937C/66.625C soc012@55.375C/58.781C "
    "VDD_GPU 37939mW/8660mW/37939mW VDD_CPU_SOC_MSS 30059mW/12281mW/30059mW "
    "VIN_SYS_5V0 15486mW/7424mW/15486mW VIN 124486mW/36487mW/124486mW"
)
NANO = (
    "RAM 613/3964MB (lfb 634x4MB) SWAP 0/1982MB (cached 0MB) CPU [2%@102,1%@102,0%@102,0%@102] "
    "EMC_FREQ 0% GR3D_FREQ 0% PLL@39C CPU@40.5C PMIC@100C GPU@41C AO@46C thermal@41C "
    "POM_5V_IN 900/943 POM_5V_GPU 0/0 POM_5V_CPU 123/123"
)


@pytest.mark.parametrize(
    ("line", "ram", "gpu", "heat", "total"),
    [
        (ORIN_NANO, [6712, 7620], (99, [612]), ("tj", 58.312), 16321),
        (AGX_ORIN, [13983, 62780], (14, [407, 407]), ("tj", 77.281), 3150 + 14312 + 4968),
        (AGX_XAVIER, [4181, 31919], (0, [114]), ("GPU", 35.0), 467 + 467 + 1245 + 311 + 2768),
        (
            *(AGX_XAVIER_BARE, [10881, 31919], (95, [1377]), ("GPU", 54.5)),
            18401 + 2301 + 4602 + 2914 + 4632,
        ),
        (THOR, [8353, 125749], (None, [1574, 1574, 1574]), ("tj", 66.625), 124486),
        (NANO, [613, 3964], (0, None), ("GPU", 41.0), 900),
    ],
    ids=["orin nano", "agx orin", "agx xavier", "agx xavier, bare", "thor", "nano"],
)
def test_tegrastats_of_every_generation_is_read(
    line: str,
    ram: list[int],
    gpu: tuple[int | None, list[int] | None],
    heat: tuple[str, float],
    total: int,
) -> None:
    found = tegrastats_line(line)
    assert found["ram_mb"] == ram
    assert (found["gpu_percent"], found["gpu_mhz"]) == gpu
    assert found["celsius"][heat[0]] == heat[1]
    assert found["total_milliwatts"] == total


def test_tegrastats_takes_the_power_of_now_and_not_the_average() -> None:
    rails = tegrastats_line(ORIN_NANO)["milliwatts"]
    assert rails == {"VDD_IN": 16321, "VDD_CPU_GPU_CV": 7104, "VDD_SOC": 3120}


def test_a_sensor_that_is_switched_off_is_left_out() -> None:
    assert "CV0" not in tegrastats_line(AGX_ORIN)["celsius"]


def test_a_line_without_anything_known_gives_nothing() -> None:
    assert tegrastats_line("Unknown argument: --interval") == {
        **{"ram_mb": None, "gpu_percent": None, "gpu_mhz": None},
        **{"celsius": {}, "milliwatts": {}, "total_milliwatts": None},
    }
    partly_off = tegrastats_line("GR3D_FREQ @[300,off,600] EMC_FREQ 0%")
    assert (partly_off["gpu_percent"], partly_off["gpu_mhz"]) == (None, [300, 600])


def test_what_feeds_the_others_is_not_added_to_them() -> None:
    assert total_power({"VDD_IN": 10.0, "VDD_SOC": 4.0}) == 10.0
    assert total_power({"VDD_GPU_SOC": 3.0, "VIN_SYS_5V0": 4.0, "VDDQ_VDD2_1V8AO": 1.0}) == 7.0
    assert total_power({}) is None


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("NV Power Mode: 25W\n1\n", "25W"),  # Orin Nano
        ("NV Power Mode: MAXN\n0\n", "MAXN"),  # AGX Orin
        ("NV Power Mode: 120W\n1\n", "120W"),  # Thor
        ("NV Fan Mode:quiet\nNV Power Mode: MODE_15W_6CORE\n2\n", "MODE_15W_6CORE"),  # Xavier NX
        ("NV Fan Mode:cool\nNV Power Mode: MODE_30W_4CORE\n5\n", "MODE_30W_4CORE"),  # AGX Xavier
        ("NVPM VERB: Current mode: NV Power Mode: 25W\n1\n", "25W"),
        ("NV Power Mode\n", None),
        ("", None),
    ],
)
def test_the_power_mode_is_read_from_what_nvpmodel_prints(text: str, mode: str | None) -> None:
    assert nvpmodel(text) == mode


ORIN = {
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.4, GCID: 41062509, BOARD: generic, "
    "EABI: aarch64, DATE: Mon Jun 16 16:07:13 UTC 2025\n",
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit\0",
    "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0",
    "proc/device-tree/serial-number": "1424223012345\0",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq": "729600",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "1510400",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_min_freq": "729600",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_max_freq": "1510400",
    "sys/class/devfreq/17000000.gpu/min_freq": "624750000",
    "sys/class/devfreq/17000000.gpu/max_freq": "624750000",
    "sys/class/hwmon/hwmon0/name": "soctherm_oc",
    "sys/class/hwmon/hwmon0/oc1_event_cnt": "2",
    "sys/class/hwmon/hwmon0/oc3_event_cnt": "5",
}


def test_a_jetson_is_described_by_board_release_and_clocks(tmp_path: Path) -> None:
    found = machine(root=grow(tmp_path, ORIN))
    assert found["board"] == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit"
    assert found["l4t"] == "R36.4.4"
    assert found["clocks"] == {
        "cpu": "730 to 1510 MHz",
        "17000000.gpu": "locked at 625 MHz",  # as jetson_clocks leaves it
    }
    assert "1424223012345" not in str(found)


def test_over_current_events_of_a_jetson_count_as_throttling(tmp_path: Path) -> None:
    assert state(root=grow(tmp_path, ORIN))["throttled"] == 7


def test_the_power_mode_is_asked_of_nvpmodel_without_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = (
        "echo NVPM ERROR: no emc >&2; test $# = 1 -a $1 = -q && printf 'NV Power Mode: 25W\\n1\\n'"
    )
    tool = command(tmp_path / "bin" / "nvpmodel", asked)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    stored = {"var/lib/nvpmodel/status": "pmode:0002"}  # as of the last boot, perhaps
    assert power_mode(grow(tmp_path, {**ORIN, **stored})) == "25W"
    assert power_mode(grow(tmp_path, {})) is None  # elsewhere it is not even asked


def test_the_power_mode_is_read_from_files_where_nvpmodel_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    stored = {"var/lib/nvpmodel/status": "pmode:0002 fmode:fanNull"}
    listed = "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n"
    assert (
        power_mode(grow(tmp_path, {**ORIN, **stored, "etc/nvpmodel.conf": listed})) == "MAXN_SUPER"
    )


def test_a_power_mode_without_a_name_is_given_by_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (
        power_mode(grow(tmp_path, {**ORIN, "var/lib/nvpmodel/status": "pmode:0010"})) == "mode 10"
    )
    assert power_mode(grow(tmp_path, ORIN)) is None


def test_thors_release_is_read(tmp_path: Path) -> None:
    line = "# R38 (release), REVISION: 2.2, GCID: 42205042, BOARD: generic, EABI: aarch64\n"
    assert l4t(grow(tmp_path, {"etc/nv_tegra_release": line})) == "R38.2.2"


AGX_ORIN_SENSORS = {
    "hwmon3/name": "ina3221",
    **{"hwmon3/in1_label": "VDD_GPU_SOC", "hwmon3/in1_input": "19760", "hwmon3/curr1_input": "160"},
    **{"hwmon3/in2_label": "VDD_CPU_CV", "hwmon3/in2_input": "19760", "hwmon3/curr2_input": "720"},
    **{"hwmon3/in3_label": "VIN_SYS_5V0", "hwmon3/in3_input": "4968", "hwmon3/curr3_input": "1000"},
    **{"hwmon3/in7_label": "sum of shunt voltages", "hwmon3/in7_input": "4"},
    "hwmon4/name": "ina3221",
    **{"hwmon4/in1_label": "NC", "hwmon4/in1_input": "0", "hwmon4/curr1_input": "0"},
    "hwmon4/in2_label": "VDDQ_VDD2_1V8AO",
    **{"hwmon4/in2_input": "4968", "hwmon4/curr2_input": "80"},
    **{"hwmon5/name": "pwmfan", "hwmon5/in1_label": "FAN", "hwmon5/in1_input": "1"},
}


def test_the_sensors_of_an_agx_orin_are_read_in_milliwatts(tmp_path: Path) -> None:
    rails = ina3221(
        grow(tmp_path, {f"sys/class/hwmon/{k}": v for k, v in AGX_ORIN_SENSORS.items()})
    )
    assert rails == pytest.approx(
        {
            **{"VDD_GPU_SOC": 3161.6, "VDD_CPU_CV": 14227.2, "VIN_SYS_5V0": 4968.0},
            **{"NC": 0.0, "VDDQ_VDD2_1V8AO": 397.44},
        }
    )
    assert total_power(rails) == pytest.approx(3161.6 + 14227.2 + 4968.0)


def test_thors_input_has_a_sensor_of_another_kind(tmp_path: Path) -> None:
    files = {
        **{"hwmon2/name": "ina238", "hwmon2/in0_input": "3", "hwmon2/in1_input": "20000"},
        **{"hwmon2/curr1_input": "3000", "hwmon2/power1_input": "60000000"},
        **{"hwmon3/name": "ina3221", "hwmon3/in1_label": "VDD_GPU"},
        **{"hwmon3/in1_input": "20000", "hwmon3/curr1_input": "1000"},
    }
    rails = ina3221(grow(tmp_path, {f"sys/class/hwmon/{k}": v for k, v in files.items()}))
    assert rails == {"VIN": 60000.0, "VDD_GPU": 20000.0}
    assert total_power(rails) == 60000.0


def test_what_cools_a_device_by_slowing_it_is_named_and_its_fan_is_not(tmp_path: Path) -> None:
    files = {
        **{"cooling_device0/type": "pwm-fan", "cooling_device0/cur_state": "3"},
        **{"cooling_device1/type": "cpufreq-cpu0", "cooling_device1/cur_state": "2"},
        **{"cooling_device2/type": "devfreq-17000000.gpu", "cooling_device2/cur_state": "0"},
        **{"cooling_device3/type": "hot-surface-alert", "cooling_device3/cur_state": "1"},
    }
    root = grow(tmp_path, {f"sys/class/thermal/{name}": text for name, text in files.items()})
    assert slowed(root) == ["cooling of cpufreq-cpu0"]
