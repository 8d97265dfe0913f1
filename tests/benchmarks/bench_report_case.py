"""A report of ``bench`` whose numbers are all made up."""

from dataclasses import replace

from edgeprune_benchmarks.bench_report import FORMAT, SCHEMA_VERSION, BenchReport
from edgeprune_benchmarks.machine import Conditions, Machine
from edgeprune_benchmarks.measurement import Comparison, Measurement, MeasureSettings, Run
from edgeprune_benchmarks.metrics import ClassMetrics, Metrics, PairedDifference
from edgeprune_benchmarks.record import Counts, Evidence, Record, make_record

HOSTILE = "<script>|`pipe`\x00\x1b[31m\n& more"
ROUNDS = 4
MACHINE = Machine(
    cpu="Synthetic CPU",
    flags=(),
    cores=4,
    governor=None,
    cgroup_cpus=None,
    memory_bytes=16 * 10**9,
    system="Linux",
    architecture="x86_64",
    python="3.11.9",
    versions={},
)
QUIET = Conditions(steal=0.0, others=0.0, throttled=0, load=None, mhz=None, celsius=None)


def run(milliseconds: float, number: int, inferences: int, precision: str) -> Run:
    """Return a run of two blocks whose times rise a little, and with the run's number."""
    block = tuple(
        int(1e6 * milliseconds * (1 + 0.01 * number + 1e-4 * i)) for i in range(inferences)
    )
    return Run(
        import_ns=10**8,
        load_ns=int(9e6 * milliseconds),
        first_ns=int(2e6 * milliseconds),
        steady=True,
        warmup_ns=(1e6 * milliseconds,),
        blocks_ns=(block, block),
        peak_bytes=100_000_000,
        peak_reason=None,
        precision=precision,
        threads=1,
        cpus=(0,),
        energy_reason="no counter of energy is readable here",
    )


def measurement(name: str, milliseconds: float, inferences: int, precision: str) -> Measurement:
    runs = tuple(run(milliseconds, number, inferences, precision) for number in range(ROUNDS))
    return Measurement(
        name=name,
        artifact="model.onnx",
        bytes=1_000_000,
        files={"model.onnx": "0" * 64},
        backend="onnxruntime",
        version="1.31.1",
        runs=runs,
    )


def metrics(*sensitivity: float) -> Metrics:
    per_class = tuple(
        ClassMetrics(name=f"class {i}", n=10 + i, sensitivity=s, auroc=0.9, average_precision=0.9)
        for i, s in enumerate(sensitivity)
    )
    mean = sum(sensitivity) / len(sensitivity)
    return Metrics(
        n=40,
        multi_label=False,
        accuracy=mean,
        auroc=0.9,
        average_precision=0.9,
        per_class=per_class,
    )


def record(
    *,
    batch: int = 1,
    inferences: int = 20,
    precision: str = "f32",
    tainted: tuple[str, ...] = (),
    noise_floor: float | None = 0.01,
) -> Record:
    """Return a record in which B takes half of A's time and loses two classes' accuracy."""
    comparison = Comparison(
        settings=MeasureSettings(rounds=ROUNDS, blocks=2, batch=batch),
        dense=measurement("first", 2.0, inferences, "f32"),
        slim=measurement("second", 1.0, inferences, precision),
        order=(("dense", "slim", "slim", "dense"),) * ROUNDS,
        machine=MACHINE,
        conditions=(QUIET,) * ROUNDS,
        tainted=tainted,
    )
    return make_record(
        comparison,
        created="2001-01-01T00:00:00+00:00",
        dense=Evidence(metrics=metrics(0.9, 0.8, 0.7), counts=Counts(params=10, macs=20)),
        slim=Evidence(metrics=metrics(0.6, 0.9, 0.5), counts=Counts(params=5, macs=10)),
        difference=PairedDifference(
            accuracy=-0.1,
            low=-0.2,
            high=-0.01,
            disagreement=0.2,
            only_dense_right=5,
            only_slim_right=1,
            p_value=0.03,
        ),
        noise_floor=noise_floor,
    )


def report(*records: Record, a: str = "first", b: str = "second") -> BenchReport:
    """Return a report of these records, or of one."""
    return BenchReport(
        format=FORMAT,
        schema_version=SCHEMA_VERSION,
        edgeprune="0.1.0",
        created="2001-01-01T00:00:00+00:00",
        a=a,
        b=b,
        inputs="noise",
        accuracy_from="made up",
        notes=(),
        records=records or (record(),),
    )


def one_kind_of_time(found: Record, value: int) -> Record:
    """Return the record with all of B's times the same."""
    slim = found.comparison.slim
    runs = tuple(replace(each, blocks_ns=((value,) * 20,) * 2) for each in slim.runs)
    comparison = replace(found.comparison, slim=replace(slim, runs=runs))
    return make_record(comparison, created=found.created)
