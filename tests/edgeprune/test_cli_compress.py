import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from rich.console import Console

from edgeprune.budget import Budget
from edgeprune.cli import cli, main
from edgeprune.console import RichReporter, print_results
from edgeprune.errors import UsageError
from edgeprune.options import COMPRESS_OPTIONS, DEFAULTS, OPTIONS, settings_of
from edgeprune.pipeline import CompressResults

from .pipeline_case import finished, options, write_archive

Ask = Callable[..., object]


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[str, str]]:
    def run(*words: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["edgeprune", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
        said = capsys.readouterr()
        return said.out, said.err

    return run


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        path = tmp_path / "run.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def parsed(*words: str) -> click.Context:
    return cli.commands["compress"].make_context("compress", list(words))


def test_stdout_holds_json_and_nothing_else(command: Callable[..., tuple[str, str]]) -> None:
    results, data = finished()
    out, _ = command(*options(data), "--out", str(results.bundle), "--resume", "--json")
    assert json.loads(out) == json.loads(json.dumps(results.headline))


def test_stdout_holds_the_table_and_where_the_bundle_is(
    command: Callable[..., tuple[str, str]],
) -> None:
    results, data = finished()
    out, err = command(*options(data), "--out", str(results.bundle), "--resume")
    for row in ("test accuracy", "MACs", "parameters", "file size", "peak memory", "95 % interval"):
        assert row in out
    assert f"bundle: {results.bundle}" in out
    assert err == f"  '{results.bundle}' is complete already\n"
    assert "" not in (out + err).splitlines()


def test_verify_cut_is_printed_by_every_compress() -> None:
    (line,) = [line for line in finished()[0].lines if line.startswith("verify_cut")]
    assert "the cut model equals the masked model" in line


def test_report_is_written_again_by_command(command: Callable[..., tuple[str, str]]) -> None:
    bundle = finished()[0].bundle
    before = (bundle / "report.html").read_bytes()
    out, err = command("report", str(bundle))
    assert (out, err) == (f"{bundle / 'report.html'}\n", "")
    assert (bundle / "report.html").read_bytes() == before


def test_targets_are_listed(command: Callable[..., tuple[str, str]]) -> None:
    out, _ = command("targets")
    assert {"cpu", "cpu-ort", "jetson"} <= {line.partition(" ")[0] for line in out.splitlines()}


def test_no_command_shows_the_help(command: Callable[..., tuple[str, str]]) -> None:
    out, _ = command()
    assert "compress" in out
    assert "report" in out


def test_help_has_every_option_under_a_heading(command: Callable[..., tuple[str, str]]) -> None:
    out, _ = command("compress", "--help")
    for heading, group in OPTIONS.items():
        section = out.split(f"\n{heading}:\n")[1].split("\n\n")[0]
        for option in group:
            assert f"\n  {option.opts[0]} " in f"\n{section}"
    assert "\n  -h, --help" in out


def test_defaults_are_those_of_the_settings() -> None:
    assert settings_of(parsed()) == DEFAULTS


def test_every_option_reaches_the_settings() -> None:
    given = parsed(
        *("--model", "resnet18", "--keep", "0.25", "--formats", "onnx,openvino", "--lr", "0.01"),
        *("--skip-corrupt", "--per-class", "3", "--weights", "w.pt", "--image-size", "32"),
    )
    settings = settings_of(given)
    assert settings.model == "resnet18"
    assert (settings.budget.kind, settings.budget.share) == ("keep", 0.25)
    assert settings.formats == ("onnx", "openvino")
    assert (settings.lr, settings.per_class, settings.image_size) == (0.01, 3, 32)
    assert settings.skip_corrupt
    assert settings.weights == Path("w.pt")
    names = {option.name for option in COMPRESS_OPTIONS if option.expose_value}
    fields = set(vars(DEFAULTS)) - {"budget"}
    budget = {"keep", "macs", "params", "floor", "ceiling", "keep_group", "freeze", "kinds"}
    assert names == fields | budget | {"out", "resume", "as_json"}


LEFT = Budget(
    macs=0.5,
    floors={"layer4.*": 0.5, "a": 1},
    ceilings={"*": 0.9},
    keep_groups=("stem", "b*"),
    freeze=("layer1",),
    kinds=("conv", "width"),
)


def test_what_to_leave_reaches_the_budget() -> None:
    given = parsed(
        *("--floor", "layer4.*=0.5", "--floor", "a=1", "--ceiling", "*=0.9"),
        *("--keep-group", "stem", "--keep-group", "b*", "--freeze", "layer1"),
        *("--kinds", "conv, width", "--align", "off"),
    )
    assert settings_of(given).budget == LEFT
    assert settings_of(given).align == 1


def test_what_to_leave_may_stand_in_a_config(config: Callable[[str], str]) -> None:
    text = """
        floor = ["layer4.*=0.5", "a=1"]
        ceiling = "*=0.9"
        keep-group = ["stem", "b*"]
        freeze = ["layer1"]
        kinds = ["conv", "width"]
        align = "off"
    """
    settings = settings_of(parsed("--config", config(text)))
    assert (settings.budget, settings.align) == (LEFT, 1)
    other = settings_of(parsed("--config", config(text), "--floor", "b=0.1"))
    assert other.budget.floors == {"b": 0.1}
    assert other.budget.ceilings == LEFT.ceilings


def test_a_config_gives_defaults_and_the_command_line_wins(config: Callable[[str], str]) -> None:
    text = (
        'model = "resnet18"\nper-class = 3\nseed = 4\nformats = ["onnx"]\njson = true\nkeep = 0.5'
    )
    context = parsed("--config", config(text), "--seed", "5", "--macs", "0.3")
    settings = settings_of(context)
    assert (settings.model, settings.per_class, settings.seed) == ("resnet18", 3, 5)
    assert settings.formats == ("onnx",)
    assert (settings.budget.kind, settings.budget.share) == ("macs", 0.3)
    assert context.params["as_json"] is True


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("per-clas = 3", r"sets 'per-clas', which is no option; did you mean 'per-class'\?"),
        ("config = 'x'", r"sets 'config', which is no option"),
        ("model =", r"is not TOML"),
        ("[macs]\nshare = 1", r"'macs' is a table; give one value"),
        ("[floor]\n'layer4.*' = 1", r"'floor' is a table; give a list of texts"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(
    config: Callable[[str], str], text: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        parsed("--config", config(text))


def test_a_config_value_of_the_wrong_kind_is_refused(config: Callable[[str], str]) -> None:
    with pytest.raises(click.BadParameter, match="not a valid integer"):
        parsed("--config", config('rounds = "many"'))


def lines_of(console: Console) -> list[str]:
    with console.capture() as captured:
        reporter = RichReporter(console, interval=0.0)
        reporter.stage("Train [a]")
        reporter.say("word " * 40)
        with reporter.track("training", 10) as advance:
            advance(3, "epoch 1/2")
            advance(4, total=20)
    return captured.get().splitlines()


def test_in_a_pipe_progress_is_plain_lines_of_any_length() -> None:
    lines = lines_of(Console(force_terminal=False, width=60))
    assert lines == [
        "▸ Train [a]",
        "  " + "word " * 40,
        "  training: 3 of 10 (epoch 1/2)",
        "  training: 4 of 20",
    ]


def test_in_a_pipe_lines_do_not_come_more_often_than_the_interval() -> None:
    console = Console(force_terminal=False)
    with console.capture() as captured, RichReporter(console, interval=60).track("x", 9) as advance:
        for done in range(9):
            advance(done)
    assert captured.get() == ""


def test_in_a_terminal_progress_is_a_bar_that_disappears() -> None:
    console = Console(force_terminal=True, width=100)
    with console.capture() as captured, RichReporter(console).track("training", 10) as advance:
        advance(3, "epoch 1/2")
    assert "training" in captured.get()
    assert captured.get().endswith("\x1b[2K")


def test_a_table_says_what_was_not_measured() -> None:
    results = finished()[0]
    without = {key: dict(value) for key, value in results.headline.items()}
    without["slim"]["auroc"] = without["slim"]["peak_memory_mb"] = None
    console = Console(force_terminal=False, width=80)
    with console.capture() as captured:
        print_results(
            CompressResults(bundle=Path("x"), title="t" * 200, headline=without, lines=()), console
        )
    lines = captured.get().splitlines()
    assert lines[0] == "t" * 200
    assert sum("not measured" in line for line in lines) == 2


def started(folder: Path, *words: str) -> subprocess.Popen[str]:
    data = folder / "squares.npz"
    if not data.exists():
        write_archive(data)
    command = [sys.executable, "-m", "edgeprune.cli", *options(data), "--out", "slim", *words]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(process: subprocess.Popen[str], path: Path) -> None:
    end = time.monotonic() + 240
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"no {path.name}"
        time.sleep(0.002)


@pytest.fixture
def heeding_interrupts() -> Iterator[None]:
    """Undo what a shell does to jobs in the background: they, and their children, ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeding_interrupts")
def test_ctrl_c_is_one_line_and_leaves_what_is_complete(tmp_path: Path) -> None:
    process = started(tmp_path)
    wait_for(process, tmp_path / "slim.work" / "dense")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130, err
    assert out == ""
    assert (
        err.splitlines()[-1] == "error: interrupted: what is complete is kept; --resume continues"
    )
    assert "Traceback" not in err
    assert "" not in err.splitlines()
    assert not (tmp_path / "slim").exists()


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_as_one_that_was_not(tmp_path: Path) -> None:
    """Kills at both trainings, and as soon as each stage is complete."""
    reference = finished()[0].bundle
    names = "dense.checkpoint dense scores cut slim.checkpoint slim artifacts measurement evidence"
    for name in names.split():
        process = started(tmp_path, "--resume")
        wait_for(process, tmp_path / "slim.work" / name)
        process.kill()
        process.communicate()
        assert not (tmp_path / "slim").exists(), name
    process = started(tmp_path, "--resume")
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert out.splitlines()[-1].endswith("remove it when done")
    for file in ("plan.json", "model/weights.safetensors", "artifacts/onnx/model.onnx"):
        same = (tmp_path / "slim" / file).read_bytes() == (reference / file).read_bytes()
        assert same, f"{file} (threads: {os.environ.get('OMP_NUM_THREADS')})"
