"""Baselines: what they hold, and what is made of a candidate that differs."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeprune.errors import MeasureError, UsageError
from edgeprune.files import sha256, write_json
from edgeprune_benchmarks.baseline import (
    Baseline,
    Decided,
    Listed,
    Peak,
    Tolerances,
    baseline_of,
    read_baseline,
    write_baseline,
)
from edgeprune_benchmarks.counts import ArtifactCounts
from edgeprune_benchmarks.formats import Finding
from edgeprune_benchmarks.gate_accuracy import accuracy_findings
from edgeprune_benchmarks.gate_counts import count_findings, memory_finding
from edgeprune_benchmarks.gate_memory import peak_memory
from edgeprune_benchmarks.hosts import LocalHost
from edgeprune_benchmarks.measurement import MeasureSettings, Subject
from edgeprune_benchmarks.noninferiority import non_inferiority

from .conftest import Tiny, images

PEAK = Peak(
    bytes=1000,
    machine="0123456789ab",
    cpu="Synthetic CPU",
    backend="openvino",
    version="1",
    device="cpu",
    threads=1,
    batch=1,
)
DECIDED = Decided.of(
    np.array([[0], [2], [1]]), split="f" * 64, classes=("a", "b", "c"), multi_label=False
)
BASELINE = Baseline(
    artifact="model.onnx",
    backend="onnxruntime",
    files={"model.onnx": Listed(bytes=10_000, sha256="0" * 64)},
    counts=ArtifactCounts(macs=1000, params=500, operators={"Conv": 3, "Relu": 2}),
    peak=PEAK,
    decided=DECIDED,
)


def by_name(before: Baseline, now: Baseline, *, exact: bool = False) -> dict[str, Finding]:
    found = count_findings(before, now, tolerances=before.tolerances, exact=exact)
    return {each.name: each for each in found}


# --- the file -------------------------------------------------------------------------


def test_a_baseline_is_read_back_equal_and_its_bytes_are_always_the_same(tmp_path: Path) -> None:
    for name in ("one.json", "two.json"):
        write_baseline(BASELINE, tmp_path / name)
        assert read_baseline(tmp_path / name) == BASELINE
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_a_baseline_of_an_artifact_lists_every_file_of_it(tiny: Tiny) -> None:
    found = baseline_of(Subject(name="tiny", artifact=tiny.ir))
    assert set(found.files) == {"tiny.xml", "tiny.bin"}
    assert found.bytes == sum(path.stat().st_size for path in tiny.ir.parent.glob("tiny.[xb]*"))
    assert found.counts.params == tiny.weight.size


def recipe(tiny: Tiny, folder: Path) -> Subject:
    """Return a recipe for TensorRT with an engine that was built from it."""
    graph = shutil.copy(tiny.onnx, folder / "model.onnx")
    document = {"onnx": graph.name, "files": {graph.name: sha256(graph)}}
    write_json(folder / "recipe.json", document)
    (folder / "engine.plan").write_bytes(b"of this device")
    return Subject(name="recipe", artifact=folder / "recipe.json", backend="tensorrt")


def test_of_a_recipe_its_graph_counts_and_the_engine_does_not(tiny: Tiny, tmp_path: Path) -> None:
    subject = recipe(tiny, tmp_path)
    found = baseline_of(subject)
    assert set(found.files) == {"model.onnx", "recipe.json"}
    assert found.counts.params == tiny.weight.size
    (tmp_path / "engine.plan").write_bytes(b"of another device")
    assert baseline_of(subject) == found
    assert baseline_of(replace(subject, artifact=tmp_path / "engine.plan")).files == found.files


@pytest.mark.parametrize("damage", ["model.onnx", "recipe.json"])
def test_a_recipe_whose_files_are_not_those_it_lists_is_damaged(
    damage: str, tiny: Tiny, tmp_path: Path
) -> None:
    subject = recipe(tiny, tmp_path)
    (tmp_path / damage).write_bytes(b"{}")
    with pytest.raises(MeasureError, match=damage):
        baseline_of(subject)


@pytest.mark.parametrize(
    "decisions",
    [np.array([[0], [11], [3]]), np.array([[0]])],
)
def test_decisions_about_many_classes_are_read_back(decisions: np.ndarray) -> None:
    names = [str(k) for k in range(12)]
    stored = Decided.of(decisions, split="", classes=names, multi_label=False)
    np.testing.assert_array_equal(stored.decisions(), decisions)


def test_decisions_about_several_findings_are_read_back() -> None:
    decisions = np.array([[0, 1, 1], [0, 0, 0]])
    stored = Decided.of(decisions, split="", classes=("a", "b", "c"), multi_label=True)
    assert stored.calls == "011 000"
    np.testing.assert_array_equal(stored.decisions(), decisions)


@pytest.mark.parametrize("calls", ["0 2", "0 2 3", "0 2 x", "0 2 -1", ""])
def test_decisions_that_were_tampered_with_are_refused(calls: str, tmp_path: Path) -> None:
    damaged = replace(BASELINE, decided=replace(DECIDED, calls=calls))
    write_baseline(damaged, tmp_path / "base.json")
    with pytest.raises(UsageError, match="is damaged"):
        read_baseline(tmp_path / "base.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "<<<<<<< HEAD", '{"format": 1}'])
def test_a_file_that_is_no_baseline_is_refused_with_what_to_do(text: str, tmp_path: Path) -> None:
    (tmp_path / "base.json").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="--update"):
        read_baseline(tmp_path / "base.json")


def test_a_baseline_of_a_newer_edgeprune_asks_for_an_upgrade(tmp_path: Path) -> None:
    write_baseline(replace(BASELINE, schema_version=99), tmp_path / "base.json")
    with pytest.raises(UsageError, match=r"schema version 99.*upgrade edgeprune"):
        read_baseline(tmp_path / "base.json")


# --- counts ---------------------------------------------------------------------------


def test_equal_counts_pass() -> None:
    assert {each.status for each in by_name(BASELINE, BASELINE).values()} == {"pass"}


@pytest.mark.parametrize(
    ("macs", "status"),
    [(1010, "pass"), (1011, "regression"), (999, "note"), (None, "inconclusive")],
)
def test_growth_beyond_the_tolerance_is_a_regression(macs: int | None, status: str) -> None:
    now = replace(BASELINE, counts=replace(BASELINE.counts, macs=macs, reason="no rule"))
    assert by_name(BASELINE, now)["MACs"].status == status


def test_a_count_that_the_baseline_could_not_make_is_a_note() -> None:
    before = replace(BASELINE, counts=replace(BASELINE.counts, macs=None))
    assert by_name(before, BASELINE)["MACs"].status == "note"


def test_operators_that_changed_are_named() -> None:
    changed = replace(BASELINE.counts, operators={"Conv": 3, "Relu": 1, "Transpose": 4})
    found = by_name(BASELINE, replace(BASELINE, counts=changed))["operators"]
    assert found.status == "regression"
    assert "Relu 2 → 1, Transpose 0 → 4" in found.message


@pytest.mark.parametrize(("exact", "status"), [(False, "note"), (True, "integrity")])
def test_other_bytes_are_told_and_with_exact_an_integrity_failure(exact: bool, status: str) -> None:
    now = replace(BASELINE, files={"model.onnx": Listed(bytes=10_000, sha256="1" * 64)})
    assert by_name(BASELINE, now, exact=exact)["files"].status == status


# --- memory ---------------------------------------------------------------------------


def memory(now: Peak | None, *, cross_machine: bool = False) -> Finding:
    return memory_finding(PEAK, now, tolerance=0.05, cross_machine=cross_machine, group="case")


@pytest.mark.parametrize(
    ("peak", "status"), [(1050, "pass"), (1051, "regression"), (950, "pass"), (949, "note")]
)
def test_memory_may_grow_by_its_tolerance(peak: int, status: str) -> None:
    assert memory(replace(PEAK, bytes=peak)).status == status


@pytest.mark.parametrize(
    "change", [{"machine": "else"}, {"threads": 4}, {"batch": 8}, {"backend": "torch"}]
)
def test_memory_seen_under_other_conditions_is_not_compared(change: dict[str, object]) -> None:
    found = memory(replace(PEAK, bytes=9999, **change))  # type: ignore[arg-type]
    assert found.status == "note"
    assert "not compared" in found.message


def test_memory_of_another_machine_can_be_compared_all_the_same() -> None:
    other = replace(PEAK, bytes=9999, machine="else")
    assert memory(other, cross_machine=True).status == "regression"


def test_memory_that_cannot_be_read_is_inconclusive() -> None:
    assert memory(None).status == "inconclusive"


def test_a_newer_runtime_is_named_beside_memory() -> None:
    assert "the runtime went from 1 to 2" in memory(replace(PEAK, version="2")).message


def test_peak_memory_is_that_of_a_process_that_ran_the_artifact(tiny: Tiny) -> None:
    subject = Subject(name="tiny", artifact=tiny.onnx)
    with LocalHost() as host:
        found = peak_memory(subject, images(2), MeasureSettings(), host)
    assert found is not None
    assert 10e6 < found.bytes < 1e9
    assert (found.backend, found.threads, found.batch) == ("onnxruntime", 1, 1)


# --- accuracy -------------------------------------------------------------------------


def accuracy(per_class: int, lost: int) -> dict[str, str]:
    """Return statuses where so many images of the first of two classes got lost."""
    labels = np.repeat([0, 1], [per_class, 500])
    before = labels[:, None]
    after = before.copy()
    after[:lost] = 1
    found = non_inferiority(before, after, labels, ("rare", "usual"), margin=0.05, class_margin=0.1)
    return {each.name: each.status for each in accuracy_findings(found, "set")}


def test_a_class_with_too_few_images_is_named_and_stops_nothing() -> None:
    assert accuracy(10, 0)["sensitivity of rare"] == "note"


def test_a_class_with_too_few_images_is_not_passed_over_when_it_loses_some() -> None:
    assert accuracy(10, 2)["sensitivity of rare"] == "inconclusive"


def test_a_finding_says_its_name_once() -> None:
    labels = np.repeat([0, 1], 200)
    found = non_inferiority(
        labels[:, None], labels[:, None], labels, ("a", "b"), margin=0.05, class_margin=0.1
    )
    for finding in accuracy_findings(found, "set"):
        assert not finding.message.startswith(("accuracy", "sensitivity"))


def test_a_class_that_fell_fails_though_accuracy_as_a_whole_did_not() -> None:
    statuses = accuracy(40, 20)
    assert statuses["sensitivity of rare"] == "accuracy"
    assert statuses["sensitivity of usual"] == "pass"


def test_tolerances_are_part_of_the_file(tmp_path: Path) -> None:
    own = replace(BASELINE, tolerances=Tolerances(growth=0.2, memory=0.3))
    write_baseline(own, tmp_path / "base.json")
    assert read_baseline(tmp_path / "base.json").tolerances == own.tolerances
