"""ONNX files on disk: read with suspicion, written so that equal graphs are equal bytes.

Weights may lie in a second file, since protobuf ends at 2 GiB. Where, is text in
the first: it may lead anywhere. So nothing is read, of our own or of others, whose
weights are not in a plain file beside the graph, within that file's length.
"""

import math
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Final

import onnx
import onnx_ir as ir
from google.protobuf.message import (  # type: ignore[import-untyped]
    DecodeError,
    Message,
)

from edgeprune.errors import ExportError

SINGLE_FILE_BYTES: Final = 2**31 - 2**20  # protobuf ends at 2 GiB; the rest is for the graph
INSIDE_BYTES: Final = 1024  # shapes and the like, whose values inference of shapes needs
PAGE_BYTES: Final = 4096  # weights begin on pages, so that runtimes can map them into memory
EXTERNAL: Final = onnx.TensorProto.EXTERNAL


def save_graph(
    graph: onnx.ModelProto, path: Path, single_file_bytes: int = SINGLE_FILE_BYTES
) -> tuple[str, ...]:
    """Write a graph, equal graphs as equal bytes, and return the names of its files.

    Weights of more bytes than ``single_file_bytes`` lie in ``<name>.data`` beside it.
    """
    weights = sum(tensor.ByteSize() for tensor in graph.graph.initializer)
    if weights <= single_file_bytes:
        path.write_bytes(graph.SerializeToString(deterministic=True))
        return (path.name,)
    beside = path.with_name(f"{path.name}.data")
    light = _without_weights(graph)
    with beside.open("xb") as stream:  # never through a link that is there already
        for tensor in graph.graph.initializer:
            values = onnx.numpy_helper.to_array(tensor).tobytes()
            if len(values) <= INSIDE_BYTES:
                light.graph.initializer.append(tensor)
                continue
            stream.write(bytes(-stream.tell() % PAGE_BYTES))
            entry = light.graph.initializer.add(
                name=tensor.name, data_type=tensor.data_type, dims=tensor.dims
            )
            _point(entry, beside.name, stream.tell(), len(values))
            stream.write(values)
    path.write_bytes(light.SerializeToString(deterministic=True))
    return (path.name, beside.name)


def load_graph(path: Path, *, weights: bool = True) -> onnx.ModelProto:
    """Read a graph, with its weights unless they are not wanted.

    Raises:
        ExportError: the file is not ONNX, or weights that it points to are not in a
            plain file beside it.
    """
    try:
        graph = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise ExportError(f"'{path.name}' is not an ONNX file, or a damaged one") from error
    except OSError as error:
        raise ExportError(f"'{path.name}' cannot be read: {error.strerror}") from error
    if not graph.graph.node:  # any bytes of the right shape are a message without content
        raise ExportError(f"'{path.name}' is not an ONNX file, or one without operators")
    for tensor in _tensors(graph):
        if tensor.data_location == EXTERNAL and (reason := _refusal(tensor, path.parent)):
            raise ExportError(
                f"'{path.name}': the weights of '{tensor.name}' are not read: {reason}"
            )
    if weights:
        onnx.load_external_data_for_model(graph, str(path.parent))
    return graph


def _without_weights(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Copy everything but the initializers, which may fill the memory."""
    light = onnx.ModelProto()
    for whole, part, left_out in (
        (graph, light, "graph"),
        (graph.graph, light.graph, "initializer"),
    ):
        for field, value in whole.ListFields():
            if field.name == left_out:
                continue
            if isinstance(value, Message):
                getattr(part, field.name).CopyFrom(value)
            elif field.message_type is not None:
                getattr(part, field.name).MergeFrom(value)
            else:
                setattr(part, field.name, value)
    return light


def _point(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    tensor.data_location = EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def _tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """Find every tensor: of the graph, of attributes, of graphs and functions within."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for each in [value] if isinstance(value, Message) else value:
                yield from _tensors(each)


def _refusal(tensor: onnx.TensorProto, folder: Path) -> str | None:
    """Say why values outside the file must not be read, or None."""
    said = {entry.key: entry.value for entry in tensor.external_data}
    name = said.get("location", "")
    if name in ("", ".", "..") or any(
        kind(name).name != name for kind in (PurePosixPath, PureWindowsPath)
    ):
        return f"they are said to be at '{name}', and only a file beside it is allowed"
    try:
        found = os.lstat(folder / name)
    except (OSError, ValueError):
        return f"the file '{name}' that holds them is not beside it"
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        return f"'{name}' is a link, or no plain file"
    return _out_of_range(tensor, said, name, found.st_size)


def _out_of_range(
    tensor: onnx.TensorProto, said: Mapping[str, str], name: str, size: int
) -> str | None:
    try:
        offset, length = int(said.get("offset", "0")), _bytes(tensor)
        claimed = int(said.get("length", length))
    except ValueError:
        return "what the file says about their place is malformed"
    if claimed != length:
        return f"{claimed} bytes are given for values that take {length}"
    if offset < 0 or offset + length > size:
        return f"bytes {offset} to {offset + length} lie outside '{name}' ({size} bytes)"
    return None


def _bytes(tensor: onnx.TensorProto) -> int:
    if any(size < 0 for size in tensor.dims):
        raise ValueError("a size is negative")
    bits: int = math.prod(tensor.dims) * int(ir.DataType(tensor.data_type).bitwidth)
    return -(-bits // 8)
