import pytest

from edgeprune.targets import load_target
from edgeprune_benchmarks.layer_causes import Roofline, judged, roofline
from edgeprune_benchmarks.layer_values import Layer

from .layer_case import layer, layer_time

MEGA = 1_000_000
ROOF = Roofline(source="given", gmacs=100.0, gbs=10.0, floor_ms=0.005)


def conv(
    ms: float, macs: float, *widths: int, megabytes: float = 0.1, precision: str = "f32"
) -> Layer:
    size = round(megabytes * MEGA)
    return layer("c", ms, macs=round(macs * MEGA), bytes=size, widths=widths, precision=precision)


def cause(dense: Layer | None, slim: Layer | None, block: int = 16) -> str:
    return judged(dense, slim, ROOF, block).cause


def test_a_saving_that_became_time_has_no_cause() -> None:
    found = judged(conv(1.0, 100, 64, 64), conv(0.5, 50, 64, 32), ROOF, 16)
    assert (found.cause, found.expected_ms) == ("saved", 0.5)
    assert found.lost_ms == pytest.approx(0.0)


def test_time_lost_is_what_a_layer_takes_beyond_its_share_of_macs() -> None:
    found = judged(conv(2.0, 100, 64, 64), conv(1.5, 25, 32, 32), ROOF, 16)
    assert found.expected_ms == 0.5
    assert found.lost_ms == 1.0


def test_one_channel_short_of_a_block_is_misaligned() -> None:
    dense, slim = conv(1.0, 100, 128, 128), conv(1.15, 98.4, 127, 127)
    found = judged(dense, slim, ROOF, 16)
    assert (found.cause, found.why) == ("misaligned", "127 is no multiple of 16")


def test_a_width_that_was_misaligned_before_is_not_to_blame() -> None:
    assert cause(conv(1.0, 100, 3, 64), conv(0.9, 50, 3, 32)) == "slower kernel"


def test_only_widths_that_changed_are_named() -> None:
    found = judged(conv(1.0, 100, 3, 64), conv(0.9, 62, 3, 40), ROOF, 16)
    assert found.why == "40 is no multiple of 16"


def test_what_takes_longer_decides_between_misaligned_and_memory_bound() -> None:
    dense = conv(1.0, 20, 512, 64, megabytes=10)
    slim = conv(0.8, 8, 512, 33, megabytes=8)  # 0.8 ms to move, 0.1 ms to compute
    assert cause(dense, slim) == "memory-bound"
    heavy = conv(9.0, 800, 512, 33, megabytes=8)
    assert cause(conv(10.0, 2000, 512, 64, megabytes=10), heavy) == "misaligned"


def test_blocks_decide_what_is_misaligned() -> None:
    dense, slim = conv(1.0, 100, 64, 64), conv(0.9, 38, 40, 40)
    assert cause(dense, slim, 16) == "misaligned"
    assert cause(dense, slim, 8) == "slower kernel"


def test_a_layer_that_waits_for_memory_that_it_still_moves_is_memory_bound() -> None:
    dense = conv(1.0, 20, 512, 64, megabytes=10)
    slim = conv(0.8, 8, 512, 32, megabytes=8)
    found = judged(dense, slim, ROOF, 16)
    assert (found.cause, found.why) == ("memory-bound", "moves 80% of the data for 40% of the MACs")


def test_data_that_shrank_with_the_macs_is_not_to_blame() -> None:
    slim = conv(0.8, 8, 512, 32, megabytes=4.1)
    assert cause(conv(1.0, 20, 512, 64, megabytes=10), slim) == "slower kernel"


def test_a_layer_that_takes_little_more_than_its_start_is_too_small() -> None:
    dense, slim = conv(0.02, 0.1, 16, 16, megabytes=0.01), conv(0.008, 0.01, 16, 16)
    assert cause(dense, slim) == "too small"
    assert cause(conv(2.0, 0.1, 16, 16), conv(0.8, 0.01, 16, 16)) != "too small"


