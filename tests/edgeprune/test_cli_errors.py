"""Every mistake through the real command line: one line, no traceback, a non-zero exit."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from .pipeline_case import MODEL, options, write_archive

Run = Callable[..., tuple[int, str, str]]

BEFORE_ANY_IMAGE = [
    (["--model", "test_resnt"], 1, "timm has no model 'test_resnt': did you mean test_resnet"),
    (["--model", "absent.py:build"], 1, "there is no file 'absent.py'"),
    (["--weights", "absent.safetensors"], 1, "no weights at 'absent.safetensors'"),
    (["--weights", "a.pt", "--pretrained"], 2, "--weights and --pretrained both name weights"),
    (["--weights", "two\nlines.pt"], 1, "no weights at 'two | lines.pt'"),
    (["--data", "absent"], 1, "no data at 'absent'"),
    (["--keep", "0"], 2, "keep 0 is not a share: give a number above 0 and at most 1"),
    (["--keep", "1.5"], 2, "keep 1.5 is not a share"),
    (["--keep", "nan"], 2, "keep nan is not a share"),
    (["--keep", "half"], 2, "'half' is not a valid float"),
    (["--keep", "0.5", "--macs", "0.5"], 2, "give exactly one budget of keep, macs and params"),
    (["--criterion", "tailor"], 2, "unknown criterion 'tailor'; did you mean 'taylor'?"),
    (["--sampler", "best"], 2, "no sampler 'best': choose one of cluster, random, confidence"),
    (["--ranking", "best"], 2, "no ranking 'best': choose one of global"),
    (["--target", "jetsen"], 2, "no target 'jetsen' (did you mean 'jetson'"),
    (["--formats", "onnx,onxx"], 2, "no format 'onxx' (did you mean 'onnx'?)"),
    (["--per-class", "0"], 2, "--per-class 0 is too small: give 1 or more"),
    (["--rounds", "3"], 2, "--rounds 3 is odd"),
    (["--lr", "nan"], 2, "--lr nan is not a learning rate"),
    (["--batch-size", "1"], 2, "--batch-size 1 is too small"),
    (["--seed", "-1"], 2, "--seed -1 is too small"),
    (["--seed", "99999999999"], 2, "--seed 99999999999 is too large"),
    (["--no-such"], 2, "No such option '--no-such'"),
    (["--out", "full"], 2, "'full' is not empty: choose another --out"),
    (["--out", "."], 2, "--out '.' names no folder of its own"),
    (["--config", "absent.toml"], 2, "--config 'absent.toml' cannot be read: No such file"),
    (["surplus"], 2, "unexpected extra argument"),
]


@pytest.fixture
def run(edgeprune: Run) -> Run:
    """Return what runs a command in an empty folder and gives its exit code, stdout and stderr."""
    return edgeprune


@pytest.mark.parametrize(("words", "code", "message"), BEFORE_ANY_IMAGE)
def test_a_mistake_is_one_line_before_anything_is_read(
    run: Run, tmp_path: Path, words: list[str], code: int, message: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    ended, out, err = run("compress", *words)
    assert (ended, out) == (code, "")
    (line,) = [line for line in err.splitlines() if not line.startswith("▸ Read")]
    assert line.startswith("error: ")
    assert message in line
    assert {path.name for path in tmp_path.iterdir()} == {"full"}


def fails(run: Run, *words: str) -> str:
    """Return the one line of error that ends a run, which leaves no bundle and no mess."""
    code, out, err = run(*words)
    assert code > 0
    assert out == ""
    *progress, last = err.splitlines()
    assert last.startswith("error: ")
    assert all(line.startswith(("▸ ", "  ")) for line in progress), err
    assert not Path("edgeprune-out").exists()
    return last


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    return options(write_archive(tmp_path / "squares.npz"))


def test_weights_that_do_not_fit_name_tensors_and_shapes(run: Run, tiny: list[str]) -> None:
    state = timm.create_model(MODEL, num_classes=3).state_dict()
    save_file(state | {"conv1.0.weight": torch.zeros(5, 3, 3, 3)}, "weights.safetensors")
    line = fails(run, *tiny, "--weights", "weights.safetensors")
    assert "does not fit this model: differing in shape: 1 (conv1.0.weight is (5, 3, 3, 3)" in line


class Bomb:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch exploded",)


def test_a_pickle_that_would_run_code_is_not_run(run: Run, tiny: list[str]) -> None:
    Path("weights.pt").write_bytes(pickle.dumps({"a": Bomb()}))
    line = fails(run, *tiny, "--weights", "weights.pt")
    assert "'weights.pt' was not opened: it wants to load" in line
    assert "system" in line
    assert not Path("exploded").exists()


def folder_of_images(folder: Path) -> Path:
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        for name in ("cat", "dog"):
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(count):
                Image.new("L", (24, 24), 40 * number).save(place / f"{number}.png")
    return folder


def test_corrupt_images_are_named_and_counted(run: Run, tmp_path: Path) -> None:
    folder = folder_of_images(tmp_path / "images")
    whole = (folder / "train" / "cat" / "0.png").read_bytes()
    (folder / "train" / "cat" / "0.png").write_bytes(whole[:-30])
    (folder / "test" / "dog" / "1.png").write_bytes(b"nothing")
    line = fails(run, *options(folder))
    assert "2 of 16 images cannot be read" in line
    assert "train/cat/0.png" in line
    assert "test/dog/1.png" in line


def test_an_empty_class_is_named(run: Run, tmp_path: Path) -> None:
    folder = folder_of_images(tmp_path / "images")
    for image in (folder / "train" / "dog").iterdir():
        image.unlink()
    assert "class 'dog' is empty" in fails(run, *options(folder))


def test_labels_outside_the_classes_are_shown(run: Run, tmp_path: Path) -> None:
    path = write_archive(tmp_path / "squares.npz", label=-1)
    line = fails(run, *options(path))
    assert "1 labels lie outside the classes, such as -1; the 3 classes are 0 to 2" in line


def test_a_class_with_too_few_images_is_named(run: Run, tiny: list[str]) -> None:
    line = fails(run, *tiny, "--per-class", "21")
    assert "class '0' has 20 training images, fewer than the 21 to score per class" in line


def test_an_archive_without_the_right_arrays_is_refused(run: Run, tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    assert "misses train_images" in fails(run, *options(tmp_path / "other.npz"))


UNCAPTURABLE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Linear(3, num_classes)
    def forward(self, x):
        means = x.mean((2, 3))
        if means.sum() > 0:
            means = means + 1
        return self.head(means)

def build(num_classes):
    return Net(num_classes)
"""


