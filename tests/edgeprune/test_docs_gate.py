"""The workflow for a user's repository is one that GitHub and our command line understand."""

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from edgeprune.cli import cli

DOCS = Path(__file__).parents[2] / "docs"
WORKFLOW = DOCS / "github-workflow.yml"
CODE = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


def workflow() -> dict[Any, Any]:
    found = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def steps() -> list[dict[str, Any]]:
    (job,) = workflow()["jobs"].values()
    return list(job["steps"])


def commands(text: str) -> list[list[str]]:
    lines = text.replace("\\\n", " ").splitlines()
    return [
        shlex.split(line, comments=True)[1:]
        for line in lines
        if line.strip().startswith("edgeprune ")
    ]


WRITTEN = [
    *(each for step in steps() for each in commands(step.get("run", ""))),
    *(
        each
        for block in CODE.findall((DOCS / "gate.md").read_text(encoding="utf-8"))
        for each in commands(block)
    ),
    *commands(WORKFLOW.read_text(encoding="utf-8").replace("gate.json: edge", "\nedge")),
]


@pytest.mark.parametrize("words", WRITTEN, ids=" ".join)
def test_every_command_is_one_that_the_command_line_takes(words: list[str]) -> None:
    name, *rest = words
    command = cli.commands[name]
    with click.Context(cli) as parent:
        context = command.make_context(name, list(rest), parent=parent)
    assert context.params["candidate"]


def test_the_workflow_and_the_page_hold_commands() -> None:
    assert sum(words[0] == "gate" for words in WRITTEN) >= 7


def test_the_workflow_may_only_read_and_takes_no_secrets() -> None:
    assert workflow()["permissions"] == {"contents": "read"}
    assert "secrets." not in WORKFLOW.read_text(encoding="utf-8")
    assert all("permissions" not in job for job in workflow()["jobs"].values())


def test_every_action_is_pinned_to_a_version_and_keeps_no_credentials() -> None:
    used = [step for step in steps() if "uses" in step]
    assert used
    for step in used:
        assert re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"])
        if "checkout" in step["uses"]:
            assert step["with"]["persist-credentials"] is False


def test_the_candidate_is_held_against_the_branch_it_would_go_to() -> None:
    (base,) = (
        step["with"]["path"]
        for step in steps()
        if "path" in step.get("with", {}) and "checkout" in step["uses"]
    )
    against = [words[words.index("--against") + 1] for words in WRITTEN if "--against" in words]
    assert f"{base}/model/" in against