def test_layers_of_a_model_of_a_few_long_ones_are_not_all_taken_for_starts() -> None:
    layers = [conv(1.0, 80, 64, 64), conv(0.8, 50, 64, 64)]
    assert roofline(None, "f32", {"dense": layers, "slim": layers}).floor_ms == 0.02


def test_a_layer_that_took_no_time_that_the_profiler_can_show_is_judged_too() -> None:
    dense, slim = conv(0.0, 20, 512, 64, megabytes=10), conv(0.8, 8, 512, 32, megabytes=8)
    found = judged(dense, slim, ROOF, 16)
    assert (found.cause, found.lost_ms) == ("slower kernel", 0.8)


def test_a_wider_type_than_before_comes_first() -> None:
    dense, slim = conv(1.0, 100, 64, 64, precision="i8"), conv(2.0, 60, 50, 50)
    found = judged(dense, slim, ROOF, 16)
    assert (found.cause, found.why) == ("precision", "f32, before i8")


def test_a_narrower_type_is_no_reason_to_be_slower() -> None:
    dense, slim = conv(1.0, 100, 64, 64), conv(1.0, 60, 64, 32, precision="f16")
    assert cause(dense, slim) == "slower kernel"


def test_a_new_layout_change_and_a_new_layer_are_told_apart() -> None:
    reorder = Layer(time=layer_time("r", type="Reorder", ms=0.5), work=None)
    found = judged(None, reorder, ROOF, 16)
    assert (found.cause, found.lost_ms, found.why) == ("rearranging", 0.5, "not there before")
    assert cause(None, conv(0.5, 1, 16, 16)) == "new"


def test_a_new_conversion_is_told_from_other_new_layers() -> None:
    convert = Layer(time=layer_time("q", type="QuantizeLinear", ms=0.5), work=None)
    assert cause(None, convert) == "converting"


def test_a_layer_that_is_gone_lost_nothing() -> None:
    found = judged(conv(1.0, 1, 16, 16), None, ROOF, 16)
    assert (found.cause, found.lost_ms, found.expected_ms) == ("gone", 0.0, 0.0)


def test_a_layer_without_macs_is_expected_to_shrink_as_its_data() -> None:
    dense = layer("pool", 1.0, macs=0, bytes=8 * MEGA)
    slim = layer("pool", 0.9, macs=0, bytes=4 * MEGA)
    found = judged(dense, slim, ROOF, 16)
    assert found.expected_ms == 0.5
    assert (found.cause, found.why) == ("slower kernel", "4.4 GB/s, before 8.0")


def test_a_layer_of_unknown_work_is_expected_to_shrink_as_its_output() -> None:
    def softmax(ms: float, *shape: int) -> Layer:
        return Layer(time=layer_time("s", type="Softmax", ms=ms, shape=shape), work=None)

    assert judged(softmax(1.0, 1, 64), softmax(0.5, 1, 16), ROOF, 16).expected_ms == 0.25
    unknown = Layer(time=layer_time("s", type="Softmax", ms=1.0), work=None)
    assert judged(unknown, unknown, ROOF, 16).expected_ms == 1.0


def test_rates_are_the_targets_where_it_has_some() -> None:
    target = load_target("jetson-orin-nano")
    assert target.rates is not None
    found = roofline(target, "f16", {"dense": [], "slim": []})
    assert found.gmacs == pytest.approx(10.2e3 / 2 * 0.6)
    assert found.gbs == pytest.approx(68 * 0.7)
    assert found.floor_ms == 0.005
    assert target.rates.source in found.source


def test_rates_are_the_best_that_layers_reached_where_the_target_has_none() -> None:
    layers = [
        conv(1.0, 80, 64, 64, megabytes=2),
        conv(1.0, 50, 64, 64, megabytes=9),
        conv(0.001, 1, 64, 64, megabytes=1),  # too short to say anything about rates
    ]
    found = roofline(load_target("cpu"), "f32", {"dense": layers, "slim": []})
    assert found.gmacs == pytest.approx(80)
    assert found.gbs == pytest.approx(9)
    assert found.floor_ms == 0.001
    assert "estimated" in found.source
