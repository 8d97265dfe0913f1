"""A report of bench as tables, Markdown, findings and points; its numbers are made up."""

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from edgeprune.errors import MeasureError
from edgeprune_benchmarks.bench_report import BenchReport, read_report, write_report
from edgeprune_benchmarks.formats import INCONCLUSIVE, PASSED, dashboard, junit
from edgeprune_benchmarks.formats_bench import (
    bench_findings,
    bench_markdown,
    bench_points,
    summary_rows,
)
from edgeprune_benchmarks.formats_rows import (
    case_rows,
    case_sentences,
    milliseconds,
    pair_rows,
    pair_sentences,
)
from edgeprune_benchmarks.noise import NoiseFloor
from edgeprune_benchmarks.record import Record

from .bench_report_case import HOSTILE, one_kind_of_time, record, report


def rows(found: object) -> dict[str, tuple[str, str, str]]:
    return {row.label.strip(): (row.a, row.b, row.change) for row in found}  # type: ignore[attr-defined]


def test_the_ratio_is_bs_time_over_as_with_its_interval_and_verdict() -> None:
    found = rows(case_rows(record()))
    assert found["latency, median"] == ("2.03 ms", "1.02 ms", "0.500")
    low, high = map(float, found["95 % interval"][2].split(" to "))
    assert low <= 0.5 <= high
    assert found["so B is"][2] == "faster"


def test_a_difference_below_the_noise_floor_is_called_not_distinguishable() -> None:
    found = rows(case_rows(record(noise_floor=0.6)))
    assert found["so B is"][2] == "not distinguishable"


def test_a_99th_percentile_of_few_inferences_is_withheld() -> None:
    few, many = record(inferences=20), record(inferences=200)
    assert rows(case_rows(few))["latency, p99"][:2] == ("n < 1000", "n < 1000")
    assert rows(case_rows(many))["latency, p99"][0].endswith(" ms")


def test_accuracy_differs_in_points_and_sizes_in_quotients() -> None:
    found = rows(pair_rows(record()))
    assert found["test accuracy"] == ("80.00 %", "66.67 %", "-13.33 points")
    assert found["MACs"] == ("20", "10", "0.500")


def test_what_neither_has_is_no_row() -> None:
    bare = one_kind_of_time(record(), 10**6)
    assert "test accuracy" not in rows(pair_rows(bare))
    assert "GPU memory" not in rows(case_rows(bare))


def test_the_classes_that_lost_most_are_named_worst_first() -> None:
    (line,) = (line for line in pair_sentences(record()) if line.startswith("classes"))
    assert line == (
        "classes hurt most: class 0 90.00 % → 60.00 % of 10; class 2 70.00 % → 50.00 % of 12"
    )


def test_a_reader_is_told_what_is_missing_and_what_is_doubtful() -> None:
    said = list(case_sentences(record(tainted=("others used 80% of the CPU",))))
    assert "energy: no counter of energy is readable here" in said
    assert "tainted: others used 80% of the CPU" in said
    assert "noise floor that the ratio is held against: 1.0%" in said
    unknown = " ".join(case_sentences(record(noise_floor=None)))
    assert "no noise floor" in unknown
    assert "--aa" in unknown


def test_a_gain_that_is_partly_one_of_precision_says_so() -> None:
    assert any("A runs in f32 and B in f16" in s for s in case_sentences(record(precision="f16")))
    assert not any("precision" in sentence for sentence in case_sentences(record()))


def asked(*, rounds: int = 4, threads: int = 1) -> Record:
    found = record()
    settings = replace(found.comparison.settings, rounds=rounds, threads=threads)
    return replace(found, comparison=replace(found.comparison, settings=settings))


def test_of_two_rounds_it_is_said_that_they_are_too_few() -> None:
    assert any("2 rounds are too few" in line for line in case_sentences(asked(rounds=2)))
    assert not any("too few" in line for line in case_sentences(asked(rounds=4)))


