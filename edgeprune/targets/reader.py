"""Targets from TOML: ours by name, a user's own by path.

A target file is checked whole before anything runs: a misspelt field would
otherwise be a default that nobody asked for.
"""

import tomllib
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any, Final, TypeVar, get_args, get_type_hints

from edgeprune.errors import UsageError
from edgeprune.targets.target import PRECISIONS, RUNTIMES, Device, Rates, Target

T = TypeVar("T", Target, Device, Rates)

ALIASES: Final[Mapping[str, str]] = {"jetson": "jetson-orin-nano"}
KINDS: Final[Mapping[object, str]] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    tuple[str, ...]: "a list of texts",
    Device: "a table",
    Rates: "a table",
}


def target_names() -> tuple[str, ...]:
    """Return the names of the built-in targets, aliases included."""
    folder = resources.files("edgeprune.targets")
    own = [file.name[:-5] for file in folder.iterdir() if file.name.endswith(".toml")]
    return tuple(sorted([*own, *ALIASES]))


def load_target(name_or_path: str | Path) -> Target:
    """Return a built-in target by name, or a user's own by the path of its TOML file.

    Raises:
        UsageError: no such target (the nearest names are given), or a field
            that is misspelt, missing, of the wrong type or out of range.
    """
    given = str(name_or_path)
    name = ALIASES.get(given, given)
    if name in target_names():
        file = resources.files("edgeprune.targets") / f"{name}.toml"
        return _parse(file.read_text(encoding="utf-8"), name)
    path = Path(name_or_path)
    if path.suffix != ".toml" and not path.is_file():
        raise UsageError(
            f"no target '{given}'{_nearest(given, target_names())}: "
            f"give one of {', '.join(target_names())}, or the path of a .toml file"
        )
    try:
        return _parse(path.read_text(encoding="utf-8"), path.stem)
    except OSError as error:
        raise UsageError(f"target file '{given}' cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"target file '{given}' is not UTF-8 text") from None


def _parse(text: str, name: str) -> Target:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"target '{name}' is not valid TOML: {error}") from None
    target = _build(Target, {"name": name, **table}, f"target '{name}'")
    reason = _out_of_range(target)
    if reason is not None:
        raise UsageError(f"target '{name}': {reason}")
    return target


def _build(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    hints = get_type_hints(kind)
    for key in table:
        if key not in hints:
            raise UsageError(
                f"{where} has a field '{key}' that no target has{_nearest(key, hints)}"
            )
    for field in fields(kind):
        if field.default is MISSING and field.name not in table:
            raise UsageError(f"{where} lacks the field '{field.name}'")
    values: dict[str, Any] = {k: _value(v, hints[k], where, k) for k, v in table.items()}
    return kind(**values)


def _value(value: object, hint: object, where: str, key: str) -> object:
    wanted = get_args(hint)[0] if isinstance(hint, types.UnionType) else hint
    if wanted in (Device, Rates) and isinstance(value, dict):
        return _build(wanted, value, f"table [{key}] of {where}")
    if wanted == tuple[str, ...] and isinstance(value, list):
        if all(isinstance(item, str) for item in value):
            return tuple(value)
    elif wanted is float and type(value) in (int, float):
        return float(value)  # type: ignore[arg-type]  # its type was just compared
    elif type(value) is wanted:  # not isinstance: true is no whole number
        return value
    raise UsageError(f"field '{key}' of {where} is {value!r}; it has to be {KINDS[wanted]}")


def _out_of_range(target: Target) -> str | None:
    if target.runtime not in RUNTIMES:
        near = _nearest(target.runtime, RUNTIMES)
        return f"runtime '{target.runtime}' is unknown{near}: give one of {', '.join(RUNTIMES)}"
    if target.precision not in PRECISIONS:
        return f"precision '{target.precision}' cannot be written: give {' or '.join(PRECISIONS)}"
    if not target.formats or len(set(target.formats)) < len(target.formats):
        return f"formats {list(target.formats)}: name at least one format, and each once"
    for key in ("align", "opset", "threads"):
        if getattr(target, key) < 1:
            return f"{key} is {getattr(target, key)}; it has to be 1 or more"
    return None


def _nearest(given: str, known: Mapping[str, Any] | tuple[str, ...]) -> str:
    near = get_close_matches(given, known, n=3)
    return f" (did you mean {' or '.join(repr(name) for name in near)}?)" if near else ""
