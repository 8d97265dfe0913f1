"""Families of three kinds in every format: dense, and with half of every group gone.

Cut models of all families are exported by the tests of families.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune import Captured, capture, cut
from edgeprune.recovery import recalibrate_batchnorm
from edgeprune.targets import load_target
from edgeprune_exporters import export

from ..edgeprune.families import Family, family, pictures
from ..edgeprune.models import random_plan

KINDS = ("efficientnet", "nfnet", "vision_transformer")


def models(built: Family) -> tuple[Captured, Captured]:
    """Capture a family's model and cut it; BatchNorm has seen what the model now computes."""
    images = pictures(4, built.size, seed=2)
    dense = capture(built.model, images[:2])
    slim = cut(dense, random_plan(dense))
    for each in (dense, slim):
        recalibrate_batchnorm(each.module, [(images, None)])
    return dense, slim


@pytest.mark.parametrize("name", KINDS)
def test_dense_and_cut_files_equal_torch_at_every_batch_size(name: str, tmp_path: Path) -> None:
    built = family(name)
    for model in models(built):
        images = pictures(4, built.size, seed=2)
        for artifact in export(model, load_target("cpu"), tmp_path, images):
            batches = [each.batch for each in artifact.proof.batches]
            assert batches == ([1, 3, 8] if model.dynamic_batch else [len(model.sample)])
            assert artifact.proof.max_rel < 1e-4
