"""docs/attribution.md says what the code does: its tables, its names, its example."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import edgeprune as ep
from edgeprune.attribution.lrp.table import BY_ATTENTION, TABLE
from edgeprune.attribution.propagation import Entry
from edgeprune.attribution.registry import CRITERIA, REFUSED, describe
from edgeprune.pipeline.settings import AGGREGATES, RANKINGS, SAMPLERS

DOCUMENT = Path(__file__).parents[2] / "docs" / "attribution.md"
NAMED = 8  # operators of an entry that are named
INFO = "Metadata-Version: 2.1\nName: my-criteria\nVersion: 1.0\n"


@pytest.fixture(scope="module")
def text() -> str:
    return DOCUMENT.read_text(encoding="utf-8")


def rules() -> Iterator[str]:
    """Yield the table of LRP's rules, as the document has it between its two marks."""
    yield "| operators | what becomes of relevance | conserves |"
    yield "|---|---|---|"
    for name, entry in BY_ATTENTION.items():
        yield row(entry, f" with `attention={name}`")
    for entry in TABLE:
        yield row(entry, "")


def row(entry: Entry, when: str) -> str:
    names = sorted(entry.operators)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    shown = ", ".join(f"`{name}`" for name in names[:NAMED])
    return f"| {shown}{more}{when} | {entry.why} | {'yes' if entry.conserves else 'no'} |"


def test_the_table_of_rules_is_the_one_that_runs(text: str) -> None:
    wanted = "\n".join(rules())
    found = text.partition("<!-- table of rules -->\n")[2].partition("\n<!-- end of table -->")[0]
    assert found == wanted, f"put this between the marks:\n{wanted}"


@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_has_its_section_with_its_settings(name: str, text: str) -> None:
    assert f"(#{name})" in text
    section = text.partition(f"\n### {name}\n")[2].partition("\n### ")[0]
    (described,) = (each for each in describe() if each.name == name)
    assert section
    assert all(f"`{setting.name}" in section for setting in described.settings)


def test_every_choice_is_described(text: str) -> None:
    for name in (*SAMPLERS, *AGGREGATES, *RANKINGS, *REFUSED):
        assert re.search(rf"`(--ranking )?{name}`", text), name


def test_the_patent_stands_beside_lrp(text: str) -> None:
    section = text.partition("\n### lrp\n")[2].partition("\n### ")[0]
    assert "patented in some jurisdictions" in section
    assert "personal, educational and" in section


def test_every_link_within_the_document_leads_somewhere(text: str) -> None:
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    assert set(re.findall(r"\(#([^)]+)\)", text)) <= anchors


def test_the_example_of_an_own_criterion_works(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = text.partition("## A criterion of your own")[2]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (entry,) = re.findall(r'```toml\n.*?\n(certainty) = "(my_criteria:certainty)"', section)
    (tmp_path / "my_criteria.py").write_text(code)
    folder = tmp_path / "my_criteria-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(INFO)
    (folder / "entry_points.txt").write_text(f"[edgeprune.criteria]\n{entry[0]} = {entry[1]}\n")
    monkeypatch.syspath_prepend(tmp_path)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    dense, images = ep.capture(model, torch.randn(2, 3, 8, 8)), torch.randn(5, 3, 8, 8)
    plain = ep.attribute(dense, [images], criterion="certainty")
    warm = ep.attribute(dense, [images], criterion="certainty:temperature=2")
    assert bool((plain["0"] > 0).any())
    assert warm.criterion == "certainty:temperature=2"
    assert not torch.allclose(plain["0"], warm["0"])
