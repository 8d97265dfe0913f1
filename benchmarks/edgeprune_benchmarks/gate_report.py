"""From findings to one verdict and one exit code.

Whatever is not judged is said. Invariant: exit code 0 means that every check that was
asked for was made and passed, or that someone accepted inconclusive ones by an option.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from edgeprune_benchmarks.formats import (
    ACCURACY,
    FAILING,
    INCONCLUSIVE,
    INTEGRITY,
    NOTE,
    PASSED,
    REGRESSION,
    Finding,
)
from edgeprune_benchmarks.statistics import Ratio

FORMAT: Final = "edgeprune-gate"
SCHEMA_VERSION: Final = 1
EXIT_CODES: Final[Mapping[str, int]] = {  # the first that occurs decides
    INTEGRITY: 5,
    ACCURACY: 4,
    REGRESSION: 1,
    INCONCLUSIVE: 3,
}
ORDER: Final = (*EXIT_CODES, NOTE, PASSED)
WORDS: Final[Mapping[str, str]] = {
    INTEGRITY: "failed: files are not what they should be",
    ACCURACY: "failed: accuracy fell",
    REGRESSION: "failed: a regression",
    INCONCLUSIVE: "inconclusive: not everything could be judged",
    PASSED: "passed",
}


@dataclass(frozen=True, kw_only=True)
class Timing:
    """The measurement of latency in short."""

    limit: float
    first: Ratio
    second: Ratio | None
    noise_floor: float
    tainted: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """What a gate found.

    Attributes:
        format, schema_version: ``FORMAT`` and ``SCHEMA_VERSION``.
        created: UTC, ISO 8601; the only field that differs between equal runs.
        candidate: what was judged; its name, no path.
        verdict: a status, the worst of the findings.
        exit_code: what follows from it.
        accepted: whether inconclusive findings were accepted.
        findings: every check, in the order in which they were made.
        timing: of the latency, where it was measured.
    """

    format: str = FORMAT
    schema_version: int = SCHEMA_VERSION
    created: str
    candidate: str
    verdict: str
    exit_code: int
    accepted: bool
    findings: tuple[Finding, ...]
    timing: Timing | None = None

    @property
    def failing(self) -> frozenset[str]:
        """Statuses that count as failures."""
        return FAILING if self.accepted else FAILING | {INCONCLUSIVE}

    @property
    def line(self) -> str:
        """The verdict in one line."""
        counts = Counter(finding.status for finding in self.findings)
        parts = ", ".join(f"{counts[status]} {status}" for status in ORDER if counts[status])
        if counts.keys() <= {NOTE}:
            return f"gate judged nothing: {parts or 'no checks'}"
        accepted = " (accepted)" if self.verdict == INCONCLUSIVE and self.accepted else ""
        return f"gate {WORDS[self.verdict]}{accepted}: {parts}"


def make_report(
    findings: Sequence[Finding],
    *,
    candidate: str,
    created: str,
    accept: bool = False,
    timing: Timing | None = None,
) -> GateReport:
    """Draw the conclusion. accept: inconclusive findings do not fail."""
    seen = {finding.status for finding in findings}
    verdict = next((status for status in EXIT_CODES if status in seen), PASSED)
    accepted = accept and verdict == INCONCLUSIVE
    return GateReport(
        created=created,
        candidate=candidate,
        verdict=verdict,
        exit_code=0 if accepted else EXIT_CODES.get(verdict, 0),
        accepted=accept,
        findings=tuple(findings),
        timing=timing,
    )


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Sort by status; the order among equals stays."""
    return sorted(findings, key=lambda finding: ORDER.index(finding.status))
