"""DL-Backtrace neuron by neuron, as its paper tells it, on a small network.

A layer is a list of neurons, each with the contributions that it sums up. All
in float64 and plain loops.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

Array: TypeAlias = NDArray[np.float64]
Place: TypeAlias = tuple[str, tuple[int, ...]]  # which operand, and where in it


@dataclass(frozen=True, kw_only=True)
class Neuron:
    """One value that is a sum.

    Attributes:
        at: where it lies in the result.
        contributions: z by the place it comes from.
        bias: what is added.
    """

    at: tuple[int, ...]
    contributions: Mapping[Place, float]
    bias: float = 0.0


Share: TypeAlias = Callable[[Neuron, tuple[float, ...]], dict[Place, tuple[float, ...]]]


def default(neuron: Neuron, relevance: tuple[float, ...]) -> dict[Place, tuple[float, ...]]:
    """Give P and N their shares, and each contribution its own of them."""
    z = neuron.contributions
    positive = sum(value for value in z.values() if value > 0)
    negative = -sum(value for value in z.values() if value < 0)
    whole = positive + negative + abs(neuron.bias)
    found = {}
    for place, value in z.items():
        total, inside = (positive, value) if value > 0 else (negative, -value)
        found[place] = (inside / total * total / whole * relevance[0] if value else 0.0,)
    return found


def contrast(neuron: Neuron, relevance: tuple[float, ...]) -> dict[Place, tuple[float, ...]]:
    """Give the larger map to those who push the way the neuron went, the other to the rest."""
    z, (plus, minus) = neuron.contributions, relevance
    positive = sum(value for value in z.values() if value > 0)
    negative = -sum(value for value in z.values() if value < 0)
    went_up = positive + neuron.bias - negative > 0
    found = {}
    for place, value in z.items():
        if value == 0:
            found[place] = (0.0, 0.0)
        elif positive == 0 or negative == 0:
            share = abs(value) / (positive + negative)
            found[place] = (share * plus, share * minus)
        else:
            share = value / positive if value > 0 else -value / negative
            pushes = (value > 0) == went_up
            inherits_plus = pushes == (plus > minus)
            found[place] = (share * plus, 0.0) if inherits_plus else (0.0, share * minus)
    return found


def back(
    neurons: list[Neuron], relevance: Array, share: Share, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Array]:
    """Take relevance (maps, …) of a layer's result to its operands."""
    found = {name: np.zeros((len(relevance), *shape)) for name, shape in shapes.items()}
    for neuron in neurons:
        given = tuple(float(one[neuron.at]) for one in relevance)
        for (name, where), part in share(neuron, given).items():
            for number, value in enumerate(part):
                found[name][(number, *where)] += value
    return found


def linear(x: Array, layer: nn.Linear) -> list[Neuron]:
    """Take a linear layer apart; x (features,)."""
    weight, bias = _parameters(layer)
    return [
        Neuron(
            at=(j,),
            contributions={("x", (i,)): weight[j, i] * x[i] for i in range(len(x))},
            bias=bias[j],
        )
        for j in range(len(weight))
    ]


def convolution(x: Array, layer: nn.Conv2d, size: tuple[int, int]) -> list[Neuron]:
    """Take a convolution of stride 1 apart; x (C, H, W), its result (O, *size)."""
    weight, bias = _parameters(layer)
    pad = int(layer.padding[0])
    found = []
    for o, row, column in itertools.product(range(len(weight)), *map(range, size)):
        contributions: dict[Place, float] = {}
        for c, i, j in itertools.product(*map(range, weight.shape[1:])):
            y, z = row + i - pad, column + j - pad
            if 0 <= y < x.shape[1] and 0 <= z < x.shape[2]:
                contributions["x", (c, y, z)] = weight[o, c, i, j] * x[c, y, z]
        found.append(Neuron(at=(o, row, column), contributions=contributions, bias=bias[o]))
    return found


def addition(a: Array, b: Array) -> list[Neuron]:
    """Take a sum of two apart."""
    return [
        Neuron(at=at, contributions={("a", at): a[at], ("b", at): b[at]})
        for at in np.ndindex(a.shape)
    ]


def average(x: Array, kernel: int) -> list[Neuron]:
    """Take an average pooling of stride 1 apart; x (C, H, W)."""
    return [
        Neuron(at=at, contributions={("x", place): x[place] for place in places})
        for at, places in windows(x.shape, kernel, 1)
    ]


