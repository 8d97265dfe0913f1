"""Cut networks of ten kinds train, through the same call that recovery makes."""

import numpy as np
import pytest
import torch

from edgeprune.capture import Captured, capture, state
from edgeprune.cut import cut
from edgeprune.data import PreparedSplit, Preprocessing, Split
from edgeprune.recovery import TrainSettings, TrainStep, fit, recalibrate_batchnorm

from .families import family, pictures
from .models import random_plan

QUICK = ("efficientnet", "vision_transformer")
SLOW = (
    "convnext", "nfnet", "maxxvit", "mobilevit", "xcit", "levit", "swin_transformer", "sequencer",
)  # fmt: skip
# Weight decay would move even what no gradient reaches.
SETTINGS = TrainSettings(
    epochs=3, lr=1e-4, batch_size=8, weight_decay=0.0, augment=False, threads=1
)


def coloured(count: int, size: int, seed: int) -> PreparedSplit:
    """Draw noise that is red or blue, by class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = rng.normal(100, 40, (count, size, size, 3))
    images[..., 0] += 60 * labels[:, None, None]
    images[..., 2] += 60 * (1 - labels[:, None, None])
    split = Split(
        name="colours",
        images=tuple(np.clip(images, 0, 255).astype(np.uint8)),
        labels=labels,
        ids=tuple(str(index) for index in range(count)),
    )
    how = Preprocessing(
        size=(size, size),
        channels=3,
        resize="squash",
        crop_pct=1.0,
        interpolation="nearest",
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    )
    return PreparedSplit(split, how)


def half(name: str) -> tuple[Captured, int]:
    """Cut half of every group, and let BatchNorm see what is left."""
    built = family(name)
    dense = capture(built.model, pictures(2, built.size))
    slim = cut(dense, random_plan(dense))
    images = pictures(4, built.size, seed=2)
    recalibrate_batchnorm(slim.module, [(images, None)])
    return slim, built.size


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_training_moves_every_parameter_of_a_cut_network_and_lowers_the_loss(name: str) -> None:
    slim, size = half(name)
    before = {n: t.detach().clone() for n, t in state(slim.module).items()}
    losses: list[float] = []
    moved: set[str] = set()

    def watch(told: TrainStep) -> None:
        # At the end the model holds its best epoch, which may be none of these.
        losses.append(told.loss)
        moved.update(n for n, t in state(slim.module).items() if not torch.equal(t, before[n]))

    images = coloured(8, size, 0)
    result = fit(slim.module, images, images, SETTINGS, multi_label=False, progress=watch)
    assert [record.epoch for record in result.history] == [0, 1, 2, 3]
    assert losses[-1] < losses[0]
    assert moved == before.keys() - constants(slim)


def constants(model: Captured) -> set[str]:
    """Name what no training may move: buffers that no BatchNorm owns."""
    owned = {
        str(argument.target)
        for node in model.module.graph.nodes
        if node.target is torch.ops.aten.batch_norm.default and node.args[3] is not None
        for argument in node.args[3:5]
    }
    return {name for name, _ in model.module.named_buffers()} - owned
