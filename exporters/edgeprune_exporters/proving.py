"""Hold an artifact against the model it was made from."""

from dataclasses import replace

from edgeprune_exporters.calls import Accuracy
from edgeprune_exporters.deviation import first_deviation
from edgeprune_exporters.job import Job
from edgeprune_exporters.judging import accuracy_of, predict
from edgeprune_exporters.parity import ParityProof, Runtime, prove
from edgeprune_exporters.tolerances import limit_for
from edgeprune_exporters.within import faulty_layer


def prove_artifact(runtime: Runtime, job: Job, precision: str) -> ParityProof:
    """Run the artifact on the job's images, and compare.

    In int8, where logits tell little of a fault, the file is looked into as well. A
    proof that holds tells the accuracy on the test split, if there is one; one that
    fails tells where the artifact first leaves the model's values.

    Raises:
        ParityError: a batch does not run, or gives logits of another shape.
    """
    proof = prove(
        runtime,
        job.batches,
        job.note,
        limit=limit_for(job.model, job.batches, precision),
        reference=job.model.reference,
        multi_label=is_multi_label(job),
    )
    if proof.ok and precision == "int8":
        proof = replace(proof, deviation=_faulty_layer(runtime, job))
        if not proof.ok:
            return proof
    if proof.ok:
        return replace(proof, accuracy=_accuracy(runtime, job, precision))
    return replace(proof, deviation=first_deviation(runtime.path, job.model, job.batches, proof))


def _faulty_layer(runtime: Runtime, job: Job) -> str | None:
    if runtime.path is None:
        return None
    few = next((b.images for b in job.batches if len(b.images) > 1), job.batches[0].images)
    try:
        return faulty_layer(runtime.path, job.model, few)
    except Exception:  # a runtime that cannot show its values says nothing against them
        return None


def is_multi_label(job: Job) -> bool:
    """Whether labels say that each logit is a finding of its own."""
    splits = (job.images.test, job.images.validation)
    return any(split is not None and split.labels.ndim == 2 for split in splits)


def _accuracy(runtime: Runtime, job: Job, precision: str) -> Accuracy | None:
    own, split = job.test_logits, job.images.test
    if own is None or split is None:
        return None
    title = f"{runtime.name} {precision}: test images"
    actual = predict(runtime.run, split, title=title, batch=job.fixed_batch, reporter=job.reporter)
    return accuracy_of(actual, own, split.labels)
