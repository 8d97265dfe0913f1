"""Whether a captured graph computes what the model computes."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, fx, nn

from edgeprune.errors import CaptureError
from edgeprune.module import MODULE
from edgeprune.refusals import answer, first_line

EXPORT_TOLERANCE: Final = 1e-4  # relative; the same operators in the same order, so usually 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """The model, and what it answers.

    Attributes:
        model: returns logits, in evaluation mode.
        name: of the model's class, for messages.
        sample: (N, C, H, W).
        logits: for the sample, (N, K).
        again: for the same sample, a second time.
    """

    model: nn.Module
    name: str
    sample: Tensor
    logits: Tensor
    again: Tensor

    def problem(self, graph: fx.GraphModule, *, dynamic_batch: bool, drawn: str) -> str | None:
        """Say how a graph differs from the model, at a batch that was not traced if it may.

        drawn: the operators that drew random numbers when the graph was recorded.

        Raises:
            CaptureError: the model answers differently each time.
        """
        if _difference(self.again, self.logits) > EXPORT_TOLERANCE:
            where = f" ({drawn})" if drawn else ""
            raise CaptureError(
                f"{self.name} gives other logits each time it sees the same images, in evaluation "
                f"mode too{where}: it draws random numbers or counts its calls; make that depend "
                "on self.training"
            )
        if not dynamic_batch:
            return self._differs(graph, self.sample, self.logits)
        # At a batch size that was not traced: one that is baked into the graph shows there.
        rows = torch.arange(max(len(self.sample), 2) + 1) % len(self.sample)
        images = self.sample[rows.to(self.sample.device)]
        try:
            expected = answer(self.model, images, self.name)
        except CaptureError:
            return f"the model itself fails at batch {len(images)}"
        return self._differs(graph, images, expected)

    def _differs(self, graph: fx.GraphModule, images: Tensor, expected: Tensor) -> str | None:
        try:
            with torch.no_grad():
                actual = graph(images)
        except RuntimeError as error:
            return f"the captured graph fails at batch {len(images)}: {first_line(error)}"
        difference = _difference(actual, expected)
        if difference <= EXPORT_TOLERANCE:
            return None
        return (
            f"the captured graph differs from the model by {difference:.1e} relative: the model "
            "computes something that export does not see (a global, a hook, a number of Python)"
        )


def random_operators(graph: fx.Graph) -> str:
    """Name the operators of a graph that draw random numbers in evaluation mode."""
    found: dict[str, None] = {}
    for node in graph.nodes:
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        if torch.Tag.nondeterministic_seeded in node.target.tags and not _off(node):
            module = node.meta.get(MODULE, "")
            name = node.target._schema.name.partition("::")[2]
            found[f"{name} at '{module}'" if module else name] = None
    return ", ".join(found)


def _off(node: fx.Node) -> bool:
    """Say whether an operator that may draw random numbers is told not to."""
    arguments = node.target._schema.arguments  # type: ignore[union-attr]  # an ATen operator
    values = {a.name: a.default_value for a in arguments if a.has_default_value()}
    values |= dict(zip((a.name for a in arguments), node.args, strict=False)) | node.kwargs
    modes = [values.get(name) for name in ("train", "training")]
    shares = [values.get(name) for name in ("p", "dropout", "dropout_p")]
    return False in modes or any(share == 0 for share in shares)


def _difference(actual: Tensor, expected: Tensor) -> float:
    if actual.shape != expected.shape:
        return float("inf")
    scale = expected.abs().max().clamp_min(1e-12)
    return float((actual - expected).abs().max() / scale)
