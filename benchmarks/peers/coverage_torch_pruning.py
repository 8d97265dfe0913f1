"""One family with Torch-Pruning, by the recipe of its own timm example.

The recipe: attention that is not fused, the classifier left alone, the heads of
every qkv layer declared, half of every group by the norm of its weights, and
afterwards the attributes that attention reads its widths from set anew. It is
applied generously: layers that hold q, k and v apart are declared too, as its
example for other transformers does, and timm's own ``forward`` reads the widths
that its example's replacement would.

Runs as a process of its own, ``python -m peers.coverage_torch_pruning FAMILY FILE``.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from edgeprune import capture
from peers.coverage_checks import (
    BATCH,
    check_exports,
    check_training,
    memory,
    reset_peak,
    sizes,
    weight_bytes,
)
from peers.coverage_journal import Journal
from peers.coverage_limits import limit_memory
from tests.edgeprune.families import CLASSES, FAMILIES, family, pictures

FUSED: Final = {"qkv": 3, "qkv_proj": 3, "kv": 2}
APART: Final = ("q", "k", "v", "q_proj", "k_proj", "v_proj")
HEAD_WIDTHS: Final = ("head_dim", "dim_head")
WIDTHS: Final = ("attn_dim", "attention_dim", "all_head_dim", "dim_attn")


def main(name: str, path: Path) -> None:
    """Take one family all the way; what fails is noted, and the rest goes on where it can."""
    model_name, size = FAMILIES[name]
    facts = {"family": name, "tool": "torch-pruning", "model": model_name, "size": size}
    journal = Journal(path, facts)
    _warm_up()
    model, images = family(name).model, pictures(4, size)
    journal.note({"params": sum(p.numel() for p in model.parameters())})
    weights = weight_bytes(model)
    held = reset_peak()
    heads = attention_layers(model)
    pruner = journal.run("analyse", partial(_pruner, model, images, heads))
    if pruner is not None:
        journal.run("cut", partial(_step, model, pruner, heads))
    journal.note(memory(held, weights))
    del pruner
    if journal.facts["stages"].get("cut", {"error": ""})["error"] is None:
        _check(journal, model, images)
    journal.finish()


def _warm_up() -> None:
    """Load what pruning loads on first use, so that it counts for no family."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    _pruner(model, torch.randn(2, 3, 8, 8), {}).step()


def attention_layers(model: nn.Module) -> dict[nn.Module, int]:
    """Return the number of heads of every layer that projects to q, k or v."""
    found: dict[nn.Module, int] = {}
    for module in model.modules():
        heads = getattr(module, "num_heads", None)
        for name in (*FUSED, *APART):
            layer = getattr(module, name, None)
            if isinstance(heads, int) and isinstance(layer, nn.Linear | nn.Conv2d):
                found[layer] = heads
    return found


def _pruner(model: nn.Module, images: Tensor, heads: dict[nn.Module, int]) -> Any:  # noqa: ANN401
    """Build the dependency graph. The package has no types."""
    import torch_pruning  # pyright: ignore[reportMissingImports]  # only in the extra for peers

    return torch_pruning.pruner.BasePruner(
        model,
        images[:1],
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        global_pruning=False,
        pruning_ratio=0.5,
        ignored_layers=[m for m in model.modules() if _is_classifier(m)],
        num_heads=dict(heads),
    )


def _is_classifier(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.out_channels == CLASSES
    return isinstance(module, nn.Linear) and module.out_features == CLASSES


def _step(model: nn.Module, pruner: Any, heads: dict[nn.Module, int]) -> None:  # noqa: ANN401
    for group in pruner.step(interactive=True):
        group.prune()
    for module in model.modules():
        for name in (*FUSED, *APART):
            layer = getattr(module, name, None)
            if layer in heads:
                _reset_widths(module, layer, FUSED.get(name, 1), pruner.num_heads[layer])


def _reset_widths(module: nn.Module, layer: nn.Module, parts: int, heads: int) -> None:
    """Set what attention computes its shapes from to the widths that are left."""
    width = getattr(layer, "out_features", getattr(layer, "out_channels", 0)) // parts
    found: dict[str, int] = {"num_heads": heads}
    found |= dict.fromkeys(HEAD_WIDTHS, width // heads) | dict.fromkeys(WIDTHS, width)
    for name, value in found.items():
        if isinstance(getattr(module, name, None), int):
            setattr(module, name, value)


def _check(journal: Journal, model: nn.Module, images: Tensor) -> None:
    journal.note({"kept": sum(p.numel() for p in model.parameters()), "shapes": sizes(model)})
    if journal.run("forward", partial(_forward, model, images)) is None:
        return
    captured = journal.run("recapture", partial(capture, model, images[:BATCH]))
    if captured is not None:
        check_exports(journal, captured, images)
    step = partial(check_training, model, images[:BATCH], everywhere=False)
    journal.run("train", step)


def _forward(model: nn.Module, images: Tensor) -> bool:
    with torch.no_grad():
        logits = model(images[:BATCH])
    if tuple(logits.shape) != (BATCH, CLASSES):
        raise ValueError(f"logits of shape {tuple(logits.shape)}; ({BATCH}, {CLASSES}) expected")
    return True


if __name__ == "__main__":
    torch.set_num_threads(1)
    limit_memory()
    main(sys.argv[1], Path(sys.argv[2]))
