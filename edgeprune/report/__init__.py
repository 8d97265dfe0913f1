"""The one file that says what was done to a model and what came of it.

It opens offline, from a bundle alone, and asks nothing of the network: a clinic
reads it on machines that have none. Everything that users name is escaped by the
templates; Python computes facts and geometry, never markup. Invariant: the same
bundle gives the same bytes.
"""

from pathlib import Path
from typing import Final

import jinja2

from edgeprune.errors import BundleError
from edgeprune.files import write_text
from edgeprune.report import formats
from edgeprune.report.classes import classes
from edgeprune.report.cuts import cuts
from edgeprune.report.document import read_documents
from edgeprune.report.evidence import evidence
from edgeprune.report.headline import headline
from edgeprune.report.latency import latencies
from edgeprune.report.making import making
from edgeprune.report.proofs import proofs
from edgeprune.report.recovery import recovery

__all__ = ["build_report"]

FILTERS: Final = {"count": formats.count, "percent": formats.percent}


def build_report(bundle: Path) -> Path:
    """Write ``report.html`` into a bundle folder, whole or not at all, and return its path.

    Raises:
        BundleError: the folder is no bundle, a document in it is damaged, or it cannot be written.
    """
    documents = read_documents(bundle)
    page = (
        _environment()
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


def _environment() -> jinja2.Environment:
    """Return templates that escape what they print and refuse what they do not know."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("edgeprune.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    return environment
