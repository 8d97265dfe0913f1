"""What a long job says while it works, without deciding how that looks."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Advance(Protocol):
    """Takes how many are done, a few words beside the bar, and the total once it is known."""

    def __call__(self, done: int, words: str = "", *, total: int | None = None) -> None:
        """Move the bar."""
        ...


class Reporter(Protocol):
    """Receives what happens: the command line draws it, a script may ignore it."""

    def stage(self, title: str) -> None:
        """A stage of the job begins."""
        ...

    def say(self, text: str) -> None:
        """Something that the user should know."""
        ...

    def track(self, title: str, total: int | None) -> AbstractContextManager[Advance]:
        """Show progress while the block runs; a total may become known later."""
        ...


class Silent:
    """Says nothing."""

    def stage(self, title: str) -> None:
        """Ignore it."""

    def say(self, text: str) -> None:
        """Ignore it."""

    @contextmanager
    def track(self, title: str, total: int | None) -> Iterator[Advance]:
        """Ignore it."""
        yield _ignore


def _ignore(done: int, words: str = "", *, total: int | None = None) -> None:
    del done, words, total
