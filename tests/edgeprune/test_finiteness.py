from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import edgeprune as ep
from edgeprune.attribution import Attributor, Batch, Taylor, attribute
from edgeprune.attribution.finiteness import watched
from edgeprune.attribution.propagation import RuleInterpreter, Step, find_paths, rescaled
from edgeprune.attribution.taylor import gate_times_gradient
from edgeprune.errors import DataError, EdgepruneError, ModelError
from edgeprune.gates import GatedModel

BY_IMAGES = ("taylor", "ig", "lrp", "shapley", "sensitivity", "activation")


class Block(nn.Module):
    """A convolution, then something, then a convolution."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.between = between
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.between(self.conv1(x)))


class Small(nn.Module):
    """A block and a head."""

    def __init__(self, between: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        self.block, self.head = Block(between), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(x).mean((2, 3)))


class Root(nn.Module):
    """Distance from the largest value as a root, with an infinite gradient at 0."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.amax((2, 3), keepdim=True)).square().sqrt()


class Rooted(nn.Module):
    """A block, a root and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.root, self.head = Block(F.relu), Root(), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.root(self.block(x)).mean((2, 3)))


class Masked(nn.Module):
    """Attention with a mask of -∞, which softmax makes zeros of."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Conv2d(3, 6, 4, 4), nn.Linear(6, 3)
        self.q, self.k, self.v = (nn.Linear(6, 6) for _ in range(3))
        self.mask = nn.Buffer(torch.full((4, 4), -torch.inf).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        weights = (self.q(x) @ self.k(x).transpose(1, 2) + self.mask).softmax(-1)
        return self.head((weights @ self.v(x)).mean(1))


def _dense(model: nn.Module) -> ep.Captured:
    return ep.capture(model, torch.randn(2, 3, 8, 8))


def _small(between: Callable[[Tensor], Tensor] = F.relu) -> ep.Captured:
    torch.manual_seed(0)
    return _dense(Small(between))


def _rooted() -> ep.Captured:
    torch.manual_seed(0)
    return _dense(Rooted())


def _batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 3, 8, 8, generator=generator), torch.arange(4) % 3


def _message(dense: ep.Captured, criterion: str, images: Tensor | None = None) -> str:
    given, labels = _batch()
    with pytest.raises(EdgepruneError) as raised:
        attribute(dense, [(given if images is None else images, labels)], criterion)
    return str(raised.value)


@pytest.mark.parametrize("criterion", BY_IMAGES)
@pytest.mark.parametrize(("value", "what"), [(torch.inf, "infinity"), (torch.nan, "NaN")])
def test_a_damaged_parameter_is_named_with_its_reader(
    criterion: str, value: float, what: str
) -> None:
    dense = _small()
    with torch.no_grad():
        dense.module.get_parameter("block.conv2.weight")[1, 2, 0, 0] = value
    message = _message(dense, criterion)
    assert f"'{criterion}' gives values that are not finite for group 'block.conv" in message
    assert f"the parameter 'block.conv2.weight' holds {what}, read by operator 'conv2d'" in message
    assert "module 'block.conv2'" in message
    assert "load weights that are whole" in message


@pytest.mark.parametrize("criterion", BY_IMAGES)
def test_an_image_that_holds_nan_is_named(criterion: str) -> None:
    images, labels = _batch()
    images[2, 0, 3, 3] = torch.nan
    with pytest.raises(DataError, match="image 3 of those given: the image holds NaN; repair or"):
        attribute(_small(), zip(images.split(2), labels.split(2), strict=True), criterion)
    with pytest.raises(DataError, match="image 'c': the image holds NaN"):
        attribute(_small(), [(images, labels)], criterion, sample_ids=("a", "b", "c", "d"))


@pytest.mark.parametrize("criterion", BY_IMAGES)
def test_the_first_operator_to_give_what_is_not_finite_is_named(criterion: str) -> None:
    dense = _small(lambda x: (x + 9).log())
    with torch.no_grad():
        dense.module.get_parameter("block.conv1.bias").sub_(9)
    message = _message(dense, criterion)
    assert "operator 'log' (node 'log', module 'block') is the first to give NaN" in message
    assert "from finite operands" in message


