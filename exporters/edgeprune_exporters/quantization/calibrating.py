"""Post-training quantisation by NNCF, in silence.

NNCF places the quantisers, measures the ranges of values on calibration images and
corrects biases. What it is asked is decided here, in one place for every format.

Ranges reach as far as any image does, or as NNCF prefers, which averages images and
so clips what is rare. Neither is better everywhere: with trained weights the first
moved the logits a third as far for a ResNet18 and 1.2 times as far for a
MobileNetV2. So both are tried.

Ranges are symmetric. Asymmetric ones, NNCF's default for transformers, are averages
over images there, so they clip: measured on DeiT and MobileNetV2 with trained
weights, they moved the logits twice as far, and matrix products ran slower.

Activations are not smoothed (SmoothQuant, arXiv 2211.10438), as NNCF would for
transformers: in OpenVINO that moved the logits of a Swin twenty times as far, and
those of a DeiT 0.94 times.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

import numpy as np

from edgeprune.errors import ExportError
from edgeprune_exporters.images import Images
from edgeprune_exporters.parity import Array
from edgeprune_exporters.runtimes import INPUT, import_onnxruntime, import_openvino, last_line
from edgeprune_exporters.silence import silenced

NOISY: Final = ("nncf", "torch.utils.cpp_extension")  # the latter complains about missing CUDA

Model = TypeVar("Model")


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How a model is quantised.

    Attributes:
        batches: calibration images (B, C, H, W), one batch size throughout.
        attention: whether the model attends: NNCF then leaves alone what attention
            cannot bear.
        widest: whether ranges take in every value of every image.
        per_tensor: whether an activation has one scale; else what depthwise convolutions
            read has one per channel.
        half_range: whether the weights of the first convolution use half the range, so
            that sums of products fit into 16 bits on processors without VNNI.
        fold_weights: store weights as int8, not as floats that are rounded at run time.
        correct_biases: let biases take up the mean error that rounding makes.
    """

    batches: Sequence[Array]
    attention: bool
    widest: bool
    per_tensor: bool = False
    half_range: bool = True
    fold_weights: bool = True
    correct_biases: bool = True


def calibration_images(images: Images, most: int | None = None) -> Array:
    """Return calibration images (N, C, H, W): all, or the first ones.

    Raises:
        ExportError: there are none.
    """
    if images.calibration is None:
        raise ExportError("int8 needs images to calibrate on: give --data PATH")
    return images.calibration[:most].detach().cpu().float().numpy()


def calibration_batches(images: Images, size: int) -> tuple[Array, ...]:
    """Return the calibration images in batches of one size; the last is filled up."""
    pool = calibration_images(images)
    starts = range(0, len(pool), size)
    return tuple(np.take(pool, range(s, s + size), axis=0, mode="wrap") for s in starts)


def calibrate(model: Model, calibration: Calibration, keep: Collection[str] = ()) -> Model:
    """Return a model of ONNX or OpenVINO quantised, but for the operators named in ``keep``.

    Raises:
        ExportError: NNCF cannot quantise it.
    """
    import_openvino()  # and so NNCF's telemetry is absent too
    import_onnxruntime()  # NNCF imports it as well
    with quiet():
        import nncf

        images = nncf.Dataset(calibration.batches, lambda batch: {INPUT: batch})
        try:
            quantized = nncf.quantize(
                model,
                images,
                preset=nncf.QuantizationPreset.PERFORMANCE,
                subset_size=len(calibration.batches),
                model_type=nncf.ModelType.TRANSFORMER if calibration.attention else None,
                ignored_scope=nncf.IgnoredScope(names=sorted(keep), validate=False),
                advanced_parameters=_advanced(calibration),
            )
        except Exception as error:  # NNCF raises whatever its backend met
            raise ExportError(f"NNCF cannot quantise the model: {last_line(error)}") from error
    return cast(Model, quantized)


def _advanced(calibration: Calibration) -> Any:  # noqa: ANN401 - NNCF is imported late
    from nncf import (
        AdvancedQuantizationParameters,
        AdvancedSmoothQuantParameters,
        OverflowFix,
    )
    from nncf.quantization.advanced_parameters import QuantizationParameters
    from nncf.quantization.range_estimator import (
        RangeEstimatorParameters,
        RangeEstimatorParametersSet,
    )

    ranges = RangeEstimatorParametersSet.MINMAX if calibration.widest else None
    return AdvancedQuantizationParameters(
        activations_quantization_params=QuantizationParameters(
            per_channel=False if calibration.per_tensor else None
        ),
        smooth_quant_alphas=AdvancedSmoothQuantParameters(matmul=-1),  # below 0: none
        activations_range_estimator_params=ranges or RangeEstimatorParameters(),
        overflow_fix=OverflowFix.FIRST_LAYER if calibration.half_range else OverflowFix.DISABLE,
        disable_bias_correction=not calibration.correct_biases,
        backend_params={"compress_weights": calibration.fold_weights},
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep NNCF's progress bars, log and warnings off the terminal."""
    import rich

    console = rich.get_console()  # NNCF draws on rich's own; the command line does not
    was_quiet, console.quiet = console.quiet, True
    try:
        with silenced(NOISY):
            yield
    finally:
        console.quiet = was_quiet