def winners(
    x: Array, relevance: Array, places: list[tuple[tuple[int, ...], list[tuple[int, ...]]]]
) -> Array:
    """Give each window's relevance (maps, …) to the places of its largest values."""
    found = np.zeros((len(relevance), *x.shape))
    for at, inside in places:
        best = max(x[place] for place in inside)
        tied = [place for place in inside if x[place] == best]
        for place in tied:
            found[(slice(None), *place)] += relevance[(slice(None), *at)] / len(tied)
    return found


def windows(
    shape: tuple[int, ...], kernel: int, stride: int
) -> list[tuple[tuple[int, ...], list[tuple[int, ...]]]]:
    """List the windows over (C, H, W) by the place of their result."""
    c, h, w = shape
    rows, columns = ((size - kernel) // stride + 1 for size in (h, w))
    return [
        (
            (channel, row, column),
            [
                (channel, row * stride + i, column * stride + j)
                for i, j in itertools.product(range(kernel), repeat=2)
            ],
        )
        for channel, row, column in itertools.product(range(c), range(rows), range(columns))
    ]


class Small(nn.Module):
    """Convolutions with and without bias, a residual sum, both kinds of pooling, a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.widen = nn.Conv2d(4, 3, 3, padding=1)
        self.mix = nn.Conv2d(3, 3, 3, padding=1)
        self.narrow = nn.Conv2d(3, 5, 1, bias=False)
        self.hidden, self.head = nn.Linear(20, 6), nn.Linear(6, 3)

    def values(self, images: Tensor) -> dict[str, Tensor]:
        """Return what each layer reads or gives, by name."""
        found = {"stem": F.relu(self.stem(images))}
        found["widen"] = self.widen(found["stem"])
        found["pool"] = F.max_pool2d(found["widen"], 2)
        found["mix"] = self.mix(found["pool"])
        found["sum"] = found["mix"] + found["pool"]
        found["mean"] = F.avg_pool2d(found["sum"], 2, 1)
        found["narrow"] = self.narrow(found["mean"])
        found["hidden"] = F.relu(self.hidden(found["narrow"].flatten(1)))
        found["logits"] = self.head(found["hidden"])
        return found

    def forward(self, images: Tensor) -> Tensor:
        return self.values(images)["logits"]


def units(model: Small, image: Tensor, start: Array, share: Share) -> dict[str, Array]:
    """Return the relevance of the units of each group of ``Small``, (maps, size).

    Args:
        model: in float64.
        image: (2, 6, 6).
        start: (maps, 3), that of the logits.
        share: the mode.
    """
    with torch.no_grad():
        v = {name: value[0].numpy() for name, value in model.values(image[None]).items()}

    def through(neurons: list[Neuron], relevance: Array, x: Array) -> Array:
        return back(neurons, relevance, share, {"x": x.shape})["x"]

    hidden = through(linear(v["hidden"], model.head), start, v["hidden"])
    flat = v["narrow"].reshape(-1)
    narrow = through(linear(flat, model.hidden), hidden, flat).reshape(-1, *v["narrow"].shape)
    mean = through(convolution(v["mean"], model.narrow, (2, 2)), narrow, v["mean"])
    total = through(average(v["sum"], 2), mean, v["sum"])
    shapes = {"a": v["mix"].shape, "b": v["pool"].shape}
    parts = back(addition(v["mix"], v["pool"]), total, share, shapes)
    mixed = through(convolution(v["pool"], model.mix, (3, 3)), parts["a"], v["pool"])
    pool = parts["b"] + mixed
    widen = winners(v["widen"], pool, windows(v["widen"].shape, 2, 2))
    stem = through(convolution(v["stem"], model.widen, (6, 6)), widen, v["stem"])
    space = (2, 3)
    return {
        "hidden": hidden,
        "narrow": narrow.sum(space),
        "widen": mean.sum(space) + mixed.sum(space),  # who reads the stream
        "stem": stem.sum(space),
    }


def _parameters(layer: nn.Linear | nn.Conv2d) -> tuple[Array, Array]:
    weight = layer.weight.detach().numpy()
    bias = np.zeros(len(weight)) if layer.bias is None else layer.bias.detach().numpy()
    return weight, bias
