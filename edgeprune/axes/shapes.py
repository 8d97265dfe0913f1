"""The shape of every value in a graph, at one concrete batch size.

Every value runs as a fake tensor, so nothing is computed. The batch is a prime
that no model uses as a size: what it divides is laid out by sample.
"""

from typing import Any, Final

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

PROBE_BATCH: Final = 61  # 7 is the side of most last feature maps, 13 and 31 occur as well

Value = tuple[int, ...] | list[Any] | int | float | None


def infer_shapes(module: fx.GraphModule, sample: Tensor, *, batch: int) -> dict[str, Value]:
    """Return for each node its shape, a list of shapes, or its number."""
    device = next((p.device for p in module.parameters()), sample.device)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        recorder = _Recorder(module)
        recorder.run(torch.empty(batch, *sample.shape[1:], dtype=sample.dtype, device=device))
    return recorder.found


class _Recorder(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.found: dict[str, Value] = {}

    def fetch_attr(self, target: str) -> Any:  # noqa: ANN401 - as the base class has it
        value = super().fetch_attr(target)
        if not isinstance(value, Tensor):
            return value
        # Fake because of the mode; converting the tensor itself takes ten times as long.
        return torch.empty_strided(
            value.shape, value.stride(), dtype=value.dtype, device=value.device
        )

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - as the base class has it
        result = super().run_node(n)
        self.found[n.name] = _describe(result)
        return result


def _describe(value: object) -> Value:
    match value:
        case Tensor():
            return tuple(int(size) for size in value.shape)
        case tuple() | list():
            return [_describe(item) for item in value]
        case bool() | None:
            return None
        case int() | float():
            return value
        case torch.SymInt():
            return int(value)
        case _:
            return None
