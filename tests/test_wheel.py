"""What `pip install` brings: the three packages with their data, and nothing else."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling")

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "edgeprune": ROOT / "edgeprune",
    "edgeprune_exporters": ROOT / "exporters" / "edgeprune_exporters",
    "edgeprune_benchmarks": ROOT / "benchmarks" / "edgeprune_benchmarks",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> frozenset[str]:
    """Build the wheel from a copy of what it is made of, and list its files."""
    source = tmp_path_factory.mktemp("source")
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    for folder in ("edgeprune", "exporters", "benchmarks", "tests"):
        shutil.copytree(ROOT / folder, source / folder, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    out = tmp_path_factory.mktemp("out")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return frozenset(archive.namelist())


def test_the_wheel_holds_the_three_packages_and_nothing_else(wheel: frozenset[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_the_wheel_holds_every_file_of_the_packages(wheel: frozenset[str]) -> None:
    expected = {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for package, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in wheel if ".dist-info/" not in name} == expected


@pytest.mark.parametrize("package", PACKAGES)
def test_the_wheel_says_that_it_is_typed(package: str, wheel: frozenset[str]) -> None:
    assert f"{package}/py.typed" in wheel


def test_the_wheel_holds_targets_templates_and_the_licence(wheel: frozenset[str]) -> None:
    assert "edgeprune/targets/cpu.toml" in wheel
    assert any(n.startswith("edgeprune/targets/jetson") for n in wheel)
    assert any(n.startswith("edgeprune/report/") and n.endswith(".html") for n in wheel)
    assert any(n.endswith(".dist-info/licenses/LICENSE") for n in wheel)


def test_the_wheel_holds_no_tests(wheel: frozenset[str]) -> None:
    assert not [name for name in wheel if "test_" in name or "conftest" in name]
