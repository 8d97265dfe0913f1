"""Command lines for ``trtexec``, by version.

``trtexec`` stops at a flag that it does not know, and flags come and go: 10 reads
precision from the graph if asked to, 11 always does and has no flags for it left,
and what a benchmark had to ask for became the default. Facts from
samples/common/sampleOptions.cpp of TensorRT's repository.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from edgeprune.targets.tensorrt_versions import Version

ENGINE: Final = "trtexec.plan"  # not run.py's engine.plan: that one is proven
CACHE: Final = "trtexec.cache"
TIMES: Final = "times.json"
ALWAYS: Final[Version] = (8, 5)


@dataclass(frozen=True, kw_only=True)
class Span:
    """From which version on a flag means something, and from which on no longer."""

    since: Version = ALWAYS
    until: Version | None = None

    def holds(self, version: Version) -> bool:
        """Whether a version takes the flag."""
        return self.since <= version and (self.until is None or version < self.until)


FLAGS: Final[Mapping[str, Span]] = {
    "--onnx": Span(),
    "--saveEngine": Span(),
    "--loadEngine": Span(),
    "--memPoolSize": Span(),
    "--timingCacheFile": Span(),
    "--minShapes": Span(),
    "--optShapes": Span(),
    "--maxShapes": Span(),
    "--shapes": Span(),
    "--useDLACore": Span(),
    "--allowGPUFallback": Span(),
    "--exportTimes": Span(),
    "--buildOnly": Span(until=(8, 6)),
    "--skipInference": Span(since=(8, 6)),
    "--fp16": Span(until=(11, 0)),
    "--int8": Span(until=(11, 0)),
    "--stronglyTyped": Span(since=(10, 0), until=(11, 0)),
    "--noTF32": Span(until=(11, 0)),  # nothing is published about it for 11
    "--useCudaGraph": Span(until=(11, 0)),
    "--useSpinWait": Span(until=(11, 0)),
    "--noDataTransfers": Span(until=(11, 0)),
}

# How each family of versions is called, with the version that stands for it.
FAMILIES: Final[Mapping[str, Version]] = {
    "8.5": (8, 5),
    "8.6": (8, 6),
    "10.x": (10, 0),
    "11.x": (11, 0),
}


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What is to be built.

    Attributes:
        onnx: name of the file.
        input: name of the graph's input.
        profile: its smallest, usual and largest shape, or None where it has one only.
        precision_flags: names of builder flags, as ``FP16``; none for float32, which then
            is not rounded to TF32 either.
        workspace_mb: memory in MiB that building may use.
        dla_core: deep learning accelerator to build for, or None for the GPU.
    """

    onnx: str
    input: str
    profile: Mapping[str, Sequence[int]] | None
    precision_flags: Sequence[str]
    workspace_mb: int
    dla_core: int | None


def build_command(engine: Engine, version: Version) -> tuple[str, ...]:
    """Return what builds the engine with a version of ``trtexec``."""
    wanted = {
        "--onnx": engine.onnx,
        "--saveEngine": ENGINE,
        "--timingCacheFile": CACHE,
        "--memPoolSize": f"workspace:{engine.workspace_mb}",
        **_shapes(engine),
        **dict.fromkeys(_precision(engine, version)),
        **_device(engine),
        "--buildOnly": None,
        "--skipInference": None,
    }
    return _command(wanted, version)


def time_command(engine: Engine, version: Version) -> tuple[str, ...]:
    """Return what times the engine: one image, no transfers, without the cost of launches.

    These are the defaults of 11; older versions are asked for the same, so that
    ``computeMs`` in the exported times can be compared.
    """
    profile = engine.profile or {}
    wanted = {
        "--loadEngine": ENGINE,
        **({"--shapes": _spec(engine.input, profile["opt"])} if profile else {}),
        **({} if engine.dla_core is None else {"--useDLACore": str(engine.dla_core)}),
        "--useCudaGraph": None,
        "--useSpinWait": None,
        "--noDataTransfers": None,
        "--exportTimes": TIMES,
    }
    return _command(wanted, version)


def _command(wanted: Mapping[str, str | None], version: Version) -> tuple[str, ...]:
    taken = {flag: value for flag, value in wanted.items() if FLAGS[flag].holds(version)}
    return ("trtexec", *(f if value is None else f"{f}={value}" for f, value in taken.items()))


def _precision(engine: Engine, version: Version) -> tuple[str, ...]:
    """Return flags for types: 10 takes them from the graph, if it is told to, for a GPU alone."""
    weak = tuple(f"--{flag.lower()}" for flag in engine.precision_flags)
    strong = FLAGS["--stronglyTyped"].holds(version) and engine.dla_core is None
    return (*(("--stronglyTyped",) if strong else weak), *(() if weak else ("--noTF32",)))


def _shapes(engine: Engine) -> dict[str, str]:
    profile = engine.profile or {}
    return {f"--{which}Shapes": _spec(engine.input, shape) for which, shape in profile.items()}


def _spec(name: str, shape: Sequence[int]) -> str:
    return f"{name}:{'x'.join(map(str, shape))}"


def _device(engine: Engine) -> dict[str, str | None]:
    if engine.dla_core is None:
        return {}
    return {"--useDLACore": str(engine.dla_core), "--allowGPUFallback": None}
