"""A recipe folder as the exporter writes it, of a tiny network, and ways to run its run.py."""

import argparse
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edgeprune_exporters import tensorrt

RUN = Path(tensorrt.__file__).with_name("run.py")
SIZE, CLASSES, MOST = 8, 5, 8
FLAGS = {"fp32": [], "fp16": ["FP16"], "int8": ["INT8", "FP16"]}
DEFAULTS = argparse.Namespace(workspace=None, dla=None, level=None)


def network(precision: str = "fp32", batch: int | str = "batch") -> onnx.ModelProto:
    """A convolution, a mean over pixels and a matrix, in the types that the precision asks for."""
    rng = np.random.default_rng(0)
    weights = {
        "kernel": rng.normal(size=(6, 3, 3, 3)).astype(np.float32),
        "matrix": rng.normal(size=(6, CLASSES)).astype(np.float32),
    }
    if precision == "fp16":
        weights = {name: value.astype(np.float16) for name, value in weights.items()}
    half, node = int(TensorProto.FLOAT16), helper.make_node
    source, nodes = "images", []
    if precision == "fp16":
        source, nodes = "cast", [node("Cast", ["images"], ["cast"], "narrow", to=half)]
    if precision == "int8":
        weights |= {"scale": np.float32(4 / 127), "zero": np.int8(0)}
        for name in ("images", "kernel"):
            nodes += [
                node("QuantizeLinear", [name, "scale", "zero"], [f"{name}_q"], f"quantize {name}"),
                node(
                    "DequantizeLinear", [f"{name}_q", "scale", "zero"], [f"{name}_d"], f"d {name}"
                ),
            ]
        source = "images_d"
    kernel = "kernel_d" if precision == "int8" else "kernel"
    last = "sums" if precision == "fp16" else "logits"
    nodes += [
        node("Conv", [source, kernel], ["features"], "stem", pads=[1, 1, 1, 1]),
        node("Relu", ["features"], ["positive"], "activation"),
        node("GlobalAveragePool", ["positive"], ["pooled"], "pool"),
        node("Flatten", ["pooled"], ["flat"], "flatten"),
        node("MatMul", ["flat", "matrix"], [last], "head"),
    ]
    if precision == "fp16":
        nodes += [node("Cast", ["sums"], ["logits"], "widen", to=int(TensorProto.FLOAT))]
    shape = [batch, 3, SIZE, SIZE]
    ends = [
        helper.make_tensor_value_info("images", TensorProto.FLOAT, shape),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, CLASSES]),
    ]
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "tiny", ends[:1], ends[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_recipe(
    folder: Path,
    precision: str = "fp16",
    *,
    graph: onnx.ModelProto | None = None,
    batch: int | str = "batch",
    **changes: object,
) -> Path:
    """Write graph, golden vectors, recipe and run.py into a new folder; return the folder.

    Args:
        folder: to make.
        precision: of the graph, and what the recipe asks for.
        graph: instead of the one of that precision.
        batch: the batch size of the graph, and of the recipe.
        changes: fields of the recipe to replace.
    """
    folder.mkdir()
    images = np.random.default_rng(1).normal(size=(5, 3, SIZE, SIZE)).astype(np.float32)
    session = onnxruntime.InferenceSession(network().SerializeToString())
    np.save(folder / "golden_inputs.npy", images)
    np.save(folder / "golden_outputs.npy", session.run(None, {"images": images})[0])
    onnx.save(graph or network(precision, batch), folder / "model.onnx")
    sizes = {"min": 1, "opt": 1, "max": MOST}
    profile = {name: [size, 3, SIZE, SIZE] for name, size in sizes.items()}
    recipe: dict[str, Any] = {
        "format": "edgeprune-tensorrt-recipe",
        "version": 1,
        "target": "jetson-orin-nano",
        "onnx": "model.onnx",
        "opset": 17,
        "precision": precision,
        "flags": FLAGS[precision],
        "input": "images",
        "output": "logits",
        "profile": profile if batch == "batch" else None,
        "workspace_mb": 64,
        "dla_core": None,
        "tensorrt": {"expected": "10.3", "least": "8.5", "below": None},
        "golden": {
            "inputs": "golden_inputs.npy",
            "outputs": "golden_outputs.npy",
            "tolerance": {"fp32": 1e-5, "fp16": 2e-3, "int8": 0.05}[precision],
            "agreement": 1.0,
        },
        "files": {path.name: sha256(path) for path in folder.iterdir()},
    }
    (folder / "recipe.json").write_text(json.dumps({**recipe, **changes}))
    (folder / "run.py").write_bytes(RUN.read_bytes())
    return folder


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def seal(folder: Path) -> None:
    """Give the recipe the hashes of the files as they are now."""
    path = folder / "recipe.json"
    recipe = json.loads(path.read_text())
    recipe["files"] = {name: sha256(folder / name) for name in recipe["files"]}
    path.write_text(json.dumps(recipe))


def program(
    folder: Path, site: Path | None, *words: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run run.py as on a device, from another folder."""
    names = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    paths = {"PYTHONPATH": str(site)} if site else {}
    return subprocess.run(
        [sys.executable, "-W", "error", str(folder / "run.py"), *words],
        capture_output=True,
        text=True,
        cwd="/",
        env={**names, **paths, **environment},
        timeout=120,
        check=False,
    )


def imported() -> ModuleType:
    """Import run.py by its path, as a program on a device would that wants its Engine."""
    spec = importlib.util.spec_from_file_location("tensorrt_run", RUN)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def options(**changes: object) -> argparse.Namespace:
    """The command line's options, as they are when left out."""
    return argparse.Namespace(**{**vars(DEFAULTS), **changes})


def header(plan: Path) -> dict[str, Any]:
    """With what the fake TensorRT was asked to build a plan."""
    return dict(json.loads(plan.read_bytes().partition(b"\n")[0]))


def left(folder: Path) -> Sequence[str]:
    """What a build left behind, apart from timings."""
    known = {"golden_inputs.npy", "golden_outputs.npy", "model.onnx", "recipe.json", "run.py"}
    return sorted({path.name for path in folder.iterdir()} - known - {"__pycache__"})
