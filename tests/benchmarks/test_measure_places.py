"""The same harness on another host, with idle gaps, and with an energy counter."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeprune_benchmarks.codec import decode, encode
from edgeprune_benchmarks.harness import MeasureSettings, Subject, compare, predict
from edgeprune_benchmarks.hosts import LocalHost
from edgeprune_benchmarks.measurement import Energy, Run

from .conftest import Tiny, images
from .test_measure_bad_input import BRIEF, changed_runner


class Elsewhere(LocalHost):
    """A host with folders of its own: nothing that is named here is there."""

    name = "elsewhere"

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root
        self.kept: list[str] = []

    def give(self, folder: Path, files: Sequence[Path], *, keep: bool = True) -> str:
        there = self._root / f"given{len(list(self._root.iterdir()))}"
        for path in files:
            (there / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, there / path.relative_to(folder))
            self.kept += [path.name] if keep else []
        return there.as_posix()


@pytest.fixture
def elsewhere(tmp_path: Path) -> Elsewhere:
    return Elsewhere(tmp_path)


def test_on_another_host_everything_runs_from_that_hosts_folders(
    tiny: Tiny, elsewhere: Elsewhere
) -> None:
    subject = Subject(name="slim", artifact=tiny.ir)
    found = compare(subject, subject, images(2), BRIEF, host=elsewhere)
    assert found.slim.files == subject.hashed()
    assert set(found.slim.files) == {"tiny.xml", "tiny.bin"}
    outputs = predict(subject, images(5), BRIEF, host=elsewhere)
    np.testing.assert_allclose(outputs, tiny.expected(images(5)), rtol=1e-4, atol=1e-6)


def test_images_are_never_left_on_another_host(tiny: Tiny, elsewhere: Elsewhere) -> None:
    subject = Subject(name="dense", artifact=tiny.onnx)
    predict(subject, images(3), BRIEF, host=elsewhere)
    compare(subject, subject, images(2), BRIEF, host=elsewhere)
    assert set(elsewhere.kept) == {"tiny.onnx"}


def test_a_duty_cycle_times_the_inference_and_not_the_gap(tiny: Tiny) -> None:
    subject = Subject(name="dense", artifact=tiny.onnx)
    how = replace(BRIEF, idle_seconds=0.03, block_inferences=3, blocks=1)
    found = compare(subject, subject, images(1), how)
    assert found.settings.idle_seconds == 0.03
    for run in (*found.dense.runs, *found.slim.runs):
        assert [len(block) for block in run.blocks_ns] == [3]
        assert np.median(run.blocks_ns) < 0.03e9


COUNTED = """
import pathlib
counter = pathlib.Path({root!r}) / "sys/class/powercap/intel-rapl:0/energy_uj"
block = runner.Runner.block

def counted(self, seconds, iterations, **words):
    found = block(self, seconds, iterations, **words)
    if words.get("settle"):
        ran = len(found["ns"]) + found["settled"]
        counter.write_text(str(int(counter.read_text()) + 250_000 * ran))
    return found

runner.Runner.block = counted
meter = runner.Meter
runner.Meter = lambda gpu: meter(gpu, root={root!r})
"""


def test_an_inference_is_billed_what_it_adds_to_the_energy_counter(
    tiny: Tiny, tmp_path: Path
) -> None:
    zone = tmp_path / "sys" / "class" / "powercap" / "intel-rapl:0"
    zone.mkdir(parents=True)
    for name, text in (
        ("name", "package-0"),
        ("energy_uj", "5"),
        ("max_energy_range_uj", "10" * 9),
    ):
        (zone / name).write_text(text)
    subject = Subject(name="dense", artifact=tiny.onnx)
    how = replace(BRIEF, blocks=2, block_seconds=0.5)
    with changed_runner(tmp_path, COUNTED.format(root=str(tmp_path))) as host:
        found = compare(subject, subject, images(1), how, host=host)
    for side in (found.dense, found.slim):
        assert side.joules == pytest.approx(0.25)
        for run in side.runs:
            assert run.energy is not None
            assert (run.energy.source, run.energy.idle_watts) == ("rapl", 0.0)
            assert run.energy.inferences > sum(len(block) for block in run.blocks_ns)
            assert run.energy_reason == "the CPU packages, all processes"
            assert decode(Run, encode(run)) == run


def test_blocks_too_short_to_count_energy_say_so(tiny: Tiny) -> None:
    subject = Subject(name="dense", artifact=tiny.onnx)
    run = compare(subject, subject, images(1), BRIEF).dense.runs[0]
    assert run.energy is None
    assert run.energy_reason == "2 blocks of 0.01 s are too short: 1 s in all are needed"


def test_what_the_device_takes_at_rest_is_not_billed() -> None:
    energy = Energy(joules=30.0, idle_watts=5.0, inferences=10, seconds=2.0, source="rapl")
    assert energy.joules_per_inference == 2.0


def test_load_and_first_inference_are_told_apart_from_the_rest(tiny: Tiny) -> None:
    subject = Subject(name="dense", artifact=tiny.ir)
    found = compare(subject, subject, images(1), BRIEF).dense
    loads = sorted(run.load_ns for run in found.runs)
    assert loads[0] / 1e6 <= found.load_ms <= loads[-1] / 1e6
    firsts = sorted(run.first_ns for run in found.runs)
    assert firsts[0] / 1e6 <= found.first_ms <= firsts[-1] / 1e6


def test_quick_settings_are_many_short_rounds() -> None:
    quick = MeasureSettings.quick(threads=2, batch=4)
    assert (quick.threads, quick.batch) == (2, 4)
    assert quick.rounds > MeasureSettings().rounds
    assert quick.rounds * quick.blocks * 2 * (quick.block_seconds + quick.settle_seconds) < 6
