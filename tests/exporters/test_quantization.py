"""int8: close to the model, its cost held, its bytes the same, and nothing printed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from edgeprune.capture import Captured, capture
from edgeprune.errors import ExportError
from edgeprune.targets import load_target
from edgeprune_exporters import ExportOptions, Images, Job, LabelledImages, TorchModel
from edgeprune_exporters.quantization import quantize_graph
from edgeprune_exporters.quantization.calibrating import calibration_batches
from edgeprune_exporters.quantization.limiting import relative_rms
from edgeprune_exporters.quantization.onnx_subject import OnnxSubject
from edgeprune_exporters.runtimes import run_graph

SCHEMES = ("runtime", "tensorrt")
SIZE = 16


def int8_job(model: Captured, images: Tensor, **options: Any) -> Job:
    return Job(
        model=TorchModel(model),
        target=load_target("cpu"),
        images=Images(parity=images, calibration=images),
        options=ExportOptions(**options),
    )


class Outlier(nn.Module):
    """Its second convolution reads one channel that is a thousand times as large as the rest.

    One scale for all of them leaves nothing of the others.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)
        self.third, self.head = nn.Conv2d(16, 16, 3, 1, 1), nn.Linear(16, 4)
        self.first.weight.data[0] *= 1000
        self.second.weight.data[:, 0] /= 1e6

    def features(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return torch.relu(self.third(x)).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


@pytest.fixture(scope="module")
def labelled() -> tuple[Tensor, np.ndarray[Any, Any]]:
    """Four patterns with noise, 12 images of each."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(4).repeat(12)
    patterns = torch.randn(4, 3, SIZE, SIZE, generator=generator)
    noise = torch.randn(48, 3, SIZE, SIZE, generator=generator)
    return patterns[labels] + 0.2 * noise, labels.numpy()


@pytest.fixture(scope="module")
def sensitive(labelled: tuple[Tensor, np.ndarray[Any, Any]]) -> Job:
    """A model that calls every image right, with a layer that int8 ruins."""
    images, labels = labelled
    torch.manual_seed(0)
    model = Outlier().eval()
    with torch.no_grad():
        features = model.features(images)
        features = torch.cat([features, torch.ones(len(images), 1)], 1)
        wanted = nn.functional.one_hot(torch.from_numpy(labels), 4).float()
        solved = torch.linalg.lstsq(features, wanted).solution
        model.head.weight.copy_(solved[:-1].T)
        model.head.bias.copy_(solved[-1])
    split = LabelledImages(
        labels=labels,
        batches=lambda size: (images.numpy()[i : i + size] for i in range(0, len(images), size)),
    )
    job = int8_job(capture(model, images[:2]), images)
    return replace(job, images=replace(job.images, validation=split))


@pytest.fixture(scope="module")
def jobs(cnn: Captured, vit: Captured, images: Tensor) -> dict[str, Job]:
    """Jobs that share their graphs among the tests."""
    return {"cnn": int8_job(cnn, images), "vit": int8_job(vit, images)}


def right(run: Callable[[Any], Any], job: Job) -> float:
    split = job.images.validation
    assert split is not None
    return float((run(next(iter(split.batches(len(split))))).argmax(1) == split.labels).mean())


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("net", ["cnn", "vit"])
def test_logits_in_int8_are_near_those_of_the_model(
    net: str, scheme: Any, jobs: dict[str, Job]
) -> None:
    job = jobs[net]
    before = job.graph.SerializeToString(deterministic=True)
    graph = quantize_graph(job, scheme).graph
    batch = job.batches[-1]
    assert 1e-5 < relative_rms(run_graph(graph)(batch.images), batch.logits) < 0.02
    assert job.graph.SerializeToString(deterministic=True) == before, "the shared graph was changed"
    onnx.checker.check_model(graph, full_check=True)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_two_quantisations_are_byte_identical(scheme: Any, jobs: dict[str, Job]) -> None:
    one, two = (quantize_graph(jobs["cnn"], scheme).graph for _ in range(2))
    assert one.SerializeToString(deterministic=True) == two.SerializeToString(deterministic=True)


@pytest.mark.parametrize("opset", [pytest.param(16, marks=pytest.mark.slow), 17, 19])
def test_every_opset_of_tensorrt_can_be_quantised(
    opset: int, vit: Captured, images: Tensor
) -> None:
    job = int8_job(vit, images)
    job = replace(job, target=replace(job.target, opset=opset))
    graph = quantize_graph(job, "tensorrt").graph
    batch = job.batches[0]
    assert graph.opset_import[0].version == opset
    assert relative_rms(run_graph(graph)(batch.images), batch.logits) < 0.02
    stored = [each for each in graph.graph.initializer if each.data_type == onnx.TensorProto.INT8]
    assert any(len(each.dims) > 1 for each in stored) == (opset >= 19), (
        "TensorRT 8 wants weights as floats"
    )


def test_an_opset_that_onnxruntime_fails_on_in_int8_is_refused(
    vit: Captured, images: Tensor
) -> None:
    job = int8_job(vit, images)
    job = replace(job, target=replace(job.target, opset=21))
    with pytest.raises(ExportError, match=r"int8 at opset 21 cannot be checked.*set opset = 20"):
        quantize_graph(job, "runtime")


def test_a_fixed_batch_is_calibrated_at_its_size(fixed: Captured, images: Tensor) -> None:
    job = int8_job(fixed, images[:3])
    assert [len(each) for each in calibration_batches(job.images, 2)] == [2, 2]
    batch = job.batches[0]
    found = run_graph(quantize_graph(job, "runtime").graph)(batch.images)
    assert relative_rms(found, batch.logits) < 0.02


def test_nncf_prints_nothing(jobs: dict[str, Job], capfd: pytest.CaptureFixture[str]) -> None:
    quantize_graph(jobs["cnn"], "runtime")
    assert capfd.readouterr() == ("", "")


def test_int8_without_calibration_images_says_how_to_give_them(
    jobs: dict[str, Job], images: Tensor
) -> None:
    job = replace(jobs["cnn"], images=Images(parity=images))
    with pytest.raises(ExportError, match=r"int8 needs images to calibrate on: give --data PATH"):
        quantize_graph(job, "runtime")


class Nothing(nn.Module):
    """Not a single product."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x[:, :, 0, 0])


def test_a_model_without_layers_for_int8_is_one_error(images: Tensor) -> None:
    job = int8_job(capture(Nothing(), images[:2]), images)
    with pytest.raises(ExportError, match=r"no layer of the model can be quantised to int8"):
        quantize_graph(job, "runtime")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_drop_holds_by_reverting_the_layer_that_int8_ruins(scheme: Any, sensitive: Job) -> None:
    assert right(sensitive.model.logits, sensitive) == 1
    ruined = quantize_graph(sensitive, scheme)
    assert right(run_graph(ruined.graph), sensitive) < 0.8
    assert ruined.kept == ()

    limited = replace(sensitive, options=ExportOptions(max_drop=2.5))
    held = quantize_graph(limited, scheme)
    assert [each.name for each in held.kept] == ["node_conv2d_1"]
    assert right(run_graph(held.graph), sensitive) >= 0.975
    assert "relative" in held.kept[0].reason
    assert any("on 48 validation images" in note for note in held.notes)


def test_without_a_limit_the_drop_is_told(sensitive: Job) -> None:
    found = quantize_graph(sensitive, "runtime")
    lost = 100 * (1 - right(run_graph(found.graph), sensitive))
    assert found.notes == (f"int8 loses {lost:.2f} points of accuracy on 48 validation images",)


def test_a_limit_that_cannot_be_held_is_one_error() -> None:
    torch.manual_seed(0)
    model, images = Outlier().eval(), torch.randn(64, 3, SIZE, SIZE)
    model.head.bias.data -= model(images).median(0).values.detach()  # every call is a close one
    job = int8_job(capture(model, images[:2]), images, max_drop=0.0)
    split = LabelledImages(
        labels=(job.model.logits(images.numpy()) > 0).astype(np.int64),
        batches=lambda size: (images.numpy()[i : i + size] for i in range(0, 64, size)),
    )
    job = replace(job, images=replace(job.images, validation=split))
    with pytest.raises(
        ExportError, match=r"int8 loses [\d.]+ points .* still [\d.]+ with \d of \d layers in float"
    ):
        quantize_graph(job, "runtime")


def test_a_limit_without_validation_images_is_one_error(jobs: dict[str, Job]) -> None:
    job = replace(jobs["cnn"], options=ExportOptions(max_drop=1.0))
    with pytest.raises(ExportError, match=r"--max-drop needs validation images"):
        quantize_graph(job, "runtime")


def test_the_nearer_of_two_ways_to_find_ranges_is_taken(sensitive: Job) -> None:
    def errors(job: Job) -> list[float]:
        images = job.images.parity.numpy()
        wanted = job.model.logits(images)
        subjects = [OnnxSubject(job=job, scheme="runtime", widest=each) for each in (False, True)]
        graphs = [subject.quantize() for subject in subjects]
        graphs.append(quantize_graph(job, "runtime").graph)
        return [relative_rms(run_graph(graph)(images), wanted) for graph in graphs]

    # Ranges are found on these images, so they have to be few enough to be all looked at.
    few = replace(sensitive.images, parity=sensitive.images.parity[:16])
    few = replace(few, calibration=few.parity, validation=None)
    usual, widest, taken = errors(replace(sensitive, images=few))
    assert usual != widest
    assert taken == min(usual, widest)
