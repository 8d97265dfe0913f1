"""Judging what is stored: nothing is run, and so nothing slow is ever proven."""

from dataclasses import replace
from pathlib import Path

import pytest

from edgeprune.errors import UsageError
from edgeprune.pipeline.gate_records import gate_record, is_record
from edgeprune.pipeline.gate_settings import GateSettings
from edgeprune_benchmarks.bench_report import write_report
from edgeprune_benchmarks.record import Counts, Record, write_record

from .bench_report_case import MACHINE, record, report


def statuses(path: Path, **how: object) -> dict[str, str]:
    found = gate_record(GateSettings(candidate=path, **how))  # type: ignore[arg-type]
    return {each.name: each.status for each in found}


def stored(path: Path, *records: Record) -> Path:
    if len(records) == 1:
        write_record(records[0], path)
    else:
        write_report(report(*records), path)
    return path


def slower(found: Record, factor: float) -> Record:
    """Return a record that states another ratio."""
    ratio = replace(
        found.results.latency_ratio, value=factor, low=factor - 0.01, high=factor + 0.01
    )
    return replace(found, results=replace(found.results, latency_ratio=ratio))


def grown(found: Record, macs: int) -> Record:
    side = replace(found.results.slim, macs=macs)
    counts = replace(found.slim, counts=Counts(params=5, macs=macs))
    return replace(found, slim=counts, results=replace(found.results, slim=side))


def test_a_faster_record_passes_and_a_fall_of_accuracy_fails(tmp_path: Path) -> None:
    path = stored(tmp_path / "record.json", record())
    assert statuses(path) == {"latency": "pass", "accuracy": "accuracy"}
    assert statuses(path, max_drop=0.15) == {"latency": "pass", "accuracy": "inconclusive"}
    assert statuses(path, max_drop=0.30) == {"latency": "pass", "accuracy": "pass"}


def test_a_fall_that_may_be_chance_is_inconclusive(tmp_path: Path) -> None:
    found = record()
    assert found.difference is not None
    wide = replace(found.difference, low=-0.3, high=0.05)
    path = stored(tmp_path / "record.json", replace(found, difference=wide))
    assert statuses(path)["accuracy"] == "inconclusive"


def test_a_slower_record_is_inconclusive_for_it_was_measured_once(tmp_path: Path) -> None:
    path = stored(tmp_path / "record.json", slower(record(), 1.5))
    assert statuses(path)["latency"] == "inconclusive"


def test_every_case_of_a_report_is_judged(tmp_path: Path) -> None:
    path = stored(tmp_path / "bench.json", record(), slower(record(batch=8), 1.5))
    found = gate_record(GateSettings(candidate=path))
    latencies = [(each.group, each.status) for each in found if each.name == "latency"]
    assert latencies == [
        ("second, onnxruntime, 1 thread, batch 1", "pass"),
        ("second, onnxruntime, 1 thread, batch 8", "inconclusive"),
    ]


def test_the_record_s_own_noise_floor_counts(tmp_path: Path) -> None:
    path = stored(tmp_path / "record.json", slower(record(noise_floor=0.9), 1.5))
    (found,) = (
        each for each in gate_record(GateSettings(candidate=path)) if each.name == "latency"
    )
    assert "hidden by this machine's noise floor of 90.0%" in found.message


def test_a_record_without_accuracy_says_so(tmp_path: Path) -> None:
    path = stored(tmp_path / "record.json", replace(record(), difference=None))
    assert statuses(path)["accuracy"] == "note"


def test_what_tainted_a_record_is_told(tmp_path: Path) -> None:
    path = stored(tmp_path / "record.json", record(tainted=("it was hot",)))
    assert "while measuring, it was hot" in gate_record(GateSettings(candidate=path))[0].message


def test_counts_of_two_records_are_compared_and_their_times_are_not(tmp_path: Path) -> None:
    before = stored(tmp_path / "before.json", record())
    after = stored(tmp_path / "after.json", slower(grown(record(), 11), 0.9))
    found = statuses(after, against=before)
    assert (found["MACs"], found["parameters"]) == ("regression", "pass")
    assert found["latency of both"] == "note"
    assert statuses(after, against=before, max_growth=0.2)["MACs"] == "pass"


def test_records_of_two_machines_are_refused_unless_asked_for(tmp_path: Path) -> None:
    other = replace(record().comparison, machine=replace(MACHINE, cpu="Another CPU"))
    before = stored(tmp_path / "before.json", replace(record(), comparison=other))
    after = stored(tmp_path / "after.json", record())
    with pytest.raises(UsageError, match=r"different machines.*--allow-cross-machine"):
        statuses(after, against=before)
    assert statuses(after, against=before, cross_machine=True)["MACs"] == "pass"


def test_a_record_of_another_schema_version_is_refused(tmp_path: Path) -> None:
    path = stored(tmp_path / "record.json", replace(record(), schema_version=1))
    with pytest.raises(UsageError, match="schema version 1"):
        statuses(path)


@pytest.mark.parametrize("text", ["", "{}", "[]", "nonsense"])
def test_a_file_that_is_no_record_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"record\.json"):
        statuses(tmp_path / "record.json")


@pytest.mark.parametrize(
    "option",
    [
        *({"baseline": Path("b.json")}, {"data": "images"}, {"aa": True}, {"rounds": 4}),
        *({"runtime": "openvino"}, {"against": Path("model.onnx")}),
    ],
)
def test_what_a_record_cannot_be_asked_is_refused(
    option: dict[str, object], tmp_path: Path
) -> None:
    path = stored(tmp_path / "record.json", record())
    with pytest.raises(UsageError):
        statuses(path, **option)


def test_reports_of_different_cases_are_refused(tmp_path: Path) -> None:
    before = stored(tmp_path / "before.json", record(), record(batch=8))
    after = stored(tmp_path / "after.json", record())
    with pytest.raises(UsageError, match="has 1 records, the other 2"):
        statuses(after, against=before)
    swapped = stored(tmp_path / "swapped.json", record(batch=8), record())
    with pytest.raises(UsageError, match="measured with batch"):
        statuses(swapped, against=before)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("record.json", True), ("bench.json", True), ("recipe.json", False), ("m.onnx", False)],
)
def test_a_recipe_is_an_artifact_and_no_record(name: str, expected: bool) -> None:
    assert is_record(Path(name)) is expected
