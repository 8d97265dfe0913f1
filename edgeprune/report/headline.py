"""What was compressed for which device, and what came of it, in one sentence and one table."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from edgeprune.report import formats
from edgeprune.report.document import Document, Documents

Tone = Literal["good", "harm", "even"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One part of the verdict, with what qualifies it."""

    text: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One quantity of both models; ``share`` is slim over dense where that is a cost."""

    label: str
    note: str = ""
    dense: str
    slim: str
    change: str = ""
    detail: str = ""
    tone: Tone = "even"
    share: float | None = None


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The first section."""

    model: str
    target: str
    description: str
    data: str
    created: str
    claims: tuple[Claim, ...]
    explanation: tuple[str, ...]
    rows: tuple[Row, ...]
    doubts: tuple[str, ...]
    broken: tuple[str, ...]

    @property
    def intervals(self) -> bool:
        """Whether any row of the table shows one."""
        return any(row.detail for row in self.rows)


def headline(documents: Documents) -> Headline:
    """Draw the conclusion from a bundle's results."""
    bundle, record = documents.bundle, documents.record
    results = documents.results
    return Headline(
        model=bundle.text("source", "name") or "an unnamed model",
        target=bundle.text("target", "name") or "an unnamed target",
        description=bundle.text("target", "description") or "",
        data=bundle.text("data", "name") or "",
        created=bundle.text("created") or "",
        claims=(_smaller(results), _faster(results), _accuracy(results)),
        explanation=tuple(_explanation(results, record)),
        rows=(*_quality(documents), *_costs(results), *_times(documents)),
        doubts=record.texts("comparison", "tainted"),
        broken=tuple(_broken(documents)),
    )


def _smaller(results: Document) -> Claim:
    for key in ("params", "bytes"):
        dense, slim = results.number("dense", key), results.number("slim", key)
        if dense and slim:
            word = "smaller" if slim <= dense else "larger"
            unit = "in parameters" if key == "params" else "on disk"
            return Claim(text=f"{formats.times(_above_one(slim / dense))} {word}", detail=unit)
    return Claim(text="size not measured")


def _faster(results: Document) -> Claim:
    ratio = results.at("latency_ratio")
    value, low, high = (ratio.number(key) for key in ("value", "low", "high"))
    match ratio.text("verdict"):
        case "faster" if value and low and high:
            return _speed(1 / value, 1 / high, 1 / low, "faster")
        case "slower" if value and low and high:
            return _speed(value, low, high, "slower")
        case "not distinguishable":
            return Claim(text="no measurable difference in speed")
        case _:
            return Claim(text="speed not measured")


def _speed(value: float, low: float, high: float, word: str) -> Claim:
    digits = 1 if high - low >= 0.2 else 2
    ends = [formats.times(end, digits).removesuffix("×") for end in (low, high)]
    return Claim(
        text=f"{formats.times(value, digits)} {word}", detail=f"[{ends[0]},{formats.THIN}{ends[1]}]"
    )


def _accuracy(results: Document) -> Claim:
    dense, slim = results.number("dense", "accuracy"), results.number("slim", "accuracy")
    if dense is None or slim is None:
        return Claim(text="accuracy not measured")
    return Claim(text=f"accuracy {formats.percent(dense)} → {formats.percent(slim)}")


def _above_one(ratio: float) -> float:
    return ratio if ratio >= 1 else 1 / ratio


def _explanation(results: Document, record: Document) -> Iterator[str]:
    """Say the same in whole sentences, for a reader who sees such numbers rarely."""
    removed, total = (results.number("cut", k) for k in ("units_removed", "units_total"))
    if removed is not None and total:
        yield (
            f"Of {formats.count(total)} units in the network, {formats.count(removed)} "
            f"({formats.percent(removed / total, 0)}) were removed."
        )
    ratio = results.at("latency_ratio")
    value, low, high = (ratio.number(key) for key in ("value", "low", "high"))
    if value is not None and low is not None and high is not None:
        yield (
            f"Measured in turns on the same machine, the slim model takes "
            f"{formats.percent(value, 0)} of the dense model's time "
            f"(95{formats.THIN}% interval {formats.percent(low, 0)} to {formats.percent(high, 0)})."
        )
        dense, slim = (_ran_in(record, side) for side in ("dense", "slim"))
        if dense and slim and dense != slim:
            yield (
                f"Slim ran in {slim} there and dense in {dense}: the gain is that of the cut and "
                "of the precision together."
            )
    floor = record.number("noise_floor")
    if floor is not None:
        yield f"Differences under {formats.percent(floor)} are noise on this machine."


