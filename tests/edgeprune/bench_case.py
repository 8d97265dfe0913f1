"""Tiny networks, as files and as a bundle, that can be measured in no time."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeprune.bundle import write_manifest
from edgeprune.data import preprocessing_from_timm
from edgeprune.files import write_json
from edgeprune.source import DEFAULT_CONFIG
from edgeprune_benchmarks.codec import encode
from edgeprune_benchmarks.metrics import classification_metrics

EDGE = 24
CLASSES = ("0", "1", "2")
HOW = preprocessing_from_timm(
    dict(DEFAULT_CONFIG) | {"input_size": (3, EDGE, EDGE), "crop_pct": 1.0}
)


def write_net(
    path: Path,
    width: int = 8,
    *,
    classes: int = len(CLASSES),
    edge: int = EDGE,
    batch: int | None = None,
    told: bool = False,
) -> Path:
    """Write a network of two convolutions as ONNX, and return its path.

    batch: the only one it takes; None for any. told: it says how images are prepared,
    and what the classes are called.
    """
    rng = np.random.default_rng(width)
    shapes = {
        "first": (width, 3, 3, 3),
        "second": (width, width, 3, 3),
        "head": (width * (edge // 8) ** 2, classes),
    }
    weights = {
        name: (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        for name, shape in shapes.items()
    }
    nodes = [
        helper.make_node("Conv", ["images", "first"], ["a"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "second"], ["c"], name="second", pads=[1, 1, 1, 1]),
        # Coarse, so that it still tells where a square is.
        helper.make_node("AveragePool", ["c"], ["d"], "pool", kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Flatten", ["d"], ["e"], name="flat"),
        helper.make_node("MatMul", ["e", "head"], ["logits"], name="head"),
    ]
    kind, size = TensorProto.FLOAT, batch or "batch"
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("images", kind, [size, 3, edge, edge])],
        [helper.make_tensor_value_info("logits", kind, [size, classes])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if told:
        texts = {
            "edgeprune.preprocessing": json.dumps(HOW.to_dict()),
            "edgeprune.classes": json.dumps(list(CLASSES)),
        }
        helper.set_model_props(model, texts)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def write_bundle(folder: Path) -> Path:
    """Write a bundle of a wide network that was made narrow, in ONNX, with its accuracy."""
    slim = write_net(folder / "artifacts" / "onnx" / "model.onnx", 4)
    work = folder.with_name(folder.name + ".work")
    dense = write_net(work / "artifacts" / "dense" / "onnx" / "model.onnx", 32)
    golden = np.random.default_rng(0).standard_normal((4, 3, EDGE, EDGE), np.float32)
    (folder / "golden").mkdir()
    np.save(folder / "golden" / "inputs.npy", golden)
    document = {
        "source": {"name": "tiny"},
        "target": {"measured_in": "onnxruntime", "precision": "fp32", "threads": 1},
        "data": {"name": "squares.npz", "classes": list(CLASSES)},
        "preprocessing": HOW.to_dict(),
        "settings": {"seed": 0},
        "results": {
            "dense": {"params": 1000, "macs": 2000},
            "slim": {"params": 100, "macs": 200},
        },
        "artifacts": [
            _listed("slim", slim, "artifacts/onnx/model.onnx"),
            _listed("dense", dense, "onnx/model.onnx"),
        ],
    }
    write_manifest(folder, document)
    return folder


def _listed(model: str, path: Path, name: str) -> Mapping[str, Any]:
    labels = np.arange(24) % 3
    logits = np.eye(3)[labels] if model == "dense" else np.eye(3)[(labels * 2) % 3]
    file = {"path": name, "bytes": path.stat().st_size, "in_bundle": model == "slim"}
    return {
        "model": model,
        "format": "onnx",
        "runtime": "onnxruntime",
        "precision": "fp32",
        "files": [file],
        "metrics": encode(classification_metrics(logits, labels, CLASSES)),
    }


def rewrite(bundle: Path, **changes: Any) -> None:
    """Change fields of a bundle's manifest."""
    path = bundle / "bundle.json"
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | changes)
