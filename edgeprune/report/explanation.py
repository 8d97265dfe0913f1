"""The page that shows what one unit responds to, and why it stays or goes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgeprune.analysis.explanation import (
    ClassResponse,
    Decision,
    Explanation,
    Rival,
    ShownImage,
    Standing,
)
from edgeprune.report import formats
from edgeprune.report.page import render
from edgeprune.report.pictures import layer, outline, picture
from edgeprune.report.plots import Scale

Fact = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A value as a bar from zero; ``start`` and ``width`` in per cent of the axis."""

    name: str
    note: str
    value: str
    start: float
    width: float
    negative: bool


@dataclass(frozen=True, kw_only=True)
class Figure:
    """An image with its map; ``outline`` is a path over ``width`` × ``height`` pixels."""

    id: str
    label: str
    lines: tuple[str, ...]
    image: str
    map: str
    outline: str
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Images of one kind."""

    title: str
    hint: str
    figures: tuple[Figure, ...]


@dataclass(frozen=True, kw_only=True)
class RivalLine:
    """Another unit, as a row."""

    name: str
    state: str
    score: str
    alike: str
    most: str


@dataclass(frozen=True, kw_only=True)
class ExplanationPage:
    """Everything the template shows."""

    name: str
    model: str
    description: str
    claims: tuple[tuple[str, str], ...]
    reasons: tuple[str, ...]
    response_bars: tuple[Bar, ...]
    attribution_bars: tuple[Bar, ...]
    score_bars: tuple[Bar, ...]
    response: str
    where: str
    masked: bool
    strongest: Gallery
    decided: tuple[Gallery, ...]
    by_score: tuple[RivalLine, ...]
    by_response: tuple[RivalLine, ...]
    rivals: str
    facts: tuple[Fact, ...]


def explanation_page(found: Explanation) -> str:
    """Draw an explanation as one HTML page that opens offline."""
    response = "mean absolute value" if found.averaged else "largest value over the image"
    page = ExplanationPage(
        name=found.name,
        model=found.model,
        description=_description(found),
        claims=tuple(_claims(found)),
        reasons=tuple(_reasons(found)),
        response_bars=_bars(found.classes, "response"),
        attribution_bars=_bars(found.classes, "attribution"),
        score_bars=_score_bars(found.standing),
        response=response,
        where=found.where,
        masked=any(shown.mask is not None for shown in found.strongest),
        strongest=Gallery(title="", hint="", figures=_figures(found.strongest)),
        decided=tuple(_decided(found)),
        by_score=tuple(_rival(found.group, rival) for rival in found.by_score),
        by_response=tuple(_rival(found.group, rival) for rival in found.by_response),
        rivals=_rivals(found.decision),
        facts=tuple(_facts(found, response)),
    )
    return render("explanation.html", page=page)


def _description(found: Explanation) -> str:
    return (
        f"Unit {formats.count(found.unit)} of the {formats.count(found.size)} units of "
        f"{found.group} ({found.kind}), as {found.reader} reads it; looked at with "
        f"{formats.count(found.images)} images of the {found.split} split of {found.data}."
    )


def _claims(found: Explanation) -> Iterator[tuple[str, str]]:
    """Yield what matters most, each as a statement and what it is measured by."""
    if found.decision is not None:
        kept = f"{formats.count(found.decision.kept)} of {formats.count(found.size)} units stay"
        yield ("Removed" if found.decision.removed else "Kept"), f"{kept} in its group"
    answers = "answer changes" if found.changed == 1 else "answers change"
    number = formats.count(found.changed) if found.changed else "No"
    yield (
        f"{number} {answers} without it",
        f"of {formats.count(found.images)}, if it alone is removed",
    )


def _reasons(found: Explanation) -> Iterator[str]:
    """Yield sentences on why it stays or goes."""
    if found.decision is not None and found.decision.reason:
        yield f"The plan removed it: {found.decision.reason}."
    if (standing := found.standing) is not None:
        most = f" It matters most to {standing.most}." if standing.most else ""
        yield (
            f"By {standing.criterion} it scores {formats.small(standing.score)}: rank "
            f"{formats.count(standing.rank)} of {formats.count(standing.units)} units, "
            f"{formats.count(standing.rank_in_group)} of {formats.count(found.size)} in its "
            f"group, 1 being the lowest.{most}"
        )
    change = "rises" if found.loss > 0 else "falls"
    size = formats.small(abs(found.loss))
    yield (
        f"Without it, and with all other units in place, the mean loss {change} by {size} nats."
        if found.loss
        else "Without it, and with all other units in place, the loss stays the same."
    )
    if not found.strongest:
        yield "Its value is the same for every image: it tells nothing apart."


def _bars(classes: Sequence[ClassResponse], key: str) -> tuple[Bar, ...]:
    values = [float(getattr(each, key)) for each in classes]
    notes = [f"{formats.count(each.images)} images" for each in classes]
    return _drawn([each.name for each in classes], notes, values)


def _score_bars(standing: Standing | None) -> tuple[Bar, ...]:
    known = {n: v for n, v in standing.per_class.items() if v is not None} if standing else {}
    return _drawn(list(known), [""] * len(known), list(known.values()))


def _drawn(names: Sequence[str], notes: Sequence[str], values: Sequence[float]) -> tuple[Bar, ...]:
    scale = Scale(low=min(0.0, *values, 0.0), high=max(0.0, *values, 0.0))
    zero = scale(0.0) if scale.high > scale.low else 0.0
    bars = []
    for name, note, value in zip(names, notes, values, strict=True):
        end = scale(value) if scale.high > scale.low else 0.0
        bars.append(
            Bar(
                name=name,
                note=note,
                value=formats.small(value),
                start=round(min(zero, end), 2),
                width=round(abs(end - zero), 2),
                negative=value < 0,
            )
        )
    return tuple(bars)


def _decided(found: Explanation) -> Iterator[Gallery]:
    if found.speaks_for:
        yield Gallery(
            title="It speaks for the true class",
            hint="Most of all in the first, and so on.",
            figures=_figures(found.speaks_for),
        )
    if found.speaks_against:
        yield Gallery(
            title="It speaks against the true class",
            hint="Most of all in the first, and so on.",
            figures=_figures(found.speaks_against),
        )


def _figures(images: Sequence[ShownImage]) -> tuple[Figure, ...]:
    return tuple(_figure(image) for image in images)


def _figure(image: ShownImage) -> Figure:
    height, width = image.pixels.shape[:2]
    return Figure(
        id=image.id,
        label=image.label,
        lines=(
            f"response {formats.small(image.response)}",
            f"attribution {formats.small(image.attribution)}",
        ),
        image=picture(image.pixels),
        map=layer(image.map, (height, width)),
        outline="" if image.mask is None else outline(image.mask),
        width=width,
        height=height,
    )


def _rivals(decision: Decision | None) -> str:
    if decision is None:
        return "Those of the nearest scores"
    if decision.removed:
        return "The weakest that stay"
    return "The strongest that go"


def _rival(group: str, rival: Rival) -> RivalLine:
    state = "" if rival.kept is None else ("kept" if rival.kept else "removed")
    return RivalLine(
        name=f"{group}:{rival.unit}",
        state=state,
        score="" if rival.score is None else formats.small(rival.score),
        alike="constant" if rival.alike is None else formats.score(rival.alike),
        most=rival.most,
    )


def _facts(found: Explanation, response: str) -> Iterator[Fact]:
    yield "model", found.model
    yield "unit", found.name
    yield "value read by", found.reader
    yield "response", response
    yield "heat maps", found.where
    yield "attribution", found.criterion
    yield "images", f"{formats.count(found.images)} of {found.data}, {found.split} split"
