"""A proof that cannot fail proves nothing: what is measured, and what fails."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeprune import capture
from edgeprune.errors import ParityError
from edgeprune.targets import load_target
from edgeprune_exporters import Images, Job, ParityProof, TorchModel
from edgeprune_exporters.calls import agreement
from edgeprune_exporters.distances import noise
from edgeprune_exporters.parity import Array, Batch, Limit, Runtime, prove


def runtime(run: Callable[[Array], Array]) -> Runtime:
    return Runtime(name="toy", version="1", precision="f32", run=run)


def batch(size: int) -> Batch:
    images = np.full((size, 3, 4, 4), 2.0, np.float32)
    return Batch(images=images, logits=np.array([[-4.0, 2.0]] * size, np.float32))


def proof(run: Callable[[Array], Array], *sizes: int) -> ParityProof:
    return prove(runtime(run), [batch(size) for size in sizes])


def exact(images: Array) -> Array:
    return np.array([[-4.0, 2.0]] * len(images), np.float32)


def test_equal_logits_are_proven() -> None:
    found = proof(exact, 1, 3)
    assert found.ok
    assert found.max_rel == 0
    found.require("toy")


def test_errors_are_relative_to_the_largest_logit_whatever_its_sign() -> None:
    (each,) = proof(lambda images: exact(images) + np.float32(0.5), 1).batches
    assert each.max_abs == 0.5
    assert each.max_rel == 0.125


def test_an_error_in_one_batch_names_it_and_how_far() -> None:
    def later_wrong(images: Array) -> Array:
        return exact(images) + np.float32(0.04 if len(images) == 3 else 0)

    with pytest.raises(ParityError, match=r"toy file differs .* 1.0e-02 relative at batch 3"):
        proof(later_wrong, 1, 3).require("toy")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_nan_or_infinity_fails(value: float) -> None:
    def broken(images: Array) -> Array:
        logits = exact(images)
        logits[-1, -1] = value
        return logits

    found = proof(broken, 3)
    assert not found.ok
    (each,) = found.to_dict()["batches"]
    assert each["max_abs"] is each["max_rel"] is each["mean_abs"] is None
    with pytest.raises(ParityError, match="by inf relative"):
        found.require("toy")


def test_logits_of_another_shape_are_refused() -> None:
    with pytest.raises(ParityError, match=r"shape \(1, 2\) at batch 3; torch gives \(3, 2\)"):
        proof(lambda images: exact(images[:1]), 3)


def test_images_are_used_in_turn_and_few_are_repeated(job: Job, images: Tensor) -> None:
    used = np.concatenate([each.images for each in job.batches])
    assert [len(each.images) for each in job.batches] == [1, 3, 8]
    np.testing.assert_array_equal(used, torch.cat([images] * 3).numpy())


def test_the_mean_error_is_over_all_logits() -> None:
    wrong = proof(lambda images: exact(images) + np.array([0.0, 1.0], np.float32), 1, 3)
    assert [each.mean_abs for each in wrong.batches] == [0.5, 0.5]


def test_agreement_is_the_share_of_equal_classes_over_all_images() -> None:
    def first_flipped(images: Array) -> Array:
        logits = exact(images)
        logits[0] = logits[0, ::-1]
        return logits

    found = proof(first_flipped, 1, 3)
    assert [each.agreement for each in found.batches] == [0.0, 2 / 3]
    assert found.agreement == 0.5


def test_agreement_of_findings_is_counted_by_sign() -> None:
    def second_moved(images: Array) -> Array:
        return exact(images) + np.array([-1.0, -3.0], np.float32)  # class 1 is still the larger

    assert proof(second_moved, 3).agreement == 1
    found = prove(runtime(second_moved), [batch(3)], multi_label=True)
    assert found.agreement == 0.5


def test_a_single_logit_is_called_by_its_sign() -> None:
    wanted = np.array([[-1.0], [2.0]])
    assert agreement(wanted * 3, wanted, multi_label=False) == 1
    assert agreement(-wanted, wanted, multi_label=False) == 0


def test_a_nan_calls_nothing() -> None:
    wanted = np.array([[1.0, 0.0], [0.0, 1.0]])
    broken = np.array([[np.nan, 0.0], [0.0, 1.0]])
    assert agreement(broken, wanted, multi_label=False) == 0.5
    assert agreement(broken, wanted, multi_label=True) == 0.75


def varied(errors: float) -> tuple[Array, Array]:
    """Logits that differ from image to image by 0.01 about 5, and others with errors."""
    random = np.random.default_rng(0)
    own = 5 + 0.01 * random.standard_normal((64, 4))
    return (own + errors * random.standard_normal((64, 4))).astype("f4"), own.astype("f4")


def test_noise_is_the_error_relative_to_what_images_change() -> None:
    assert noise(*varied(0.002)) == pytest.approx(0.2, rel=0.1)
    assert noise(np.ones((3, 2), "f4"), np.full((3, 2), 2, "f4")) is None


def test_logits_nearly_right_for_none_of_the_images_fail_where_noise_is_measured() -> None:
    actual, own = varied(0.01)
    limit = Limit(tolerance=0.5, reason="toy", measure="noise")
    images = np.zeros((64, 3, 4, 4), "f4")
    found = prove(runtime(lambda _: actual), [Batch(images=images, logits=own)], limit=limit)
    assert found.max_rel < 0.01
    with pytest.raises(
        ParityError, match=r"by 1\.\de\+00 of what images change in the logits .*5e-01\)"
    ):
        found.require("toy")


def test_noise_is_over_all_batches_and_one_image_near_a_boundary_does_not_decide() -> None:
    near, far = np.array([[0.01, -0.01]], "f4"), np.array([[5.0, -5], [-5, 5], [4, -4]], "f4")
    wanted = {1: near, 3: far}
    batches = [
        Batch(images=np.zeros((len(each), 3, 4, 4), "f4"), logits=each) for each in wanted.values()
    ]
    limit = Limit(tolerance=0.25, reason="toy", measure="noise")
    found = prove(runtime(lambda images: wanted[len(images)] + 0.1), batches, limit=limit)
    assert found.max_rel == pytest.approx(10, rel=1e-3)
    assert found.ok
    spread = np.concatenate([near, far])
    assert found.error == pytest.approx(0.1 / np.sqrt(((spread - spread.mean(0)) ** 2).mean()))


def test_images_that_are_all_the_same_have_no_noise_and_are_judged_by_the_largest_error() -> None:
    limit = Limit(tolerance=0.25, reason="toy", measure="noise")
    found = prove(runtime(lambda images: exact(images) + 2), [batch(1)], limit=limit)
    assert (found.noise, found.error, found.ok) == (None, 0.5, False)


def test_a_proof_below_float32_advises_to_bound_the_loss() -> None:
    limit = Limit(tolerance=1e-2, reason="toy")
    wrong = prove(runtime(lambda images: exact(images) + 1), [batch(1)], limit=limit)
    with pytest.raises(ParityError, match=r"tolerance 1e-02\).*give a smaller --max-drop or write"):
        wrong.require("toy", rounding=1.0)


def test_a_proof_as_json_has_no_infinity_and_few_digits() -> None:
    document = proof(lambda images: exact(images) / 3, 1, 3).to_dict()
    assert document["batches"][1]["max_rel"] == 0.6667
    assert json.loads(json.dumps(document, allow_nan=False)) == document


class Amplifier(nn.Module):
    """Waves so short that a rounding error moves their phase."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 5)
        self.gain = gain

    def forward(self, images: Tensor) -> Tensor:
        return torch.sin(self.conv(images).mean((2, 3)) * self.gain)


