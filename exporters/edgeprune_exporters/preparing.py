"""The float32 graph that every format and precision starts from, proven.

An error in it would be in everything that is converted from it, and be taken there
for one of the conversion.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from edgeprune.errors import ExportError
from edgeprune_exporters.deviation import first_deviation
from edgeprune_exporters.external_data import save_graph
from edgeprune_exporters.model import Exportable
from edgeprune_exporters.parity import Batch, ParityProof, prove
from edgeprune_exporters.runtimes import load_onnxruntime
from edgeprune_exporters.simplifying import require_onnxsim, simplified
from edgeprune_exporters.stamping import stamp


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """A graph with its proof.

    Attributes:
        graph: the model in float32. Do not change it: it is shared.
        proof: how far it is from the model in ONNX Runtime.
        notes: what a user should know, one sentence each.
    """

    graph: onnx.ModelProto
    proof: ParityProof
    notes: tuple[str, ...] = ()


def prepare(
    model: Exportable, graph: onnx.ModelProto, batches: Sequence[Batch], *, simplify: bool
) -> Prepared:
    """Hold a graph against its model, and simplify it where that is asked for and pays.

    Raises:
        ExportError: ONNX Runtime cannot load the graph, or onnxsim is missing.
        ParityError: the graph does not compute what the model computes; where it first
            deviates is named.
    """
    if simplify:
        require_onnxsim()
    proof = _prove(model, graph, batches)
    if not proof.ok:
        proof.require("onnx", model.rounding(batches))
    if not simplify:
        return Prepared(graph=graph, proof=proof)
    before = len(graph.graph.node)
    try:
        simpler = simplified(graph)
        after = len(simpler.graph.node)
        if after >= before:
            return _unsimplified(graph, proof, f"it leaves all {before} operators")
        stamp(simpler, {each.key: each.value for each in graph.metadata_props})
        found = _prove(model, simpler, batches)
    except ExportError as error:
        return _unsimplified(graph, proof, str(error))
    if not found.ok:
        return _unsimplified(graph, proof, f"its graph is {found.max_rel:.1e} from the model")
    note = f"onnxsim simplified the graph from {before} to {after} operators"
    return Prepared(graph=simpler, proof=found, notes=(note,))


def _unsimplified(graph: onnx.ModelProto, proof: ParityProof, reason: str) -> Prepared:
    note = f"onnxsim was asked for, and its result was not taken: {reason}"
    return Prepared(graph=graph, proof=proof, notes=(note,))


def _prove(model: Exportable, graph: onnx.ModelProto, batches: Sequence[Batch]) -> ParityProof:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        save_graph(graph, path)
        proof = prove(load_onnxruntime(path), batches, reference=model.reference)
        if proof.ok:
            return proof
        return replace(proof, deviation=first_deviation(path, model, batches, proof))
