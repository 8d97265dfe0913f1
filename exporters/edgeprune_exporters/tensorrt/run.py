"""Build a TensorRT engine from the recipe beside this file, and prove it.

An engine runs only on the kind of device that built it, so the recipe travels,
and this file with it: it needs Python 3.8, numpy and the device's own TensorRT
(8.5 or newer). ``build`` writes ``engine.plan`` and its proof, ``engine.json``.
Invariant: no engine.plan without its proof; what failed its proof is not kept.

TensorRT's names are looked up where they are used, and its numbers never
assumed: flags were renumbered in 8.6, 10 and 11, and 11 has none for precision.
So precision lies in the graph, and is read back from the engine.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import Any, Dict, Iterator

import numpy as np

Answer = Dict[str, Any]  # JSON values

RECIPE, PLAN, PROOF = "recipe.json", "engine.plan", "engine.json"
RECIPE_FORMAT, PROOF_FORMAT = "edgeprune-tensorrt-recipe", "edgeprune-tensorrt-engine"
FIELDS = (
    *("target", "onnx", "precision", "flags", "input", "output", "profile", "workspace_mb"),
    *("dla_core", "tensorrt", "golden", "files"),
)
GOLDEN = ("inputs", "outputs", "tolerance", "agreement")
SAME = ("tensorrt", "gpu", "compute_capability", "l4t")  # what an engine is tied to
TYPES = {"int8": r"\bint8\b", "fp16": r"\b(fp16|half)\b", "fp32": r"\b(fp32|float)\b"}
OPAQUE = "opaque"
MOVES = {  # layers that move or convert: their types say nothing about arithmetic
    *("cast", "concatenation", "constant", "copy", "dequantize", "gather", "move", "noop"),
    *("quantize", "reformat", "shape", "shuffle", "signal", "slice", "wait"),
}


class RunError(Exception):
    """Something that the one who asked can mend; the message says how."""

    code = 1  # exit codes are those of edgeprune


class RecipeError(RunError):
    """A recipe, an option or a TensorRT that do not go together."""

    code = 2


class ProofError(RunError):
    """A file or an engine that is not what it should be."""

    code = 5


def tell(message: str) -> None:
    """Say how far the work is; standard output is for the answer."""
    print("run.py: " + message, file=sys.stderr, flush=True)


@contextlib.contextmanager
def telling(what: str, every: float = 20.0) -> Iterator[None]:
    """Say that something goes on, for as long as it does."""
    over, start = threading.Event(), time.monotonic()

    def repeat() -> None:
        while not over.wait(every):
            tell("%s: %.0f s so far" % (what, time.monotonic() - start))

    tell(what)
    threading.Thread(target=repeat, daemon=True).start()
    try:
        yield
    finally:
        over.set()


# ------------------------------------------------------------------ files


def digest(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            sha.update(block)
    return sha.hexdigest()


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: a rename within one folder happened or did not."""
    handle, name = tempfile.mkstemp(dir=str(path.parent), prefix="." + path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(handle)  # devices lose power
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise


def read_json(path: Path, kind: str) -> Answer:
    """Read one of our documents, of version 1."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError("%s cannot be read: %s" % (path.name, error.strerror)) from None
    except ValueError as error:
        raise RecipeError("%s is not JSON: %s" % (path.name, error)) from None
    head = document if isinstance(document, dict) else {}
    if (head.get("format"), head.get("version")) != (kind, 1):
        raise RecipeError("%s is no %s of version 1" % (path.name, kind))
    return head


def read_recipe(folder: Path) -> Answer:
    """Read the recipe, and check that its files are those that it was written with."""
    recipe = read_json(folder / RECIPE, RECIPE_FORMAT)
    absent = [name for name in FIELDS if name not in recipe]
    absent += [name for name in GOLDEN if name not in recipe.get("golden", ())]
    if absent:
        raise RecipeError("%s lacks '%s': export again" % (RECIPE, absent[0]))
    files = recipe["files"]
    for name in (recipe["onnx"], recipe["golden"]["inputs"], recipe["golden"]["outputs"], *files):
        if name not in files or Path(name).name != name:
            raise RecipeError("%s names '%s' without a hash, or elsewhere" % (RECIPE, name))
    for name in sorted(files):
        if not (folder / name).is_file():
            raise ProofError("%s is missing: copy the whole folder again" % name)
        if digest(folder / name) != files[name]:
            reason = "is not the file of the recipe (its SHA-256 differs)"
            raise ProofError("%s %s: copy the whole folder again" % (name, reason))
    return recipe


# ------------------------------------------------------------------ this device


class Cuda:
    """What one inference needs of the CUDA runtime; every call is checked."""

    HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2  # cudaMemcpyKind
    MAJOR, MINOR = 75, 76  # cudaDevAttrComputeCapability…

    def __init__(self) -> None:
        """Load the newest runtime that the driver takes: pip's, the system's or CUDA's own."""
        names = ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")
        places = [Path(entry).glob("nvidia/*/lib/" + n) for n in names for entry in sys.path]
        found = [str(path) for place in places for path in place]
        reasons = []
        for name in (*found, *names, "/usr/local/cuda/lib64/libcudart.so"):
            try:
                self.library = ctypes.CDLL(name)
                self.library.cudaGetErrorString.restype = ctypes.c_char_p
                self.call("cudaFree", None)  # frees nothing, but starts the device
            except OSError:
                continue
            except RunError as error:
                reasons.append(str(error))
            else:
                return
        seen = "; ".join(reasons) or "there is no libcudart"
        raise RunError("no CUDA device can be used here: %s" % seen)

    def call(self, name: str, *values: Any) -> None:  # noqa: ANN401 - any of C's types
        """Call a function of the runtime."""
        status = getattr(self.library, name)(*values)
        if status:
            text = self.library.cudaGetErrorString(status).decode(errors="replace")
            raise RunError("%s: %s" % (name, text))

    def ask(self, kind: Any, name: str, *values: Any) -> int:  # noqa: ANN401
        """Call a function that answers through its first argument, which is of this kind."""
        answer = kind()
        self.call(name, ctypes.byref(answer), *values)
        return int(answer.value or 0)

    def copy(self, target: int, source: int, size: int, kind: int) -> None:
        """Copy bytes. CUDA's default stream, used here, waits for streams and they for it."""
        addresses = (ctypes.c_void_p(target), ctypes.c_void_p(source))
        self.call("cudaMemcpy", *addresses, ctypes.c_size_t(size), kind)

    def facts(self) -> Answer:
        """Name the device and the versions."""
        properties = ctypes.create_string_buffer(1 << 14)  # a struct that starts with the name
        self.call("cudaGetDeviceProperties", properties, 0)
        runtime = self.ask(ctypes.c_int, "cudaRuntimeGetVersion")
        driver = self.ask(ctypes.c_int, "cudaDriverGetVersion")
        major = self.ask(ctypes.c_int, "cudaDeviceGetAttribute", self.MAJOR, 0)
        minor = self.ask(ctypes.c_int, "cudaDeviceGetAttribute", self.MINOR, 0)
        return {
            "gpu": properties.value.decode(errors="replace"),
            "compute_capability": "%d.%d" % (major, minor),
            "cuda_runtime": "%d.%d" % (runtime // 1000, runtime % 1000 // 10),
            "cuda_driver": "%d.%d" % (driver // 1000, driver % 1000 // 10),
        }


def read(path: str) -> str:
    """Text of a small system file, or nothing where there is none."""
    try:
        return Path(path).read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def l4t(text: str) -> str | None:
    """Release of Jetson's Linux, from the text of /etc/nv_tegra_release."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return "%s.%s" % found.groups() if found else None


def power_mode() -> str | None:
    """Name of the power mode, where there is an nvpmodel to ask: on a Jetson."""
    program = shutil.which("nvpmodel") or "/usr/sbin/nvpmodel"
    try:
        text = subprocess.check_output([program, "-q"], stderr=subprocess.DEVNULL, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"Power Mode: *(\S+)", text.decode(errors="replace"))
    return found.group(1) if found else None


def system() -> Answer:
    """What this device is; nothing that names its owner, its host or its folders."""
    return {
        "module": read("/proc/device-tree/model") or None,
        "l4t": l4t(read("/etc/nv_tegra_release")),
        "power_mode": power_mode(),
        "system": "%s %s" % (platform.system(), platform.release()),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


# ------------------------------------------------------------------ running an engine


def import_tensorrt() -> Any:  # noqa: ANN401 - it has no types
    """Import TensorRT."""
    try:
        return import_module("tensorrt")
    except ImportError as error:
        advice = "on a Jetson, install JetPack's python3-libnvinfer and use the system's python3"
        raise RunError("this Python cannot import TensorRT (%s): %s" % (error, advice)) from None


def new_log(trt: Any) -> Any:  # noqa: ANN401
    """Make a logger that keeps errors and warnings; its base exists only after the import."""
    severity = trt.ILogger.Severity

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind11 takes no object that skipped this
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, level: Any, message: str) -> None:  # noqa: ANN401
            if level in (severity.ERROR, severity.INTERNAL_ERROR):
                self.errors.append(message)
            elif level == severity.WARNING and message not in self.warnings:
                self.warnings.append(message)

        def error(self, what: str) -> RunError:
            said = "; ".join(self.errors[-3:]) or "TensorRT gives no reason"
            return RunError("%s: %s" % (what, " ".join(said.split())))

    return Log()


class Engine:
    """An engine on the GPU: float32 images (B, C, H, W) in, float32 logits (B, K) out."""

    def __init__(self, plan: bytes, dla_core: int | None = None) -> None:
        """Load a plan; what of it runs on a deep learning accelerator runs on this core."""
        self.trt, self.cuda = import_tensorrt(), Cuda()
        self.log = new_log(self.trt)
        self.memory: Dict[str, tuple[int, int]] = {}  # tensor → address and bytes
        self.trt.init_libnvinfer_plugins(self.log, "")
        self.runtime: Any = self.trt.Runtime(self.log)
        if dla_core is not None:
            self.runtime.DLA_core = dla_core
        self.engine: Any = self.runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            raise self.log.error("the engine cannot be loaded")
        self.context: Any = self.engine.create_execution_context()
        if self.context is None:
            raise self.log.error("the engine finds no memory to run in")
        self.input = self.only(self.trt.TensorIOMode.INPUT)
        self.output = self.only(self.trt.TensorIOMode.OUTPUT)
        self.stream = self.cuda.ask(ctypes.c_void_p, "cudaStreamCreate")

    @classmethod
    def load(cls, path: Path, dla_core: int | None = None) -> Engine:
        """Load a file that this TensorRT built on this kind of device."""
        return cls(path.read_bytes(), dla_core)

    def only(self, mode: Any) -> str:  # noqa: ANN401
        """Name the one input or output, which has to be in float32."""
        every = [str(self.engine.get_tensor_name(n)) for n in range(self.engine.num_io_tensors)]
        names = [name for name in every if self.engine.get_tensor_mode(name) == mode]
        types = [self.engine.get_tensor_dtype(name) for name in names]
        if types != [self.trt.DataType.FLOAT]:
            raise ProofError("wanted is one %s in float32; found: %s %s" % (mode, names, types))
        return names[0]

    def batches(self) -> tuple[int, int]:
        """The smallest and the largest batch that the engine takes."""
        size = self.engine.get_tensor_shape(self.input)[0]
        if size >= 0:
            return size, size
        least, _, most = self.engine.get_tensor_profile_shape(self.input, 0)
        return least[0], most[0]

    def bind(self, name: str, size: int) -> int:
        """Give a tensor memory on the device; return its address."""
        address, held = self.memory.get(name, (0, -1))
        if held < size:
            self.memory.pop(name, None)
            self.cuda.call("cudaFree", ctypes.c_void_p(address))
            address = self.cuda.ask(ctypes.c_void_p, "cudaMalloc", ctypes.c_size_t(size))
            self.memory[name] = (address, size)
        if not self.context.set_tensor_address(name, address):
            raise self.log.error("tensor '%s' takes no memory" % name)
        return address

    def infer(self, images: np.ndarray) -> np.ndarray:
        """Return the logits (B, K) of images (B, C, H, W)."""
        images = np.ascontiguousarray(images, np.float32)
        if not self.context.set_input_shape(self.input, images.shape):
            raise self.log.error("the engine takes no images of shape %s" % (images.shape,))
        logits = np.empty(tuple(self.context.get_tensor_shape(self.output)), np.float32)
        source = self.bind(self.input, images.nbytes)
        target = self.bind(self.output, logits.nbytes)
        self.cuda.copy(source, images.ctypes.data, images.nbytes, Cuda.HOST_TO_DEVICE)
        if not self.context.execute_async_v3(self.stream):
            raise self.log.error("the engine cannot run")
        self.cuda.call("cudaStreamSynchronize", ctypes.c_void_p(self.stream))
        self.cuda.copy(logits.ctypes.data, target, logits.nbytes, Cuda.DEVICE_TO_HOST)
        return logits

    def layers(self) -> list[Answer]:
        """What the inspector tells of every layer."""
        inspector = self.engine.create_engine_inspector()
        text = inspector.get_engine_information(self.trt.LayerInformationFormat.JSON)
        try:
            told = json.loads(text, strict=False)["Layers"]  # names hold control characters
        except (ValueError, KeyError, TypeError) as error:
            raise ProofError("the engine's inspector lists no layers: %r" % error) from None
        if not told or not all(isinstance(layer, dict) for layer in told):
            raise ProofError("the engine's inspector tells no types")
        return [described(layer) for layer in told]

    def close(self) -> None:
        """Give everything back, the engine before what it lives in."""
        for address, _ in self.memory.values():
            self.cuda.call("cudaFree", ctypes.c_void_p(address))
        self.memory.clear()
        self.cuda.call("cudaStreamDestroy", ctypes.c_void_p(self.stream))
        self.context = None
        self.engine = None
        self.runtime = None


def described(layer: Answer) -> Answer:
    """Sum up one layer of the inspector's JSON; ``precision`` is None where nothing is computed.

    A layer computes in the type of its weights, where that is told, or else in the narrowest
    type that it reads: a convolution in half precision may write float32. A block of Myelin's,
    which older inspectors do not open, is opaque when it reads float32: it may cast inside.
    """
    name, kind = str(layer.get("Name", "")), str(layer.get("LayerType", "")).lower()
    texts = [str(tensor.get("Format/Datatype", "")) for tensor in layer.get("Inputs", ())]
    weights = layer.get("Weights")
    if isinstance(weights, dict) and "Type" in weights:
        texts = [str(weights["Type"])]
    found = [each for each, form in TYPES.items() if re.search(form, " ".join(texts), re.I)]
    myelin = kind.startswith("myelin")
    if myelin and found[:1] in ([], ["fp32"]):
        found = [OPAQUE]
    moves = kind in MOVES or re.search(r" (to|from) nvm$| copy finish$", name)
    foreign = name.startswith("{ForeignNode[") and not myelin  # Myelin's run on the GPU
    return {
        "name": name,
        "type": kind,
        "precision": found[0] if found and not moves else None,
        "dla": foreign or kind.startswith("dla"),
    }


# ------------------------------------------------------------------ building one


def numbers(version: str) -> tuple[int, ...]:
    """Major and minor number of a version."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


class Build:
    """One build: the recipe, what the command line changes of it, and TensorRT."""

    def __init__(self, folder: Path, recipe: Answer, options: argparse.Namespace) -> None:
        """Refuse what no build could do, before any work is done."""
        self.recipe, self.onnx, self.level = recipe, folder / recipe["onnx"], options.level
        self.workspace = options.workspace or recipe["workspace_mb"]
        self.dla = recipe["dla_core"] if options.dla is None else options.dla
        self.trt = import_tensorrt()
        self.version, self.log = str(self.trt.__version__), new_log(self.trt)
        self.parser: Any = None
        self.check()
        # Typed graphs on accelerators are documented from 11 on, where the weak flag FP16 ended.
        weak = self.dla is not None and hasattr(self.trt.BuilderFlag, "FP16")
        self.typed = hasattr(self.trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED") and not weak
        self.flags: list[str] = [] if self.typed else recipe["flags"]
        if not self.typed and recipe["precision"] not in ("fp32", *map(str.lower, self.flags)):
            seen = (self.version, recipe["precision"])
            raise RecipeError("TensorRT %s needs a flag for %s; the recipe has none" % seen)

    def check(self) -> None:
        """Refuse another TensorRT than the graph was written for, and what no DLA can do."""
        limits, precision = self.recipe["tensorrt"], self.recipe["precision"]
        least, below = limits.get("least") or "0", limits.get("below")
        if not numbers(least) <= numbers(self.version) < numbers(below or "1000"):
            seen = (least, " and older than " + below if below else "", self.version)
            text = "the recipe is for TensorRT %s and newer%s; here is %s: export for this one"
            raise RecipeError(text % seen)
        if numbers(limits.get("expected") or self.version) != numbers(self.version):
            tell("expected was TensorRT %s; here is %s" % (limits["expected"], self.version))
        if self.dla is not None and precision != "fp16":
            raise RecipeError("a DLA is used in fp16 only; the recipe is in %s" % precision)
        if self.dla is not None and self.recipe["profile"] is not None:
            raise RecipeError("a DLA takes one batch size only: export with --batch")

    def parsed(self, builder: Any) -> Any:  # noqa: ANN401
        """Read the graph into a network, and check that it takes what the recipe says."""
        kinds, flags = self.trt.NetworkDefinitionCreationFlag, 0
        if numbers(self.version) < (10, 0):
            flags |= 1 << int(kinds.EXPLICIT_BATCH)
        if self.typed:
            flags |= 1 << int(kinds.STRONGLY_TYPED)
        network = builder.create_network(flags)
        parser = self.parser = self.trt.OnnxParser(network, self.log)  # holds the weights
        if not parser.parse_from_file(str(self.onnx)):
            self.log.errors += [parser.get_error(n).desc() for n in range(parser.num_errors)]
            raise self.log.error("TensorRT %s cannot read %s" % (self.version, self.onnx.name))
        ends = [network.get_input(n) for n in range(network.num_inputs)]
        ends += [network.get_output(n) for n in range(network.num_outputs)]
        names = [str(end.name) for end in ends]
        if names != [self.recipe["input"], self.recipe["output"]]:
            raise RecipeError("%s has other tensors than the recipe: %s" % (self.onnx.name, names))
        size, profile = ends[0].shape[0], self.recipe["profile"]
        if (size == -1) != (profile is not None):
            wanted = "batches of one size" if profile is None else "any batch"
            raise RecipeError("the recipe wants %s; the graph's batch is %d" % (wanted, size))
        return network

    def configured(self, builder: Any) -> Any:  # noqa: ANN401
        """Say how the network is to be built."""
        trt, config = self.trt, builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or types are not told
        if self.workspace:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, self.workspace << 20)
        if self.level is not None:
            if not hasattr(config, "builder_optimization_level"):
                raise RecipeError("TensorRT %s has no --level" % self.version)
            config.builder_optimization_level = self.level
        if self.recipe["precision"] == "fp32":
            config.clear_flag(trt.BuilderFlag.TF32)  # which rounds as coarsely as fp16
        for name in self.flags:
            if not hasattr(trt.BuilderFlag, name):
                raise RecipeError("TensorRT %s has no flag %s" % (self.version, name))
            config.set_flag(getattr(trt.BuilderFlag, name))
        if self.recipe["profile"] is not None:
            shapes = [tuple(self.recipe["profile"][name]) for name in ("min", "opt", "max")]
            profile = builder.create_optimization_profile()
            profile.set_shape(self.recipe["input"], *shapes)
            if config.add_optimization_profile(profile) < 0:
                raise self.log.error("TensorRT refuses the profile %s" % shapes)
        if self.dla is not None:
            self.use_dla(builder, config)
        return config

    def use_dla(self, builder: Any, config: Any) -> None:  # noqa: ANN401
        """Send to the accelerator what it can run, and the rest to the GPU."""
        if self.dla not in range(builder.num_DLA_cores):
            raise RecipeError(
                "DLA core %d was asked for, and TensorRT %s finds %d cores here (not every module "
                "has some, and not every TensorRT knows them)"
                % (self.dla, self.version, builder.num_DLA_cores)
            )
        config.default_device_type = self.trt.DeviceType.DLA
        config.DLA_core = self.dla
        config.set_flag(self.trt.BuilderFlag.GPU_FALLBACK)

    def run(self, timings: Path) -> bytes:
        """Return the plan. Kernels' timings are kept in a file: the next build is quick."""
        self.trt.init_libnvinfer_plugins(self.log, "")
        builder = self.trt.Builder(self.log)
        network = self.parsed(builder)
        config = self.configured(builder)
        cache = config.create_timing_cache(timings.read_bytes() if timings.is_file() else b"")
        if cache is None or not config.set_timing_cache(cache, False):
            tell("%s cannot be used: timing anew" % timings.name)
            config.set_timing_cache(config.create_timing_cache(b""), False)
        with telling("building the engine: TensorRT tries kernels, which takes minutes"):
            plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise self.log.error("TensorRT %s cannot build the engine" % self.version)
        write(timings, bytes(config.get_timing_cache().serialize()))
        return bytes(plan)


# ------------------------------------------------------------------ proof


def precisions(layers: list[Answer], wanted: str, bound: bool) -> Answer:
    """Count the layers that compute by precision; the narrowest has to be the one asked for.

    Where the engine is ``bound`` to the types of the graph, opaque layers may hold it.
    """
    computing = [layer["precision"] for layer in layers if layer["precision"]]
    counts = {name: computing.count(name) for name in (*TYPES, OPAQUE) if name in computing}
    narrower = list(TYPES)[: list(TYPES).index(wanted)]
    found = wanted in counts or (bound and OPAQUE in counts)
    if not found or any(name in counts for name in narrower):
        seen = ", ".join("%d in %s" % (count, name) for name, count in counts.items())
        text = "%s was asked for, and the layers compute: %s; the engine was not kept"
        raise ProofError(text % (wanted, seen or "in no type that the inspector tells"))
    counts.setdefault(wanted, 0)
    return {
        name: {"layers": count, "share": count / len(computing)} for name, count in counts.items()
    }


def on_dla(layers: list[Answer], core: int | None) -> Answer | None:
    """Count the parts that run on the accelerator; each is many of the model's layers."""
    if core is None:
        return None
    parts = sum(layer["dla"] for layer in layers)
    others = sum(bool(layer["precision"]) for layer in layers if not layer["dla"])
    if not parts:
        raise ProofError("no layer runs on the DLA that was asked for; the engine was not kept")
    return {"core": core, "dla": parts, "gpu": others, "share": parts / (parts + others)}


def parity(engine: Engine, folder: Path, golden: Answer) -> Answer:
    """Run the golden images at several batch sizes, and compare with the model's own logits."""
    files = [folder / golden[name] for name in ("inputs", "outputs")]
    images, wanted = (np.load(file, allow_pickle=False) for file in files)
    least, most = engine.batches()
    batches = []
    for size in sorted({least, most, *(n for n in (1, 3) if least <= n <= most)}):
        tell("comparing with the model at batch %d" % size)
        rows = np.arange(-(-len(images) // size) * size) % len(images)  # whole batches
        found = [engine.infer(images[part]) for part in np.split(rows, len(rows) // size)]
        logits = np.concatenate(found)[: len(images)]
        batches.append({"batch": size, **distance(logits, wanted, golden.get("multi_label"))})
        require(batches[-1], golden)
    allowed = {name: golden[name] for name in ("tolerance", "agreement")}
    return {"images": len(images), **allowed, "batches": batches}


def distance(found: np.ndarray, wanted: np.ndarray, multi_label: bool | None) -> Answer:
    """Errors of logits (N, K), relative to the largest in absolute value; null is infinite.

    Agreement is the share of images that get the model's class, or of signs that are the
    model's where an image may have several labels.
    """
    if found.shape != wanted.shape:
        shapes = (found.shape, wanted.shape)
        raise ProofError("the engine gives logits of shape %s, the model of %s" % shapes)
    error = np.abs(found.astype(np.float64) - wanted)
    known = bool(np.isfinite(error).all())
    same = (found > 0) == (wanted > 0) if multi_label else found.argmax(1) == wanted.argmax(1)
    return {
        "max_abs": float(error.max()) if known else None,
        "mean_abs": float(error.mean()) if known else None,
        "max_rel": float(error.max() / max(np.abs(wanted).max(), 1e-12)) if known else None,
        "agreement": float(np.mean(same)),
    }


def require(error: Answer, golden: Answer) -> None:
    """Raise where an error is larger than the recipe allows."""
    relative, same = error["max_rel"], error["agreement"]
    if relative is None or relative > golden["tolerance"] or same < golden["agreement"]:
        size = "infinite" if relative is None else "%.1e" % relative
        raise ProofError(
            "the engine is not the model: at batch %d its error relative to the largest logit is "
            "%s (%.1e is allowed), and %.1f %% of its calls are the model's (%.1f %% is wanted): "
            "build with another --level, or export at a higher precision"
            % (error["batch"], size, golden["tolerance"], 100 * same, 100 * golden["agreement"])
        )


# ------------------------------------------------------------------ as a program


def build(folder: Path, options: argparse.Namespace) -> Answer:
    """Build the engine and prove it; nothing is written that is not proven."""
    for name in (PLAN, PROOF):
        (folder / name).unlink(missing_ok=True)
    recipe, start = read_recipe(folder), time.monotonic()
    work = Build(folder, recipe, options)
    device = {"tensorrt": work.version, **Cuda().facts(), **system()}
    timings = "timing-%(gpu)s-sm%(compute_capability)s-trt%(tensorrt)s.cache" % device
    plan = work.run(folder / re.sub(r"[^\w.]+", "-", timings))
    built = time.monotonic()
    with contextlib.closing(Engine(plan, work.dla)) as engine:
        layers = engine.layers()
        answer = {
            "format": PROOF_FORMAT,
            "version": 1,
            "target": recipe["target"],
            "precision": recipe["precision"],
            "shares": precisions(layers, recipe["precision"], work.typed or not work.flags),
            "dla": on_dla(layers, work.dla),
            "parity": parity(engine, folder, recipe["golden"]),
            "device": device,
            "settings": {
                "strongly_typed": work.typed,
                "flags": work.flags,
                "workspace_mb": work.workspace,
                "level": work.level,
            },
            "recipe_sha256": digest(folder / RECIPE),
            "onnx_sha256": recipe["files"][recipe["onnx"]],
            "engine_sha256": hashlib.sha256(plan).hexdigest(),
            "engine_bytes": len(plan),
            "build_s": built - start,
            "proof_s": time.monotonic() - built,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "warnings": [*work.log.warnings, *engine.log.warnings][-20:],
            "layers": layers,
        }
    text = json.dumps(answer, indent=1, ensure_ascii=False, allow_nan=False)
    write(folder / PROOF, text.encode() + b"\n")
    write(folder / PLAN, plan)
    shares = ["%s (%.0f %%)" % (name, 100 * n["share"]) for name, n in answer["shares"].items()]
    tell("%s is proven; its layers compute in %s" % (PLAN, ", ".join(shares)))
    return answer


def check(folder: Path, options: argparse.Namespace) -> Answer:
    """Compare an engine that was built before with the model again."""
    recipe, proof = read_recipe(folder), read_json(folder / PROOF, PROOF_FORMAT)
    again = "build again: python3 run.py build"
    if proof["recipe_sha256"] != digest(folder / RECIPE):
        raise ProofError("%s has changed since the engine was built: %s" % (RECIPE, again))
    if not (folder / PLAN).is_file() or digest(folder / PLAN) != proof["engine_sha256"]:
        raise ProofError("%s is not the engine that %s proves: %s" % (PLAN, PROOF, again))
    device = {"tensorrt": str(import_tensorrt().__version__), **Cuda().facts(), **system()}
    for name in SAME:
        if device[name] != proof["device"][name]:
            seen = (PLAN, name, proof["device"][name], device[name], again)
            raise ProofError("%s was built where %s is %s; here it is %s: %s" % seen)
    core = proof["dla"]["core"] if proof["dla"] else None
    with contextlib.closing(Engine.load(folder / PLAN, core)) as engine:
        return {"device": device, "parity": parity(engine, folder, recipe["golden"])}


def info(folder: Path, options: argparse.Namespace) -> Answer:
    """Say what this device is, and what it lacks."""
    answer: Answer = {**system(), "lacks": []}
    try:
        answer["tensorrt"] = str(import_tensorrt().__version__)
    except RunError as error:
        answer["lacks"].append(str(error))
    try:
        answer.update(Cuda().facts())
    except RunError as error:
        answer["lacks"].append(str(error))
    return answer


def positive(text: str) -> int:
    """Read a whole number from 1 on."""
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def command_line() -> argparse.ArgumentParser:
    """Describe the command line."""
    top = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    verbs = top.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    verb = verbs.add_parser("build", help="build the engine here, prove it, and keep it if proven")
    verb.add_argument("--workspace", type=positive, metavar="MB", help="memory for building")
    verb.add_argument("--dla", type=int, metavar="N", help="run on deep learning accelerator N")
    level = "how long to search for kernels (TensorRT's default is 3)"
    verb.add_argument("--level", type=int, choices=range(6), help=level)
    verbs.add_parser("check", help="compare the engine built before with the model again")
    verbs.add_parser("info", help="what this device is and has")
    return top


def main() -> int:
    """Carry out one command, and print what came of it as JSON."""
    options, folder = command_line().parse_args(), Path(__file__).resolve().parent
    verb = {"build": build, "check": check, "info": info}[options.verb]
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # compilers of accelerators print, past sys.stdout
        try:
            answer = verb(folder, options)
        except RunError as error:
            tell(str(error))
            return error.code
        except OSError as error:
            tell("%s: %s" % (error.filename or folder, error.strerror))
            return RunError.code
        except KeyboardInterrupt:
            tell("stopped; nothing was kept")
            return 130
        json.dump({name: answer[name] for name in answer if name != "layers"}, answers, indent=1)
        answers.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
