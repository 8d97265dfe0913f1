"""What ``export`` prints: one line per artifact, and what a reader must know beside it."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from edgeprune.columns import columns
from edgeprune.pipeline.estimating import estimate_line
from edgeprune.pipeline.exporting import ExportResults

HEAD: Final = (
    "artifact",
    "precision",
    "runs in",
    "error",
    "tolerance",
    "same class",
    "test accuracy",
)

MEASURES: Final = {
    "max_rel": "error: the largest difference of a logit, relative to the largest logit",
    "noise": "error in int8: root mean square of the differences, relative to what images change",
}


def export_lines(results: ExportResults) -> Iterator[str]:
    """Yield a table of the artifacts and sentences about them."""
    document = results.document
    yield f"{document['model']} for {document['target']['name']}"
    yield ""
    yield from columns(HEAD, [_row(each) for each in document["artifacts"]], left=3)
    yield ""
    measures = {each["proof"]["measure"] for each in document["artifacts"]}
    yield from (words for measure, words in MEASURES.items() if measure in measures)
    for artifact in document["artifacts"]:
        name = artifact["files"][0]
        if kept := artifact["kept"]:
            yield f"{name}: {_kept(kept)}; each with its reason in proof.json"
        for note in artifact["notes"]:
            yield f"{name}: {note}"
    if (found := document["estimate"]) is not None:
        yield estimate_line({"": found}, document["target"]["name"])
    for reason in document["not_measured"]:
        yield f"not measured: {reason}"
    yield f"written: {results.folder}"


def _row(artifact: Mapping[str, Any]) -> tuple[str, ...]:
    proof = artifact["proof"]
    return (
        artifact["files"][0],
        artifact["precision"],
        f"{proof['runtime']} {proof['precision']}",
        f"{proof['error']:.1e}",
        f"{proof['tolerance']:.1e}",
        _percent(proof.get("agreement")),
        _percent((proof.get("accuracy") or {}).get("artifact")),
    )


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f} %"


def _kept(kept: list[Mapping[str, Any]]) -> str:
    """Count operators by kind, as ``3 LayerNormalization and 1 Softmax stay in fp32``."""
    counts: dict[tuple[str, str], int] = {}
    for each in kept:
        key = each["operator"], each["precision"]
        counts[key] = counts.get(key, 0) + 1
    return ", ".join(
        f"{count} {operator} stay{'s' * (count == 1)} in {precision}"
        for (operator, precision), count in counts.items()
    )
