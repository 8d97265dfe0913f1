"""Targets from TOML: ours by name, a user's own by path.

A target file is checked whole before anything runs: a misspelt field would
otherwise be a default that nobody asked for. It may say ``extends = "jetson"`` and
then holds only what differs. A table that it changes needs a source of its own,
since that of the other file says nothing about the new figures.
"""

import contextlib
import tomllib
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from importlib import resources
from pathlib import Path
from typing import Any, Final, TypeVar, get_args, get_type_hints

from edgeprune.errors import UsageError
from edgeprune.targets.contradictions import contradiction, nearest
from edgeprune.targets.target import Device, Rates, Target

T = TypeVar("T", Target, Device, Rates)

ALIASES: Final[Mapping[str, str]] = {"jetson": "jetson-orin-nano"}
EXTENDS: Final = "extends"
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
        UsageError: no such target (the nearest names are given); a field that is
            misspelt, missing, of the wrong type or out of range; or fields that
            contradict each other.
    """
    given = str(name_or_path)
    if given in target_names():
        name = ALIASES.get(given, given)
        return _target(_built_in(name), name)
    path = Path(name_or_path)
    if path.suffix != ".toml" and not path.is_file():
        raise UsageError(
            f"no target '{given}'{nearest(given, target_names())}: "
            f"give one of {', '.join(target_names())}, or the path of a .toml file"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"target file '{given}' cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"target file '{given}' is not UTF-8 text") from None
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also numbers and nesting without end
        raise UsageError(f"target '{path.stem}' is not valid TOML: {error}") from None
    return _target(_extended(table, path.stem), path.stem)


def _built_in(name: str) -> dict[str, Any]:
    file = resources.files("edgeprune.targets") / f"{name}.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))


def _extended(table: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a table with what it leaves to the target that it extends."""
    if EXTENDS not in table:
        return table
    own = {key: value for key, value in table.items() if key != EXTENDS}
    base = str(table[EXTENDS])
    if base not in target_names():
        near = nearest(base, target_names())
        raise UsageError(
            f"target '{name}' extends '{base}', which is no built-in target{near}: "
            f"give one of {', '.join(target_names())}"
        )
    whole = _built_in(ALIASES.get(base, base))
    for key, value in own.items():
        both = isinstance(value, dict) and isinstance(whole.get(key), dict)
        whole[key] = _merged(whole[key], value) if both else value
    return whole


def _merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Put a user's table over ours; its source, if it lacks one, is left out and so missed."""
    source = own.get("source")
    if isinstance(source, str):
        source = f"{source}; what it leaves out: {base['source']}"
    rest = {key: value for key, value in base.items() if key != "source"}
    return rest | own | ({} if source is None else {"source": source})


def _target(table: Mapping[str, Any], name: str) -> Target:
    target = _build(Target, {"name": name, **table}, f"target '{name}'", also=(EXTENDS,))
    if reason := contradiction(target):
        raise UsageError(f"target '{name}': {reason}")
    return target


def _build(kind: type[T], table: Mapping[str, Any], where: str, *, also: Sequence[str] = ()) -> T:
    """Make a dataclass of a table. also: names that could have been meant besides its fields."""
    hints: dict[str, Any] = get_type_hints(kind)
    for key in table:
        if key not in hints:
            near = nearest(key, [*hints, *also])
            raise UsageError(f"{where} has a field '{key}' that no target has{near}")
    for field in fields(kind):
        if field.default is MISSING and field.name not in table:
            raise UsageError(f"{where} lacks the field '{field.name}'")
    values: dict[str, Any] = {k: _value(v, hints[k], where, k) for k, v in table.items()}
    return kind(**values)


def _value(value: object, hint: object, where: str, key: str) -> object:
    wanted = get_args(hint)[0] if isinstance(hint, types.UnionType) else hint
    if wanted is Device and isinstance(value, dict):
        return _build(Device, value, f"table [{key}] of {where}")
    if wanted is Rates and isinstance(value, dict):
        return _build(Rates, value, f"table [{key}] of {where}")
    if wanted == tuple[str, ...] and isinstance(value, list):
        if all(isinstance(item, str) for item in value):
            return tuple(value)
    elif wanted is float and isinstance(value, int | float) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            return float(value)
    elif type(value) is wanted:  # not isinstance: true is no whole number
        return value
    raise UsageError(f"field '{key}' of {where} is {value!r}; it has to be {KINDS[wanted]}")
