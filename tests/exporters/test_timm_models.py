"""Real architectures, dense and half cut: every format, and every opset that targets read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from edgeprune import Budget, Captured, Scores, capture, channel_groups, cut, make_plan
from edgeprune.recovery import recalibrate_batchnorm
from edgeprune.targets import load_target
from edgeprune_exporters import Images, Job, TorchModel, export
from edgeprune_exporters.external_data import save_graph
from edgeprune_exporters.lowering import lower
from edgeprune_exporters.onnx import check_file
from edgeprune_exporters.opsets import at_opset
from edgeprune_exporters.parity import prove
from edgeprune_exporters.runtimes import load_onnxruntime

pytestmark = pytest.mark.slow

NAMES = (
    "resnet50",
    "vgg19",
    "vit_small_patch16_224",
    "convnext_tiny",
    "swin_tiny_patch4_window7_224",
    "efficientnet_b0",
    "mobilenetv3_large_100",
    "densenet121",
    "regnety_004",
    "maxvit_rmlp_pico_rw_256",
    "coatnet_nano_rw_224",
)
OPSETS = (16, 17, 19, 20)
CPU = load_target("cpu")
CPU_OF_3 = replace(CPU, max_batch=3)


def half(dense: Captured) -> Captured:
    generator = torch.Generator().manual_seed(0)
    values = {
        group.name: torch.rand(group.size, dtype=torch.float64, generator=generator)
        for group in channel_groups(dense)
    }
    scores = Scores(criterion="random", values=values)
    return cut(dense, make_plan(dense, scores, Budget(macs=0.5), align=16))


def models(name: str) -> Iterator[tuple[Captured, Tensor]]:
    """Give the dense and then the half cut model, with images; not both are held at once."""
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=10)
    images = torch.randn(4, 3, *net.default_cfg["input_size"][1:])
    model = capture(net, images[:1])
    del net
    recalibrate_batchnorm(model.module, [(images, None)])
    yield model, images
    model = half(model)
    recalibrate_batchnorm(model.module, [(images, None)])
    yield model, images


@pytest.mark.parametrize("name", NAMES)
def test_dense_and_half_equal_torch_in_both_runtimes_at_every_batch(
    name: str, tmp_path: Path
) -> None:
    for model, images in models(name):
        for artifact in export(model, CPU, tmp_path, images, formats=["onnx", "openvino"]):
            assert [each.batch for each in artifact.proof.batches] == [1, 3, 8]
            assert artifact.proof.max_rel < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_dense_and_half_equal_torch_at_every_opset(name: str, tmp_path: Path) -> None:
    for model, images in models(name):
        graph = lower(model, opset=18, metadata={})
        job = Job(model=TorchModel(model), target=CPU_OF_3, images=Images(parity=images))
        for opset in OPSETS:
            path = tmp_path / f"{opset}.onnx"
            save_graph(at_opset(graph, opset), path)
            assert check_file(path, opset) == opset
            assert prove(load_onnxruntime(path), job.batches).max_rel < 1e-4
