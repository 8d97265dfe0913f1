"""Can the measurements be trusted? False alarms, misses, and what other instruments say.

Gates compare a network with itself (quiet, and with another core kept busy) and
with a copy that takes 5 % longer; then medians are compared with OpenVINO's
``benchmark_app`` and ONNX Runtime's own profiler, and peak memory with
``/usr/bin/time -v``. Two hours on a quiet machine; what is finished lies in --work.

    python benchmarks/trust.py --gates 100 --work DIR --write
"""

import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from edgeprune.console import RichReporter
from edgeprune.errors import EdgepruneError
from edgeprune.files import write_json
from edgeprune_benchmarks.measurement import MeasureSettings
from edgeprune_benchmarks.noise import measure_noise
from results_file import write_section
from trust_agreement import Agreement, agreements
from trust_case import RUNTIMES, Case, make_case
from trust_gates import KINDS, Outcome, row, run_gates

EXPLAINED: Final = (
    "A gate is `edgeprune gate --quick` on latency: both artifacts in alternating blocks, and a "
    "second measurement in fresh processes before anything is called a regression. It was run as "
    "allowing 2 %; the column for 5 % applies that limit to the same measurements. Intervals are "
    "exact (Clopper and Pearson). Half of the gates ran in OpenVINO, half in ONNX Runtime."
)


@click.command()
@click.option("--gates", default=100, show_default=True, help="Of each kind.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(list(KINDS)), default=list(KINDS))
@click.option("--network", default="resnet18", show_default=True, help="What the gates compare.")
@click.option("--size", default=112, show_default=True, help="Edge of its images in pixels.")
@click.option("--peer-network", default="resnet50", show_default=True, help="What peers measure.")
@click.option("--seconds", default=10.0, show_default=True, help="Of each turn of a peer.")
@click.option("--cpu", default=1, show_default=True, help="Core to measure on.")
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Keep results here.")
@click.option("--no-peers", is_flag=True, help="Gates only.")
@click.option("--note", default="", help="What else went on, to be told with the results.")
@click.option("--write", is_flag=True, help="Put the tables into benchmarks/RESULTS.md.")
def main(  # noqa: PLR0917 - click passes options by name
    gates: int,
    kinds: Sequence[str],
    network: str,
    size: int,
    peer_network: str,
    seconds: float,
    cpu: int,
    work: Path,
    no_peers: bool,
    note: str,
    write: bool,
) -> None:
    """Measure how far the measurements can be trusted."""
    work.mkdir(parents=True, exist_ok=True)
    settings = replace(MeasureSettings.quick(), cpus=(cpu,))
    case = make_case(network, size, work)
    floor = _noise_floor(case, settings, work / "noise.json")
    outcomes = {}
    reporter = RichReporter(Console(stderr=True))
    for kind in kinds:
        with reporter.track(KINDS[kind], gates) as advance:
            outcomes[kind] = run_gates(
                kind,
                gates,
                case,
                settings,
                noise_floor=floor,
                journal=work / f"{kind}.jsonl",
                advance=advance,
            )
        click.echo(row(kind, outcomes[kind], floor))
    peers: tuple[Agreement, ...] = ()
    if not no_peers:
        peers = agreements(make_case(peer_network, 224, work), settings, seconds)
    text = _section(outcomes, floor, peers, f"{network} at {size} pixels, batch 1. {note}".strip())
    if write:
        write_section("trust", text)
    click.echo(text)


def _noise_floor(case: Case, settings: MeasureSettings, path: Path) -> float:
    """Return the larger noise floor of the two runtimes, as `edgeprune bench --aa` finds it."""
    found = []
    for runtime in RUNTIMES:
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if runtime not in known:
            floor, _ = measure_noise(case.subject(runtime), case.images, settings)
            known[runtime] = floor.value
            write_json(path, known)
        found.append(float(known[runtime]))
    return max(found)


def _section(
    outcomes: dict[str, tuple[Outcome, ...]],
    floor: float,
    peers: Sequence[Agreement],
    network: str,
) -> str:
    command = "python " + " ".join(["benchmarks/trust.py", *_shown(sys.argv[1:])])
    table = [
        "| gate | n | fails, 2 % allowed | fails, 5 % allowed | inconclusive | "
        "ratio, median (range) | half width | seconds |",
        "|---|---|---|---|---|---|---|---|",
        *(row(kind, found, floor) for kind, found in outcomes.items()),
    ]
    measured = f"Noise floor measured before: {100 * floor:.1f} %. Network: {network}"
    parts = [
        "## Trust",
        f"`{command}`, one thread on {platform.machine()}.",
        f"{EXPLAINED} {measured}",
        "\n".join(table),
    ]
    if peers:
        head = "| figure | other instrument | ours | theirs | ours / theirs | aim | agrees |"
        parts.append("\n".join([head, "|---|---|---|---|---|---|---|", *(p.row() for p in peers)]))
    return "\n\n".join(parts)


def _shown(words: Sequence[str]) -> list[str]:
    """Return the command's words without the folder on this machine and the long text."""
    hidden = {"--work": "DIR", "--note": "…"}
    pairs = zip(["", *words], words, strict=False)
    return [hidden.get(before, word) for before, word in pairs]


if __name__ == "__main__":
    try:
        main()
    except EdgepruneError as error:
        raise SystemExit(f"error: {error}") from None
