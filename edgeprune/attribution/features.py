"""What a model makes of images: its logits, and the features that its last layer reads."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from edgeprune.attribution.operators import operation
from edgeprune.capture import Captured
from edgeprune.data import PreparedSplit, batches
from edgeprune.errors import EdgepruneError

Values = NDArray[np.float32]

_CLASSIFIERS: Final = ("linear", "addmm", "conv2d")


def features_and_logits(
    dense: Captured, split: PreparedSplit, indices: Sequence[int], *, batch_size: int
) -> tuple[Values, Values]:
    """Return penultimate features (N, F) and logits (N, K) of the images at these positions.

    Features are the input of the last linear layer (of the last convolution
    where there is none), averaged over whatever lies between images and channels.
    """
    last = _last_reader(dense.module.graph)
    size = batch_size if dense.dynamic_batch else len(dense.sample)
    device = next(dense.module.parameters()).device
    features, logits = [], []
    for images, _ in batches(split, split.how, batch_size=size, indices=indices):
        count = len(images)
        # A model of fixed batch wants it full: the last image is repeated.
        rows = torch.arange(count if dense.dynamic_batch else size).clamp_max(count - 1)
        recorder = _Recorder(dense.module, last)
        with torch.no_grad():
            logits.append(recorder.run(images[rows].to(device))[:count].float().cpu())
        features.append(_flat(recorder.found, last)[:count].float().cpu())
    return torch.cat(features).numpy(), torch.cat(logits).numpy()


def _last_reader(graph: fx.Graph) -> fx.Node:
    for names in (_CLASSIFIERS[:2], _CLASSIFIERS[2:]):
        found: list[fx.Node] = [node for node in graph.nodes if operation(node) in names]
        if found:
            return found[-1]
    raise EdgepruneError(
        "the model has no linear layer and no convolution, so it has no features to cluster; "
        "use the sampler random or confidence"
    )


class _Recorder(fx.Interpreter):
    """Keeps what one node reads."""

    def __init__(self, module: fx.GraphModule, node: fx.Node) -> None:
        super().__init__(module)
        self.node = node
        self.found = torch.empty(0)

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - as the base class has it
        if n is self.node:
            position = 1 if operation(n) == "addmm" else 0
            self.found = self.fetch_args_kwargs_from_env(n)[0][position]
        return super().run_node(n)


def _flat(values: Tensor, reader: fx.Node) -> Tensor:
    """Average (N, C, H, W) or (N, …, F) to (N, channels)."""
    if operation(reader) == "conv2d":
        return values.mean((2, 3))
    return values.flatten(1, -2).mean(1) if values.dim() > 2 else values
