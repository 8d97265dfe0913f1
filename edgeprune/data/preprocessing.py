"""Preprocessing as data: from a decoded image to what the model is fed.

It is written down as explicit steps, so that a device without timm or torch can
do exactly the same. Geometry comes first and stays in uint8, as in timm's own
evaluation transform; everything after it is a formula per pixel.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from edgeprune.data.splits import Image
from edgeprune.errors import DataError

RESIZES: Final = ("shortest", "squash")
INTERPOLATIONS: Final = {
    "nearest": Pillow.Resampling.NEAREST,
    "bilinear": Pillow.Resampling.BILINEAR,
    "bicubic": Pillow.Resampling.BICUBIC,
}
SCALE: Final = 1 / 255


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How images become model input.

    size: (H, W) in pixels. channels: 1 or 3; grey is repeated, colour becomes luma
    (ITU-R BT.601). resize: "shortest" keeps the aspect and scales until size /
    crop_pct is covered, "squash" scales both edges to it; the centre is then cut
    out. mean, std: per channel, of values in 0 to 1. Raises DataError.
    """

    size: tuple[int, int]
    channels: int
    resize: str
    crop_pct: float
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse values that no image could be prepared with."""
        if problem := _problem(self):
            raise DataError(f"preprocessing: {problem}")

    @property
    def scaled_size(self) -> tuple[int, int]:
        """(H, W) that the resized image covers before its centre is cut out."""
        return math.floor(self.size[0] / self.crop_pct), math.floor(self.size[1] / self.crop_pct)

    def to_dict(self) -> dict[str, Any]:
        """Write the steps in the order in which they are done, as JSON values."""
        resize = {"edges": self.resize, "size": list(self.scaled_size)}
        resample = {"interpolation": self.interpolation, "antialias": True}
        return {
            "steps": [
                {"op": "resize", **resize, **resample},
                {"op": "center_crop", "size": list(self.size), "crop_pct": self.crop_pct},
                {"op": "to_channels", "channels": self.channels},
                {"op": "scale", "by": SCALE},
                {"op": "normalize", "mean": list(self.mean), "std": list(self.std)},
            ]
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Preprocessing:
        """Read the steps back; a DataError names whatever is unknown, missing or altered."""
        resize, crop, channels, _, normalize = _read_steps(data)
        how = cls(
            size=_tuple("center_crop.size", crop["size"]),
            channels=channels["channels"],
            resize=resize["edges"],
            crop_pct=crop["crop_pct"],
            interpolation=resize["interpolation"],
            mean=_tuple("normalize.mean", normalize["mean"]),
            std=_tuple("normalize.std", normalize["std"]),
        )
        # Fields that follow from others are in the file for the device; they have to agree.
        for written, step in zip(data["steps"], how.to_dict()["steps"], strict=True):
            for field, value in step.items():
                if written[field] != value:
                    raise DataError(
                        f"preprocessing step '{step['op']}' has {field} "
                        f"{json.dumps(written[field])}, but its other values make it "
                        f"{json.dumps(value)}"
                    )
        return how


def preprocessing_from_timm(
    cfg: Mapping[str, Any], *, image_size: int | None = None
) -> Preprocessing:
    """Read timm's resolved data configuration or pretrained_cfg; image_size overrides its size.

    A model with one input channel and statistics of three gets their mean. Raises DataError.
    """
    channels, height, width = cfg.get("input_size", (3, 224, 224))
    mean, std = (tuple(float(value) for value in cfg[key]) for key in ("mean", "std"))
    if channels == 1 and len(mean) == len(std) == 3:
        mean, std = (sum(mean) / 3,), (sum(std) / 3,)
    mode = cfg.get("crop_mode") or "center"
    return Preprocessing(
        size=(height, width) if image_size is None else (image_size, image_size),
        channels=channels,
        resize={"center": "shortest", "squash": "squash"}.get(mode, mode),
        crop_pct=float(cfg.get("crop_pct") or 0.875),
        interpolation=cfg.get("interpolation") or "bicubic",
        mean=mean,
        std=std,
    )


def preprocess(image: Image, how: Preprocessing) -> NDArray[np.float32]:
    """Prepare one image: uint8 (H, W) or (H, W, 3) to float32 (C, H, W). Raises DataError."""
    prepared: NDArray[np.float32] = normalize(fit(image, how)[None], how)[0]
    return prepared


def fit(image: Image, how: Preprocessing) -> Image:
    """Resize, crop and convert: uint8 (H, W) or (H, W, 3) to uint8 (H, W, C). Raises DataError."""
    if image.dtype != np.uint8 or not (image.ndim == 2 or image.shape[2:] == (3,)):
        raise DataError(
            f"an image is uint8 (H, W) or (H, W, 3), not {image.dtype} {tuple(image.shape)}"
        )
    height, width = _resized(image.shape[:2], how)
    resample = INTERPOLATIONS[how.interpolation]
    # One axis at a time: which goes first changes pixels, and Pillow 13 chooses it by the shape.
    picture = Pillow.fromarray(image).resize((width, image.shape[0]), resample)
    picture = picture.resize((width, height), resample)
    top, left = round((height - how.size[0]) / 2), round((width - how.size[1]) / 2)
    picture = picture.crop((left, top, left + how.size[1], top + how.size[0]))
    return np.asarray(picture.convert("L" if how.channels == 1 else "RGB")).reshape(
        *how.size, how.channels
    )


def normalize(images: Image, how: Preprocessing) -> NDArray[np.float32]:
    """Scale and standardise: uint8 (B, H, W, C) to float32 (B, C, H, W)."""
    mean, std = np.array([how.mean, how.std], dtype=np.float32)
    values: NDArray[np.float32] = (images.astype(np.float32) * np.float32(SCALE) - mean) / std
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


def _resized(shape: Sequence[int], how: Preprocessing) -> tuple[int, int]:
    height, width = how.scaled_size
    if how.resize == "squash":
        return height, width
    # Whole-number division, as torchvision rounds: a float here moves the crop by a pixel.
    return max(height, shape[0] * width // shape[1]), max(width, shape[1] * height // shape[0])


def _read_steps(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Check the names of the steps and of their fields against a freshly written form."""
    example = Preprocessing(
        size=(1, 1),
        channels=1,
        resize="squash",
        crop_pct=1.0,
        interpolation="nearest",
        mean=(0.0,),
        std=(1.0,),
    ).to_dict()["steps"]
    steps = data.get("steps")
    if set(data) != {"steps"} or not isinstance(steps, list):
        raise DataError(f"preprocessing has the fields {sorted(data)}, not a list of 'steps'")
    ops = [step.get("op") if isinstance(step, Mapping) else step for step in steps]
    known = [step["op"] for step in example]
    if ops != known:
        raise DataError(f"preprocessing has the steps {ops}; this version knows {known}")
    for step, wanted in zip(steps, example, strict=True):
        for field in sorted(set(step) ^ set(wanted)):
            verb = "misses" if field in wanted else "has the unknown"
            raise DataError(f"preprocessing step '{step['op']}' {verb} field '{field}'")
    return steps


