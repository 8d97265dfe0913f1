"""Archives in MedMNIST's layout, and the checks that every data set passes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeprune.data
from edgeprune.data import check_split, class_counts, load_data, make_phantoms
from edgeprune.errors import DataError

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def _arrays(**changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for name, count in (("train", 8), ("val", 4), ("test", 4)):
        arrays[f"{name}_images"] = rng.integers(0, 256, (count, 6, 5), dtype=np.uint8)
        arrays[f"{name}_labels"] = (np.arange(count) % 2)[:, None].astype(np.uint8)
    return arrays | changes


def _saved(folder: Path, arrays: dict[str, Any]) -> Path:
    path = folder / "data.npz"
    np.savez(path, **arrays)
    return path


def test_an_archive_is_read_with_its_labels(tmp_path: Path) -> None:
    arrays = _arrays(classes=np.array(["well", "ill"]))
    data = load_data(_saved(tmp_path, arrays))
    assert data.name == "data.npz"
    assert data.classes == ("well", "ill")
    assert data.train.labels.tolist() == [0, 1] * 4
    assert data.train.labels.dtype == np.int64
    assert data.val.ids == ("val/000000", "val/000001", "val/000002", "val/000003")
    assert np.array_equal(data.test.images[3], arrays["test_images"][3])


def test_classes_without_names_are_numbered(tmp_path: Path) -> None:
    assert load_data(_saved(tmp_path, _arrays())).classes == ("0", "1")


def test_several_label_columns_are_findings(tmp_path: Path) -> None:
    columns = {
        f"{name}_labels": np.tile([[1, 0, 1]], (count, 1))
        for name, count in (("train", 8), ("val", 4), ("test", 4))
    }
    data = load_data(_saved(tmp_path, _arrays(**columns)))
    assert data.multi_label
    assert data.train.labels.dtype == np.float32
    assert class_counts(data, data.train) == (8, 0, 8)


def test_colour_and_one_channel_images_are_read(tmp_path: Path) -> None:
    shapes = _arrays(
        train_images=np.zeros((8, 6, 5, 3), np.uint8), val_images=np.zeros((4, 6, 5, 1), np.uint8)
    )
    data = load_data(_saved(tmp_path, shapes))
    assert data.train.images[0].shape == (6, 5, 3)
    assert data.val.images[0].shape == (6, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": np.zeros((8, 6, 5), np.float32)}, "train_images holds float32"),
        ({"val_images": np.zeros((4, 6, 5, 7), np.uint8)}, r"val_images has shape \(4, 6, 5, 7\)"),
        ({"test_images": np.zeros((3, 6, 5), np.uint8)}, "test has 3 images but 4 labels"),
        ({"val_images": np.zeros((0, 6, 5), np.uint8)}, r"val_images has shape \(0, 6, 5\)"),
        ({"test_labels": np.zeros((4, 1))}, "test_labels holds float64"),
        ({"test_labels": np.zeros((4, 2), int)}, "another number of columns"),
        ({"test_labels": np.zeros((4, 1, 1), int)}, r"test_labels has shape \(4, 1, 1\)"),
        ({"test_labels": np.array([0, 1, 2, 1]), "classes": ["a", "b"]}, "such as 2; the 2 class"),
        ({"val_labels": np.array([0, -1, 0, 1])}, "val_labels: 1 labels lie outside .* such as -1"),
        ({"classes": ["a", "a"]}, "names a more than once"),
    ],
)
def test_what_is_wrong_with_an_archive_is_named(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_data(_saved(tmp_path, _arrays(**changes)))


def test_findings_other_than_0_and_1_are_named(tmp_path: Path) -> None:
    columns = {
        f"{name}_labels": np.full((count, 2), 3)
        for name, count in (("train", 8), ("val", 4), ("test", 4))
    }
    with pytest.raises(DataError, match="such as 3; multi-label values are 0 or 1"):
        load_data(_saved(tmp_path, _arrays(**columns)))


def test_missing_keys_are_named_with_those_found(tmp_path: Path) -> None:
    arrays = _arrays()
    del arrays["val_labels"], arrays["test_images"]
    with pytest.raises(DataError, match=r"misses val_labels, test_images; it has train_images"):
        load_data(_saved(tmp_path, arrays))


def test_an_archive_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (tmp_path.joinpath("ran").touch, ())

    path = _saved(tmp_path, _arrays(train_labels=np.array([Trap()] * 8, dtype=object)))
    with pytest.raises(DataError, match=r"not a readable \.npz archive of plain arrays"):
        load_data(path)
    assert not tmp_path.joinpath("ran").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"\x80\x04N."])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a readable"):
        load_data(path)


def test_a_bare_array_or_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match="one bare array"):
        load_data(path)
    content = bytearray(_saved(tmp_path, _arrays()).read_bytes())
    content[150:160] = b"damaged..."
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="not a readable"):
        load_data(path)


def test_a_class_with_too_few_training_images_is_named_with_the_way_out() -> None:
    data = make_phantoms(counts=(40, 4, 4), size=16)
    check_split(data, 10)
    with pytest.raises(DataError, match=r"class 'normal' has 10 training images.* --per-class 10"):
        check_split(data, 11)


def test_an_empty_class_is_named_with_its_split() -> None:
    data = make_phantoms(counts=(40, 8, 8), size=16)
    without = data.val.subset(index for index in range(8) if data.val.labels[index] != 2)
    with pytest.raises(DataError, match="class 'consolidation' is empty in the val split"):
        check_split(replace(data, val=without), 10)


def test_labels_outside_the_classes_are_named_with_their_split() -> None:
    data = make_phantoms(counts=(40, 8, 8), size=16)
    test = replace(data.test, labels=data.test.labels + 1)
    with pytest.raises(DataError, match=r"test: 2 labels lie outside .* such as 4"):
        check_split(replace(data, test=test), 10)


@pytest.mark.parametrize("name", ["pneumoniamnist.npz", "mednist_64_small.npz"])
def test_real_archives_are_read(name: str) -> None:
    if not (SHARED / name).exists():
        pytest.skip("the shared data sets are not here")
    data = load_data(SHARED / name)
    check_split(data, 10)
    assert data.train.images[0].dtype == np.uint8


def test_the_public_names_are_these() -> None:
    assert edgeprune.data.__all__ == [
        "ImageData",
        "Split",
        "load_data",
        "make_phantoms",
        "check_split",
        "class_counts",
        "Preprocessing",
        "preprocess",
        "preprocessing_from_timm",
        "PreparedSplit",
        "batches",
    ]
