"""A TensorRT without a GPU: exactly the names of one version, and engines that compute.

Each class of tensorrt_api.toml is a face that has the members of the table and no others,
checks the arguments as pybind11 does, and hands them to what stands behind it in
fake_tensorrt_engine.py.

Faults to ask for: ``float`` computes and reports everything in float32, ``swap`` reverses
the image's channels, ``nan`` answers NaN, ``vague`` has an inspector that tells names only,
``fails`` builds nothing, ``gpu`` runs nothing on the accelerator, ``stuck`` runs nothing,
``myelin`` makes one block that the inspector does not open.
"""

import ctypes
import enum
import inspect
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fake_tensorrt_engine import BEHIND

TABLE = tomllib.loads((Path(__file__).resolve().parent / "tensorrt_api.toml").read_text())


class Number(enum.Enum):
    """pybind11's enums are no ints, but become one when asked."""

    def __int__(self) -> int:
        return int(self.value)


class World:
    """One version: its enums, its classes, and what goes wrong in it."""

    def __init__(self, version: str, faults: Sequence[str], cores: int, library: str) -> None:
        self.version, self.faults, self.dla_cores = version, set(faults), cores
        self.index = TABLE["versions"].index(version)
        self.opset = TABLE["opsets"][self.index]
        self.major = int(version.partition(".")[0])
        self.cudart = ctypes.CDLL(library)
        self.cudart.fake_inside.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self.types: dict[str, Any] = {}

    def has(self, name: str) -> bool:
        first = TABLE["since"].get(name, TABLE["versions"][0])
        return bool(self.index >= TABLE["versions"].index(first))

    def make(self, kind: str, own: object) -> Any:
        """An object of a class that has no constructor."""
        face = self.types[kind].__new__(self.types[kind])
        face.own = own
        return face

    def log(self, logger: Any, text: str, level: str = "ERROR") -> None:
        logger.log(getattr(self.types["ILogger.Severity"], level), text)


def fill(
    module: dict[str, Any], version: str, faults: Sequence[str], dla_cores: int, library: str
) -> None:
    """Put the names of a version into a module's namespace."""
    world = World(version, faults, dla_cores, library)
    enums: dict[str, dict[str, int]] = {}
    for name, numbers in TABLE["enums"].items():
        kind, _, member = name.rpartition(".")
        if numbers[world.index] >= 0:
            enums.setdefault(kind, {})[member] = numbers[world.index]
    world.types = {kind: Number(kind.rpartition(".")[2], enums[kind]) for kind in enums}  # type: ignore[arg-type, misc]
    classes: dict[str, dict[str, str]] = {}
    for name, form in TABLE["members"].items():
        kind, dot, member = name.partition(".")
        if dot and world.has(name):
            classes.setdefault(kind, {})[member] = form
    for kind, members in classes.items():
        world.types[kind] = _face(world, kind, members)
    world.types["ILogger"].Severity = world.types["ILogger.Severity"]
    module.update({name: kind for name, kind in world.types.items() if "." not in name})
    module["__version__"] = version
    module["init_libnvinfer_plugins"] = _method(
        world, TABLE["members"]["init_libnvinfer_plugins"], lambda logger, namespace: True
    )


# ------------------------------------------------------------------ faces


def _face(world: World, kind: str, members: dict[str, str]) -> type:
    namespace: dict[str, Any] = {"__slots__": ("own",), "__module__": "tensorrt"}
    constructor = TABLE["members"].get(kind)

    def start(self: Any, *values: object, **named: object) -> None:
        if constructor is None:
            raise TypeError(f"tensorrt.{kind}: No constructor defined!")
        make = _method(world, constructor, lambda *given: BEHIND[kind](world, *given))
        self.own = make(*values, **named)

    namespace["__init__"] = start
    for member, form in members.items():
        namespace[member] = _bound(world, member, form) if form[0] == "(" else _value(member, form)
    return type(kind, (), namespace)


def _bound(world: World, member: str, form: str) -> Callable[..., Any]:
    def call(self: Any, *values: object, **named: object) -> Any:
        return _method(world, form, getattr(self.own, member))(*values, **named)

    return call


def _value(member: str, form: str) -> property:
    def write(self: Any, value: object) -> None:
        setattr(self.own, member, value)

    return property(lambda self: getattr(self.own, member), write if form == "set" else None)


def _method(world: World, form: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Check number, names and types of arguments as the table has them."""
    wanted = [part.strip() for part in form.strip("()").split(",") if part.strip()]
    parameters, kinds = [], []
    for part in wanted:
        head, equals, default = part.partition("=")
        name, _, kind = head.partition(":")
        given = int(default) if equals else inspect.Parameter.empty
        way = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters.append(inspect.Parameter(name.strip(), way, default=given))
        kinds.append(kind.strip())
    signature = inspect.Signature(parameters)

    def call(*values: object, **named: object) -> Any:
        bound = signature.bind(*values, **named)
        bound.apply_defaults()
        for value, kind in zip(bound.arguments.values(), kinds, strict=True):
            if not _fits(world, value, kind):
                raise TypeError(f"incompatible function arguments: {value!r} for {kind}")
        return function(*bound.arguments.values())

    return call


def _fits(world: World, value: Any, kind: str) -> bool:
    simple = {"int": int, "str": str, "bool": bool}
    if kind == "buffer":
        return isinstance(value, bytes | bytearray | memoryview)
    if kind == "Dims":
        return isinstance(value, tuple | list) and all(isinstance(size, int) for size in value)
    if kind == "ILogger":  # pybind11 refuses an object whose base was not started
        return isinstance(value, world.types[kind]) and hasattr(value, "own")
    return isinstance(value, simple.get(kind) or world.types[kind])
