"""Find the operators without which float16 logits are too far from float32 ones.

Kinds of operators are tried before single ones: there are few of them, and the
rounding of one kind, as Softmax, costs much the same at every depth. What the
best kinds leave room for goes back to float16, least local error first.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from edgeprune.progress import Reporter
from edgeprune_exporters.half_graph import halve
from edgeprune_exporters.half_local import local_errors
from edgeprune_exporters.half_neighbours import HEAVY, QUANTISERS, settle
from edgeprune_exporters.half_rounding import rounding
from edgeprune_exporters.half_types import key, slots
from edgeprune_exporters.half_values import difference, observe
from edgeprune_exporters.parity import Array

# Of the largest logit: rounding alone cost eleven architectures 0.0007 to 0.016.
TOLERANCE: Final = 0.02
# A value that is rounded to float16 can end on the next step of int8: 0.01 to 0.04 were measured.
QUANTISED_TOLERANCE: Final = 0.1
GAIN: Final = 0.9  # a kind that leaves more of the error than this is not what causes it


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """A typed float32 graph with batches (B, C, H, W) and its own logits for them.

    Attributes:
        most: how far the logits may be off, relative to the largest of a batch, where
            that is less than ours.
    """

    model: ir.Model
    opset: int
    images: Sequence[Array]
    logits: Sequence[Array]
    most: float | None = None

    @property
    def tolerance(self) -> float:
        """How far the logits may be off, relative to the largest of a batch."""
        quantised = any(node.op_type in QUANTISERS for node in self.model.graph)
        own = QUANTISED_TOLERANCE if quantised else TOLERANCE
        return own if self.most is None else min(own, self.most)

    def error(self, single: Collection[str]) -> float:
        """Return how far the logits are off with these operators in float32, the rest not."""
        seen = observe(rounding(halve(self.model, single)), self.images)
        return difference(seen.logits, self.logits)

    def settled(self, single: Mapping[str, str]) -> dict[str, str]:
        """Return the operators in float32 with those that follow."""
        return settle(self.model, self.opset, dict(single))


def search(trial: Trial, found: Mapping[str, str], reporter: Reporter) -> dict[str, str]:
    """Return the operators that stay in float32, by ``key``, each with its reason.

    Args:
        trial: the graph, and how it is measured.
        found: those that have to, settled; every logit is finite with them.
        reporter: hears how long it goes on.
    """
    error = trial.error(found)
    if error <= trial.tolerance:
        return dict(found)
    added: dict[str, str] = {}
    with reporter.track("what each kind of operator costs in float16", None) as advance:
        while error > trial.tolerance and (kinds := _kinds(trial, {**found, **added})):
            kind, after = _best_kind(trial, {**found, **added}, kinds, error)
            added |= dict.fromkeys(
                _of(trial, {**found, **added}, kind), _reason(kind, error, after)
            )
            error = after
            advance(len(added), f"{error:.1e}")
    return trial.settled(_fewest(trial, found, added))


def _best_kind(
    trial: Trial, found: Mapping[str, str], kinds: Collection[str], error: float
) -> tuple[str, float]:
    """Return the kind whose operators help most in float32, and the error it leaves.

    Convolutions and products of matrices are asked last: they are what float16 is for.
    """
    left: dict[str, float] = {}
    for heavy in (False, True):
        for kind in sorted(each for each in kinds if (each in HEAVY) == heavy):
            more = dict.fromkeys(_of(trial, found, kind), kind)
            left[kind] = trial.error(trial.settled({**found, **more}))
        best = min(left, key=left.__getitem__, default="")
        if best and left[best] <= GAIN * error:
            break
    return best, left[best]


def _kinds(trial: Trial, found: Collection[str]) -> set[str]:
    return {node.op_type for node in trial.model.graph if _is_candidate(trial, node, found)}


def _is_candidate(trial: Trial, node: ir.Node, found: Collection[str]) -> bool:
    """Say whether a node gives float16, and is no scale that follows its neighbours."""
    return (
        key(node) not in found
        and node.op_type not in QUANTISERS
        and bool(slots(node, trial.opset).outputs)
    )


def _of(trial: Trial, found: Collection[str], kind: str) -> list[str]:
    """Return the operators of a kind, and the light ones that they read.

    An operator that takes the difference of large values is no better in float32
    while these come in float16.
    """
    nodes: dict[str, None] = {}
    for node in trial.model.graph:
        if node.op_type == kind and _is_candidate(trial, node, found):
            sources = [value.producer() for value in node.inputs if value is not None]
            light = [each for each in sources if each is not None and each.op_type not in HEAVY]
            nodes |= {
                key(each): None for each in (node, *light) if _is_candidate(trial, each, found)
            }
    return list(nodes)


def _fewest(trial: Trial, found: Mapping[str, str], added: Mapping[str, str]) -> dict[str, str]:
    """Return ``found`` with those that are needed, of largest local error first."""
    local = local_errors(trial.model, trial.images, added)
    order = sorted(added, key=lambda name: (-local[name], name))

    def first(count: int) -> dict[str, str]:
        return {**found, **{name: added[name] for name in order[:count]}}

    low, high = 0, len(order)  # with `high` of them the tolerance holds, with `low` it does not
    while high - low > 1:
        middle = (low + high) // 2
        if trial.error(trial.settled(first(middle))) <= trial.tolerance:
            high = middle
        else:
            low = middle
    return first(high)


def _reason(kind: str, before: float, after: float) -> str:
    return (
        f"with each {kind} and what it reads in float16 the logits are {before:.1e} off, in "
        f"float32 {after:.1e}"
    )
