"""``edgeprune score``: what it writes, what it prints, and what it refuses."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch

from edgeprune.attribution import Scores, attribute
from edgeprune.attribution.storage import load_scores
from edgeprune.axes import analyse
from edgeprune.cli import main
from edgeprune.data import PreparedSplit, batches, load_data
from edgeprune.pipeline import CompressSettings, ScoreSettings, Subject, score_model
from edgeprune.pipeline.score_table import columns
from edgeprune.pipeline.scoring import Scoring, score_units
from edgeprune.report.scores import score_page

from .pipeline_case import Log, write_archive
from .synthetic_bundle import HOSTILE
from .unit_case import case, make_case, renamed_classes

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(edgeprune: Run) -> Run:
    """Return what scores in an empty folder, and gives exit code, stdout and stderr."""
    return partial(edgeprune, "score")


def scored(out: Path, model: str = "stored", **changes: Any) -> Scores:
    """Score the case's model and return the scores."""
    subject = Subject(model=case().path(model), data=case().path("squares.npz"))
    return score_model(ScoreSettings(subject=subject, **changes), out).scores


def close(a: Scores, b: Scores) -> bool:
    return a.values.keys() == b.values.keys() and all(
        torch.allclose(a[name], b[name], rtol=1e-4, atol=1e-7) for name in a.values
    )


# --- what is written ------------------------------------------------------------------


def test_a_folder_gets_the_table_the_page_and_the_stored_scores(run: Run, tmp_path: Path) -> None:
    code, out, _ = run(case().path("stored"), "--data", case().path("squares.npz"))
    assert code == 0
    names = ["scores.html", "scores.json", "scores.parquet", "scores.safetensors"]
    assert sorted(path.name for path in (tmp_path / "edgeprune-scores").iterdir()) == names
    assert all(f"written: edgeprune-scores/{name}" in out for name in names)


def test_the_table_holds_every_unit_with_its_score_rank_and_classes(tmp_path: Path) -> None:
    scores = scored(tmp_path / "out", per_class=4)
    table = pyarrow.parquet.read_table(tmp_path / "out" / "scores.parquet").to_pydict()
    groups = analyse(case().dense).groups
    assert table["group"] == [group.name for group in groups for _ in range(group.size)]
    assert table["kind"] == [group.kind for group in groups for _ in range(group.size)]
    assert table["score"] == [value for g in groups for value in scores[g.name].tolist()]
    assert sorted(table["rank"]) == list(range(1, sum(group.size for group in groups) + 1))
    in_order = [score for _, score in sorted(zip(table["rank"], table["score"], strict=True))]
    assert in_order == sorted(table["score"])
    names = scores.classes
    assert np.allclose(
        np.sum([table[f"score_{name}"] for name in names], axis=0), table["score"]
    )  # every image has one class
    assert set(table["most"]) <= set(names)


def test_both_tables_say_the_same(tmp_path: Path) -> None:
    scored(tmp_path / "out", formats=("parquet", "csv"))
    tables = (
        pyarrow.parquet.read_table(tmp_path / "out" / "scores.parquet"),
        pyarrow.csv.read_csv(tmp_path / "out" / "scores.csv"),
    )
    found = [table.to_pydict() for table in tables]
    assert found[0].keys() == found[1].keys()
    assert [str(name) for name in found[0]["group"]] == [str(name) for name in found[1]["group"]]
    assert np.allclose(found[0]["score"], found[1]["score"], rtol=1e-12)


def test_stored_scores_are_read_back_whole(tmp_path: Path) -> None:
    scores = scored(tmp_path / "out")
    again = load_scores(tmp_path / "out")
    assert columns(again) == columns(scores)
    assert again.samples == scores.samples
    assert len(again.samples) == 30


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_file_gets_the_table_alone(suffix: str, tmp_path: Path) -> None:
    scored(tmp_path / f"table{suffix}")
    assert [path.name for path in tmp_path.iterdir()] == [f"table{suffix}"]


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        scored(tmp_path / name, formats=("parquet", "csv"))
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_json_is_all_of_stdout_and_sums_up_the_layers(run: Run) -> None:
    words = ("--data", case().path("squares.npz"), "--json", "--out", "t.csv")
    code, out, _ = run(case().path("stored"), *words)
    found = json.loads(out)
    assert (code, found["samples"], found["files"]) == (0, 30, ["t.csv"])
    assert [group["name"] for group in found["groups"]] == list(case().scores.values)
    for group in found["groups"]:
        assert group["lowest"] <= group["mean"] <= group["highest"]
        assert group["sum"] == pytest.approx(group["mean"] * group["size"])


# --- which model ----------------------------------------------------------------------


