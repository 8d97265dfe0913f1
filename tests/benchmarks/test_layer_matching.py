from dataclasses import replace

from edgeprune_benchmarks.layer_matching import matched
from edgeprune_benchmarks.layer_values import Layer

from .layer_case import layer, layer_time


def other(name: str, type_: str) -> Layer:
    return Layer(time=layer_time(name, type=type_), work=None)


def names(dense: list[Layer], slim: list[Layer]) -> list[tuple[str | None, str | None]]:
    return [
        (a.time.name if a else None, b.time.name if b else None) for a, b in matched(dense, slim)
    ]


def renamed(one: Layer, name: str) -> Layer:
    return replace(one, time=replace(one.time, name=name))


def test_layers_are_matched_by_their_weight_whatever_they_are_called_and_wherever_they_run() -> (
    None
):
    a, b = layer("a", 1.0), layer("b", 1.0)
    assert names([a, b], [renamed(b, "x"), renamed(a, "y")]) == [("b", "x"), ("a", "y")]


def test_a_weight_that_quantisation_renamed_is_found_by_its_operator() -> None:
    a = layer("a", 1.0)
    assert a.work is not None
    work = replace(a.work, anchor="a.weight_quantized", operator="node_a/WithoutBiases")
    quantised = replace(renamed(a, "x"), work=work)
    assert names([layer("b", 1.0), a], [quantised, layer("b", 1.0)]) == [("a", "x"), ("b", "b")]


def test_layers_without_weight_are_matched_by_name_and_then_by_type_and_place() -> None:
    a, b = layer("a", 1.0), layer("b", 1.0)
    dense = [other("in", "Reorder"), a, other("s1", "Softmax"), b, other("s2", "Softmax")]
    slim = [other("in", "Reorder"), a, other("t1", "Softmax"), b, other("t2", "Softmax")]
    assert names(dense, slim) == [
        ("in", "in"),
        ("a", "a"),
        ("s1", "t1"),
        ("b", "b"),
        ("s2", "t2"),
    ]


def test_what_one_side_alone_has_is_kept_and_named() -> None:
    a, b = layer("a", 1.0), layer("b", 1.0)
    dense, slim = [a, other("pool", "Pool"), b], [a, other("copy", "Reorder"), b]
    assert names(dense, slim) == [("a", "a"), (None, "copy"), ("b", "b"), ("pool", None)]


def test_a_weight_that_two_layers_share_is_matched_in_order() -> None:
    first, second = layer("shared", 1.0), layer("shared", 2.0)
    dense, slim = (
        [renamed(first, "d1"), renamed(second, "d2")],
        [
            renamed(first, "s1"),
            renamed(second, "s2"),
        ],
    )
    assert names(dense, slim) == [("d1", "s1"), ("d2", "s2")]


def test_every_layer_occurs_once() -> None:
    dense = [layer("a", 1.0), other("x", "Pool"), other("x", "Pool"), layer("b", 1.0)]
    slim = [other("x", "Pool"), layer("b", 1.0), other("y", "Pool"), layer("c", 1.0)]
    found = matched(dense, slim)
    assert [b for _, b in found if b is not None] == slim
    assert sorted(a.time.name for a, _ in found if a) == ["a", "b", "x", "x"]
