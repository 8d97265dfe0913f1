"""Frozen dataclasses to JSON values and back.

Reading is strict: a field too many, a field missing or a value of another type
is an error that names the place, because a record that is half understood is
worse than one that is refused. Invariant: ``decode(type(x), encode(x)) == x``.
"""

import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")


def encode(value: object) -> object:
    """Turn dataclasses, tuples and mappings into what ``json`` can write."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encode(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [encode(entry) for entry in value]
    return value


def decode(kind: type[T], value: object, *, at: str = "record") -> T:
    """Build a value of the annotated type from JSON.

    Raises ``ValueError`` that names the place, as in ``record.dense.bytes``.
    """
    return cast(T, _decode(kind, value, at))


def _decode(kind: Any, value: object, at: str) -> object:  # noqa: ANN401  an annotation
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _decode_union(inner, value, at)
    if is_dataclass(kind):
        return _decode_dataclass(cast(type, kind), value, at)
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise _mismatch("a list", value, at)
        return tuple(_decode(inner[0], entry, f"{at}[{i}]") for i, entry in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise _mismatch("an object", value, at)
        return {str(key): _decode(inner[1], entry, f"{at}.{key}") for key, entry in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise _mismatch(kind.__name__, value, at)
    return value


def _decode_union(options: Sequence[Any], value: object, at: str) -> object:
    """Decode an optional value; a union of anything else is not used here."""
    if value is None and type(None) in options:
        return None
    return _decode(next(option for option in options if option is not type(None)), value, at)


def _decode_dataclass(kind: type, value: object, at: str) -> object:
    if not isinstance(value, Mapping):
        raise _mismatch("an object", value, at)
    hints = get_type_hints(kind)
    declared = fields(kind)
    unknown = sorted(set(value) - {field.name for field in declared})
    if unknown:
        raise ValueError(f"{at} has fields that are not known: {', '.join(unknown)}")
    needed = (f.name for f in declared if f.default is f.default_factory is MISSING)
    missing = [name for name in needed if name not in value]
    if missing:
        raise ValueError(f"{at} lacks {', '.join(missing)}")
    present = [field.name for field in declared if field.name in value]
    return kind(**{name: _decode(hints[name], value[name], f"{at}.{name}") for name in present})


def _mismatch(wanted: str, value: object, at: str) -> ValueError:
    return ValueError(f"{at} is {str(value)[:40]!r}, not {wanted}")
