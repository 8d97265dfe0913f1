"""How a contraction shares the relevance of its result among its operands."""

from torch import Tensor

from edgeprune.attribution.propagation import Rule, Step, rescaled


def epsilon_rule(epsilon: float) -> Rule:
    """R(x) = x · ∂z/∂x · R(z) / (z + e · sign z), e being ``epsilon`` times the mean |z|.

    The mean is taken over everything but the images, so that e fits every layer
    and no image depends on its batch. 0 absorbs nothing.
    """

    def rule(step: Step) -> Tensor:
        z: Tensor = step.run()
        if epsilon == 0:
            return z
        size = z.detach().abs()
        rest = tuple(dim for dim in range(z.dim()) if dim != step.images)
        e = epsilon * (size.mean(rest, keepdim=True) if rest else size) + 1e-12
        return rescaled(z, z, size / (size + e))

    return rule
