"""Agreement with zennit, where it is installed.

In double precision, since contributions cancel: what differs is then the rule.
zennit leaves √(1 + eps) of a normalisation that it has merged in the network,
so eps is as good as 0 here.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet, vgg

import edgeprune as ep
from edgeprune.attribution import Batch
from edgeprune.attribution.lrp import Lrp, propagation
from edgeprune.gates import GatedModel

zennit = pytest.importorskip("zennit")
from zennit import attribution, composites, rules, types  # noqa: E402 - after it is known to be there
from zennit.layer import Sum  # noqa: E402
from zennit.torchvision import ResNetCanonizer, VGGCanonizer  # noqa: E402

CLASSES = 5
TINY = 1e-12  # what zennit adds to every divisor, here
EXACT, STABILISED = 1e-8, 1e-4  # relative difference allowed: with TINY, with zennit's own 1e-6
# Of zennit's rules: for convolutions, and for linear layers.
PAIRS: Mapping[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "epsilon": (lambda: rules.Epsilon(0.01), lambda: rules.Epsilon(0.01)),
    "zplus": (lambda: rules.ZPlus(TINY), lambda: rules.ZPlus(TINY)),
    "gamma": (lambda: rules.Gamma(0.25, TINY), lambda: rules.Gamma(0.25, TINY)),
    "epsilon_plus": (lambda: rules.ZPlus(TINY), lambda: rules.Epsilon(0.01)),
    "epsilon_gamma": (lambda: rules.Gamma(0.25, TINY), lambda: rules.Epsilon(0.01)),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network, with what zennit has to do to it first, and modules that alone read a group."""

    model: nn.Module
    size: int
    canonizer: Callable[[], Any]
    readers: Mapping[str, str]


def _disturbed(model: nn.Module) -> nn.Module:
    """Give normalisation statistics that hide nothing, and an eps that zennit does not lose."""
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.2)
        nn.init.normal_(norm.get_buffer("running_mean"), std=0.2)
        nn.init.uniform_(norm.get_buffer("running_var"), 0.5, 1.5)
        norm.eps = 1e-15
    return model.double().eval()


def _vgg(plan: list[int | str], hidden: int, size: int) -> Case:
    torch.manual_seed(0)
    features = vgg.make_layers(plan, batch_norm=True)
    with torch.device("meta"):  # its own head is a hundred times larger, and goes
        model = vgg.VGG(features, num_classes=CLASSES, init_weights=False)
    width = next(channels for channels in reversed(plan) if isinstance(channels, int))
    model.classifier[0] = nn.Linear(width * 49, hidden)
    model.classifier[3], model.classifier[6] = nn.Linear(hidden, hidden), nn.Linear(hidden, CLASSES)
    convolutions = [i for i, module in enumerate(features) if isinstance(module, nn.Conv2d)]
    layers = [f"features.{i}" for i in convolutions]
    layers += ["classifier.0", "classifier.3", "classifier.6"]
    readers = dict(pairwise(layers))
    return Case(model=_disturbed(model), size=size, canonizer=VGGCanonizer, readers=readers)


def _resnet(block: type[nn.Module], layers: list[int], size: int) -> Case:
    torch.manual_seed(0)
    model = resnet.ResNet(block, layers, num_classes=CLASSES)  # type: ignore[arg-type]
    last = 2 if block is resnet.BasicBlock else 3
    blocks = [f"layer{i + 1}.{j}" for i, count in enumerate(layers) for j in range(count)]
    readers = {f"{b}.conv{k}": f"{b}.conv{k + 1}" for b in blocks for k in range(1, last)}
    return Case(model=_disturbed(model), size=size, canonizer=ResNetCanonizer, readers=readers)


SMALL: Mapping[str, Callable[[], Case]] = {
    "vgg": lambda: _vgg([8, "M", 12, 12, "M"], 16, 16),
    "resnet": lambda: _resnet(resnet.BasicBlock, [1, 1, 1, 1], 32),
}
FULL: Mapping[str, Callable[[], Case]] = {
    "vgg16_bn": lambda: _vgg(vgg.cfgs["D"], 512, 64),
    "resnet18": lambda: _resnet(resnet.BasicBlock, [2, 2, 2, 2], 64),
    "resnet50": lambda: _resnet(resnet.Bottleneck, [3, 4, 6, 3], 64),
}


