"""How much of a MAC saving becomes time: dense against cut, in one run.

For each network: capture, score, plan half of the MACs, cut, prove, export, and
time dense and slim in turns in OpenVINO and ONNX Runtime. The share realised is
the measured speed-up over the theoretical one (dense MACs over slim MACs).
Weights are random: widths decide latency, and the plan decides widths.

    python benchmarks/realised_speedup.py --write
"""

import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import numpy as np
import timm
import torch

import edgeprune as ep
from edgeprune.errors import EdgepruneError
from edgeprune.targets import load_target
from edgeprune_benchmarks.harness import MeasureSettings, Subject, compare
from edgeprune_benchmarks.statistics import Ratio, latency_ratio
from edgeprune_exporters import export

MODELS: Final = ("resnet50", "vgg19", "vit_small_patch16_224")
RUNTIMES: Final = {"openvino": "openvino", "onnxruntime": "onnx"}
RESULTS: Final = Path(__file__).parent / "RESULTS.md"
SIZE: Final = 224


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network in one runtime."""

    model: str
    runtime: str
    macs: float
    ratio: Ratio
    dense_ms: float
    tainted: tuple[str, ...]

    @property
    def realised(self) -> float:
        """Measured speed-up over theoretical speed-up."""
        return self.macs / self.ratio.value

    def markdown(self) -> str:
        """Return the row of the table."""
        doubt = "; ".join(self.tainted) or "none"
        return (
            f"| {self.model} | {self.runtime} | {self.macs:.3f} | {self.ratio.value:.3f} "
            f"[{self.ratio.low:.3f}, {self.ratio.high:.3f}] | {self.realised:.2f} | "
            f"{self.dense_ms:.1f} | {doubt} |"
        )


@click.command()
@click.option("--model", "models", multiple=True, default=MODELS, show_default=True)
@click.option("--macs", default=0.5, show_default=True, help="Budget as share of the dense MACs.")
@click.option("--ranking", default="group", show_default=True)
@click.option("--criterion", default="magnitude", show_default=True)
@click.option("--rounds", default=6, show_default=True, help="Fresh processes of each model.")
@click.option("--threads", default=1, show_default=True)
@click.option("--write", is_flag=True, help="Put the table into benchmarks/RESULTS.md.")
def main(  # noqa: PLR0917 - click passes options by name
    models: tuple[str, ...],
    macs: float,
    ranking: str,
    criterion: str,
    rounds: int,
    threads: int,
    write: bool,
) -> None:
    """Measure the latency ratio against the MAC ratio at batch 1, 224 pixels."""
    settings = MeasureSettings(threads=threads, rounds=rounds, block_seconds=0.5)
    rows = []
    for name in models:
        with tempfile.TemporaryDirectory() as folder:
            share = _artifacts(name, macs, ranking, criterion, Path(folder))
            for runtime in RUNTIMES:
                rows.append(_measure(name, runtime, share, Path(folder), settings))
                click.echo(rows[-1].markdown())
    text = _section(rows, macs, ranking, criterion, settings)
    if write:
        _replace_section(text)
    click.echo(text)


def _artifacts(name: str, macs: float, ranking: str, criterion: str, folder: Path) -> float:
    """Export the dense and the cut network; return the share of MACs that is left."""
    torch.manual_seed(0)
    sample = torch.randn(2, 3, SIZE, SIZE)
    dense = ep.capture(timm.create_model(name, num_classes=10), sample)
    scores = ep.attribute(dense, [], criterion=criterion)
    target = load_target("cpu")
    plan = ep.make_plan(dense, scores, ep.Budget(macs=macs), align=target.align, ranking=ranking)  # type: ignore[arg-type]
    slim = ep.cut(dense, plan)
    proof = ep.verify_cut(dense, slim, plan, sample)
    proof.require()
    for label, model in (("dense", dense), ("slim", slim)):
        export(model, target, folder / label, sample, formats=tuple(RUNTIMES.values()))
    return plan.predicted["macs"] / plan.dense["macs"]


def _measure(name: str, runtime: str, macs: float, folder: Path, settings: MeasureSettings) -> Row:
    files = {"openvino": "openvino/model.xml", "onnx": "onnx/model.onnx"}
    dense, slim = (
        Subject(name=label, artifact=folder / label / files[RUNTIMES[runtime]], backend=runtime)
        for label in ("dense", "slim")
    )
    images = np.random.default_rng(0).standard_normal((1, 3, SIZE, SIZE)).astype(np.float32)
    found = compare(dense, slim, images, settings)
    blocks = [np.median(np.concatenate(run)) for run in found.dense.blocks]
    return Row(
        model=name,
        runtime=runtime,
        macs=macs,
        ratio=latency_ratio(found.dense.blocks, found.slim.blocks),
        dense_ms=float(np.median(blocks)) / 1e6,
        tainted=found.tainted,
    )


def _section(
    rows: list[Row], macs: float, ranking: str, criterion: str, settings: MeasureSettings
) -> str:
    command = (
        f"python benchmarks/realised_speedup.py --macs {macs:g} --ranking {ranking} "
        f"--criterion {criterion} --rounds {settings.rounds} --threads {settings.threads} --write"
    )
    head = "| model | runtime | MACs left | latency left [95 %] | realised | dense ms | doubts |"
    lines = [
        "## Realised speed-up",
        "",
        "Dense against cut in turns, batch 1, 224 pixels, float32. *Realised* is the measured "
        "speed-up over the theoretical one; aim: 0.95.",
        "",
        f"`{command}`, {settings.threads} thread(s) on {platform.machine()}:",
        "",
        head,
        "|---|---|---|---|---|---|---|",
        *(row.markdown() for row in rows),
        "",
    ]
    return "\n".join(lines)


def _replace_section(text: str) -> None:
    """Put the section in place of the one with the same heading, or at the end."""
    old = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else "# Results\n"
    heading = text.splitlines()[0]
    before, found, after = old.partition(heading)
    rest = after.partition("\n## ")
    tail = f"\n## {rest[2]}" if found and rest[1] else "\n"
    RESULTS.write_text(f"{before.rstrip()}\n\n{text}{tail}".rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except EdgepruneError as error:
        raise SystemExit(f"error: {error}") from None
