"""Architectures of timm in int8, in every format."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from edgeprune.capture import capture
from edgeprune.targets import load_target
from edgeprune_exporters import Images, Job, TorchModel
from edgeprune_exporters.execution import INTEGERS, read_execution
from edgeprune_exporters.openvino import OpenvinoExporter
from edgeprune_exporters.quantization import quantize_graph
from edgeprune_exporters.quantization.limiting import relative_rms
from edgeprune_exporters.runtimes import load_openvino, run_graph

# With the share of MACs that OpenVINO ran in int8 at least, on a processor with VNNI.
MODELS = {
    "resnet50": 0.99,
    "vgg19_bn": 0.99,
    "vit_small_patch16_224": 0.85,  # the product with the values stays float in attention
    "convnext_tiny": 0.95,
    "swin_tiny_patch4_window7_224": 0.8,
    "efficientnet_b0": 0.9,
    "mobilenetv3_large_100": 0.9,
    "densenet121": 0.9,
    "regnety_004": 0.9,
    "coatnet_nano_rw_224": 0.9,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_an_architecture_is_quantised_nearly_whole_in_every_format(
    name: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    images = torch.randn(8, 3, 224, 224)
    model = timm.create_model(name, num_classes=6).train()
    with torch.no_grad():
        model(images)  # gives the normalisations statistics of their inputs
    given = Images(parity=images[:2], calibration=images)
    target = load_target("cpu")
    job = Job(model=TorchModel(capture(model.eval(), images[:2])), target=target, images=given)
    batch = job.batches[0]

    for scheme in ("runtime", "tensorrt"):
        found = run_graph(quantize_graph(job, scheme).graph)(batch.images)
        assert relative_rms(found, batch.logits) < 0.3, scheme

    OpenvinoExporter().export(job, "int8", tmp_path)
    found = load_openvino(tmp_path / "model.xml").run(batch.images)
    assert relative_rms(found, batch.logits) < 0.3
    execution = read_execution(tmp_path / "model.xml")
    share = sum(part for kind, part in execution.macs.items() if kind in INTEGERS)
    assert share >= MODELS[name], execution
