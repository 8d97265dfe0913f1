"""The layer that is named is the one at fault, whatever the graph, in few comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from edgeprune import Captured
from edgeprune.errors import ParityError
from edgeprune_exporters import Images, Job, TorchModel
from edgeprune_exporters.deviation import Comparison, bisect, first_deviation
from edgeprune_exporters.onnx import save_graph
from edgeprune_exporters.parity import FLOAT32, Array, Batch, Limit, ParityProof, prove
from edgeprune_exporters.probes import Probe, Value, open_probe
from edgeprune_exporters.runtimes import import_openvino, load_onnxruntime, load_openvino

IMAGES = np.zeros((1, 3, 4, 4), np.float32)


@dataclass
class Paper:
    """A model whose every value is 1, and an artifact of it with faults, on paper."""

    values_: Mapping[str, Value]
    wrong: frozenset[str]
    unknown: frozenset[str] = frozenset()
    asked: list[str] = field(default_factory=list)

    def values(self, images: Array, names: Sequence[str]) -> Mapping[str, Array]:
        return {name: np.ones((1, 2), np.float32) for name in names if name not in self.unknown}

    def read(self, images: Array, names: Sequence[str]) -> Mapping[str, Array]:
        self.asked += names
        return {
            name: np.full((1, 2), 2.0 if name in self.wrong else 1.0, np.float32) for name in names
        }

    def found(self, limit: Limit = FLOAT32) -> tuple[str, float | None]:
        probe = Probe(values=self.values_, read=self.read)
        comparison = Comparison(model=self, probe=probe, images=IMAGES, limit=limit)  # type: ignore[arg-type]
        *suspects, last = self.values_
        return bisect(comparison, suspects, last)


def graph(inputs: Sequence[Sequence[int]]) -> dict[str, Value]:
    """Values by position, each with the positions of what it is computed from."""
    return {
        str(position): Value(name=str(position), operator="Op", inputs=tuple(map(str, sources)))
        for position, sources in enumerate(inputs)
    }


def after(values: Mapping[str, Value], fault: str) -> frozenset[str]:
    """Everything that a fault reaches."""
    wrong = {fault}
    for name, value in values.items():
        if wrong & set(value.inputs):
            wrong.add(name)
    return frozenset(wrong)


@st.composite
def graphs_with_a_fault(draw: st.DrawFn) -> tuple[dict[str, Value], str]:
    count = draw(st.integers(1, 40))
    inputs = [
        draw(st.lists(st.integers(0, at - 1), min_size=1, max_size=3, unique=True)) if at else []
        for at in range(count)
    ]
    unread = [at for at in range(count) if not any(at in sources for sources in inputs)]
    values = graph([*inputs, unread])  # the logits read whatever nothing else reads
    return values, str(draw(st.integers(0, count)))


@given(graphs_with_a_fault())
def test_in_any_graph_the_faulty_value_is_found(case: tuple[dict[str, Value], str]) -> None:
    values, fault = case
    paper = Paper(values, after(values, fault))
    assert paper.found()[0] == fault
    assert len(paper.asked) == len(set(paper.asked))


def test_a_chain_of_a_thousand_takes_ten_comparisons() -> None:
    values = graph([[at - 1] if at else [] for at in range(1001)])
    for fault in ("0", "437", "999", "1000"):
        paper = Paper(values, after(values, fault))
        assert paper.found()[0] == fault
        assert len(paper.asked) <= 10


def test_values_that_only_one_side_has_are_passed_over() -> None:
    values = graph([[at - 1] if at else [] for at in range(20)])
    paper = Paper(values, after(values, "7"), unknown=frozenset({"6", "7", "8"}))
    assert paper.found()[0] == "9"


def test_a_fault_in_the_last_operator_is_told_by_its_logits() -> None:
    values = graph([[], [0], [1]])
    assert Paper(values, frozenset({"2"})).found() == ("2", None)


def changed(name_of: str, graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy with the weights of the node that makes a value moved."""
    faulty = onnx.ModelProto()
    faulty.CopyFrom(graph)
    tensors = {tensor.name: tensor for tensor in faulty.graph.initializer}
    (node,) = [node for node in faulty.graph.node if name_of in node.output]
    name = next(name for name in node.input if name in tensors)
    moved = numpy_helper.to_array(tensors[name]) * np.float32(1.1)
    tensors[name].CopyFrom(numpy_helper.from_array(moved, name))
    return faulty


def proof_of(path: Path, job: Job) -> ParityProof:
    load = load_onnxruntime if path.suffix == ".onnx" else load_openvino
    return prove(load(path), job.batches)


