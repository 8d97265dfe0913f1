"""Two versions of a small network whose layers are known one by one."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import NodeProto, TensorProto, checker, helper, numpy_helper, save

from edgeprune_benchmarks.layer_values import Layer, LayerTime, Work

SIZE = 8


@dataclass(frozen=True, kw_only=True)
class Widths:
    """Channels after the stem, the 3×3 and the 1×1 convolution."""

    stem: int = 32
    wide: int = 128
    narrow: int = 16


def write_layers(path: Path, widths: Widths, *, batch: int | str = "batch") -> Path:
    """Write stem, 3×3, depthwise and 1×1 convolution, each but the last with ReLU, and a matrix."""
    rng = np.random.default_rng(0)
    w = widths
    shapes = {
        "stem.weight": (w.stem, 3, 3, 3),
        "wide.weight": (w.wide, w.stem, 3, 3),
        "deep.weight": (w.wide, 1, 3, 3),
        "narrow.weight": (w.narrow, w.wide, 1, 1),
        "head.weight": (5, w.narrow),
        "head.bias": (5,),
    }
    nodes: list[NodeProto] = []
    at = "images"
    for name, group in (("stem", 1), ("wide", 1), ("deep", w.wide), ("narrow", 1)):
        pads = [0] * 4 if name == "narrow" else [1] * 4
        inputs, outputs = [at, f"{name}.weight"], [f"{name}.out"]
        nodes.append(
            helper.make_node("Conv", inputs, outputs, f"node_{name}", pads=pads, group=group)
        )
        at = f"{name}.out"
        if name != "narrow":
            nodes.append(helper.make_node("Relu", [at], [f"{name}.relu"], f"node_{name}_relu"))
            at = f"{name}.relu"
    nodes += [
        helper.make_node("GlobalAveragePool", [at], ["pooled"], "node_pool"),
        helper.make_node("Flatten", ["pooled"], ["features"], "node_flatten"),
        helper.make_node(
            "Gemm", ["features", "head.weight", "head.bias"], ["logits"], "node_head", transB=1
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "layers",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 5])],
        [
            numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
            for name, shape in shapes.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model, full_check=True)
    save(model, path)
    return path


def write_branches(path: Path) -> Path:
    """Write two 1×1 convolutions of the same images whose outputs are added."""
    weight = np.ones((4, 3, 1, 1), np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["images", "main.weight"], ["main"], "node_main"),
            helper.make_node("Conv", ["images", "side.weight"], ["side"], "node_side"),
            helper.make_node("Add", ["main", "side"], ["sum"], "node_sum"),
        ],
        "branches",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, [1, 4, SIZE, SIZE])],
        [numpy_helper.from_array(weight, f"{name}.weight") for name in ("main", "side")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save(model, path)
    return path


def macs_of(widths: Widths, batch: int = 1) -> dict[str, int]:
    """Count the network's multiply-accumulates by hand."""
    pixels = batch * SIZE * SIZE
    return {
        "stem.weight": pixels * widths.stem * 3 * 9,
        "wide.weight": pixels * widths.wide * widths.stem * 9,
        "deep.weight": pixels * widths.wide * 9,
        "narrow.weight": pixels * widths.narrow * widths.wide,
        "head.weight": batch * widths.narrow * 5,
    }


def layer_time(
    name: str,
    *,
    type: str = "Convolution",
    ms: float = 1.0,
    precision: str | None = "f32",
    origins: tuple[str, ...] = (),
    shape: tuple[int, ...] | None = None,
) -> LayerTime:
    return LayerTime(name=name, type=type, ms=ms, precision=precision, origins=origins, shape=shape)


def layer(
    name: str,
    ms: float,
    *,
    macs: int | None = 0,
    bytes: int = 0,
    widths: tuple[int, ...] = (),
    type: str = "Convolution",
    precision: str | None = "f32",
) -> Layer:
    work = Work(
        anchor=f"{name}.weight",
        operator=f"node_{name}",
        operators=(f"node_{name}",),
        macs=macs,
        bytes=bytes,
        widths=widths,
    )
    return Layer(time=layer_time(name, type=type, ms=ms, precision=precision), work=work)
