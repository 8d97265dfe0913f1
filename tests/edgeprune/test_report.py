"""What the report of a made-up bundle shows, and what it must never do."""

import base64
import html
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeprune.errors import BundleError
from edgeprune.report import build_report
from edgeprune.report.formats import THIN

from .synthetic_bundle import HOSTILE, SMALL, Json, bundle_document, results_document, write_bundle


def _page(folder: Path) -> str:
    return build_report(folder).read_text(encoding="utf-8")


def _text(page: str) -> str:
    """Return what a reader sees, in one line."""
    body = re.sub(r"(?s)<(style|head)\b.*?</\1>", "", page)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", body))).replace(THIN, " ")


def _edit(folder: Path, name: str, **changes: Any) -> Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes))
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return _page(write_bundle(tmp_path_factory.mktemp("bundle")))


def test_the_page_refers_to_nothing_outside_itself(page: str) -> None:
    targets = re.findall(r"""(?:src|href|action|srcset)\s*=\s*["']?([^"'\s>]*)""", page)
    assert targets
    assert all(target.startswith(("data:image/png;base64,", "#")) for target in targets)
    assert not re.search(r"https?:|url\(|@import|<script|<link|<iframe", page)
    assert "default-src 'none'" in page


def test_every_reference_inside_the_page_has_its_target(page: str) -> None:
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]*)"', page)) <= set(ids)


def test_names_given_by_users_are_escaped(page: str) -> None:
    assert HOSTILE not in page
    assert html.escape(HOSTILE) in page


def test_the_verdict_says_size_speed_with_interval_and_accuracy(page: str) -> None:
    text = _text(page)
    assert "2.1× smaller" in text
    assert "1.8× faster [1.7, 1.9]" in text
    assert "accuracy 93.1 % → 92.6 %" in text
    assert "11 173 962" in text


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        ({"value": 1.25, "low": 1.2, "high": 1.3, "verdict": "slower"}, "1.25× slower"),
        (
            {"value": 0.99, "low": 0.97, "high": 1.01, "verdict": "not distinguishable"},
            "no measurable difference in speed",
        ),
        (None, "speed not measured"),
    ],
)
def test_the_verdict_follows_the_interval(tmp_path: Path, ratio: Json | None, said: str) -> None:
    folder = write_bundle(tmp_path, examples=1)
    page = _page(_edit(folder, "bundle", results=results_document() | {"latency_ratio": ratio}))
    claims = page[page.index('class="claims"') : page.index('class="lead"')]
    assert said in _text(claims)
    assert "faster" not in claims


def test_a_bundle_without_measurements_says_so_and_invents_nothing(tmp_path: Path) -> None:
    path = tmp_path / "bundle.json"
    path.write_text(json.dumps({"source": {"name": "resnet18"}, "target": {"name": "cpu"}}))
    text = _text(_page(tmp_path))
    for sentence in (
        "size not measured",
        "speed not measured",
        "accuracy not measured",
        "The cut was not verified.",
        "No artifact was compared with torch.",
        "The bundle holds no plan.",
        "Sensitivity and AUROC of single classes were not measured.",
        "The bundle holds no history of a recovery.",
        "No heat maps were made.",
        "Latency was not measured.",
    ):
        assert sentence in text
    assert not re.search(r"\d", text.replace("resnet18", "").replace("p90", ""))


@pytest.mark.parametrize("missing", ["plan.json", "record.json", "evidence/examples.npz"])
def test_any_optional_file_may_be_missing(tmp_path: Path, missing: str) -> None:
    folder = write_bundle(tmp_path, examples=1)
    (folder / missing).unlink()
    assert "1.8× faster" in _text(_page(folder))


def test_doubts_about_the_times_stand_at_the_top_and_beside_the_times(tmp_path: Path) -> None:
    doubt = "the hypervisor took 3.2% of the CPU time"
    assert _text(_page(write_bundle(tmp_path, tainted=[doubt], examples=1))).count(doubt) == 2


def test_a_measurement_without_doubts_shows_no_warning(page: str) -> None:
    assert "doubt" not in _text(page)
    assert "Do not use" not in _text(page)


def test_a_cut_or_an_artifact_that_is_not_equal_is_said_first(tmp_path: Path) -> None:
    results = results_document()
    results["cut"]["ok"] = False
    folder = _edit(write_bundle(tmp_path, examples=1), "bundle", results=results)
    warning = "the cut model does not equal the masked model"
    text = _text(_page(folder))
    assert text.index("Do not use this model") < text.index(warning) < text.index("Parameters")


