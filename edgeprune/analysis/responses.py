"""What the units of a channel group respond to.

A unit's value is taken where it is first read, after bias, normalisation and
activation: that is what the rest of the network sees of it. Its response to an
image is its largest value over all positions, since a small finding fills few
of them; for heads and their dimensions, which hold many values of either sign,
the mean absolute value.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from captum.attr import IntegratedGradients
from scipy.ndimage import gaussian_filter
from torch import Tensor, fx

from edgeprune.axes import ChannelGroup
from edgeprune.axes.op import bind
from edgeprune.errors import ModelError
from edgeprune.gates import Gated, GatedModel, named_arguments
from edgeprune.layout import Layout

AVERAGED: Final = ("heads", "head_dim")
STEPS: Final = 24  # of the path that integrated gradients take
BLUR: Final = 1 / 64  # of the image's height: joins pixels into places, and no more


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Where the values of a group are seen.

    Attributes:
        group: the channel group.
        node: the operator that reads them.
        gated: its operand and dimension.
        layout: how images lie in the operand.
        owners: the unit at each position of the dimension, (size,) of int64; -1 for none.
    """

    group: ChannelGroup
    node: fx.Node
    gated: Gated
    layout: Layout
    owners: Tensor

    @property
    def averaged(self) -> bool:
        """Whether a response is the mean absolute value instead of the largest one."""
        return self.group.kind in AVERAGED

    def responses(self, value: Tensor, images: int) -> Tensor:
        """Return the response of each unit to each image, (N, size), from the operand."""
        rows = self._by_image(value, images)
        owned = self.owners >= 0
        owners = self.owners[owned].to(value.device).expand(images, -1)
        rows = rows.abs().mean(2) if self.averaged else rows.amax(2)
        found = rows.new_zeros(images, self.group.size)
        how = "mean" if self.averaged else "amax"
        return found.scatter_reduce(1, owners, rows[:, owned], how, include_self=False)

    def maps(self, value: Tensor, images: int, unit: int) -> Tensor | None:
        """Return the unit's value at each position of the image, (N, h, w), or None.

        None where the operand is not laid out like an image.
        """
        places = torch.nonzero(self.owners == unit)
        plain = (self.layout.dim, self.layout.blocks, value.shape[0]) == (0, 1, images)
        if self.averaged or not plain or value.dim() != 4 or len(places) != 1:
            return None
        found = value.select(self.gated.dim, int(places))
        return found if min(found.shape[1:]) > 1 else None

    def _by_image(self, value: Tensor, images: int) -> Tensor:
        """Lay an operand out as (N, positions of the dimension, everything else)."""
        rows = value.movedim((self.layout.dim, self.gated.dim), (0, 1))
        rows = rows.reshape(
            self.layout.blocks, images, -1, value.shape[self.gated.dim], rows[0, 0].numel()
        )
        return rows.permute(1, 3, 0, 2, 4).flatten(2)


def find_reading(model: GatedModel, group: ChannelGroup) -> Reading:
    """Find where the units of a group are first read, all of them if there is such a place.

    Raises:
        ModelError: their values are seen nowhere image by image.
    """
    found = list(_readings(model, group))
    if not found:
        raise ModelError(
            f"the values of group '{group.name}' cannot be seen image by image: they stay inside "
            "one operator, as those of a recurrent layer do, or belong to weights"
        )
    return max(found, key=lambda reading: len(set(reading.owners.tolist())))


def responses(model: GatedModel, reading: Reading, images: Tensor) -> Tensor:
    """Return how strongly each image (N, C, H, W) drives each unit, (N, size), on the CPU."""
    with torch.no_grad():
        parts = [
            reading.responses(_value(model, reading, rows), len(rows))[:count].float().cpu()
            for rows, count in _parts(model, images)
        ]
    return torch.cat(parts)


