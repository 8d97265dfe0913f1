"""Rules of lookups: what is numbered stays, everything beside it passes."""

import pytest
import torch
from torch import Tensor

from edgeprune.axes import analyse

from .probe import Body, channels, check, probe, reasons

FIXES_THE_BATCH = "take along"  # as torch.export has it
PICK = torch.tensor([0, 2, 1, 4])


def _first(x: Tensor) -> Tensor:
    """Number each sample by its first pixel, from 0 to 4."""
    return (x[:, :, 0, 0].sum(1).sigmoid() * 4).long()


PASSING: dict[str, Body] = {
    "rows of a table": lambda m, x: x * m.table[PICK].sum(0)[:, None, None],
    "columns of a table": lambda m, x: x * m.table.T[:, PICK].sum(1)[:, None, None],
    "embedding": lambda m, x: (
        x * torch.nn.functional.embedding(_first(x), m.table)[..., None, None]
    ),
    "index select": lambda m, x: x * m.table.index_select(0, PICK).sum(0)[:, None, None],
    "pixels": lambda m, x: x[:, :, PICK] + x[:, :, :, PICK].mT,
    "pixels of both axes": lambda m, x: x[:, :, PICK, PICK],
    "axes apart": lambda m, x: x[:, None][:, [0], :, [1]].squeeze(0),
    "gather": lambda m, x: x.gather(3, x.argsort(3)),
    "gather in space": lambda m, x: torch.gather(x, 2, (m.mix(x) > 0).long()),
    "take along": lambda m, x: torch.take_along_dim(
        x, PICK.view(1, 1, 4, 1).expand(len(x), 1, 4, 1), 2
    ),
}
STUCK: dict[str, tuple[Body, int, str]] = {
    "index": (lambda m, x: x[:, PICK], 4, "aten.index.Tensor (looked up)"),
    "index select": (
        lambda m, x: x.index_select(1, PICK), 4, "aten.index_select.default (looked up)",
    ),
    "gather": (
        lambda m, x: x.gather(1, PICK.view(1, 4, 1, 1).expand(len(x), 4, 6, 6)),
        4, "aten.gather.default (looked up)",
    ),
    "take along": (
        lambda m, x: torch.take_along_dim(x, PICK.view(1, 4, 1, 1).expand(len(x), 4, 1, 1), 1),
        4, "aten.take_along_dim.default (looked up)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PASSING)
def test_channels_beside_what_is_looked_up_pass(name: str) -> None:
    dense = probe(PASSING[name], dynamic=name != FIXES_THE_BATCH)
    analysis = analyse(dense)
    assert channels(analysis) == 8
    assert reasons(analysis) == {"image channels", "model output"}
    check(dense)


@pytest.mark.parametrize("name", STUCK)
def test_channels_that_are_looked_up_stay_and_are_named(name: str) -> None:
    body, out, reason = STUCK[name]
    dense = probe(body, out, dynamic=name != FIXES_THE_BATCH)
    analysis = analyse(dense)
    assert channels(analysis) == 0
    assert reason in reasons(analysis, "conv.weight")
    check(dense, vacuous=True)
