"""What stands behind the faces of the fake TensorRT: networks, builds, and engines that compute.

A plan is a line of JSON, what it was built with, and the ONNX graph. ONNX Runtime runs the
graph on the addresses that the context was given, once the stream is waited for.
"""

from __future__ import annotations

import ctypes
import json
import os
import weakref
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto

if TYPE_CHECKING:
    from fake_tensorrt_module import World

SPELLED = {  # by major version, as the inspectors of real ones do
    8: {"f32": "Row major linear FP32", "f16": "Channel major FP16 format where channel % 8 == 0"},
    10: {"f32": "Float", "f16": "Half", "i8": "Int8"},
    11: {"f32": "Row major linear FP32", "f16": "Row major linear FP16 format", "i8": "Int8"},
}
SPELLED[8]["i8"] = "Thirty-two wide channel vectorized row major Int8 format"
LAYERS = {"Conv": "CaskConvolution", "QuantizeLinear": "Quantize", "DequantizeLinear": "Dequantize"}
END = {"Name": "", "Format/Datatype": "Row major linear FP32"}
DLA_OPERATORS = ("Conv", "Relu", "GlobalAveragePool", "BatchNormalization", "Add", "MaxPool")


class Dims:
    """A shape: it has a length and items, and is no tuple."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = tuple(sizes)

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, key: int) -> int:
        return self._sizes[key]


class HostMemory(bytes):
    """A buffer and nothing else."""

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__") or name == "nbytes":
            return super().__getattribute__(name)
        raise AttributeError(f"IHostMemory has no '{name}'")


class Config:
    def __init__(self, world: World) -> None:
        kinds = world.types
        self.world, self.flags = world, {kinds["BuilderFlag"].TF32}
        self.profiling_verbosity = kinds["ProfilingVerbosity"].LAYER_NAMES_ONLY
        self.default_device_type = kinds["DeviceType"].GPU
        self.DLA_core, self.builder_optimization_level = -1, 3
        self.pools: dict[Any, int] = {}
        self.profiles: list[dict[str, Any]] = []
        self.cache: Any = None

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.pools[pool] = size

    def add_optimization_profile(self, profile: Any) -> int:
        shapes = profile.own.shapes
        sound = all(a <= b <= c for s in shapes.values() for a, b, c in zip(*s, strict=True))
        self.profiles.append(shapes)
        return len(self.profiles) - 1 if sound else -1

    def create_timing_cache(self, data: bytes) -> Any:
        stamp = bytes(data) or b"timings of " + self.world.version.encode()
        known = stamp.startswith(b"timings of ")
        return self.world.make("ITimingCache", Cache(stamp)) if known else None

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        fits = ignore_mismatch or cache.own.stamp.endswith(self.world.version.encode())
        self.cache = cache if fits else self.cache
        return fits

    def get_timing_cache(self) -> Any:
        return self.cache


class Cache:
    def __init__(self, stamp: bytes) -> None:
        self.stamp = stamp

    def serialize(self) -> HostMemory:
        return HostMemory(self.stamp)


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[Sequence[int], ...]] = {}

    def set_shape(self, name: str, *shapes: Sequence[int]) -> None:
        self.shapes[name] = shapes


class Network:
    def __init__(self, world: World, flags: int) -> None:
        kinds = world.types["NetworkDefinitionCreationFlag"]
        known = {kind: bool(flags & 1 << int(kind)) for kind in kinds}
        if flags != sum(1 << int(kind) for kind, on in known.items() if on):
            raise TypeError(f"create_network: no version has all of the flags {flags:b}")
        on = {kind.name for kind in kinds if known[kind]}
        self.world, self.explicit = world, world.major >= 10 or "EXPLICIT_BATCH" in on
        self.typed = world.major >= 11 or "STRONGLY_TYPED" in on
        self.model = onnx.ModelProto()
        self.parser: Callable[[], object] = lambda: None

    num_inputs = property(lambda self: len(self.model.graph.input))
    num_outputs = property(lambda self: len(self.model.graph.output))

    def get_input(self, index: int) -> Any:
        return self.tensor(self.model.graph.input[index])

    def get_output(self, index: int) -> Any:
        return self.tensor(self.model.graph.output[index])

    def tensor(self, value: onnx.ValueInfoProto) -> Any:
        found = SimpleNamespace(name=value.name, shape=Dims(shape_of(value)))
        return self.world.make("ITensor", found)


class Parser:
    def __init__(self, world: World, network: Any, logger: Any) -> None:
        self.world, self.network, self.errors = world, network.own, list[str]()
        self.network.parser = weakref.ref(self)  # the weights are the parser's

    num_errors = property(lambda self: len(self.errors))

    def parse_from_file(self, path: str) -> bool:
        most = self.world.opset
        try:
            model = onnx.load(path)
            if self.network.typed:
                onnx.shape_inference.infer_shapes(model, strict_mode=True)
        except Exception as error:
            self.errors.append(str(error))
            return False
        if not self.network.explicit:
            self.errors.append("This version of the ONNX parser only supports EXPLICIT_BATCH")
        if model.opset_import[0].version > most:
            self.errors.append(f"the ONNX opset is newer than {most}")
        self.network.model = model
        return not self.errors

    def get_error(self, index: int) -> Any:
        text = self.errors[index]
        return self.world.make("ParserError", SimpleNamespace(desc=lambda: text))


class Builder:
    def __init__(self, world: World, logger: Any) -> None:
        self.world, self.logger, self.num_DLA_cores = world, logger, world.dla_cores

    def create_network(self, flags: int) -> Any:
        return self.world.make("INetworkDefinition", Network(self.world, flags))

    def create_builder_config(self) -> Any:
        return self.world.make("IBuilderConfig", Config(self.world))

    def create_optimization_profile(self) -> Any:
        return self.world.make("IOptimizationProfile", Profile())

    def build_serialized_network(self, network: Any, config: Any) -> HostMemory | None:
        reason = _unbuildable(self.world, network.own, config.own)
        if reason is not None:
            self.world.log(self.logger, reason)
            return None
        names = {flag.name for flag in config.own.flags}
        os.write(1, b"a compiler talks past Python\n")
        on_dla = config.own.default_device_type.name == "DLA"
        self.world.log(self.logger, "a kernel is slow", "WARNING")
        self.world.log(self.logger, "trying kernels", "INFO")
        header = {
            "version": self.world.version,
            "detailed": config.own.profiling_verbosity.name == "DETAILED",
            "flags": sorted(names & {"FP16", "INT8", "TF32"}),
            "profile": config.own.profiles[0] if config.own.profiles else None,
            "dla": config.own.DLA_core if on_dla else None,
            "workspace": {pool.name: size for pool, size in config.own.pools.items()},
            "level": config.own.builder_optimization_level,
        }
        model = network.own.model.SerializeToString()
        return HostMemory(json.dumps(header).encode() + b"\n" + model)


def _unbuildable(world: World, network: Network, config: Config) -> str | None:
    names = {flag.name for flag in config.flags}
    shape = shape_of(network.model.graph.input[0])
    if "fails" in world.faults or network.parser() is None:
        return "Could not find any implementation for node {ForeignNode[stem...head]}."
    if network.typed and names & {"FP16", "INT8"}:
        return "Parameter check failed, condition: !config.getFlag(BuilderFlag::kFP16)"
    quantized = any(node.op_type == "QuantizeLinear" for node in network.model.graph.node)
    if quantized and not network.typed and "INT8" not in names:
        return "Int8 precision has been set for a layer, but int8 is not configured"
    if -1 in shape and not config.profiles:
        return "Network has dynamic inputs, but no optimization profile has been defined."
    if config.default_device_type.name == "DLA" and config.DLA_core not in range(world.dla_cores):
        return "DLA core is out of range"
    return None


class Runtime:
    def __init__(self, world: World, logger: Any) -> None:
        self.world, self.logger, self.DLA_core = world, logger, -1

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        first, _, model = bytes(plan).partition(b"\n")
        try:
            header = json.loads(first)
        except ValueError:
            self.world.log(self.logger, "Serialization assertion magicTagRead failed.")
            return None
        if header["version"] != self.world.version or header["dla"] not in (None, self.DLA_core):
            self.world.log(self.logger, "The engine plan file is not compatible with this device.")
            return None
        engine = Engine(self.world, self.logger, header, onnx.load_from_string(model))
        return self.world.make("ICudaEngine", engine)


class Engine:
    def __init__(
        self, world: World, logger: Any, header: dict[str, Any], model: onnx.ModelProto
    ) -> None:
        self.world, self.logger, self.header, self.model = world, logger, header, model
        ends = [*model.graph.input, *model.graph.output]
        self.ends = {value.name: value for value in ends}
        self.num_io_tensors, self.names = len(ends), list(self.ends)

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> Any:
        mode = self.world.types["TensorIOMode"]
        return mode.INPUT if name == self.names[0] else mode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        kinds = self.world.types["DataType"]
        half = self.ends[name].type.tensor_type.elem_type == TensorProto.FLOAT16
        return kinds.HALF if half else kinds.FLOAT

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims(shape_of(self.ends[name]))

    def get_tensor_profile_shape(self, name: str, index: int) -> list[Dims]:
        assert index == 0
        return [Dims(shape) for shape in self.header["profile"][name]]

    def create_execution_context(self) -> Any:
        return self.world.make("IExecutionContext", Context(self))

    def create_engine_inspector(self) -> Any:
        def tell(form: Any) -> str:
            batch = found.execution_context.own.shape[0] if found.execution_context else -1
            text = json.dumps(_information(self, batch)).replace("\\u001e", "\x1e")  # as real ones
            return text if form.name == "JSON" else "one line"

        found = SimpleNamespace(get_engine_information=tell, execution_context=None)
        return self.world.make("EngineInspector", found)


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine, self.world = engine, engine.world
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        data = engine.model.SerializeToString()
        self.session = onnxruntime.InferenceSession(data, options)
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}
        self.work: Any = None
        self.profiler: Any = None
        self.launches = 0

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        declared = shape_of(self.engine.ends[name])
        least, _, most = (self.engine.header["profile"] or {}).get(name) or (declared,) * 3
        fits = len(shape) == len(least)
        fits = fits and all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True))
        if not fits:
            self.world.log(self.engine.logger, "Supplied binding dimension is out of the profile.")
        self.shape = tuple(shape) if fits else self.shape
        return fits

    def get_tensor_shape(self, name: str) -> Dims:
        rest = shape_of(self.engine.ends[name])[1:]
        return Dims(self.shape if name == self.engine.names[0] else (self.shape[0], *rest))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return name in self.engine.ends

    def execute_async_v3(self, stream: int) -> bool:
        """Launch; it runs when the stream is waited for."""
        views = [self.view(name) for name in self.engine.names]
        if not stream or any(view is None for view in views) or "stuck" in self.world.faults:
            self.world.log(self.engine.logger, "Address is not set or not on the device.")
            return False

        def work() -> None:
            images = views[0][:, ::-1].copy() if "swap" in self.world.faults else views[0].copy()
            logits = self.session.run(None, {self.engine.names[0]: images})[0]
            views[1][...] = np.nan if "nan" in self.world.faults else logits
            self.launches += 1
            pace = 50 if self.launches <= 5 else 1  # kernels are loaded, clocks rise
            for number, layer in enumerate(_layers(self.engine) if self.profiler else [], 1):
                self.profiler.report_layer_time(layer["Name"], pace * number / 1000)

        self.work = ctypes.CFUNCTYPE(None)(work)  # kept alive until it has run
        self.world.cudart.fake_launch(self.work)
        return True

    def view(self, name: str) -> Any:
        shape = tuple(self.get_tensor_shape(name))
        address, count = self.addresses.get(name, 0), int(np.prod(shape))
        if not self.world.cudart.fake_inside(address, 4 * count):
            return None
        memory = (ctypes.c_float * count).from_address(address)
        return np.frombuffer(memory, np.float32).reshape(shape)


def shape_of(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Sizes of a tensor, -1 for those that are free."""
    sizes = value.type.tensor_type.shape.dim
    return tuple(size.dim_value if size.HasField("dim_value") else -1 for size in sizes)


