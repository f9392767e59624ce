import subprocess
import sys
from pathlib import Path

from forewarn_models import __version__

PROGRAM = Path(sys.executable).with_name("forewarn-sim")


def sim(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, check=False, timeout=120)


def test_version() -> None:
    assert sim("--version").stdout == f"forewarn-sim {__version__}\n"


def test_generate_writes_what_it_names(tmp_path: Path, mixed: str) -> None:
    (tmp_path / "small.toml").write_text(mixed.replace("days = 30", "days = 2"))
    done = sim(
        "generate", str(tmp_path / "small.toml"), "--out", str(tmp_path / "out"), "--seed", "9", "--format", "csv"
    )
    assert done.returncode == 0, done.stderr
    folders = [Path(line) for line in done.stdout.splitlines()]
    assert all((folder / "telemetry.csv").exists() for folder in folders)
    assert len(folders) == 3
    again = sim("generate", str(tmp_path / "small.toml"), "--out", str(tmp_path / "out"))
    assert again.returncode == 1
    assert "not empty" in again.stderr


def test_a_bad_scenario_is_a_configuration_error_that_names_the_key(tmp_path: Path, mixed: str) -> None:
    (tmp_path / "bad.toml").write_text("dayz = 4\n" + mixed)
    done = sim("generate", str(tmp_path / "bad.toml"), "--out", str(tmp_path / "out"))
    assert done.returncode == 78
    assert "dayz" in done.stderr
    assert not (tmp_path / "out").exists()


def test_wrong_usage_is_told_apart() -> None:
    assert sim("generate").returncode == 2
    assert sim("generate", "healthy-fleet", "--out", "x", "--format", "xml").returncode == 2
    assert sim("run", "healthy-fleet", "--broker", "http://x").returncode == 78
