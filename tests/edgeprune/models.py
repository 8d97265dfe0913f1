"""Tiny models, one per structure that the core must understand, and plans for them."""

from collections.abc import Collection
from typing import Final

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeprune.attribution.scores import Scores
from edgeprune.axes import analyse
from edgeprune.capture import Captured
from edgeprune.plan import GroupPlan, Plan, RemovedUnit

SIZE: Final = 12
CLASSES: Final = 5


class Chain(nn.Module):
    """Convolutions one after the other, with bias, BatchNorm, dropout and a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 12, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(12)
        self.hidden = nn.Linear(12 * 9, 16)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x)), inplace=True), 2)
        x = F.adaptive_avg_pool2d(F.hardswish(self.bn2(self.conv2(x))), 3)
        return self.head(self.drop(F.relu(self.hidden(x.flatten(1)))))


class Residual(nn.Module):
    """A residual stream with a bottleneck beside it, added in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.reduce = nn.Conv2d(8, 6, 1)
        self.bn = nn.BatchNorm2d(6)
        self.expand = nn.Conv2d(6, 8, 1)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.expand(F.relu(self.bn(self.reduce(x)), inplace=True))
        y += x
        return self.head(F.relu(y, inplace=True).mean((2, 3)))


class Grouped(nn.Module):
    """Inverted bottleneck with a depthwise, and a convolution in groups of two."""

    def __init__(self) -> None:
        super().__init__()
        self.widen = nn.Conv2d(3, 12, 1)
        self.depthwise = nn.Conv2d(12, 24, 3, groups=12)
        self.mix = nn.Conv2d(24, 16, 3, groups=4)
        self.norm = nn.GroupNorm(4, 16)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.depthwise(F.silu(self.widen(x))))
        return self.head(F.gelu(self.norm(self.mix(x))).mean((2, 3)))


class Concatenated(nn.Module):
    """Features that grow by concatenation, partly re-used, and split again."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(10)
        self.third = nn.Conv2d(10, 8, 1)
        self.head = nn.Linear(8 + 10, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.first(x))
        b = torch.cat([a, self.second(a)], 1)
        c = self.third(F.relu(self.bn(b)))
        left, right = c.chunk(2, 1)
        return self.head(torch.cat([left * right.sigmoid(), right, b], 1).mean((2, 3)))


class SqueezeExcite(nn.Module):
    """Channels scaled by a small network that looks at their means."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 10, 3)
        self.squeeze = nn.Conv2d(10, 4, 1)
        self.excite = nn.Conv2d(4, 10, 1)
        self.slope = nn.PReLU(10)
        self.head = nn.Linear(10, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.slope(self.conv(x))
        gate = self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))).sigmoid()
        return self.head((x * gate).mean((2, 3)))


class Transformer(nn.Module):
    """One block of a ViT: class token, positions, fused qkv, LayerNorm, layer scale, MLP."""

    def __init__(self, width: int = 12, heads: int = 3) -> None:
        super().__init__()
        self.heads = heads
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 10, width))
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.scale = nn.Parameter(torch.rand(width))
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 20)
        self.down = nn.Linear(20, width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        x = x + self.scale * self.attend(self.norm1(x))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(self.norm(x)[:, 0])

    def attend(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        qkv = self.qkv(x).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, c))


class MergedHeads(Transformer):
    """Attention by hand, heads merged into the batch, sizes read off the merged tensors."""

    def attend(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        d = c // self.heads
        parts = self.qkv(x).split(c, 2)
        q, k, v = (p.view(n, t, -1, d).transpose(1, 2).reshape(-1, t, d) for p in parts)
        y = torch.bmm((torch.bmm(q, k.transpose(1, 2)) * d**-0.5).softmax(-1), v)
        y = y.view(y.shape[0] // self.heads, self.heads, t, d)
        return self.proj(y.transpose(1, 2).reshape(n, t, c))


class TokensFirst(Transformer):
    """PyTorch's own attention, which works on (tokens, batch, width)."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 3)

    def attend(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        return self.attention(x, x, x, need_weights=False)[0].transpose(0, 1)


TINY: Final[dict[str, type[nn.Module]]] = {
    model.__name__: model
    for model in (
        Chain, Residual, Grouped, Concatenated, SqueezeExcite,
        Transformer, MergedHeads, TokensFirst,
    )
}  # fmt: skip


def build(name: str, *, seed: int = 0) -> nn.Module:
    """Build a tiny model, or timm's of that name, with weights that hide nothing."""
    torch.manual_seed(seed)
    known = name in TINY
    model = TINY[name]() if known else timm.create_model(name, num_classes=CLASSES)
    disturb(model, seed=seed)
    return model.eval()


def images(count: int, size: int = SIZE, *, seed: int = 1) -> Tensor:
    """Make noise (count, 3, size, size)."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def disturb(model: nn.Module, *, seed: int = 0) -> None:
    """Move what is constant when fresh: scales at 0 or 1, biases, BatchNorm statistics.

    Otherwise whole branches give 0, and a wrong cut could not be told from a right one.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            noise = torch.rand(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(0.5 + noise)
            elif tensor.dim() <= 1 or bool((tensor == tensor.flatten()[0]).all()):
                tensor.add_(0.6 * noise - 0.2)


def random_scores(captured: Captured, *, seed: int = 0) -> Scores:
    """Score units by chance."""
    rng = np.random.default_rng(seed)
    groups = analyse(captured).groups
    return Scores(
        criterion="random", values={g.name: torch.from_numpy(rng.random(g.size)) for g in groups}
    )


def plan_of(captured: Captured, keep: dict[str, Collection[int]]) -> Plan:
    """Keep of some groups the units that are named, of all others everything."""
    return Plan(
        groups=tuple(
            _entry(g.name, g.kind, g.size, sorted(keep.get(g.name, range(g.size))))
            for g in analyse(captured).groups
        ),
        made_from={},
        dense={},
        predicted={},
    )


def random_plan(
    captured: Captured, kind: str = "all", *, share: float = 0.5, seed: int = 0
) -> Plan:
    """Keep a random share of every group of one kind, or of all."""
    rng = np.random.default_rng(seed)
    keep: dict[str, Collection[int]] = {}
    for group in analyse(captured).groups:
        if kind in ("all", group.kind):
            count = max(1, round(share * group.size))
            keep[group.name] = rng.permutation(group.size)[:count].tolist()
    return plan_of(captured, keep)


def _entry(name: str, kind: str, size: int, kept: list[int]) -> GroupPlan:
    removed = tuple(
        RemovedUnit(unit=unit, score=0, rank=1, most=None, reason="by chance")
        for unit in range(size)
        if unit not in kept
    )
    return GroupPlan(name=name, kind=kind, size=size, kept=tuple(kept), removed=removed)
