# ruff: noqa: E501  lines are as trtexec prints them
import json
from pathlib import Path

import pytest

from edgeprune.errors import MeasureError
from edgeprune_benchmarks.layer_graph import with_work
from edgeprune_benchmarks.layer_trtexec import trtexec_profile, trtexec_profile_of

from .layer_case import Widths, write_layers

# As trtexec prints them; names in the first are not escaped.
PROFILE_8_4 = """[
  { "count" : 625 }
, { "name" : "Reformatting CopyNode for Input Tensor 0 to node_stem + PWN(node_stem_relu)", "timeMs" : 36.6844, "averageMs" : 0.058695, "percentage" : 1.20497 }
, { "name" : "node_stem + PWN(node_stem_relu)", "timeMs" : 41.4232, "averageMs" : 0.0662771, "percentage" : 1.36062 }
]
"""
PROFILE_8_6 = """[
  { "count" : 2064 }
, { "name" : "node_stem + node_stem_relu", "timeMs" : 57.9, "averageMs" : 0.0280382, "medianMs" : 0.027872, "percentage" : 10 }
, { "name" : "a "quoted" C:\\new layer", "timeMs" : 1e-05, "averageMs" : 1e-05, "medianMs" : 0, "percentage" : 90 }
]
"""
PROFILE_10_3 = """[
  { "count" : 41400 }
, { "name" : "Reformatting CopyNode for Input Tensor 0 to node_stem + node_stem_relu", "timeMs" : 202.1, "averageMs" : 0.00488, "medianMs" : 0.0048, "percentage" : 3.1 }
, { "name" : "node_stem + node_stem_relu", "timeMs" : 500, "averageMs" : 0.012, "medianMs" : 0.0119, "percentage" : 7.7 }
, { "name" : "{ForeignNode[node_wide...node_head]}", "timeMs" : 5800, "averageMs" : 0.14, "medianMs" : 0.1398, "percentage" : 89 }
]
"""
LAYERS_10_3 = r"""{"Layers": [{
  "Name": "node_stem + node_stem_relu",
  "LayerType": "CaskConvolution",
  "Inputs": [
  {
    "Name": "Reformatted Input Tensor 0 to node_stem + node_stem_relu",
    "Location": "Device",
    "Dimensions": [1,3,8,8],
    "Format/Datatype": "Channel major FP16 format where channel % 4 == 0"
  }],
  "Outputs": [
  {
    "Name": "stem.relu",
    "Location": "Device",
    "Dimensions": [1,32,8,8],
    "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"
  }],
  "ParameterType": "Convolution",
  "TacticName": "sm80_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc_nhwc",
  "TacticValue": "0xc1dd58ad69b9d8b0",
  "StreamId": 0,
  "Metadata": "[ONNX Layer: node_stem]\u001f[ONNX Layer: node_stem_relu]"
},{
  "Name": "{ForeignNode[node_wide...node_head]}",
  "LayerType": "Myelin",
  "Inputs": [],
  "Outputs": [{"Name": "logits", "Dimensions": [-1,5], "Format/Datatype": "N/A due to dynamic shapes"}],
  "Metadata": "[ONNX Layer: node_wide]\u001f[ONNX Layer: node_wide_relu]\u001e[ONNX Layer: node_head]"
}],
"Bindings": ["images", "logits"]
}
"""
LAYERS_11 = r"""{"Layers": [{
  "Name": "node_stem + node_stem_relu", "LayerType": "conv", "Inputs": [],
  "Outputs": [{"Name": "stem.relu", "Dimensions": [1,32,8,8], "Format/Datatype": "Half", "Strides": [1,2]}],
  "TacticName": "sm80_xmma_fprop", "StreamId": 0, "Metadata": "[ONNX Layer: node_stem]"
}],
"I/O Tensors": [{"Name": "images", "IOMode": "kINPUT", "DataType": "Half", "Dimensions": [-1,3,8,8],
  "Location": "Device", "IsShapeInferenceIO": false, "ProfileInfo": []}]
}
"""
NAMES_ONLY = '{"Layers": ["node_stem + node_stem_relu", "node_head"], "Bindings": []}'
TIMES_10 = json.dumps([
    {"startEnqMs": 0.1, "endEnqMs": 0.2, "startComputeMs": 0.1, "endComputeMs": 1.1,
     "computeMs": ms, "h2dMs": 5.0, "d2hMs": 5.0, "latencyMs": ms + 10}
    for ms in (1.0, 1.2, 9.0)
])  # fmt: skip
TIMES_8_5 = json.dumps([{"startComputeMs": 0.25, "endComputeMs": 1.5, "latencyMs": 1.3}])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in (
        ("8.4.json", PROFILE_8_4),
        ("8.6.json", PROFILE_8_6),
        ("10.3.json", PROFILE_10_3),
        ("layers-10.3.json", LAYERS_10_3),
        ("layers-11.json", LAYERS_11),
        ("names.json", NAMES_ONLY),
        ("times.json", TIMES_10),
        ("times-8.5.json", TIMES_8_5),
    ):
        (tmp_path / name).write_text(text)
    return tmp_path


