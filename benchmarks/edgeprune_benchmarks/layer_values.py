"""What a profiler says of an artifact's layers, and what the artifact's graph adds to it.

A layer here is what a runtime executes: one or several operators of the graph, fused,
or one that the runtime put in by itself. Times are milliseconds of one inference of a
whole batch, work is that of the whole batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from edgeprune.errors import MeasureError
from edgeprune_benchmarks.codec import decode


@dataclass(frozen=True, kw_only=True)
class LayerTime:
    """One executed layer, as its profiler names it.

    ``origins`` are the graph's operators, or their outputs, as far as the profiler tells.
    """

    name: str
    type: str
    ms: float  # median
    precision: str | None
    origins: tuple[str, ...]
    shape: tuple[int, ...] | None  # of its output


@dataclass(frozen=True, kw_only=True)
class Profile:
    """All layers of one artifact in the order in which they run.

    ``profiled_ms`` and ``plain_ms`` are whole inferences, with the profiler and without
    it, and ``spread`` the range of repeated sums of all layers over their median; None
    where that was not measured.
    """

    profiler: str
    layers: tuple[LayerTime, ...]
    profiled_ms: float | None = None
    plain_ms: float | None = None
    spread: float | None = None

    @property
    def layers_ms(self) -> float:
        """The sum of all layers."""
        return sum(layer.ms for layer in self.layers)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a layer has to do; None where the graph does not tell.

    ``anchor`` is what the layer is recognised by in another model: its weight, or else the
    ``operator`` that does most. ``widths`` are the channels that this contracts and makes.
    """

    anchor: str
    operator: str
    operators: tuple[str, ...]
    macs: int | None
    bytes: int
    widths: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """An executed layer and its work; None for one that the runtime put in by itself."""

    time: LayerTime
    work: Work | None


@dataclass(frozen=True, kw_only=True)
class _Answered:
    """One layer as the device runner answers it."""

    name: str
    type: str
    ns: float
    precision: str | None
    origins: tuple[str, ...]
    shape: tuple[int, ...] | None


def layer_times(answers: object) -> tuple[LayerTime, ...]:
    """Read the layers of a device runner's answer; ``MeasureError`` for what is none.

    What the runner says of a layer beyond what is known here is passed over.
    """
    try:
        found = [_answered(each) for each in (answers if isinstance(answers, list) else [answers])]
    except ValueError as error:
        raise MeasureError(f"a device runner's layers cannot be understood: {error}") from error
    return tuple(
        LayerTime(
            name=each.name,
            type=each.type,
            ms=each.ns / 1e6,
            precision=each.precision,
            origins=each.origins,
            shape=each.shape,
        )
        for each in found
    )


def _answered(value: object) -> _Answered:
    known = {field.name for field in fields(_Answered)}
    words = {k: v for k, v in value.items() if k in known} if isinstance(value, Mapping) else value
    return decode(_Answered, words, at="layer")
