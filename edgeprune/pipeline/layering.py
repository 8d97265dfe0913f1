"""Why is it not faster? From two artifacts to their layers side by side."""

import json
import platform
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import MeasureError
from edgeprune.targets import Target, load_target
from edgeprune.targets.target import PROCESSORS
from edgeprune_benchmarks.hosts import Host
from edgeprune_benchmarks.layer_causes import PEAKS
from edgeprune_benchmarks.layer_graph import with_work
from edgeprune_benchmarks.layer_profile import profile_pair
from edgeprune_benchmarks.layer_values import Profile
from edgeprune_benchmarks.layers import LayerComparison, compare_profiles
from edgeprune_benchmarks.measurement import MeasureSettings, Subject

RECIPE: Final = "recipe.json"


def compare_layers(
    dense: Subject,
    slim: Subject,
    inputs: NDArray[np.float32],
    settings: MeasureSettings,
    *,
    host: Host | None = None,
    target: Target | None = None,
) -> LayerComparison:
    """Profile two artifacts layer by layer on images (N, C, H, W), and compare them.

    target: whose rates and channel blocks to judge by; without one, the blocks are those
    of this kind of device, and rates are taken from the layers themselves.

    Raises ``MeasureError`` when an artifact cannot be profiled.
    """
    profiles = profile_pair(dense, slim, inputs, settings, host=host)
    return compare_layer_profiles(
        (dense, profiles["dense"]), (slim, profiles["slim"]), settings, target=target
    )


def compare_layer_profiles(
    dense: tuple[Subject, Profile],
    slim: tuple[Subject, Profile],
    settings: MeasureSettings,
    *,
    target: Target | None = None,
) -> LayerComparison:
    """Compare profiles that are there already, as ``trtexec`` wrote them on a device.

    Raises ``MeasureError`` when an artifact's graph cannot be read.
    """
    judge = target or _usual(dense[0], settings)
    return compare_profiles(
        (dense[0].name, dense[1], with_work(_graph(dense[0]), dense[1].layers, settings.batch)),
        (slim[0].name, slim[1], with_work(_graph(slim[0]), slim[1].layers, settings.batch)),
        precision=settings.precision,
        block=judge.block(PEAKS.get(settings.precision, "fp32")),
        target=target,
    )


def _usual(subject: Subject, settings: MeasureSettings) -> Target:
    """Return the target whose channel blocks are those of the device that is measured."""
    if settings.device != "cpu" or subject.artifact.parent.joinpath(RECIPE).is_file():
        return load_target("gpu")
    return load_target("arm-cpu" if platform.machine() in PROCESSORS["arm"] else "cpu")


def _graph(subject: Subject) -> Path:
    """Return the file that holds a subject's graph: its own, or the one an engine is built of."""
    recipe = subject.artifact.parent / RECIPE
    if subject.artifact.suffix in (".onnx", ".xml") or not recipe.is_file():
        return subject.artifact
    try:
        return recipe.with_name(str(json.loads(recipe.read_text(encoding="utf-8"))["onnx"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MeasureError(f"{subject.name}: its {RECIPE} cannot be read: {error}") from error
