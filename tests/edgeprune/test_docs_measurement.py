"""docs/measurement.md and the help of ``bench`` show commands that there are."""

import re
import shlex
from pathlib import Path

import click
import pytest

from edgeprune.bench_options import BENCH_EXAMPLES, FORMS, bench_settings
from edgeprune.cli import cli
from edgeprune.measure_options import RUNTIMES
from edgeprune.pipeline.subject_files import LOADS

DOCUMENT = Path(__file__).parents[2] / "docs" / "measurement.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
COMMANDS = [
    line.strip().partition("#")[0]
    for text in (TEXT, BENCH_EXAMPLES)
    for line in text.splitlines()
    if line.strip().startswith("edgeprune bench ")
]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_that_is_shown_can_be_given(line: str) -> None:
    _, name, *words = shlex.split(line)
    command = cli.commands[name]
    context = command.make_context(name, list(words), parent=click.Context(cli))
    assert bench_settings(context.params).a == Path(words[0])


def test_every_option_that_is_named_is_one() -> None:
    known = {name for each in cli.commands["bench"].params for name in each.opts}
    assert set(re.findall(r"--[a-z][a-z-]*\b", TEXT)) <= known
    assert len(COMMANDS) > 8


def test_the_forms_and_runtimes_that_are_offered_are_all_there_are() -> None:
    assert set(RUNTIMES) == set(LOADS)
    for form in FORMS[1:]:
        assert f"--format {form}" in TEXT or f"--{form}" in TEXT
