import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from edgeprune.report import build_report
from edgeprune.report.circumstances import how_measured, machine_facts
from edgeprune.report.document import Document
from edgeprune.report.formats import THIN, joules

from .synthetic_bundle import write_bundle


@pytest.fixture
def record(tmp_path: Path) -> dict[str, Any]:
    return dict(json.loads((write_bundle(tmp_path, examples=1) / "record.json").read_text()))


def facts(record: dict[str, Any]) -> dict[str, str]:
    found = dict(how_measured(Document(value=record)))
    return {label: text.replace(THIN, " ") for label, text in found.items()}


def runs(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [run for side in ("dense", "slim") for run in record["comparison"][side]["runs"]]


def test_the_page_shows_what_came_before_the_first_block_and_what_was_not_measured(
    tmp_path: Path,
) -> None:
    page = build_report(write_bundle(tmp_path, examples=1)).read_text(encoding="utf-8")
    text = re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", page))).replace(THIN, " ")
    assert "Time to load dense 748 ms, slim 413 ms" in text
    assert "First inference dense 166 ms, slim 91.8 ms" in text
    assert "Energy of an inference not measured: the energy counters are for root only" in text


def test_energy_is_shown_above_rest_with_what_it_covers(record: dict[str, Any]) -> None:
    for run in runs(record):
        run["energy"] = {
            "joules": 30.0, "idle_watts": 5.0, "inferences": 10, "seconds": 2.0, "source": "rapl",
        }  # fmt: skip
        run["energy_reason"] = "the CPU packages, all processes"
    shown = facts(record)["Energy of an inference"]
    assert shown == "dense 2.00 J, slim 2.00 J (the CPU packages, all processes)"


def test_gpu_memory_and_idle_gaps_are_shown_where_there_are_any(record: dict[str, Any]) -> None:
    assert {"GPU memory", "Device that ran", "Idle before every inference"}.isdisjoint(
        facts(record)
    )
    for run in runs(record):
        run |= {"gpu_bytes": 3 * 10**8, "device": "cuda:0"}
    record["comparison"]["settings"]["idle_seconds"] = 2.0
    found = facts(record)
    assert found["GPU memory"] == "dense 300 MB, slim 300 MB"
    assert found["Device that ran"] == "cuda:0"
    assert found["Idle before every inference"] == "2 s"


def test_a_noise_floor_that_nobody_measured_says_how_to(record: dict[str, Any]) -> None:
    assert facts(record)["Noise floor"] == "1.2 %, found between equal models on this machine"
    record["noise_floor"] = None
    assert facts(record)["Noise floor"] == "not measured: edgeprune bench --aa finds it"


def test_a_board_and_its_power_mode_are_named(record: dict[str, Any]) -> None:
    machine = record["comparison"]["machine"] | {"board": "Orin Nano", "power_mode": "25W"}
    found = dict(machine_facts(Document(value=record["comparison"] | {"machine": machine})))
    assert (found["Board"], found["Power mode"]) == ("Orin Nano", "25W")


def test_a_record_without_a_comparison_has_no_facts() -> None:
    assert how_measured(Document(value={})) == ()


@pytest.mark.parametrize(
    ("value", "text"), [(None, "not measured"), (0.042, "42.0 mJ"), (1.5, "1.50 J")]
)
def test_energy_is_written_in_the_unit_that_fits(value: float | None, text: str) -> None:
    assert joules(value).replace(THIN, " ") == text
