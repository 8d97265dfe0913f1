from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from torch import Tensor

from edgeprune.attribution import (
    CRITERIA,
    Criterion,
    Integrated,
    Lrp,
    Taylor,
    describe,
    find_criterion,
    name_of,
)
from edgeprune.attribution.specification import settings_of, with_settings, written
from edgeprune.errors import UsageError
from edgeprune.gates import GatedModel


@dataclass(frozen=True, kw_only=True)
class Everything:
    """A criterion with a setting of each kind. It counts. Cost: none."""

    whole: int = 1
    number: float = 0.5
    text: str = "a"
    truth: bool = False
    choice: Literal["left", "right", 3] = "left"
    perhaps: int | None = None
    either: Literal["auto"] | float = "auto"
    table: tuple[int, ...] | Literal["short"] = "short"
    beyond: tuple[int, ...] = ()

    def per_unit(self, model: GatedModel, seed: int) -> Tensor:
        return torch.ones(model.total)


@pytest.mark.parametrize(
    ("text", "criterion"),
    [
        ("taylor", Taylor()),
        ("taylor:explained=margin", Taylor(explained="margin")),
        ("ig:steps=32,groups=single", Integrated(steps=32, groups="single")),
        (" ig : steps = 32 , groups = single , ", Integrated(steps=32, groups="single")),
        ("lrp:epsilon=0.01", Lrp(epsilon=0.01)),
        ("lrp:epsilon=1e-3", Lrp(epsilon=0.001)),
    ],
)
def test_a_criterion_is_read_with_its_settings(text: str, criterion: Criterion) -> None:
    assert find_criterion(text) == criterion


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("whole", "-3", -3),
        ("number", "1e-4", 1e-4),
        ("number", "3", 3.0),
        ("text", "b c", "b c"),
        ("truth", "yes", True),
        ("truth", "False", False),
        ("choice", "right", "right"),
        ("choice", "3", 3),
        ("perhaps", "7", 7),
        ("perhaps", "none", None),
        ("either", "auto", "auto"),
        ("either", "0.25", 0.25),
        ("table", "short", "short"),
    ],
)
def test_a_setting_has_the_type_of_its_field(key: str, text: str, value: object) -> None:
    found = getattr(with_settings(Everything(), "everything", {key: text}), key)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ig:step=4", "'ig' has no setting 'step'; did you mean 'steps'.* it has explained, steps"),
        ("ig:steps=few", "'steps' is a whole number, not 'few'"),
        ("ig:steps=1.5", "'steps' is a whole number, not '1.5'"),
        ("ig:steps=", "'steps=' is no setting; write name:key=value"),
        ("ig:steps", "'steps' is no setting"),
        ("ig:steps=1,steps=2", "gives 'steps' twice"),
        ("ig:steps=0", "0 steps integrate nothing"),
        ("taylor:explained=lost", "is loss or evidence or margin, not 'lost'.* mean 'loss'"),
        ("lrp:epsilon=-1", "epsilon is -1"),
        ("magnitude:p=1", "'magnitude' has no setting 'p'; it has none"),
        ("tailor:explained=loss", "did you mean 'taylor'"),
        ("", "unknown criterion ''; there are taylor"),
    ],
)
def test_settings_that_do_not_exist_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_criterion(text)


@pytest.mark.parametrize("truth", ["maybe", "2"])
def test_a_truth_is_true_or_false(truth: str) -> None:
    with pytest.raises(UsageError, match=f"'truth' is true or false, not '{truth}'"):
        with_settings(Everything(), "everything", {"truth": truth})


def test_a_setting_that_no_text_can_give_is_not_offered() -> None:
    assert "beyond" not in {setting.name for setting in settings_of(Everything())}
    with pytest.raises(UsageError, match="has no setting 'beyond'"):
        with_settings(Everything(), "everything", {"beyond": "1"})


def test_only_what_differs_from_the_default_is_written() -> None:
    assert name_of("taylor:explained=evidence") == "taylor"
    assert name_of(Taylor()) == "taylor"
    assert name_of(" ig:groups=together,steps=8") == "ig:steps=8"
    assert name_of(Integrated(explained="loss", steps=8)) == "ig:explained=loss,steps=8"
    assert name_of(Everything(whole=2)) == "everything"
    changed = Everything(truth=True, perhaps=3, beyond=(1, 2))
    text = "everything:truth=true,perhaps=3,beyond=<tuple>"
    assert written(changed, "everything", Everything()) == text


@pytest.mark.parametrize("name", [*CRITERIA])
def test_what_is_written_of_a_criterion_is_read_as_the_same_one(name: str) -> None:
    texts = [name]
    for setting in settings_of(CRITERIA[name]):
        texts += [f"{name}:{setting.name}={v}" for v in (setting.default, *_others(setting.values))]
    for text in texts:
        found = find_criterion(text)
        assert find_criterion(name_of(found)) == found
        assert name_of(name_of(found)) == name_of(found)


def _others(values: str) -> list[str]:
    """Return values that a setting takes, from the words that name them."""
    numbers = ("a whole number", "a number", "a text", "true or false")
    return [] if any(word in values for word in numbers) else values.split(" or ")


def test_criteria_are_described_by_their_docstrings() -> None:
    found = {each.name: each for each in describe()}
    assert [*found] == [*CRITERIA]
    taylor = found["taylor"]
    assert taylor.summary == "Gate × gradient, by captum's InputXGradient."
    assert taylor.cost.startswith("one forward and one backward per batch")
    assert taylor.needs == "images and labels"
    assert [setting.name for setting in taylor.settings] == ["explained"]
    assert found["activation"].needs == "images"
    assert found["magnitude"].needs == "nothing"
    assert all(each.summary.endswith(".") and "\n" not in each.summary for each in found.values())
