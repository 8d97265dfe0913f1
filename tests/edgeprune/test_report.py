"""The report of made-up bundles: all numbers here are synthetic."""

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.errors import BundleError
from edgeprune.report import build_report, formats

Json = dict[str, Any]
HOSTILE = "<script>alert(1)</script>"
CLASSES = ("normal", "nodule", "effusion", HOSTILE)
THIN = "\u202f"


def _plan(groups: Mapping[str, tuple[str, int, int]]) -> Json:
    """Plan of groups by name: kind, units and units kept."""
    rank = iter(range(1, 1_000_000))
    return {
        "format": "edgeprune-plan",
        "version": 1,
        "made_from": {
            "criterion": "taylor",
            "sampler": "cluster",
            "samples": [f"train/{i}.png" for i in range(40)],
            "ranking": "global",
            "budget": {"macs": 0.5, "floors": {}},
            "align": 16,
        },
        "dense": {"params": 11_173_962, "macs": 1_818_560_000},
        "predicted": {"params": 5_012_345, "macs": 907_000_000},
        "notes": ["group 'stem' stays whole: its 16 units are no more than one multiple of 16"],
        "groups": [
            {
                "name": name,
                "kind": kind,
                "size": size,
                "kept": list(range(kept)),
                "removed": [
                    {
                        "unit": unit,
                        "score": 1e-6 * place,
                        "rank": place,
                        "most": "nodule",
                        "reason": f"rank {place} of 1000 of all units",
                    }
                    for unit in range(kept, size)
                    for place in [next(rank)]
                ],
            }
            for name, (kind, size, kept) in groups.items()
        ],
    }


SMALL = {
    "stem": ("conv", 16, 16),
    "layer1.conv1": ("conv", 64, 48),
    "layer1": ("width", 64, 32),
    "layer2.conv1": ("conv", 128, 16),
    "head.fc1": ("hidden", 256, 64),
}


def _measurement(name: str, median_ms: float, rng: np.random.Generator) -> Json:
    def block() -> list[int]:
        return [int(1e6 * t) for t in median_ms * (1 + rng.gamma(2, 0.015, size=30))]

    runs = [
        {
            "import_ns": 10**8,
            "load_ns": int(median_ms * 9e6) + i,
            "first_ns": int(median_ms * 2e6),
            "steady": True,
            "warmup_ns": [median_ms * 1e6],
            "blocks_ns": [block() for _ in range(4)],
            "peak_bytes": 10**8,
            "peak_reason": None,
            "precision": "f32",
            "threads": 1,
            "cpus": [0],
        }
        for i in range(5)
    ]
    return {
        "name": name,
        "artifact": "model.xml",
        "bytes": 44_700_000,
        "backend": "openvino",
        "version": "2026.1",
        "runs": runs,
    }


def _record(results: Json, tainted: list[str]) -> Json:
    rng = np.random.default_rng(0)
    pair = ["dense", "slim"]
    sensitivity = {"dense": (0.95, 0.9, 0.97, 0.8), "slim": (0.96, 0.82, 0.97, 0.75)}
    evidence = {
        side: {
            "metrics": {
                "n": 640,
                "multi_label": False,
                "accuracy": results[side]["accuracy"],
                "auroc": results[side]["auroc"],
                "average_precision": 0.9,
                "per_class": [
                    {"name": c, "n": n, "sensitivity": s, "auroc": 0.9 + s / 20}
                    for c, n, s in zip(CLASSES, (400, 120, 100, 20), sensitivity[side], strict=True)
                ],
            },
            "counts": None,
        }
        for side in pair
    }
    return {
        "schema_version": 1,
        "created": "2001-01-01T00:00:00Z",
        "results": results,
        **evidence,
        "difference": {
            "accuracy": -0.005,
            "low": -0.012,
            "high": 0.003,
            "disagreement": 0.025,
            "only_dense_right": 9,
            "only_slim_right": 6,
            "p_value": 0.61,
        },
        "dense_latency": {"inferences": 600, "median_ms": 83.1, "p90_ms": 88.2, "p99_ms": None},
        "slim_latency": {"inferences": 600, "median_ms": 45.9, "p90_ms": 48.0, "p99_ms": None},
        "noise_floor": 0.012,
        "comparison": {
            "settings": {"threads": 1, "batch": 1, "rounds": 5, "blocks": 4},
            "dense": _measurement("dense", 83.1, rng),
            "slim": _measurement("slim", 45.9, rng),
            "order": [[*(pair if i % 2 else pair[::-1])] * 4 for i in range(5)],
            "machine": {
                "cpu": "Synthetic CPU",
                "cores": 4,
                "governor": None,
                "memory_bytes": 16 * 10**9,
                "system": "Linux",
                "architecture": "x86_64",
                "python": "3.11.9",
                "versions": {"openvino": "2026.1", "numpy": "2.3.0"},
            },
            "conditions": [{"steal": 0.002, "others": 0.03, "throttled": 0, "celsius": 61.0}] * 5,
            "tainted": tainted,
        },
    }


