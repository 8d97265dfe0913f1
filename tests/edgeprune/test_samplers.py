import hashlib
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import edgeprune as ep
from edgeprune.attribution import samplers
from edgeprune.attribution.clusters import medoids
from edgeprune.attribution.features import features_and_logits
from edgeprune.attribution.samplers import NO_FINDING, SampleChoice, Sampler, sample
from edgeprune.data import PreparedSplit, Preprocessing, make_phantoms
from edgeprune.errors import DataError, UsageError

HOW = Preprocessing(
    size=(16, 16),
    channels=1,
    resize="squash",
    crop_pct=1.0,
    interpolation="bilinear",
    mean=(0.5,),
    std=(0.25,),
)
SINGLE = make_phantoms(counts=(60, 8, 8), size=32)
MULTI = make_phantoms(counts=(160, 8, 8), size=32, multi_label=True)
SAMPLERS = ("cluster", "random", "confidence")


class Small(nn.Module):
    """A convolution and a linear layer, of any number of outputs."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 6, 5, 2), nn.Linear(6, outputs)

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x)).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return 20 * self.head(self.features(x))


def _model(outputs: int = 4) -> tuple[Small, ep.Captured]:
    torch.manual_seed(0)
    model = Small(outputs)
    return model, ep.capture(model, torch.randn(2, 1, 16, 16))


def _choose(sampler: str, per_class: int = 3, seed: int = 0) -> SampleChoice:
    return sample(
        _model()[1],
        PreparedSplit(SINGLE.train, HOW),
        sampler=sampler,  # type: ignore[arg-type]
        per_class=per_class,
        classes=SINGLE.classes,
        seed=seed,
    )


def _findings(sampler: str) -> SampleChoice:
    return sample(
        _model(7)[1],
        PreparedSplit(MULTI.train, HOW),
        sampler=sampler,  # type: ignore[arg-type]
        per_class=2,
        classes=MULTI.classes,
        multi_label=True,
    )


def _prepared() -> Tensor:
    from edgeprune.data import batches

    return torch.cat([x for x, _ in batches(SINGLE.train, HOW, batch_size=32)])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_each_class_gets_its_number_of_its_own_images(sampler: str) -> None:
    choice = _choose(sampler)
    assert [*choice.per_class] == [*SINGLE.classes]
    for index, chosen in enumerate(choice.per_class.values()):
        assert len(set(chosen)) == 3
        assert set(SINGLE.train.labels[list(chosen)].tolist()) == {index}
    assert len(choice.indices) == 12
    assert choice.ids == tuple(SINGLE.train.ids[i] for i in choice.indices)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_seed_chooses_the_same_images(sampler: str) -> None:
    assert _choose(sampler) == _choose(sampler)


def test_another_seed_draws_other_images() -> None:
    assert _choose("random") != _choose("random", seed=1)


def test_confidence_takes_the_images_whose_own_class_is_likeliest() -> None:
    model, _ = _model()
    with torch.no_grad():
        probabilities = model(_prepared()).softmax(1).numpy()
    for index, chosen in enumerate(_choose("confidence").per_class.values()):
        own = np.flatnonzero(SINGLE.train.labels == index)
        expected = np.sort(probabilities[own, index])[::-1][:3]
        np.testing.assert_allclose(probabilities[list(chosen), index], expected, rtol=1e-4)


def test_images_are_known_by_the_hash_of_their_own_pixels() -> None:
    choice = _choose("random")
    assert len(set(choice.hashes)) == len(choice.indices)
    for index, digest in zip(choice.indices, choice.hashes, strict=True):
        pixels = np.asarray(SINGLE.train.images[index])
        assert pixels.dtype == np.uint8
        rows = b"".join(row.tobytes() for row in pixels)
        assert digest == hashlib.sha256(rows).hexdigest()


def test_clusters_spread_further_over_the_features_than_chance_does_on_average() -> None:
    dense, train = _model()[1], PreparedSplit(SINGLE.train, HOW)
    features, _ = features_and_logits(dense, train, range(len(train)), batch_size=32)

    def spread(sampler: Sampler, seed: int = 0) -> float:
        choice = sample(dense, train, sampler=sampler, per_class=5, seed=seed)
        pairs = [pair for chosen in choice.per_class.values() for pair in combinations(chosen, 2)]
        return float(np.mean([np.linalg.norm(features[a] - features[b]) for a, b in pairs]))

    assert spread("cluster") > 1.05 * np.mean([spread("random", seed) for seed in range(20)])


def test_features_are_what_the_last_layer_reads() -> None:
    model, dense = _model()
    train = PreparedSplit(SINGLE.train, HOW)
    features, logits = features_and_logits(dense, train, [4, 0, 7], batch_size=2)
    images = _prepared()[[4, 0, 7]]
    with torch.no_grad():
        np.testing.assert_allclose(features, model.features(images).numpy(), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(logits, model(images).numpy(), rtol=1e-4, atol=1e-5)


def test_medoids_are_one_of_each_cluster_and_nearest_its_centre() -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0], [50, 0], [0, 50]], np.float32)
    points = np.concatenate([c + rng.uniform(1, 3, (9, 2)) * [1, -1] for c in centres])
    points = points.astype(np.float32)
    found = medoids(points, 3, seed=0)
    assert sorted(found // 9) == [0, 1, 2]
    for row in found:
        own = points[row // 9 * 9 : row // 9 * 9 + 9]
        nearest = np.linalg.norm(own - own.mean(0), axis=1).argmin()
        assert row % 9 == nearest


def test_equal_images_are_filled_up_to_the_number_asked_for() -> None:
    assert len(set(medoids(np.ones((6, 2), np.float32), 4, seed=0).tolist())) == 4


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_each_finding_gets_its_positives_and_images_without_finding_come_on_top(
    sampler: str,
) -> None:
    choice = _findings(sampler)
    assert [*choice.per_class] == [*MULTI.classes, NO_FINDING]
    for index, name in enumerate(MULTI.classes):
        chosen = list(choice.per_class[name])
        assert len(set(chosen)) == 2
        assert MULTI.train.labels[chosen, index].all()
    assert not MULTI.train.labels[list(choice.per_class[NO_FINDING])].any()
    assert len(choice.indices) == len(set(choice.indices))


def test_confidence_takes_for_each_finding_the_positives_in_which_it_is_likeliest() -> None:
    model, _ = _model(7)
    from edgeprune.data import batches

    images = torch.cat([x for x, _ in batches(MULTI.train, HOW, batch_size=32)])
    with torch.no_grad():
        probabilities = model(images).sigmoid().numpy()
    choice = _findings("confidence")
    for index, name in enumerate(MULTI.classes):
        positives = np.flatnonzero(MULTI.train.labels[:, index])
        expected = np.sort(probabilities[positives, index])[::-1][:2]
        chosen = list(choice.per_class[name])
        np.testing.assert_allclose(probabilities[chosen, index], expected, rtol=1e-4)


def test_confidence_takes_healthy_images_in_which_every_finding_is_unlikely() -> None:
    model, _ = _model(7)
    from edgeprune.data import batches

    images = torch.cat([x for x, _ in batches(MULTI.train, HOW, batch_size=32)])
    with torch.no_grad():
        worst = model(images).sigmoid().amax(1).numpy()
    healthy = np.flatnonzero(~MULTI.train.labels.any(axis=1))
    chosen = list(_findings("confidence").per_class[NO_FINDING])
    np.testing.assert_allclose(worst[chosen], np.sort(worst[healthy])[:2], rtol=1e-4)


def test_a_class_with_too_few_images_is_named_with_its_number_and_what_to_do() -> None:
    rare = replace(SINGLE.train, name="train").subset(range(20))
    with pytest.raises(DataError, match=r"class '\w+' has \d+ training .* use --per-class \d+"):
        sample(_model()[1], PreparedSplit(rare, HOW), per_class=15, classes=SINGLE.classes)


def test_the_number_to_use_instead_is_one_that_works_for_every_class() -> None:
    counts = np.bincount(SINGLE.train.labels)
    thin = [*np.flatnonzero(SINGLE.train.labels == 1)[:4]]
    thin += [*np.flatnonzero(SINGLE.train.labels == 3)[:2]]
    thin += [*np.flatnonzero(np.isin(SINGLE.train.labels, (0, 2)))]
    assert counts.min() > 4
    message = rf"class '{SINGLE.classes[3]}' has 2 training images.* use --per-class 2"
    with pytest.raises(DataError, match=message):
        sample(
            _model()[1],
            PreparedSplit(SINGLE.train.subset(thin), HOW),
            per_class=5,
            classes=SINGLE.classes,
        )


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_class_without_images_has_a_message_of_its_own(multi_label: bool) -> None:
    data = MULTI if multi_label else SINGLE
    has = data.train.labels[:, 1] > 0 if multi_label else data.train.labels == 1
    train = data.train.subset(np.flatnonzero(~has))
    message = f"class '{data.classes[1]}' has no training image: add images of it or remove the"
    with pytest.raises(DataError, match=message):
        sample(
            _model(7 if multi_label else 4)[1],
            PreparedSplit(train, HOW),
            per_class=1,
            classes=data.classes,
            multi_label=multi_label,
        )


def test_only_the_training_split_is_sampled() -> None:
    with pytest.raises(UsageError, match="the split given is 'test'"):
        sample(_model()[1], PreparedSplit(SINGLE.test, HOW), per_class=1)


def test_unknown_samplers_and_empty_samples_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown sampler 'best'; there are cluster, random"):
        _choose("best")
    with pytest.raises(UsageError, match="0 images per class"):
        _choose("random", per_class=0)


def test_a_large_split_is_looked_at_in_part_and_the_same_of_each_class(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(samplers, "LOOKED_AT", 16)
    read: set[int] = set()

    class Watched(PreparedSplit):
        def __getitem__(self, index: int) -> np.ndarray:
            read.add(index)
            return super().__getitem__(index)

    sample(_model()[1], Watched(SINGLE.train, HOW), per_class=3, classes=SINGLE.classes)
    assert np.bincount(SINGLE.train.labels[list(read)]).tolist() == [4, 4, 4, 4]
