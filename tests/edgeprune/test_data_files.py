"""Folders, tables and the files that they list."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgeprune.data import class_counts, load_data
from edgeprune.data.images import read_image
from edgeprune.errors import DataError

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Save a distinct grey image under the temporary folder."""
    made = 0

    def _save(name: str, pixels: NDArray[Any] | None = None) -> Path:
        nonlocal made
        made += 1
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if pixels is None:
            pixels = np.random.default_rng(made).integers(0, 256, (20, 24), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return _save


def _tree(save: Save, splits: Sequence[str], count: int = 2, suffix: str = "png") -> None:
    for split in splits:
        for name in ("ill", "well"):
            for index in range(count):
                save(f"{split}/{name}/{index}.{suffix}")


def _table(folder: Path, text: str) -> Path:
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_a_folder_of_splits_is_read_with_relative_ids(save: Save, tmp_path: Path, val: str) -> None:
    _tree(save, ["train", val, "test"])
    data = load_data(tmp_path)
    assert data.name == tmp_path.name
    assert data.classes == ("ill", "well")
    assert data.notes == ()
    assert data.train.ids == (
        "train/ill/0.png",
        "train/ill/1.png",
        "train/well/0.png",
        "train/well/1.png",
    )
    assert data.train.labels.tolist() == [0, 0, 1, 1]
    assert data.val.ids[0] == f"{val}/ill/0.png"
    assert data.test.images[3].shape == (20, 24)


@pytest.mark.parametrize("suffix", ["png", "JPG", "jpeg", "bmp", "tif", "TIFF", "webp"])
def test_every_image_format_is_found_and_read(save: Save, tmp_path: Path, suffix: str) -> None:
    colour = np.full((8, 9, 3), (200, 100, 50), dtype=np.uint8)
    for split in ("train", "val", "test"):
        for name in ("a", "b"):
            save(f"{split}/{name}/x.{suffix}", colour)
    image = load_data(tmp_path).train.images[0]
    assert image.shape == (8, 9, 3)
    assert image[4, 4].tolist() == pytest.approx([200, 100, 50], abs=6)


def test_hidden_files_and_files_that_are_no_images_are_passed_over(
    save: Save, tmp_path: Path
) -> None:
    _tree(save, ["train", "val", "test"])
    save("train/ill/.thumb/0.png")
    save("train/ill/deeper/5.png")
    save("train/.cache/0.png")
    save("__MACOSX/x/0.png")
    (tmp_path / "train/ill/._0.png").write_bytes(b"resource fork")
    (tmp_path / "train/ill/notes.txt").write_text("read me")
    data = load_data(tmp_path)
    assert [id_ for id_ in data.train.ids if "ill" in id_] == [
        "train/ill/0.png",
        "train/ill/1.png",
        "train/ill/deeper/5.png",
    ]


def test_a_folder_of_classes_is_divided_by_seed_in_equal_shares_of_each_class(
    save: Save, tmp_path: Path
) -> None:
    _tree(save, ["."], count=20)
    data, again, other = (load_data(tmp_path, seed=seed) for seed in (0, 0, 1))
    assert [class_counts(data, split) for split in data.splits] == [(14, 14), (3, 3), (3, 3)]
    ids = [id_ for split in data.splits for id_ in split.ids]
    assert len(set(ids)) == 40
    assert again.test.ids == data.test.ids != other.test.ids
    assert "70% train, 15% val, 15% test by seed 0" in " ".join(data.notes)
    assert "patients" in " ".join(data.notes)


def test_a_missing_val_is_taken_from_train_and_said(save: Save, tmp_path: Path) -> None:
    _tree(save, ["train", "test"], count=20)
    data = load_data(tmp_path)
    assert [len(split) for split in data.splits] == [34, 6, 40]
    assert "no val split: 15% of train, by seed 0" in data.notes


def test_a_missing_test_is_never_replaced_by_what_chooses_the_epoch(
    save: Save, tmp_path: Path
) -> None:
    _tree(save, ["train", "val"], count=20)
    data = load_data(tmp_path)
    assert all(id_.startswith("val/") for id_ in data.test.ids)
    assert all(id_.startswith("train/") for id_ in data.val.ids)
    assert "val is used for testing" in " ".join(data.notes)


def test_folders_that_cannot_be_used_say_why(save: Save, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data at .*'phantoms'"):
        load_data(tmp_path / "nowhere")
    with pytest.raises(DataError, match="0 class folders"):
        load_data(tmp_path)
    _tree(save, ["train"])
    with pytest.raises(DataError, match="only the split train"):
        load_data(tmp_path)
    _tree(save, ["test"])
    save("test/odd/0.png")
    with pytest.raises(DataError, match=r"different classes: train/ misses odd"):
        load_data(tmp_path)
    (tmp_path / "train/odd").mkdir()
    with pytest.raises(DataError, match=r"class 'odd' is empty: .*holds no image"):
        load_data(tmp_path)
    _tree(save, ["val", "valid"])
    with pytest.raises(DataError, match="both val/ and valid/"):
        load_data(tmp_path)


def _spoil(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        path = tmp_path / split / "ill" / "0.png"
        path.write_bytes(path.read_bytes()[:-60])
    (tmp_path / "train/well/0.png").write_bytes(b"")
    for index in (1, 2):
        (tmp_path / f"train/well/{index}.png").write_bytes(b"no picture")


def test_corrupt_images_are_counted_and_the_first_five_named(save: Save, tmp_path: Path) -> None:
    _tree(save, ["train", "val", "test"], count=4)
    _spoil(tmp_path)
    with pytest.raises(DataError) as caught:
        load_data(tmp_path)
    message = str(caught.value)
    assert message.startswith("6 of 24 images cannot be read: '")
    assert message.count(".png'") == 5
    assert "truncated" in message
    assert "and 1 more" in message


def test_corrupt_images_are_skipped_on_request_and_counted(save: Save, tmp_path: Path) -> None:
    _tree(save, ["train", "val", "test"], count=4)
    _spoil(tmp_path)
    seen: list[tuple[int, int]] = []
    data = load_data(tmp_path, skip_corrupt=True, progress=lambda *step: seen.append(step))
    assert [class_counts(data, split) for split in data.splits] == [(3, 1), (3, 4), (3, 4)]
    assert "6 of 24 images could not be read and were skipped" in data.notes
    assert seen == [(step, 24) for step in range(1, 25)]
    assert all(image.ndim == 2 for split in data.splits for image in split.images)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "webp"])
def test_a_truncated_file_of_any_format_is_found(save: Save, tmp_path: Path, suffix: str) -> None:
    _tree(save, ["train", "val", "test"], suffix=suffix)
    pixels = np.random.default_rng(0).integers(0, 256, (99, 99), dtype=np.uint8)
    path = save(f"val/well/1.{suffix}", pixels)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(DataError, match=rf"1 of 12 images cannot be read: '.*well/1.{suffix}'"):
        load_data(tmp_path)


def test_an_image_that_breaks_after_the_check_is_named_when_read(
    save: Save, tmp_path: Path
) -> None:
    _tree(save, ["train", "val", "test"])
    data = load_data(tmp_path)
    (tmp_path / "train/ill/0.png").write_bytes(b"gone")
    with pytest.raises(DataError, match=r"image '.*train/ill/0.png' cannot be read"):
        data.train.images[0]


@pytest.mark.parametrize(("largest", "bits"), [(65535, 16), (4095, 12), (900, 10), (200, 8)])
def test_wide_grey_images_are_scaled_by_the_depth_of_the_data_set(
    save: Save, tmp_path: Path, largest: int, bits: int
) -> None:
    _tree(save, ["train", "val", "test"])
    save("train/ill/bright.png", np.array([[0, largest]], dtype=np.uint16))
    save("train/ill/dim.png", np.array([[0, largest // 2]], dtype=np.uint16))
    data = load_data(tmp_path)
    images = dict(zip(data.train.ids, data.train.images, strict=True))
    full = 2**bits - 1
    assert images["train/ill/bright.png"][0, 1] == round(largest * 255 / full)
    assert images["train/ill/dim.png"][0, 1] == round(largest // 2 * 255 / full)
    assert f"2 images have wide samples: {bits} bits were scaled to 8" in data.notes
    assert data.bits == bits


def test_modes_become_grey_or_colour(tmp_path: Path) -> None:
    colour = Image.new("RGB", (3, 2), (10, 200, 30))
    for mode, shape in {"1": (2, 3), "LA": (2, 3), "P": (2, 3, 3), "RGBA": (2, 3, 3)}.items():
        colour.convert(mode).save(tmp_path / f"{mode}.png")
        image = read_image(tmp_path / f"{mode}.png")
        assert image.shape == shape
        assert image.dtype == np.uint8


def test_floating_point_images_are_refused_with_the_way_out(save: Save, tmp_path: Path) -> None:
    _tree(save, ["train", "val", "test"])
    save("train/ill/f.tif", np.zeros((4, 4), dtype=np.float32))
    with pytest.raises(DataError, match="floating-point numbers: save it with 8 or 16 bits"):
        load_data(tmp_path)


def test_a_table_of_labels_is_read_and_divided(save: Save, tmp_path: Path) -> None:
    for index in range(20):
        save(f"x/{index}.png")
    rows = "".join(f"x/{i}.png,{'ill' if i % 2 else 'NA'}\n" for i in range(20))
    data = load_data(_table(tmp_path, "\ufeffpath,label\n" + rows))
    assert data.name == "table.csv"
    assert data.classes == ("NA", "ill")
    assert [class_counts(data, split) for split in data.splits] == [(7, 7), (2, 1), (1, 2)]
    assert all(
        data.classes[label] == ("ill" if int(Path(id_).stem) % 2 else "NA")
        for split in data.splits
        for id_, label in zip(split.ids, split.labels, strict=True)
    )


def test_classes_that_are_numbers_are_in_numerical_order(save: Save, tmp_path: Path) -> None:
    rows = ""
    for split in ("train", "val", "test"):
        for label in (10, 9, 2):
            save(f"{split}{label}.png")
            rows += f"{split}{label}.png,{label},{split}\n"
    data = load_data(_table(tmp_path, "path,label,split\n" + rows))
    assert data.classes == ("2", "9", "10")
    assert data.val.labels.tolist() == [2, 1, 0]
    assert data.notes == ()


def test_a_table_of_findings_is_multi_label(save: Save, tmp_path: Path) -> None:
    rows = ""
    for split in ("train", "val", "test"):
        save(f"{split}.png")
        rows += f"{split}.png,1,{split},0\n"
    data = load_data(_table(tmp_path, "path,nodule,split,mass\n" + rows))
    assert data.multi_label
    assert data.classes == ("nodule", "mass")
    assert data.train.labels.dtype == np.float32
    assert data.train.labels.tolist() == [[1, 0]]


@pytest.mark.parametrize("header", ["path,patient,label", "path,patient,rare,common"])
def test_no_patient_is_in_two_splits(save: Save, tmp_path: Path, header: str) -> None:
    rng = np.random.default_rng(0)
    rows = ""
    for index in range(90):
        save(f"{index}.png")
        ill = int(rng.random() < 0.3)
        value = f"{ill}" if "label" in header else f"{ill},{int(rng.random() < 0.5)}"
        rows += f"{index}.png,p{rng.integers(30)},{value}\n"
    path = _table(tmp_path, f"{header}\n{rows}")
    data = load_data(path)
    patients = dict(line.split(",")[:2] for line in rows.splitlines())
    groups = [{patients[id_] for id_ in split.ids} for split in data.splits]
    assert not groups[0] & groups[1]
    assert not (groups[0] | groups[1]) & groups[2]
    assert [len(split) for split in data.splits] == pytest.approx([63, 13.5, 13.5], abs=3)
    total = np.sum([class_counts(data, split) for split in data.splits], axis=0)
    for split, share in zip(data.splits, (0.7, 0.15, 0.15), strict=True):
        assert class_counts(data, split) == pytest.approx(total * share, abs=4)


def test_images_outside_the_tables_folder_get_ids_without_the_path(
    save: Save, tmp_path: Path
) -> None:
    rows = ""
    for number, split in enumerate(("train", "val", "test"), start=1):
        save(f"home/{number}.png")
        absolute = save(f"elsewhere/{split}.png")
        outside = "../elsewhere/train.png" if split == "train" else absolute
        rows += f"{number}.png,a,{split}\n{outside},b,{split}\n"
    data = load_data(_table(tmp_path / "home", "path,label,split\n" + rows))
    assert data.train.ids == ("1.png", "outside/000003/train.png")
    assert data.test.ids == ("3.png", "outside/000007/test.png")
    assert data.test.images[1].shape == (20, 24)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("path,label\n", "is empty"),
        ("file,label\n0.png,a\n", r"no column is named 'path'; the columns are file, label"),
        ("path\n0.png\n", "neither 'label' nor columns of findings"),
        ("path,label,mass\n0.png,a,1\n", "both 'label' and the columns mass"),
        ("path,mass,mass\n0.png,1,1\n", "'mass' is there more than once"),
        ("path,mass\n0.png,1\n1.png,2\n", "line 3: 'mass' is '2'; a finding is 0 or 1"),
        ("path,mass\n0.png,\n", "line 2: 'mass' is ''"),
        ("path,label\n0.png,a\n1.png,\n", "line 3: label is empty"),
        ("path,label\n0.png,a,b\n", "line 2: 3 values for 2 columns"),
        ("path,label\n0.png,a\n1.png,a\n", "every label is 'a'"),
        ("path,label\n0.png,a\n9.png,b\n", r"1 of 2 files do not exist, such as '.*9.png'"),
        ("path,label\n0.png,a\nx/../0.png,b\n", "lines 2 and 3 both list"),
        ("path,label,split\n0.png,a,dev\n", "split is 'dev', not one of train, val, test"),
        (
            "path,label,split,patient\n0.png,a,train,p7\n1.png,b,test,p7\n",
            "patient 'p7' is in both train and test",
        ),
        ("path,label,split\n0.png,a,train\n1.png,b,train\n", "only the split train"),
        ('path,label\n"0.png,a\n', "cannot be read as a CSV file"),
    ],
)
def test_what_is_wrong_with_a_table_is_named(
    save: Save, tmp_path: Path, text: str, message: str
) -> None:
    save("0.png")
    save("1.png")
    with pytest.raises(DataError, match=message):
        load_data(_table(tmp_path, text))


def test_a_table_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("path,label\nä.png,a\n".encode("latin-1"))
    with pytest.raises(DataError, match="in UTF-8"):
        load_data(tmp_path / "t.csv")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"is a \.parquet file; give \.csv or \.npz"):
        load_data(tmp_path / "t.parquet")
