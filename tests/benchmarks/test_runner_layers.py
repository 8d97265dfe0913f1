"""What runtimes' own profilers tell of every layer, in one form for all of them."""

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeprune.errors import MeasureError
from edgeprune_benchmarks import device_runner as runner
from edgeprune_benchmarks.process import RunnerProcess

from .conftest import SIZE, Tiny, images

PATIENCE = 60.0
Told = dict[str, Any]


def write_residual(path: Path) -> Path:
    """Write two convolutions with ReLU, one with a sum before it, a swish and a classifier."""
    rng = np.random.default_rng(0)
    stored = [
        numpy_helper.from_array(rng.normal(size=size).astype(np.float32), name)
        for name, size in {
            **{"stem.weight": (16, 3, 3, 3), "body.weight": (16, 16, 3, 3)},
            **{"tail.weight": (16, 16, 1, 1), "head.weight": (16, 4)},
        }.items()
    ]
    node, pads = helper.make_node, {"pads": [1, 1, 1, 1]}
    nodes = [
        node("Conv", ["image", "stem.weight"], ["a"], "stem", **pads),
        node("Relu", ["a"], ["b"], "stem relu"),
        node("Conv", ["b", "body.weight"], ["c"], "body", **pads),
        node("Add", ["c", "b"], ["d"], "sum"),
        node("Relu", ["d"], ["e"], "sum relu"),
        node("Conv", ["e", "tail.weight"], ["f"], "tail"),
        node("Sigmoid", ["f"], ["g"], "swish sigmoid"),
        node("Mul", ["f", "g"], ["h"], "swish"),
        node("GlobalAveragePool", ["h"], ["i"], "pool"),
        node("Flatten", ["i"], ["j"], "flatten"),
        node("MatMul", ["j", "head.weight"], ["logits"], "head"),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4])
    graph = helper.make_graph(nodes, "residual", [image], [logits], stored)
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


@pytest.fixture
def residual(tmp_path: Path) -> Path:
    return write_residual(tmp_path / "residual.onnx")


def profiled(path: Path, iterations: int = 6, batch: int = 2, **words: object) -> Told:
    with RunnerProcess("tiny") as process:
        process.ask("load", PATIENCE, artifact=str(path), batch=batch, profile=True, **words)
        process.ask("warmup", PATIENCE, seconds=0.01, limit=0.1, batch=batch)
        process.ask("layers", PATIENCE, iterations=1)
        return dict(process.ask("layers", PATIENCE, iterations=iterations))


def origin(told: Told, name: str) -> Told:
    """Return the one layer that computes a node of the graph."""
    found = [layer for layer in told["layers"] if name in layer["origins"]]
    assert len(found) == 1, (name, [layer["origins"] for layer in told["layers"]])
    return dict(found[0])


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_every_convolution_is_timed_and_traced_to_its_node(residual: Path, backend: str) -> None:
    told = profiled(residual, backend=backend)
    assert told["profiler"] == backend
    layers = [origin(told, name) for name in ("stem", "body", "tail")]
    assert len({layer["name"] for layer in layers}) == 3
    for layer in layers:
        assert layer["ns"] > 0
        assert layer["precision"] == "f32"
        assert layer["shape"] == [2, 16, SIZE, SIZE]
        assert "Conv" in layer["type"]
    last = {"openvino": "logits", "onnxruntime": "head"}  # OpenVINO calls it by what it gives
    assert origin(told, last[backend])["shape"] == [2, 4]
    assert 0 < sum(layer["ns"] for layer in told["layers"]) < 3 * told["total_ns"]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_what_was_fused_into_a_convolution_is_listed_with_it(residual: Path, backend: str) -> None:
    told = profiled(residual, backend=backend)
    if backend == "onnxruntime" and not any(
        layer["name"].endswith("_nchwc") for layer in told["layers"]
    ):
        pytest.skip("this CPU has no kernels for blocks of channels")
    assert origin(told, "stem relu")["name"] == origin(told, "stem")["name"]
    body, added = origin(told, "body")["name"], origin(told, "sum")["name"]
    assert origin(told, "sum relu")["name"] == added
    assert origin(told, "swish")["name"] not in (body, added)
    if backend == "onnxruntime":
        assert added == body


def test_the_layers_of_a_torch_program_have_the_names_of_their_weights(tmp_path: Path) -> None:
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = torch.nn.Conv2d(3, 8, 3, padding=1)
            self.head = torch.nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.stem(x).relu().mean((2, 3)))

    sample = (torch.zeros(2, 3, SIZE, SIZE),)
    batch = ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(
        torch.export.export(Net(), sample, dynamic_shapes=batch), tmp_path / "net.pt2"
    )
    told = profiled(tmp_path / "net.pt2")
    assert told["profiler"] == "torch.fx.Interpreter"
    assert [layer["type"] for layer in told["layers"]] == [
        *("aten.conv2d.default", "aten.relu.default", "aten.mean.dim", "aten.linear.default")
    ]
    stem = origin(told, "stem.weight")
    assert stem["origins"] == ["conv2d", "stem.weight", "stem.bias"]
    assert (stem["shape"], stem["precision"]) == ([2, 8, SIZE, SIZE], "f32")
    assert origin(told, "head.weight")["shape"] == [2, 4]
    assert all(layer["ns"] > 0 for layer in told["layers"])


