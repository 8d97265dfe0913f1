"""Same evidence? Images with heat maps of both models, as pictures inside the page.

The image itself is embedded once; a map is a layer over it whose opacity is the
strength of the evidence, so that anatomy stays visible where a map is silent.
"""

import base64
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeprune.errors import BundleError
from edgeprune.report import formats
from edgeprune.report.document import Document, Documents

Array = NDArray[np.generic]
LEAST_SIDE: Final = 160  # pixels that a picture has at least
MOST_SIDE: Final = (
    208  # and at most: eight examples in colour then fit into 3 MB whatever they show
)
FOR: Final = (196, 30, 30)  # evidence for the class
AGAINST: Final = (28, 84, 196)  # evidence against it
OPAQUE: Final = 0.85
LEVELS: Final = 32  # of opacity: more cannot be told apart and does not compress


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
        image=_png(_sized(Image.fromarray(arrays["images"][index].astype(np.uint8)))),
        outline=_outline(mask),
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
        map=_png(_layer(values)),
    )


def _layer(values: Array) -> Image.Image:
    """Colour a map (H, W) in -1 to 1: red for, blue against, opacity by strength."""
    known = np.nan_to_num(values.astype(np.float32)).clip(-1, 1)
    signed = np.asarray(_sized(Image.fromarray(known)))  # before colouring: red and blue do not mix
    strength = np.round(np.abs(signed) * LEVELS) / LEVELS
    layer = np.empty((*signed.shape, 4), np.uint8)
    layer[..., :3] = np.where((signed >= 0)[..., None], FOR, AGAINST)
    layer[..., 3] = np.round(255 * OPAQUE * strength)
    return Image.fromarray(layer)


def _sized(picture: Image.Image) -> Image.Image:
    """Enlarge or reduce a picture to a side that reads well."""
    side = max(picture.size)
    factor = min(max(LEAST_SIDE / side, 1.0), MOST_SIDE / side)
    width, height = (max(1, round(edge * factor)) for edge in picture.size)
    return picture.resize((width, height), Image.Resampling.BILINEAR)


def _png(picture: Image.Image) -> str:
    """Return a picture as a data URI."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _outline(mask: NDArray[np.bool_]) -> str:
    """Return the border of a mask (H, W) as a path along the edges of its pixels."""
    padded = np.pad(mask, 1)
    rows = padded[1:, 1:-1] != padded[:-1, 1:-1]  # an edge above pixel (y, x)
    columns = padded[1:-1, 1:] != padded[1:-1, :-1]  # an edge left of pixel (y, x)
    across = [f"M{start} {y}H{end}" for y, start, end in _spans(rows)]
    down = [f"M{x} {start}V{end}" for x, start, end in _spans(columns.T)]
    return "".join(across + down)


def _spans(lines: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    """List the runs of True in each line: line, start, end."""
    steps = np.diff(np.pad(lines, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    at, starts = np.nonzero(steps == 1)
    _, ends = np.nonzero(steps == -1)
    return list(zip(at.tolist(), starts.tolist(), ends.tolist(), strict=True))
