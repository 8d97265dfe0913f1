import os
import shutil
import subprocess
from pathlib import Path

import pytest

from edgeprune_benchmarks import device_runner
from edgeprune_benchmarks.device_runner import Gpu, Meter, bus_id, machine, memory, state

GCC = shutil.which("gcc")
SOURCE = Path(__file__).with_name("fake_nvml.c")

pytestmark = pytest.mark.skipif(GCC is None, reason="no gcc for a stand-in of NVML")


def built(folder: Path, *words: str) -> str:
    """Build a library with NVML's symbols, so that the calls cross into C as they would."""
    target = folder / "libnvidia-ml.so.1"
    subprocess.run([GCC or "", "-shared", "-fPIC", *words, "-o", target, SOURCE], check=True)
    return str(target)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    return built(tmp_path_factory.mktemp("nvml"))


def test_a_gpu_is_named_with_its_memory_and_driver(library: str) -> None:
    found = machine(Gpu(library=library))
    assert (found["gpu"], found["gpu_memory_bytes"]) == ("NVIDIA H200", 150 << 30)
    assert found["gpu_driver"] == "570.1"


def test_a_gpus_state_is_told_beside_the_cpus(library: str) -> None:
    found = state(Gpu(0, library))
    assert (found["gpu_mhz"], found["gpu_celsius"]) == (1981, 61)
    assert (found["gpu_capped_ns"], found["gpu_hot_ns"]) == (500, 300)
    assert "gpu_mhz" not in state()


def test_what_slows_a_gpu_is_named_and_having_nothing_to_do_is_not(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Gpu(0, library).slowed() == []  # 1: idle
    monkeypatch.setenv("FAKE_REASONS", "0x24")
    reasons = ["the GPU's power limit", "the GPU's temperature"]
    assert [each for each in state(Gpu(0, library))["slowed"] if "GPU" in each] == reasons


def test_memory_of_this_process_on_the_gpu_is_found_among_others(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_PID", str(os.getpid()))
    found = memory(Gpu(0, library))
    assert (found["gpu_bytes"], found["gpu_reason"]) == (3 << 20, None)
    assert found["peak_bytes"] > 1e6


@pytest.mark.parametrize(
    ("surroundings", "reason"),
    [
        ({}, "does not list this process: in a container it has another number"),
        ({"FAKE_PID": str(os.getpid()), "FAKE_BYTES": str(2**64 - 1)}, "does not tell memory"),
        ({"FAKE_OLD": "1"}, "does not list this GPU's processes"),
        ({"FAKE_INIT": "9"}, "NVML does not start (error 9)"),
        ({"FAKE_HANDLE": "6"}, "NVML has no such GPU (error 6)"),
    ],
)
def test_memory_that_cannot_be_told_has_its_reason(
    library: str, monkeypatch: pytest.MonkeyPatch, surroundings: dict[str, str], reason: str
) -> None:
    for name, value in surroundings.items():
        monkeypatch.setenv(name, value)
    held, why = Gpu(0, library).held()
    assert held is None
    assert why is not None
    assert reason in why


def test_an_older_gpu_leaves_single_answers_out(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_OLD", "1")
    found = Gpu(0, library).doing()
    assert (found["gpu_mhz"], found["gpu_capped_ns"], found["gpu_hot_ns"]) == (1981, None, None)


def test_an_older_driver_has_other_names_and_lists_no_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu(0, built(tmp_path, "-DOLD_DRIVER"))
    monkeypatch.setenv("FAKE_REASONS", "0x80")
    assert gpu.slowed() == ["the GPU's power brake"]
    assert gpu.held() == (None, "this driver's NVML does not list processes (before 510)")


def test_a_device_without_nvidias_driver_says_so_once() -> None:
    gpu = Gpu(0, "libno-such-library.so.1")
    assert gpu.reason == "there is no NVIDIA driver (libno-such-library.so.1) here"
    assert gpu.held() == (None, gpu.reason)
    assert gpu.about() == {"gpu": None, "gpu_memory_bytes": None, "gpu_driver": None}
    assert gpu.slowed() == []
    assert set(gpu.doing().values()) == {None}


def test_among_several_gpus_cudas_number_decides(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_COUNT", "2")
    assert bus_id(1, library) == b"0000:65:00.0"
    assert bus_id(2, library) is None
    monkeypatch.setattr(device_runner, "bus_id", lambda index: bus_id(index, library))
    assert Gpu(1, library).about()["gpu"] == "NVIDIA L4"  # found by its place on the bus
    assert Gpu(0, library).reason == "NVML has no such GPU (error 6)"
    assert Gpu(2, library).reason == "CUDA does not tell which of 2 GPUs it uses"
    assert Gpu(None, library).about()["gpu"] == "NVIDIA H200"  # no CUDA needed just to name it


def test_a_gpus_energy_is_counted_from_the_first_question(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = Meter(Gpu(0, library), root=str(tmp_path))
    first, second = meter.read(), meter.read()
    assert first["source"] == "nvml"
    assert second["joules"] - first["joules"] == pytest.approx(1.5)
    assert second["at_ns"] > first["at_ns"]
    assert first["reason"] == "the whole GPU, all processes"
    monkeypatch.setenv("FAKE_OLD", "1")
    silent = Meter(Gpu(0, library), root=str(tmp_path)).read()
    assert (silent["source"], silent["joules"]) == (None, None)
    assert silent["reason"] == "this GPU does not count its energy (Volta and later do)"
