"""The roofline: what it counts follows from the graph, and no estimate beats the hardware."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeprune.axes import analyse
from edgeprune.capture import Captured, capture
from edgeprune.cut import cut
from edgeprune.errors import UsageError
from edgeprune.targets import Rates, Target, load_target
from edgeprune.targets.kernels import Kernel, kernels
from edgeprune.targets.roofline import UNCALIBRATED, Estimate, calibrated, estimate, no_estimate

from .models import TINY, random_plan

CaptureOf = Callable[..., Captured]

JETSON = load_target("jetson")
PLAIN = Rates(
    source="made up",
    fp32_tflops=1.0,
    fp16_tflops=4.0,
    int8_tops=8.0,
    bandwidth_gbs=50.0,
    compute_share=1.0,
    bandwidth_share=1.0,
    launch_us=0.0,
)


class Mean(nn.Module):
    """A classifier's end."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def net(*layers: nn.Module, size: int = 8, channels: int = 3) -> Captured:
    return capture(nn.Sequential(*layers, Mean()).eval(), torch.randn(2, channels, size, size))


def with_rates(**changes: float) -> Target:
    return replace(JETSON, rates=replace(PLAIN, **changes))  # type: ignore[arg-type]  # no text


def kernels_of(model: Captured) -> tuple[Kernel, ...]:
    return kernels(model, analyse(model))


def bytes_of(model: Captured, precision: str, batch: int = 1) -> list[int]:
    found = estimate(model, JETSON, precision=precision, batch=batch)
    return [layer.bytes for layer in found.layers]


@pytest.mark.parametrize("name", TINY)
def test_every_multiply_accumulate_is_in_one_layer(name: str, capture_of: CaptureOf) -> None:
    model = capture_of(name)
    layers = estimate(model, JETSON, precision="fp16", batch=3).layers
    assert sum(layer.macs for layer in layers) == 3 * analyse(model).count_macs()


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_no_layer_is_faster_than_the_hardware(
    name: str, precision: str, capture_of: CaptureOf
) -> None:
    rates = JETSON.rates
    assert rates is not None
    peak, batch = rates.peak(precision), 4
    assert peak is not None
    found = estimate(capture_of(name), JETSON, precision=precision, batch=batch)
    for layer in found.layers:
        assert layer.ms >= layer.bytes / (rates.bandwidth_gbs * 1e6)
        assert layer.ms >= 2 * layer.macs / (peak * 1e9)
        assert layer.ms >= rates.launch_us / 1e3
    assert found.ms == pytest.approx(sum(layer.ms for layer in found.layers))


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_a_cut_model_never_takes_longer(name: str, share: float, capture_of: CaptureOf) -> None:
    dense = capture_of(name)
    slim = cut(dense, random_plan(dense, share=share))
    for precision in ("fp32", "fp16", "int8"):
        before, after = (estimate(m, JETSON, precision=precision).ms for m in (dense, slim))
        assert after <= before * (1 + 1e-12)


@pytest.mark.parametrize("name", TINY)
def test_a_larger_batch_takes_longer_in_all_and_no_longer_per_image(
    name: str, capture_of: CaptureOf
) -> None:
    one, eight = (
        estimate(capture_of(name), JETSON, precision="fp16", batch=batch).ms for batch in (1, 8)
    )
    assert one <= eight <= 8 * one


def test_bytes_follow_the_precision(capture_of: CaptureOf) -> None:
    fp32, fp16, int8 = (bytes_of(capture_of("Transformer"), p) for p in ("fp32", "fp16", "int8"))
    assert fp32 == [2 * each for each in fp16] == [4 * each for each in int8]


def test_weights_are_read_once_for_a_whole_batch() -> None:
    model = net(nn.Conv2d(3, 8, 1))
    assert bytes_of(model, "fp16", batch=5)[0] == 2 * (5 * (3 + 8) * 64 + 3 * 8 + 8)


def test_what_follows_a_convolution_is_fused_into_it() -> None:
    model = net(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(), nn.Conv2d(8, 4, 1))
    first, second, mean = kernels_of(model)
    assert (first.operator, first.fused) == ("conv2d", ("batch_norm", "relu"))
    assert (second.operator, second.fused, mean.operator) == ("conv2d", (), "mean")
    # Read the image, write what the next reads; weights and bias, batch normalisation folded.
    assert (first.moved, first.weights) == ((3 + 8) * 64, 3 * 8 + 8)
    assert (second.moved, second.weights) == ((8 + 4) * 64, 8 * 4 + 4)
    assert (mean.moved, mean.weights) == (4 * 64 + 4, 0)


def test_a_residual_sum_reads_its_other_operand_once() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x + self.b(self.a(x).relu()))

    _, _, second, _ = kernels_of(net(nn.Conv2d(3, 8, 1), Block()))
    assert second.fused == ("add", "relu")
    assert second.moved == 3 * 8 * 64  # the stream, the branch, and the sum


