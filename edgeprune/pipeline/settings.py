"""What a compression is asked to do, checked before any work begins."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, get_args

from edgeprune.errors import UsageError
from edgeprune.plan import Budget, Ranking

DEFAULT_MODEL: Final = "resnet10t"
DEFAULT_DATA: Final = "phantoms"
SAMPLERS: Final = ("cluster", "confidence", "random")


@dataclass(frozen=True, kw_only=True)
class CompressSettings:
    """Everything that decides the result of ``compress``; paths only say where.

    Attributes:
        model: a timm name, or ``module:factory`` of the user's own.
        weights: safetensors or a state dict; None trains on the spot.
        pretrained: take timm's own weights, then train the head on the spot.
        data: folder, CSV, npz, or the name of a set of phantoms.
        target: name or TOML file of the device.
        budget: what the slim model may cost.
        criterion, sampler, per_class, ranking: how units are scored and ranked.
        align: multiple of widths; None takes the target's.
        formats: artifacts to write; empty takes the target's.
        dense_epochs: epochs of training on the spot; None for a default.
        epochs: epochs of recovery; None for a default.
        lr, batch_size: of recovery; None for a default.
        image_size: edge of the input; None takes the model's.
        rounds: fresh processes of each model in the measurement.
        threads: of training here and of the runtime that is measured; None
            takes the target's for the runtime and torch's own for training.
        skip_corrupt: leave out images that cannot be read.
        seed: of everything random.
    """

    budget: Budget
    model: str = DEFAULT_MODEL
    weights: Path | None = None
    pretrained: bool = False
    data: str = DEFAULT_DATA
    target: str = "cpu"
    criterion: str = "taylor"
    sampler: str = "cluster"
    per_class: int = 10
    ranking: Ranking = "global"
    align: int | None = None
    formats: tuple[str, ...] = field(default=())
    dense_epochs: int | None = None
    epochs: int | None = None
    lr: float | None = None
    batch_size: int | None = None
    image_size: int | None = None
    rounds: int = 6
    threads: int | None = None
    skip_corrupt: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be right for any model or data."""
        least = {
            "per-class": (self.per_class, 1),
            "align": (self.align, 1),
            "epochs": (self.epochs, 0),
            "dense-epochs": (self.dense_epochs, 0),
            "batch-size": (self.batch_size, 2),
            "image-size": (self.image_size, 16),
            "rounds": (self.rounds, 2),
            "threads": (self.threads, 1),
            "seed": (self.seed, 0),
        }
        for name, (value, minimum) in least.items():
            if value is not None and value < minimum:
                raise UsageError(f"--{name} {value} is too small: give {minimum} or more")
        if self.rounds % 2:
            raise UsageError(
                f"--rounds {self.rounds} is odd: give an even number, so that dense and slim "
                "start first equally often"
            )
        if self.lr is not None and not 0 < self.lr < 1:
            raise UsageError(f"--lr {self.lr:g} is not a learning rate: give one above 0, below 1")
        if self.sampler not in SAMPLERS:
            raise UsageError(f"no sampler '{self.sampler}': choose one of {', '.join(SAMPLERS)}")
        if self.ranking not in get_args(Ranking):
            raise UsageError(f"no ranking '{self.ranking}': choose one of {', '.join(get_args(Ranking))}")
        if self.weights and self.pretrained:
            raise UsageError("--weights and --pretrained both name weights: give one of them")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values, without any path of this machine."""
        document = asdict(self)
        document["budget"] = {self.budget.kind: self.budget.share}
        if self.budget.floors:
            document["budget"]["floors"] = dict(self.budget.floors)
        document["weights"] = self.weights.name if self.weights else None
        document["data"] = Path(self.data).name
        document["target"] = Path(self.target).name
        document["model"] = _without_folder(self.model)
        document["formats"] = list(self.formats)
        return document


def _without_folder(model: str) -> str:
    """Keep a factory's file and function, and drop where the file lies."""
    place, colon, factory = model.rpartition(":")
    return f"{Path(place).name}:{factory}" if colon else model


def differences(asked: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Say in which settings two runs differ."""
    keys = sorted(asked.keys() | before.keys())
    return [
        f"{key} was {before.get(key)}, now {asked.get(key)}"
        for key in keys
        if asked.get(key) != before.get(key)
    ]
