"""A layer with swapped channels is found in an int8 file whose logits hide it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeprune.errors import ParityError
from edgeprune_exporters import Job
from edgeprune_exporters.distances import Array
from edgeprune_exporters.parity import Runtime
from edgeprune_exporters.proving import prove_artifact
from edgeprune_exporters.runtimes import load_onnxruntime
from edgeprune_exporters.within import faulty_layer

IMAGES = np.random.default_rng(0).standard_normal((3, 1, 2, 2)).astype(np.float32)


def chain(path: Path, factors: Sequence[float]) -> Path:
    """Write images × factor × factor …, values named by their position."""
    names = ["images", *(str(at) for at in range(len(factors)))]
    nodes = [
        helper.make_node("Mul", [names[at], f"w{at}"], [names[at + 1]])
        for at in range(len(factors))
    ]
    weights = [
        numpy_helper.from_array(np.float32(factor).reshape(1), f"w{at}")
        for at, factor in enumerate(factors)
    ]
    shape = ["batch", 1, 2, 2]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, shape)],
        weights,
    )
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


@dataclass(frozen=True)
class Chain:
    """A model whose every value is the image itself."""

    value_names: frozenset[str] = frozenset(map(str, range(40)))

    def values(self, images: Array, names: Sequence[str]) -> Mapping[str, Array]:
        return {name: images for name in names if name in self.value_names}

    def place(self, name: str, known: frozenset[str]) -> str:
        return f"layer{name}"


def words(path: Path) -> str | None:
    return faulty_layer(path, Chain(), IMAGES)  # type: ignore[arg-type]


def test_a_right_file_has_no_faulty_layer(tmp_path: Path) -> None:
    assert words(chain(tmp_path / "m.onnx", [1.0] * 40)) is None


def test_noise_that_adds_up_slowly_is_no_fault(tmp_path: Path) -> None:
    assert words(chain(tmp_path / "m.onnx", [1.05] * 40)) is None


def test_a_layer_that_turns_right_values_into_wrong_ones_is_named(tmp_path: Path) -> None:
    factors = [1.0] * 40
    factors[35], factors[36] = -1.0, -1.0  # and the logits are right again
    found = words(chain(tmp_path / "m.onnx", factors))
    assert found is not None
    assert found.startswith("a layer is wrong: '35' (Mul, in layer35) is off by ")


def test_a_model_that_cannot_name_its_values_tells_of_no_fault(tmp_path: Path) -> None:
    path = chain(tmp_path / "m.onnx", [-1.0])
    assert faulty_layer(path, object(), IMAGES) is None  # type: ignore[arg-type]


@pytest.fixture
def hidden(job: Job, tmp_path: Path) -> Runtime:
    """An artifact with a layer negated whose logits are the model's own."""
    faulty = onnx.ModelProto()
    faulty.CopyFrom(job.graph)
    (node,) = [node for node in faulty.graph.node if "conv2d_2" in node.output]
    tensors = {tensor.name: tensor for tensor in faulty.graph.initializer}
    for name in node.input[1:]:
        negated = -numpy_helper.to_array(tensors[name])
        tensors[name].CopyFrom(numpy_helper.from_array(negated, name))
    onnx.save(faulty, tmp_path / "model.onnx")
    return replace(load_onnxruntime(tmp_path / "model.onnx"), run=job.model.logits)


def test_a_hidden_fault_fails_the_proof_in_int8(hidden: Runtime, job: Job) -> None:
    proof = prove_artifact(hidden, job, "int8")
    assert proof.error == 0
    assert not proof.ok
    with pytest.raises(ParityError, match=r"a layer is wrong: 'conv2d_2' \(Conv, in body.3\)"):
        proof.require("onnx")


def test_a_right_file_passes_in_int8(job: Job, tmp_path: Path) -> None:
    onnx.save(job.graph, tmp_path / "model.onnx")
    assert prove_artifact(load_onnxruntime(tmp_path / "model.onnx"), job, "int8").ok
