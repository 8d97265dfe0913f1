"""Whether an artifact runs at all where it is to be measured, and on what.

A file's own description of its input is not asked for: every format has another,
and what counts is what the runtime makes of it.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from edgeprune.errors import MeasureError
from edgeprune.pipeline.subjects import Opened
from edgeprune_benchmarks.hosts import Host
from edgeprune_benchmarks.measurement import MeasureSettings
from edgeprune_benchmarks.process import Answer, RunnerProcess
from edgeprune_benchmarks.rounds import load, place

AXES: Final = 4
KEY: Final = "probed"
UNKNOWN: Final = 64  # pixels, tried where a file takes images of any size


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a runtime makes of an artifact.

    Attributes:
        shape: (N, C, H, W) of its input, None where any size goes.
        classes: how many logits it gives per image.
    """

    shape: tuple[int | None, ...]
    classes: int

    @property
    def batch(self) -> int | None:
        """The only batch size that it takes, or None for any."""
        return self.shape[0]

    @property
    def image(self) -> tuple[int | None, int | None, int | None]:
        """Shape (C, H, W) of an image."""
        _, channels, height, width = self.shape
        return channels, height, width


def probe(opened: Opened, settings: MeasureSettings, host: Host) -> Probe:
    """Load an artifact where it will run, and ask it for one batch.

    Raises:
        MeasureError: it cannot be loaded there, or is no classifier of images.
    """
    placed = place(host, opened.subject)
    with host.runner(opened.name) as runner:
        loaded = load({KEY: runner}, {KEY: placed}, settings, batch=None)
        shape = _shape(loaded[KEY], opened.name)
        size = opened.preprocessing.size if opened.preprocessing else (UNKNOWN, UNKNOWN)
        usual = (1, 3, *size)
        zeros = np.zeros([own or used for own, used in zip(shape, usual, strict=True)], np.float32)
        logits = _predicted(runner, zeros, settings, host)
    if logits.ndim != 2 or len(logits) != len(zeros):
        raise MeasureError(
            f"{opened.name} gives {logits.shape} for {len(zeros)} images; logits are "
            "(images, classes)"
        )
    return Probe(shape=shape, classes=logits.shape[1])


def _shape(answer: Answer, name: str) -> tuple[int | None, ...]:
    shape = tuple(answer.get("shape") or ())
    if len(shape) != AXES:
        raise MeasureError(f"{name} takes {shape}; one input of images (N, C, H, W) is needed")
    return shape


def _predicted(
    runner: RunnerProcess, images: np.ndarray, settings: MeasureSettings, host: Host
) -> np.ndarray:
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as place:
        source, target = Path(place) / "inputs.npy", Path(place) / "outputs.npy"
        np.save(source, images)
        given = f"{host.give(source.parent, [source], keep=False)}/{source.name}"
        there = f"{host.scratch()}/{target.name}"
        runner.ask("predict", settings.timeout, inputs=given, outputs=there, batch=len(images))
        host.fetch(there, target)
        logits: np.ndarray = np.load(target, allow_pickle=False)
        return logits
