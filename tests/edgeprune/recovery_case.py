"""A tiny network and images it can learn: a bright blob whose corner is the class."""

from functools import cache
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeprune.capture import Captured, capture
from edgeprune.data import PreparedSplit, Preprocessing, Split

SIZE: Final = 12
HOW: Final = Preprocessing(
    size=(SIZE, SIZE),
    channels=1,
    resize="squash",
    crop_pct=1.0,
    interpolation="nearest",
    mean=(0.5,),
    std=(0.25,),
)


class Net(nn.Module):
    """Two convolutions with BatchNorm, dropout, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(8 * 9, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2))
        x = F.adaptive_avg_pool2d(F.relu(self.bn2(self.conv2(x))), 3)
        return self.head(x.flatten(1))


def tiny(*, seed: int = 0) -> Captured:
    """Return a captured network of its own, with weights drawn from the seed."""
    return _captured(seed).clone()


@cache
def _captured(seed: int) -> Captured:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return capture(Net(), torch.randn(2, 1, SIZE, SIZE))


def blobs(count: int, *, seed: int = 0, multi_label: bool = False) -> PreparedSplit:
    """Draw images with a blob at the top or the bottom; or any of the two, as findings."""
    rng = np.random.default_rng((seed, count))
    findings = rng.random((count, 2)) < 0.5
    if not multi_label:
        findings = np.eye(2, dtype=bool)[rng.permutation(count) % 2]
    images = rng.normal(100, 25, (count, SIZE, SIZE))
    for image, present in zip(images, findings, strict=True):
        for finding, top in enumerate((2, 7)):
            if present[finding]:
                image[top : top + 3, 4:8] += 60
    split = Split(
        name="blobs",
        images=tuple(np.clip(images, 0, 255).astype(np.uint8)),
        labels=findings.astype(np.float32) if multi_label else findings.argmax(1),
        ids=tuple(f"{seed}/{index}" for index in range(count)),
    )
    return PreparedSplit(split, HOW)
