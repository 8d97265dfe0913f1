"""What a graph says about itself: what the caller hands over, and nothing else.

torch stores source lines, file paths and module names in every node; converters
add their settings. All of it is dropped, so a file tells nothing about where it
was made, and the same model gives the same bytes wherever it is exported.
"""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Final

import onnx
from google.protobuf.message import Message  # type: ignore[import-untyped]

FREE_TEXT: Final = frozenset({"doc_string", "metadata_props", "training_info"})
NAME: Final = "model"


def stamp(graph: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    """Clear every text in a graph but names, and store the given ones, in place."""
    graph.DiscardUnknownFields()
    _drop_free_text(graph)
    for field in ("domain", "model_version"):
        graph.ClearField(field)
    graph.graph.name = NAME
    graph.producer_name, graph.producer_version = "edgeprune", version("edgeprune")
    onnx.helper.set_model_props(graph, dict(sorted(metadata.items())))


def _drop_free_text(message: Message) -> None:
    """Clear documentation and metadata in a message and everything below it."""
    for entry, value in message.ListFields():
        if entry.name in FREE_TEXT:
            message.ClearField(entry.name)
        elif isinstance(value, Message):
            _drop_free_text(value)
        elif entry.message_type is not None:
            for each in value:
                _drop_free_text(each)
