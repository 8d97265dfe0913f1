"""Layers of real runtimes: which there are, what they do, how they are matched; never how fast."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeprune.errors import MeasureError, UsageError
from edgeprune.layer_listing import layer_lines
from edgeprune.pipeline.layering import compare_layer_profiles, compare_layers, compare_trtexec
from edgeprune.targets import load_target
from edgeprune_benchmarks.codec import decode, encode
from edgeprune_benchmarks.layer_causes import CAUSES
from edgeprune_benchmarks.layer_values import Profile
from edgeprune_benchmarks.layers import LayerComparison
from edgeprune_benchmarks.measurement import MeasureSettings, Subject

from ..benchmarks.layer_case import Widths, layer_time, macs_of, write_layers

DENSE, SLIM = Widths(), Widths(stem=16, wide=127)
BRIEF = MeasureSettings(
    batch=2, block_seconds=0.01, warmup_seconds=0.02, warmup_limit=0.1, timeout=60.0
)


def images(count: int = 2) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(count, 3, 8, 8)).astype(np.float32)


def pair(folder: Path) -> tuple[Subject, Subject]:
    return (
        Subject(name="dense", artifact=write_layers(folder / "dense.onnx", DENSE)),
        Subject(name="slim", artifact=write_layers(folder / "slim.onnx", SLIM)),
    )


def as_ir(subject: Subject) -> Subject:
    from edgeprune_exporters.runtimes import import_openvino

    ov = import_openvino()
    path = subject.artifact.with_suffix(".xml")
    ov.save_model(ov.Core().read_model(subject.artifact), path, compress_to_fp16=False)
    return replace(subject, artifact=path)


@pytest.fixture(scope="module", params=["onnxruntime", "openvino", "openvino on ONNX"])
def found(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> LayerComparison:
    dense, slim = pair(tmp_path_factory.mktemp("layers"))
    if request.param == "openvino":
        dense, slim = as_ir(dense), as_ir(slim)
    elif request.param == "openvino on ONNX":
        dense, slim = replace(dense, backend="openvino"), replace(slim, backend="openvino")
    return compare_layers(dense, slim, images(), BRIEF)


def test_every_layer_with_a_weight_is_matched_and_does_what_its_graph_says(
    found: LayerComparison,
) -> None:
    for side, widths in (("dense", DENSE), ("slim", SLIM)):
        layers = {each.name: getattr(each, side) for each in found.layers}
        macs = {name: one.work.macs for name, one in layers.items() if one and one.work}
        assert {k: v for k, v in macs.items() if v} == macs_of(widths, batch=2)


def test_layers_add_up_to_the_whole_network(found: LayerComparison) -> None:
    assert found.dense.macs == sum(macs_of(DENSE, batch=2).values())
    assert found.slim.macs == sum(macs_of(SLIM, batch=2).values())
    saved = 1 - sum(macs_of(SLIM).values()) / sum(macs_of(DENSE).values())
    assert found.macs_saved == pytest.approx(saved)
    assert found.realised == pytest.approx(found.time_saved / saved)
    assert found.dense.layers_ms == pytest.approx(
        sum(each.dense.time.ms for each in found.layers if each.dense)
    )


def test_whole_inferences_stand_beside_the_sum_of_layers(found: LayerComparison) -> None:
    for side in (found.dense, found.slim):
        assert side.profiled_ms is not None
        assert side.plain_ms is not None
        assert side.profiled_ms > 0 < side.plain_ms


def test_widths_before_and_after_are_known(found: LayerComparison) -> None:
    widths = {
        each.name: tuple(one.work.widths for one in (each.dense, each.slim) if one and one.work)
        for each in found.layers
    }
    assert widths["wide.weight"] == ((32, 128), (16, 127))
    assert widths["deep.weight"] == ((128,), (127,))
    assert widths["head.weight"] == ((16, 5), (16, 5))


def test_losses_are_sorted_and_each_has_a_known_cause(found: LayerComparison) -> None:
    lost = [each.lost_ms for each in found.layers]
    assert lost == sorted(lost, reverse=True)
    assert {each.cause for each in found.layers} <= {"saved", "gone", *CAUSES}
    assert found.block == 16 or load_target("arm-cpu").align == found.block


def test_a_comparison_of_layers_can_be_written_and_read_again(found: LayerComparison) -> None:
    document = json.loads(json.dumps(encode(found)))
    assert decode(LayerComparison, document) == found
    assert not re.search(r"dense\.onnx|/tmp|edgeprune-", json.dumps(document))  # no path


def test_the_listing_names_every_layer_and_both_sums(found: LayerComparison) -> None:
    text = "\n".join(layer_lines(found))
    for name in ("stem.weight", "wide.weight", "deep.weight", "narrow.weight", "head.weight"):
        assert name in text
    assert "32×128 → 16×127" in text
    assert f"{found.dense.layers_ms:.3f}" in text
    assert "became time" in text


def engine(folder: Path, name: str, widths: Widths) -> Subject:
    """Return a TensorRT subject of which only the recipe and the ONNX file are here."""
    place = folder / name
    place.mkdir()
    write_layers(place / "model.onnx", widths)
    (place / "recipe.json").write_text('{"onnx": "model.onnx"}')
    return Subject(name=name, artifact=place / "engine.plan")


def profile(*times: float) -> Profile:
    names = ("node_stem", "node_wide", "node_deep", "node_narrow", "node_head")
    rows = zip(names, times, strict=True)
    return Profile(
        profiler="trtexec",
        layers=tuple(layer_time(name, ms=ms, precision="f16") for name, ms in rows),
    )


def test_profiles_of_a_device_are_judged_by_its_targets_rates(tmp_path: Path) -> None:
    target = load_target("jetson-orin-nano")
    found = compare_layer_profiles(
        (engine(tmp_path, "dense", DENSE), profile(0.05, 2.0, 0.1, 0.08, 0.006)),
        (engine(tmp_path, "slim", SLIM), profile(0.025, 2.1, 0.1, 0.08, 0.006)),
        replace(BRIEF, batch=1, precision="f16"),
        target=target,
    )
    causes = {each.name: each.cause for each in found.layers}
    assert causes["stem.weight"] == "saved"
    assert causes["wide.weight"] == "misaligned"
    assert found.block == 8
    assert target.rates is not None
    assert target.rates.source in found.roofline.source
    (sentence,) = (line for line in found.summary if line.startswith("misaligned"))
    assert "1 layer loses 1.108 ms, 48% of slim's time" in sentence
    assert found.layers[0].name == "wide.weight"


def exported(path: Path, *rows: tuple[str, float]) -> Path:
    lines = [
        f'{{ "name" : "{name}", "timeMs" : 9, "averageMs" : {ms}, "medianMs" : {ms}, '
        f'"percentage" : 1 }}'
        for name, ms in rows
    ]
    path.write_text('[\n  { "count" : 7 }\n, ' + "\n, ".join(lines) + "\n]\n")
    return path


def test_what_trtexec_exported_of_two_onnx_files_is_compared(tmp_path: Path) -> None:
    rows = (("node_stem + node_stem_relu", 0.1), ("node_wide + node_wide_relu", 1.0))
    before = write_layers(tmp_path / "before.onnx", DENSE)
    after = write_layers(tmp_path / "after.onnx", SLIM)
    files = [[exported(tmp_path / f"{name}.json", *rows)] for name in "ab"]
    found = compare_trtexec(before, after, files, batch=4)
    assert (found.dense.name, found.slim.name) == ("before.onnx", "after.onnx")
    assert found.profiler == "trtexec"
    assert found.dense.macs == sum(list(macs_of(DENSE, batch=4).values())[:2])
    assert found.roofline.gmacs is not None
    again = compare_trtexec(before, before, files)
    assert (again.dense.name, again.slim.name) == ("before.onnx (A)", "before.onnx (B)")


def test_layers_of_unknown_type_are_judged_at_the_targets_precision(tmp_path: Path) -> None:
    path = write_layers(tmp_path / "model.onnx", DENSE)
    files = [[exported(tmp_path / f"{name}.json", ("node_wide", 1.0))] for name in "ab"]
    target = load_target("jetson-orin-nano")
    found = compare_trtexec(path, path, files, target=target)
    assert target.rates is not None
    assert target.precision == "fp16"
    half = target.rates.fp16_tflops or 0.0
    assert found.roofline.gmacs == pytest.approx(1e3 * half / 2 * target.rates.compute_share)


def test_profiles_of_one_file_alone_are_refused(tmp_path: Path) -> None:
    path = write_layers(tmp_path / "model.onnx", DENSE)
    files = [[exported(tmp_path / f"{name}.json", ("node_wide", 1.0))] for name in "ab"]
    with pytest.raises(UsageError, match="is no bundle: give the artifact"):
        compare_trtexec(path, None, files)


def test_an_engine_without_a_target_is_judged_by_blocks_of_a_gpu(tmp_path: Path) -> None:
    found = compare_layer_profiles(
        (engine(tmp_path, "dense", DENSE), profile(1, 1, 1, 1, 1)),
        (engine(tmp_path, "slim", SLIM), profile(1, 1, 1, 1, 1)),
        replace(BRIEF, batch=1),
    )
    assert found.block == load_target("gpu").align
    assert "estimated from the layers themselves" in found.roofline.source


def test_layers_that_do_not_add_up_and_profiles_that_differ_are_said(tmp_path: Path) -> None:
    times = profile(1, 1, 1, 1, 1)
    found = compare_layer_profiles(
        (engine(tmp_path, "dense", DENSE), replace(times, plain_ms=4.0, spread=0.5)),
        (engine(tmp_path, "slim", SLIM), replace(times, plain_ms=5.1, spread=0.01)),
        replace(BRIEF, batch=1),
    )
    assert len(found.notes) == 2
    assert found.notes[0].startswith("dense: its layers do not add up")
    assert "repeated profiles differ by 50%" in found.notes[1]


def test_time_in_layers_that_no_operator_was_found_for_is_said(tmp_path: Path) -> None:
    odd = replace(
        profile(1, 1, 1, 1, 1), layers=(layer_time("secret kernel"), layer_time("node_stem"))
    )
    found = compare_layer_profiles(
        (engine(tmp_path, "dense", DENSE), odd), (engine(tmp_path, "slim", SLIM), odd), BRIEF
    )
    assert any("50% of the time is in layers for which the graph has no" in n for n in found.notes)


def test_a_recipe_that_is_damaged_is_a_clear_error(tmp_path: Path) -> None:
    subject = engine(tmp_path, "dense", DENSE)
    subject.artifact.with_name("recipe.json").write_text("{")
    with pytest.raises(MeasureError, match=r"dense: its recipe\.json cannot be read"):
        compare_layer_profiles(
            (subject, profile(1, 1, 1, 1, 1)), (subject, profile(1, 1, 1, 1, 1)), BRIEF
        )


def test_too_few_images_for_a_batch_are_refused(tmp_path: Path) -> None:
    dense, slim = pair(tmp_path)
    with pytest.raises(MeasureError, match=r"N ≥ 2"):
        compare_layers(dense, slim, images(1), BRIEF)


def test_an_artifact_that_is_gone_is_a_clear_error(tmp_path: Path) -> None:
    dense, slim = pair(tmp_path)
    slim.artifact.unlink()
    with pytest.raises(MeasureError, match="slim: there is no file"):
        compare_layers(dense, slim, images(), BRIEF)