def test_a_model_that_cannot_be_captured_names_the_line(run: Run, tiny: list[str]) -> None:
    Path("net.py").write_text(UNCAPTURABLE, encoding="utf-8")
    line = fails(run, *tiny, "--model", "net.py:build")
    assert "torch.export cannot capture Net" in line
    assert "(net.py, line 11)" in line


NOTHING_TO_CUT = """
from torch import nn

def build(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, num_classes))
"""


def test_a_model_of_which_nothing_can_be_cut_says_why(run: Run, tiny: list[str]) -> None:
    Path("net.py").write_text(NOTHING_TO_CUT, encoding="utf-8")
    line = fails(run, *tiny, "--model", "net.py:build")
    assert "nothing can be removed from this model: model output; image" in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--keep-group", "layr1.*"], "keep-group 'layr1.*' matches no channel group: did you"),
        (["--freeze", "fcc"], "freeze 'fcc' matches no module or parameter: did you mean fc"),
        (["--kinds", "heads"], "no channel group is of kind 'heads': this model has conv, width"),
        (["--freeze", "*"], "1.000 of the dense model is left"),
    ],
)
def test_what_to_leave_is_checked_before_any_training(
    run: Run, tiny: list[str], words: list[str], message: str
) -> None:
    code, _, err = run(*tiny, *words)
    assert code in (1, 2)
    assert message in err.splitlines()[-1]
    assert "is trained here" not in err


def test_a_module_that_is_not_there_is_named(run: Run, tiny: list[str]) -> None:
    line = fails(run, *tiny, "--model", "no_such_module:build")
    assert "No module named 'no_such_module'; install it" in line


def test_a_budget_that_no_plan_meets_is_refused_before_any_training(
    run: Run, tiny: list[str]
) -> None:
    words = [word for word in tiny if word not in ("--macs", "0.5")]
    code, _, err = run(*words, "--macs", "0.0001")
    assert code == 1
    assert "cannot be reached" in err.splitlines()[-1]
    assert "is trained here" not in err


def test_a_failed_start_is_not_in_the_way_of_the_next(run: Run, tiny: list[str]) -> None:
    words = [word for word in tiny if word not in ("--macs", "0.5")]
    fails(run, *words, "--macs", "0.0001")
    again = fails(run, *words, "--macs", "0.0002")
    assert "cannot be reached" in again
