from collections.abc import Sequence
from pathlib import Path

import pytest

from edgeprune_benchmarks.layer_graph import rearranges, with_work
from edgeprune_benchmarks.layer_values import Layer, LayerTime

from .layer_case import Widths, layer_time, macs_of, write_branches, write_layers


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return write_layers(tmp_path / "network.onnx", Widths())


def times(*names: str) -> tuple[LayerTime, ...]:
    return tuple(layer_time(name) for name in names)


def operators(layers: Sequence[Layer]) -> list[tuple[str, ...] | None]:
    return [layer.work.operators if layer.work else None for layer in layers]


def test_a_layer_named_after_what_its_last_operator_gives_has_the_one_that_multiplies(
    network: Path,
) -> None:
    named = times("stem.relu_nchwc", "wide.relu_nchwc", "deep.relu_nchwc", "narrow.out_nchwc")
    found = with_work(network, (*named, *times("node_pool", "node_head")), 1)
    assert operators(found) == [
        ("node_stem", "node_stem_relu"),
        ("node_wide", "node_wide_relu"),
        ("node_deep", "node_deep_relu"),
        ("node_narrow",),
        ("node_pool", "node_flatten"),
        ("node_head",),
    ]
    macs = {layer.work.anchor: layer.work.macs for layer in found if layer.work}
    assert {k: v for k, v in macs.items() if v} == macs_of(Widths())


def test_origins_decide_where_the_profiler_tells_them(network: Path) -> None:
    layers = (
        layer_time("fused", origins=("node_stem", "node_stem_relu", "node_wide")),
        layer_time("node_wide_relu"),
    )
    found = with_work(network, layers, 1)
    assert operators(found)[0] == ("node_stem", "node_stem_relu", "node_wide")
    assert found[0].work is not None
    assert found[0].work.anchor == "wide.weight"  # what most of its work is


def test_a_foreign_node_covers_all_operators_between_its_ends(network: Path) -> None:
    (found,) = with_work(network, times("{ForeignNode[node_stem...node_deep_relu]}"), 1)[:1]
    assert found.work is not None
    assert found.work.operators[:6] == (
        *("node_stem", "node_stem_relu", "node_wide", "node_wide_relu"),
        *("node_deep", "node_deep_relu"),
    )


def test_a_layer_that_multiplies_already_is_given_no_second_operator_that_does(
    tmp_path: Path,
) -> None:
    path = write_branches(tmp_path / "branches.onnx")
    (found,) = with_work(path, (layer_time("sum", origins=("node_main", "node_sum")),), 1)
    assert found.work is not None
    assert found.work.operators == ("node_main", "node_sum")


def test_a_name_inside_another_name_is_not_taken_for_it(tmp_path: Path) -> None:
    path = write_layers(tmp_path / "network.onnx", Widths())
    found = with_work(path, times("my_node_stem", "node_stem12", "PWN(node_wide)"), 1)
    assert [layer.work.anchor if layer.work else None for layer in found] == [
        None,
        None,
        "wide.weight",
    ]


def test_a_layout_change_named_after_its_consumer_has_no_work(network: Path) -> None:
    copy = layer_time("Reformatting CopyNode for Input Tensor 0 to node_wide", type="NoOp")
    reorder = layer_time("images_abcd_acdb_node_stem", type="Reorder")
    found = with_work(network, (copy, reorder, *times("node_stem", "node_wide")), 1)
    assert [layer.work is None for layer in found] == [True, True, False, False]
    assert rearranges(copy)
    assert rearranges(reorder)
    assert not rearranges(layer_time("reorder_heads", type="MatMul"))


def test_a_layer_moves_what_it_takes_and_gives_but_not_what_it_keeps_to_itself(
    network: Path,
) -> None:
    found = with_work(network, times("node_stem", "node_wide"), 2)
    pixels, number = 2 * 8 * 8, 4
    stem, wide = (layer.work for layer in found)
    assert stem is not None
    assert wide is not None
    assert stem.operators == ("node_stem", "node_stem_relu")
    assert stem.bytes == number * (3 * pixels + 32 * 3 * 9 + 32 * pixels)
    assert wide.bytes == number * (32 * pixels + 128 * 32 * 9 + 128 * pixels)


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("node_stem", (3, 32)),
        ("node_wide", (32, 128)),
        ("node_deep", (128,)),  # one channel each: only what it makes
        ("node_narrow", (128, 16)),
        ("node_head", (16, 5)),
        ("node_pool", ()),
    ],
)
def test_widths_are_the_channels_contracted_and_made(
    network: Path, name: str, widths: tuple[int, ...]
) -> None:
    (found,) = with_work(network, times(name), 4)
    assert found.work is not None
    assert found.work.widths == widths


def test_layers_of_a_file_without_a_readable_graph_have_no_work(tmp_path: Path) -> None:
    (found,) = with_work(tmp_path / "model.pt2", times("conv"), 1)
    assert found.work is None
