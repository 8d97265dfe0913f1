"""Why is it not faster? From two artifacts to their layers side by side."""

import json
import platform
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import MeasureError, UsageError
from edgeprune.pipeline.subjects import is_bundle, open_subject
from edgeprune.targets import Target, load_target
from edgeprune.targets.target import PROCESSORS
from edgeprune_benchmarks.hosts import Host
from edgeprune_benchmarks.layer_causes import PEAKS
from edgeprune_benchmarks.layer_graph import with_work
from edgeprune_benchmarks.layer_profile import profile_pair
from edgeprune_benchmarks.layer_trtexec import trtexec_profile_of
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


def compare_trtexec(
    a: Path,
    b: Path | None,
    files: Sequence[Sequence[Path]],
    *,
    batch: int = 1,
    target: Target | None = None,
) -> LayerComparison:
    """Compare two artifacts by what ``trtexec`` exported of each where they run.

    a, b: bundles, recipes or ONNX files that the engines were built of; without b, a
    bundle's dense model against its slim one. files: of each, as ``trtexec_profile_of``
    takes them. batch: that the engines ran with.

    Raises ``MeasureError`` for files that are not trtexec's, ``UsageError`` without b where
    a is no bundle, and as ``open_subject`` does.
    """
    if b is None and not is_bundle(a):
        raise UsageError(f"'{a}' is no bundle: give the artifact that it is compared with as well")
    first = open_subject(a, runtime=_engine(a), role="slim" if b else "dense")
    second = open_subject(b or a, runtime=_engine(b or a))
    names = (first.name, second.name)
    if first.name == second.name:
        names = (f"{first.name} (A)", f"{second.name} (B)")
    sides = [
        (replace(opened.subject, name=name), trtexec_profile_of(each))
        for opened, name, each in zip((first, second), names, files, strict=True)
    ]
    judge = target or load_target("gpu")
    settings = MeasureSettings(batch=batch, precision=_precision(sides[0][1], judge))
    return compare_layer_profiles(sides[0], sides[1], settings, target=judge)


def _engine(path: Path) -> str | None:
    """Return the runtime to open a bundle for; other paths say themselves what they are."""
    return "tensorrt" if is_bundle(path) else None


def _precision(profile: Profile, target: Target) -> str:
    """Return the type that most of the time is spent in, or the target's if none is told."""
    spent: dict[str, float] = defaultdict(float)
    for layer in profile.layers:
        if layer.precision is not None and layer.precision in PEAKS:
            spent[layer.precision] += layer.ms
    usual = next(name for name, peak in PEAKS.items() if peak == target.precision)
    return max(spent, key=lambda name: spent[name], default=usual)


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
