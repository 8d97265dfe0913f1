"""New statistics for the BatchNorms of a cut model, without touching a weight.

After a cut every BatchNorm behind it sees other inputs than its running
statistics describe. Mean and variance over all images of several batches are put
in their place, while each batch passes on normalised by its own: the population
estimate of Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm", arXiv
2105.07576, section 3.
"""

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, fx

from edgeprune.capture import BATCH_NORM, CapturedModule


class Moments:
    """Mean and variance per channel of everything seen so far, in float64."""

    def __init__(self) -> None:
        """Begin with nothing seen."""
        self.count = 0
        self.mean: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0  # sum of squared distances from the mean

    def add(self, x: Tensor) -> None:
        """Take in x (N, C, ...), by the pairwise update of Chan et al. 1979.

        A sum of squares minus a squared sum would lose digits where the mean is large.
        """
        dims = [dim for dim in range(x.dim()) if dim != 1]
        var, mean = (m.double() for m in torch.var_mean(x.detach(), dims, correction=0))
        count = x.numel() // x.shape[1]
        total = self.count + count
        delta = mean - self.mean
        self.mean = self.mean + delta * (count / total)
        self.squares = self.squares + var * count + delta**2 * (self.count * count / total)
        self.count = total

    @property
    def var(self) -> Tensor:
        """Unbiased variance, as BatchNorm keeps it: (C,)."""
        return cast(Tensor, self.squares) / max(self.count - 1, 1)


class _Observer(fx.Interpreter):
    """Runs the graph with batch statistics, and collects what each BatchNorm sees."""

    def __init__(self, module: CapturedModule) -> None:
        super().__init__(module)
        self.seen: dict[tuple[str, str], Moments] = {}

    def run_node(self, n: fx.Node) -> object:
        if not _keeps_statistics(n):
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        self.seen.setdefault(_buffers(n), Moments()).add(args[0])
        without_statistics = (*args[:3], None, None, True, *args[6:])
        return self.call_function(cast(Any, n.target), without_statistics, kwargs)


def recalibrate_batchnorm(module: CapturedModule, batches: Iterable[tuple[Tensor, Any]]) -> int:
    """Estimate the running statistics anew; return how many BatchNorms have some.

    batches: images (N, C, H, W) with anything beside them; none are drawn from it
    where the model has no BatchNorm. Dropout is off, as it will be when the
    statistics are used. Costs one forward pass.
    """
    if not any(_keeps_statistics(node) for node in module.graph.nodes):
        return 0
    training = module.training
    module.eval()
    observer = _Observer(module)
    device = next(module.parameters()).device
    try:
        with torch.no_grad():
            for images, _ in batches:
                observer.run(images.to(device))
    finally:
        module.train(training)
    buffers = dict(module.named_buffers(remove_duplicate=False))
    for (mean, var), moments in observer.seen.items():
        buffers[mean].copy_(cast(Tensor, moments.mean))
        buffers[var].copy_(moments.var)
    return len(observer.seen)


def _keeps_statistics(node: fx.Node) -> bool:
    return node.target is BATCH_NORM and node.args[3] is not None


def _buffers(node: fx.Node) -> tuple[str, str]:
    mean, var = node.args[3], node.args[4]
    return str(cast(fx.Node, mean).target), str(cast(fx.Node, var).target)
