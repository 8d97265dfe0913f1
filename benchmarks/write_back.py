"""How many cuts a model's own class can express: the table of docs/write-back.md.

The smallest model of each timm family that has fewer than 12 million parameters,
with disturbed random weights; half of the channels go at random, of every kind or
of one kind alone. Each cut is written back onto timm's class. What comes back is
compared once more, on images that the library has not seen.

    python benchmarks/write_back.py
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import click
import numpy as np
import timm
import torch
from torch import Tensor, nn

import edgeprune as ep
from edgeprune.errors import CaptureError, CutError
from edgeprune.plan_document import GroupPlan, RemovedUnit

KINDS: Final = ("all", "conv", "hidden")
TOLERANCE: Final = 1e-4  # relative
MODELS: Final[Mapping[str, int]] = {
    "test_convnext": 160, "test_efficientnet": 160, "test_vit": 160, "test_nfnet": 160,
    "test_mambaout": 160, "test_byobnet": 160, "test_resnet": 160, "starnet_s050": 224,
    "test_coatnet": 160, "test_vit_relpos": 160, "dla46x_c": 224, "mobilevit_xxs": 256,
    "edgenext_xx_small": 256, "mobilenetv3_small_050": 224, "ese_vovnet19b_slim_dw": 224,
    "repghostnet_050": 224, "efficientvit_m0": 224, "ghostnet_050": 224, "regnetx_002": 224,
    "cspnext_tiny": 224, "iformer_t": 224, "xcit_nano_12_p8_224": 224, "cs3darknet_focus_s": 256,
    "efficientvit_b0": 224, "swiftformer_xs": 224, "efficientformerv2_s0": 224, "pvt_v2_b0": 224,
    "fasternet_t0": 224, "fastvit_t8": 256, "lcnetv2_small": 224, "inception_next_atto": 224,
    "rexnet_100": 224, "pit_ti_224": 224, "hardcorenas_b": 224, "repvit_m1": 224,
    "vit_tiny_patch16_dinov3_qkvb": 256, "coat_tiny": 224, "convit_tiny": 224,
    "deit_tiny_patch16_224": 224, "gmlp_ti16_224": 224, "hgnetv2_b0": 224, "shvit_s1": 224,
    "vit_tiny_r_s16_p8_224": 224, "cpubone_nano": 224, "efficientvim_m1": 224,
    "crossvit_tiny_240": 240, "levit_128s": 224, "densenet121": 224, "halonet_h1": 256,
    "dpn48b": 224, "visformer_tiny": 224, "resnest14d": 224, "csatv2": 512, "resnetv2_18": 224,
    "legacy_seresnet18": 224, "poolformerv2_s12": 224, "cait_xxs24_224": 224, "skresnet18": 224,
    "gcvit_xxtiny": 224,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model: for each kind of cut ``works``, ``refused``, ``WRONG``, or a dash for no such."""

    model: str
    found: Mapping[str, str]
    reasons: tuple[str, ...]

    def markdown(self) -> str:
        """Return the row of the table."""
        family = timm.models.model_entrypoint(self.model).__module__.rpartition(".")[2]
        cells = [family, self.model, *self.found.values(), "; ".join(self.reasons)]
        return "| " + " | ".join(cells) + " |"


@click.command()
@click.option("--model", "models", multiple=True, help="Only these.", type=click.Choice([*MODELS]))
@click.option("--seed", default=0, show_default=True)
def main(models: tuple[str, ...], seed: int) -> None:
    """Cut, write back, compare; print one row per model and the totals."""
    warnings.simplefilter("ignore")
    click.echo(f"| family | model | {' | '.join(KINDS)} | what stood in the way |")
    click.echo("|---" * (len(KINDS) + 3) + "|")
    rows = []
    for name in models or MODELS:
        rows.append(_row(name, seed))
        click.echo(rows[-1].markdown())
    for kind in KINDS:
        found = [row.found[kind] for row in rows if row.found[kind] != "–"]
        counts = ", ".join(f"{found.count(what)} {what}" for what in dict.fromkeys(found))
        click.echo(f"\n{kind}: {counts or 'none'} of {len(found)}")


def _row(name: str, seed: int) -> Row:
    torch.manual_seed(seed)
    model = timm.create_model(name, num_classes=10).eval()
    generator = torch.Generator().manual_seed(seed)
    _disturb(model, generator)
    images = torch.randn(2, 3, MODELS[name], MODELS[name], generator=generator)
    try:
        dense = ep.capture(model, images)
    except CaptureError as error:
        return Row(model=name, found=dict.fromkeys(KINDS, "–"), reasons=(str(error),))
    found: dict[str, str] = {}
    reasons: dict[str, None] = {}
    for kind in KINDS:
        if kind != "all" and kind not in {group.kind for group in ep.channel_groups(dense)}:
            found[kind] = "–"
            continue
        found[kind], reason = _try(dense, model, kind, seed)
        reasons |= dict.fromkeys([reason] if reason else [])
    return Row(model=name, found=found, reasons=tuple(reasons))


def _try(dense: ep.Captured, model: nn.Module, kind: str, seed: int) -> tuple[str, str]:
    """Return what became of one cut, and the reason of a refusal."""
    slim = ep.cut(dense, _half(dense, kind, seed))
    try:
        module = ep.to_module(slim, model)
    except CutError as error:
        return "refused", str(error).partition(": ")[2].partition("; ")[0].replace("|", "/")
    images = torch.randn(3, *dense.sample.shape[1:], generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        expected: Tensor = slim.module(images)
        difference = (module(images) - expected).abs().max() / expected.abs().max()
    return ("works" if difference <= TOLERANCE else "WRONG"), ""


def _half(dense: ep.Captured, kind: str, seed: int) -> ep.Plan:
    """Keep a random half of every group of a kind, all of the others."""
    rng = np.random.default_rng(seed)
    groups = []
    for group in ep.channel_groups(dense):
        chosen = kind in ("all", group.kind)
        kept = rng.permutation(group.size)[: (group.size + 1) // 2 if chosen else group.size]
        gone = sorted(set(range(group.size)) - set(kept.tolist()))
        removed = tuple(
            RemovedUnit(unit=unit, score=0, rank=1, most=None, reason="by chance") for unit in gone
        )
        groups.append(
            GroupPlan(
                name=group.name,
                kind=group.kind,
                size=group.size,
                kept=tuple(sorted(kept.tolist())),
                removed=removed,
            )
        )
    return ep.Plan(groups=tuple(groups), made_from={}, dense={}, predicted={})


def _disturb(model: nn.Module, generator: torch.Generator) -> None:
    """Move what is constant in a fresh model, so that no branch is silent."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
            elif name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))


if __name__ == "__main__":
    main()
