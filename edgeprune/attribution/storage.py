"""Scores on disk: ``scores.safetensors`` with the numbers, ``scores.json`` with the rest.

Invariant: what is read equals what was written, bit for bit.
"""

import json
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from edgeprune.attribution.scores import Scores
from edgeprune.errors import DataError
from edgeprune.files import write_json
from edgeprune.tensors import load_tensors, save_tensors

_TENSORS: Final = "scores.safetensors"
_HEAD: Final = "scores.json"
_OVERALL: Final = "overall/"
_CLASS: Final = "class/"


def save_scores(folder: Path, scores: Scores) -> None:
    """Write scores into a folder, each of the two files whole or not at all."""
    tensors = {f"{_OVERALL}{name}": values for name, values in scores.values.items()}
    for name, values in (scores.per_class or {}).items():
        tensors[f"{_CLASS}{name}"] = values
    save_tensors(folder / _TENSORS, tensors)
    write_json(
        folder / _HEAD,
        {
            "criterion": scores.criterion,
            "groups": {name: scores.kinds.get(name, "") for name in scores.values},
            "classes": list(scores.classes),
            "counts": list(scores.counts),
            "aggregate": scores.aggregate,
            "sampler": scores.sampler,
            "samples": list(scores.samples),
            "hashes": list(scores.hashes),
        },
    )


def load_scores(folder: Path) -> Scores:
    """Read what ``save_scores`` wrote.

    Raises:
        DataError: the folder holds no scores, or not whole ones.
        ModelError: their numbers are missing or damaged.
    """
    tensors = load_tensors(folder / _TENSORS)
    try:
        head: dict[str, Any] = json.loads((folder / _HEAD).read_text(encoding="utf-8"))
        groups: dict[str, str] = head["groups"]
        return Scores(
            criterion=head["criterion"],
            values={name: tensors[f"{_OVERALL}{name}"] for name in groups},
            per_class=_per_class(tensors, groups),
            classes=tuple(head["classes"]),
            counts=tuple(head["counts"]),
            kinds={name: kind for name, kind in groups.items() if kind},
            aggregate=head["aggregate"],
            sampler=head["sampler"],
            samples=tuple(head["samples"]),
            hashes=tuple(head["hashes"]),
        )
    except FileNotFoundError:
        raise DataError(f"'{_HEAD}' is missing from '{folder.name}': score again") from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"the scores in '{folder.name}' are damaged: score again") from error


def _per_class(tensors: dict[str, Tensor], groups: dict[str, str]) -> dict[str, Tensor] | None:
    if not any(name.startswith(_CLASS) for name in tensors):
        return None
    return {name: tensors[f"{_CLASS}{name}"] for name in groups}
