"""Have both models' layers timed by their runtime's own profiler, in turns.

Each is profiled in two fresh processes, as A B B A, several times in each; a layer's time
is the median, since a neighbour's burst can fill a profiler's whole window. Whole
inferences are timed in the same processes, with the profiler switched off.
"""

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import MeasureError
from edgeprune_benchmarks.hosts import Host, LocalHost
from edgeprune_benchmarks.layer_values import LayerTime, Profile, layer_times
from edgeprune_benchmarks.measurement import MeasureSettings, Subject
from edgeprune_benchmarks.process import Answer, RunnerProcess
from edgeprune_benchmarks.rounds import Placed, place

TURNS: Final = ("dense", "slim", "slim", "dense")
REPEATS: Final = 3  # profiles in each process
ITERATIONS: Final = 10  # inferences in each profile
INPUTS: Final = "inputs.npy"


def profile_pair(
    dense: Subject,
    slim: Subject,
    inputs: NDArray[np.float32],
    settings: MeasureSettings,
    *,
    host: Host | None = None,
) -> dict[str, Profile]:
    """Profile both on images (N, C, H, W), N at least one batch; by ``dense`` and ``slim``.

    Raises ``MeasureError`` when a runtime cannot be profiled, or its runner dies, hangs
    or answers nonsense.
    """
    if inputs.ndim != 4 or len(inputs) < settings.batch:
        wanted = f"(N, C, H, W) with N ≥ {settings.batch}"
        raise MeasureError(f"images have shape {inputs.shape}; {wanted} is wanted")
    with ExitStack() as stack:
        there = host or stack.enter_context(LocalHost())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgeprune-")))
        np.save(folder / INPUTS, np.ascontiguousarray(inputs, dtype=np.float32))
        images = f"{there.give(folder, [folder / INPUTS], keep=False)}/{INPUTS}"
        placed = {"dense": place(there, dense), "slim": place(there, slim)}
        found: dict[str, list[Profile]] = {"dense": [], "slim": []}
        for key in TURNS:
            found[key].extend(_profiles(there, placed[key], images, settings))
    return {key: central(profiles) for key, profiles in found.items()}


def _profiles(host: Host, placed: Placed, images: str, settings: MeasureSettings) -> list[Profile]:
    with host.runner(placed.subject.name) as runner:
        _load(runner, placed, settings)
        runner.ask(
            "warmup",
            settings.timeout + settings.warmup_limit,
            inputs=images,
            batch=settings.batch,
            seconds=settings.warmup_seconds,
            limit=settings.warmup_limit,
        )
        timed = runner.ask(
            "block",
            settings.timeout + settings.block_seconds,
            seconds=settings.block_seconds,
            iterations=settings.block_inferences,
        )
        told = [
            runner.ask("layers", 2 * settings.timeout, iterations=ITERATIONS)
            for _ in range(REPEATS)
        ]
    try:
        return [
            Profile(
                profiler=str(each["profiler"]),
                layers=layer_times(each["layers"]),
                profiled_ms=float(each["total_ns"]) / 1e6,
                plain_ms=median(timed["ns"]) / 1e6,
            )
            for each in told
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise MeasureError(f"a device runner's profile cannot be understood: {error}") from error


def _load(runner: RunnerProcess, placed: Placed, settings: MeasureSettings) -> Answer:
    return runner.ask(
        "load",
        settings.timeout,
        artifact=placed.path,
        backend=placed.subject.backend,
        threads=settings.threads,
        cpus=settings.cpus,
        precision=settings.precision,
        batch=settings.batch,
        device=settings.device,
        profile=True,
    )


def central(profiles: Sequence[Profile]) -> Profile:
    """Take the median time of equal layers; the first profile says which there are."""
    by_name = [{layer.name: layer for layer in each.layers} for each in profiles]
    sums = [each.layers_ms for each in profiles]
    return replace(
        profiles[0],
        layers=tuple(_middle(layer, by_name) for layer in profiles[0].layers),
        profiled_ms=_median([each.profiled_ms for each in profiles]),
        plain_ms=_median([each.plain_ms for each in profiles]),
        spread=(max(sums) - min(sums)) / median(sums) if min(sums) > 0 else None,
    )


def _middle(layer: LayerTime, by_name: Sequence[Mapping[str, LayerTime]]) -> LayerTime:
    return replace(layer, ms=median(each[layer.name].ms for each in by_name if layer.name in each))


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