def _results() -> Json:
    def side(accuracy: float, params: float, latency: float) -> Json:
        return {
            "accuracy": accuracy,
            "auroc": accuracy + 0.04,
            "params": params,
            "macs": 160 * params,
            "bytes": 4 * params,
            "latency_ms": latency,
            "peak_memory_mb": 90 + params / 1e5,
        }

    return {
        "dense": side(0.931, 11_173_962, 83.1),
        "slim": side(0.926, 5_320_934, 45.9),
        "latency_ratio": {"value": 0.552, "low": 0.526, "high": 0.588, "verdict": "faster"},
        "cut": {"max_rel": 3.1e-7, "ok": True, "units_removed": 352, "units_total": 528},
    }


def _bundle(results: Json) -> Json:
    proof = {
        "ok": True,
        "tolerance": 1e-4,
        "runtime": "openvino",
        "runtime_version": "2026.1",
        "precision": "f32",
        "batches": [{"batch": 1, "max_rel": 4.2e-7}, {"batch": 3, "max_rel": 6e-7}],
        "note": None,
    }
    return {
        "format": "edgeprune-bundle",
        "version": 1,
        "created": "2001-01-01T00:00:00Z",
        "edgeprune": "0.1.0",
        "source": {"kind": "timm", "name": "resnet18", "num_classes": 4, "weights": None},
        "target": {
            "name": "cpu",
            "description": "x86 processors, measured in OpenVINO",
            "runtime": "openvino",
            "precision": "fp32",
            "align": 16,
            "opset": 18,
        },
        "data": {
            "name": "synthetic",
            "classes": list(CLASSES),
            "multi_label": False,
            "splits": {"train": 2400, "val": 320, "test": 640},
            "notes": ["patients never span splits"],
        },
        "preprocessing": {
            "steps": [
                {"op": "resize", "edges": "shortest", "size": [73, 73], "antialias": True},
                {"op": "center_crop", "size": [64, 64], "crop_pct": 0.875},
                {"op": "normalize", "mean": [0.449], "std": [0.226]},
            ]
        },
        "settings": {"criterion": "taylor", "budget": {"macs": 0.5}, "epochs": 6, "seed": 0},
        "results": results,
        "training": {
            "settings": {"epochs": 8, "lr": 0.002},
            "history": [{"epoch": 0, "val_metric": 0.25}, {"epoch": 1, "val_metric": 0.94}],
            "best_epoch": 1,
            "notes": ["the dense model is trained here, on the spot"],
        },
        "recovery": {
            "settings": {"epochs": 6, "lr": 0.001, "distill_weight": 0.5},
            "history": [
                {
                    "epoch": epoch,
                    "train_loss": 0.9 / epoch if epoch else None,
                    "val_loss": 0.5 + 0.4 / (epoch + 1),
                    "val_metric": metric,
                }
                for epoch, metric in enumerate((0.61, 0.84, 0.9, 0.921, 0.931, 0.936, 0.933))
            ],
            "best_epoch": 5,
            "notes": [],
        },
        "artifacts": [
            {
                "model": model,
                "format": name,
                "files": [
                    {
                        "path": f"artifacts/{name}/{model}.{end}",
                        "bytes": size,
                        "in_bundle": model == "slim",
                    }
                ],
                "proof": proof,
            }
            for model, size in (("dense", 44_700_000), ("slim", 21_300_000))
            for name, end in (("onnx", "onnx"), ("openvino", "xml"))
        ],
        "not_measured": ["energy: this machine has no counter that can be read"],
        "notes": ["the dense model was trained on the spot"],
    }


def _write_examples(folder: Path, count: int, side: int) -> None:
    folder.mkdir()
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:side, :side] / side
    places = rng.uniform(0.3, 0.7, size=(count, 2, 1, 1))
    distance = np.hypot(y - places[:, 0], x - places[:, 1])
    finding = np.exp(-((distance / 0.1) ** 2))
    lungs = 90 * np.exp(-(((abs(x - 0.5) - 0.22) / 0.13) ** 2) - ((y - 0.5) / 0.33) ** 2)
    images = (150 - lungs + 60 * finding + rng.normal(0, 6, finding.shape)).clip(0, 255)
    away = 0.6 * np.exp(-((np.hypot(y - 0.8, x - 0.3) / 0.08) ** 2))
    np.savez_compressed(
        folder / "examples.npz",
        images=images.astype(np.uint8),
        dense=(finding - away).astype(np.float16),
        slim=(0.9 * finding - 0.5 * away).astype(np.float16),
        masks=distance < 0.12,
    )
    examples = [
        {
            "id": f"test/{i:04}.png",
            "label": CLASSES[i % 4],
            "dense": {"class": CLASSES[i % 4], "probability": 0.93},
            "slim": {"class": CLASSES[(i + (i == 2)) % 4], "probability": 0.88},
            "similarity": 0.93 - i / 50,
            "mass_in_mask": {"dense": 0.61, "slim": 0.58},
        }
        for i in range(count)
    ]
    document = {"method": "Integrated gradients, 32 steps", "examples": examples}
    (folder / "examples.json").write_text(json.dumps(document), encoding="utf-8")


