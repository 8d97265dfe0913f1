"""``edgeprune explain``: its page, what it prints, and what it refuses."""

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgeprune.analysis.explanation import Explanation
from edgeprune.attribution.scores import Scores
from edgeprune.attribution.storage import save_scores
from edgeprune.pipeline import ExplainSettings, Subject, explain_unit

from .pipeline_case import write_archive
from .unit_case import case, make_case

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(edgeprune: Run) -> Run:
    """Return what explains in an empty folder, and gives exit code, stdout and stderr."""
    return partial(edgeprune, "explain")


def explained(out: Path, unit: str, model: str = "slim", **changes: Any) -> Explanation:
    data = changes.pop("data", case().path("squares.npz"))
    subject = Subject(model=case().path(model), data=data)
    return explain_unit(ExplainSettings(subject=subject, unit=unit, **changes), out)


def removed() -> str:
    return f"deeper:{planned().removed[0].unit}"


def planned() -> Any:
    return next(group for group in case().plan.groups if group.name == "deeper")


# --- what is found --------------------------------------------------------------------


def test_a_unit_that_went_has_the_plans_reason_and_its_score(tmp_path: Path) -> None:
    found = explained(tmp_path / "u.html", removed())
    first = planned().removed[0]
    assert found.decision is not None
    assert (found.decision.removed, found.decision.rank) == (True, first.rank)
    assert found.decision.reason == first.reason
    assert found.standing is not None
    assert found.standing.score == pytest.approx(first.score, rel=1e-4)
    assert found.standing.most == first.most


def test_rivals_of_a_unit_that_went_are_the_weakest_that_stay(tmp_path: Path) -> None:
    found = explained(tmp_path / "u.html", removed())
    scores, kept = case().scores["deeper"], planned().kept
    assert [rival.unit for rival in found.by_score] == sorted(kept, key=lambda u: scores[u])[:4]
    assert {rival.unit for rival in found.by_response} <= set(kept)
    assert all(rival.kept for rival in (*found.by_score, *found.by_response))


def test_rivals_of_a_unit_that_stays_are_the_strongest_that_go(tmp_path: Path) -> None:
    found = explained(tmp_path / "u.html", f"deeper:{planned().kept[0]}")
    scores, gone = case().scores["deeper"], [unit.unit for unit in planned().removed]
    assert found.decision is not None
    assert (found.decision.removed, found.decision.rank) == (False, None)
    assert [r.unit for r in found.by_score] == sorted(gone, key=lambda u: -scores[u])[:4]


def test_the_images_shown_are_those_of_the_strongest_response(tmp_path: Path) -> None:
    found = explained(tmp_path / "u.html", removed(), top=5)
    shown = [image.response for image in found.strongest]
    assert shown == sorted(shown, reverse=True)
    everything = explained(tmp_path / "v.html", removed(), top=24)
    assert shown == [image.response for image in everything.strongest][:5]
    assert len({image.id for image in everything.strongest}) == 24


def test_what_speaks_for_and_against_has_its_sign(tmp_path: Path) -> None:
    found = explained(tmp_path / "u.html", "hidden:0")
    assert all(image.attribution > 0 for image in found.speaks_for)
    assert all(image.attribution < 0 for image in found.speaks_against)


def test_classes_sum_up_what_was_seen(tmp_path: Path) -> None:
    found = explained(tmp_path / "u.html", removed())
    assert [each.name for each in found.classes] == list(case().scores.classes)
    assert sum(each.images for each in found.classes) == found.images == 24
    assert sum(each.changed for each in found.classes) == found.changed
    loss = sum(each.images * each.loss for each in found.classes) / found.images
    assert loss == pytest.approx(found.loss, abs=1e-6)


def test_attribution_to_the_loss_counts_as_what_speaks_for_the_decision(tmp_path: Path) -> None:
    strongest = int(case().scores["hidden"].argmax())
    found = explained(tmp_path / "u.html", f"hidden:{strongest}", criterion="taylor")
    assert all(image.attribution > 0 for image in found.speaks_for)
    gain = np.corrcoef(
        [each.attribution for each in found.classes], [each.loss for each in found.classes]
    )[0, 1]
    assert gain > 0  # a unit that lowers the loss leaves a higher one behind


def test_images_and_split_are_those_asked_for(tmp_path: Path) -> None:
    found = explained(tmp_path / "u.html", removed(), split="train", images=9)
    assert (found.split, found.images) == ("train", 9)
    assert [each.images for each in found.classes] == [3, 3, 3]


def test_a_stored_model_without_plan_or_scores_is_explained_by_its_images(tmp_path: Path) -> None:
    found = explained(tmp_path / "u.html", "deeper:1", model="stored")
    assert (found.decision, found.standing, found.by_score) == (None, None, ())
    assert len(found.by_response) == 4


def test_scores_that_were_written_elsewhere_can_be_given(tmp_path: Path) -> None:
    folder = Path(case().path("slim.work")) / "scores"
    found = explained(tmp_path / "u.html", "deeper:1", model="stored", scores=folder)
    assert found.standing is not None
    assert found.standing.score == float(case().scores["deeper"][1])
    nearest = (case().scores["deeper"] - case().scores["deeper"][1]).abs().argsort()[1:5]
    assert [rival.unit for rival in found.by_score] == nearest.tolist()


def test_units_of_the_slim_model_are_not_taken_for_those_of_the_plan(tmp_path: Path) -> None:
    found = explained(tmp_path / "u.html", "deeper:0", model="slim/model")
    assert (found.decision, found.size) == (None, len(planned().kept))


