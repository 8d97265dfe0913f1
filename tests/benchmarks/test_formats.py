"""Findings in the forms that other tools read."""

import json
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune_benchmarks.formats import (
    FAILING,
    INCONCLUSIVE,
    NOTE,
    PASSED,
    REGRESSION,
    STATUSES,
    Finding,
    Point,
    dashboard,
    junit,
    markdown_findings,
    markdown_table,
    markdown_text,
)

ANY_TEXT = st.text(st.characters(), max_size=40)


def finding(status: str = PASSED, name: str = "latency", message: str = "fine") -> Finding:
    return Finding(name=name, group="openvino, batch 1", status=status, message=message)


def parsed(text: str) -> ET.Element:
    return ET.fromstring(text)  # noqa: S314  our own


def test_every_finding_is_one_test_case_of_its_group() -> None:
    root = parsed(junit([finding(), finding(NOTE, "memory")], suite="gate"))
    cases = root.findall("testsuite/testcase")
    assert [(c.get("classname"), c.get("name")) for c in cases] == [
        ("openvino, batch 1", "latency"),
        ("openvino, batch 1", "memory"),
    ]
    assert root.get("tests") == "2"


@pytest.mark.parametrize("status", STATUSES)
def test_only_what_failed_is_a_failure_and_what_is_open_is_skipped(status: str) -> None:
    root = parsed(junit([finding(status, message="why")], suite="gate"))
    assert root.get("failures") == str(int(status in FAILING))
    assert root.get("skipped") == str(int(status == INCONCLUSIVE))
    failure = root.find("testsuite/testcase/failure")
    assert (failure is not None) == (status in FAILING)
    if failure is not None:
        assert (failure.get("message"), failure.get("type")) == ("why", status)


def test_what_is_inconclusive_fails_where_that_is_asked_for() -> None:
    failing = {*FAILING, INCONCLUSIVE}
    root = parsed(junit([finding(INCONCLUSIVE)], suite="gate", failing=failing))
    assert (root.get("failures"), root.get("skipped")) == ("1", "0")


@given(name=ANY_TEXT, message=ANY_TEXT)
def test_junit_is_well_formed_whatever_it_says(name: str, message: str) -> None:
    text = junit([finding(REGRESSION, name, message)], suite=name)
    assert len(parsed(text).findall("testsuite/testcase")) == 1
    text.encode()


def test_a_control_character_becomes_a_mark_and_the_rest_stays() -> None:
    root = parsed(junit([finding(message="a\x1b[31mb\x00c & <d>")], suite="s"))
    assert root.findtext("testsuite/testcase/system-out") == "a\N{REPLACEMENT CHARACTER}[31mb" + (
        "\N{REPLACEMENT CHARACTER}c & <d>"
    )


def test_a_status_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="no status 'failed'"):
        finding("failed")


@given(cell=ANY_TEXT)
def test_no_text_leaves_its_cell_in_markdown(cell: str) -> None:
    text = markdown_table(("a", "b"), [(cell, "x")])
    lines = text.split("\n")
    assert len(lines) == 4
    assert lines[2].replace("\\|", "").count("|") == 3
    assert "<" not in lines[2]


def test_markdown_shows_marks_as_they_are() -> None:
    assert markdown_text("conv_1 *new* [a](b) <b>") == ("conv\\_1 \\*new\\* \\[a\\](b) &lt;b&gt;")


def test_findings_are_listed_in_their_order() -> None:
    text = markdown_findings([finding(name="second"), finding(name="first")])
    assert text.index("second") < text.index("first")


def test_a_dashboard_reads_name_unit_and_value_and_only_what_there_is_beside() -> None:
    points = (
        Point(name="latency", unit="ms", value=1.5),
        Point(name="ratio", unit="ratio", value=0.5, range="0.4 to 0.6", extra="faster"),
    )
    assert json.loads(dashboard(points)) == [
        {"name": "latency", "unit": "ms", "value": 1.5},
        {
            "name": "ratio",
            "unit": "ratio",
            "value": 0.5,
            "range": "0.4 to 0.6",
            "extra": "faster",
        },
    ]


def test_a_number_that_is_none_is_refused_by_the_dashboard() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        dashboard([Point(name="latency", unit="ms", value=float("nan"))])
