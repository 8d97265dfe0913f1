"""Models that the user's own code builds.

Calling a factory runs that code, with everything it may do: the user named it.
"""

import contextlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from edgeprune.errors import ModelError
from edgeprune.refusals import first_line


def call_factory(name: str, sizes: Mapping[str, int], arguments: Mapping[str, Any]) -> nn.Module:
    """Build a model by ``module:function`` or ``file.py:function``.

    sizes: arguments that are given if the function takes them by name.
    arguments: given in any case.

    Raises:
        ModelError: there is no such function, it fails, or it returns something else.
    """
    place, _, function = name.rpartition(":")
    folder = Path(place).parent if place.endswith(".py") else Path()
    with _importable_from(folder.resolve()):
        factory = getattr(_imported(name, place), function, None)
        if not callable(factory):
            raise ModelError(f"'{place}' has no function '{function}' that builds a model")
        try:
            model = factory(**(_accepted(factory, sizes) | dict(arguments)))
        except Exception as error:  # the user's own code runs here
            raise ModelError(f"'{name}' raised {first_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"'{name}' returned a {type(model).__name__}, not an nn.Module")
    return model


def _imported(name: str, place: str) -> ModuleType:
    is_file = place.endswith(".py")
    if is_file and not Path(place).is_file():
        raise ModelError(f"'{name}': there is no file '{place}'")
    try:
        return _loaded(Path(place)) if is_file else importlib.import_module(place)
    except ModuleNotFoundError as error:
        raise ModelError(
            f"'{name}': {error}; install it, run from its folder, or give 'file.py:function'"
        ) from error
    except Exception as error:  # the user's own code runs here
        raise ModelError(f"'{name}' cannot be imported: {first_line(error)}") from error


def _loaded(path: Path) -> ModuleType:
    name = f"edgeprune_factory_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their own module up by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextlib.contextmanager
def _importable_from(folder: Path) -> Iterator[None]:
    """Find what lies beside the user's model, as ``python file.py`` would."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _accepted(factory: Callable[..., object], sizes: Mapping[str, int]) -> dict[str, int]:
    try:
        names = inspect.signature(factory).parameters
    except ValueError:  # built-in callables have no signature
        return {}
    return {name: value for name, value in sizes.items() if name in names}
