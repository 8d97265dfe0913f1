from edgeprune_benchmarks.layer_profile import central
from edgeprune_benchmarks.layer_values import Profile

from .layer_case import layer_time


def profile(a: float, b: float, whole: float) -> Profile:
    layers = (layer_time("a", ms=a), layer_time("b", ms=b))
    return Profile(profiler="test", layers=layers, profiled_ms=whole, plain_ms=whole / 2)


def test_one_burst_moves_no_layer_and_shows_in_the_spread() -> None:
    found = central([profile(1.0, 2.0, 3.5), profile(1.1, 9.9, 14.0), profile(1.2, 2.2, 3.6)])
    assert [each.ms for each in found.layers] == [1.1, 2.2]
    assert (found.profiled_ms, found.plain_ms) == (3.6, 1.8)
    assert found.spread == (11.0 - 3.0) / 3.4000000000000004


def test_a_layer_that_some_processes_did_not_have_is_taken_from_the_others() -> None:
    short = Profile(profiler="test", layers=(layer_time("a", ms=5.0),))
    found = central([profile(1.0, 2.0, 3.0), short, profile(3.0, 4.0, 7.0)])
    assert [each.ms for each in found.layers] == [3.0, 3.0]
