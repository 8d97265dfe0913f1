from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from edgeprune.data import ImageData, load_data
from edgeprune.errors import DataError, ModelError
from edgeprune.pipeline.inputs import fingerprint, load_images, open_dense, preprocessing_of
from edgeprune.progress import Silent

from .pipeline_case import Log, settings, write_archive

FACTORY = """
from torch import nn

def net(channels, classes, size=None):
    flat = nn.AdaptiveAvgPool2d(1 if size is None else size)
    width = 8 * (1 if size is None else size * size)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3), nn.ReLU(), flat, nn.Flatten(), nn.Linear(width, classes)
    )

def grey(num_classes):
    return net(1, num_classes)

def colour(num_classes, in_chans):
    return net(in_chans, num_classes)

def five():
    return net(3, 5)

def flat(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, num_classes))
"""


@pytest.fixture
def data(tmp_path: Path) -> ImageData:
    return load_data(write_archive(tmp_path / "squares.npz"))


@pytest.fixture
def factory(tmp_path: Path) -> Path:
    path = tmp_path / "my_net.py"
    path.write_text(FACTORY, encoding="utf-8")
    return path


def test_a_small_image_is_not_enlarged_to_what_imagenet_needs(data: ImageData) -> None:
    log = Log()
    built = open_dense(settings(Path("x"), image_size=None), data, log)
    assert built.config["input_size"] == (3, 64, 64)
    assert any("instead of the model's 160" in line for line in log.lines)
    assert preprocessing_of(built).crop_pct == 1.0


def test_an_input_size_that_is_asked_for_is_used(data: ImageData) -> None:
    built = open_dense(settings(Path("x"), image_size=96), data, Silent())
    assert built.config["input_size"] == (3, 96, 96)


def test_a_factory_of_grey_images_is_given_grey_images(data: ImageData, factory: Path) -> None:
    log = Log()
    built = open_dense(settings(Path("x"), model=f"{factory}:grey"), data, log)
    assert built.source.in_chans == 1
    assert preprocessing_of(built).channels == 1
    assert "'my_net.py:grey' takes one channel: images are converted to grey" in log.lines


def test_a_factory_that_takes_any_channels_is_given_three(data: ImageData, factory: Path) -> None:
    built = open_dense(settings(Path("x"), model=f"{factory}:colour"), data, Silent())
    assert built.source.in_chans == 3


def test_a_model_with_other_classes_than_the_data_is_refused(
    data: ImageData, factory: Path
) -> None:
    with pytest.raises(ModelError, match=r"\(1, 5\) for one image, but the data have 3 classes"):
        open_dense(settings(Path("x"), model=f"{factory}:five"), data, Silent())


def test_a_model_of_another_input_size_says_how_to_give_it(data: ImageData, factory: Path) -> None:
    asked = settings(Path("x"), model=f"{factory}:flat", image_size=None)
    with pytest.raises(ModelError, match=r"give --image-size"):
        open_dense(asked, data, Silent())
    built = open_dense(replace(asked, image_size=32), data, Silent())
    assert isinstance(built.model, nn.Module)


def test_one_class_alone_is_refused(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "one.npz", classes=1)
    with pytest.raises(DataError, match=r"'one\.npz' has one class only"):
        load_images(settings(path), Silent())


def test_a_criterion_that_looks_at_no_image_needs_none_per_class(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "squares.npz")
    with pytest.raises(DataError, match=r"has 20 training images, fewer than the 50"):
        load_images(settings(path, per_class=50), Silent())
    load_images(settings(path, per_class=50, criterion="magnitude"), Silent())


def test_a_fingerprint_changes_with_labels_and_with_images(data: ImageData) -> None:
    labels = data.train.labels.copy()
    labels[0] = (labels[0] + 1) % 3
    relabelled = replace(data, train=replace(data.train, labels=labels))
    fewer = replace(data, test=data.test.subset(range(20)))
    assert len({fingerprint(each) for each in (data, relabelled, fewer)}) == 3
    assert fingerprint(data) == fingerprint(replace(data, name="renamed"))
    assert np.array_equal(data.train.labels, labels) is False