def written(graph: onnx.ModelProto, folder: Path, suffix: str) -> Path:
    save_graph(graph, folder / "model.onnx")
    if suffix == ".xml":
        openvino = import_openvino()
        model = openvino.Core().read_model(folder / "model.onnx")
        openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)
    return folder / f"model{suffix}"


@pytest.fixture(scope="module")
def vit_job(vit: Captured) -> Job:
    from edgeprune.targets import load_target

    images = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(6))
    return Job(model=TorchModel(vit), target=load_target("cpu"), images=Images(parity=images))


VIT_FAULTS = {
    "conv2d": "in patch",
    "linear": "in qkv",
    "layer_norm_1": "in norm2",
    "linear_2": "in mlp.0",
    "logits": "in head",
}


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
@pytest.mark.parametrize("name", VIT_FAULTS)
def test_the_faulty_layer_of_a_transformer_is_named_with_its_module(
    name: str, suffix: str, vit_job: Job, tmp_path: Path
) -> None:
    path = written(changed(name, vit_job.graph), tmp_path, suffix)
    proof = proof_of(path, vit_job)
    assert not proof.ok
    words = first_deviation(path, vit_job.model, vit_job.batches, proof)
    assert words is not None
    assert words.startswith(f"it first deviates at '{name}' (")
    assert VIT_FAULTS[name] in words
    assert words.endswith(" relative")


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_looking_into_an_artifact_leaves_its_folder_as_it_was(
    suffix: str, vit_job: Job, tmp_path: Path
) -> None:
    path = written(changed("conv2d", vit_job.graph), tmp_path, suffix)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    first_deviation(path, vit_job.model, vit_job.batches, proof_of(path, vit_job))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_every_value_in_common_is_equal_in_a_right_artifact(
    suffix: str, vit_job: Job, tmp_path: Path
) -> None:
    probe = open_probe(written(vit_job.graph, tmp_path, suffix))
    model = vit_job.model
    assert isinstance(model, TorchModel)
    images = vit_job.batches[1].images
    common = [name for name in probe.values if name in model.value_names]
    assert len(common) > 20
    wanted = model.values(images, common)
    actual = probe.read(images, common)
    assert actual.keys() == set(common)
    for name in common:
        np.testing.assert_allclose(actual[name], wanted[name], rtol=1e-4, atol=1e-5)


def test_values_that_the_model_does_not_know_are_left_out(vit_job: Job) -> None:
    found = vit_job.model.values(vit_job.batches[0].images, ["nothing like it", "conv2d"])
    assert list(found) == ["conv2d"]


class WronglyTranslated(TorchModel):
    """A model whose translation gets one layer wrong."""

    def graph(self, **settings: Any) -> onnx.ModelProto:
        return changed("conv2d_2", super().graph(**settings))


def test_a_fault_in_the_translation_itself_names_the_layer(job: Job, cnn: Captured) -> None:
    wrong = replace(job, model=WronglyTranslated(cnn))
    with pytest.raises(ParityError, match=r"deviates at 'conv2d_2' \(Conv, in body.3\)"):
        _ = wrong.graph


@dataclass(frozen=True)
class Renamed:
    """A model whose values have other names than the file's."""

    model: Any

    def values(self, images: Array, names: Sequence[str]) -> Mapping[str, Array]:
        return {}

    value_names: frozenset[str] = frozenset({"elsewhere"})

    def place(self, name: str, known: frozenset[str]) -> str:
        return ""


def failed() -> ParityProof:
    from edgeprune_exporters.parity import BatchParity

    far = BatchParity(batch=1, max_abs=1.0, mean_abs=1.0, max_rel=1.0, noise=None, agreement=0.0)
    return ParityProof(batches=(far,), runtime="toy", runtime_version="1", precision="f32")


def test_without_names_in_common_that_is_said(vit_job: Job, tmp_path: Path) -> None:
    path = written(vit_job.graph, tmp_path, ".onnx")
    model: Any = Renamed(vit_job.model)
    words = first_deviation(path, model, vit_job.batches[:1], failed())
    assert words == "no layer can be named: the file and the model have no values in common"


def test_what_goes_wrong_while_looking_does_not_hide_the_failed_proof(
    vit_job: Job, tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    batches: Sequence[Batch] = vit_job.batches[:1]
    words = first_deviation(tmp_path / "model.onnx", vit_job.model, batches, failed())
    assert words is not None
    assert words.startswith("no layer can be named: ")
