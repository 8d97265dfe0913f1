"""What a table of two artifacts says, row by row, for whoever draws it.

A row is left out where neither artifact has a value: why it has none is a sentence
below the table.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from edgeprune_benchmarks.measurement import Measurement, MeasureSettings, Run
from edgeprune_benchmarks.noise import NoiseFloor
from edgeprune_benchmarks.record import Record
from edgeprune_benchmarks.statistics import P99_LEAST

MISSING: Final = "not measured"
MOST_CLASSES: Final = 3
LEAST_ROUNDS: Final = 4  # with fewer, Student's t makes the interval several times as wide


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line: a label, both values, and how B compares with A."""

    label: str
    a: str
    b: str
    change: str = ""


def case_title(record: Record) -> str:
    """Name a case, as ``1 thread, batch 8``."""
    return case_words(record.comparison.settings)


def case_words(asked: MeasureSettings) -> str:
    """Name the case that settings ask for."""
    threads = f"{asked.threads} thread{'s' * (asked.threads > 1)}"
    where = f", {asked.device}" if asked.device != "cpu" else ""
    idle = f", {asked.idle_seconds:g} s idle before each" if asked.idle_seconds else ""
    return f"{threads}, batch {asked.batch}{where}{idle}"


def pair_rows(record: Record) -> tuple[Row, ...]:
    """Return what is the same in every case."""
    return (*_quality(record), *_sizes(record))


def case_rows(record: Record) -> tuple[Row, ...]:
    """Return what was measured of one case."""
    return (*_times(record), *_memory(record), *_how(record))


def interval(record: Record, between: str = " to ") -> str:
    """Write the interval of the ratio."""
    ratio = record.results.latency_ratio
    return f"{ratio.low:.3f}{between}{ratio.high:.3f}"


def milliseconds(value: float | None) -> str:
    """Write a time in three digits, or in whole milliseconds."""
    if value is None:
        return MISSING
    return f"{value:.3g} ms" if value < 1000 else f"{value:.0f} ms"


def pair_sentences(record: Record) -> Iterator[str]:
    """Yield what a reader must know beside the rows of the pair."""
    found = record.difference
    if found is not None:
        test = "" if found.p_value is None else f", McNemar's p = {found.p_value:.2g}"
        yield (
            f"accuracy of B less that of A: {100 * found.accuracy:+.2f} points, 95 % interval "
            f"{100 * found.low:+.2f} to {100 * found.high:+.2f}{test}; they differ on "
            f"{found.disagreement:.1%} of the calls"
        )
    if hurt := _hurt(record):
        yield f"classes hurt most: {'; '.join(hurt)}"


def case_sentences(record: Record, noise: NoiseFloor | None = None) -> Iterator[str]:
    """Yield what a reader must know beside the rows of a case.

    noise: what A showed against itself in this case, where that was measured.
    """
    if noise is not None:
        yield f"noise floor, A against itself: {noise.value:.1%}, kept for this machine"
    if noise is None or record.noise_floor is not None:
        yield _noise_sentence(record)
    comparison, asked = record.comparison, record.comparison.settings
    if asked.device == "cpu" and asked.threads > comparison.machine.cores:
        yield f"{asked.threads} threads on {comparison.machine.cores} cores wait for each other"
    if asked.rounds < LEAST_ROUNDS:
        yield f"{asked.rounds} rounds are too few for a verdict, the interval is wide: give more"
    precisions = [_joined(side, _precision) for side in (comparison.dense, comparison.slim)]
    if precisions[0] != precisions[1]:
        yield (
            f"A runs in {precisions[0]} and B in {precisions[1]}: part of the ratio is one of "
            "precision"
        )
    for what, reasons in (
        ("energy", [r.energy_reason for r in _runs(record)]),
        ("GPU memory", [r.gpu_reason for r in _runs(record) if r.device != "cpu"]),
        ("peak memory", [r.peak_reason for r in _runs(record)]),
    ):
        for reason in dict.fromkeys(reason for reason in reasons if reason):
            yield f"{what}: {reason}"
    for reason in record.tainted:
        yield f"tainted: {reason}"


def _quality(record: Record) -> Iterator[Row]:
    a, b = record.results.dense, record.results.slim
    yield from _row("test accuracy", a.accuracy, b.accuracy, _percent, _points)
    yield from _row("test AUROC", a.auroc, b.auroc, "{:.4f}".format, _difference)


def _sizes(record: Record) -> Iterator[Row]:
    a, b = record.results.dense, record.results.slim
    yield from _row("MACs", a.macs, b.macs, _count, _quotient)
    yield from _row("parameters", a.params, b.params, _count, _quotient)
    yield from _row("file size", a.bytes, b.bytes, _megabytes, _quotient)


