import hashlib

import numpy as np
import pytest

from edgeprune.data import class_counts, make_phantoms
from edgeprune.data.phantoms import MULTI, draw
from edgeprune.data.phantoms import findings as of
from edgeprune.data.phantoms.anatomy import make_chests
from edgeprune.data.phantoms.findings import Finding
from edgeprune.data.splits import ImageData

COUNTS = (40, 8, 12)


def _digest(data: ImageData) -> str:
    digest = hashlib.sha256()
    for split in data.splits:
        for image, id_ in zip(split.images, split.ids, strict=True):
            assert data.masks is not None
            digest.update(image.tobytes() + data.masks[id_].tobytes())
        digest.update(split.labels.tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(multi_label: bool) -> None:
    first, again, other = (
        _digest(make_phantoms(seed=seed, multi_label=multi_label, counts=COUNTS))
        for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other


def test_splits_share_no_image() -> None:
    data = make_phantoms(counts=(10, 10, 10))
    images = {image.tobytes() for split in data.splits for image in split.images}
    assert len(images) == 30


def test_single_label_phantoms_are_grey_images_of_four_balanced_classes() -> None:
    data = make_phantoms(counts=COUNTS)
    assert data.classes == ("normal", "nodule", "consolidation", "effusion")
    assert not data.multi_label
    assert data.train.images[0].shape == (64, 64)
    assert data.train.images[0].dtype == np.uint8
    assert data.train.labels.dtype == np.int64
    assert class_counts(data, data.train) == (10, 10, 10, 10)


def test_findings_of_multi_label_phantoms_have_a_long_tail_in_every_split() -> None:
    data = make_phantoms(multi_label=True, counts=(400, 200, 200), size=16)
    shares = [share for _, share in MULTI.values()]
    assert shares[0] == pytest.approx(0.35)
    assert shares[-1] == pytest.approx(0.02)
    for split in data.splits:
        assert split.labels.dtype == np.float32
        assert split.labels.mean(axis=0) == pytest.approx(shares, abs=0.003)
        without = (split.labels.sum(axis=1) == 0).mean()
        assert 0.25 < without < 0.45


@pytest.mark.parametrize("multi_label", [False, True])
def test_masks_are_there_for_the_findings_of_an_image_and_no_others(multi_label: bool) -> None:
    data = make_phantoms(multi_label=multi_label, counts=(100, 8, 8))
    assert data.masks is not None
    for split in data.splits:
        for index, id_ in enumerate(split.ids):
            shown = data.masks[id_].any(axis=(1, 2))
            label = split.labels[index]
            wanted = label == 1 if multi_label else np.arange(4) == label
            if not multi_label:
                wanted[0] = False  # nothing to see in a normal image
            assert (shown == wanted).all()


@pytest.mark.parametrize("finding", [of.nodule, of.effusion, of.cardiomegaly, of.pneumothorax])
def test_an_image_differs_from_its_healthy_twin_inside_the_mask_only(finding: Finding) -> None:
    sick, bits = draw(np.random.default_rng(1), np.ones((60, 1), dtype=bool), [finding], 64)
    healthy, _ = draw(np.random.default_rng(1), np.zeros((60, 1), dtype=bool), [finding], 64)
    masks = np.unpackbits(bits, axis=-1)[:, 0].astype(bool)
    changed = sick != healthy
    assert not (changed & ~masks).any()
    assert masks.mean(axis=(1, 2)).max() < 0.3
    assert (changed.sum(axis=(1, 2)) > 0.5 * masks.sum(axis=(1, 2))).mean() > 0.9


@pytest.mark.parametrize("finding", [of.consolidation, *(finding for finding, _ in MULTI.values())])
def test_a_finding_is_visible_wherever_its_mask_is(finding: Finding) -> None:
    rng = np.random.default_rng(0)
    added = finding(rng, make_chests(rng, 30, 64))
    assert (added != 0).any(axis=(1, 2)).all()
    assert np.abs(added[added != 0]).min() >= 0.01


def test_masks_of_widths_that_are_no_multiple_of_eight_keep_their_shape() -> None:
    data = make_phantoms(counts=(4, 4, 4), size=20)
    assert data.masks is not None
    assert len(data.masks) == 12
    assert data.masks["train/000000"].shape == (4, 20, 20)
    assert data.masks["train/000000"].dtype == np.bool_
