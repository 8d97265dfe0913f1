"""A small trained network on squares, as weights, as a stored model and as a bundle."""

import atexit
import json
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file

from edgeprune.attribution import Scores, attribute
from edgeprune.attribution.storage import save_scores
from edgeprune.budget import Budget
from edgeprune.bundle import write_manifest
from edgeprune.capture import Captured, capture
from edgeprune.cut import cut
from edgeprune.data import Preprocessing, batches, load_data, preprocessing_from_timm
from edgeprune.factory import call_factory
from edgeprune.files import write_json
from edgeprune.plan import Plan, make_plan
from edgeprune.source import DEFAULT_CONFIG

from .pipeline_case import write_archive

EDGE = 24
CLASSES = 3
EPOCHS = 5
NET = """
from collections import OrderedDict

from torch import nn

def build(num_classes, in_chans):
    return nn.Sequential(OrderedDict(
        conv=nn.Conv2d(in_chans, 8, 3, padding=1), norm=nn.BatchNorm2d(8), relu=nn.ReLU(),
        halve=nn.MaxPool2d(2), deeper=nn.Conv2d(8, 12, 3, padding=1), relu2=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(4), flat=nn.Flatten(), hidden=nn.Linear(192, 16),
        relu3=nn.ReLU(), head=nn.Linear(16, num_classes),
    ))
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """Everything in one folder.

    Attributes:
        folder: holds squares.npz, net.py, net.safetensors, stored/, slim/ and slim.work/.
        dense: the trained model.
        scores: its scores, which slim.work/scores holds.
        plan: which keeps half of its units.
        how: how images are prepared.
    """

    folder: Path
    dense: Captured
    scores: Scores
    plan: Plan
    how: Preprocessing

    def path(self, name: str) -> str:
        return str(self.folder / name)


@cache
def case() -> Case:
    """Return the case, made once per session; tests must not change it."""
    folder = Path(tempfile.mkdtemp(prefix="edgeprune-units-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return make_case(folder)


def make_case(folder: Path) -> Case:
    data = load_data(write_archive(folder / "squares.npz"))
    how = preprocessing_from_timm(dict(DEFAULT_CONFIG) | {"input_size": (3, EDGE, EDGE)})
    (folder / "net.py").write_text(NET, encoding="utf-8")
    model = _trained(folder, how)
    save_file(model.state_dict(), folder / "net.safetensors")
    dense = capture(model, torch.randn(2, 3, EDGE, EDGE))
    dense.save(folder / "stored")
    images = batches(data.train, how, batch_size=16)
    scores = attribute(dense, images, classes=data.classes, sample_ids=data.train.ids)
    plan = make_plan(dense, scores, Budget(keep=0.5), ranking="global")
    bundle, work = folder / "slim", folder / "slim.work"
    dense.save(work / "dense")
    (work / "scores").mkdir()
    save_scores(work / "scores", scores)
    cut(dense, plan).save(bundle / "model")
    (bundle / "model" / "plan.json").unlink()
    write_json(bundle / "plan.json", plan.to_dict())
    document = {
        "data": {"name": data.name, "classes": list(data.classes)},
        "preprocessing": how.to_dict(),
        "settings": {"seed": 0, "data": "squares.npz"},
    }
    write_manifest(bundle, document)
    return Case(folder=folder, dense=dense, scores=scores, plan=plan, how=how)


def renamed_classes(folder: Path, *names: str) -> None:
    """Write into a bundle's manifest that its model knows other classes."""
    path = folder / "bundle.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["data"]["classes"] = list(names)
    path.write_text(json.dumps(document), encoding="utf-8")


def _trained(folder: Path, how: Preprocessing) -> torch.nn.Module:
    data = load_data(folder / "squares.npz")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"num_classes": CLASSES, "in_chans": 3}
        model = call_factory(f"{folder / 'net.py'}:build", sizes, {}).train()
        optimiser = torch.optim.Adam(model.parameters(), lr=0.003)
        for epoch in range(EPOCHS):
            for images, labels in batches(
                data.train, how, batch_size=20, shuffle=True, epoch=epoch
            ):
                optimiser.zero_grad()
                torch.nn.functional.cross_entropy(model(images), labels).backward()
                optimiser.step()
    return model.eval()
