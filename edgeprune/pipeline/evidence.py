"""Whether the slim model still looks at the same evidence: examples with heat maps."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeprune.analysis.heatmaps import heatmaps, mass_in_mask, similarity
from edgeprune.attribution.samplers import NO_FINDING
from edgeprune.capture import Captured
from edgeprune.data import Split
from edgeprune.data.preprocessing import fit
from edgeprune.files import write_json
from edgeprune.pipeline.context import Context, logits_of, probabilities

EXAMPLES: Final = 8
METHOD: Final = "Integrated Gradients on the image, for the logit of the true class"
FINDINGS_METHOD: Final = (
    "Integrated Gradients on the image, for the logit of the rarest finding that is present; "
    f"where there is {NO_FINDING}, of the one that the dense model finds likeliest"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Shown:
    """The chosen test images.

    Attributes:
        chosen: positions in the test split.
        images: prepared, (N, C, H, W).
        targets: the class that is explained in each, int64 (N,).
        present: whether the image is of that class, bool (N,).
        shares: probabilities by model, (N, K).
        maps: heat maps by model, (N, H, W).
        masks: where the class shows, bool (N, H, W), or None where the data do not know.
    """

    chosen: list[int]
    images: Tensor
    targets: Tensor
    present: list[bool]
    shares: dict[str, Tensor]
    maps: dict[str, Tensor]
    masks: NDArray[np.bool_] | None


def evidence_stage(context: Context, dense: Captured, slim: Captured) -> Path:
    """Explain a few test images with both models; returns the folder of examples."""

    def make(folder: Path) -> None:
        shown = _show(context, {"dense": dense, "slim": slim})
        np.savez_compressed(folder / "examples.npz", **_arrays(context, shown))
        method = FINDINGS_METHOD if context.data.multi_label else METHOD
        examples = [_example(context, shown, row) for row in range(len(shown.chosen))]
        write_json(folder / "examples.json", {"method": method, "examples": examples})

    return context.stage("evidence", "Compare what both models look at", make, lambda f: f)


def _show(context: Context, models: dict[str, Captured]) -> _Shown:
    test, multi_label = context.data.test, context.data.multi_label
    chosen = context.spread(test, EXAMPLES)
    images = context.images(test, chosen)
    shares = {
        name: probabilities(logits_of(model, images), multi_label=multi_label)
        for name, model in models.items()
    }
    targets, present = _explained(test, chosen, shares["dense"])
    return _Shown(
        chosen=chosen,
        images=images,
        targets=targets,
        present=present,
        shares=shares,
        maps={name: heatmaps(model, images, targets) for name, model in models.items()},
        masks=_masks(context, chosen, targets),
    )


def _explained(test: Split, chosen: list[int], dense: Tensor) -> tuple[Tensor, list[bool]]:
    """Return the class to explain in each image, and whether the image is of it.

    Of several findings it is the one with the fewest test images, so that the
    long tail is seen; of none, the likeliest by the dense model's ``dense`` (N, K).
    """
    labels = test.labels[chosen]
    if labels.ndim == 1:
        return torch.from_numpy(labels), [True] * len(chosen)
    rarity = np.where(labels > 0, test.labels.sum(axis=0), np.inf).argmin(axis=1)
    present = [bool(row.any()) for row in labels]
    return torch.from_numpy(np.where(present, rarity, dense.argmax(1).numpy())), present


def _masks(context: Context, chosen: list[int], targets: Tensor) -> NDArray[np.bool_] | None:
    """Return where each explained finding is, (N, H, W), where the data know it."""
    known, test = context.data.masks, context.data.test
    if known is None:
        return None
    masks = []
    for index, target in zip(chosen, targets.tolist(), strict=True):
        own = known.get(test.ids[index])
        whole = np.zeros(test.images[index].shape[:2], bool) if own is None else own[target]
        # As an image, so that it is resized and cropped like the one it belongs to.
        masks.append(fit(whole.astype(np.uint8) * 255, context.preprocessing)[..., 0] > 127)
    return np.stack(masks)


def _arrays(context: Context, shown: _Shown) -> dict[str, Any]:
    images = context.data.test.images
    pixels = np.stack([fit(images[index], context.preprocessing) for index in shown.chosen])
    grey = bool((pixels == pixels[..., :1]).all())
    arrays: dict[str, Any] = {"images": pixels[..., 0] if grey else pixels}
    arrays |= {name: maps.numpy().astype(np.float16) for name, maps in shown.maps.items()}
    return arrays if shown.masks is None else arrays | {"masks": shown.masks}


def _example(context: Context, shown: _Shown, row: int) -> dict[str, Any]:
    classes = context.data.classes
    explained = classes[int(shown.targets[row])]
    maps = {name: maps[row : row + 1] for name, maps in shown.maps.items()}
    alike = float(similarity(maps["dense"], maps["slim"])[0])
    return {
        "id": context.data.test.ids[shown.chosen[row]],
        "label": explained if shown.present[row] else NO_FINDING,
        "explained": explained,
        **{name: _said(context, shown, name, row) for name in maps},
        "similarity": round(alike, 4) if np.isfinite(alike) else None,
        "mass_in_mask": _mass(maps, shown.masks, row),
    }


def _said(context: Context, shown: _Shown, name: str, row: int) -> dict[str, Any]:
    """Return what a model says of an image, in the terms of the image's label.

    That is the likeliest class; of findings, how probable the explained one is,
    or that there is none of any.
    """
    classes, shares = context.data.classes, shown.shares[name][row]
    if not context.data.multi_label:
        said, share = classes[int(shares.argmax())], float(shares.max())
    elif shown.present[row]:
        said = classes[int(shown.targets[row])]
        share = float(shares[shown.targets[row]])
    else:
        said, share = NO_FINDING, 1 - float(shares.max())
    return {"class": said, "probability": round(share, 4)}


def _mass(
    maps: dict[str, Tensor], masks: NDArray[np.bool_] | None, row: int
) -> dict[str, float] | None:
    if masks is None or not masks[row].any():
        return None
    mask = torch.from_numpy(masks[row : row + 1])
    return {name: round(float(mass_in_mask(each, mask)[0]), 4) for name, each in maps.items()}
