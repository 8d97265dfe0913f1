"""Time the dl-backtrace package in the environment that it needs.

Runs on its own, without edgeprune: reads a model and images, and prints one
line of JSON. Started by ``attribution_cost.py --backtrace-python``. The
environment is made by

    pip install dl-backtrace==0.1.24 torch==2.6.0 torchvision==0.21.0 timm "transformers<5"
"""

import contextlib
import copy
import importlib
import importlib.metadata
import io
import json
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import nn

COMPILED: Final = (
    "wt_fc_v3_ops", "wt_embedding_v2_ops", "wt_selfattention_v3_ops", "wt_gavgpool_ops",
)  # fmt: skip


def main(folder: Path) -> dict[str, Any]:
    """Score the stored images, and return seconds by round or the error."""
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    torch.set_num_threads(settings["threads"])
    model = _model(settings).eval()
    model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    images, labels = torch.load(folder / "images.pt", weights_only=True)

    own = copy.deepcopy(model)
    parameters = list(own.parameters())

    @torch.enable_grad()  # the package switches gradients off for good
    def plain() -> None:
        torch.autograd.grad(F.cross_entropy(own(images), labels), parameters)

    if settings["device"] == "cpu":
        # Imported in any case, compiled for one Python only, and used on CUDA alone.
        sys.modules.update({name: types.ModuleType(name) for name in COMPILED})
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
