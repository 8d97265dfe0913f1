"""Which contraction follows which rule.

A composite is an ordered table; the first part that fits counts. Relevance
that was found with different rules at different depths comes out less noisy
near the image, where contributions cancel, and stays faithful to the function
near the logits. What fits no part follows LRP-0.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias, assert_never

from torch import Tensor, fx

from edgeprune.attribution.lrp.contractions import ContractionRule, Epsilon, Gamma, ZPlus
from edgeprune.attribution.lrp.folding import Fold, find_folds, passed_on
from edgeprune.attribution.lrp.operands import Roles, contraction, find_roles
from edgeprune.attribution.operators import operation
from edgeprune.attribution.propagation import Paths, Rule, Step
from edgeprune.gates import GatedModel
from edgeprune.module import MODULE


@dataclass(frozen=True, kw_only=True)
class Place:
    """A contraction, as composites tell them apart.

    Attributes:
        node: its name in the graph.
        operator: what it is called, as in ``conv2d`` or ``linear``.
        module: path of the module that it came from; empty if unknown.
        depth: from 0, the first contractions that relevance reaches from the
            image, to 1, the last before the logits, counted along the longest way.
    """

    node: str
    operator: str
    module: str
    depth: float

    @property
    def is_convolution(self) -> bool:
        """Whether it is a convolution, transposed or not."""
        return self.operator.startswith("conv")


Where: TypeAlias = Callable[[Place], bool]
CompositeName: TypeAlias = Literal[
    "epsilon", "zplus", "gamma", "epsilon_plus", "epsilon_gamma", "low_middle_high"
]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some contractions and the rule that they follow."""

    where: Where
    rule: ContractionRule


@dataclass(frozen=True, kw_only=True)
class Composite:
    """An ordered table: of its parts the first that fits counts."""

    parts: tuple[Part, ...]

    def rule(self, place: Place) -> ContractionRule:
        """Return what a contraction follows."""
        return next((part.rule for part in self.parts if part.where(place)), Epsilon(epsilon=0))


def everywhere(place: Place) -> bool:
    """Fit every contraction."""
    return True


def convolutions(place: Place) -> bool:
    """Fit convolutions, transposed or not."""
    return place.is_convolution


def up_to(depth: float) -> Where:
    """Fit contractions up to a depth between 0, at the image, and 1, at the logits."""
    return lambda place: place.depth <= depth


def built_in(name: CompositeName, epsilon: Epsilon, gamma: Gamma) -> Composite:
    """Return a composite of these rules by its name; ``Lrp`` says what they are."""
    rest = Part(where=everywhere, rule=epsilon)
    match name:
        case "epsilon":
            return Composite(parts=(rest,))
        case "zplus":
            return Composite(parts=(Part(where=everywhere, rule=ZPlus()),))
        case "gamma":
            return Composite(parts=(Part(where=everywhere, rule=gamma),))
        case "epsilon_plus":
            return Composite(parts=(Part(where=convolutions, rule=ZPlus()), rest))
        case "epsilon_gamma":
            return Composite(parts=(Part(where=convolutions, rule=gamma), rest))
        case "low_middle_high":
            low, middle = (
                Part(where=up_to(1 / 3), rule=gamma),
                Part(where=up_to(2 / 3), rule=epsilon),
            )
            return Composite(parts=(low, middle))
        case _:
            assert_never(name)


def contraction_rules(model: GatedModel, paths: Paths, composite: Composite) -> dict[str, Rule]:
    """Return the rules of a model's contractions, and of the normalisations folded into them."""
    found: dict[str, Rule] = {}
    roles = _roles(model, paths)
    folds = find_folds(model)
    for place in _places(model, roles):
        rule = composite.rule(place)
        fold = folds.get(place.node) if rule.folds else None
        found[place.node] = partial(_follow, rule, roles[place.node], fold)
        if fold is not None:
            found[fold.node.name] = passed_on
    return found


def find_places(model: GatedModel, paths: Paths) -> list[Place]:
    """List the contractions that relevance passes, in the order of the graph."""
    return _places(model, _roles(model, paths))


def _roles(model: GatedModel, paths: Paths) -> dict[str, Roles]:
    found = {node.name: find_roles(node, paths) for node in model.module.graph.nodes}
    return {name: roles for name, roles in found.items() if roles is not None}


def _places(model: GatedModel, contractions: Collection[str]) -> list[Place]:
    levels: dict[fx.Node, int] = {}
    for node in model.module.graph.nodes:
        before = max((levels[source] for source in node.all_input_nodes), default=0)
        levels[node] = before + (node.name in contractions)
    found = {node: level for node, level in levels.items() if node.name in contractions}
    last = max(found.values(), default=1)
    return [
        Place(
            node=node.name,
            operator=operation(node),
            module=node.meta.get(MODULE, ""),
            depth=(level - 1) / max(last - 1, 1),
        )
        for node, level in found.items()
    ]


def _follow(rule: ContractionRule, roles: Roles, fold: Fold | None, step: Step) -> Tensor:
    return rule(contraction(step, roles, fold))
