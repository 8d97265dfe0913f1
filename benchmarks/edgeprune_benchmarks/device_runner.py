"""Run one artifact on this device and say, in JSON, what that took.

This file travels alone to devices that have neither torch nor edgeprune: it
needs Python 3.8, numpy and the runtime that the artifact is for, which is why
it is one file. One process loads one artifact, so that two runtimes never spin
against each other and the peak memory belongs to one model.

``serve`` reads one JSON object per line, ``{"id": 1, "do": "block", ...}``, and
answers each with one line, ``{"id": 1, "ok": true, ...}``. Times are raw
nanoseconds of a monotonic clock. Invariant: only answers reach stdout;
whatever a runtime prints goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import platform
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO, Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

if __name__ == "__main__":  # a statistics.py beside this file must not hide Python's own
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != here]

import numpy as np

Answer = Dict[str, Any]
FLAGS = (  # what decides how fast a CPU multiplies
    *("avx", "avx2", "avx512f", "avx512_bf16", "avx512_fp16", "avx512_vnni", "avx_vnni"),
    *("amx_tile", "amx_bf16", "amx_int8", "amx_fp16"),
    *("asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2"),
)
RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "torch", "numpy")
KERNELS = ("f32", "f16", "bf16", "i8", "u8")
COMPUTE = ("Convolution", "Deconvolution", "FullyConnected", "MatMul", "ScaledDotProductAttention")


class RunnerError(Exception):
    """Something that the one who asked can mend; the message says how."""


# ------------------------------------------------------------------ runtimes


@dataclass(frozen=True)
class Model:
    """A loaded artifact; ``infer`` maps a float32 batch (B, C, H, W) to logits (B, K)."""

    infer: Callable[[np.ndarray], np.ndarray]
    shape: Tuple[Optional[int], ...]  # of the input; None where any size goes
    precision: str  # what the layers with weights really run in, "f32" or "f32+i8"
    threads: int  # as the runtime reports it
    version: str


def load_onnxruntime(path: Path, threads: int, precision: str, batch: Optional[int]) -> Model:
    """Load an ONNX file on the CPU; the precision is the one stored in the graph."""
    ort = runtime("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Arm builds may otherwise multiply float32 matrices in bfloat16.
    options.add_session_config_entry("mlas.enable_gemm_fastmath_arm64_bfloat16", "0")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0]
    return Model(
        infer=lambda images: np.asarray(session.run(None, {source.name: images})[0]),
        shape=tuple(size if isinstance(size, int) else None for size in source.shape),
        precision=onnx_precision(path),
        threads=session.get_session_options().intra_op_num_threads,
        version=ort.__version__,
    )


def load_openvino(path: Path, threads: int, precision: str, batch: Optional[int]) -> Model:
    """Compile an IR or ONNX file for the CPU, for one batch size when one is given.

    Left alone, OpenVINO runs float32 models in bfloat16 wherever the CPU can.
    """
    ov = runtime("openvino")
    core = ov.Core()
    graph = core.read_model(str(path))
    shape = graph.input(0).partial_shape
    if batch is not None and shape[0].is_dynamic:
        graph.reshape(ov.PartialShape([batch, *list(shape)[1:]]))
    hints = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
    }
    compiled = core.compile_model(graph, "CPU", hints)
    request = compiled.create_infer_request()

    def infer(images: np.ndarray) -> np.ndarray:
        request.infer([images], share_inputs=True, share_outputs=True)
        return np.asarray(request.get_output_tensor(0).data)

    layers = [op.get_rt_info() for op in compiled.get_runtime_model().get_ops()]
    found = {kernel_type(e) for e in layers if e["layerType"].astype(str) in COMPUTE}
    hint = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return Model(
        infer=infer,
        shape=tuple(
            s.get_length() if s.is_static else None for s in compiled.input(0).partial_shape
        ),
        precision="+".join(sorted(found)) or hint,
        threads=compiled.get_property("INFERENCE_NUM_THREADS"),
        version=ov.__version__,
    )


def kernel_type(layer: Any) -> str:  # noqa: ANN401  a map without types
    """What the kernel of an executed layer computes in.

    Its name ends so, as brgconv_avx512_f32; the precision of the layer itself can be
    that of weights in the file, f16, which are widened when it is loaded.
    """
    end = layer["primitiveType"].astype(str).rpartition("_")[2].lower()
    return str(end if end in KERNELS else layer["runtimePrecision"].astype(str))


def load_torch(path: Path, threads: int, precision: str, batch: Optional[int]) -> Model:
    """Load a program that ``torch.export.save`` wrote. Only for files one trusts."""
    torch = runtime("torch")
    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    torch.set_float32_matmul_precision("highest")
    program = torch.export.load(str(path))
    module = program.module()
    named = {node.name: node for node in program.graph.nodes}
    source = named[program.graph_signature.user_inputs[0]].meta["val"]

    def infer(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(module(torch.from_numpy(images)).numpy())

    types = {str(t.dtype) for t in program.state_dict.values() if t.is_floating_point()}
    short = {"torch.float32": "f32", "torch.float16": "f16", "torch.bfloat16": "bf16"}
    return Model(
        infer=infer,
        shape=tuple(size if isinstance(size, int) else None for size in source.shape),
        precision="+".join(sorted(short.get(name, name) for name in types)) or "f32",
        threads=torch.get_num_threads(),
        version=torch.__version__,
    )


LOADERS = {"onnxruntime": load_onnxruntime, "openvino": load_openvino, "torch": load_torch}
SUFFIXES = {".onnx": "onnxruntime", ".xml": "openvino", ".pt2": "torch"}


def runtime(name: str) -> Any:  # noqa: ANN401  a module without types
    """Import a runtime, which must not happen before the process has its CPUs.

    OpenVINO reports its import over the network unless its telemetry package is
    absent: a clinic's device opens no connection, so here it is absent.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return __import__(name)
    except ImportError as error:
        raise RunnerError(
            "%s cannot be imported here (%s): pip install %s" % (name, error, name)
        ) from error


