import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import timm.data
from PIL import Image

from edgeprune.data import Preprocessing, preprocess, preprocessing_from_timm
from edgeprune.data.preprocessing import INTERPOLATIONS
from edgeprune.errors import DataError

CFG: dict[str, Any] = {
    "input_size": (3, 96, 96),
    "interpolation": "bicubic",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "crop_pct": 0.875,
    "crop_mode": "center",
}
HOW = preprocessing_from_timm(CFG)


def _noise(*shape: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("shape", [(120, 220, 3), (220, 120, 3), (96, 96, 3), (28, 29), (301, 77)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("mode", ["center", "squash"])
def test_preprocessing_equals_timms_own(
    shape: tuple[int, ...], interpolation: str, mode: str
) -> None:
    cfg = CFG | {"interpolation": interpolation, "crop_mode": mode}
    transform = timm.data.create_transform(**cfg, is_training=False)
    picture = _noise(*shape)
    how = preprocessing_from_timm(cfg)
    source = Image.fromarray(picture).convert("RGB")
    if mode == "squash" and shape[0] > shape[1]:
        # Pillow 13 does the rows of such an image first, and older ones and ours the columns.
        source = source.resize((how.scaled_size[1], shape[0]), INTERPOLATIONS[interpolation])
    theirs = transform(source).numpy()
    ours = preprocess(picture, how)
    assert ours.dtype == np.float32
    assert ours.shape == (3, 96, 96)
    assert ours == pytest.approx(theirs, abs=2e-6)


def test_grey_is_repeated_and_colour_becomes_luma() -> None:
    identity = Preprocessing(
        size=(4, 4),
        channels=3,
        resize="squash",
        crop_pct=1.0,
        interpolation="nearest",
        mean=(0, 0, 0),
        std=(1, 1, 1),
    )
    grey, colour = _noise(4, 4), _noise(4, 4, 3)
    assert preprocess(grey, identity)[2] == pytest.approx(grey / 255, abs=1e-6)
    luma = preprocess(colour, replace(identity, channels=1, mean=(0,), std=(1,)))
    assert luma.shape == (1, 4, 4)
    assert luma[0] * 255 == pytest.approx(colour @ [0.299, 0.587, 0.114], abs=0.51)


def test_a_size_can_override_timms_and_one_channel_gets_the_mean_statistics() -> None:
    how = preprocessing_from_timm(CFG | {"input_size": (1, 224, 224)}, image_size=64)
    assert how.size == (64, 64)
    assert how.mean == pytest.approx((0.449,))
    assert how.std == pytest.approx((0.226,))


def test_steps_survive_json() -> None:
    how = replace(HOW, size=(96, 64), crop_pct=0.9, resize="squash")
    assert Preprocessing.from_dict(json.loads(json.dumps(how.to_dict()))) == how


def test_steps_name_every_operation_in_order() -> None:
    steps = HOW.to_dict()["steps"]
    assert [step["op"] for step in steps] == [
        "resize",
        "center_crop",
        "to_channels",
        "scale",
        "normalize",
    ]
    assert steps[0]["size"] == [109, 109]
    assert steps[3]["by"] == 1 / 255


def _altered(step: int, field: str, value: object) -> dict[str, Any]:
    steps = HOW.to_dict()
    steps["steps"][step][field] = value
    return steps


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (_altered(0, "op", "pad"), r"\['pad', 'center_crop'.*knows \['resize'"),
        (_altered(0, "angle", 3), "'resize' has the unknown field 'angle'"),
        (_altered(0, "size", [200, 200]), r"size \[200, 200\].*make it \[109, 109\]"),
        (_altered(3, "by", 0.5), "'scale' has by 0.5"),
        (_altered(0, "interpolation", "lanczos"), "'lanczos', not one of nearest, bilinear"),
        (_altered(0, "interpolation", []), "interpolation is"),
        (_altered(1, "size", "big"), "center_crop.size is 'big'"),
        (_altered(1, "crop_pct", 1.5), "crop_pct is 1.5"),
        (_altered(2, "channels", 4), "channels is 4"),
        (_altered(4, "std", [1, 0, 1]), "above 0"),
        (_altered(4, "mean", [0.5]), "each of 3 channels"),
        ({"steps": HOW.to_dict()["steps"], "colour": 1}, "'colour'"),
        ({}, "list of 'steps'"),
    ],
)
def test_what_is_wrong_with_written_steps_is_named(steps: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Preprocessing.from_dict(steps)


def test_a_missing_field_is_named() -> None:
    steps = HOW.to_dict()
    del steps["steps"][4]["std"]
    with pytest.raises(DataError, match="'normalize' misses field 'std'"):
        Preprocessing.from_dict(steps)


def test_an_unsupported_crop_mode_is_named() -> None:
    with pytest.raises(DataError, match="resize is 'border', not one of shortest, squash"):
        preprocessing_from_timm(CFG | {"crop_mode": "border"})


def test_an_image_of_another_type_is_refused() -> None:
    with pytest.raises(DataError, match=r"float64 \(4, 4\)"):
        preprocess(np.zeros((4, 4)), HOW)  # type: ignore[arg-type]
