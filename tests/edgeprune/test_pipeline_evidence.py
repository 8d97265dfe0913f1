import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgeprune.capture import Captured, capture
from edgeprune.data import PreparedSplit, load_data, make_phantoms, preprocessing_from_timm
from edgeprune.pipeline.context import Context, logits_of
from edgeprune.pipeline.evidence import evidence_stage
from edgeprune.pipeline.workspace import Workspace
from edgeprune.progress import Silent
from edgeprune.targets import load_target

from .pipeline_case import settings, write_archive

HOW = preprocessing_from_timm(
    {"input_size": (3, 24, 24), "mean": (0.2,) * 3, "std": (0.3,) * 3, "crop_pct": 1.0}
)


def network(classes: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(96, classes)
    ).eval()


def small(classes: int, seed: int = 0) -> Captured:
    return capture(network(classes, seed), torch.randn(2, 3, 24, 24))


def context_of(tmp_path: Path, *, findings: int = 0) -> Context:
    path = write_archive(tmp_path / "data.npz", findings=findings)
    data = load_data(path)
    return Context(
        settings=settings(path),
        target=load_target("cpu"),
        data=data,
        preprocessing=HOW,
        train=PreparedSplit(data.train, HOW),
        val=PreparedSplit(data.val, HOW),
        work=Workspace(tmp_path / "slim"),
        reporter=Silent(),
    )


def examples(folder: Path) -> list[dict[str, object]]:
    return list(json.loads((folder / "examples.json").read_text(encoding="utf-8"))["examples"])


def test_an_example_is_explained_for_its_true_class(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    for example in examples(evidence_stage(context, small(3), small(3, 1))):
        position = context.data.test.ids.index(str(example["id"]))
        true = context.data.classes[int(context.data.test.labels[position])]
        assert example["label"] == example["explained"] == true
        assert {"dense", "slim", "similarity", "mass_in_mask"} <= example.keys()


def test_an_image_without_findings_says_so(tmp_path: Path) -> None:
    context = context_of(tmp_path, findings=3)
    dense = small(3)
    found = examples(evidence_stage(context, dense, small(3, 1)))
    none = [example for example in found if example["label"] == "no finding"]
    assert none
    assert len(none) < len(found)
    for example in none:
        position = context.data.test.ids.index(str(example["id"]))
        assert not context.data.test.labels[position].any()
        shares = logits_of(dense, context.images(context.data.test, [position])).sigmoid()[0]
        assert example["explained"] == context.data.classes[int(shares.argmax())]
        said = example["dense"]
        assert isinstance(said, dict)
        assert said["class"] == "no finding"
        assert said["probability"] == pytest.approx(1 - float(shares.max()), abs=1e-4)


def test_of_several_findings_the_rarest_is_explained_and_asked_of_both(tmp_path: Path) -> None:
    context = context_of(tmp_path, findings=3)
    counts = context.data.test.labels.sum(axis=0)
    shown = examples(evidence_stage(context, small(3), small(3, 1)))
    for example in shown:
        position = context.data.test.ids.index(str(example["id"]))
        present = np.flatnonzero(context.data.test.labels[position])
        if len(present):
            rarest = min(present, key=lambda k: (counts[k], k))
            assert example["label"] == context.data.classes[rarest]
            for side in ("dense", "slim"):
                said = example[side]
                assert isinstance(said, dict)
                assert said["class"] == example["label"]


def test_evidence_inside_a_known_mask_is_measured_where_there_is_a_finding(tmp_path: Path) -> None:
    data = make_phantoms(seed=0, multi_label=True, size=24, counts=(8, 8, 40))
    context = replace(context_of(tmp_path), data=data)
    found = examples(evidence_stage(context, small(7), small(7, 1)))
    assert any(example["mass_in_mask"] for example in found)
    assert all(not e["mass_in_mask"] for e in found if e["label"] == "no finding")


def test_examples_spread_over_the_classes(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    chosen = context.spread(context.data.test, 6)
    assert sorted(context.data.test.labels[chosen].tolist()) == [0, 0, 1, 1, 2, 2]
    assert sorted(context.spread(context.data.test, 99)) == list(range(24))


class Pair(nn.Module):
    """Loops over its batch, so that it can only be captured with a fixed one."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network(3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.inner(images[i : i + 1]) for i in range(images.shape[0])])


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_model_of_a_fixed_batch_answers_any_number_of_images(count: int) -> None:
    fixed = capture(Pair().eval(), torch.randn(2, 3, 24, 24))
    assert not fixed.dynamic_batch
    images = torch.randn(count, 3, 24, 24)
    torch.testing.assert_close(logits_of(fixed, images), logits_of(small(3), images))
