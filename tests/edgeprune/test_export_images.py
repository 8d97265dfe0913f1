"""Which images an export proves, calibrates and judges on."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edgeprune.data import load_data, preprocessing_from_timm
from edgeprune.errors import UsageError
from edgeprune.pipeline.export_images import PARITY_IMAGES, export_images, labelled
from edgeprune.source import DEFAULT_CONFIG

from .pipeline_case import write_archive

HOW = preprocessing_from_timm(dict(DEFAULT_CONFIG) | {"input_size": (3, 24, 24)})


def test_each_purpose_has_images_of_its_own_split(tmp_path: Path) -> None:
    data = load_data(write_archive(tmp_path / "squares.npz"))
    images = export_images(data, HOW, seed=0, calibration=9)
    assert images.parity.shape == (PARITY_IMAGES, 3, 24, 24)
    assert images.calibration is not None
    assert len(images.calibration) == 9
    for found, split in ((images.validation, data.val), (images.test, data.test)):
        assert found is not None
        np.testing.assert_array_equal(found.labels, split.labels)
        assert sum(len(batch) for batch in found.batches(5)) == len(split)


def test_calibration_images_are_of_all_classes_wherever_one_stops(tmp_path: Path) -> None:
    data = load_data(write_archive(tmp_path / "squares.npz"))
    images = export_images(data, HOW, seed=0, calibration=30).calibration
    assert images is not None
    places = [images[:15, 0, 10, 1 + 7 * k : 7 + 7 * k].mean(1) > 0 for k in range(3)]
    assert all(int(found.sum()) >= 2 for found in places)


def test_no_more_images_are_taken_than_the_rarest_class_has(tmp_path: Path) -> None:
    data = load_data(write_archive(tmp_path / "squares.npz"))
    images = export_images(data, HOW, seed=0, calibration=10_000).calibration
    assert images is not None
    assert len(images) == len(data.train)


def test_the_same_seed_takes_the_same_images_and_another_seed_others(tmp_path: Path) -> None:
    data = load_data(write_archive(tmp_path / "squares.npz"))
    first, second, other = (
        export_images(data, HOW, seed=seed, calibration=9).calibration for seed in (0, 0, 1)
    )
    assert first is not None
    assert second is not None
    assert other is not None
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_findings_have_images_too(tmp_path: Path) -> None:
    data = load_data(write_archive(tmp_path / "findings.npz", findings=3))
    images = export_images(data, HOW, seed=0, calibration=12)
    assert images.calibration is not None
    assert labelled(data.val, HOW).labels.shape == (24, 3)


def test_a_sampler_that_looks_at_images_needs_a_model(tmp_path: Path) -> None:
    data = load_data(write_archive(tmp_path / "squares.npz"))
    with pytest.raises(UsageError, match="use 'random'"):
        export_images(data, HOW, seed=0, sampler="confidence")