def test_layers_are_timed_only_after_they_were_asked_for(tiny: Tiny) -> None:
    with RunnerProcess("tiny") as process:
        process.ask("load", PATIENCE, artifact=str(tiny.onnx))
        with pytest.raises(MeasureError, match="after 'load' with profile=true only"):
            process.ask("layers", PATIENCE)
    with RunnerProcess("tiny") as process:
        process.ask("load", PATIENCE, artifact=str(tiny.onnx), profile=True)
        with pytest.raises(MeasureError, match="send 'warmup' first"):
            process.ask("layers", PATIENCE)


@pytest.mark.parametrize("kind", ["onnx", "ir"])
def test_neither_a_profile_nor_a_runtime_leaves_a_file_behind(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    for name in ("TMPDIR", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    before = sorted(tiny.onnx.parent.iterdir())
    profiled(getattr(tiny, kind))
    assert list(tmp_path.iterdir()) == []
    assert sorted(tiny.onnx.parent.iterdir()) == before


class Text(str):
    """A value of OpenVINO's notes on a layer."""

    __slots__ = ()

    def astype(self, _: type) -> str:
        return str(self)


class SlowStart:
    """What openvino_profile uses of OpenVINO; inferences take 100 µs five times, then 10."""

    is_static = True

    def __init__(self) -> None:
        self.spent: list[int] = []

    def compile_model(self, graph: Any, device: str, hints: dict[str, Any]) -> "SlowStart":
        assert hints["PERF_COUNT"]
        return self

    def create_infer_request(self) -> "SlowStart":
        return self

    def infer(self, *_: object, **__: object) -> None:
        self.spent.append(100 if len(self.spent) < 5 else 10)

    def get_profiling_info(self) -> list[Any]:
        status, mean = SimpleNamespace(EXECUTED=1), sum(self.spent) // len(self.spent)
        words = {"node_name": "a", "node_type": "Relu", "real_time": timedelta(microseconds=mean)}
        return [SimpleNamespace(Status=status, status=1, **words)]

    def get_runtime_model(self) -> "SlowStart":
        return self

    def get_ops(self) -> list[Any]:
        names = {"primitiveType": Text("jit_f32"), "originalLayersNames": Text("a,b")}
        words = {"get_friendly_name": lambda: "a", "get_rt_info": lambda: names}
        return [SimpleNamespace(**words, get_output_partial_shape=lambda _: self)]

    def to_shape(self) -> list[int]:
        return [1, 2]


def test_a_slow_start_is_taken_off_the_means_that_openvino_tells() -> None:
    told = runner.openvino_profile(SlowStart(), None, {}, images(1), 10)
    assert told.layers == [
        {"name": "a", "type": "Relu", "ns": pytest.approx(10e3)}
        | {"precision": "f32", "origins": ["a", "b"], "shape": [1, 2]}
    ]


def test_openvino_tells_means_over_all_inferences_since_compiling(heavy: Path) -> None:
    """What openvino_profile takes for granted: a large batch stays in what is told later."""
    from edgeprune_exporters.runtimes import import_openvino

    core = import_openvino().Core()
    hints = {"PERF_COUNT": True, "INFERENCE_NUM_THREADS": 1}
    request = core.compile_model(core.read_model(heavy), "CPU", hints).create_infer_request()

    def told() -> float:
        return float(sum(i.real_time.total_seconds() for i in request.get_profiling_info()))

    request.infer([images(256)])
    large = told()
    for _ in range(3):
        request.infer([images(1)])
    assert large / 8 < told() < large / 2


def test_the_centre_of_times_is_the_mean_of_their_middle_half() -> None:
    assert runner.centre([5.0]) == 5.0
    assert runner.centre([1.0, 2.0, 4.0, 1000.0]) == 3.0
    assert runner.centre([900.0, 2.0, 3.0, 4.0, 5.0, 0.0, 3.0, 3.0]) == 3.25


def test_a_sum_belongs_to_the_later_of_two_convolutions_that_it_joins() -> None:
    nodes = [
        runner.Node("left", "Conv", ["x", "w"], ["a"]),
        runner.Node("right", "Conv", ["x", "v"], ["b"]),
        runner.Node("join", "Add", ["a", "b"], ["c"]),
        runner.Node("rest", "Softmax", ["c"], ["d"]),
    ]
    found = runner.origins(nodes, {"a_nchwc": "Conv", "b_nchwc": "Conv", "rest": "Softmax"})
    assert found == {"a_nchwc": ["left"], "b_nchwc": ["right", "join"], "rest": ["rest"]}


def test_a_layer_that_the_runtime_made_up_has_no_origin() -> None:
    nodes = [runner.Node("conv", "Conv", ["x", "w"], ["a"])]
    found = runner.origins(nodes, {"ReorderOutput_token_3": "ReorderOutput", "conv": "Conv"})
    assert found == {"ReorderOutput_token_3": [], "conv": ["conv"]}


def test_a_node_with_two_readers_is_not_taken_into_one_of_them() -> None:
    nodes = [
        runner.Node("gate", "Sigmoid", ["x"], ["g"]),
        runner.Node("one", "Mul", ["x", "g"], ["a"]),
        runner.Node("two", "Sub", ["x", "g"], ["b"]),
    ]
    kinds = {"one/QuickGeluFusion/": "QuickGelu", "two": "Sub"}
    assert runner.origins(nodes, kinds) == {"one/QuickGeluFusion/": ["one"], "two": ["two"]}
    assert runner.origins(nodes[:2], kinds)["one/QuickGeluFusion/"] == ["gate", "one"]


def test_quantised_layers_keep_the_nodes_they_came_from() -> None:
    nodes = [runner.Node("conv", "Conv", ["x", "w"], ["a"])]
    assert runner.origins(nodes, {"conv_token_15": "QLinearConv"}) == {"conv_token_15": ["conv"]}
