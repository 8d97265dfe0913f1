from pathlib import Path

import pytest

from edgeprune.errors import BundleError, UsageError
from edgeprune.pipeline.checks import check_place
from edgeprune.pipeline.workspace import Workspace


def name(folder: Path) -> str:
    return (folder / "name").read_text(encoding="utf-8")


def write(folder: Path) -> None:
    (folder / "name").write_text("made", encoding="utf-8")


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "slim")


def test_a_stage_is_made_once(work: Workspace) -> None:
    with work.opened({}):
        assert work.stage("cut", write, name) == "made"
        assert work.stage("cut", lambda _: pytest.fail("made again"), name) == "made"


def test_a_stage_that_was_interrupted_is_made_again(work: Workspace) -> None:
    def interrupted(folder: Path) -> None:
        write(folder)
        raise KeyboardInterrupt

    with work.opened({}):
        with pytest.raises(KeyboardInterrupt):
            work.stage("cut", interrupted, name)
        assert not work.has("cut")
        assert work.stage("cut", write, name) == "made"


def test_what_a_killed_run_left_half_written_is_removed(work: Workspace) -> None:
    half = work.folder / ".cut.abc123"
    half.mkdir(parents=True)
    write(half)
    (work.folder / ".settings.json.xyz").touch()
    work.check(resume=False)
    with work.opened({}):
        assert {path.name for path in work.folder.iterdir()} == {"lock", "settings.json"}


def test_a_checkpoint_goes_when_its_stage_is_complete(work: Workspace) -> None:
    with work.opened({}):
        work.checkpoint("cut").touch()
        work.stage("cut", write, name)
        assert not work.checkpoint("cut").exists()


def test_an_earlier_run_is_continued_only_when_asked(work: Workspace) -> None:
    with work.opened({}):
        work.stage("cut", write, name)
    with pytest.raises(UsageError, match=r"holds an earlier run: continue it with --resume"):
        work.check(resume=False)
    work.check(resume=True)


def test_a_run_that_failed_before_its_first_stage_is_not_in_the_way(work: Workspace) -> None:
    with work.opened({"seed": 0}):
        pass
    work.check(resume=False)
    with work.opened({"seed": 1}):
        pass


def test_resuming_with_other_settings_names_them(work: Workspace) -> None:
    with work.opened({"seed": 0, "formats": ("onnx",)}):
        work.stage("cut", write, name)
    with work.opened({"seed": 0, "formats": ("onnx",)}):
        pass
    with pytest.raises(UsageError, match=r"other settings: seed was 0, now 1\. Resume"):
        work.opened({"seed": 1, "formats": ("onnx",)}).__enter__()


@pytest.mark.parametrize("text", ["{", "[]", "\udcff"])
def test_damaged_settings_say_what_to_remove(work: Workspace, text: str) -> None:
    with work.opened({}):
        work.stage("cut", write, name)
    stored = work.folder / "settings.json"
    stored.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match=r"is damaged: remove '.*slim\.work' to start anew"):
        work.opened({}).__enter__()


def test_a_damaged_stage_says_what_to_remove(work: Workspace) -> None:
    with work.opened({}):
        work.stage("cut", write, name)
        (work.folder / "cut" / "name").unlink()
        with pytest.raises(BundleError, match=r"slim\.work/cut' of the earlier run is damaged"):
            work.stage("cut", write, name)


def test_somebody_elses_folder_of_that_name_is_not_touched(work: Workspace) -> None:
    work.folder.mkdir()
    (work.folder / "thesis.txt").write_text("years", encoding="utf-8")
    for resume in (False, True):
        with pytest.raises(UsageError, match=r"no folder of edgeprune's"):
            work.check(resume=resume)
    assert (work.folder / "thesis.txt").read_text(encoding="utf-8") == "years"


def test_a_file_of_that_name_is_not_touched(work: Workspace) -> None:
    work.folder.write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match=r"no folder of edgeprune's"):
        work.check(resume=False)


def test_two_runs_do_not_work_in_one_folder(work: Workspace) -> None:
    with work.opened({}), pytest.raises(UsageError, match=r"another run is working in"):
        Workspace(work.out).opened({}).__enter__()


def test_publishing_moves_a_stage_to_an_empty_folder(work: Workspace) -> None:
    work.out.mkdir()
    with work.opened({}):
        work.stage("bundle", write, name)
        work.publish("bundle")
    assert name(work.out) == "made"
    assert not work.has("bundle")


@pytest.mark.parametrize("out", [".", "..", "/"])
def test_an_output_needs_a_name(out: str) -> None:
    with pytest.raises(UsageError, match=r"names no folder of its own"):
        check_place(Path(out))


def test_an_output_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "slim").mkdir()
    check_place(tmp_path / "slim")
    (tmp_path / "slim" / "x").touch()
    for out in (tmp_path / "slim", tmp_path / "slim" / "x"):
        with pytest.raises(UsageError, match=r"is not empty: choose another --out"):
            check_place(out)


def test_an_output_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"nothing can be written in '.*file'"):
        check_place(tmp_path / "file" / "deep" / "slim")


def test_an_output_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "slim").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(UsageError, match=r"is a link or a mount"):
        check_place(tmp_path / "slim")