@pytest.mark.parametrize("criterion", ["taylor", "ig"])
def test_an_operator_whose_gradient_alone_is_not_finite_is_named(criterion: str) -> None:
    message = _message(_rooted(), criterion)
    assert "all values are finite" in message
    assert "operator 'sqrt' (node 'sqrt', module 'root')" in message
    assert "a criterion without gradients, such as sensitivity" in message


def test_criteria_without_gradients_score_what_only_has_bad_gradients() -> None:
    assert attribute(_rooted(), [_batch()], "sensitivity")["block.conv1"].isfinite().all()


def test_an_operator_whose_rule_alone_is_not_finite_is_named() -> None:
    def endless(step: Step) -> Tensor:
        value: Tensor = step.run()
        return rescaled(value, value, torch.full_like(value, torch.inf))

    class Endless:
        def per_sample(self, model: GatedModel, seed: int) -> Attributor:
            paths = find_paths(model)

            def run(images: Tensor, gates: Tensor) -> Tensor:
                found = RuleInterpreter(model, gates, paths, {"conv2d_1": endless})
                return found.run(images)  # type: ignore[no-any-return]

            return lambda batch: gate_times_gradient(run, model.ones(len(batch)), batch, "loss")

    with pytest.raises(ModelError, match=r"'endless' .* operator 'conv2d' \(node 'conv2d_1'"):
        attribute(_small(), [_batch()], Endless())


def test_infinities_that_never_reach_the_logits_are_not_to_blame() -> None:
    torch.manual_seed(0)
    dense = _dense(Masked())
    assert attribute(dense, [_batch()])["v"].isfinite().all()
    with torch.no_grad():
        dense.module.get_parameter("v.weight").fill_(3e38)
    message = _message(dense, "taylor")
    assert "operator 'linear' (node 'linear_2', module 'v') is the first to give" in message


def test_an_overflow_in_half_precision_is_named_with_what_to_do() -> None:
    dense = _small()
    with torch.no_grad():
        dense.module.get_parameter("block.conv1.weight").mul_(1e20)
        dense.module.get_parameter("block.conv2.weight").mul_(1e20)
    message = _message(dense, "taylor")
    assert "operator 'conv2d' (node 'conv2d_1', module 'block.conv2') is the first" in message
    assert "score in float32 or bfloat16" in message


def test_a_criterion_that_makes_nan_by_itself_is_told_from_the_model() -> None:
    class Explodes:
        def per_sample(self, model: GatedModel, seed: int) -> Attributor:
            def attribute(batch: Batch) -> Tensor:
                return torch.full((len(batch), model.total), torch.nan)

            return attribute

    with pytest.raises(ModelError, match=r"'explodes' .* no operator of the model is to blame"):
        attribute(_small(), [_batch()], Explodes())


def test_a_gradient_that_is_not_finite_behind_the_logits_is_not_the_models() -> None:
    class Steep:
        def per_sample(self, model: GatedModel, seed: int) -> Attributor:
            def run(images: Tensor, gates: Tensor) -> Tensor:
                logits = model(images, gates)
                return rescaled(logits, logits, torch.full_like(logits, torch.inf))

            return lambda batch: gate_times_gradient(run, model.ones(len(batch)), batch, "loss")

    with pytest.raises(ModelError, match=r"'steep' .* no operator of the model is to blame"):
        attribute(_small(), [_batch()], Steep())


def test_scores_of_the_model_alone_name_the_parameter() -> None:
    dense = _small()
    with torch.no_grad():
        dense.module.get_parameter("block.conv2.bias")[1] = torch.inf
    assert "the parameter 'block.conv2.bias' holds infinity" in _message(dense, "magnitude")


def test_images_that_are_scored_one_by_one_are_found_as_well() -> None:
    class Fixed(Small):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.reshape(2, 3, 8, 8))

    dense = _dense(Fixed())
    assert not dense.dynamic_batch
    images, _ = _batch()
    images[3] = torch.inf
    assert "image 4 of those given: the image holds" in _message(dense, "taylor", images)


def test_what_was_watched_is_left_as_it_was() -> None:
    model = GatedModel(_small())
    with watched(model) as record, pytest.raises(RuntimeError), watched(model):
        raise RuntimeError
    assert model.watch is None
    assert not record.values
    images, labels = _batch()
    scores = attribute(model.captured, [(images, labels)], Taylor())
    assert scores["block.conv1"].isfinite().all()
