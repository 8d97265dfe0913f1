"""A disk that is full: a limit on the size of files makes every library meet it for real."""

import errno
import json
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeprune.capture import save_tensors
from edgeprune.errors import EdgepruneError, ExportError, StorageError
from edgeprune.files import write_text
from edgeprune.pipeline import compress, rewrite_report
from edgeprune.pipeline.storage import told_as_one_line

from .pipeline_case import finished, settings


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes; Python already ignores the signal for that."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


WRITERS: dict[str, Callable[[Path], None]] = {
    "text": lambda path: write_text(path, "x" * 10_000),
    "safetensors": lambda path: save_tensors(path, {"a": torch.zeros(10_000)}),
    "numpy": lambda path: np.save(path, np.zeros(10_000)),
    "numpy archive": lambda path: np.savez(path, np.zeros(10_000)),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_told_in_one_line_whoever_meets_it(kind: str, tmp_path: Path) -> None:
    with (
        full_disk(1000),
        pytest.raises(StorageError, match=r"could not be written .*free some space") as caught,
        told_as_one_line(tmp_path),
    ):
        WRITERS[kind](tmp_path / "file.npz")
    assert "\n" not in str(caught.value)


def test_a_place_without_permission_is_named(tmp_path: Path) -> None:
    words = r"'here' cannot be used \(no\): make it readable"
    with pytest.raises(StorageError, match=words), told_as_one_line(tmp_path):
        raise PermissionError(errno.EACCES, "no", "here")


def test_other_errors_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(EdgepruneError, match="other"), told_as_one_line(tmp_path):
        raise EdgepruneError("other")


# What is removed of a finished run, the largest file that may be written, and what is then said.
# 20 kB hold a plan, not the weights; 100 kB hold those of the slim model, not its ONNX file.
CASES = [
    ("cut", 20_000, StorageError, "free some space"),
    ("artifacts", 100_000, ExportError, "cannot be written"),
    ("bundle", 50_000, StorageError, "free some space"),
]


@pytest.mark.parametrize(("stage", "size", "error", "words"), CASES)
def test_a_disk_full_in_a_stage_leaves_nothing_half_written(
    stage: str, size: int, error: type[EdgepruneError], words: str, tmp_path: Path
) -> None:
    results, data = finished()
    out = tmp_path / "slim"
    work = tmp_path / "slim.work"
    shutil.copytree(results.bundle.with_name("slim.work"), work)
    if stage != "bundle":  # which has moved to its place
        shutil.rmtree(work / stage)
    before = {path.name for path in work.iterdir()}
    with full_disk(size), pytest.raises(error, match=words) as caught:
        compress(settings(data), out, resume=True)
    assert "\n" not in str(caught.value)
    assert not out.exists()
    assert {path.name for path in work.iterdir()} == before


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    bundle = tmp_path / "slim"
    shutil.copytree(finished()[0].bundle, bundle)
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    with full_disk(50_000), pytest.raises(EdgepruneError, match=r"written"):
        rewrite_report(bundle)
    assert {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == before


def test_a_report_written_again_is_listed_and_hides_no_damage(tmp_path: Path) -> None:
    bundle = tmp_path / "slim"
    shutil.copytree(finished()[0].bundle, bundle)
    before = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    whole = (bundle / "report.html").read_bytes()
    (bundle / "report.html").write_text("gone", encoding="utf-8")
    (bundle / "run.py").write_text("damaged", encoding="utf-8")
    rewrite_report(bundle)
    assert (bundle / "report.html").read_bytes() == whole
    assert json.loads((bundle / "bundle.json").read_text(encoding="utf-8")) == before