def _batch(case: Case) -> Batch:
    images = torch.randn(2, 3, case.size, case.size, generator=torch.Generator().manual_seed(1))
    return Batch(images=images.double(), labels=torch.tensor([1, 3]), multi_label=False)


def _ours(case: Case, batch: Batch, settings: Lrp) -> tuple[Tensor, dict[str, Tensor]]:
    """Return relevance of the images, and per group of the units, (N, size)."""
    model = GatedModel(ep.capture(case.model, batch.images))
    leaf, gates = batch.images.clone().requires_grad_(), model.ones(len(batch)).requires_grad_()
    logits = propagation(model, settings)(leaf, gates)
    true = logits.gather(1, batch.labels[:, None]).sum()
    of_images, of_gates = torch.autograd.grad(true, (leaf, gates))
    return of_images * batch.images, model.by_group(of_gates)


@contextmanager
def _inputs(case: Case) -> Iterator[dict[str, Tensor]]:
    """Keep what each reader is given, before zennit's own hooks see it."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            found[name] = given[0]
            given[0].retain_grad()

        return hook

    modules = dict(case.model.named_modules())
    handles = [
        modules[reader].register_forward_pre_hook(keep(reader)) for reader in case.readers.values()
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _theirs(case: Case, batch: Batch, composite: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the same by zennit; a group's name is that of the layer that makes it."""
    attributor: Any = attribution.Gradient(case.model, composite)
    with _inputs(case) as found, attributor:
        target = torch.eye(CLASSES)[batch.labels]
        _, relevance = attributor(
            batch.images.clone().requires_grad_(), lambda logits: logits.detach() * target
        )
        sizes = {name: _width(case.model, name) for name in case.readers}
        units = {
            name: found[reader].grad.reshape(len(batch), sizes[name], -1).sum(2)  # type: ignore[union-attr]
            for name, reader in case.readers.items()
        }
    return relevance.detach(), units


def _width(model: nn.Module, layer: str) -> int:
    module = model.get_submodule(layer)
    return len(module.weight)  # type: ignore[arg-type]


def _composite(case: Case, rule: str) -> Any:
    of_convolutions, of_linear = PAIRS[rule]
    layers = [
        (types.Convolution, of_convolutions()),
        (types.Linear, of_linear()),
        (types.Activation, rules.Pass()),
        (types.BatchNorm, rules.Pass()),
        (types.AvgPool, rules.Norm(TINY)),
        (Sum, rules.Norm(TINY)),
    ]
    return composites.LayerMapComposite(layer_map=layers, canonizers=[case.canonizer()])


def _settings(rule: str) -> Lrp:
    return Lrp(rule=rule, epsilon=0.01, absolute=True)  # type: ignore[arg-type]


def _difference(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


def _check(case: Case, rule: str) -> None:
    batch = _batch(case)
    ours, our_units = _ours(case, batch, _settings(rule))
    theirs, their_units = _theirs(case, batch, _composite(case, rule))
    assert _difference(ours, theirs) <= EXACT
    for group, values in their_units.items():
        assert _difference(our_units[group], values) <= EXACT, group


@pytest.mark.parametrize("rule", PAIRS)
@pytest.mark.parametrize("network", SMALL)
def test_images_and_units_get_what_zennit_gives_them(network: str, rule: str) -> None:
    _check(SMALL[network](), rule)


@pytest.mark.slow
@pytest.mark.parametrize("rule", PAIRS)
@pytest.mark.parametrize("network", FULL)
def test_images_and_units_of_whole_networks_get_what_zennit_gives_them(
    network: str, rule: str
) -> None:
    _check(FULL[network](), rule)


@pytest.mark.parametrize("network", SMALL)
@pytest.mark.parametrize("name", ["epsilon_plus", "epsilon_gamma"])
def test_units_get_what_composites_of_zennits_own_give_them(network: str, name: str) -> None:
    case = SMALL[network]()
    batch, canonizers = _batch(case), [case.canonizer()]
    if name == "epsilon_plus":
        composite = composites.EpsilonPlus(epsilon=0.01, canonizers=canonizers)
    else:  # its box is for pixels, which units come after
        low, high = torch.full_like(batch.images, -5.0), torch.full_like(batch.images, 5.0)
        composite = composites.EpsilonGammaBox(low, high, epsilon=0.01, canonizers=canonizers)
    _, ours = _ours(case, batch, _settings(name))
    _, theirs = _theirs(case, batch, composite)
    for group, values in theirs.items():
        assert _difference(ours[group], values) <= STABILISED, group
