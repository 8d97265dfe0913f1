"""onnxsim's graph is taken where it is smaller and still the same, and only there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from torch import Tensor

from edgeprune import Captured
from edgeprune.errors import ExportError
from edgeprune.targets import load_target
from edgeprune_exporters import ExportOptions, Images, Job, TorchModel, export, simplifying

pytest.importorskip("onnxsim")
CPU = load_target("cpu")
WANTED = ExportOptions(simplify=True)


class Redundant(TorchModel):
    """A model whose graph multiplies by a sum of constants, several times."""

    def graph(self, **wanted: object) -> onnx.ModelProto:
        graph = super().graph(**wanted)  # type: ignore[arg-type]
        logits = graph.graph.node[-1]
        logits.output[0] = "inner"
        half = onnx.numpy_helper.from_array(np.array(0.5, np.float32), "half")
        graph.graph.initializer.append(half)
        make = onnx.helper.make_node
        graph.graph.node.extend(
            [
                make("Add", ["half", "half"], ["one"], name="sum"),
                make("Identity", ["inner"], ["same"], name="nothing"),
                make("Mul", ["same", "one"], ["logits"], name="times"),
            ]
        )
        return graph


def job(captured: Captured, images: Tensor, kind: type[TorchModel] = TorchModel) -> Job:
    return Job(
        model=kind(captured),
        target=CPU,
        images=Images(parity=images),
        options=WANTED,
        metadata={"labels": "[]"},
    )


def test_a_graph_that_onnxsim_reduces_is_taken_and_said(cnn: Captured, images: Tensor) -> None:
    given = job(cnn, images, Redundant)
    before = len(given.model.graph(opset=20, batch=None, metadata={}).graph.node)
    after = len(given.graph.graph.node)
    assert after < before
    assert given.prepared.proof.ok
    assert given.prepared.notes == (
        f"onnxsim simplified the graph from {before} to {after} operators",
    )


def test_a_simplified_graph_tells_what_ours_tell(cnn: Captured, images: Tensor) -> None:
    graph = job(cnn, images, Redundant).graph
    assert {each.key: each.value for each in graph.metadata_props} == {"labels": "[]"}
    assert graph.producer_name == "edgeprune"
    assert b"onnxsim" not in graph.SerializeToString()


def test_simplified_graphs_are_equal_byte_for_byte(cnn: Captured, images: Tensor) -> None:
    first, second = (job(cnn, images, Redundant).graph for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(
        deterministic=True
    )


def test_a_graph_that_onnxsim_cannot_reduce_is_written_as_it_was(
    cnn: Captured, images: Tensor, tmp_path: Path
) -> None:
    plain = export(cnn, CPU, tmp_path / "plain", images, formats=["onnx"])[0]
    asked = export(cnn, CPU, tmp_path / "asked", images, formats=["onnx"], options=WANTED)[0]
    assert plain.notes == ()
    assert len(asked.notes) == 1
    assert "its result was not taken: it leaves all 9 operators" in asked.notes[0]
    written = [(tmp_path / name / "onnx/model.onnx").read_bytes() for name in ("plain", "asked")]
    assert written[0] == written[1]


def _smaller(graph: onnx.ModelProto) -> onnx.ModelProto:
    wrong = onnx.ModelProto()
    wrong.CopyFrom(graph)
    (relu,) = (node for node in wrong.graph.node if node.op_type == "Relu")
    for node in wrong.graph.node:
        for place, name in enumerate(node.input):
            if name == relu.output[0]:
                node.input[place] = relu.input[0]
    wrong.graph.node.remove(relu)
    return wrong


def _cut(graph: onnx.ModelProto) -> onnx.ModelProto:
    wrong = onnx.ModelProto()
    wrong.CopyFrom(graph)
    del wrong.graph.node[-1]
    wrong.graph.node[-1].output[0] = "logits"
    return wrong


def _broken(graph: onnx.ModelProto) -> onnx.ModelProto:
    raise ExportError("onnxsim cannot simplify the graph: it stumbled")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(_smaller, "its graph is "), (_cut, "gives logits of shape"), (_broken, "it stumbled")],
)
def test_a_simplified_graph_that_is_wrong_is_not_taken(
    fault: object, reason: str, cnn: Captured, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeprune_exporters.preparing.simplified", fault)
    given = job(cnn, images)
    assert len(given.graph.graph.node) == 9
    (note,) = given.prepared.notes
    assert note.startswith("onnxsim was asked for, and its result was not taken: ")
    assert reason in note


def test_without_onnxsim_the_extra_is_named(
    cnn: Captured, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simplifying, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"pip install 'edgeprune\[simplify\]'"):
        export(cnn, CPU, tmp_path, images, formats=["onnx"], options=WANTED)