def test_a_scale_by_squeeze_and_excitation_reads_what_it_scales(capture_of: CaptureOf) -> None:
    found = kernels_of(capture_of("SqueezeExcite"))
    excite = next(kernel for kernel in found if kernel.name == "excite")
    assert excite.fused == ("sigmoid", "mul")
    assert excite.moved == 4 + 2 * 10 * 100


def test_views_and_concatenations_cost_nothing(capture_of: CaptureOf) -> None:
    for name in ("Concatenated", "Transformer", "MergedHeads"):
        operators = {kernel.operator for kernel in kernels_of(capture_of(name))}
        assert operators <= {
            "conv2d", "linear", "layer_norm", "mean", "bmm", "softmax",
            "scaled_dot_product_attention",
        }  # fmt: skip


def test_what_is_expanded_is_read_once() -> None:
    class Stretch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mean = x.mean((2, 3), keepdim=True).expand(-1, -1, 100, 100)
            return F.max_pool2d(mean, 100)

    *_, pool, _ = kernels_of(net(Stretch()))
    assert (pool.operator, pool.moved) == ("max_pool2d", 3 + 3)


def test_what_depends_on_no_image_is_computed_before() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.table = nn.Linear(5, 4), nn.Parameter(torch.randn(4, 5))

        def forward(self, x: Tensor) -> Tensor:
            return x[:, :, 0] @ self.mix(self.table).softmax(1)

    (only,) = kernels_of(
        capture(nn.Sequential(Table(), nn.Flatten()).eval(), torch.randn(2, 3, 1, 4))
    )
    assert (only.operator, only.macs, only.weights) == ("matmul", 3 * 4 * 4, 4 * 4)


def test_a_model_of_one_batch_size_is_counted_per_image() -> None:
    model = net(nn.Conv2d(3, 8, 1))
    fixed = replace(model, dynamic_batch=False)
    assert kernels_of(fixed) == kernels_of(model)


@pytest.mark.parametrize(
    ("precision", "width", "filled"), [("fp16", 33, 40), ("int8", 33, 64), ("fp16", 40, 40)]
)
def test_channels_fill_whole_blocks(precision: str, width: int, filled: int) -> None:
    target = with_rates(bandwidth_gbs=1e9)
    first, *_ = estimate(
        net(nn.Conv2d(32, width, 3, padding=1), channels=32), target, precision=precision
    ).layers
    peak = {"fp16": 4e12, "int8": 8e12}[precision]
    assert first.ms == pytest.approx(2e3 * 9 * 32 * filled * 64 / peak)
    assert first.macs == 9 * 32 * width * 64
    assert first.bound == "compute"


@pytest.mark.parametrize(
    ("layer", "widths", "depthwise"),
    [
        (nn.Conv2d(12, 24, 3, groups=12), (24,), True),
        (nn.Conv2d(12, 24, 3, groups=3), (4, 8), False),
        (nn.Conv2d(12, 24, 3), (12, 24), False),
        (nn.ConvTranspose2d(12, 24, 3), (12, 24), False),
        (nn.ConvTranspose2d(12, 24, 3, groups=3), (4, 8), False),
        (nn.ConvTranspose2d(12, 12, 3, groups=12), (12,), True),
        (nn.Conv2d(1, 8, 3), (1, 8), False),
    ],
)
def test_groups_are_contracted_by_themselves(
    layer: nn.Module, widths: tuple[int, ...], depthwise: bool
) -> None:
    channels = int(layer.in_channels)  # type: ignore[arg-type]  # every one is a convolution
    first, *_ = kernels_of(net(layer, channels=channels))
    assert sorted(first.widths) == sorted(widths)
    assert first.depthwise is depthwise


def test_a_depthwise_convolution_gets_no_matrix_units() -> None:
    model = net(nn.Conv2d(16, 16, 3, groups=16), channels=16)
    slow, fast = (
        estimate(model, with_rates(bandwidth_gbs=1e9), precision=p).layers[0].ms
        for p in ("fp32", "fp16")
    )
    assert slow == fast


@pytest.mark.parametrize(
    ("changes", "bound"),
    [
        ({"bandwidth_gbs": 1e9}, "compute"),
        ({"fp16_tflops": 1e9}, "memory"),
        ({"fp16_tflops": 1e9, "bandwidth_gbs": 1e9, "launch_us": 7.0}, "launch"),
    ],
)
def test_the_slowest_part_is_what_bounds_a_layer(changes: dict[str, float], bound: str) -> None:
    model = net(nn.Conv2d(16, 16, 3), channels=16)
    found = estimate(model, with_rates(**changes), precision="fp16").layers
    assert found[0].bound == bound
    if bound == "launch":
        assert sum(layer.ms for layer in found) == pytest.approx(len(found) * 7e-3, rel=1e-3)


