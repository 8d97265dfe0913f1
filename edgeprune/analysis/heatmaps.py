"""Where in an image a decision comes from, and whether that stays so after a cut."""

import warnings
from typing import Final

import numpy as np
import torch
from captum.attr import IntegratedGradients
from scipy.ndimage import gaussian_filter
from scipy.stats import rankdata
from torch import Tensor

from edgeprune.capture import Captured
from edgeprune.errors import UsageError

_BLUR: Final = 1 / 64  # of the image's height: enough to join pixels into places, and no more


def heatmaps(
    model: Captured, images: Tensor, targets: Tensor, *, steps: int = 24, batch_size: int = 16
) -> Tensor:
    """Attribute each image's logit to its pixels, (N, H, W) on the CPU.

    Integrated gradients (captum) from the mean-grey image, which is 0 after
    standardisation, summed over colours and slightly smoothed. Positive speaks
    for the target. Each map is scaled so that its largest magnitude is 1, since
    only places compare between models, not heights. Source: Sundararajan et al., Axiomatic
    Attribution for Deep Networks, ICML 2017. Cost: ``steps`` forwards and
    backwards per batch.

    Args:
        model: a captured model.
        images: prepared images, float (N, C, H, W).
        targets: the class to explain in each image, int64 (N,).
        steps: points on the path; 16 to 32 do.
        batch_size: images in memory at a time.

    Raises:
        UsageError: not one target per image.
    """
    if targets.shape != (len(images),):
        raise UsageError(
            f"targets of shape {tuple(targets.shape)} for {len(images)} images: give one class each"
        )
    size = batch_size if model.dynamic_batch else len(model.sample)
    device = next(model.module.parameters()).device
    method = IntegratedGradients(model.module)
    maps = torch.zeros(len(images), *images.shape[2:])
    for start in range(0, len(images), size):
        count = min(size, len(images) - start)
        rows = torch.arange(start, start + count)
        if not model.dynamic_batch:
            rows = torch.arange(start, start + size).clamp_max(len(images) - 1)
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")  # captum says that it sets requires_grad
            found = method.attribute(
                images[rows].to(device),
                target=targets[rows].to(device),
                n_steps=steps,
                internal_batch_size=len(rows),
            )
        maps[start : start + count] = found.detach()[:count].sum(1).float().cpu()
    return _scaled(_smoothed(maps))


def similarity(a: Tensor, b: Tensor) -> Tensor:
    """Return Spearman's rank correlation of each pair of maps (N, H, W), (N,), in -1 to 1.

    Two equal maps give 1. A map without contrast has no order: it gives 0.
    """
    if a.shape != b.shape:
        raise UsageError(f"maps of shapes {tuple(a.shape)} and {tuple(b.shape)} do not compare")
    ranks = [rankdata(maps.flatten(1).numpy(), axis=1) for maps in (a, b)]
    first, second = (r - r.mean(axis=1, keepdims=True) for r in ranks)
    scale = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    covariance = (first * second).sum(axis=1)
    return torch.from_numpy(np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 0))


def mass_in_mask(maps: Tensor, masks: Tensor) -> Tensor:
    """Return which share of each map's positive part, (N, H, W), lies in its mask, (N,).

    The share of the image that the mask covers is what chance would give. A map
    without positive part gives 0.
    """
    if maps.shape != masks.shape:
        raise UsageError(
            f"maps of shape {tuple(maps.shape)} and masks of shape {tuple(masks.shape)} differ: "
            "resize the masks to the model's input"
        )
    positive = maps.clamp_min(0)
    inside = (positive * masks).sum((1, 2))
    return inside / positive.sum((1, 2)).clamp_min(torch.finfo(maps.dtype).tiny)


def _smoothed(maps: Tensor) -> Tensor:
    deviation = maps.shape[1] * _BLUR
    return torch.from_numpy(gaussian_filter(maps.numpy(), deviation, axes=(1, 2)))


def _scaled(maps: Tensor) -> Tensor:
    largest = maps.abs().amax((1, 2), keepdim=True)
    return maps / torch.where(largest > 0, largest, 1)