def onnx_precision(path: Path) -> str:
    """Name the types of an ONNX graph's weights, from the protobuf itself.

    ONNX Runtime does not tell, and devices do not have the onnx package.
    """
    names = {1: "f32", 2: "u8", 3: "i8", 10: "f16", 11: "f64", 16: "bf16"}
    found = set()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for graph in (span for key, span in wire(data, 0, len(data)) if key == 7):
            for tensor in (span for key, span in wire(data, *graph) if key == 5):
                found |= {names.get(span[0], "") for key, span in wire(data, *tensor) if key == 2}
    return "+".join(sorted(found - {""})) or "f32"


def wire(data: mmap.mmap, at: int, end: int) -> Iterator[Tuple[int, Tuple[int, int]]]:
    """Yield (field, (start, end)) of a protobuf message; a varint's span is (value, value)."""

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte, at = data[at], at + 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < end:
        key = varint()
        if key & 7 == 0:
            value = varint()
            yield key >> 3, (value, value)
            continue
        size = varint() if key & 7 == 2 else {1: 8, 5: 4}[key & 7]
        yield key >> 3, (at, at + size)
        at += size


# ------------------------------------------------------------------ this device


def read(path: str) -> str:
    """Text of a small system file, or nothing where there is none."""
    try:
        return Path(path).read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def field(text: str, name: str) -> str:
    """Value of the first ``name : value`` line, or nothing."""
    lines = (line.partition(":") for line in text.splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == name), "")


def cgroup(name_v2: str, name_v1: str) -> List[str]:
    """Texts of one CPU controller file in every cgroup from this process up to the root."""
    texts = []
    for line in read("/proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        root, name = ("", name_v2) if number == "0" else ("/cpu", name_v1)
        if number == "0" or "cpu" in controllers.split(","):
            folders = (Path(path), *Path(path).parents)
            texts += [read("/sys/fs/cgroup%s%s/%s" % (root, folder, name)) for folder in folders]
    return [text for text in texts if text]


def quota() -> Optional[float]:
    """How many CPUs the cgroup grants, or None when it sets no limit."""
    limits = [text.split() for text in cgroup("cpu.max", "cpu.cfs_quota_us") if text[:3] != "max"]
    grants = [int(limit[0]) / float(limit[1] if limit[1:] else 100000) for limit in limits]
    return min((grant for grant in grants if grant > 0), default=None)


def machine() -> Answer:
    """What this device is; nothing that names its owner, its host or its folders."""
    cpuinfo = read("/proc/cpuinfo")
    flags = (field(cpuinfo, "flags") or field(cpuinfo, "Features")).split()
    model = field(cpuinfo, "model name") or read("/proc/device-tree/model") or platform.processor()
    memory = field(read("/proc/meminfo"), "MemTotal").split()
    versions = {}
    for name in RUNTIMES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": model,
        "flags": [flag for flag in FLAGS if flag in flags],
        "cores": os.cpu_count(),
        "governor": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or None,
        "cgroup_cpus": quota(),
        "memory_bytes": int(memory[0]) * 1024 if memory else None,
        "system": "%s %s" % (platform.system(), platform.release()),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "versions": versions,
    }