def write_bundle(
    folder: Path,
    *,
    groups: Mapping[str, tuple[str, int, int]] = SMALL,
    tainted: list[str] | None = None,
    examples: int = 8,
    side: int = 64,
) -> Path:
    """Write all the documents that a report is made from."""
    results = _results()
    documents = {
        "bundle": _bundle(results),
        "plan": _plan(groups),
        "record": _record(results, tainted or []),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, document in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")
    _write_examples(folder / "evidence", examples, side)
    return folder


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
    page = _page(_edit(folder, "bundle", results=_results() | {"latency_ratio": ratio}))
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
    results = _results()
    results["cut"]["ok"] = False
    folder = _edit(write_bundle(tmp_path, examples=1), "bundle", results=results)
    warning = "the cut model does not equal the masked model"
    text = _text(_page(folder))
    assert text.index("Do not use this model") < text.index(warning) < text.index("Parameters")


def test_artifacts_show_their_error_at_each_batch_size(page: str) -> None:
    text = _text(page)
    assert "batch 1 batch 3" in text
    assert "equal 4.2 × 10⁻⁷ 6 × 10⁻⁷ 10⁻⁴ artifacts" in text


def test_classes_are_listed_worst_change_first_and_harm_is_marked(page: str) -> None:
    table = page[page.index('<table class="classes">') :]
    rows = re.findall(r'<tr( class="harmed")?>\s*<th scope="row">([^<]*)', table)
    names = [html.unescape(name).strip() for _, name in rows[:4]]
    assert names == ["nodule", HOSTILE, "effusion", "normal"]
    assert [bool(harmed) for harmed, _ in rows[:4]] == [True, True, False, False]
    assert "10 fewer found" in table


def test_only_classes_with_few_images_are_marked_as_uncertain(page: str) -> None:
    assert _text(page).count("few images: one image is 5.0 points") == 1


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
    assert "After the cut, before fine-tuning, 61 % was left." in text
    assert "epoch 5, with 93.6 %" in text
    assert "the dense model reached 94 %" in text


def test_findings_recover_in_auroc_and_count_as_missed_under_one_half(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, examples=1)
    data = _bundle(_results())["data"] | {"multi_label": True}
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
    artifacts = _bundle(_results())["artifacts"]
    artifacts[0]["proof"] |= {"ok": False, "batches": [{"batch": 1, "max_rel": None}]}
    text = _text(_page(_edit(folder, "bundle", artifacts=artifacts)))
    assert "not finite" in text
    assert "the artifact dense onnx does not equal torch" in text


def test_examples_show_the_image_once_and_both_maps(page: str) -> None:
    assert page.count("data:image/png;base64,") == 3 * 8
    assert page.count('class="mask"') == 2 * 8
    assert _text(page).count("the answer changed") == 1


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


def test_eight_examples_of_224_pixels_stay_under_three_megabytes(tmp_path: Path) -> None:
    assert build_report(write_bundle(tmp_path, side=224)).stat().st_size < 3_000_000


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"has no bundle\.json"):
        build_report(tmp_path)


def test_a_damaged_document_is_named(tmp_path: Path) -> None:
    (write_bundle(tmp_path, examples=1) / "plan.json").write_text("{")
    with pytest.raises(BundleError, match=r"plan\.json of the bundle cannot be read"):
        build_report(tmp_path)


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        (formats.count(11_173_962), "11 173 962"),
        (formats.percent(0.9314), "93.1 %"),
        (formats.points(-0.005), "−0.5 points"),
        (formats.points(-0.0001), "0.0 points"),
        (formats.quantity(999_600), "1.00 M"),
        (formats.size(44_700_000), "44.7 MB"),
        (formats.milliseconds(0.01234), "0.0123 ms"),
        (formats.milliseconds(1234.6), "1 235 ms"),
        (formats.power(3.14e-7), "3.1 × 10⁻⁷"),
        (formats.power(1e-4), "10⁻⁴"),
        (formats.power(0.0), "0"),
        (formats.small(0.0123456), "0.0123"),
        (formats.small(2.5e-6), "2.5 × 10⁻⁶"),
        (formats.times(1.04), "1.04×"),
        (formats.count(None), "not measured"),
    ],
)
def test_numbers_are_written_with_sensible_digits(written: str, wanted: str) -> None:
    assert written.replace(THIN, " ") == wanted
