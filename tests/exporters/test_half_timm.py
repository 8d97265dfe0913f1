"""Float16 of real architectures."""

from __future__ import annotations

import gc

import onnx
import pytest
import timm
import torch
from torch import nn

from edgeprune import capture
from edgeprune.progress import Silent
from edgeprune.recovery import recalibrate_batchnorm
from edgeprune_exporters import TorchModel
from edgeprune_exporters.half import Half, to_half
from edgeprune_exporters.half_search import TOLERANCE

from .test_half import FLOAT, operators, run, types

NAMES = (
    "resnet50",
    "vgg19",
    "vit_small_patch16_224",
    "convnext_tiny",
    "swin_tiny_patch4_window7_224",
    "efficientnet_b0",
    "mobilenetv3_large_100",
    "densenet121",
    "regnety_016",
    "coatnet_0_rw_224",
    "maxvit_tiny_tf_224",
)
HEAVY = {"Conv", "MatMul", "Gemm"}


def built(name: str) -> nn.Module:
    """Build a model whose scales are not the tiny ones that training starts from."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10).eval()
    for parameter_name, parameter in model.named_parameters():
        if "gamma" in parameter_name:
            nn.init.uniform_(parameter)
    return model


def exported(name: str, opset: int) -> tuple[onnx.ModelProto, list[torch.Tensor]]:
    images = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    captured = capture(built(name), images[:1])
    recalibrate_batchnorm(captured.module, [(images, None)])
    graph = TorchModel(captured).graph(opset=opset, batch=None, metadata={})
    return graph, [images[:1], images[1:]]


def halved(name: str, opset: int) -> tuple[onnx.ModelProto, Half, torch.Tensor]:
    graph, batches = exported(name, opset)
    gc.collect()
    found = to_half(graph, [batch.numpy() for batch in batches], reporter=Silent())
    return graph, found, batches[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_architecture_is_float16_within_tolerance(name: str) -> None:
    graph, found, images = halved(name, opset=17)
    onnx.checker.check_model(found.graph, full_check=True)
    assert not found.kept
    assert operators(found.graph).count("Cast") == operators(graph).count("Cast") + 2
    assert 1e-4 < found.worst <= TOLERANCE
    seen = types(found.graph)
    read = {each for node in found.graph.graph.node if node.op_type in HEAVY for each in node.input}
    assert FLOAT not in {seen[each] for each in read if each}
    wanted = torch.from_numpy(run(graph, images.numpy()))
    error = (torch.from_numpy(run(found.graph, images.numpy())) - wanted).abs().max()
    assert error <= TOLERANCE * wanted.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("opset", [16, 18, 19, 20, 21, 22, 23])
def test_a_transformer_is_float16_at_every_opset(opset: int) -> None:
    _, found, _ = halved("vit_tiny_patch16_224", opset)
    onnx.checker.check_model(found.graph, full_check=True)
    assert not found.kept
    assert 1e-4 < found.worst <= TOLERANCE
