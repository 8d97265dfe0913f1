"""Whom does it harm? Every class before and after, the worst change first."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from edgeprune.report import formats
from edgeprune.report.document import Document, Documents
from edgeprune.report.plots import Scale, Tick, steps

FEW: Final = 30  # images; below this, one image moves the sensitivity by more than three points
HARM: Final = 0.02  # a class is marked when its sensitivity falls by more than two points


@dataclass(frozen=True, kw_only=True)
class ClassLine:
    """One class; ``dense_at`` and ``slim_at`` are places on the axis in per cent."""

    name: str
    n: str
    dense: str
    slim: str
    change: str
    images: str
    dense_at: float | None
    slim_at: float | None
    dense_auroc: str
    slim_auroc: str
    auroc_change: str
    harmed: bool
    uncertain: str


@dataclass(frozen=True, kw_only=True)
class Classes:
    """The fourth section."""

    lines: tuple[ClassLine, ...]
    ticks: tuple[Tick, ...]
    sentences: tuple[str, ...]
    multi_label: bool


def classes(documents: Documents) -> Classes:
    """Put the classes of both models side by side."""
    record = documents.record
    pairs = _pairs(record)
    values = [v for pair in pairs for each in pair if (v := each.number("sensitivity")) is not None]
    axis = Scale(low=min(int(10 * min(values, default=0)) / 10, 0.9), high=1.0)
    return Classes(
        lines=tuple(_line(dense, slim, axis) for dense, slim in sorted(pairs, key=_worst_first)),
        ticks=tuple(
            Tick(at=axis(value), label=formats.percent(value, 0))
            for value in steps(axis.low, axis.high, 2)
        ),
        sentences=tuple(_sentences(record)),
        multi_label=documents.bundle.flag("data", "multi_label") or False,
    )


def _pairs(record: Document) -> list[tuple[Document, Document]]:
    slim = {c.text("name"): c for c in record.each("slim", "metrics", "per_class")}
    dense = record.each("dense", "metrics", "per_class")
    return [(each, slim.get(each.text("name"), Document())) for each in dense]


def _fall(pair: tuple[Document, Document], key: str) -> float | None:
    dense, slim = pair[0].number(key), pair[1].number(key)
    return None if dense is None or slim is None else slim - dense


def _worst_first(pair: tuple[Document, Document]) -> tuple[bool, float, float, str]:
    sensitivity, auroc = _fall(pair, "sensitivity"), _fall(pair, "auroc")
    return sensitivity is None, sensitivity or 0.0, auroc or 0.0, pair[0].text("name") or ""


def _line(dense: Document, slim: Document, axis: Scale) -> ClassLine:
    n = dense.number("n")
    before, after = dense.number("sensitivity"), slim.number("sensitivity")
    fall, auroc = _fall((dense, slim), "sensitivity"), _fall((dense, slim), "auroc")
    images = None if fall is None or n is None else round(fall * n)
    return ClassLine(
        name=dense.text("name") or "",
        n=formats.count(n),
        dense=formats.percent(before),
        slim=formats.percent(after),
        change="" if fall is None else formats.points(fall),
        images="" if images is None else _images(images),
        dense_at=None if before is None else axis(before),
        slim_at=None if after is None else axis(after),
        dense_auroc=formats.score(dense.number("auroc")),
        slim_auroc=formats.score(slim.number("auroc")),
        auroc_change="" if auroc is None else formats.change(auroc),
        harmed=fall is not None and fall < -HARM,
        uncertain=f"one image is {100 / n:.1f} points" if n and n < FEW else "",
    )


def _images(found: int) -> str:
    if not found:
        return "as many found"
    return f"{formats.count(abs(found))} {'fewer' if found < 0 else 'more'} found"


def _sentences(record: Document) -> Iterator[str]:
    difference = record.at("difference")
    share, n = difference.number("disagreement"), record.number("slim", "metrics", "n")
    lost, won = (difference.number(key) for key in ("only_dense_right", "only_slim_right"))
    if share is not None:
        calls = (
            f"{formats.count(share * n)} of {formats.count(n)} predictions"
            if n and not record.flag("slim", "metrics", "multi_label")
            else f"{formats.percent(share)} of the predictions"
        )
        yield f"The two models differ in {calls}."
    if lost is not None and won is not None:
        yield (
            f"Only the dense model is right in {formats.count(lost)} cases, "
            f"only the slim model in {formats.count(won)}."
        )
    p_value = difference.number("p_value")
    if p_value is not None:
        meaning = (
            "more than chance explains"
            if p_value < 0.05
            else "no more than chance explains, on this many images"
        )
        written = f"< {0.001}" if p_value < 0.001 else f"= {p_value:.2g}"
        yield f"That imbalance is {meaning} (McNemar's exact test, p {written})."
