"""What no target can be, although each of its fields is well-formed."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from typing import Final

from edgeprune.targets.target import PRECISIONS, PROCESSORS, RUNTIMES, Device, Rates, Target
from edgeprune.targets.tensorrt_versions import OLDEST, has_dla, largest_opset, read_version

COUNTS: Final = ("align", "opset", "threads", "max_batch")
SHARES: Final = ("compute_share", "bandwidth_share")
TENSORRT: Final = "tensorrt"


def contradiction(target: Target) -> str | None:
    """Say why a target cannot be, or None."""
    return next(_contradictions(target), None)


def nearest(given: str, known: Mapping[str, object] | Sequence[str]) -> str:
    """Name what was perhaps meant, ready to be put behind the given name."""
    near = get_close_matches(given, list(known), n=3)
    return f" (did you mean {' or '.join(repr(name) for name in near)}?)" if near else ""


def _contradictions(target: Target) -> Iterator[str]:
    yield from _unknown("runtime", target.runtime, RUNTIMES)
    if target.processor is not None:
        yield from _unknown("processor", target.processor, tuple(PROCESSORS))
    for key in COUNTS:
        if getattr(target, key) < 1:
            yield f"{key} is {getattr(target, key)}; it has to be 1 or more"
    yield from _about_precisions(target)
    yield from _about_formats(target)
    if target.device is not None:
        yield from _about_device(target.device)
        yield from _about_tensorrt(target, target.device)
    elif TENSORRT in _names(target):
        yield _version_missing("it has no table [device]")
    if target.rates is not None:
        yield from _about_rates(target.rates)


def _about_precisions(target: Target) -> Iterator[str]:
    if not target.precisions or len(set(target.precisions)) < len(target.precisions):
        yield f"precisions {list(target.precisions)}: name at least one, and each once"
    for precision in (target.precision, *target.precisions):
        yield from _unknown("precision", precision, PRECISIONS)
    if target.precision not in target.precisions:
        yield (
            f"its precision {target.precision} is none of its precisions "
            f"{', '.join(target.precisions)}"
        )


def _about_formats(target: Target) -> Iterator[str]:
    whole = [_whole(text, target) for text in target.formats]
    if not whole or len(set(whole)) < len(whole):
        yield f"formats {list(target.formats)}: name at least one format, and each once"
    for text, (_, precision) in zip(target.formats, whole, strict=True):
        if precision not in PRECISIONS:
            near = nearest(precision, PRECISIONS)
            yield (
                f"format '{text}' names the precision '{precision}', which is unknown{near}: "
                f"give one of {', '.join(PRECISIONS)}"
            )
        if precision not in target.precisions:
            yield (
                f"format '{text}' is to be written in {precision}, which is none of its "
                f"precisions {', '.join(target.precisions)}"
            )


def _whole(text: str, target: Target) -> tuple[str, str]:
    form, colon, precision = text.partition(":")
    return form, precision if colon else target.precision


def _names(target: Target) -> list[str]:
    return [_whole(text, target)[0] for text in target.formats]


def _about_device(device: Device) -> Iterator[str]:
    if device.dla_cores < 0:
        yield f"dla_cores is {device.dla_cores}; it has to be 0 or more"
    if device.memory_gb is not None:
        yield from _not("positive", "memory_gb", device.memory_gb, _positive)
    if device.workspace_mb is None:
        return
    yield from _not("positive", "workspace_mb", device.workspace_mb, _positive)
    if device.memory_gb is not None and device.workspace_mb > device.memory_gb * 1024:
        yield (
            f"workspace_mb is {device.workspace_mb}, more than the {device.memory_gb:g} GB of "
            "memory_gb"
        )


def _about_tensorrt(target: Target, device: Device) -> Iterator[str]:
    if device.tensorrt is None:
        if TENSORRT in _names(target):
            yield _version_missing("its table [device] has no field 'tensorrt'")
        if device.dla_cores:
            yield f"dla_cores is {device.dla_cores}, but only TensorRT uses them: give 'tensorrt'"
        return
    version = read_version(device.tensorrt)
    if version is None:
        yield f"tensorrt is '{device.tensorrt}'; it has to be a version, as '10.3'"
        return
    largest = largest_opset(version)
    if largest is None:
        oldest = ".".join(map(str, OLDEST))
        yield f"TensorRT {device.tensorrt} is too old: {oldest} is the first that is supported"
    elif target.opset > largest:
        yield (
            f"opset is {target.opset}, and TensorRT {device.tensorrt} is only known to read up "
            f"to {largest}"
        )
    if device.dla_cores and not has_dla(version):
        yield (
            f"dla_cores is {device.dla_cores}, and TensorRT {device.tensorrt} uses none: "
            "10.7 was the last of 10 that did, and 11.4.1 does again"
        )


def _version_missing(seen: str) -> str:
    return (
        f"{seen}, and the format 'tensorrt' needs the version that will read it: give "
        'tensorrt = "10.3", say, in [device]'
    )


def _about_rates(rates: Rates) -> Iterator[str]:
    for field in fields(rates):
        value = getattr(rates, field.name)
        if not isinstance(value, float):
            continue
        if field.name == "launch_us":
            yield from _not("0 or more", field.name, value, lambda given: 0 <= given < math.inf)
        elif field.name in SHARES:
            yield from _not(
                "above 0 and at most 1", field.name, value, lambda given: 0 < given <= 1
            )
        else:
            yield from _not("positive", field.name, value, _positive)


def _positive(value: float) -> bool:
    return 0 < value < math.inf  # TOML has inf and nan, and nan is neither


def _not(what: str, key: str, value: float, holds: Callable[[float], bool]) -> Iterator[str]:
    if not holds(value):
        yield f"{key} is {value:g}; it has to be {what}"


def _unknown(key: str, value: str, known: Sequence[str]) -> Iterator[str]:
    if value not in known:
        yield (f"{key} '{value}' is unknown{nearest(value, known)}: give one of {', '.join(known)}")
