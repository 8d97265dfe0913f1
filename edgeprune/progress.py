"""What a long job says while it works, without deciding how that looks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

Advance = Callable[[int, str], None]  # how many are done, and a few words beside the bar


class Reporter(Protocol):
    """Receives what happens: the command line draws it, a script may ignore it."""

    def stage(self, title: str) -> None:
        """A stage of the job begins."""

    def say(self, text: str) -> None:
        """Something that the user should know."""

    @contextmanager
    def track(self, title: str, total: int) -> Iterator[Advance]:
        """Show a progress bar while the block runs."""


class Silent:
    """Says nothing."""

    def stage(self, title: str) -> None:
        """Ignore it."""

    def say(self, text: str) -> None:
        """Ignore it."""

    @contextmanager
    def track(self, title: str, total: int) -> Iterator[Advance]:
        """Ignore it."""
        yield lambda done, words: None
