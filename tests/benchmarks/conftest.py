"""Tiny real artifacts, and the numbers they must give."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SIZE = 16
CHANNELS = 3
CLASSES = 4


@dataclass(frozen=True, kw_only=True)
class Tiny:
    """One network as every file we can measure: mean over pixels, then a matrix."""

    onnx: Path
    ir: Path
    weight: NDArray[np.float32]  # (C, K)

    def expected(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(images.mean(axis=(2, 3)) @ self.weight)


def images(count: int, *, seed: int = 0) -> NDArray[np.float32]:
    shape = (count, CHANNELS, SIZE, SIZE)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def write_network(
    path: Path,
    weight: NDArray[np.generic],
    *,
    batch: int | str = "batch",
    layers: int = 0,
) -> Path:
    """Write ``layers`` 3×3 convolutions (identity), the mean over pixels, and a matrix."""
    identity = np.zeros((CHANNELS, CHANNELS, 3, 3), np.float32)
    identity[range(CHANNELS), range(CHANNELS), 1, 1] = 1
    nodes, name = [], "image"
    for k in range(layers):
        nodes.append(helper.make_node("Conv", [name, "same"], [f"c{k}"], pads=[1, 1, 1, 1]))
        name = f"c{k}"
    kind = helper.np_dtype_to_tensor_dtype(weight.dtype)
    nodes += [
        helper.make_node("GlobalAveragePool", [name], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("Cast", ["weight"], ["matrix"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["features", "matrix"], ["logits"]),
    ]
    source = helper.make_tensor_value_info(
        "image", TensorProto.FLOAT, [batch, CHANNELS, SIZE, SIZE]
    )
    target = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, CLASSES])
    stored = [numpy_helper.from_array(weight, "weight")]
    stored += [numpy_helper.from_array(identity, "same")] if layers else []
    graph = helper.make_graph(nodes, "tiny", [source], [target], stored)
    assert kind in {t.data_type for t in stored}
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)
    return path


def random_weight() -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=(CHANNELS, CLASSES)).astype(np.float32)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    from edgeprune_exporters.runtimes import import_openvino

    ov = import_openvino()

    folder = tmp_path_factory.mktemp("tiny")
    weight = random_weight()
    path = write_network(folder / "tiny.onnx", weight)
    ov.save_model(ov.Core().read_model(path), folder / "tiny.xml", compress_to_fp16=False)
    return Tiny(onnx=path, ir=folder / "tiny.xml", weight=weight)


@pytest.fixture
def heavy(tmp_path: Path) -> Path:
    """The same function, at many times the work."""
    return write_network(tmp_path / "heavy.onnx", random_weight(), layers=60)


@pytest.fixture
def network(tmp_path: Path) -> Callable[..., Path]:
    def write(**how: object) -> Path:
        weight = how.pop("weight", random_weight())
        return write_network(tmp_path / "network.onnx", weight, **how)  # type: ignore[arg-type]

    return write
