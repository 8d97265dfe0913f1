"""The forms in which other tools read what was found.

A finding is one statement about one metric of one case, and knows nothing of the
tool that will show it: JUnit XML for whatever collects test results, Markdown for
pull requests, ``customSmallerIsBetter`` for dashboards. Invariant: whatever text a
finding holds, what comes out is well-formed.
"""

import html
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

PASSED: Final = "pass"
NOTE: Final = "note"  # worth knowing, and no reason to fail
REGRESSION: Final = "regression"
ACCURACY: Final = "accuracy"
INTEGRITY: Final = "integrity"
INCONCLUSIVE: Final = "inconclusive"  # could not be told, or could not be measured
STATUSES: Final = (PASSED, NOTE, REGRESSION, ACCURACY, INTEGRITY, INCONCLUSIVE)
FAILING: Final = frozenset({REGRESSION, ACCURACY, INTEGRITY})

# Characters that no XML 1.0 document may hold, not even escaped (section 2.2).
NOT_XML: Final = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
MARKS: Final = re.compile(r"([\\`*_\[\]|~])")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What is said about one metric of one case.

    Attributes:
        name: the metric, as ``latency``.
        group: the case, as ``openvino, 1 thread, batch 1``.
        status: one of ``STATUSES``.
        message: one sentence for people.
        value: the metric, where it is a number.
        unit: of the value and its limit.
        limit: what the value was held against.
        seconds: how long finding it took.
    """

    name: str
    group: str
    status: str
    message: str
    value: float | None = None
    unit: str = ""
    limit: float | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a status that no reader would understand."""
        if self.status not in STATUSES:
            raise ValueError(f"no status '{self.status}': it is one of {', '.join(STATUSES)}")


@dataclass(frozen=True, kw_only=True)
class Point:
    """One number of a dashboard's chart; smaller is better.

    Attributes:
        name: of the chart; the same from run to run.
        unit: as the axis is labelled.
        value: the number.
        range: how certain it is, in words.
        extra: what a tooltip shows.
    """

    name: str
    unit: str
    value: float
    range: str = ""
    extra: str = ""


def junit(findings: Sequence[Finding], *, suite: str, failing: Collection[str] = FAILING) -> str:
    """Return JUnit XML with one test case per finding.

    failing: statuses that are failures. What is inconclusive and not among them is
    skipped, which readers show as neither passed nor failed.
    """
    kinds = [_kind(finding, failing) for finding in findings]
    counts = {
        "tests": str(len(findings)),
        "failures": str(kinds.count("failure")),
        "errors": "0",
        "skipped": str(kinds.count("skipped")),
        "time": f"{sum(finding.seconds for finding in findings):.3f}",
    }
    root = ET.Element("testsuites", {"name": _xml(suite), **counts})
    element = ET.SubElement(root, "testsuite", {"name": _xml(suite), **counts})
    for finding, kind in zip(findings, kinds, strict=True):
        _case(element, finding, kind)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def dashboard(points: Sequence[Point]) -> str:
    """Return ``customSmallerIsBetter`` JSON, as github-action-benchmark documents it.

    Its fields: name, unit, value, and range and extra where there is something to say.
    """
    entries = []
    for point in points:
        entry: dict[str, object] = {"name": point.name, "unit": point.unit, "value": point.value}
        more = {"range": point.range, "extra": point.extra}
        entries.append(entry | {key: text for key, text in more.items() if text})
    return json.dumps(entries, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def markdown_findings(findings: Sequence[Finding]) -> str:
    """Return findings as a Markdown table, in their order."""
    rows = [(f.group, f.name, f.status, f.message) for f in findings]
    return markdown_table(("case", "metric", "result", "why"), rows, left=4)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Return a table; cells are texts, not Markdown, and all but the first ``left`` end right."""
    return "\n".join(_table_lines(head, rows, left)) + "\n"


def markdown_text(text: str) -> str:
    """Return text that Markdown shows as it is, in one line."""
    line = " ".join(NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text).split())
    return html.escape(MARKS.sub(r"\\\1", line), quote=False)


def _table_lines(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> Iterator[str]:
    yield _row(head)
    yield "|" + "|".join("---" if column < left else "---:" for column in range(len(head))) + "|"
    yield from map(_row, rows)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(markdown_text, cells)) + " |"


def _kind(finding: Finding, failing: Collection[str]) -> str:
    if finding.status in failing:
        return "failure"
    return "skipped" if finding.status == INCONCLUSIVE else ""


def _case(suite: ET.Element, finding: Finding, kind: str) -> None:
    words = {"classname": _xml(finding.group), "name": _xml(finding.name)}
    case = ET.SubElement(suite, "testcase", {**words, "time": f"{finding.seconds:.3f}"})
    message = _xml(finding.message)
    if kind:
        named = {"type": finding.status} if kind == "failure" else {}
        ET.SubElement(case, kind, {"message": message, **named}).text = message
    else:
        ET.SubElement(case, "system-out").text = message


def _xml(text: str) -> str:
    return NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
