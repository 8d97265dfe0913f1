from dataclasses import replace

import numpy as np
import pytest
import torch

from edgeprune.data import PreparedSplit, Preprocessing, Split, batches, make_phantoms, preprocess
from edgeprune.errors import UsageError

HOW = Preprocessing(
    size=(32, 32),
    channels=3,
    resize="shortest",
    crop_pct=0.9,
    interpolation="bilinear",
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.3, 0.4),
)
SPLIT = make_phantoms(counts=(13, 4, 4)).train
FINDINGS = make_phantoms(counts=(6, 4, 4), multi_label=True).train


def _images(**options: object) -> torch.Tensor:
    return torch.cat([x for x, _ in batches(SPLIT, HOW, batch_size=5, **options)])  # type: ignore[arg-type]


def test_batches_hold_the_preprocessed_images_in_order() -> None:
    got = list(batches(SPLIT, HOW, batch_size=5))
    assert [len(images) for images, _ in got] == [5, 5, 3]
    images, labels = (torch.cat(part) for part in zip(*got, strict=True))
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert labels.tolist() == SPLIT.labels.tolist()
    for index, image in enumerate(SPLIT.images):
        assert np.array_equal(images[index].numpy(), preprocess(image, HOW))


def test_multi_label_batches_carry_one_number_per_finding() -> None:
    _, labels = next(batches(FINDINGS, HOW, batch_size=4))
    assert labels.dtype == torch.float32
    assert labels.shape == (4, 7)


def test_only_the_images_at_the_given_positions_are_in_the_batches() -> None:
    images, labels = next(batches(SPLIT, HOW, batch_size=8, indices=[4, 1]))
    assert labels.tolist() == SPLIT.labels[[4, 1]].tolist()
    assert np.array_equal(images[1].numpy(), preprocess(SPLIT.images[1], HOW))


def test_batches_depend_on_the_seed_and_the_epoch_alone() -> None:
    options = {"shuffle": True, "augment": True, "seed": 1}
    first = _images(**options, epoch=2)
    assert torch.equal(first, _images(**options, epoch=2))
    assert not torch.equal(first, _images(**options, epoch=3))
    assert not torch.equal(first, _images(**options | {"seed": 2}, epoch=2))


def test_shuffled_batches_hold_every_image_once() -> None:
    got = [labels for _, labels in batches(SPLIT, HOW, batch_size=5, shuffle=True)]
    assert sorted(torch.cat(got).tolist()) == sorted(SPLIT.labels.tolist())
    assert torch.cat(got).tolist() != SPLIT.labels.tolist()


def test_a_last_shuffled_batch_of_one_image_is_left_out() -> None:
    sizes = [len(x) for x, _ in batches(SPLIT, HOW, batch_size=6, shuffle=True)]
    assert sizes == [6, 6]
    assert [len(x) for x, _ in batches(SPLIT, HOW, batch_size=6)] == [6, 6, 1]
    assert len(list(batches(SPLIT, HOW, batch_size=1, shuffle=True))) == 13


def test_augmentation_moves_every_picture_and_flips_about_half() -> None:
    across = np.tile(np.linspace(0, 255, 40).astype(np.uint8), (40, 1))
    split = replace(SPLIT, images=[across] * len(SPLIT))
    plain, _ = next(batches(split, HOW, batch_size=1))
    moved = torch.cat([x for x, _ in batches(split, HOW, batch_size=4, augment=True)])
    likeness = torch.corrcoef(torch.cat([plain, moved]).flatten(1))[0, 1:]
    assert likeness.abs().min() > 0.8
    assert not any(torch.equal(image, plain[0]) for image in moved)
    assert 2 <= int((likeness < 0).sum()) <= 11


def test_a_prepared_split_gives_the_same_batches_and_reads_each_image_once() -> None:
    reads: list[int] = []

    class Counted(list[np.ndarray]):  # type: ignore[type-arg]
        def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override,type-arg]
            reads.append(index)
            return super().__getitem__(index)

    split = replace(SPLIT, images=Counted(SPLIT.images))
    prepared = PreparedSplit(split, HOW)
    for _ in range(2):
        got = torch.cat([x for x, _ in batches(prepared, HOW, batch_size=5)])
        assert torch.equal(got, _images())
    assert reads == list(range(13))


def test_a_prepared_split_keeps_no_more_than_its_limit() -> None:
    prepared = PreparedSplit(SPLIT, HOW, limit=3 * 32 * 32 * 3)
    list(batches(prepared, HOW, batch_size=5))
    kept = [prepared[index] is prepared[index] for index in range(13)]
    assert kept == [True] * 3 + [False] * 10


def test_other_preprocessing_than_the_prepared_is_refused() -> None:
    with pytest.raises(UsageError, match="other preprocessing"):
        batches(PreparedSplit(SPLIT, HOW), replace(HOW, crop_pct=1.0), batch_size=2)
    with pytest.raises(UsageError, match="batch size of 0"):
        batches(SPLIT, HOW, batch_size=0)


def test_a_subset_keeps_images_labels_and_ids_together() -> None:
    part = SPLIT.subset([7, 2]).subset([1])
    assert isinstance(part, Split)
    assert part.ids == ("train/000002",)
    assert part.labels.tolist() == [SPLIT.labels[2]]
    assert np.array_equal(part.images[0], SPLIT.images[2])
    assert [image.shape for image in part.images[0:1]] == [(64, 64)]
