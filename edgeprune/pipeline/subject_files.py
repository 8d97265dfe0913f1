"""What files of the runtimes say about themselves, read without any runtime."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from edgeprune.errors import ModelError

OWN: Final = "edgeprune"  # the section of a file's own texts, and the first part of their names
BACKENDS: Final[Mapping[str, str]] = {
    ".onnx": "onnxruntime",
    ".xml": "openvino",
    ".pt2": "torch",
    ".plan": "tensorrt",
}
LOADS: Final[Mapping[str, tuple[str, ...]]] = {  # runtime → suffixes of what it loads
    "onnxruntime": (".onnx",),
    "openvino": (".xml", ".onnx"),
    "tensorrt": (".plan", ".json"),
    "torch": (".pt2",),
}
RECIPE: Final = "recipe.json"


def texts_in(path: Path) -> Mapping[str, str]:
    """Return what a file says about itself: labels, preprocessing, its source.

    Raises:
        ModelError: the file is damaged.
    """
    if path.suffix == ".onnx":
        return _onnx_texts(path)
    if path.suffix == ".xml":
        return _openvino_texts(path)
    recipe = path if path.name == RECIPE else path.with_name(RECIPE)
    if path.suffix in (".plan", ".json") and recipe.is_file():
        graph = recipe.with_name(str(read_recipe(recipe).get("onnx")))
        return _onnx_texts(graph) if graph.is_file() else {}
    return {}


def read_recipe(path: Path) -> Mapping[str, Any]:
    """Return a recipe for TensorRT.

    Raises:
        ModelError: it is none.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"'{path}' cannot be read as a recipe for TensorRT: {error}") from None
    if not isinstance(document, dict) or "onnx" not in document:
        raise ModelError(f"'{path}' is no recipe for TensorRT: give what `edgeprune export` wrote")
    return document


def _onnx_texts(path: Path) -> Mapping[str, str]:
    try:
        graph = onnx.load(path, load_external_data=False)
    except (OSError, DecodeError) as error:
        raise ModelError(f"'{path}' is not valid ONNX: {error}") from None
    return {each.key: each.value for each in graph.metadata_props}


def _openvino_texts(path: Path) -> Mapping[str, str]:
    try:
        # The file is the user's own, and about to be loaded: Python's expat bounds entities.
        root = ET.parse(path).getroot()  # noqa: S314
    except (OSError, ET.ParseError) as error:
        raise ModelError(f"'{path}' is not valid OpenVINO XML: {error}") from None
    own = root.find(f"rt_info/{OWN}")
    return {each.tag: each.get("value", "") for each in (() if own is None else own)}
