"""A criterion with its settings as text: ``lrp:rule=gamma,epsilon=0.01``.

The settings are the fields of the criterion's dataclass; what a text leaves out
is as in the criterion that the name stands for. Invariant: what is written
parses back to an equal criterion, as far as its settings can be text at all.
"""

import difflib
import types
from collections.abc import Mapping
from dataclasses import Field, dataclass, fields, is_dataclass, replace
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from edgeprune.errors import UsageError

Settable = TypeVar("Settable")

_TRUTH: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_NOTHING: Final = "none"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting of a criterion.

    Attributes:
        name: as in the text.
        values: what it may be, in words.
        default: what it is unless it is given, as text.
    """

    name: str
    values: str
    default: str


def split_specification(text: str) -> tuple[str, dict[str, str]]:
    """Return the name and the settings, still as texts.

    Raises:
        UsageError: a setting without a value, or one that is given twice.
    """
    name, _, rest = text.partition(":")
    found: dict[str, str] = {}
    for part in filter(None, map(str.strip, rest.split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value):
            raise UsageError(
                f"criterion '{text}': '{part}' is no setting; write name:key=value,key=value"
            )
        if key in found:
            raise UsageError(f"criterion '{text}' gives '{key}' twice")
        found[key] = value
    return name.strip(), found


def with_settings(criterion: Settable, name: str, given: Mapping[str, str]) -> Settable:
    """Return a criterion with other settings, from texts.

    Raises:
        UsageError: it has no such setting (the nearest is named), or the value is
            none that it takes.
    """
    if not given:
        return criterion
    kinds = _kinds(criterion)
    for key in given:
        if key not in kinds:
            raise UsageError(f"criterion '{name}' has no setting '{key}'; {_known(kinds, key)}")
    values = {key: _value(name, key, text, kinds[key]) for key, text in given.items()}
    return replace(criterion, **values)  # type: ignore[type-var]


def written(criterion: object, name: str, default: object) -> str:
    """Return the name with those settings that differ from the default.

    A setting that no text can give, such as a table of rules, is written as its
    type in angle brackets.
    """
    if type(criterion) is not type(default):
        return name
    changed = {
        key: getattr(criterion, key)
        for key in _fields(criterion)
        if getattr(criterion, key) != getattr(default, key)
    }
    texts = [f"{key}={_text(value)}" for key, value in changed.items()]
    return f"{name}:{','.join(texts)}" if texts else name


def settings_of(criterion: object) -> tuple[Setting, ...]:
    """List the settings that a text can give."""
    return tuple(
        Setting(name=key, values=_words(kind), default=_text(getattr(criterion, key)))
        for key, kind in _kinds(criterion).items()
    )


def _fields(criterion: object) -> dict[str, "Field[Any]"]:
    if not is_dataclass(criterion):
        return {}
    return {field.name: field for field in fields(criterion) if field.init}


def _kinds(criterion: object) -> dict[str, Any]:
    """Return the type of each setting that can be given as text."""
    if not is_dataclass(criterion):
        return {}
    hints = get_type_hints(type(criterion))
    return {key: hints[key] for key in _fields(criterion) if _choices(hints[key])}


def _choices(kind: object) -> tuple[Any, ...]:
    """Return the simple types and values among what a type allows.

    ``Literal`` becomes its values, ``X | None`` the type and None; what no text
    can give is left out.
    """
    if kind in (bool, int, float, str, None, type(None)):
        return (None,) if kind is type(None) else (kind,)
    if get_origin(kind) is Literal:
        return get_args(kind)
    if get_origin(kind) in (Union, types.UnionType):
        return tuple(choice for part in get_args(kind) for choice in _choices(part))
    return ()


def _value(name: str, key: str, text: str, kind: object) -> Any:  # noqa: ANN401 - of any simple type
    for choice in _choices(kind):
        if isinstance(choice, type):
            read, value = _read(text, choice)
            if read:
                return value
        elif text.lower() == (_NOTHING if choice is None else str(choice).lower()):
            return choice
    choices = [str(choice) for choice in _choices(kind) if not isinstance(choice, type)]
    near = difflib.get_close_matches(text, choices, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise UsageError(f"criterion '{name}': '{key}' is {_words(kind)}, not '{text}'{hint}")


def _read(text: str, kind: type) -> tuple[bool, object]:
    """Return whether a text is of a type, and its value."""
    if kind is bool:
        return text.lower() in _TRUTH, _TRUTH.get(text.lower())
    try:
        return True, kind(text)
    except ValueError:
        return False, None


def _words(kind: object) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    return " or ".join(
        names[choice] if isinstance(choice, type) else str(choice or _NOTHING)
        for choice in _choices(kind)
    )


def _text(value: object) -> str:
    match value:
        case None:
            return _NOTHING
        case bool():
            return str(value).lower()
        case float():
            return str(value).removesuffix(".0")
        case int() | str():
            return str(value)
        case _:
            return f"<{type(value).__name__}>"


def _known(kinds: Mapping[str, Any], key: str) -> str:
    if not kinds:
        return "it has none"
    near = difflib.get_close_matches(key, kinds, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"{hint}it has {', '.join(kinds)}"
