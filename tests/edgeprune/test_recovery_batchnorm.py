import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeprune.capture import capture, state
from edgeprune.recovery import recalibrate_batchnorm

from .recovery_case import SIZE, tiny


def _batches(*counts: int, mean: float = 3.0) -> list[tuple[Tensor, None]]:
    generator = torch.Generator().manual_seed(0)
    # Every batch has a mean of its own, so that pooling differs from averaging.
    return [
        (torch.randn(count, 1, SIZE, SIZE, generator=generator) + mean * number, None)
        for number, count in enumerate(counts)
    ]


def test_statistics_of_a_first_batchnorm_are_those_of_all_images_together() -> None:
    model, data = tiny().module, _batches(5, 8, 3)
    assert recalibrate_batchnorm(model, data) == 2
    tensors = state(model)
    images = torch.cat([images for images, _ in data]).double()
    kernel, bias = tensors["conv1.weight"].double(), tensors["conv1.bias"].double()
    var, mean = torch.var_mean(F.conv2d(images, kernel, bias, padding=1), (0, 2, 3))
    torch.testing.assert_close(tensors["bn1.running_mean"].double(), mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tensors["bn1.running_var"].double(), var, rtol=1e-5, atol=1e-5)


def test_statistics_of_a_later_batchnorm_are_those_of_normalised_batches() -> None:
    model, data = tiny().module, _batches(6, 6)
    recalibrate_batchnorm(model, data)
    t = {name: tensor.detach().double() for name, tensor in state(model).items()}
    inner = []
    for images, _ in data:
        x = F.conv2d(images.double(), t["conv1.weight"], t["conv1.bias"], padding=1)
        x = F.batch_norm(x, None, None, t["bn1.weight"], t["bn1.bias"], training=True)
        inner.append(F.conv2d(F.max_pool2d(F.relu(x), 2), t["conv2.weight"], padding=1))
    var, mean = torch.var_mean(torch.cat(inner), (0, 2, 3))
    torch.testing.assert_close(t["bn2.running_mean"], mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(t["bn2.running_var"], var, rtol=1e-4, atol=1e-5)


def test_a_large_mean_costs_no_digits() -> None:
    model, data = tiny().module, _batches(8, 8, mean=1e3)
    recalibrate_batchnorm(model, data)
    tensors = state(model)
    images = torch.cat([images for images, _ in data]).double()
    kernel, bias = tensors["conv1.weight"].double(), tensors["conv1.bias"].double()
    var = F.conv2d(images, kernel, bias, padding=1).var((0, 2, 3))
    torch.testing.assert_close(tensors["bn1.running_var"].double(), var, rtol=1e-5, atol=0)


def test_nothing_but_running_statistics_changes() -> None:
    model = tiny().module
    before = {name: tensor.detach().clone() for name, tensor in state(model).items()}
    code = model.code
    recalibrate_batchnorm(model, _batches(4, 4))
    changed = {n for n, tensor in state(model).items() if not torch.equal(tensor, before[n])}
    assert changed == {f"bn{i}.running_{kind}" for i in (1, 2) for kind in ("mean", "var")}
    assert model.code == code
    assert not model.training


def test_dropout_is_off_and_the_mode_comes_back() -> None:
    first, second = tiny().module, tiny().module.train()
    for model in (first, second):
        recalibrate_batchnorm(model, _batches(4, 4))
    assert all(torch.equal(a, b) for a, b in zip(first.buffers(), second.buffers(), strict=True))
    assert second.training


def test_a_model_without_batchnorm_is_left_alone_and_no_batch_is_drawn() -> None:
    def unwanted() -> object:
        raise AssertionError("a batch was drawn")
        yield

    plain = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * (SIZE - 2) ** 2, 2))
    model = capture(plain, torch.randn(2, 1, SIZE, SIZE)).module
    assert recalibrate_batchnorm(model, unwanted()) == 0  # type: ignore[arg-type]