def state() -> Answer:
    """What this device is doing: counters since it started, to be read before and after."""
    ticks = [int(count) for count in read("/proc/stat").partition("\n")[0].split()[1:9]]
    throttled = [
        field(text.replace(" ", ":"), "nr_throttled") for text in cgroup("cpu.stat", "cpu.stat")
    ]
    heat = [read(str(p)) for p in Path("/sys/class/thermal").glob("thermal_zone*/temp")]
    hot = Path("/sys/devices/system/cpu").glob("cpu*/thermal_throttle/core_throttle_count")
    lines = read("/proc/cpuinfo").splitlines()
    clocks = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return {
        "ticks": sum(ticks) if ticks else None,
        "busy_ticks": sum(ticks) - ticks[3] - ticks[4] - ticks[7] if ticks else None,
        "steal_ticks": ticks[7] if ticks else None,
        "tick_s": 1.0 / os.sysconf("SC_CLK_TCK") if ticks else None,
        "process_s": time.process_time(),
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "throttled": sum(int(count) for count in throttled if count)
        + sum(int(read(str(path)) or 0) for path in hot),
        "mhz": [min(clocks), max(clocks)] if clocks else None,
        "celsius": max((int(t) / 1000 for t in heat if t.lstrip("-").isdigit()), default=None),
    }


def memory() -> Answer:
    """Peak resident memory of this process.

    getrusage's figure would include whatever the parent held when it forked.
    """
    peak = field(read("/proc/self/status"), "VmHWM").split()
    if peak:
        return {"peak_bytes": int(peak[0]) * 1024, "peak_reason": None}
    return {"peak_bytes": None, "peak_reason": "this system has no VmHWM in /proc/self/status"}