def _tuple(name: str, value: object) -> tuple[Any, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise DataError(f"preprocessing: {name} is {value!r}, not a list of numbers")
    return tuple(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _problem(how: Preprocessing) -> str | None:
    """Say what is wrong with the values, or None."""
    checks = (
        (
            len(how.size) == 2 and all(type(edge) is int and edge > 0 for edge in how.size),
            f"size is {how.size}, not (height, width) in pixels",
        ),
        (
            type(how.channels) is int and how.channels in (1, 3),
            f"channels is {how.channels}; models with 1 or 3 are supported",
        ),
        (str(how.resize) in RESIZES, f"resize is {how.resize!r}, not one of {', '.join(RESIZES)}"),
        (
            _is_number(how.crop_pct) and 0 < how.crop_pct <= 1,
            f"crop_pct is {how.crop_pct!r}, not a share above 0 and up to 1",
        ),
        (
            str(how.interpolation) in INTERPOLATIONS,
            f"interpolation is {how.interpolation!r}, not one of {', '.join(INTERPOLATIONS)}",
        ),
        *(
            (
                len(values) == how.channels and all(map(_is_number, values)),
                f"{name} is {values}, not one number for each of {how.channels} channels",
            )
            for name, values in (("mean", how.mean), ("std", how.std))
        ),
    )
    if problem := next((problem for good, problem in checks if not good), None):
        return problem
    return None if min(how.std) > 0 else f"std is {how.std}: every value has to be above 0"
