"""Whether the slim model still looks at the same evidence: examples with heat maps."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from edgeprune.analysis.heatmaps import heatmaps, mass_in_mask, similarity
from edgeprune.capture import Captured
from edgeprune.data import Split
from edgeprune.data.preprocessing import fit
from edgeprune.files import write_json
from edgeprune.pipeline.context import Context, probabilities

EXAMPLES: Final = 8
METHOD: Final = "Integrated Gradients on the image, for the logit of the true class"


def evidence_stage(context: Context, dense: Captured, slim: Captured) -> Path:
    """Explain a few test images with both models; returns the folder of examples."""
    context.reporter.stage("Compare what both models look at")

    def make(folder: Path) -> None:
        test = context.data.test
        chosen = context.spread(test, EXAMPLES)
        images = context.images(test, chosen)
        targets = torch.tensor([_explained(test, index) for index in chosen])
        maps = [_one_by_one(model, images, targets) for model in (dense, slim)]
        masks = _masks(context, test, chosen, targets)
        _store(context, folder, chosen, images, maps, masks, (dense, slim), targets)

    return context.work.stage("evidence", make, lambda folder: folder)


def _one_by_one(model: Captured, images: Tensor, targets: Tensor) -> Tensor:
    """Return maps (N, H, W); a model of fixed batch sees each image as often as that."""
    if model.dynamic_batch:
        return heatmaps(model, images, targets)
    size = len(model.sample)
    return torch.cat(
        [
            heatmaps(model, image.repeat(size, 1, 1, 1), target.repeat(size))[:1]
            for image, target in zip(images.split(1), targets, strict=True)
        ]
    )


def _explained(split: Split, index: int) -> int:
    """Return the class to explain: the true one, or the first finding that is present."""
    label = split.labels[index]
    return int(label) if split.labels.ndim == 1 else int(np.argmax(label))


def _masks(
    context: Context, split: Split, chosen: list[int], targets: Tensor
) -> np.ndarray | None:
    """Return where each explained finding is, (N, H, W), where the data knows it."""
    known = context.data.masks
    if known is None:
        return None
    size = context.preprocessing.size
    masks = []
    for index, target in zip(chosen, targets.tolist(), strict=True):
        own = known.get(split.ids[index])
        mask = np.zeros(size, np.uint8) if own is None else own[target].astype(np.uint8) * 255
        resized = Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.BILINEAR)
        masks.append(np.asarray(resized) > 127)  # noqa: PLR2004 - half
    return np.stack(masks)


def _store(  # noqa: PLR0913, PLR0917 - the columns of one table
    context: Context,
    folder: Path,
    chosen: list[int],
    images: Tensor,
    maps: list[Tensor],
    masks: np.ndarray | None,
    models: tuple[Captured, Captured],
    targets: Tensor,
) -> None:
    test, classes = context.data.test, context.data.classes
    pixels = np.stack([fit(test.images[index], context.preprocessing) for index in chosen])
    arrays: dict[str, Any] = {
        "images": pixels[..., 0] if pixels.shape[-1] == 1 or _grey(pixels) else pixels,
        "dense": maps[0].numpy().astype(np.float16),
        "slim": maps[1].numpy().astype(np.float16),
    }
    if masks is not None:
        arrays["masks"] = masks
    np.savez_compressed(folder / "examples.npz", **arrays)
    alike = similarity(maps[0], maps[1]).tolist()
    said = [_predictions(context, model, images, targets) for model in models]
    write_json(
        folder / "examples.json",
        {
            "method": METHOD,
            "examples": [
                {
                    "id": test.ids[index],
                    "label": classes[int(targets[row])],
                    "dense": said[0][row],
                    "slim": said[1][row],
                    "similarity": round(alike[row], 4) if np.isfinite(alike[row]) else None,
                    "mass_in_mask": _mass(maps, masks, row),
                }
                for row, index in enumerate(chosen)
            ],
        },
    )


def _grey(pixels: np.ndarray) -> bool:
    return bool((pixels == pixels[..., :1]).all())


def _mass(maps: list[Tensor], masks: np.ndarray | None, row: int) -> dict[str, float] | None:
    if masks is None or not masks[row].any():
        return None
    mask = torch.from_numpy(masks[row : row + 1])
    dense, slim = (float(mass_in_mask(each[row : row + 1], mask)[0]) for each in maps)
    return {"dense": round(dense, 4), "slim": round(slim, 4)}


def _predictions(
    context: Context, model: Captured, images: Tensor, targets: Tensor
) -> list[dict[str, Any]]:
    """Return what a model says of each image, and how probable it finds the true class."""
    multi_label = context.data.multi_label
    with torch.no_grad():
        size = len(model.sample)
        logits = (
            model.module(images)
            if model.dynamic_batch
            else torch.cat([model.module(i.repeat(size, 1, 1, 1))[:1] for i in images.split(1)])
        )
    shares = probabilities(logits, multi_label=multi_label)
    classes = context.data.classes
    return [
        {
            "class": classes[int(row.argmax())] if not multi_label else classes[int(target)],
            "probability": round(float(row.max() if not multi_label else row[target]), 4),
        }
        for row, target in zip(shares, targets.tolist(), strict=True)
    ]
