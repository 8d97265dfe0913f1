from dataclasses import replace

from edgeprune.layer_listing import MOST, NAME, layer_lines
from edgeprune_benchmarks.layer_causes import LayerPair
from edgeprune_benchmarks.layer_values import Layer, Profile
from edgeprune_benchmarks.layers import LayerComparison, compare_profiles

from ..benchmarks.layer_case import layer


def compared(dense: list[Layer], slim: list[Layer]) -> LayerComparison:
    def side(name: str, layers: list[Layer]) -> tuple[str, Profile, list[Layer]]:
        times = tuple(each.time for each in layers)
        return name, Profile(profiler="test", layers=times), layers

    return compare_profiles(side("A", dense), side("B", slim), precision="f32", block=16)


def plain(count: int, ms: float, macs: int) -> list[Layer]:
    return [
        layer(f"layer{k}", ms, macs=macs, bytes=4 * macs, widths=(64, 64)) for k in range(count)
    ]


def rows(pair: LayerPair, lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith(pair.name)]


def test_the_share_of_the_saving_that_became_time_is_said() -> None:
    found = compared(plain(4, 1.0, 10**6), plain(4, 0.75, 5 * 10**5))
    lines = layer_lines(found)
    assert "MACs -50.0 %, the layers' time -25.0 %: 50% of the saving in MACs became time" in lines
    assert "slower kernel: 4 layers lose 1.000 ms, 33% of B's time" in "\n".join(lines)


def test_a_saving_that_cost_time_is_not_a_negative_share() -> None:
    lines = layer_lines(compared(plain(2, 1.0, 10**6), plain(2, 1.1, 5 * 10**5)))
    assert any(line.endswith("nothing of the saving in MACs became time") for line in lines)


def test_nothing_cut_is_no_saving() -> None:
    lines = layer_lines(compared(plain(2, 1.0, 10**6), plain(2, 1.0, 10**6)))
    assert "MACs +0.0 %, the layers' time +0.0 %" in lines


def test_names_of_both_sides_are_those_given() -> None:
    lines = layer_lines(compared(plain(1, 1.0, 10), plain(1, 1.0, 10)))
    assert lines[0] == "B against A by layers, as test times them"


def test_more_layers_than_fit_are_summed_up() -> None:
    found = compared(plain(MOST + 3, 1.0, 10**6), plain(MOST + 3, 0.5, 5 * 10**5))
    lines = layer_lines(found)
    assert sum(line.startswith("layer") for line in lines) == MOST + 1  # and the heading
    assert "and 3 layers more, which together lose 0.000 ms" in lines


def test_nothing_lost_is_said_plainly() -> None:
    lines = layer_lines(compared(plain(2, 1.0, 10**6), plain(2, 0.5, 5 * 10**5)))
    assert "no layer lost much of its saving" in lines


def test_a_layer_that_one_side_alone_has_shows_a_gap() -> None:
    found = compared(plain(1, 1.0, 10**6), [*plain(1, 0.5, 5 * 10**5), layer("extra", 0.5)])
    (row,) = rows(found.layers[0], layer_lines(found))
    assert "none → –" in row
    assert "new: not there before" in row


def test_long_names_keep_their_end() -> None:
    long = [layer("x" * 80 + "_end", 1.0, macs=10)]
    text = "\n".join(layer_lines(compared(long, long)))
    assert f"…{('x' * 80 + '_end.weight')[1 - NAME :]}" in text


def test_sentences_wrap_in_a_narrow_terminal_and_tables_do_not() -> None:
    found = compared(plain(4, 1.0, 10**6), plain(4, 0.75, 5 * 10**5))
    sentences = [line for line in layer_lines(found, 60) if "  " not in line]
    assert max(map(len, sentences)) <= 60


def test_unknown_macs_are_said_to_be_unknown() -> None:
    found = compared(plain(1, 1.0, 0), plain(1, 0.5, 0))
    assert found.realised is None
    assert "the MACs of these files are not known" in "\n".join(layer_lines(found))


def test_more_macs_than_before_have_no_share_of_a_saving() -> None:
    found = compared(plain(1, 1.0, 10), plain(1, 2.0, 20))
    assert found.realised is None
    assert found.macs_saved == -1.0
    assert "MACs +100.0 %" in "\n".join(layer_lines(replace(found)))