def test_shares_of_the_peaks_slow_an_estimate_down() -> None:
    model = net(nn.Conv2d(16, 16, 3), channels=16)
    whole = estimate(model, with_rates(), precision="fp16").ms
    half = estimate(model, with_rates(compute_share=0.5, bandwidth_share=0.5), precision="fp16").ms
    assert half == pytest.approx(2 * whole)


def test_an_estimate_is_labelled_and_says_what_it_assumes(capture_of: CaptureOf) -> None:
    fp16, fp32 = (estimate(capture_of("Chain"), JETSON, precision=p) for p in ("fp16", "fp32"))
    assert fp16.words == UNCALIBRATED == "estimate, uncalibrated"
    assert fp16.assumptions
    assert "TF32" in fp32.assumptions[-1]
    assert "TF32" not in str(fp16.assumptions)
    document = json.loads(json.dumps(fp16.to_dict()))
    assert document["ms"] == fp16.ms
    assert document["words"] == fp16.words
    assert len(document["layers"]) == len(fp16.layers)


def test_one_measured_latency_scales_every_layer(capture_of: CaptureOf) -> None:
    guess = estimate(capture_of("Chain"), JETSON, precision="fp16")
    known = calibrated(guess, 3 * guess.ms)
    assert known.ms == pytest.approx(3 * guess.ms)
    assert known.factor == pytest.approx(3)
    assert known.words == "estimate, calibrated by one measured latency (times 3.00)"
    assert [a.ms / b.ms for a, b in zip(known.layers, guess.layers, strict=True)] == pytest.approx(
        [3] * len(guess.layers)
    )


def test_the_latency_of_the_dense_model_corrects_the_estimate_of_the_slim_one(
    capture_of: CaptureOf,
) -> None:
    dense = capture_of("Chain")
    slim = cut(dense, random_plan(dense))
    whole, part = (estimate(m, JETSON, precision="fp16") for m in (dense, slim))
    known = calibrated(part, 2 * whole.ms, measured=whole)
    assert known.ms == pytest.approx(2 * part.ms)
    again = calibrated(known, 4 * whole.ms, measured=calibrated(whole, 2 * whole.ms))
    assert again.ms == pytest.approx(4 * part.ms)
    assert again.factor == pytest.approx(4)


@pytest.mark.parametrize("latency", [0.0, -1.0, math.nan, math.inf])
def test_no_latency_calibrates_nothing(latency: float, capture_of: CaptureOf) -> None:
    guess = estimate(capture_of("Chain"), JETSON, precision="fp16")
    with pytest.raises(UsageError, match=r"measured latency of .* ms is none"):
        calibrated(guess, latency)


def test_a_latency_of_something_else_calibrates_nothing(capture_of: CaptureOf) -> None:
    def at(target: Target, precision: str, batch: int) -> Estimate:
        return estimate(capture_of("Chain"), target, precision=precision, batch=batch)

    ours = at(JETSON, "fp16", 1)
    for other, message in (
        (at(load_target("jetson-orin-nx"), "fp16", 1), "target jetson-orin-nano .*-orin-nx"),
        (at(JETSON, "int8", 1), "precision fp16 .* precision int8"),
        (at(JETSON, "fp16", 2), "batch 1 .* batch 2"),
    ):
        with pytest.raises(UsageError, match=message):
            calibrated(ours, 1.0, measured=other)


@pytest.mark.parametrize(
    ("target", "precision", "message"),
    [
        (load_target("cpu"), "fp32", r"'cpu' in fp32: the target has no table \[rates\]"),
        (replace(JETSON, rates=replace(PLAIN, int8_tops=None)), "int8", "has no 'int8_tops'"),
        (replace(JETSON, rates=replace(PLAIN, fp16_tflops=None)), "fp16", "has no 'fp16_tflops'"),
        (replace(JETSON, precisions=("fp16",)), "int8", "it cannot run: give one of fp16"),
        (JETSON, "fp8", "in fp8: give one of fp32, fp16, int8"),
    ],
)
def test_what_an_estimate_lacks_is_named(
    target: Target, precision: str, message: str, capture_of: CaptureOf
) -> None:
    with pytest.raises(UsageError, match=message):
        estimate(capture_of("Chain"), target, precision=precision)
    assert no_estimate(target, precision) is not None
    assert no_estimate(JETSON, "fp16") is None


def test_a_batch_of_nothing_is_refused(capture_of: CaptureOf) -> None:
    with pytest.raises(UsageError, match="batch of 0 is too small"):
        estimate(capture_of("Chain"), JETSON, precision="fp16", batch=0)


def test_an_analysis_at_hand_is_used(capture_of: CaptureOf) -> None:
    model = capture_of("Chain")
    given = estimate(model, JETSON, precision="fp16", analysis=analyse(model))
    assert given == estimate(model, JETSON, precision="fp16")
