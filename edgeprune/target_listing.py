"""What ``targets`` prints, and what ``inspect --target`` adds: plain columns, as a pipe can search.

Nothing is shown of a device without where it is from, and no estimate without
the word.
"""

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from edgeprune.columns import columns
from edgeprune.console import quantity
from edgeprune.targets import ALIASES, Device, Rates, Target, load_target, target_names

if TYPE_CHECKING:
    from edgeprune.targets.roofline import Estimate, LayerEstimate

HEAD: Final = ("target", "runtime", "precision", "TensorRT", "JetPack", "device")
LAYERS: Final = ("layer", "operators", "bound by", "MACs", "MB moved", "ms", "share")
INDENT: Final = "  "

OWN_TARGET: Final = """\
extends = "jetson-orin-nano"
description = "the Orin Nano of the ward, in its Super mode"
max_batch = 4

[rates]
fp32_tflops = 2.1
fp16_tflops = 16.7
int8_tops = 33.4
bandwidth_gbs = 102
clock_mhz = 1020
source = "its data sheet"
"""

FIELDS: Final = """\
extends      a built-in target to start from; the file then holds only what differs
description  one line for people
runtime      what is measured: openvino, onnxruntime or tensorrt
formats      what is written, as ["onnx:fp32", "tensorrt"]
precision    where a format names none: fp32, fp16 or int8
precisions   what the device can run
align        the multiple of channels on which pruned widths end
opset        version of the ONNX operator set that the device reads
max_batch    the largest batch that it is used with
threads      processor threads that a measurement uses
processor    x86 or arm, if it is measured on that alone
[device]     source, doubt, jetpack, tensorrt, memory_gb, compute_capability,
             dla_cores, workspace_mb
[rates]      source, doubt, fp32_tflops, fp16_tflops, int8_tops, bandwidth_gbs,
             clock_mhz, compute_share, bandwidth_share, launch_us
"""


def targets_help() -> str:
    """Return what ``targets --help`` says below its options, as click lays it out."""
    return "\n\n".join(
        (
            "\b\nA target of your own is a TOML file; give its path wherever a name is taken,\n"
            "as in --target ward.toml:",
            *_verbatim(OWN_TARGET),
            "\b\nFields, of which description, runtime, formats, align and opset are needed\n"
            "where nothing is extended:",
            *_verbatim(FIELDS),
            "\b\nEach table needs the source of its figures. [device] tensorrt decides which\n"
            "files TensorRT can read; [rates] is what estimates of latency are made of.",
        )
    )


def target_lines() -> Iterator[str]:
    """Yield the built-in targets, a line each."""
    yield from columns(HEAD, [_row(name) for name in target_names()], left=len(HEAD))
    yield ""
    yield "edgeprune targets NAME tells all about one; --help how to write one of your own"


def target_details(target: Target, width: int | None = None) -> Iterator[str]:
    """Yield all about a target. width: of the terminal; None for lines of any length."""
    yield f"{target.name}: {target.description}"
    if names := [alias for alias, name in ALIASES.items() if name == target.name]:
        yield f"also named: {', '.join(names)}"
    yield ""
    yield from _aligned(_own_facts(target), "")
    if target.device is not None:
        yield from ("", "device")
        yield from _aligned(_device_facts(target.device), INDENT)
        yield from _provenance(target.device, width)
    if target.rates is not None:
        yield from ("", "at best")
        yield from _aligned(_rate_facts(target.rates), INDENT)
        yield from _provenance(target.rates, width)
    yield ""
    from edgeprune.targets.roofline import no_estimate

    for reason in (no_estimate(target, target.precision), target.not_measured):
        if reason is not None:
            yield from _wrapped(f"note: {reason}", width, "")


