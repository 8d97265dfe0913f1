"""The tables and the summary, as Markdown."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from peers.coverage_differences import AGREEMENT, explanation, relative_difference
from peers.coverage_results import Result

Results = Mapping[str, Result]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What one run found.

    Attributes:
        ours: results of edgeprune by family.
        peer: results of Torch-Pruning by family.
        models: the model of each family.
        setting: how the run was made, as a sentence.
    """

    ours: Results
    peer: Results
    models: Mapping[str, str]
    setting: str

    def summary(self) -> str:
        """Return counts, times and memory of both tools."""
        rows = [
            ("captured (torch.export)", lambda r: r.error("capture") is None, None),
            ("smaller, runs, logits of the same shape", lambda r: r.runs, lambda r: r.runs),
            ("cut equals masked: half of all groups, of each kind alone, of the MACs",
             lambda r: r.proven, None),
            ("parameters as predicted", lambda r: r.shrank and r.counted, None),
            ("ONNX Runtime equals torch", lambda r: r.equal_in("onnx"),
             lambda r: r.equal_in("onnx")),
            ("OpenVINO equals torch", lambda r: r.equal_in("openvino"),
             lambda r: r.equal_in("openvino")),
            ("trains one step", lambda r: r.trains, lambda r: r.trains),
            ("**all of these**", lambda r: r.succeeds, lambda r: r.succeeds),
        ]  # fmt: skip
        lines = ["| of " + str(len(self.models)) + " families | edgeprune | Torch-Pruning |"]
        lines.append("|---|---|---|")
        for label, mine, theirs in rows:
            right = _count(self.peer, theirs) if theirs else "–"
            lines.append(f"| {label} | {_count(self.ours, mine)} | {right} |")
        lines += [self._times(), self._memory()]
        return "\n".join(lines)

    def _times(self) -> str:
        return (
            "| seconds for analysis and cut, median (longest) | "
            f"{_median(self.ours)} | {_median(self.peer)} |"
        )

    def _memory(self) -> str:
        return (
            "| peak memory of both, in multiples of the weights, largest from 20 MB of weights | "
            f"{_largest(self.ours)} | {_largest(self.peer)} |"
        )

    def agreement(self) -> str:
        """Return how the parameters kept compare where both tools work, and the exceptions."""
        found = {
            name: difference
            for name in self.models
            if name in self.ours and name in self.peer
            for difference in [relative_difference(self.ours[name], self.peer[name])]
            if difference is not None
        }
        apart = {name: d for name, d in found.items() if abs(d) > AGREEMENT}
        lines = [
            f"Parameters kept at equal ratio agree within {AGREEMENT:.0%} in "
            f"{len(found) - len(apart)} of the {len(found)} families that both can do."
        ]
        if apart:
            lines += [
                "",
                "| family | ours | peer | where the difference lies |",
                "|---|---|---|---|",
            ]
        for name in sorted(apart, key=lambda name: apart[name]):
            ours, peer = self.ours[name], self.peer[name]
            why = explanation(ours, peer)
            lines.append(f"| {name} | {_share(ours)} | {_share(peer)} | {why} |")
        return "\n".join(lines)

    def table(self) -> str:
        """Return one row per family."""
        head = (
            "| family | model | parameters | kept, all kinds | cut = masked | kinds | each kind | "
            "half MACs | "
            "ORT | OpenVINO | trains | capture s | cut s | memory | kept, equal ratio | "
            "peer keeps | peer s | peer |"
        )
        lines = [head, "|" + "---|" * head.count(" |")]
        lines += [self._row(name) for name in self.models]
        return "\n".join(lines)

    def _row(self, name: str) -> str:
        ours, peer = self.ours.get(name), self.peer.get(name)
        cells = [name, self.models[name], *_our_cells(ours), *_peer_cells(peer)]
        return "| " + " | ".join(cells) + " |"

    def failures(self) -> str:
        """List what does not work with edgeprune, with the first reason."""
        lines = [
            f"- {name}: {_why_not(result)}"
            for name, result in self.ours.items()
            if not result.succeeds
        ]
        return "\n".join(lines) or "None."


def _our_cells(result: Result | None) -> list[str]:
    if result is None:
        return ["–"] * 13
    kept = f"{result.facts['kept'] / result.params:.3f}" if "kept" in result.facts else "–"
    return [
        f"{result.params / 1e6:.2f} M",
        kept,
        _error(result.facts.get("max_rel")),
        ", ".join(result.kinds) or "–",
        _error(result.worst_kind),
        _error(result.facts.get("macs_max_rel")),
        _error(result.parity("onnx")),
        _error(result.parity("openvino")),
        "yes" if result.trains else "no",
        f"{result.seconds('capture'):.1f}",
        f"{result.seconds('analyse', 'cut'):.2f}",
        result.memory,
        _share(result),
    ]


def _peer_cells(result: Result | None) -> list[str]:
    if result is None:
        return ["–"] * 3
    outcome = "works" if result.succeeds else _escape(_why_not(result))
    return [_share(result), f"{result.seconds('analyse', 'cut'):.2f}", outcome]


def _why_not(result: Result) -> str:
    """Say what is missing from a success."""
    reason = result.first_error()
    if reason is not None:
        return reason
    if not result.shrank:
        return "no parameter removed"
    if result.facts["tool"] == "edgeprune" and not (result.proven and result.counted):
        return "the cut model is not the masked one"
    return "an artifact differs from torch"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _count(results: Results, holds: Callable[[Result], bool]) -> str:
    return str(sum(holds(result) for result in results.values()))


def _times(results: Results) -> list[float]:
    return [r.seconds("analyse", "cut") for r in results.values() if r.error("cut") is None]


def _median(results: Results) -> str:
    times = _times(results)
    return f"{statistics.median(times):.2f} ({max(times):.1f})" if times else "–"


def _largest(results: Results) -> str:
    ratios: Sequence[float] = [
        r.facts["peak_ratio"]
        for r in results.values()
        if r.memory.endswith("×") and r.error("cut") is None
    ]
    return f"{max(ratios):.1f}" if ratios else "–"


def _share(result: Result) -> str:
    return "–" if result.share is None else f"{result.share:.3f}"


def _error(value: float | None) -> str:
    return "–" if value is None else f"{value:.0e}"
