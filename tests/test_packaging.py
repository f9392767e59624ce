"""What an installation pulls in and says when something is missing."""

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
HEAVY = {"fastapi", "pydantic", "scipy", "river", "scikit-learn", "sqlalchemy", "typer", "rich", "pyarrow", "pandas"}


@pytest.fixture(scope="module")
def edge_install(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an empty environment into which the built wheel was installed with the extra `edge`."""
    folder = tmp_path_factory.mktemp("edge-install")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=PROJECT, check=True, capture_output=True)
    (wheel,) = folder.glob("forewarn-*.whl")
    venv.create(folder / "venv", with_pip=True)
    binaries = folder / "venv" / "bin"
    pip = [str(binaries / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*pip, f"{wheel}[edge]"], capture_output=True, text=True, check=False)
    if done.returncode and "No matching distribution" in done.stderr:
        pytest.skip("no package index can be reached to install the edge extra")
    assert done.returncode == 0, done.stderr
    return binaries


def run(*command: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, timeout=120)


def test_an_edge_install_stays_small(edge_install: Path) -> None:
    listed = json.loads(run(edge_install / "python", "-m", "pip", "list", "--format=json").stdout)
    names = {entry["name"].lower() for entry in listed}
    assert not names & HEAVY
    assert {"forewarn", "numpy", "aiomqtt"} <= names


def test_the_edge_agent_starts_in_an_edge_install(edge_install: Path) -> None:
    done = run(edge_install / "forewarn-edge", "--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "forewarn-edge"), done.stderr


@pytest.mark.parametrize(("program", "extra"), [("forewarn-cloud", "cloud"), ("forewarn-sim", "simulator")])
def test_a_missing_extra_is_named(edge_install: Path, program: str, extra: str) -> None:
    done = run(edge_install / program, "--version")
    assert done.returncode != 0
    assert f'pip install "forewarn[{extra}]"' in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("program", ["forewarn-edge", "forewarn-cloud", "forewarn-sim"])
def test_every_program_tells_its_version(program: str) -> None:
    done = run(Path(sys.executable).parent / program, "--version")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(program)


def test_the_lock_file_names_no_host() -> None:
    assert "://" not in (PROJECT / "requirements.lock").read_text()
