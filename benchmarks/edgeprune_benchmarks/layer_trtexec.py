"""Layer times that ``trtexec`` wrote on a device where nothing else could measure.

Three of its files count: ``--exportProfile`` has the times, ``--exportLayerInfo`` says
what each layer is made of, ``--exportTimes`` has whole inferences. Names of layers are
not escaped in the first, so quotes and backslashes in them break JSON: it is read line
by line. The others have grown fields from TensorRT 8 to 11, and unknown ones are passed
over. Times are those of the GPU alone, without copies.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from edgeprune.errors import MeasureError
from edgeprune_benchmarks.layer_values import LayerTime, Profile

LINE: Final = re.compile(
    r'^[\[,\s]*\{\s*"name"\s*:\s*"(?P<name>.*)"\s*,\s*"timeMs"\s*:\s*(?P<total>[-+.\deE]+)\s*,'
    r'\s*"averageMs"\s*:\s*(?P<average>[-+.\deE]+)\s*'
    r'(?:,\s*"medianMs"\s*:\s*(?P<median>[-+.\deE]+)\s*)?,\s*"percentage"'
)
MERGED: Final = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
MARKS: Final[Mapping[str, str]] = {
    "profile": r'"averageMs"\s*:',
    "layer_info": r'"Layers"\s*:',
    "times": r'"(computeMs|startComputeMs)"\s*:',
}
WHAT: Final[Mapping[str, str]] = {
    "profile": "times of layers",
    "layer_info": "facts about layers",
    "times": "times of inferences",
}
TYPES: Final[Mapping[str, str]] = {
    "float": "f32", "fp32": "f32", "half": "f16", "fp16": "f16", "bf16": "bf16", "bfloat16": "bf16",
    "int8": "i8", "fp8": "f8", "tf32": "tf32", "int32": "i32", "int64": "i64", "bool": "bool",
}  # fmt: skip


def trtexec_profile(
    profile: Path, *, layer_info: Path | None = None, times: Path | None = None
) -> Profile:
    """Read what ``trtexec --exportProfile=… --exportLayerInfo=… --exportTimes=…`` wrote.

    A layer's time is the median where the file has it (from 8.6 on), otherwise the mean.
    Raises ``MeasureError`` for a file that is none of these.
    """
    facts = _facts(layer_info) if layer_info else {}
    found = [match for line in _text(profile).splitlines() if (match := LINE.match(line))]
    if not found:
        wanted = "a file of trtexec --exportProfile, with a layer on each line"
        raise MeasureError(f"'{profile.name}' is not {wanted}")
    layers = tuple(
        _layer(match["name"], match["median"] or match["average"], facts) for match in found
    )
    return Profile(
        profiler="trtexec", layers=layers, plain_ms=_inference_ms(times) if times else None
    )


def trtexec_profile_of(files: Sequence[Path]) -> Profile:
    """Read the same files in any order, each known by what it holds.

    Raises ``MeasureError`` when none, or several, hold a profile, or one holds nothing
    that is known.
    """
    kinds: dict[str, Path] = {}
    for path in files:
        kind = _kind(path)
        if kind in kinds:
            raise MeasureError(f"'{kinds[kind].name}' and '{path.name}' both hold {WHAT[kind]}")
        kinds[kind] = path
    if "profile" not in kinds:
        raise MeasureError("no file holds the times of layers: trtexec --exportProfile writes one")
    return trtexec_profile(
        kinds["profile"], layer_info=kinds.get("layer_info"), times=kinds.get("times")
    )


def _kind(path: Path) -> str:
    text = _text(path)
    found = next((kind for kind, mark in MARKS.items() if re.search(mark, text)), None)
    if found is None:
        raise MeasureError(f"'{path.name}' is no file that trtexec exported: give its profile")
    return found


def _layer(name: str, ms: str, facts: Mapping[str, Mapping[str, Any]]) -> LayerTime:
    fact = facts.get(name, {})
    outputs = fact.get("Outputs")
    made = outputs[0] if isinstance(outputs, list) and outputs else {}
    made = made if isinstance(made, Mapping) else {}
    merged = MERGED.findall(str(fact.get("Metadata", "")))
    parts = [name] if "ForeignNode" in name else name.split(" + ")
    return LayerTime(
        name=name,
        type=str(fact.get("LayerType") or _type(name)),
        ms=float(ms),
        precision=_precision(str(made.get("Format/Datatype", ""))),
        origins=tuple(merged or (part.strip() for part in parts)),
        shape=_shape(made.get("Dimensions")),
    )


def _type(name: str) -> str:
    """Guess a layer's type where only its name is known."""
    if name.startswith("Reformatting CopyNode"):
        return "Reformat"
    return "Myelin" if "ForeignNode" in name else "unknown"


def _precision(words: str) -> str | None:
    """Find the type in words such as ``Channel major FP16 format where channel % 8 == 0``."""
    return next((TYPES[word] for word in words.lower().split() if word in TYPES), None)


def _shape(value: object) -> tuple[int, ...] | None:
    """Return a shape; None for one that was not settled when the engine was built."""
    sizes = value if isinstance(value, list) else []
    known = [size for size in sizes if isinstance(size, int) and size >= 0]
    return tuple(known) if sizes and len(known) == len(sizes) else None


def _facts(path: Path) -> dict[str, Mapping[str, Any]]:
    """Return what is known of each layer by its name; nothing where only names were kept."""
    document = _json(path)
    layers = document.get("Layers") if isinstance(document, Mapping) else None
    if not isinstance(layers, list):
        raise MeasureError(f"'{path.name}' is not a file of trtexec --exportLayerInfo: no Layers")
    return {
        str(each["Name"]): each for each in layers if isinstance(each, Mapping) and "Name" in each
    }


def _inference_ms(path: Path) -> float:
    """Return the median time that the GPU computes for one inference."""
    rows = _json(path)
    try:
        return median(_compute_ms(row) for row in rows)
    except (KeyError, TypeError, ValueError) as error:
        wanted = "a file of trtexec --exportTimes, with compute times"
        raise MeasureError(f"'{path.name}' is not {wanted}") from error


def _compute_ms(row: Mapping[str, Any]) -> float:
    if "computeMs" in row:
        return float(row["computeMs"])
    return float(row["endComputeMs"]) - float(row["startComputeMs"])


def _json(path: Path) -> Any:  # noqa: ANN401  whatever the file holds
    """Parse a file in which control characters may stand in names as they are."""
    try:
        return json.loads(_text(path), strict=False)
    except ValueError as error:
        raise MeasureError(f"'{path.name}' cannot be read as JSON: {error}") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise MeasureError(f"'{path.name}' cannot be read: {error.strerror}") from error
