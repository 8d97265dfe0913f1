"""Classifiers of bright squares that need no training: each class looks at its own place."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeprune.bundle import write_manifest
from edgeprune.data import Preprocessing, preprocessing_from_timm
from edgeprune.source import DEFAULT_CONFIG

EDGE, CHANNELS, CLASSES = 24, 3, 3


def how() -> Preprocessing:
    """Return how images are prepared: as they are, standardised."""
    size = {"input_size": (CHANNELS, EDGE, EDGE), "crop_pct": 1.0}
    return preprocessing_from_timm(dict(DEFAULT_CONFIG) | size)


def masks(order: Sequence[int] = range(CLASSES)) -> NDArray[np.float32]:
    """Return weights (C·H·W, K); class k looks for the square of class ``order[k]``."""
    found = np.zeros((CHANNELS, EDGE, EDGE, CLASSES), np.float32)
    for column, which in enumerate(order):
        found[:, 8:14, 1 + 7 * which : 7 + 7 * which, column] = 1 / 108
    return found.reshape(-1, CLASSES)


def write_classifier(
    path: Path, *, order: Sequence[int] = range(CLASSES), layers: int = 0, classes: int = CLASSES
) -> Path:
    """Write it as ONNX, behind ``layers`` convolutions that change nothing."""
    identity = np.zeros((CHANNELS, CHANNELS, 5, 5), np.float32)
    identity[range(CHANNELS), range(CHANNELS), 2, 2] = 1
    values = ["image", *(f"c{k}" for k in range(layers))]
    nodes = [
        helper.make_node("Conv", [before, "same"], [after], pads=[2, 2, 2, 2])
        for before, after in pairwise(values)
    ]
    nodes += [
        helper.make_node("Flatten", [values[-1]], ["flat"]),
        helper.make_node("MatMul", ["flat", "masks"], ["logits"]),
    ]
    weight = np.resize(masks(order).T, (classes, CHANNELS * EDGE * EDGE)).T
    stored = {"masks": np.ascontiguousarray(weight)} | ({"same": identity} if layers else {})
    shapes = {"image": ["batch", CHANNELS, EDGE, EDGE], "logits": ["batch", classes]}
    image, logits = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    )
    graph = helper.make_graph(
        nodes,
        "squares",
        [image],
        [logits],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {"edgeprune.preprocessing": json.dumps(how().to_dict())})
    onnx.save(model, path)
    return path


def write_bundle(folder: Path, *, order: Sequence[int] = range(CLASSES)) -> Path:
    """Write a bundle whose slim artifact is the classifier."""
    place = folder / "artifacts" / "onnx"
    place.mkdir(parents=True)
    path = write_classifier(place / "model.onnx", order=order)
    file = {"path": "artifacts/onnx/model.onnx", "bytes": path.stat().st_size, "in_bundle": True}
    entry = {"model": "slim", "format": "onnx", "precision": "fp32", "files": [file]}
    document = {
        "source": {"name": "squares"},
        "target": {"measured_in": "onnxruntime", "precision": "fp32", "threads": 1},
        "data": {"name": "squares.npz", "classes": ["0", "1", "2"]},
        "preprocessing": how().to_dict(),
        "settings": {"seed": 0},
        "artifacts": [entry],
    }
    write_manifest(folder, document)
    return folder


def write_images(path: Path, *, test: int = 300, seed: int = 0) -> Path:
    """Write grey images of one bright square each, whose place tells the class."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for split, count in {"train": 30, "val": 12, "test": test}.items():
        images = rng.integers(0, 60, (count, EDGE, EDGE)).astype(np.uint8)
        labels = np.arange(count) % CLASSES
        for image, label in zip(images, labels, strict=True):
            image[8:14, 1 + 7 * label : 7 + 7 * label] = 230
        arrays |= {f"{split}_images": images, f"{split}_labels": labels[:, None]}
    np.savez(path, **arrays)
    return path
