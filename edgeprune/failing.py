"""How a command ends when it does not end well: one line, and an exit code."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

import click
from rich.console import Console
from rich.markup import escape

INTERRUPTED: Final = 130  # as shells count: 128 and the signal's number


class Interrupted(click.ClickException):
    """The user pressed Ctrl-C."""

    exit_code = INTERRUPTED


@contextmanager
def one_line_on_interrupt(message: str) -> Iterator[None]:
    """Take Ctrl-C before click does, which would print an empty line."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(message) from None


def fail(message: str, code: int) -> NoReturn:
    """Print one line, also where a runtime's last words are several."""
    line = " | ".join(part.strip() for part in message.splitlines() if part.strip())
    console = Console(stderr=True, highlight=False)
    console.print(f"[bold red]error:[/] {escape(line)}", soft_wrap=True)
    sys.exit(code)
