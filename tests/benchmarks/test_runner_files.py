"""Which files an artifact is, what is hashed of them, and what is said of broken ones."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeprune.errors import MeasureError
from edgeprune_benchmarks import device_runner as runner
from edgeprune_benchmarks.process import RunnerProcess

from .conftest import Tiny, random_weight, write_network

PATIENCE = 60.0


def loaded(path: Path, **words: object) -> dict[str, object]:
    with RunnerProcess("tiny") as process:
        return dict(process.ask("load", PATIENCE, artifact=str(path), **words))


def split(path: Path, target: Path, location: str) -> Path:
    """Write an ONNX file again, with its weights in another file."""
    model = onnx.load(path)
    words = {"save_as_external_data": True, "location": location, "size_threshold": 0}
    onnx.save(model, target, **words)
    return target


@pytest.fixture
def outside(tiny: Tiny, tmp_path: Path) -> Path:
    return split(tiny.onnx, tmp_path / "outside.onnx", "weights of it.data")


def ends(count: int, kind: int, shape: list[int]) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(f"x{k}", kind, shape) for k in range(count)]


def adding(path: Path, inputs: list[onnx.ValueInfoProto]) -> Path:
    """Write a graph that gives back its inputs' sum."""
    nodes = [helper.make_node("Sum", [value.name for value in inputs], ["y"])]
    if len(inputs) == 1:
        nodes = [helper.make_node("Abs", [inputs[0].name], ["y"])]
    kind = inputs[0].type.tensor_type
    result = helper.make_tensor_value_info(
        "y", kind.elem_type, [size.dim_value for size in kind.shape.dim]
    )
    graph = helper.make_graph(nodes, "sum", inputs, [result])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


def test_every_file_that_a_runtime_loads_is_hashed(tiny: Tiny, outside: Path) -> None:
    for path, names in (
        (tiny.onnx, ["tiny.onnx"]),
        (tiny.ir, ["tiny.xml", "tiny.bin"]),
        (outside, ["outside.onnx", "weights of it.data"]),
    ):
        answer = loaded(path)["files"]
        wanted = {n: hashlib.sha256((path.parent / n).read_bytes()).hexdigest() for n in names}
        assert answer == wanted
        assert [file.name for file in runner.artifact_files(path)] == names


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # pytest has threads
def test_a_hash_is_the_same_for_a_file_of_many_pieces(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(3 * (1 << 16) + 17)
    (tmp_path / "file").write_bytes(data)
    wanted = hashlib.sha256(data).hexdigest()
    assert runner.digest(tmp_path / "file") == wanted
    assert runner.digests([tmp_path / "file"] * 2) == [wanted, wanted]


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_file_that_cannot_be_hashed_is_an_error_of_this_process(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"here")
    with pytest.raises(FileNotFoundError, match="gone"):
        runner.digests([tmp_path / "file", tmp_path / "gone"])


def test_weights_that_were_left_behind_are_named(tiny: Tiny, outside: Path) -> None:
    (outside.parent / "weights of it.data").unlink()
    with pytest.raises(MeasureError, match=r"weights in weights of it\.data, which is not beside"):
        loaded(outside)
    alone = shutil.copy(tiny.ir, outside.parent / "alone.xml")
    with pytest.raises(MeasureError, match=r"weights in alone\.bin, which is not beside it"):
        loaded(alone)


@pytest.mark.parametrize("location", ["../elsewhere.data", "/etc/passwd"])
def test_weights_outside_the_folder_are_refused(outside: Path, location: str) -> None:
    model = onnx.load(outside, load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = location
    outside.write_bytes(model.SerializeToString())
    with pytest.raises(MeasureError, match="keeps its weights outside its folder"):
        loaded(outside)


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (0.0, r"whole\.onnx cannot be loaded by onnxruntime: \S.*No graph was found"),
        (0.3, r"whole\.onnx is no ONNX file, or is cut off"),
        (0.9, r"whole\.onnx is no ONNX file, or is cut off"),
    ],
)
def test_a_file_that_is_cut_off_is_one_clear_error(
    tmp_path: Path, tiny: Tiny, share: float, message: str
) -> None:
    weight = np.random.default_rng(0).normal(size=(3, 400)).astype(np.float32)
    path = write_network(tmp_path / "whole.onnx", weight)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(MeasureError, match=message):
        loaded(path)
    graph = tmp_path / "cut.xml"
    graph.write_bytes(tiny.ir.read_bytes()[: int(share * tiny.ir.stat().st_size)])
    shutil.copy(tiny.ir.with_suffix(".bin"), graph.with_suffix(".bin"))
    with pytest.raises(MeasureError, match=r"cut\.xml cannot be loaded by openvino: \w") as caught:
        loaded(graph)
    assert "\n" not in str(caught.value)
    assert "Exception from" not in str(caught.value)


def test_a_torch_program_that_is_none_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "cut.pt2").write_bytes(b"PK and no more")
    with pytest.raises(MeasureError, match=r"cut\.pt2 cannot be loaded by torch: "):
        loaded(tmp_path / "cut.pt2")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_artifact_of_several_inputs_is_refused(tmp_path: Path, backend: str) -> None:
    path = adding(tmp_path / "sum.onnx", ends(2, TensorProto.FLOAT, [1, 3, 8, 8]))
    with pytest.raises(MeasureError, match="has 2 inputs; one is wanted, of images"):
        loaded(path, backend=backend)


@pytest.mark.parametrize(
    ("backend", "kind"), [("onnxruntime", r"tensor\(int8\)"), ("openvino", "i8")]
)
def test_an_artifact_that_takes_int8_is_refused(tmp_path: Path, backend: str, kind: str) -> None:
    path = adding(tmp_path / "int8.onnx", ends(1, TensorProto.INT8, [1, 3, 8, 8]))
    with pytest.raises(MeasureError, match=f"this artifact takes {kind}; float32 images"):
        loaded(path, backend=backend)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_artifact_that_takes_no_images_is_refused(tmp_path: Path, backend: str) -> None:
    path = adding(tmp_path / "flat.onnx", ends(1, TensorProto.FLOAT, [1, 5]))
    with pytest.raises(MeasureError, match=r"inputs of shape \(1, 5\); images \(N, C, H, W\)"):
        loaded(path, backend=backend)


def test_images_of_another_size_are_refused_with_the_one_that_is_taken(
    tiny: Tiny, tmp_path: Path
) -> None:
    np.save(tmp_path / "in.npy", np.zeros((2, 3, 8, 16), np.float32))
    for path in (tiny.onnx, tiny.ir):
        with RunnerProcess("tiny") as process:
            process.ask("load", PATIENCE, artifact=str(path))
            for do, words in (("warmup", {}), ("predict", {"outputs": str(tmp_path / "out.npy")})):
                with pytest.raises(MeasureError, match="takes images of 3×16×16, not of 3×8×16"):
                    process.ask(do, PATIENCE, inputs=str(tmp_path / "in.npy"), **words)


def test_a_weight_of_every_type_is_found_in_a_graph_read_by_hand(
    network: Callable[..., Path],
) -> None:
    path = network(weight=random_weight(), layers=3)
    nodes = runner.onnx_nodes(path)
    wanted = onnx.load(path).graph.node
    assert [(n.kind, n.inputs, n.outputs) for n in nodes] == [
        (n.op_type, list(n.input), list(n.output)) for n in wanted
    ]
    assert [n.name for n in nodes] == [n.output[0] for n in wanted]  # they have no names
