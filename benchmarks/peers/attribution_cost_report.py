"""The tables of what scoring costs, as Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

from edgeprune.files import write_text
from edgeprune_benchmarks.statistics import Ratio
from peers.attribution_cost_methods import METHODS

RESULTS: Final = Path(__file__).parents[1] / "RESULTS.md"
MARKS: Final = (
    "<!-- attribution cost: written by benchmarks/peers/attribution_cost.py -->",
    "<!-- end of attribution cost -->",
)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One method on one model.

    Attributes:
        method: its name.
        ratio: its time over that of a plain forward and backward; None if it failed.
        seconds: pairs of both by round.
        memory: peak memory of a batch in MB, if measured.
        error: why it failed.
    """

    method: str
    ratio: Ratio | None = None
    seconds: Sequence[tuple[float, float]] = ()
    memory: float | None = None
    error: str | None = None

    def row(self) -> str:
        """Return the row of the table."""
        whose = METHODS[self.method].whose
        if self.ratio is None:
            return f"| {whose} | {self.method} | – | – | {_escaped(self.error or '')} |"
        took = median(own for _, own in self.seconds)
        memory = "–" if self.memory is None else f"{self.memory:.0f}"
        return f"| {whose} | {self.method} | {_interval(self.ratio)} | {took:.2f} | {memory} |"


@dataclass(frozen=True, kw_only=True)
class Peer:
    """dl-backtrace on one model, against its own environment's forward and backward.

    Attributes:
        images: how many it was given.
        ratio: its time over theirs; None if it failed.
        error: why it failed.
        versions: of the packages there.
    """

    images: int
    ratio: Ratio | None = None
    error: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    def row(self) -> str:
        """Return the row of the table."""
        name = " with ".join(f"{package} {found}" for package, found in self.versions.items())
        name = f"default mode, {self.images} image(s)" + (f", {name}" if name else "")
        if self.ratio is None:
            return f"| dl-backtrace | {name} | – | – | {_escaped(self.error or '')} |"
        return f"| dl-backtrace | {name} | {_interval(self.ratio)} | – | – |"


def section(
    costs: Mapping[str, Sequence[Cost]], peers: Mapping[str, Peer], command: str, setting: str
) -> str:
    """Return the section; without a command only its tables."""
    lines: list[str] = []
    if command:
        lines += [
            "## Attribution cost",
            "",
            "Scores for all units (ours) or all outputs of convolutions and linear layers (peers) "
            "of the same images. Time is a multiple of a plain forward and backward for the "
            "gradients of all parameters, measured just before it: the median over rounds, with "
            "95 % of the bootstrap. Memory is the peak of one batch above what was held before.",
            "",
            f"`{command}`: {setting}.",
            "",
        ]
    for name, found in costs.items():
        lines += [
            f"**{name}**",
            "",
            "| package | method | × forward and backward [95 %] | seconds | MB, or why it fails |",
            "|---|---|---|---|---|",
            *(cost.row() for cost in found),
            *([peers[name].row()] if name in peers else []),
            "",
        ]
    return "\n".join(lines)


def write_section(text: str) -> None:
    """Put the section between its marks in RESULTS.md, or with them at the end."""
    old = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else "# Results\n"
    before, found, rest = old.partition(MARKS[0])
    after = rest.partition(MARKS[1])[2] if found else "\n"
    write_text(RESULTS, f"{before.rstrip()}\n\n{MARKS[0]}\n{text.rstrip()}\n{MARKS[1]}{after}")


def _interval(ratio: Ratio) -> str:
    return f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def _escaped(text: str) -> str:
    """Return one line that a table can hold."""
    line = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
    return f"{line[:160]}…" if len(line) > 160 else line