def test_artifacts_show_their_error_at_each_batch_size(page: str) -> None:
    text = _text(page)
    assert "batch 1 batch 3" in text
    assert "equal 4.2 × 10⁻⁷ 6 × 10⁻⁷ 10⁻⁴ not measured not measured" in text


def test_artifacts_show_what_they_get_right_by_themselves(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, examples=1)
    artifacts = bundle_document(results_document())["artifacts"]
    artifacts[0]["metrics"] = {"accuracy": 0.875}
    text = _text(_page(_edit(folder, "bundle", artifacts=artifacts)))
    assert re.search(r"10⁻⁴ not measured 87\.5\s%", text)


def test_what_stayed_at_a_higher_precision_is_told_by_kind_with_a_reason(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, examples=1)
    artifacts = bundle_document(results_document())["artifacts"]
    kept = {"operator": "Softmax", "precision": "fp32", "reason": "exceeds what fp16 holds"}
    artifacts[0] |= {"precision": "fp16", "kept": [kept, kept | {"reason": "another"}]}
    text = _text(_page(_edit(folder, "bundle", artifacts=artifacts)))
    assert "2 Softmax in fp32: exceeds what fp16 holds (the first of them" in text


def test_an_estimate_is_shown_with_its_label_and_beside_what_was_not_measured(
    tmp_path: Path,
) -> None:
    folder = write_bundle(tmp_path, examples=1)
    one = {"ms": 1.25, "batch": 1, "precision": "fp16", "words": "estimate, uncalibrated"}
    changed = _edit(
        folder,
        "bundle",
        estimate={"dense": one, "slim": one | {"ms": 0.5}},
        not_measured=["built on the device"],
    )
    text = _text(_page(changed))
    assert re.search(r"estimate, uncalibrated, fp16 ?: dense 1\.25\sms, slim 0\.500\sms", text)


def test_classes_are_listed_worst_change_first_and_harm_is_marked(page: str) -> None:
    table = page[page.index('<table class="classes">') :]
    rows = re.findall(r'<tr( class="harmed")?>\s*<th scope="row">([^<]*)', table)
    names = [html.unescape(name).strip() for _, name in rows[:4]]
    assert names == ["nodule", HOSTILE, "effusion", "normal"]
    assert [bool(harmed) for harmed, _ in rows[:4]] == [True, True, False, False]
    assert "10 fewer found" in table


def test_only_classes_with_few_images_are_marked_as_uncertain(page: str) -> None:
    assert "few images: one image is 5.0 points" in _text(page)
    assert _text(page).count("few images:") == 1


def test_the_paired_comparison_is_told_in_words(page: str) -> None:
    text = _text(page)
    assert "The two models differ in 16 of 640 predictions." in text
    assert "no more than chance explains" in text


def test_every_channel_group_is_drawn_in_the_order_of_the_graph(page: str) -> None:
    drawn = re.findall(r"<title>([^<]*): (\d+) of (\d+) kept</title>", page)
    wanted = [(name, str(kept), str(size)) for name, (_, size, kept) in SMALL.items()]
    assert sorted(drawn) == sorted(wanted)
    names = re.findall(r'<div class="group"><span class="name">([^<]*)', page)
    assert names == list(SMALL)


def test_long_plans_fold_by_stage(tmp_path: Path) -> None:
    groups = {
        f"blocks.{i}.{part}": ("hidden", 64, 16) for i in range(12) for part in ("attn", "mlp")
    }
    page = _page(write_bundle(tmp_path, groups=groups, examples=1))
    assert page.count('<details><summary class="group">') == 12
    assert page.count("<title>") == 1 + len(groups)


def test_recovery_begins_with_what_the_cut_left(page: str) -> None:
    text = _text(page)
    assert "After the cut, before fine-tuning, the slim model reached 61 %." in text
    assert "epoch 5, with 93.6 %" in text
    assert "the dense model reached 94 %" in text


def test_findings_recover_in_auroc_and_count_as_missed_under_one_half(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, examples=1)
    data = bundle_document(results_document())["data"] | {"multi_label": True}
    path = folder / "evidence" / "examples.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["examples"][0]["slim"]["probability"] = 0.4
    path.write_text(json.dumps(document))
    text = _text(_page(_edit(folder, "bundle", data=data)))
    assert "Validation AUROC by epoch" in text
    assert "normal, 40 % missed" in text
    assert "the answer changed" in text


def test_an_error_that_is_not_finite_is_called_so(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, examples=1)
    artifacts = bundle_document(results_document())["artifacts"]
    artifacts[0]["proof"] |= {"ok": False, "batches": [{"batch": 1, "max_rel": None}]}
    text = _text(_page(_edit(folder, "bundle", artifacts=artifacts)))
    assert "not finite" in text
    assert "the artifact dense onnx does not equal torch" in text


