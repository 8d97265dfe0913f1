"""What ``targets`` and an estimate look like: complete, aligned, and with their sources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import click
import pytest

from edgeprune.capture import Captured
from edgeprune.target_listing import (
    FIELDS,
    OWN_TARGET,
    estimate_lines,
    target_details,
    target_lines,
    targets_help,
)
from edgeprune.targets import Device, Rates, Target, load_target, target_names
from edgeprune.targets.roofline import calibrated, estimate

CaptureOf = Callable[..., Captured]


def test_every_target_has_a_line_that_begins_with_its_name() -> None:
    head, *rows = target_lines()
    assert head.split() == ["target", "runtime", "precision", "TensorRT", "JetPack", "device"]
    listed = {row.split()[0]: row for row in rows if row}
    assert set(target_names()) <= set(listed)
    for name in target_names():
        assert load_target(name).description in listed[name] or "another name" in listed[name]
    column = head.index("TensorRT")
    assert listed["jetson-xavier"][column:].startswith("8.5 ")
    assert listed["jetson-thor"][column:].startswith("10.13 ")
    assert listed["cpu"][column:].startswith("   ")


@pytest.mark.parametrize("name", target_names())
def test_details_tell_every_fact_with_its_source(name: str) -> None:
    target = load_target(name)
    text = "\n".join(target_details(target))
    for table in (target.device, target.rates):
        if table is not None:
            assert table.source in text
            assert (table.doubt or "") in text
    if target.rates is not None:
        assert f"{target.rates.fp16_tflops:g} TFLOPS" in text
        assert f"{target.rates.bandwidth_gbs:g} GB/s" in text
    else:
        assert "no estimate" in text
    assert (target.not_measured or "") in text
    assert "None" not in text


def test_details_name_the_alias() -> None:
    assert "also named: jetson" in list(target_details(load_target("jetson")))
    assert not any("also named" in line for line in target_details(load_target("cpu")))


def test_details_of_a_target_of_ones_own_leave_out_what_it_does_not_say() -> None:
    target = replace(
        load_target("cpu"),
        device=Device(source="label"),
        rates=Rates(source="label", fp32_tflops=1, bandwidth_gbs=40),
        precisions=("fp32",),
        processor="x86",
    )
    lines = list(target_details(target))
    assert not any(word in line for line in lines for word in ("JetPack", "int8", "GPU", "None"))
    assert any(line.split() == ["processor", "x86"] for line in lines)


def test_long_lines_break_at_the_width_of_a_terminal() -> None:
    narrow = list(target_details(load_target("jetson"), 60))
    sources = [line for line in narrow if line.startswith(("  source", "    ", "note"))]
    assert max(map(len, sources)) <= 60
    assert len(narrow) > len(list(target_details(load_target("jetson"))))


def test_an_estimate_has_a_line_per_layer_and_the_word_beside_its_number(
    capture_of: CaptureOf,
) -> None:
    found = estimate(capture_of("Chain"), load_target("jetson"), precision="fp16", batch=2)
    head, _, columns, *rows = estimate_lines(found)
    assert head == (
        f"estimate, uncalibrated: {found.ms:.3g} ms on 'jetson-orin-nano' in fp16 at batch 2"
    )
    assert columns.split()[:2] == ["layer", "operators"]
    layers = rows[: rows.index("")]
    assert len(layers) == len(found.layers)
    assert layers[0].split()[:5] == ["conv1", "conv2d,", "batch_norm,", "relu", "launch"]
    assert sum(float(row.split()[-2]) for row in layers) == pytest.approx(100, abs=1)
    for sentence in found.assumptions:
        assert f"assumed: {sentence}" in rows


def test_shares_by_bound_are_whole(capture_of: CaptureOf) -> None:
    found = estimate(capture_of("Residual"), load_target("jetson"), precision="fp32")
    line = next(line for line in estimate_lines(found) if line.startswith("time by"))
    assert sum(int(word) for word in line.split() if word.isdigit()) == pytest.approx(100, abs=1)


def test_a_calibrated_estimate_says_so(capture_of: CaptureOf) -> None:
    found = estimate(capture_of("Chain"), load_target("jetson"), precision="fp16")
    assert next(estimate_lines(calibrated(found, 2 * found.ms))).startswith(
        "estimate, calibrated by one measured latency (times 2.00):"
    )


def test_the_help_names_every_field() -> None:
    for kind in (Target, Device, Rates):
        for field in fields(kind):
            assert field.name in FIELDS or field.name == "name"


def test_the_example_in_the_help_is_a_target(tmp_path: Path) -> None:
    path = tmp_path / "ward.toml"
    path.write_text(OWN_TARGET, encoding="utf-8")
    target = load_target(path)
    assert (target.max_batch, target.runtime) == (4, "tensorrt")
    assert target.rates is not None
    assert target.rates.bandwidth_gbs == 102
    assert target.rates.source.startswith("its data sheet; what it leaves out: ")


def test_click_leaves_the_example_in_the_help_as_it_is() -> None:
    command = click.Command("targets", epilog=targets_help())
    shown = command.get_help(click.Context(command, max_content_width=100))
    for line in (*OWN_TARGET.splitlines(), *FIELDS.splitlines()):
        assert line.rstrip() in shown