def test_scores_are_those_of_the_attribution_itself(tmp_path: Path) -> None:
    data = load_data(case().path("squares.npz"))
    scores = scored(tmp_path / "out.csv")
    rows = [data.train.ids.index(name) for name in scores.samples]
    images = batches(data.train, case().how, batch_size=7, indices=rows)
    assert close(scores, attribute(case().dense, images, classes=data.classes))


@pytest.mark.parametrize("model", ["slim", "slim.work", "slim.work/dense"])
def test_a_bundle_stands_for_its_dense_model(model: str, tmp_path: Path) -> None:
    assert close(scored(tmp_path / "a.csv"), scored(tmp_path / "b.csv", model=model))


def test_the_slim_model_of_a_bundle_can_be_scored_too(tmp_path: Path) -> None:
    sizes = {
        name: len(own) for name, own in scored(tmp_path / "a.csv", "slim/model").values.items()
    }
    assert sizes == {group.name: len(group.kept) for group in case().plan.groups}


def test_a_model_by_name_with_weights_scores_as_when_stored(run: Run, tmp_path: Path) -> None:
    factory = f"{case().path('net.py')}:build"
    words = ("--weights", case().path("net.safetensors"), "--data", case().path("squares.npz"))
    code, _, _ = run(factory, *words, "--image-size", "24", "--out", "named")
    assert code == 0
    assert close(load_scores(tmp_path / "named"), scored(tmp_path / "stored.csv"))


def test_a_criterion_without_images_needs_no_data(run: Run) -> None:
    code, out, err = run(case().path("stored"), "--criterion", "magnitude", "--out", "m.csv")
    assert (code, "squares" in err) == (0, False)
    assert "by magnitude" in out
    assert Path("m.csv").read_text().splitlines()[0].count(",") == 5


def test_batches_bound_the_memory_and_not_the_scores(tmp_path: Path) -> None:
    assert close(scored(tmp_path / "a.csv", batch_size=1), scored(tmp_path / "b.csv"))


def test_signed_scores_differ_from_absolute_ones(tmp_path: Path) -> None:
    signed = scored(tmp_path / "a.csv", aggregate="signed")
    absolute = scored(tmp_path / "b.csv")
    assert not close(signed, absolute)
    assert all((signed[name].abs() <= absolute[name] + 1e-9).all() for name in signed.values)


def test_progress_counts_the_images(tmp_path: Path) -> None:
    log = Log()
    subject = Subject(model=case().path("stored"), data=case().path("squares.npz"))
    score_model(ScoreSettings(subject=subject, batch_size=10), tmp_path / "t.csv", reporter=log)
    assert log.steps["scoring images"] == 3


# --- the page -------------------------------------------------------------------------


def test_the_page_refers_to_nothing_outside_itself(tmp_path: Path) -> None:
    scored(tmp_path / "out")
    page = (tmp_path / "out" / "scores.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|url\(|@import|<script|<link|<iframe|src=", page)
    assert "default-src 'none'" in page


def test_the_page_has_a_plot_of_every_group() -> None:
    page = score_page(case().scores, model="net")
    for name in case().scores.values:
        assert page.count(f'aria-label="sorted scores of {name}"') == 1
    assert page.count("mean of a unit") == 1


def test_names_of_classes_are_escaped_in_the_page() -> None:
    scores = case().scores
    hostile = Scores(
        criterion="taylor",
        values=scores.values,
        per_class=scores.per_class,
        classes=(HOSTILE, "b", "c"),
        kinds=scores.kinds,
    )
    page = score_page(hostile, model=HOSTILE)
    assert HOSTILE not in page


@pytest.mark.parametrize("values", [[0.0, 0.0], [-3.0, 1.0], [-2.0, -1.0], [5.0]])
def test_scores_of_any_sign_are_drawn(values: list[float]) -> None:
    page = score_page(Scores(criterion="x", values={"g": torch.tensor(values).double()}), model="m")
    assert "nan" not in page.lower().replace("nano", "")
    assert all(
        0 <= float(at) <= 100 for at in re.findall(r'class="up" style="top:([-\d.]+)%', page)
    )


# --- what is refused ------------------------------------------------------------------

