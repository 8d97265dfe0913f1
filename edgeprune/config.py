"""A TOML file that gives the options of a command, by their own names."""

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from edgeprune.errors import UsageError


def read_config(context: click.Context, _parameter: click.Parameter, path: Path | None) -> None:
    """Take defaults from a TOML file with the options' own names.

    Raises:
        UsageError: it cannot be read, or names an option that is none.
    """
    if path is None:
        return
    known = {
        name.removeprefix("--"): parameter
        for parameter in context.command.params
        for name in parameter.opts
        if parameter.expose_value
    }
    defaults: dict[str, Any] = {}
    for key, value in _read(path).items():
        name = key.replace("_", "-")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise UsageError(f"--config '{path}' sets '{key}', which is no option{hint}")
        several = known[name].multiple
        if isinstance(value, dict):
            wanted = "a list of texts" if several else "one value"
            raise UsageError(f"--config '{path}': '{key}' is a table; give {wanted}")
        defaults[known[name].name or ""] = _several(value) if several else _one(value)
    context.default_map = defaults


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config '{path}' cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"--config '{path}' is not TOML: {error}") from None


def _several(value: object) -> list[str]:
    """Return values of an option that may be given again and again."""
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def _one(value: object) -> object:
    return ",".join(map(str, value)) if isinstance(value, list) else value