def _information(engine: Engine, batch: int) -> dict[str, Any]:
    """What the inspector tells, in the schema of the version."""
    layers: list[Any] = _layers(engine, batch)
    if not engine.header["detailed"] or "vague" in engine.world.faults:
        layers = [layer["Name"] for layer in layers]
    if engine.world.major < 11:
        return {"Layers": layers, "Bindings": engine.names}
    ends = [{"Name": name, "DataType": "Float", "Location": "Device"} for name in engine.names]
    return {"Layers": layers, "I/O Tensors": ends}


def _layers(engine: Engine, batch: int = -1) -> list[dict[str, Any]]:
    graph = onnx.shape_inference.infer_shapes(engine.model).graph
    codes = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input)}
    codes |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    shapes = {value.name: shape_of(value) for value in (*graph.value_info, *graph.output)}
    made = {name: node.op_type for node in graph.node for name in node.output}
    world, weak_half = engine.world, "FP16" in engine.header["flags"]

    def kind(node: onnx.NodeProto, name: str) -> str:
        if "float" in world.faults:
            return "f32"
        if made.get(name) == "DequantizeLinear" and node.op_type in ("Conv", "Gemm", "MatMul"):
            return "i8"
        return "f16" if codes.get(name) == TensorProto.FLOAT16 or weak_half else "f32"

    found = []
    for node in graph.node:
        kinds = [kind(node, name) for name in node.input]
        inputs = [{"Name": "", "Format/Datatype": SPELLED[world.major][each]} for each in kinds]
        layer = {"Name": node.name, "LayerType": LAYERS.get(node.op_type, node.op_type)}
        layer |= {"Inputs": inputs, "Metadata": f"[ONNX Layer: {node.name}]\x1e"}
        sizes = [batch if size < 0 else size for size in shapes[node.output[0]]]
        layer["Outputs"] = [{"Name": node.output[0], "Dimensions": sizes}]
        if node.op_type == "Conv" and world.major == 8:
            layer["Weights"] = {"Type": {"f32": "Float", "f16": "Half", "i8": "Int8"}[kinds[0]]}
        found.append((node.op_type, layer))
    if "myelin" in world.faults:
        block = {"Name": "{ForeignNode[stem...head]}", "LayerType": "Myelin", "Inputs": [END]}
        return [block | {"Outputs": [END]}]
    if engine.header["dla"] is None or "gpu" in world.faults:
        return [layer for _, layer in found]
    taken = [layer for operator, layer in found if operator in DLA_OPERATORS]
    name = f"{{ForeignNode[{taken[0]['Name']}...{taken[-1]['Name']}]}}"
    rest = [layer for operator, layer in found if operator not in DLA_OPERATORS]
    return [{**taken[0], "Name": name, "LayerType": "DLA"}, *rest]


BEHIND: dict[str, Callable[..., Any]] = {
    "ILogger": lambda world: SimpleNamespace(log=lambda severity, msg: None),
    "IProfiler": lambda world: SimpleNamespace(),
    "Builder": Builder,
    "OnnxParser": Parser,
    "Runtime": Runtime,
}