def _quality(documents: Documents) -> Iterator[Row]:
    results, record = documents.results, documents.record
    accuracy, auroc = (
        (results.number("dense", key), results.number("slim", key)) for key in ("accuracy", "auroc")
    )
    low, high = record.number("difference", "low"), record.number("difference", "high")
    several = documents.bundle.flag("data", "multi_label")
    n = record.number("slim", "metrics", "n")
    yield Row(
        label="Accuracy",
        note=(f"{formats.count(n)} test images" if n else "test images")
        + (", mean over findings" if several else ""),
        dense=formats.percent(accuracy[0]),
        slim=formats.percent(accuracy[1]),
        change=formats.points(_difference(*accuracy)) if None not in accuracy else "",
        detail=""
        if low is None or high is None
        else f"[{formats.change(100 * low, 1)},{formats.THIN}{formats.change(100 * high, 1)}]",
        tone="harm" if high is not None and high < 0 else "even",
    )
    yield Row(
        label="AUROC",
        note="mean over classes",
        dense=formats.score(auroc[0]),
        slim=formats.score(auroc[1]),
        change=formats.change(_difference(*auroc)) if None not in auroc else "",
    )


def _costs(results: Document) -> Iterator[Row]:
    fewer, smaller, less = ("fewer", "more"), ("smaller", "larger"), ("less", "more")
    params, macs, size, memory = (
        (results.number("dense", key), results.number("slim", key))
        for key in ("params", "macs", "bytes", "peak_memory_mb")
    )
    yield _compared("Parameters", "", params, formats.count, fewer)
    yield _compared("Multiply–accumulates", "per image", macs, formats.quantity, fewer)
    yield _compared("File size", "of the measured format", size, formats.size, smaller)
    yield _compared("Peak memory", "whole process", memory, formats.megabytes, less)


def _compared(
    label: str,
    note: str,
    values: tuple[float | None, float | None],
    write: Callable[[float | None], str],
    words: tuple[str, str],
) -> Row:
    dense, slim = values
    share = slim / dense if dense and slim is not None else None
    text = ""
    if share:
        word = words[0] if share < 1 else words[1]
        text = "the same" if share == 1 else f"{formats.times(_above_one(share))} {word}"
    return Row(
        label=label, note=note, dense=write(dense), slim=write(slim), change=text, share=share
    )


def _times(documents: Documents) -> Iterator[Row]:
    results, record = documents.results, documents.record
    claim = _faster(results)
    dense, slim = (results.number(side, "latency_ms") for side in ("dense", "slim"))
    verdict = results.text("latency_ratio", "verdict")
    tones: dict[str | None, Tone] = {"faster": "good", "slower": "harm"}
    measured = verdict is not None
    yield Row(
        label="Latency",
        note="median of one inference",
        dense=formats.milliseconds(dense),
        slim=formats.milliseconds(slim),
        change=("not distinguishable" if verdict == "not distinguishable" else claim.text)
        if measured
        else "",
        detail=claim.detail,
        tone=tones.get(verdict, "even"),
        share=slim / dense if dense and slim is not None else None,
    )
    p90 = record.number("dense_latency", "p90_ms"), record.number("slim_latency", "p90_ms")
    words = ("faster", "slower")
    yield _compared("Latency, p90", "nine of ten are quicker", p90, formats.milliseconds, words)
    load = _load_ms(record, "dense"), _load_ms(record, "slim")
    yield _compared(
        "Load time", "median of fresh processes", load, formats.milliseconds, ("quicker", "slower")
    )


def _load_ms(record: Document, side: str) -> float | None:
    runs = record.each("comparison", side, "runs")
    seen = [ns / 1e6 for run in runs if (ns := run.number("load_ns")) is not None]
    return statistics.median(seen) if seen else None


def _broken(documents: Documents) -> Iterator[str]:
    if documents.results.flag("cut", "ok") is False:
        yield "the cut model does not equal the masked model"
    for artifact in documents.bundle.each("artifacts"):
        if artifact.flag("proof", "ok") is False:
            name = f"{artifact.text('model') or 'a'} {artifact.text('format') or 'artifact'}"
            yield f"the artifact {name} does not equal torch"


def _ran_in(record: Document, side: str) -> str:
    """Say what a model's layers computed in when it was measured."""
    runs = record.each("comparison", side, "runs")
    return ", ".join(sorted({text for run in runs if (text := run.text("precision"))}))


def _difference(dense: float | None, slim: float | None) -> float | None:
    return None if dense is None or slim is None else slim - dense
