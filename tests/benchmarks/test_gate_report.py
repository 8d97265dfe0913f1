"""Verdicts, exit codes, and what GitHub is told."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from edgeprune_benchmarks.formats import STATUSES, Finding
from edgeprune_benchmarks.gate_github import annotations, append_summary, markdown, shortened
from edgeprune_benchmarks.gate_report import EXIT_CODES, GateReport, make_report

MIB = 1024 * 1024


def finding(status: str, name: str = "check", message: str = "why") -> Finding:
    return Finding(name=name, group="case", status=status, message=message)


def report(*findings: Finding, accept: bool = False) -> GateReport:
    return make_report(findings, candidate="slim", created="now", accept=accept)


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        (["pass", "note"], 0),
        (["pass", "regression"], 1),
        (["inconclusive", "pass"], 3),
        (["regression", "inconclusive"], 1),
        (["regression", "accuracy", "inconclusive"], 4),
        (STATUSES, 5),
    ],
)
def test_the_worst_finding_decides_the_exit_code(statuses: Sequence[str], code: int) -> None:
    found = report(*map(finding, statuses))
    assert found.exit_code == code
    assert code == EXIT_CODES.get(found.verdict, 0)


@pytest.mark.parametrize(
    ("statuses", "code"), [(["inconclusive"], 0), (["inconclusive", "regression"], 1)]
)
def test_what_is_inconclusive_can_be_accepted_and_nothing_else(
    statuses: list[str], code: int
) -> None:
    assert report(*map(finding, statuses), accept=True).exit_code == code


def test_the_verdict_line_counts_what_was_not_judged() -> None:
    line = report(finding("pass"), finding("note"), finding("inconclusive")).line
    assert line == (
        "gate inconclusive: not everything could be judged: 1 inconclusive, 1 note, 1 pass"
    )


def test_notes_alone_are_no_pass() -> None:
    assert report(finding("note")).line == "gate judged nothing: 1 note"


# --- GitHub ---------------------------------------------------------------------------


def test_annotations_are_escaped_as_workflow_commands() -> None:
    hostile = finding("regression", "a,b:c", "50 % more\n::warning::injected")
    assert list(annotations(report(hostile))) == [
        "::error title=a%2Cb%3Ac%2C case::50 %25 more%0A::warning::injected"
    ]


def test_what_was_accepted_is_a_warning_not_an_error() -> None:
    coarse = finding("inconclusive")
    assert [line[:8] for line in annotations(report(coarse))] == ["::error "]
    assert [line[:10] for line in annotations(report(coarse, accept=True))] == ["::warning "]


def test_no_more_annotations_are_made_than_a_step_may_make() -> None:
    many = [finding("regression", f"check {k}") for k in range(30)]
    assert len(list(annotations(report(*many)))) == 10


def test_markdown_shows_the_worst_first_and_names_as_text() -> None:
    text = markdown(report(finding("pass"), finding("accuracy", "<b>|x")))
    rows = [line for line in text.splitlines() if line.startswith("| case")]
    assert "accuracy" in rows[1]
    assert "&lt;b&gt;\\|x" in rows[1]


@pytest.mark.parametrize("present", [0, 1000, MIB - 500, MIB - 10, MIB, MIB + 10])
def test_a_summary_never_outgrows_its_limit(present: int, tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    path.write_bytes(b"x" * present)
    rows = [finding("regression", f"check {k}", "größer " * 40) for k in range(3500)]
    text = markdown(report(*rows))
    assert len(text.encode()) > MIB
    append_summary(path, text)
    written = path.read_bytes()
    assert len(written) <= max(present, MIB)
    assert written[:present] == b"x" * present
    if present <= 1000:
        assert len(written) > MIB - 1000
        assert b"lines are left out: a job summary holds 1 MiB." in written


def test_a_shortened_text_ends_with_a_whole_line_and_says_how_many_are_missing() -> None:
    text = "".join(f"| row {k} |\n" for k in range(100))
    short = shortened(text, 200)
    assert len(short.encode()) <= 200
    kept = short.count("| row")
    assert short.startswith(text[: len("| row 0 |\n") * min(kept, 10)])
    assert f"\n{100 - kept} lines are left out" in short


def test_a_text_that_fits_stays_as_it_is(tmp_path: Path) -> None:
    append_summary(tmp_path / "new.md", "short\n")
    assert (tmp_path / "new.md").read_text(encoding="utf-8") == "short\n"