def pin(threads: int, cpus: Optional[Sequence[int]]) -> Optional[List[int]]:
    """Keep this process on the named CPUs, or on the fastest, one per physical core."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    base = "/sys/devices/system/cpu/cpu%d/"

    def rank(cpu: int) -> Tuple[int, int, int]:
        siblings = read(base % cpu + "topology/thread_siblings_list").replace("-", ",").split(",")
        speed = int(read(base % cpu + "cpufreq/cpuinfo_max_freq") or 0)
        return (int(siblings[0] not in ("", str(cpu))), -speed, -cpu)  # CPU 0 serves interrupts

    allowed = sorted(os.sched_getaffinity(0), key=rank)
    try:
        os.sched_setaffinity(0, cpus or allowed[:threads])
    except OSError as error:
        raise RunnerError(
            "CPUs %s cannot be used here, these can: %s" % (cpus, sorted(allowed))
        ) from error
    return sorted(os.sched_getaffinity(0))


# ------------------------------------------------------------------ commands


class Runner:
    """One artifact and what can be asked about it."""

    def __init__(self) -> None:
        """Start with nothing loaded."""
        self.model: Optional[Model] = None
        self.batches: List[np.ndarray] = []

    def loaded(self) -> Model:
        """Return the model, which has to be loaded first."""
        if self.model is None:
            raise RunnerError("no artifact is loaded yet: send 'load' first")
        return self.model

    def load(
        self,
        artifact: str,
        *,
        backend: Optional[str] = None,
        threads: int = 1,
        cpus: Optional[List[int]] = None,
        precision: str = "f32",
        batch: Optional[int] = None,
    ) -> Answer:
        """Load an artifact, once in a process's life, and read back how it will run."""
        path = Path(artifact)
        if self.model is not None:
            raise RunnerError("this process has loaded an artifact already: start another")
        if not path.is_file():
            raise RunnerError("there is no file %s" % path)
        name = backend or SUFFIXES.get(path.suffix.lower())
        if name not in LOADERS:
            known = "%s (%s)" % (", ".join(LOADERS), " ".join(SUFFIXES))
            raise RunnerError(
                "this version has no back end for %s: it has %s" % (name or path.name, known)
            )
        used = pin(threads, cpus)
        start = time.perf_counter_ns()
        runtime(name)
        imported = time.perf_counter_ns()
        self.model = LOADERS[name](path, threads, precision, batch)
        return {
            "backend": name,
            "version": self.model.version,
            "precision": self.model.precision,
            "threads": self.model.threads,
            "cpus": used,
            "shape": self.model.shape,
            "import_ns": imported - start,
            "load_ns": time.perf_counter_ns() - imported,
            "peak_bytes": memory()["peak_bytes"],
        }

    def prepare(self, inputs: Optional[str], batch: int) -> None:
        """Read the images (N, C, H, W) that timed inferences take in turns, or make noise."""
        shape = self.loaded().shape
        if shape[0] not in (None, batch):
            raise RunnerError("this artifact takes batches of %d, not of %d" % (shape[0], batch))
        size = [length for length in shape[1:] if length is not None]
        if inputs is None and len(size) != 3:
            raise RunnerError("this artifact takes images of any size: give an .npy of some")
        noise = np.random.default_rng(0)
        images = (
            read_images(inputs) if inputs else noise.standard_normal((batch, *size), np.float32)
        )
        starts = range(0, max(len(images) - batch + 1, 1), batch)
        self.batches = [padded(images[at : at + batch], batch) for at in starts]

    def warmup(
        self,
        inputs: Optional[str] = None,
        batch: int = 1,
        seconds: float = 0.5,
        limit: float = 10.0,
    ) -> Answer:
        """Run until two blocks in a row have medians within 2 %, or the limit is over."""
        self.prepare(inputs, batch)
        end = time.perf_counter() + limit
        first = self.block(0.0, 1, settle=0.0)["ns"][0]
        medians: List[float] = []
        while True:
            medians.append(float(np.median(self.block(seconds, 5, settle=0.0)["ns"])))
            steady = len(medians) > 1 and abs(medians[-1] / medians[-2] - 1) <= 0.02
            if steady or time.perf_counter() > end:
                return {"first_ns": first, "steady": steady, "warmup_ns": medians}

    def block(self, seconds: float, iterations: int, settle: float = 0.03) -> Answer:
        """Time single inferences for at least so long and at least so many.

        The other model ran just before and left its data in the caches: what
        happens in the first ``settle`` seconds is not counted.
        """
        infer, batches = self.loaded().infer, self.batches
        samples: List[int] = []
        if not batches:
            raise RunnerError("there are no images yet: send 'warmup' first")
        clock = time.perf_counter_ns
        begin = clock()
        while clock() - begin < settle * 1e9:
            infer(batches[0])
        end = clock() + int(seconds * 1e9)
        while len(samples) < iterations or clock() < end:
            images = batches[len(samples) % len(batches)]
            start = clock()
            infer(images)
            samples.append(clock() - start)
        return {"ns": samples}

    def predict(self, inputs: str, outputs: str, batch: int = 1) -> Answer:
        """Write the outputs (N, K) for images (N, C, H, W), both as .npy."""
        model, images = self.loaded(), read_images(inputs)
        size = model.shape[0] or batch
        results = []
        for at in range(0, len(images), size):
            part = images[at : at + size]
            full = padded(part, size) if model.shape[0] else np.ascontiguousarray(part)
            results.append(np.array(model.infer(full)[: len(part)]))
        target = Path(outputs)
        partial = target.with_name(target.name + ".partial")
        with partial.open("wb") as file:
            np.save(file, np.concatenate(results))
        partial.replace(target)
        return {"images": len(images)}


def read_images(path: str) -> np.ndarray:
    """Images (N, C, H, W) as float32 from an .npy file that holds no Python objects."""
    try:
        images = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise RunnerError("%s cannot be read as .npy: %s" % (path, error)) from error
    if images.ndim != 4 or not len(images) or images.dtype != np.float32:
        seen = "%s of shape %s" % (images.dtype, images.shape)
        raise RunnerError("%s holds %s; float32 (N, C, H, W) is wanted" % (path, seen))
    return np.ascontiguousarray(images)


def padded(images: np.ndarray, batch: int) -> np.ndarray:
    """Repeat images until they fill a batch."""
    return np.ascontiguousarray(np.resize(images, (batch, *images.shape[1:])))


def answer(runner: Runner, message: Answer) -> Answer:
    """Carry out one command; a failure is an answer too."""
    commands: Dict[Any, Callable[..., Answer]] = {
        "load": runner.load,
        "warmup": runner.warmup,
        "block": runner.block,
        "predict": runner.predict,
        "memory": memory,
        "state": state,
        "info": lambda: {"machine": machine(), "state": state()},
        "quit": dict,
    }
    name = message.get("do")
    if name not in commands:
        known = ", ".join(commands)
        return {"ok": False, "error": "there is no command %r; there are %s" % (name, known)}
    words = {key: value for key, value in message.items() if key not in ("id", "do")}
    try:
        return {"ok": True, **commands[name](**words)}
    except RunnerError as error:
        return {"ok": False, "error": str(error)}
    except Exception as error:  # a runtime may raise anything
        traceback.print_exc()
        return {"ok": False, "error": "%s: %s" % (type(error).__name__, error)}