def _times(record: Record) -> Iterator[Row]:
    a, b = record.comparison.dense, record.comparison.slim
    slow, fast, ratio = record.dense_latency, record.slim_latency, record.results.latency_ratio
    yield from _row("load", a.load_ms, b.load_ms, milliseconds, _quotient)
    yield from _row("first inference", a.first_ms, b.first_ms, milliseconds, _quotient)
    yield Row(
        label="latency, median",
        a=milliseconds(slow.median_ms),
        b=milliseconds(fast.median_ms),
        change=f"{ratio.value:.3f}",
    )
    yield Row(label="  95 % interval", a="", b="", change=interval(record))
    yield Row(label="  so B is", a="", b="", change=ratio.verdict)
    p99 = (slow.p99_ms, fast.p99_ms)
    yield from _row("latency, p90", slow.p90_ms, fast.p90_ms, milliseconds, _quotient)
    if slow.p99_ms is None or fast.p99_ms is None:
        told = [f"n < {P99_LEAST}" if p is None else milliseconds(p) for p in p99]
        yield Row(label="latency, p99", a=told[0], b=told[1])
    else:
        yield from _row("latency, p99", slow.p99_ms, fast.p99_ms, milliseconds, _quotient)
    yield Row(label="  inferences", a=str(slow.inferences), b=str(fast.inferences))


def _memory(record: Record) -> Iterator[Row]:
    a, b = record.comparison.dense, record.comparison.slim
    yield from _row("peak memory", a.peak_bytes, b.peak_bytes, _megabytes, _quotient)
    yield from _row("GPU memory", a.gpu_bytes, b.gpu_bytes, _megabytes, _quotient)
    yield from _row("energy per inference", a.joules, b.joules, _millijoules, _quotient)


def _how(record: Record) -> Iterator[Row]:
    a, b = record.comparison.dense, record.comparison.slim
    yield Row(label="runs in", a=a.backend, b=b.backend)
    yield Row(label="precision", a=_joined(a, _precision), b=_joined(b, _precision))
    yield Row(label="threads", a=_joined(a, _threads), b=_joined(b, _threads))


def _row(
    label: str,
    a: float | None,
    b: float | None,
    form: Callable[[float], str],
    change: Callable[[float, float], str],
) -> Iterator[Row]:
    if a is None and b is None:
        return
    yield Row(
        label=label,
        a=MISSING if a is None else form(a),
        b=MISSING if b is None else form(b),
        change="" if a is None or b is None else change(a, b),
    )


def _hurt(record: Record) -> Sequence[str]:
    """Say which classes B finds less often than A, the worst first."""
    before, after = record.dense.metrics, record.slim.metrics
    if before is None or after is None:
        return ()
    drops = [
        (x.sensitivity - y.sensitivity, x.name, x.sensitivity, y.sensitivity, x.n)
        for x, y in zip(before.per_class, after.per_class, strict=False)
        if x.name == y.name and x.sensitivity is not None and y.sensitivity is not None
    ]
    return [
        f"{name} {_percent(a)} → {_percent(b)} of {n}"
        for drop, name, a, b, n in sorted(drops, key=lambda each: -each[0])[:MOST_CLASSES]
        if drop > 0
    ]


def _noise_sentence(record: Record) -> str:
    floor = record.noise_floor
    if floor is None:
        return "no noise floor of this machine is known in this case: measure it with --aa"
    return f"noise floor that the ratio is held against: {floor:.1%}"


def _runs(record: Record) -> Iterator[Run]:
    yield from (*record.comparison.dense.runs, *record.comparison.slim.runs)


def _joined(side: Measurement, of: Callable[[Run], str]) -> str:
    return ", ".join(dict.fromkeys(of(run) for run in side.runs))


def _precision(run: Run) -> str:
    return run.precision


def _threads(run: Run) -> str:
    return "none" if run.threads is None else str(run.threads)


def versions(record: Record) -> str:
    """Name the runtimes with their versions."""
    sides = (record.comparison.dense, record.comparison.slim)
    return " and ".join(dict.fromkeys(f"{side.backend} {_short(side)}" for side in sides))


def _short(side: Measurement) -> str:
    """Return a version without the build it came from."""
    return side.version.partition("-")[0]


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _points(a: float, b: float) -> str:
    return f"{100 * (b - a):+.2f} points"


def _difference(a: float, b: float) -> str:
    return f"{b - a:+.4f}"


def _quotient(a: float, b: float) -> str:
    return f"{b / a:.3f}" if a else ""


def _megabytes(value: float) -> str:
    return f"{value / 1e6:.3g} MB" if value < 1e9 else f"{value / 1e6:.0f} MB"


def _millijoules(value: float) -> str:
    return f"{1e3 * value:.3g} mJ"


def _count(value: float) -> str:
    """Write a number in three digits, as in ``11.7 M``."""
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {letter}"
    return f"{value:.0f}"
