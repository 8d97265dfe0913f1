"""The criteria as ``--help`` lists them, from what each says of itself."""

import textwrap
from collections.abc import Iterator
from typing import Final

from edgeprune.attribution.registry import Description, describe

WIDTH: Final = 98
INDENT: Final = 15


def criteria_help() -> str:
    """Return a paragraph of help that click prints as it is."""
    return "\n".join(("\b", "NAME of --criterion is one of:", *_lines()))


def _lines() -> Iterator[str]:
    for each in describe():
        yield from _wrapped(each.summary, f"  {each.name:<{INDENT - 2}}")
        if settings := _settings(each):
            yield from _wrapped(settings, " " * INDENT)


def _wrapped(text: str, first: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=" " * INDENT)


def _settings(description: Description) -> str:
    return "; ".join(
        f"{setting.name}={setting.default} ({setting.values})" for setting in description.settings
    )
