"""The networks and images that criteria are compared on, and how the networks are trained.

A case is a network, a data set and a seed: the seed draws the training images,
the initial weights, the order of training and the images that are scored. The
test images are the same for all seeds, equally many of each class, so that
accuracy is balanced accuracy.
"""

import hashlib
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from torch import Tensor, nn

from edgeprune.capture import Captured, capture, load_tensors, save_tensors
from edgeprune.data import ImageData, PreparedSplit, batches, load_data, preprocessing_from_timm
from edgeprune.data.splits import Split
from edgeprune.errors import UsageError
from edgeprune.files import replacing_folder, write_json
from edgeprune.recovery import TrainSettings, fit
from edgeprune.source import BuiltModel, model_source, open_model

BATCH: Final = 48  # images at a time in evaluation
VALIDATION: Final = 240  # images


@dataclass(frozen=True, kw_only=True)
class Network:
    """A timm model, and how it is trained.

    Attributes:
        name: at timm.
        lr: peak learning rate.
        epochs: multiple of the data set's epochs.
        size: edge of the input in pixels where the data set's does not do.
        weights: name of a file of weights to start from, in the folder of weights.
        arguments: further arguments of the model.
    """

    name: str
    lr: float = 2e-3
    epochs: float = 1
    size: int | None = None
    weights: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Images:
    """A data set: ``phantoms`` or the name of a file, with the amount of training it takes."""

    source: str
    size: int
    count: int
    epochs: int


