"""Where training stands after an epoch, in one file.

One safetensors file, so that reading it back runs nothing, and one rename, so
that model, optimiser and history are always of the same epoch.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from edgeprune.capture import state
from edgeprune.data import PreparedSplit
from edgeprune.errors import UsageError
from edgeprune.files import replacing
from edgeprune.recovery.settings import EpochRecord, TrainSettings

FORMAT: Final = "edgeprune-checkpoint-1"


@dataclass(kw_only=True, eq=False)
class TrainState:
    """What training changes.

    Attributes:
        tensors: the model's own parameters and buffers, changed in place; a tied
            one once.
        optimizer: over those parameters.
        history: every epoch so far, from 0.
        best_epoch: the best of them.
        best: copies of the tensors as they were after it.
    """

    tensors: Mapping[str, Tensor]
    optimizer: torch.optim.Optimizer
    history: list[EpochRecord] = field(default_factory=list)
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)

    def add(self, record: EpochRecord) -> None:
        """Take in an epoch that has ended, and keep the weights if it is the best."""
        self.history.append(record)
        if record.epoch == 0 or record.better_than(self.history[self.best_epoch]):
            self.best_epoch = record.epoch
            self.best = {name: tensor.detach().clone() for name, tensor in self.tensors.items()}

    def take_best(self) -> None:
        """Put the best epoch's weights into the model."""
        _copy(self.best, self.tensors)

    def save(self, path: Path, run: str) -> None:
        """Write everything, whole or not at all. run: what ``run_id`` gave."""
        content = _named("model", self.tensors) | _named("best", self.best)
        for index, values in self.optimizer.state_dict()["state"].items():
            content |= _named(f"optimizer/{index}", values)
        flat = {name: t.detach().cpu().contiguous() for name, t in content.items()}
        standing = {
            "run": run,
            "best_epoch": self.best_epoch,
            "history": [record.to_dict() for record in self.history],
        }
        with replacing(path) as temporary:
            save_file(flat, temporary, metadata={"format": FORMAT, "state": json.dumps(standing)})

    def restore(self, path: Path, run: str) -> None:
        """Continue from a file that ``save`` wrote for the same run.

        Raises:
            UsageError: it is damaged, or of another run.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                content = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise UsageError(
                f"'{path.name}' is damaged ({error}): remove it to start anew"
            ) from None
        if metadata.get("format") != FORMAT:
            raise UsageError(f"'{path.name}' is no checkpoint of this edgeprune: remove it")
        standing = json.loads(metadata["state"])
        if standing["run"] != run:
            raise UsageError(
                f"'{path.name}' was written by a training of another model, other images or "
                "other settings: remove it to start anew"
            )
        _copy(_under("model", content), self.tensors)
        self.best = _under("best", content)
        self.best_epoch = standing["best_epoch"]
        self.history = [EpochRecord(**record) for record in standing["history"]]
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under("optimizer", content).items():
            index, _, key = name.partition("/")
            moments.setdefault(int(index), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})


def run_id(
    model: nn.Module,
    teacher: nn.Module | None,
    splits: tuple[PreparedSplit, PreparedSplit],
    settings: TrainSettings,
) -> str:
    """Digest everything that decides a training's result, as hexadecimal SHA-256.

    Of the model's tensors only parameters count: BatchNorm statistics that were
    estimated anew before a resumed run may differ in the last digit.
    """
    digest = hashlib.sha256()
    # The number of threads changes the last digits, which is no other run.
    asked = settings.to_dict() | {"threads": None}
    facts: list[Any] = [asked, teacher is not None]
    for prepared in splits:
        facts += [prepared.how.to_dict(), prepared.split.ids, prepared.split.labels.tolist()]
    digest.update(json.dumps(facts, sort_keys=True).encode())
    for module in (model, teacher):
        for name, parameter in module.named_parameters() if module is not None else ():
            digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
            # As bytes: numpy has no bfloat16.
            raw = parameter.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(raw.numpy().tobytes())
    return digest.hexdigest()


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's parameters and buffers by name, a tied one under its first."""
    unique: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in state(model).items():
        unique.setdefault(id(tensor), (name, tensor))
    return dict(unique.values())


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def _under(prefix: str, content: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}/"
    return {name[len(start) :]: t for name, t in content.items() if name.startswith(start)}


def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in target.items():
            tensor.copy_(source[name])
