"""The one file that says what was done to a model and what came of it.

It opens offline, from a bundle alone, and asks nothing of the network: a clinic
reads it on machines that have none. Everything that users name is escaped by the
templates; Python computes facts and geometry, never markup. Invariant: the same
bundle gives the same bytes.
"""

from pathlib import Path

from edgeprune.errors import BundleError
from edgeprune.files import write_text
from edgeprune.report.classes import classes
from edgeprune.report.cuts import cuts
from edgeprune.report.document import read_documents
from edgeprune.report.evidence import evidence
from edgeprune.report.headline import headline
from edgeprune.report.latency import latencies
from edgeprune.report.making import making
from edgeprune.report.page import environment
from edgeprune.report.proofs import proofs
from edgeprune.report.recovery import recovery

__all__ = ["build_report"]


def build_report(bundle: Path) -> Path:
    """Write ``report.html`` into a bundle folder, whole or not at all, and return its path.

    Raises:
        BundleError: the folder is no bundle, a document in it is damaged, or it cannot be written.
    """
    documents = read_documents(bundle)
    page = (
        environment()
        .get_template("report.html")
        .render(
            headline=headline(documents),
            proofs=proofs(documents),
            cuts=cuts(documents),
            classes=classes(documents),
            recovery=recovery(documents),
            evidence=evidence(documents),
            latencies=latencies(documents),
            making=making(documents),
        )
    )
    path = bundle / "report.html"
    try:
        write_text(path, page)
    except OSError as error:
        raise BundleError(f"report.html cannot be written: {error.strerror or error}") from error
    return path