def estimate_lines(estimate: "Estimate", width: int | None = None) -> Iterator[str]:
    """Yield an estimate kernel by kernel. width: of the terminal; None for lines of any length."""
    yield (
        f"{estimate.words}: {estimate.ms:.3g} ms on '{estimate.target}' in {estimate.precision} "
        f"at batch {estimate.batch}"
    )
    yield ""
    rows = [_layer(layer, estimate.ms) for layer in estimate.layers]
    yield from columns(LAYERS, rows, left=3)
    yield ""
    shares = {
        bound: sum(layer.ms for layer in estimate.layers if layer.bound == bound) / estimate.ms
        for bound in ("compute", "memory", "launch")
    }
    yield "time by what bounds it: " + ", ".join(f"{k} {100 * v:.0f} %" for k, v in shares.items())
    for sentence in estimate.assumptions:
        yield from _wrapped(f"assumed: {sentence}", width, "")


def _row(name: str) -> tuple[str, ...]:
    if name in ALIASES:
        return (name, "", "", "", "", f"another name of {ALIASES[name]}")
    target = load_target(name)
    device = target.device
    return (
        name,
        target.runtime,
        target.precision,
        (device and device.tensorrt) or "",
        (device and device.jetpack) or "",
        target.description,
    )


def _own_facts(target: Target) -> dict[str, str]:
    others = [p for p in target.precisions if p != target.precision]
    int8 = target.block("int8")
    widths = f"end on multiples of {target.align}"
    return {
        "runtime": target.runtime,
        "formats": ", ".join(target.formats),
        "precision": target.precision + (f"; can run {', '.join(others)}" if others else ""),
        "pruned widths": widths + (f"; int8 kernels like {int8}" if int8 != target.align else ""),
        "ONNX opset": str(target.opset),
        "largest batch": str(target.max_batch),
        "threads": str(target.threads),
    } | ({} if target.processor is None else {"processor": target.processor})


def _device_facts(device: Device) -> dict[str, str | None]:
    gigabytes, workspace = device.memory_gb, device.workspace_mb
    return {
        "JetPack": device.jetpack,
        "TensorRT": device.tensorrt,
        "memory": None if gigabytes is None else f"{gigabytes:g} GB",
        "compute capability": device.compute_capability,
        "DLA cores": str(device.dla_cores),
        "workspace to build in": None if workspace is None else f"{workspace} MiB",
    }


def _rate_facts(rates: Rates) -> dict[str, str | None]:
    fp16, int8, clock = rates.fp16_tflops, rates.int8_tops, rates.clock_mhz
    return {
        "fp32": f"{rates.fp32_tflops:g} TFLOPS",
        "fp16": None if fp16 is None else f"{fp16:g} TFLOPS",
        "int8": None if int8 is None else f"{int8:g} TOPS",
        "memory": f"{rates.bandwidth_gbs:g} GB/s",
        "GPU clock": None if clock is None else f"{clock:g} MHz",
        "taken as reached": (
            f"{100 * rates.compute_share:g} % of arithmetic, {100 * rates.bandwidth_share:g} % of "
            f"memory, and {rates.launch_us:g} µs to start a kernel"
        ),
    }


def _provenance(facts: Device | Rates, width: int | None) -> Iterator[str]:
    yield from _wrapped(f"source: {facts.source}", width, INDENT)
    if facts.doubt is not None:
        yield from _wrapped(f"not certain: {facts.doubt}", width, INDENT)


def _layer(layer: "LayerEstimate", whole: float) -> tuple[str, ...]:
    return (
        layer.name,
        ", ".join((layer.operator, *layer.fused)),
        layer.bound,
        quantity(layer.macs),
        f"{layer.bytes / 1e6:.3f}",
        f"{layer.ms:.4f}",
        f"{100 * layer.ms / whole:.1f} %",
    )


def _aligned(facts: dict[str, str] | dict[str, str | None], indent: str) -> Iterator[str]:
    known = {name: value for name, value in facts.items() if value is not None}
    width = max(map(len, known))
    for name, value in known.items():
        yield f"{indent}{name.ljust(width)}  {value}"


def _verbatim(text: str) -> Iterator[str]:
    """Yield the paragraphs of a text in a form that click does not fill."""
    for paragraph in text.strip().split("\n\n"):
        yield "\b\n" + textwrap.indent(paragraph, INDENT)


def _wrapped(text: str, width: int | None, indent: str) -> list[str]:
    if width is None:
        return [indent + text]
    return textwrap.wrap(
        text, max(width, 24), initial_indent=indent, subsequent_indent=indent + INDENT
    )