def rounding(gain: float) -> float | None:
    torch.manual_seed(0)
    images = torch.randn(4, 3, 32, 32)
    captured = capture(Amplifier(gain), images)
    return Job(
        model=TorchModel(captured), target=load_target("cpu"), images=Images(parity=images)
    ).rounding


def test_a_model_that_amplifies_rounding_errors_is_told_from_a_wrong_file() -> None:
    calm, nervous = rounding(1.0), rounding(1e5)
    assert calm is not None
    assert nervous is not None
    assert calm < 1e-6
    assert nervous > 1e-4
    wrong = proof(lambda images: exact(images) + np.float32(0.04), 1)
    with pytest.raises(ParityError, match="it was not kept; please report the model"):
        wrong.require("toy", calm)
    with pytest.raises(ParityError, match=r"float32 logits are .* the file may be right: train it"):
        wrong.require("toy", nervous)


def test_a_model_that_fixes_float32_has_no_float64_to_compare_with() -> None:
    class Fixed(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean((2, 3)) @ torch.eye(3, dtype=torch.float32)

    images = torch.randn(2, 3, 8, 8)
    captured = capture(Fixed(), images)
    job = Job(model=TorchModel(captured), target=load_target("cpu"), images=Images(parity=images))
    assert job.rounding is None
