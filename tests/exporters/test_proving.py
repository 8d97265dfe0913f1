"""What a proof tells of an artifact on the test split, and what it needs for that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgeprune import Captured
from edgeprune.errors import ParityError
from edgeprune.progress import Advance, Silent
from edgeprune.targets import load_target
from edgeprune_exporters import ExportOptions, Images, Job, LabelledImages, TorchModel
from edgeprune_exporters.judging import accuracy_of, predict
from edgeprune_exporters.parity import Array, Runtime
from edgeprune_exporters.proving import prove_artifact

COUNT = 70  # more than two batches of any size


def split(labels: NDArray[Any], count: int = COUNT) -> LabelledImages:
    """Images whose first pixel is their position."""
    images = np.zeros((count, 3, 32, 32), np.float32)
    images[:, 0, 0, 0] = np.arange(count)

    def batches(size: int) -> Iterator[Array]:
        for start in range(0, count, size):
            yield images[start : start + size]

    return LabelledImages(labels=labels, batches=batches)


class Heard(Silent):
    """Remembers what was shown."""

    def __init__(self) -> None:
        self.bars: list[tuple[str, int | None, list[int]]] = []

    @contextmanager
    def track(self, title: str, total: int | None) -> Iterator[Advance]:
        done: list[int] = []
        self.bars.append((title, total, done))
        yield lambda count, words="", *, total=None: done.append(count)


def positions(images: Array) -> Array:
    return images[:, :1, 0, 0]


@pytest.mark.parametrize("batch", [None, 1, 2, 7, 100])
def test_a_whole_split_is_predicted_in_order_and_a_fixed_batch_is_filled_up(
    batch: int | None,
) -> None:
    sizes = set()

    def run(images: Array) -> Array:
        sizes.add(len(images))
        return positions(images)

    labels = np.zeros(COUNT, np.int64)
    found = predict(run, split(labels), title="test", batch=batch, reporter=Silent())
    np.testing.assert_array_equal(found[:, 0], np.arange(COUNT))
    assert batch is None or sizes == {batch}


def test_predicting_shows_how_far_it_is() -> None:
    heard = Heard()
    labels = np.zeros(COUNT, np.int64)
    predict(positions, split(labels), title="here", batch=None, reporter=heard)
    assert heard.bars == [("here", COUNT, [32, 64, 70])]


def test_a_split_with_other_images_than_labels_is_refused() -> None:
    labels = np.zeros(COUNT + 1, np.int64)
    with pytest.raises(ParityError, match="the test split gave 70 images for 71 labels"):
        predict(positions, split(labels), title="test", batch=None, reporter=Silent())


def test_accuracy_counts_classes_or_findings() -> None:
    own = np.array([[2.0, 1.0], [0.0, 1.0], [1.0, -1.0], [1.0, 3.0]], np.float32)
    actual = own[:, ::-1].copy()
    classes = accuracy_of(actual, own, np.array([0, 1, 0, 0]))
    assert (classes.images, classes.artifact, classes.model) == (4, 0.25, 0.75)
    assert classes.agreement == 0
    findings = accuracy_of(actual, own, np.array([[1, 1], [0, 1], [1, 0], [0, 0]]))
    assert (findings.artifact, findings.model, findings.agreement) == (0.25, 0.75, 0.5)


@pytest.fixture
def judged(cnn: Captured) -> Job:
    images = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(7))
    own = TorchModel(cnn).logits(next(split(np.zeros(COUNT)).batches(COUNT)))
    return Job(
        model=TorchModel(cnn),
        target=load_target("cpu"),
        images=Images(parity=images, test=split(own.argmax(1))),
        reporter=Heard(),
    )


def runtime_of(job: Job, wrong: float = 0.0) -> Runtime:
    """The model itself as an artifact, with its logits moved."""

    def run(images: Array) -> Array:
        logits = job.model.logits(images).copy()
        logits[:, 0] += np.float32(wrong)
        return logits

    return Runtime(name="toy", version="1", precision="f32", run=run)


def test_a_proof_that_holds_tells_the_accuracy_on_the_test_split(judged: Job) -> None:
    proof = prove_artifact(runtime_of(judged), judged, "fp32")
    assert proof.accuracy is not None
    assert (proof.accuracy.images, proof.accuracy.artifact, proof.accuracy.agreement) == (70, 1, 1)
    assert isinstance(judged.reporter, Heard)
    assert [title for title, _, _ in judged.reporter.bars] == [
        "torch: test images",
        "toy fp32: test images",
    ]


def test_the_artifact_itself_is_judged_and_not_the_model(judged: Job) -> None:
    run = runtime_of(judged)

    def turned(images: Array) -> Array:
        logits = run.run(images)
        return -logits if len(images) == 32 else logits  # right wherever parity is proven

    proof = prove_artifact(replace(run, run=turned), judged, "fp32")
    assert proof.ok
    assert proof.accuracy is not None
    assert proof.accuracy.model == 1
    assert proof.accuracy.artifact == 6 / COUNT  # of the last batch


def test_a_proof_that_fails_judges_nothing(judged: Job) -> None:
    proof = prove_artifact(runtime_of(judged, wrong=1.0), judged, "fp32")
    assert not proof.ok
    assert proof.accuracy is None
    assert proof.deviation is None  # nobody knows where this artifact lies


def test_without_a_test_split_there_is_no_accuracy(job: Job) -> None:
    assert prove_artifact(runtime_of(job), job, "fp32").to_dict()["accuracy"] is None


def test_a_fixed_batch_is_judged_on_the_whole_split(judged: Job) -> None:
    sizes = set()
    run = runtime_of(judged).run

    def at_four(images: Array) -> Array:
        sizes.add(len(images))
        return run(images)

    fixed = replace(judged, options=ExportOptions(batch=4))
    proof = prove_artifact(replace(runtime_of(judged), run=at_four), fixed, "fp32")
    assert sizes == {4}
    assert proof.accuracy is not None
    assert (proof.accuracy.images, proof.accuracy.artifact) == (COUNT, 1)
    assert proof.note == "the batch is fixed: compared at batch 4 only"


def test_float16_may_be_off_by_a_multiple_of_what_it_costs_the_model(job: Job) -> None:
    exact = prove_artifact(runtime_of(job), job, "fp16")
    assert 1e-3 <= exact.tolerance < 1e-2
    assert "what rounding to fp16 costs the model itself" in exact.to_dict()["tolerance_reason"]
    largest = max(float(np.abs(each.logits).max()) for each in job.batches)
    inside, outside = (
        prove_artifact(runtime_of(job, wrong=share * exact.tolerance * largest), job, "fp16")
        for share in (0.8, 1.25)
    )
    assert inside.ok
    assert not outside.ok
