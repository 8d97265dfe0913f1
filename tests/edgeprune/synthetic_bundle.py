"""A made-up bundle with everything a report is made from: all numbers here are synthetic."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

Json = dict[str, Any]
HOSTILE = "<script>alert(1)</script>"
CLASSES = ("normal", "nodule", "effusion", HOSTILE)


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
            "gpu_bytes": None,
            "gpu_reason": "there is no GPU",
            "precision": "f32",
            "device": "cpu",
            "threads": 1,
            "cpus": [0],
            "energy": None,
            "energy_reason": "the energy counters are for root only",
        }
        for i in range(5)
    ]
    return {
        "name": name,
        "artifact": "model.xml",
        "bytes": 44_700_000,
        "files": {"model.xml": "0" * 64, "model.bin": "1" * 64},
        "backend": "openvino",
        "version": "2026.1",
        "runs": runs,
    }


def _record(results: Json, tainted: list[str]) -> Json:
    rng = np.random.default_rng(0)
    pair = ["dense", "slim"]
    sensitivity = {"dense": (0.95, 0.9, 0.97, 0.8), "slim": (0.96, 0.82, 0.96, 0.75)}
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
        "schema_version": 2,
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
        "dense_latency": {
            "inferences": 600,
            "median_ms": 83.1,
            "p50_ms": 83.2,
            "p90_ms": 88.2,
            "p99_ms": None,
        },
        "slim_latency": {
            "inferences": 600,
            "median_ms": 45.9,
            "p50_ms": 45.9,
            "p90_ms": 48.0,
            "p99_ms": None,
        },
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


def results_document() -> Json:
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


def bundle_document(results: Json) -> Json:
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
    results = results_document()
    documents = {
        "bundle": bundle_document(results),
        "plan": _plan(groups),
        "record": _record(results, tainted or []),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, document in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")
    _write_examples(folder / "evidence", examples, side)
    return folder