NETWORKS: Final[Mapping[str, Network]] = {
    "resnet18": Network(name="resnet18"),
    "resnet50": Network(name="resnet50", lr=1e-3),
    # Its two layers of 4096 units are made narrow: images of 32 pixels do not fill them.
    "vgg11_bn": Network(name="vgg11_bn", lr=1e-3, epochs=0.5, arguments={"mlp_ratio": 1 / 32}),
    "convnext_atto": Network(name="convnext_atto", epochs=2, size=64),
    "deit_tiny": Network(
        name="deit_tiny_patch16_224",
        lr=3e-4,
        size=64,
        weights="deit_tiny_patch16_224.safetensors",
    ),
}
DATA: Final[Mapping[str, Images]] = {
    "pneumonia": Images(source="pneumoniamnist.npz", size=32, count=2400, epochs=8),
    "mednist": Images(source="mednist_64_small.npz", size=48, count=1200, epochs=4),
    "phantoms": Images(source="phantoms", size=64, count=1600, epochs=8),
}
# The most expensive first, so that none of them is left over for the end.
PAIRS: Final = (
    ("resnet50", "mednist"),
    ("resnet18", "phantoms"),
    ("vgg11_bn", "pneumonia"),
    ("convnext_atto", "mednist"),
    ("deit_tiny", "mednist"),
    ("resnet18", "mednist"),
    ("resnet18", "pneumonia"),
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network on a data set with a seed."""

    model: str
    data: str
    seed: int

    @property
    def name(self) -> str:
        """Its name, as folders are called."""
        return f"{self.model}-{self.data}-{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where things are: downloaded data with a folder ``weights``, and results."""

    data: Path
    work: Path

    def lacks(self, case: Case) -> str | None:
        """Say which file a case misses, or None."""
        source, weights = DATA[case.data].source, NETWORKS[case.model].weights
        if source.endswith(".npz") and not (self.data / source).is_file():
            return f"{source} is not in the data folder"
        if weights is not None and not (self.data / "weights" / weights).is_file():
            return f"weights/{weights} is not in the data folder"
        return None

    def of(self, case: Case) -> Path:
        """Return the folder of a case."""
        return self.work / case.name


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """A trained network with its images.

    Attributes:
        case: which.
        module: the network itself, for peers.
        dense: the same, captured.
        train: the images that it learned from.
        classes: their names.
        images, labels: for the test, float (N, C, H, W) and int64 (N,).
        seconds: CPU time that training took.
    """

    case: Case
    module: nn.Module
    dense: Captured
    train: PreparedSplit
    classes: tuple[str, ...]
    images: Tensor
    labels: Tensor
    seconds: float

    @property
    def chance(self) -> float:
        """The accuracy of who does not look."""
        return 1 / len(self.classes)


def chosen_cases(
    models: Sequence[str], data: Sequence[str], seeds: Sequence[int]
) -> tuple[Case, ...]:
    """Return the cases asked for: of the usual pairs, or every pair where both are named.

    Raises:
        UsageError: a name that does not exist, or a model and a data set that never meet.
    """
    for given, known, what in ((models, NETWORKS, "models"), (data, DATA, "data")):
        if unknown := sorted(set(given) - set(known)):
            raise UsageError(
                f"--{what} {', '.join(unknown)}: not known; give some of {', '.join(known)}"
            )
    pairs = list(itertools.product(models, data)) if models and data else list(PAIRS)
    found = [(m, d) for m, d in pairs if m in (models or NETWORKS) and d in (data or DATA)]
    return tuple(Case(model=m, data=d, seed=seed) for seed in seeds for m, d in found)


def trained(case: Case, places: Places, images: int) -> Trained:
    """Train the network of a case, or take it from the work folder.

    images: for the test, at most.
    """
    what = DATA[case.data]
    found = load_data(what.source if what.source == "phantoms" else places.data / what.source)
    size = NETWORKS[case.model].size or what.size
    built = _built(case, places, len(found.classes), size)
    # Small images have no border to spare.
    how = preprocessing_from_timm(dict(built.config) | {"crop_pct": 1.0}, image_size=size)
    train = PreparedSplit(_balanced(found, found.train, what.count, case.seed), how)
    val = PreparedSplit(_balanced(found, found.val, VALIDATION, 0), how)
    seconds = _train(built.model, case, (train, val), places.of(case) / "dense")
    test = _balanced(found, found.test, images, 0)
    ((shown, labels),) = batches(test, how, batch_size=len(test))
    return Trained(
        case=case,
        module=built.model,
        dense=capture(built.model, shown[:2]),
        train=train,
        classes=found.classes,
        images=shown,
        labels=labels,
        seconds=seconds,
    )


def _built(case: Case, places: Places, classes: int, size: int) -> BuiltModel:
    network = NETWORKS[case.model]
    source = model_source(
        network.name, num_classes=classes, image_size=size, arguments=network.arguments
    )
    weights = places.data / "weights" / network.weights if network.weights else None
    return open_model(source, weights=weights, seed=case.seed)


def _balanced(data: ImageData, split: Split, count: int, seed: int) -> Split:
    """Draw at most ``count`` images, equally many of each class."""
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(split.labels == index) for index in range(len(data.classes))]
    each = min(count // len(members), *(len(found) for found in members))
    return split.subset(np.concatenate([rng.permutation(found)[:each] for found in members]))


def _settings(case: Case) -> TrainSettings:
    network = NETWORKS[case.model]
    epochs = round(DATA[case.data].epochs * network.epochs)
    return TrainSettings(epochs=epochs, lr=network.lr, seed=case.seed, threads=1)


def _train(
    model: nn.Module, case: Case, splits: tuple[PreparedSplit, PreparedSplit], folder: Path
) -> float:
    """Train a model, or load its weights if it was trained alike; return the CPU seconds."""
    settings = _settings(case)
    network = asdict(NETWORKS[case.model]) | {"pixels": splits[0].how.size}
    recipe = [settings.to_dict(), network, splits[0].split.ids]
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    if (folder / "training.json").is_file():
        known = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        if known["recipe"] == digest:
            model.load_state_dict(load_tensors(folder / "weights.safetensors"))
            return float(known["seconds"])
    started = time.process_time()
    fit(model, *splits, settings, multi_label=False)
    seconds = time.process_time() - started
    with replacing_folder(folder) as temporary:
        save_tensors(temporary / "weights.safetensors", model.state_dict())
        write_json(temporary / "training.json", {"recipe": digest, "seconds": round(seconds, 1)})
    return seconds