def test_examples_show_the_image_once_and_both_maps(page: str) -> None:
    assert page.count("data:image/png;base64,") == 3 * 8
    assert page.count('class="mask"') == 2 * 8
    assert _text(page).count("the answer changed") == 1


def _layers(page: str) -> list[Image.Image]:
    uris = re.findall(r'href="data:image/png;base64,([^"]*)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(uri))) for uri in uris]


def test_maps_are_red_for_and_blue_against_and_clear_where_silent(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, examples=1)
    halves = np.zeros((1, 64, 64), np.float16)
    halves[:, :20], halves[:, 44:] = 1, -0.5
    arrays = dict(np.load(folder / "evidence" / "examples.npz"))
    np.savez(folder / "evidence" / "examples.npz", **(arrays | {"slim": halves}))
    layer = np.asarray(_layers(_page(folder))[2]).astype(int)
    assert min(layer.shape[:2]) >= 160
    top, middle, bottom = layer[5, 80], layer[80, 80], layer[-5, 80]
    assert top[0] > top[2]
    assert bottom[2] > bottom[0]
    assert middle[3] == 0
    assert top[3] == pytest.approx(2 * bottom[3], abs=2)


def test_the_outline_follows_the_edges_of_the_mask(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, examples=1)
    mask = np.zeros((1, 64, 64), bool)
    mask[0, 10:12, 20:25] = True
    arrays = dict(np.load(folder / "evidence" / "examples.npz"))
    np.savez(folder / "evidence" / "examples.npz", **(arrays | {"masks": mask}))
    assert 'd="M20 10H25M20 12H25M20 10V12M25 10V12"' in _page(folder)


def test_every_block_is_drawn_in_its_turn(page: str) -> None:
    dots = re.findall(r'class="dot (dense|slim) small" d="M([\d.]+) ([\d.]+)h0"', page)
    assert len(dots) == 2 * 5 * 4
    in_time = [side for side, x, _ in sorted(dots, key=lambda dot: float(dot[1]))]
    assert in_time == [*["slim", "dense"] * 4, *["dense", "slim"] * 4] * 2 + ["slim", "dense"] * 4
    height = {side: float(y) for side, _, y in dots}
    assert height["dense"] < height["slim"]  # from the top: the slower one is higher


def test_examples_that_do_not_fit_their_arrays_are_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, examples=2)
    document = {"examples": [{"id": "a"}]}
    (folder / "evidence" / "examples.json").write_text(json.dumps(document))
    with pytest.raises(BundleError, match="does not fit its 1 examples"):
        build_report(folder)


def test_colour_images_are_drawn(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, examples=1)
    path = folder / "evidence" / "examples.npz"
    arrays = dict(np.load(path))
    arrays["images"] = np.repeat(arrays["images"][..., None], 3, axis=-1)
    del arrays["masks"]
    np.savez(path, **arrays)
    page = _page(folder)
    assert page.count("data:image/png;base64,") == 3
    assert 'class="mask"' not in page


def test_the_same_bundle_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (build_report(write_bundle(tmp_path / name)) for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert sorted(p.name for p in first.parent.iterdir() if p.is_file()) == [
        "bundle.json",
        "plan.json",
        "record.json",
        "report.html",
    ]


def test_eight_colour_examples_of_pure_noise_stay_under_three_megabytes(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, side=224)
    rng = np.random.default_rng(0)
    noise = {
        "images": rng.integers(256, size=(8, 224, 224, 3), dtype=np.uint8),
        "dense": rng.uniform(-1, 1, (8, 224, 224)).astype(np.float16),
        "slim": rng.uniform(-1, 1, (8, 224, 224)).astype(np.float16),
    }
    np.savez(folder / "evidence" / "examples.npz", **noise)
    assert build_report(folder).stat().st_size < 3_000_000


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"has no bundle\.json"):
        build_report(tmp_path)


def test_a_damaged_document_is_named(tmp_path: Path) -> None:
    (write_bundle(tmp_path, examples=1) / "plan.json").write_text("{")
    with pytest.raises(BundleError, match=r"plan\.json of the bundle cannot be read"):
        build_report(tmp_path)


def test_a_gain_that_is_partly_one_of_precision_says_so(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, examples=1)
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    assert "of the precision together" not in _text(_page(folder))
    for run in record["comparison"]["slim"]["runs"]:
        run["precision"] = "i8"
    text = _text(_page(_edit(folder, "record", comparison=record["comparison"])))
    assert "Slim ran in i8 there and dense in f32" in text