def serve(commands: IO[str], answers: IO[str]) -> None:
    """Answer commands until ``quit`` or until nobody is there to ask."""
    runner = Runner()
    for line in commands:
        try:
            message = dict(json.loads(line))
        except (TypeError, ValueError) as error:
            message = {"do": "a line that is no JSON object: %s" % error}
        reply = {"id": message.get("id"), **answer(runner, message)}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()
        if message.get("do") == "quit":
            return


# ------------------------------------------------------------------ as a program


def loading(options: argparse.Namespace) -> Answer:
    """Pick the options that say how to load an artifact."""
    return {name: getattr(options, name) for name in ("backend", "threads", "precision")}


def benchmark(options: argparse.Namespace) -> Answer:
    """Load, warm up and time one artifact."""
    runner = Runner()
    report = runner.load(options.artifact, batch=options.batch, **loading(options))
    report.update(runner.warmup(options.inputs, options.batch))
    times = np.asarray(runner.block(options.seconds, 10)["ns"]) / 1e6
    report.update(median_ms=float(np.median(times)), p90_ms=float(np.percentile(times, 90)))
    report.update(inferences=len(times), **memory())
    return report


def predict(options: argparse.Namespace) -> Answer:
    """Run an .npy of prepared images through an artifact."""
    runner = Runner()
    runner.load(options.artifact, **loading(options))
    return runner.predict(options.inputs, options.outputs, options.batch)


def build(rest: List[str]) -> int:
    """Build and prove the TensorRT engine by the recipe beside this file."""
    recipes = sorted(Path(__file__).resolve().parent.glob("artifacts/tensorrt*/run.py"))
    if not recipes:
        raise RunnerError("there is no recipe for TensorRT in artifacts/ beside this file")
    commands = [[sys.executable, str(recipe), "build", *rest] for recipe in recipes]
    return max(subprocess.call(command) for command in commands)


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    top = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog="example: python device_runner.py benchmark model.onnx --threads 2 --seconds 5",
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    verbs.add_parser("info", help="what this device is and which runtimes it has")
    verbs.add_parser("serve", help="answer JSON commands, one a line, on stdin and stdout")
    verbs.add_parser(
        "build",
        add_help=False,  # the recipe's own run.py has help of its own
        help="build the TensorRT engine of a bundle, and prove it; see build --help",
    )
    timed = verbs.add_parser("benchmark", help="time an artifact: .onnx, .xml (OpenVINO) or .pt2")
    timed.add_argument("--seconds", type=float, default=5.0, help="time for so long (default 5)")
    timed.add_argument("--inputs", metavar="NPY", help="images (N, C, H, W); noise if left out")
    shown = verbs.add_parser("predict", help="write an artifact's outputs for an .npy of images")
    for verb in (timed, shown):
        verb.add_argument("artifact", help="the file to load, prepared for one runtime")
        verb.add_argument("--backend", choices=list(LOADERS), help="default: by the file's suffix")
        verb.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
        verb.add_argument("--batch", type=int, default=1, help="images per inference (default 1)")
        verb.add_argument("--precision", default="f32", help="of OpenVINO: f32, bf16 or f16")
    shown.add_argument("inputs", help=".npy, float32 (N, C, H, W), already preprocessed")
    shown.add_argument("outputs", help=".npy to write, (N, K)")
    return top


def main() -> int:
    """Serve, or do one thing and print it as JSON."""
    options, rest = parser().parse_known_args()
    if rest and options.verb != "build":
        parser().error("unrecognized arguments: %s" % " ".join(rest))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # runtimes print from C++ too, past sys.stdout
    if options.verb == "serve":
        serve(sys.stdin, answers)
        return 0
    verbs = {"benchmark": benchmark, "predict": predict}
    try:
        if options.verb == "build":
            return build(rest)
        report = verbs[options.verb](options) if options.verb in verbs else machine()
    except RunnerError as error:
        print("device_runner: %s" % error, file=sys.stderr)
        return 1
    print(json.dumps(report, indent=2), file=answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
