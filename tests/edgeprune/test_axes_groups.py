from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edgeprune.axes import FrozenAxis, analyse
from edgeprune.capture import Captured

from .models import TINY
from .probe import probe

CaptureOf = Callable[..., Captured]


def test_groups_of_a_chain_are_its_layers(capture_of: CaptureOf) -> None:
    groups = analyse(capture_of("Chain")).groups
    assert [(g.name, g.kind, g.size, g.readers) for g in groups] == [
        ("conv1", "conv", 8, ("conv2",)),
        ("conv2", "conv", 12, ("hidden",)),
        ("hidden", "hidden", 16, ("head",)),
    ]


def test_a_flattened_map_stands_several_times_in_its_reader(capture_of: CaptureOf) -> None:
    _, conv2, _ = analyse(capture_of("Chain")).groups
    places = {(o.parameter, o.dim): o.positions for o in conv2.parameters}
    assert places[("hidden.weight", 1)] == 9
    assert places[("conv2.weight", 0)] == 1


def test_a_residual_stream_is_one_group_of_kind_width(capture_of: CaptureOf) -> None:
    groups = {g.name: g for g in analyse(capture_of("Residual")).groups}
    assert {name: (g.kind, g.size) for name, g in groups.items()} == {
        "stem": ("width", 8),
        "reduce": ("conv", 6),
    }
    assert groups["stem"].readers == ("reduce", "head")


def test_a_sum_of_one_layer_with_itself_is_no_residual_stream() -> None:
    groups = analyse(probe(lambda m, x: x + m.per_channel * F.relu(x))).groups
    assert [(g.name, g.kind) for g in groups] == [("conv", "conv")]


def test_a_depthwise_layer_within_a_sum_makes_no_residual_stream() -> None:
    groups = analyse(probe(lambda m, x: x + m.depthwise(x))).groups
    assert [(g.name, g.kind) for g in groups] == [("conv", "conv")]


def test_what_a_slice_takes_is_apart_from_what_it_leaves() -> None:
    # Both would otherwise be one group, of which a plan may keep the other half alone.
    dense = probe(lambda m, x: torch.cat([F.max_pool2d(x[:, :3], 1), x[:, 3:]], 1))
    assert [(g.name, g.size) for g in analyse(dense).groups] == [("conv", 3), ("conv#2", 5)]
    whole = probe(lambda m, x: torch.cat(x.chunk(2, 1)[::-1], 1))
    assert [g.size for g in analyse(whole).groups] == [4, 4]
    tied = probe(lambda m, x: m.mix(x).chunk(2, 1)[0] * x.chunk(2, 1)[1], 4)
    assert [g.size for g in analyse(tied).groups] == [4, 4, 4]


def test_equal_names_are_counted() -> None:
    dense = probe(lambda m, x: x.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2))
    assert [(g.name, g.size) for g in analyse(dense).groups] == [("conv", 2), ("conv#2", 4)]


def test_a_group_in_several_columns_of_a_parameter_is_one_group() -> None:
    dense = probe(lambda m, x: torch.cat([x, F.relu(x)], 1).flatten(1)[..., None], 576)
    (group,) = analyse(dense).groups
    assert [(o.parameter, o.positions) for o in group.parameters if o.dim == 1] == [
        ("read.weight", 72)
    ]


@pytest.mark.parametrize("name", ["Transformer", "MergedHeads"])
def test_attention_has_heads_and_head_dimensions(name: str, capture_of: CaptureOf) -> None:
    groups = {g.name: (g.kind, g.size) for g in analyse(capture_of(name)).groups}
    assert groups["qkv:heads"] == ("heads", 3)
    assert ("head_dim", 4) in groups.values()
    assert groups["up"] == ("hidden", 20)
    assert groups["patches"] == ("width", 12)


@pytest.mark.parametrize("name", TINY)
def test_every_unit_is_in_exactly_one_group(name: str, capture_of: CaptureOf) -> None:
    analysis = analyse(capture_of(name))
    everywhere = [c for axes in analysis.parameters.values() for a in axes for c in a.columns]
    units = np.unique(np.concatenate(everywhere))
    grouped = np.concatenate([g.units for g in analysis.groups])
    assert sorted(grouped.tolist()) == units[units >= 0].tolist()
    assert len({g.name for g in analysis.groups}) == len(analysis.groups)


@pytest.mark.parametrize("name", TINY)
def test_removing_any_unit_of_a_group_costs_the_same(name: str, capture_of: CaptureOf) -> None:
    analysis = analyse(capture_of(name))
    names = frozenset(analysis.parameters)
    for group in analysis.groups:
        costs = set()
        for unit in range(group.size):
            keep = np.arange(group.size) != unit
            costs.add(analysis.count_parameters(names, analysis.kept({group.name: keep})))
        assert len(costs) == 1


def test_the_same_model_gives_the_same_groups(capture_of: CaptureOf) -> None:
    dense = capture_of("Transformer")
    assert analyse(dense).groups == analyse(dense).groups


def test_what_is_frozen_is_told_by_its_cause(capture_of: CaptureOf) -> None:
    frozen = analyse(capture_of("Chain")).frozen
    assert frozen == (
        FrozenAxis(parameter="conv1.weight", dim=1, size=3, stuck=3, reasons=("image channels",)),
        FrozenAxis(parameter="head.weight", dim=0, size=5, stuck=5, reasons=("model output",)),
        FrozenAxis(parameter="head.bias", dim=0, size=5, stuck=5, reasons=("model output",)),
    )
