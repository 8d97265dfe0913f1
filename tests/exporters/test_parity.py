"""A proof that cannot fail proves nothing: planted faults, each caught."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from edgeprune import capture
from edgeprune.errors import ParityError
from edgeprune.targets import load_target
from edgeprune_exporters import Exporter, Images, Job, ParityProof, TorchModel
from edgeprune_exporters.onnx import OnnxExporter
from edgeprune_exporters.openvino import OpenvinoExporter
from edgeprune_exporters.parity import Array, Batch, Runtime, prove


def changed_weight(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    values = onnx.numpy_helper.to_array(tensor) * np.float32(1.001)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def swapped_channels(model: onnx.ModelProto) -> None:
    order = onnx.numpy_helper.from_array(np.array([2, 1, 0]), "order")
    model.graph.initializer.append(order)
    for node in model.graph.node:
        node.input[:] = ["swapped" if name == "images" else name for name in node.input]
    swap = onnx.helper.make_node("Gather", ["images", "order"], ["swapped"], axis=1)
    model.graph.node.insert(0, swap)


def fixed_batch(model: onnx.ModelProto) -> None:
    del model.graph.value_info[:]
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 1


@pytest.mark.parametrize("exporter", [OnnxExporter(), OpenvinoExporter()])
@pytest.mark.parametrize("fault", [changed_weight, swapped_channels, fixed_batch])
def test_a_planted_fault_is_caught(
    exporter: Exporter, fault: Callable[[onnx.ModelProto], None], job: Job, tmp_path: Path
) -> None:
    faulty = onnx.ModelProto()
    faulty.CopyFrom(job.graph)
    fault(faulty)
    job.__dict__["graph"] = faulty  # where the job keeps what it has computed
    with pytest.raises(ParityError, match=r"differs from torch|cannot run it at batch 3"):
        exporter.export(job, "fp32", tmp_path).proof.require("faulty")


def runtime(run: Callable[[Array], Array]) -> Runtime:
    return Runtime(name="toy", version="1", precision="f32", run=run)


def batch(size: int) -> Batch:
    images = np.full((size, 3, 4, 4), 2.0, np.float32)
    return Batch(images=images, logits=np.array([[-4.0, 2.0]] * size, np.float32))


def proof(run: Callable[[Array], Array], *sizes: int) -> ParityProof:
    return prove(runtime(run), [batch(size) for size in sizes])


def exact(images: Array) -> Array:
    return np.array([[-4.0, 2.0]] * len(images), np.float32)


def test_equal_logits_are_proven() -> None:
    found = proof(exact, 1, 3)
    assert found.ok
    assert found.max_rel == 0
    found.require("toy")


def test_errors_are_relative_to_the_largest_logit_whatever_its_sign() -> None:
    (each,) = proof(lambda images: exact(images) + np.float32(0.5), 1).batches
    assert each.max_abs == 0.5
    assert each.max_rel == 0.125


def test_an_error_in_one_batch_names_it_and_how_far() -> None:
    def later_wrong(images: Array) -> Array:
        return exact(images) + np.float32(0.04 if len(images) == 3 else 0)

    with pytest.raises(ParityError, match=r"toy file differs .* 1.0e-02 relative at batch 3"):
        proof(later_wrong, 1, 3).require("toy")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_nan_or_infinity_fails(value: float) -> None:
    def broken(images: Array) -> Array:
        logits = exact(images)
        logits[-1, -1] = value
        return logits

    found = proof(broken, 3)
    assert not found.ok
    assert found.to_dict()["batches"] == [{"batch": 3, "max_abs": None, "max_rel": None}]
    with pytest.raises(ParityError, match="by inf relative"):
        found.require("toy")


def test_logits_of_another_shape_are_refused() -> None:
    with pytest.raises(ParityError, match=r"shape \(1, 2\) at batch 3; torch gives \(3, 2\)"):
        proof(lambda images: exact(images[:1]), 3)


def test_few_images_are_repeated_and_many_are_all_used(job: Job) -> None:
    first, second = job.batches
    assert [len(first.images), len(second.images)] == [1, 3]
    used = np.concatenate([first.images, second.images])
    np.testing.assert_array_equal(used, job.inputs.numpy())


class Amplifier(nn.Module):
    """Waves so short that a rounding error moves their phase."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 5)
        self.gain = gain

    def forward(self, images: Tensor) -> Tensor:
        return torch.sin(self.conv(images).mean((2, 3)) * self.gain)


def rounding(gain: float) -> float | None:
    torch.manual_seed(0)
    images = torch.randn(4, 3, 32, 32)
    captured = capture(Amplifier(gain), images)
    return Job(
        model=TorchModel(captured), target=load_target("cpu"), images=Images(parity=images)
    ).rounding


def test_a_model_that_amplifies_rounding_errors_is_told_from_a_wrong_file() -> None:
    calm, nervous = rounding(1.0), rounding(1e5)
    assert calm is not None
    assert nervous is not None
    assert calm < 1e-6
    assert nervous > 1e-4
    wrong = proof(lambda images: exact(images) + np.float32(0.04), 1)
    with pytest.raises(ParityError, match="it was not kept; please report the model"):
        wrong.require("toy", calm)
    with pytest.raises(ParityError, match=r"float32 logits are .* the file may be right: train it"):
        wrong.require("toy", nervous)


def test_a_model_that_fixes_float32_has_no_float64_to_compare_with() -> None:
    class Fixed(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean((2, 3)) @ torch.eye(3, dtype=torch.float32)

    images = torch.randn(2, 3, 8, 8)
    captured = capture(Fixed(), images)
    job = Job(model=TorchModel(captured), target=load_target("cpu"), images=Images(parity=images))
    assert job.rounding is None