def test_threads_that_have_no_core_are_told() -> None:
    said = "5 threads on 4 cores wait for each other"
    assert said in case_sentences(asked(threads=5))
    assert not any("wait for each other" in line for line in case_sentences(asked(threads=4)))


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_why_gpu_memory_is_not_known_is_said_of_gpus_only(device: str) -> None:
    found = record()
    slim = found.comparison.slim
    runs = tuple(replace(run, device=device, gpu_reason="NVML is not here") for run in slim.runs)
    comparison = replace(found.comparison, slim=replace(slim, runs=runs))
    said = list(case_sentences(replace(found, comparison=comparison)))
    assert ("GPU memory: NVML is not here" in said) == (device == "cuda:0")


def test_markdown_holds_a_line_per_case_and_no_markup_of_names() -> None:
    text = bench_markdown(report(record(), record(batch=8), a=HOSTILE))
    assert "| 1 thread, batch 8 |" in text
    assert "<script>" not in text
    assert "\x00" not in text
    assert len(summary_rows(report(record(), record(batch=8)))) == 2


def test_nothing_that_bench_finds_is_a_failure_and_a_tainted_ratio_is_open() -> None:
    findings = bench_findings(report(record(), record(batch=8, tainted=("crowded",))))
    ratios = [f for f in findings if f.name == "latency ratio"]
    assert [f.status for f in ratios] == [PASSED, INCONCLUSIVE]
    root = ET.fromstring(junit(findings, suite="bench"))  # noqa: S314  our own
    assert root.get("failures") == "0"
    assert root.get("skipped") == "1"


def test_names_of_findings_and_points_are_different_from_each_other() -> None:
    whole = report(record(), record(batch=8))
    findings = [(f.group, f.name) for f in bench_findings(whole)]
    points = [point.name for point in bench_points(whole)]
    assert len(findings) == len(set(findings))
    assert len(points) == len(set(points))


def test_a_dashboards_value_is_the_reports(tmp_path: Path) -> None:
    entries = {e["name"]: e for e in json.loads(dashboard(bench_points(report())))}
    ratio = entries["latency ratio B / A, 1 thread, batch 1"]
    assert ratio["value"] == pytest.approx(0.5)
    assert entries["A: latency, median, 1 thread, batch 1"]["unit"] == "ms"


def noisy() -> BenchReport:
    found = report()
    ratio = found.records[0].results.latency_ratio
    floor = NoiseFloor(
        value=0.02,
        machine="0" * 12,
        backend="onnxruntime",
        device="cpu",
        threads=1,
        batch=1,
        rounds=4,
        ratio=ratio,
        tainted=(),
    )
    return replace(found, noise=(floor,))


def test_a_report_is_read_back_equal(tmp_path: Path) -> None:
    whole = noisy()
    write_report(whole, tmp_path / "bench.json")
    assert read_report(tmp_path / "bench.json") == whole


def test_the_headline_has_every_case_and_no_raw_sample() -> None:
    headline = report(record(), record(batch=8)).headline
    assert [case["batch"] for case in headline["cases"]] == [1, 8]
    assert set(headline["cases"][0]["results"]) == {"dense", "slim", "latency_ratio", "cut"}
    assert "blocks_ns" not in json.dumps(headline)


def test_a_headline_is_not_taken_for_a_report(tmp_path: Path) -> None:
    path = tmp_path / "printed.json"
    path.write_text(json.dumps(report().headline), encoding="utf-8")
    with pytest.raises(MeasureError, match="is not a report of bench"):
        read_report(path)


def test_long_times_and_large_files_are_written_out() -> None:
    assert milliseconds(1463.2) == "1463 ms"
    assert milliseconds(0.12345) == "0.123 ms"


def test_what_a_measurement_against_itself_showed_is_said() -> None:
    ((found, floor),) = noisy().cases
    assert "noise floor, A against itself: 2.0%" in " ".join(case_sentences(found, floor))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "other"}, "its format is not edgeprune-bench"),
        ({"schema_version": 99}, "version 99"),
        ({"records": 3}, "is damaged"),
        ({"surprise": 1}, "fields that are not known"),
    ],
)
def test_a_report_that_cannot_be_understood_is_refused(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    path = tmp_path / "bench.json"
    write_report(report(), path)
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(document | change), encoding="utf-8")
    with pytest.raises(MeasureError, match=said):
        read_report(path)


def test_half_a_report_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bench.json").write_text('{"format": ', encoding="utf-8")
    with pytest.raises(MeasureError, match="cannot be read"):
        read_report(tmp_path / "bench.json")
