"""Captured models, each captured once."""

from collections.abc import Callable
from functools import cache

import pytest

from edgeprune.capture import Captured, capture

from .models import SIZE, build, images

CaptureOf = Callable[..., Captured]


@pytest.fixture(scope="session")
def capture_of() -> CaptureOf:
    """Return the captured model of a name; tests must not change it."""

    @cache
    def capture_named(name: str, size: int = SIZE) -> Captured:
        return capture(build(name), images(3, size))

    return capture_named
