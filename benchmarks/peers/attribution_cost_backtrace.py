"""Time the dl-backtrace package in the environment that it needs.

Runs on its own, without edgeprune: reads a model and images, and prints one
line of JSON. Started by ``attribution_cost.py --backtrace-python``.
"""

import contextlib
import importlib
import importlib.metadata
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


def main(folder: Path) -> dict[str, Any]:
    """Score the stored images, and return seconds by round or the error."""
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    torch.set_num_threads(settings["threads"])
    model = _model(settings).eval()
    model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    images, labels = torch.load(folder / "images.pt", weights_only=True)

    def plain() -> None:
        torch.autograd.grad(F.cross_entropy(model(images), labels), list(model.parameters()))

    versions = {name: importlib.metadata.version(name) for name in ("dl-backtrace", "torch")}
    try:
        # Not in the environment that types are checked in.
        backtrace = importlib.import_module("dl_backtrace.pytorch_backtrace")
        tracer = backtrace.DLBacktrace(model, (images,), device=settings["device"], verbose=False)

        def score() -> None:
            tracer.predict(images)
            tracer.evaluation(
                mode="default", multiplier=1.0, scaler=1.0, task="multi-class-classification"
            )

        pairs = [(_seconds(plain), _seconds(score)) for _ in range(settings["rounds"])]
    except Exception as error:  # whatever it is goes into the table
        return {"error": f"{type(error).__name__}: {error}", "versions": versions}
    return {"seconds": pairs, "versions": versions}


def _model(settings: dict[str, Any]) -> nn.Module:
    if settings["library"] == "timm":
        import timm

        made: nn.Module = timm.create_model(settings["name"], **settings["options"])
        return made
    from torchvision.models import get_model

    found: nn.Module = get_model(settings["name"], **settings["options"])
    return found


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    with contextlib.redirect_stdout(io.StringIO()):  # it reports on its own
        found = main(Path(sys.argv[1]))
    print(json.dumps(found))
