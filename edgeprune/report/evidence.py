"""Same evidence? Images with heat maps of both models, as pictures inside the page.

The image itself is embedded once; a map is a layer over it whose opacity is the
strength of the evidence, so that anatomy stays visible where a map is silent.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import BundleError
from edgeprune.report import formats
from edgeprune.report.document import Document, Documents
from edgeprune.report.pictures import layer, outline, picture

Array = NDArray[np.generic]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one model says about an image, and its map as a data URI."""

    name: str
    says: str
    right: bool | None
    mass: str
    map: str


@dataclass(frozen=True, kw_only=True)
class Example:
    """One image; ``outline`` is a path over ``width`` × ``height`` mask pixels."""

    id: str
    label: str
    image: str
    outline: str
    width: int
    height: int
    answers: tuple[Answer, ...]
    similarity: str
    changed: bool


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The sixth section."""

    method: str
    examples: tuple[Example, ...]
    similarity: str
    masked: bool
    several: bool


def evidence(documents: Documents) -> Evidence:
    """Draw the examples.

    Raises:
        BundleError: the arrays are damaged, or are not those of the examples.
    """
    path = documents.folder / "evidence" / "examples.npz"
    examples = documents.examples.each("examples")
    several = documents.bundle.flag("data", "multi_label") or False
    arrays = _load(path) if examples and path.is_file() else {}
    if arrays:
        _check(arrays, len(examples))
    drawn = (
        [_example(each, i, arrays, several) for i, each in enumerate(examples)] if arrays else []
    )
    seen = [s for each in examples if (s := each.number("similarity")) is not None]
    return Evidence(
        method=documents.examples.text("method") or "",
        examples=tuple(drawn),
        similarity=formats.score(float(np.median(seen))) if seen else "",
        masked="masks" in arrays,
        several=several,
    )


def _load(path: Path) -> Mapping[str, Array]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise BundleError(f"evidence/{path.name} of the bundle cannot be read: {error}") from error


def _check(arrays: Mapping[str, Array], examples: int) -> None:
    missing = {"images", "dense", "slim"} - set(arrays)
    wrong = [name for name, array in arrays.items() if array.ndim < 3 or len(array) != examples]
    if missing or wrong:
        raise BundleError(
            f"evidence/examples.npz does not fit its {examples} examples: "
            f"missing {sorted(missing)}, wrong shape {sorted(wrong)}; write the bundle again"
        )


def _example(example: Document, index: int, arrays: Mapping[str, Array], several: bool) -> Example:
    mask = arrays["masks"][index].astype(bool) if "masks" in arrays else np.zeros((1, 1), bool)
    answers = tuple(
        _answer(example, side, arrays[side][index], several) for side in ("dense", "slim")
    )
    return Example(
        id=example.text("id") or f"image {index + 1}",
        label=example.text("label") or "",
        image=picture(arrays["images"][index].astype(np.uint8)),
        outline=outline(mask),
        width=mask.shape[1],
        height=mask.shape[0],
        answers=answers,
        similarity=formats.score(example.number("similarity")),
        changed=len({_call(example, side, several) for side in ("dense", "slim")}) > 1,
    )


def _call(example: Document, side: str, several: bool) -> str | None:
    """Return the class that is called; of several findings, the one shown if above one half."""
    said, probability = example.text(side, "class"), example.number(side, "probability")
    return None if several and (probability or 0) < 0.5 else said


def _answer(example: Document, side: str, values: Array, several: bool) -> Answer:
    said, label = example.text(side, "class"), example.text("label")
    mass = example.number("mass_in_mask", side)
    return Answer(
        name=side,
        says=f"{said or 'unknown'}, {formats.percent(example.number(side, 'probability'), 0)}",
        right=None if not said or not label else _call(example, side, several) == label,
        mass="" if mass is None else formats.percent(mass, 0),
        map=layer(values, values.shape),
    )
