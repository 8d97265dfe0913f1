import getpass
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeprune.errors import MeasureError
from edgeprune_benchmarks.codec import decode, encode
from edgeprune_benchmarks.harness import MeasureSettings, Subject, compare
from edgeprune_benchmarks.machine import Conditions, conditions, taints
from edgeprune_benchmarks.metrics import classification_metrics, paired_difference
from edgeprune_benchmarks.record import (
    Counts,
    CutResult,
    Evidence,
    Record,
    comparable,
    make_record,
    read_record,
    write_record,
)
from edgeprune_benchmarks.statistics import latency_ratio

from .conftest import Tiny, images

THEN = "2026-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def record(tiny: Tiny) -> Record:
    settings = MeasureSettings(
        rounds=2, blocks=2, block_seconds=0.01, warmup_seconds=0.02, warmup_limit=0.2
    )
    dense, slim = Subject(name="dense", artifact=tiny.onnx), Subject(name="slim", artifact=tiny.ir)
    logits, labels = tiny.expected(images(6)), np.array([0, 1, 2, 3, 0, 1])
    metrics = classification_metrics(logits, labels, ("a", "b", "c", "d"))
    known = Evidence(metrics=metrics, counts=Counts(params=12, macs=780))
    return make_record(
        compare(dense, slim, images(2), settings),
        created=THEN,
        dense=known,
        slim=known,
        difference=paired_difference(logits, logits, labels),
        cut=CutResult(max_rel=3e-7, ok=True, units_removed=5, units_total=10),
    )


