"""Hold an artifact against the model it was made from."""

from edgeprune_exporters.job import Job
from edgeprune_exporters.parity import ParityProof, Runtime, prove


def prove_artifact(runtime: Runtime, job: Job, precision: str) -> ParityProof:
    """Run the artifact on the job's images, and compare.

    Raises:
        ParityError: a batch does not run, or gives logits of another shape.
    """
    return prove(runtime, job.batches, job.note)
