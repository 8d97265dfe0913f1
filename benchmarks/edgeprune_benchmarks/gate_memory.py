"""Peak memory of a process that does nothing but load an artifact and run it."""

import tempfile
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeprune_benchmarks.baseline import Peak
from edgeprune_benchmarks.hosts import Host
from edgeprune_benchmarks.machine import fingerprint
from edgeprune_benchmarks.measurement import MeasureSettings, Subject
from edgeprune_benchmarks.rounds import load, machine_of, place

SUBJECT: Final = "measured"
INPUTS: Final = "inputs.npy"


def peak_memory(
    subject: Subject, inputs: NDArray[np.float32], settings: MeasureSettings, host: Host
) -> Peak | None:
    """Run images (N, C, H, W) once, and return the peak; None where the system does not tell.

    Raises:
        MeasureError: the artifact cannot be loaded, or its runner dies.
    """
    placed = {SUBJECT: place(host, subject)}
    with (
        tempfile.TemporaryDirectory(prefix="edgeprune-") as folder,
        host.runner(subject.name) as runner,
    ):
        answer = load({SUBJECT: runner}, placed, settings, batch=settings.batch)[SUBJECT]
        stored = Path(folder) / INPUTS
        np.save(stored, np.ascontiguousarray(inputs, dtype=np.float32))
        given = f"{host.give(stored.parent, [stored], keep=False)}/{INPUTS}"
        words = {"inputs": given, "outputs": f"{host.scratch()}/outputs.npy"}
        runner.ask("predict", settings.timeout, **words, batch=settings.batch)
        peak = runner.ask("memory", settings.timeout).get("peak_bytes")
        machine = machine_of(runner.ask("info", settings.timeout))
    if not isinstance(peak, int):
        return None
    return Peak(
        bytes=peak,
        machine=fingerprint(machine),
        cpu=machine.cpu,
        backend=str(answer.get("backend")),
        version=str(answer.get("version")),
        device=settings.device,
        threads=settings.threads,
        batch=settings.batch,
    )