REFUSED = [
    (["resnet18", "--data", "phantoms"], 2, "'resnet18' comes without weights"),
    (["resnet18", "--weights", "absent.pt", "--data", "phantoms"], 1, "no weights at 'absent.pt'"),
    (["STORED"], 2, "there are no images to look at: give --data PATH"),
    (["slim", "--data", "absent"], 1, "no data at 'absent'"),
    (["STORED", "--data", "DATA", "--per-class", "21"], 1, "use --per-class 20"),
    (["STORED", "--data", "DATA", "--per-class", "0"], 2, "--per-class 0 is too small"),
    (["STORED", "--data", "DATA", "--batch-size", "0"], 2, "--batch-size 0 is too small"),
    (["STORED", "--data", "DATA", "--criterion", "tailor"], 2, "did you mean 'taylor'?"),
    (["STORED", "--data", "DATA", "--criterion", "deeplift"], 2, "'deeplift' is refused"),
    (["STORED", "--data", "DATA", "--criterion", "taylor:explain=loss"], 2, "explained"),
    (["STORED", "--data", "DATA", "--sampler", "best"], 2, "no sampler 'best'"),
    (["STORED", "--data", "DATA", "--aggregate", "best"], 2, "no aggregate 'best'"),
    (["STORED", "--criterion", "magnitude", "--aggregate", "signed"], 2, "aggregate"),
    (["STORED", "--data", "DATA", "--format", "xlsx"], 2, "no format 'xlsx'"),
    (["STORED", "--data", "DATA", "--weights", "a.pt"], 2, "complete: leave out --weights"),
    (["STORED", "--data", "DATA", "--out", "full"], 2, "'full' is not empty"),
    (["STORED", "--data", "DATA", "--out", "full/a.csv"], 2, "'full/a.csv' exists already"),
    (["STORED", "--data", "FOUR"], 1, "tells 3 classes apart, but 'four.npz' has 4"),
]


@pytest.mark.parametrize(("words", "code", "message"), REFUSED)
def test_mistakes_end_in_one_line_and_nothing_written(
    words: list[str], code: int, message: str, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.csv").write_text("mine")
    if "FOUR" in words:
        write_archive(tmp_path / "four.npz", classes=4)
    places = {
        "STORED": case().path("stored"),
        "DATA": case().path("squares.npz"),
        "FOUR": str(tmp_path / "four.npz"),
        "slim": case().path("slim"),
    }
    before = sorted(tmp_path.rglob("*"))
    seen, out, err = run(*(places.get(word, word) for word in words))
    last = err.splitlines()[-1]
    assert (seen, out) == (code, "")
    assert message in last
    assert last.startswith("error: ")
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before


def test_weights_without_a_head_are_refused(run: Run, tmp_path: Path) -> None:
    four = str(write_archive(tmp_path / "four.npz", classes=4))
    words = ("--weights", case().path("net.safetensors"), "--data", four, "--image-size", "24")
    code, _, err = run(f"{case().path('net.py')}:build", *words)
    assert code == 1
    assert "'net.safetensors' holds no head for the 4 classes of 'four.npz'" in err
    assert not Path("edgeprune-scores").exists()


def test_a_bundle_without_its_dense_model_says_where_that_was(run: Run, tmp_path: Path) -> None:
    shutil.copytree(case().path("slim"), tmp_path / "slim")
    code, _, err = run("slim", "--data", case().path("squares.npz"))
    assert code == 2
    assert "the dense model of 'slim' was in 'slim.work', which is gone" in err


def test_images_of_other_classes_than_the_bundles_are_refused(run: Run, tmp_path: Path) -> None:
    make_case(tmp_path)
    renamed_classes(tmp_path / "slim", "normal", "nodule", "effusion")
    code, _, err = run("slim", "--data", case().path("squares.npz"))
    assert code == 1
    assert "made for the classes normal, nodule, effusion" in err


def test_compress_refuses_to_aggregate_what_has_no_images_before_it_reads_any(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["edgeprune", "compress", "--criterion", "magnitude", "--aggregate", "signed"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit, match="2"):
        main()
    message = "--aggregate signed sums the attributions of images, but 'magnitude' gives one score"
    assert message in capsys.readouterr().err


def test_a_run_may_be_resumed_with_another_scoring_batch_but_not_another_sum() -> None:
    asked = CompressSettings().to_dict()
    assert CompressSettings(scoring_batch=2).to_dict() == asked
    assert CompressSettings(aggregate="squared").to_dict() != asked


def test_the_scores_of_a_stage_are_made_in_batches_of_the_size_asked_for() -> None:
    data = load_data(case().path("squares.npz"))
    log = Log()
    prepared = PreparedSplit(data.train, case().how)
    how = Scoring(
        criterion="taylor",
        sampler="random",
        per_class=6,
        aggregate="absolute",
        batch_size=9,
        seed=0,
    )
    scores = score_units(case().dense, prepared, data, how, log)
    assert (log.steps["scoring images"], len(scores.samples)) == (2, 18)
    assert len(scores.hashes) == 18


def test_an_interruption_while_writing_leaves_nothing_behind(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgeprune.pipeline.scoring_run.score_page", interrupted)
    code, out, err = run(case().path("stored"), "--data", case().path("squares.npz"))
    assert (code, out) == (130, "")
    assert err.endswith("error: interrupted: nothing was written\n")
    assert list(tmp_path.iterdir()) == []