def test_medians_are_taken_where_the_file_has_them_and_means_elsewhere(folder: Path) -> None:
    assert [each.ms for each in trtexec_profile(folder / "8.4.json").layers] == [
        0.058695,
        0.0662771,
    ]
    assert [each.ms for each in trtexec_profile(folder / "8.6.json").layers] == [0.027872, 0.0]


def test_names_that_break_json_are_read_as_they_are(folder: Path) -> None:
    assert trtexec_profile(folder / "8.6.json").layers[1].name == r'a "quoted" C:\new layer'


def test_layer_info_adds_type_precision_shape_and_origins(folder: Path) -> None:
    found = trtexec_profile(folder / "10.3.json", layer_info=folder / "layers-10.3.json")
    copy, stem, rest = found.layers
    assert (copy.type, copy.precision) == ("Reformat", None)
    assert (stem.type, stem.precision, stem.shape) == ("CaskConvolution", "f16", (1, 32, 8, 8))
    assert stem.origins == ("node_stem", "node_stem_relu")
    assert rest.origins == ("node_wide", "node_wide_relu", "node_head")
    assert rest.shape is None  # a size was open


def test_layer_info_of_tensorrt_11_and_of_names_only_is_read(folder: Path) -> None:
    stem = trtexec_profile(folder / "10.3.json", layer_info=folder / "layers-11.json").layers[1]
    assert (stem.precision, stem.origins) == ("f16", ("node_stem",))
    bare = trtexec_profile(folder / "10.3.json", layer_info=folder / "names.json").layers[1]
    assert (bare.type, bare.origins) == ("unknown", ("node_stem", "node_stem_relu"))


def test_whole_inferences_are_the_gpus_median_without_copies(folder: Path) -> None:
    found = trtexec_profile(folder / "10.3.json", times=folder / "times.json")
    assert found.plain_ms == 1.2
    old = trtexec_profile(folder / "10.3.json", times=folder / "times-8.5.json")
    assert old.plain_ms == 1.25


def test_layers_of_an_engine_find_their_work_in_the_onnx_file_it_is_built_of(folder: Path) -> None:
    path = write_layers(folder / "model.onnx", Widths())
    layers = trtexec_profile(folder / "10.3.json").layers  # by names alone
    copy, stem, rest = (layer.work for layer in with_work(path, layers, 1))
    assert copy is None
    assert stem is not None
    assert rest is not None
    assert stem.operators == ("node_stem", "node_stem_relu")
    assert rest.operators[0] == "node_wide"
    assert rest.operators[-1] == "node_head"
    assert rest.anchor == "wide.weight"


def test_files_are_known_by_what_they_hold_in_any_order(folder: Path) -> None:
    whole = trtexec_profile(
        folder / "10.3.json", layer_info=folder / "layers-10.3.json", times=folder / "times.json"
    )
    files = [folder / name for name in ("times.json", "layers-10.3.json", "10.3.json")]
    assert trtexec_profile_of(files) == whole
    assert trtexec_profile_of(files[2:]) == trtexec_profile(folder / "10.3.json")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("times.json",), "no file holds the times of layers"),
        (("10.3.json", "8.6.json"), "both hold times of layers"),
        (("10.3.json", "model.txt"), "is no file that trtexec exported"),
    ],
)
def test_files_that_make_no_profile_are_refused(
    folder: Path, names: tuple[str, ...], message: str
) -> None:
    (folder / "model.txt").write_text("{}")
    with pytest.raises(MeasureError, match=message):
        trtexec_profile_of([folder / name for name in names])


@pytest.mark.parametrize(
    ("which", "text", "message"),
    [
        ("profile", "", "not a file of trtexec --exportProfile"),
        ("profile", '[{"name": "x"}]', "not a file of trtexec --exportProfile"),
        ("layer_info", "[]", "no Layers"),
        ("layer_info", '{"Layers": [', "cannot be read as JSON"),
        ("times", "[]", "not a file of trtexec --exportTimes"),
        ("times", '[{"latencyMs": 1}]', "not a file of trtexec --exportTimes"),
        ("times", "3", "not a file of trtexec --exportTimes"),
    ],
)
def test_a_file_that_is_something_else_is_refused(
    folder: Path, which: str, text: str, message: str
) -> None:
    (folder / "bad.json").write_text(text)
    files = {"profile": folder / "10.3.json", which: folder / "bad.json"}
    with pytest.raises(MeasureError, match=message):
        trtexec_profile(
            files["profile"], layer_info=files.get("layer_info"), times=files.get("times")
        )


def test_a_file_that_is_missing_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(MeasureError, match=r"'none\.json' cannot be read"):
        trtexec_profile(tmp_path / "none.json")