def strings(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for entry in value:
            yield from strings(entry)
    if isinstance(value, str):
        yield value


def test_a_record_is_read_back_equal(record: Record, tmp_path: Path) -> None:
    write_record(record, tmp_path / "record.json")
    assert read_record(tmp_path / "record.json") == record
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_the_results_block_has_the_shape_that_bundles_share(record: Record) -> None:
    results = json.loads(json.dumps(encode(record.results)))
    sides = ["accuracy", "auroc", "params", "macs", "bytes", "latency_ms", "peak_memory_mb"]
    assert list(results) == ["dense", "slim", "latency_ratio", "cut"]
    assert list(results["dense"]) == list(results["slim"]) == sides
    assert list(results["latency_ratio"]) == ["value", "low", "high", "verdict"]
    assert list(results["cut"]) == ["max_rel", "ok", "units_removed", "units_total"]
    assert (results["dense"]["params"], results["slim"]["macs"]) == (12, 780)


def test_the_headline_follows_from_the_raw_samples(record: Record) -> None:
    for side, measured in (("dense", record.comparison.dense), ("slim", record.comparison.slim)):
        medians = [np.median(block) for run in measured.blocks for block in run]
        shown = getattr(record.results, side)
        assert shown.latency_ms == pytest.approx(np.median(medians) / 1e6)
        assert shown.peak_memory_mb == max(run.peak_bytes or 0 for run in measured.runs) / 1e6
    ratio = latency_ratio(record.comparison.dense.blocks, record.comparison.slim.blocks)
    assert record.results.latency_ratio == ratio


def test_a_record_names_no_host_no_user_and_no_folder(
    record: Record, tiny: Tiny, tmp_path: Path
) -> None:
    write_record(record, tmp_path / "record.json")
    found = list(strings(json.loads((tmp_path / "record.json").read_text())))
    private = {socket.gethostname(), getpass.getuser(), str(Path.home()), str(tiny.onnx.parent)}
    assert "tiny.onnx" in found
    for text in found:
        assert not any(Path(word).is_absolute() for word in text.split()), text
        assert text not in private


def test_only_the_timestamp_differs_between_equal_records(record: Record) -> None:
    later = make_record(
        record.comparison,
        created="2027-01-01T00:00:00Z",
        dense=record.dense,
        slim=record.slim,
        difference=record.difference,
        cut=record.results.cut,
    )
    assert later != record
    assert replace(later, created=THEN) == record


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 99}, "schema version 99; .* reads version 2: upgrade edgeprune"),
        ({"schema_version": 1}, "schema version 1; .*: measure again"),
        ({"schema_version": "one"}, "schema_version 'one' is no number"),
        ({"schema_version": None}, "not a record: it has no schema_version"),
        ({"created": 5}, "damaged: record.created is '5', not str"),
        ({"results": {}}, "damaged: record.results lacks dense, slim, latency_ratio"),
        ({"mood": "good"}, "damaged: record has fields that are not known: mood"),
    ],
)
def test_a_record_that_cannot_be_understood_is_refused(
    record: Record, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "record.json"
    write_record(record, path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(MeasureError, match=message):
        read_record(path)


def test_records_of_one_machine_and_one_way_of_measuring_can_be_compared(record: Record) -> None:
    assert comparable(record, record) is None
    newer = replace(record.comparison.machine, system="Linux 99", versions={})
    assert comparable(record, _with(record, machine=newer)) is None


def test_records_that_cannot_be_compared_say_why(record: Record) -> None:
    now = record.comparison
    slim = now.slim
    for other, reason in (
        (replace(record, schema_version=3), "they have schema versions 2 and 3"),
        (
            _with(record, machine=replace(now.machine, cpu="an abacus")),
            f"they are of different machines (cpu: {now.machine.cpu}, not an abacus)",
        ),
        (
            _with(record, settings=replace(now.settings, threads=2)),
            "they were measured with threads 1 and 2",
        ),
        (
            _with(record, slim=replace(slim, version="0.1")),
            f"they ran in openvino {slim.version} and openvino 0.1",
        ),
    ):
        assert comparable(record, other) == reason


def _with(record: Record, **changes: object) -> Record:
    return replace(record, comparison=replace(record.comparison, **changes))  # type: ignore[arg-type]


def test_half_a_record_is_refused(record: Record, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_record(record, path)
    path.write_text(path.read_text()[:200])
    with pytest.raises(MeasureError, match="cannot be read as a record"):
        read_record(path)


def test_decoding_names_the_place_that_is_wrong(record: Record) -> None:
    value = json.loads(json.dumps(encode(record)))
    value["dense"]["metrics"]["per_class"][1]["n"] = "many"
    with pytest.raises(
        ValueError, match=r"record\.dense\.metrics\.per_class\[1\]\.n is 'many', not int"
    ):
        decode(Record, value)


def _state(
    *, busy: int, steal: int, total: int, process_s: float, throttled: int = 0
) -> dict[str, object]:
    return {
        "id": 1,
        "ok": True,
        "ticks": total,
        "busy_ticks": busy,
        "steal_ticks": steal,
        "tick_s": 0.01,
        "process_s": process_s,
        "load": [0.5, 0.5, 0.5],
        "throttled": throttled,
        "mhz": None,
        "celsius": 40.0,
    }


def test_what_the_runners_used_is_not_blamed_on_others() -> None:
    # 4 CPUs for 10 s: 1800 ticks busy, of which the two runners used 600 + 400
    start = _state(busy=100, steal=0, total=1000, process_s=1.0)
    ends = [
        _state(busy=1900, steal=20, total=5000, process_s=7.0),
        _state(busy=1900, steal=20, total=5000, process_s=5.0, throttled=2),
    ]
    found = conditions([start, start], ends)
    assert found.others == pytest.approx((1800 - 1000) / 4000)
    assert found.steal == pytest.approx(20 / 4000)
    assert found.throttled == 2


def test_a_crowded_or_throttled_machine_taints_and_says_why() -> None:
    quiet = Conditions(
        steal=0.0, others=0.02, throttled=0, load=(9.0, 9.0, 9.0), mhz=None, celsius=None
    )
    assert taints([quiet, quiet]) == ()
    assert taints([quiet, replace(quiet, steal=0.03)]) == (
        "the hypervisor took 3.0% of the CPU time",
    )
    assert taints([replace(quiet, others=0.5)]) == ("other processes used 50% of the CPU time",)
    assert taints([replace(quiet, throttled=3)]) == ("the CPU was throttled 3 times",)
    assert taints([replace(quiet, steal=None, others=None)]) == ()


def test_a_busy_neighbour_is_seen_on_this_machine(tiny: Tiny) -> None:
    subject = Subject(name="tiny", artifact=tiny.onnx)
    settings = MeasureSettings(
        rounds=2, blocks=2, block_seconds=0.2, warmup_seconds=0.02, warmup_limit=0.5
    )
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        found = compare(subject, subject, images(1), settings)
    finally:
        neighbour.kill()
        neighbour.wait()
    others = found.conditions[0].others
    if others is not None:
        assert others > 0.5 / (os.cpu_count() or 1)