def test_a_dead_unit_is_driven_by_nothing(tmp_path: Path) -> None:
    made = make_case(tmp_path)
    dense = made.dense.clone()
    with torch.no_grad():
        dense.module.get_parameter("deeper.weight")[3] = 0
        dense.module.get_parameter("deeper.bias")[3] = -1
    dense.save(tmp_path / "dead")
    subject = Subject(model=str(tmp_path / "dead"), data=str(tmp_path / "squares.npz"))
    found = explain_unit(ExplainSettings(subject=subject, unit="deeper:3"), tmp_path / "u.html")
    assert (found.strongest, found.changed, found.loss) == ((), 0, 0)
    page = (tmp_path / "u.html").read_text(encoding="utf-8")
    assert "its value is the same for all" in page


def test_findings_are_explained_one_image_for_all_of_them(tmp_path: Path) -> None:
    made = make_case(tmp_path)
    write_archive(tmp_path / "findings.npz", findings=3)
    made.dense.save(tmp_path / "many")
    subject = Subject(model=str(tmp_path / "many"), data=str(tmp_path / "findings.npz"))
    found = explain_unit(ExplainSettings(subject=subject, unit="hidden:2"), tmp_path / "u.html")
    names = [each.name for each in found.classes]
    assert "no finding" in names
    assert sum(each.images for each in found.classes) > found.images  # some have two


# --- the page and what is printed -----------------------------------------------------


def test_the_page_opens_offline_and_shows_all_pictures(tmp_path: Path) -> None:
    found = explained(tmp_path / "u.html", removed(), top=3)
    page = (tmp_path / "u.html").read_text(encoding="utf-8")
    targets = re.findall(r"""(?:src|href|action|srcset)\s*=\s*["']?([^"'\s>]*)""", page)
    shown = len(found.strongest) + len(found.speaks_for) + len(found.speaks_against)
    assert len(targets) == 2 * shown > 0
    assert all(target.startswith("data:image/png;base64,") for target in targets)
    assert not re.search(r"https?:|url\(|@import|<script|<link|<iframe", page)
    assert str(case().folder) not in page


def test_the_same_seed_writes_the_same_page(tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        explained(tmp_path / name, removed(), images=10)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_stdout_says_why_and_where_the_page_is(run: Run, tmp_path: Path) -> None:
    code, out, _ = run(removed(), case().path("slim"), "--data", case().path("squares.npz"))
    page = removed().replace(":", "-") + ".html"
    assert code == 0
    assert f"reason: {planned().removed[0].reason}" in out
    assert f"written: {page}" in out
    assert (tmp_path / page).is_file()


def test_json_is_all_of_stdout_and_holds_no_picture(run: Run) -> None:
    words = ("--data", case().path("squares.npz"), "--json", "--out", "u.html", "--top", "2")
    code, out, _ = run(removed(), case().path("slim"), *words)
    found = json.loads(out)
    assert (code, found["page"], found["name"]) == (0, "u.html", removed())
    assert found["strongest"][0].keys() == {"id", "label", "response", "attribution"}
    assert found["decision"]["removed"]


def test_without_a_model_it_is_the_bundle_that_compress_writes(run: Run, tmp_path: Path) -> None:
    for name in ("slim", "slim.work"):
        shutil.copytree(case().path(name), tmp_path / name.replace("slim", "edgeprune-out"))
    code, out, _ = run("conv:0", "--data", case().path("squares.npz"))
    assert (code, "written: conv-0.html" in out) == (0, True)


# --- what is refused ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["deeper"], 2, "give GROUP:INDEX, as 'deeper:0'"),
        (["deper:1"], 2, "did you mean 'deeper:1'?"),
        (["deeper:12"], 2, "there is no unit 12"),
        (["deeper:1", "--split", "all"], 2, "no split 'all'"),
        (["deeper:1", "--top", "0"], 2, "--top 0 is too small"),
        (["deeper:1", "--top", "500"], 2, "--top 500 is more than a page holds"),
        (["deeper:1", "--images", "0"], 2, "--images 0 is too small"),
        (["deeper:1", "--criterion", "magnitude"], 2, "does not attribute single images"),
        (["deeper:1", "--scores", "absent"], 1, "'absent' holds no scores"),
        (["deeper:1", "--out", "full.html"], 2, "'full.html' exists already"),
    ],
)
def test_mistakes_end_in_one_line_and_nothing_written(
    words: list[str], code: int, message: str, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "full.html").write_text("mine")
    unit, *rest = words
    data = ("--data", case().path("squares.npz"))
    seen, out, err = run(unit, case().path("slim"), *data, *rest)
    assert (seen, out) == (code, "")
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["full.html"]


def test_scores_of_another_model_are_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    save_scores(tmp_path / "other", Scores(criterion="x", values={"conv": torch.zeros(8)}))
    words = ("--data", case().path("squares.npz"), "--scores", "other")
    code, _, err = run("deeper:1", case().path("slim"), *words)
    assert (code, "are of another model: group 'deeper'" in err) == (1, True)


def test_damaged_scores_beside_a_bundle_are_said_and_left_out(run: Run, tmp_path: Path) -> None:
    for name in ("slim", "slim.work"):
        shutil.copytree(case().path(name), tmp_path / name)
    (tmp_path / "slim.work" / "scores" / "scores.json").write_text("{}")
    code, out, err = run("deeper:1", "slim", "--data", case().path("squares.npz"))
    assert (code, "without scores" in err, "score:" in out) == (0, True, False)