def unit_maps(model: GatedModel, reading: Reading, unit: int, images: Tensor) -> tuple[Tensor, str]:
    """Return where each image (N, C, H, W) drives a unit, (N, h, w), and how that was found.

    The unit's own value at every position, as coarse as it is; where its value
    has no place in the image, integrated gradients of its response to the
    pixels. Each map is scaled so that its largest magnitude is 1. Source:
    Sundararajan et al., Axiomatic Attribution for Deep Networks, ICML 2017.
    """
    maps = []
    for rows, count in _parts(model, images):
        with torch.no_grad():
            found = reading.maps(_value(model, reading, rows), len(rows), unit)
        if found is None:
            break
        maps.append(found[:count].float().cpu())
    if maps:
        return _scaled(torch.cat(maps)), "the unit's own values"
    traced = [
        _integrated(model, reading, unit, rows)[:count] for rows, count in _parts(model, images)
    ]
    return _scaled(torch.cat(traced)), "integrated gradients of the unit's response to the pixels"


def _readings(model: GatedModel, group: ChannelGroup) -> Iterator[Reading]:
    """Yield the places where images bring values of a group, readers before statistics."""
    start = 0
    for other in model.analysis.groups:
        if other.name == group.name:
            break
        start += other.size
    reached = _reached(model.module.graph)
    for places in (model.operands, model.statistics):
        for node in model.module.graph.nodes:
            for gated in places.get(node.name, ()):
                operand = gated.of(bind(node))
                layout = model.layouts.get(operand.name)
                owners = _owners(gated, start, group.size)
                seen = operand in reached and layout is not None and layout.dim != gated.dim
                if layout is not None and seen and bool((owners >= 0).any()):
                    yield Reading(group=group, node=node, gated=gated, layout=layout, owners=owners)


def _owners(gated: Gated, start: int, size: int) -> Tensor:
    """Return the unit of a group at each position of a dimension, or -1."""
    owners = torch.full_like(gated.slots[0], -1)
    for column in gated.slots:
        own = (column >= start) & (column < start + size)
        owners = torch.where(own, column - start, owners)
    return owners


def _reached(graph: fx.Graph) -> frozenset[fx.Node]:
    """Return what depends on the images."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or found.intersection(node.all_input_nodes):
            found.add(node)
    return frozenset(found)


def _parts(model: GatedModel, images: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Split images as the model takes them, with how many of each part count."""
    size = len(images) if model.captured.dynamic_batch else len(model.captured.sample)
    device = model.ones().device
    for start in range(0, len(images), size):
        rows = torch.arange(start, start + size).clamp_max(len(images) - 1)
        yield images[rows].to(device), min(size, len(images) - start)


def _value(model: GatedModel, reading: Reading, images: Tensor) -> Tensor:
    """Return the operand at a reading."""
    recorder = _Recorder(model.module, reading)
    recorder.run(images)
    return recorder.found


class _Recorder(fx.Interpreter):
    """Keeps one operand of one operator."""

    def __init__(self, module: fx.GraphModule, reading: Reading) -> None:
        super().__init__(module)
        self.reading = reading
        self.found = torch.empty(0)

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - as the base class has it
        if n is self.reading.node:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            self.found = self.reading.gated.of(named_arguments(n, args, kwargs))
        return super().run_node(n)


def _integrated(model: GatedModel, reading: Reading, unit: int, images: Tensor) -> Tensor:
    """Attribute a unit's response to the pixels, (N, H, W) on the CPU."""

    def forward(images: Tensor) -> Tensor:
        return reading.responses(_value(model, reading, images), len(images))[:, unit]

    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")  # captum says that it sets requires_grad
        found = IntegratedGradients(forward).attribute(
            images, n_steps=STEPS, internal_batch_size=len(images)
        )
    maps = found.detach().sum(1).float().cpu()
    return torch.from_numpy(gaussian_filter(maps.numpy(), maps.shape[1] * BLUR, axes=(1, 2)))


def _scaled(maps: Tensor) -> Tensor:
    largest = maps.abs().amax((1, 2), keepdim=True)
    return maps / torch.where(largest > 0, largest, 1)
