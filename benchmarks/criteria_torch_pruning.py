"""The peer's own criteria, pruned by the peer itself on the same weights and images.

Torch-Pruning removes a share of the channels of each layer (local) or of the
whole network (global); what that leaves of channels and MACs is counted on its
result. The classifier stays, and attention keeps its heads but loses width
within them, as in the peer's own examples for timm.
"""

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from criteria_cases import BATCH, Trained
from criteria_curves import Curve, Point, accuracy, stopped

SCOPES: Final[Mapping[str, bool]] = {"global": True, "local": False}
IMPORTANCES: Final = ("magnitude", "taylor")


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Torch-Pruning with one of its criteria.

    Attributes:
        trained: the network.
        scored: images (N, C, H, W) and labels (N,) that the Taylor criterion looks at.
        importance: ``magnitude`` or ``taylor``.
    """

    trained: Trained
    scored: tuple[Tensor, Tensor]
    importance: str

    def curve(self, scope: str, rates: Sequence[float]) -> tuple[Curve, float]:
        """Prune at each rate; return the curve, and the CPU seconds of the quickest pruning."""
        trained, example = self.trained, self.trained.images[:1]
        points: list[Point] = []
        taken: list[float] = []
        dense = _macs(trained.module, example)
        for rate in rates:
            started = time.process_time()
            model, channels = self.pruned(rate, everywhere=SCOPES[scope])
            taken.append(time.process_time() - started)
            done = stopped([point.accuracy for point in points], trained.chance)
            points.append(
                Point(
                    rate=rate,
                    units=channels,
                    macs=_macs(model, example) / dense,
                    accuracy=None if done else accuracy(model, trained),
                )
            )
        found = accuracy(trained.module, trained)
        return Curve(points=tuple(points), dense=found, chance=trained.chance), min(taken)

    def pruned(self, rate: float, *, everywhere: bool) -> tuple[nn.Module, float]:
        """Return the network without a share of its channels, and the share that is left."""
        model = copy.deepcopy(self.trained.module).eval()
        attentions: list[Any] = [module for module in model.modules() if hasattr(module, "qkv")]
        for attention in attentions:
            attention.fused_attn = False  # the peer follows products, not fused attention
        pruner = self._pruner(model, attentions, rate, everywhere)
        before = _channels(pruner)
        if self.importance == "taylor":
            self._backward(model)
        pruner.step()
        for attention in attentions:
            _reset_widths(attention, pruner.num_heads[attention.qkv])
        return model, _channels(pruner) / before

    def _pruner(
        self, model: nn.Module, attentions: list[Any], rate: float, everywhere: bool
    ) -> Any:  # noqa: ANN401 - the package has no types
        import torch_pruning  # pyright: ignore[reportMissingImports]  # only in the extra for peers

        kinds = torch_pruning.importance
        return torch_pruning.pruner.BasePruner(
            model,
            self.trained.images[:1],
            importance=(
                kinds.GroupTaylorImportance()
                if self.importance == "taylor"
                else kinds.GroupMagnitudeImportance(p=2)
            ),
            global_pruning=everywhere,
            pruning_ratio=rate,
            ignored_layers=[model.get_classifier()],  # type: ignore[operator]  # timm's
            num_heads={attention.qkv: attention.num_heads for attention in attentions},
        )

    def _backward(self, model: nn.Module) -> None:
        """Leave the gradient of the mean loss in the parameters."""
        images, labels = self.scored
        model.zero_grad()
        for shown, true in zip(torch.split(images, BATCH), torch.split(labels, BATCH), strict=True):
            loss = F.cross_entropy(model(shown), true, reduction="sum") / len(images)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it without types


def _reset_widths(attention: Any, heads: int) -> None:  # noqa: ANN401 - timm's, without types
    """Set what attention computes its shapes from to the widths that are left."""
    width = attention.qkv.out_features // 3
    attention.num_heads = heads
    attention.head_dim = width // heads
    attention.attn_dim = width


def _channels(pruner: Any) -> int:  # noqa: ANN401 - the package has no types
    """Count channels, each once however many layers share it."""
    groups = pruner.DG.get_all_groups(
        ignored_layers=pruner.ignored_layers, root_module_types=pruner.root_module_types
    )
    return sum(len(group[0].idxs) for group in groups)


def _macs(model: nn.Module, example: Tensor) -> float:
    """Count multiply-accumulates of contractions, for one image."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(example)
    return float(counter.get_total_flops() / 2)
