"""The models whose units are scored, with random weights: the cost does not depend on them."""

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from edgeprune.errors import UsageError

CLASSES: Final = 10


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model at an image size.

    Attributes:
        name: in its library.
        library: whose model it is.
        size: width of the square images.
        options: for the library's function.
    """

    name: str
    library: Literal["timm", "torchvision"]
    size: int
    options: Mapping[str, Any]

    def model(self, device: str) -> nn.Module:
        """Build the model in evaluation mode; the same weights every time."""
        torch.manual_seed(0)
        return _built(self).eval().to(device)

    def images(self, count: int, device: str) -> tuple[Tensor, Tensor]:
        """Make images (count, 3, size, size) and labels; the same every time."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(count, 3, self.size, self.size, generator=generator)
        labels = torch.randint(CLASSES, (count,), generator=generator)
        return images.to(device), labels.to(device)

    @contextlib.contextmanager
    def stored(self, images: int, rounds: int, threads: int, device: str) -> Iterator[Path]:
        """Yield a folder with the weights, images and settings, for another environment."""
        settings = {
            "name": self.name,
            "library": self.library,
            "options": dict(self.options),
            "rounds": rounds,
            "threads": threads,
            "device": device,
        }
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
            torch.save(self.model("cpu").state_dict(), folder / "weights.pt")
            torch.save(self.images(images, "cpu"), folder / "images.pt")
            yield folder


def chosen(name: str) -> Case:
    """Return the case of a model."""
    if name not in CASES:
        raise UsageError(f"--model {name}: not known; give some of {', '.join(CASES)}")
    return CASES[name]


def _built(case: Case) -> nn.Module:
    if case.library == "timm":
        import timm

        made: nn.Module = timm.create_model(case.name, **case.options)
        return made
    from torchvision.models import get_model

    found: nn.Module = get_model(case.name, **case.options)
    return found


def _case(
    name: str, size: int, library: Literal["timm", "torchvision"] = "timm", **options: int
) -> Case:
    return Case(name=name, library=library, size=size, options={"num_classes": CLASSES, **options})


CASES: Final[Mapping[str, Case]] = {
    case.name: case
    for case in (
        _case("vgg11", 64, "torchvision"),
        _case("resnet18", 112),
        _case("resnet50", 112),
        _case("vit_tiny_patch16_224", 112, img_size=112),
        _case("convnext_atto", 112),
    )
}
