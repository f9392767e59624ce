"""What the documents name exists: files, commands of make and of the programs, settings with their defaults."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from forewarn_cloud.cli import app as cloud
from forewarn_device_simulator.cli import app as simulator
from forewarn_models.kernel import Settings

PROJECT = Path(__file__).parents[1]
DOCUMENTS = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md")])
PROGRAMS = {"forewarn-cloud": cloud, "forewarn-sim": simulator}


def _code(text: str) -> Iterator[str]:
    """Fenced blocks and inline code."""
    yield from re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_every_link_to_a_file_leads_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text("utf-8"))
    missing = [target for target in targets if "://" not in target and not (document.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_every_command_that_is_named_exists(document: Path) -> None:
    code = "\n".join(_code(document.read_text("utf-8")))
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = set(re.findall(r"^make ([a-z-]*[a-z])\b(?!-\*)", code, re.MULTILINE))
    assert named <= targets
    for program, app in PROGRAMS.items():
        group = get_command(app)
        assert isinstance(group, TyperGroup)
        assert set(re.findall(rf"\b{program} ([a-z]+)", code)) <= set(group.commands)


def test_the_guide_tells_the_defaults_of_every_setting() -> None:
    guide = (PROJECT / "docs" / "models.md").read_text("utf-8")
    told = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", guide, re.MULTILINE))
    assert {name: float(value) for name, value in told.items()} == {
        name: float(getattr(Settings(), name)) for name in Settings.__struct_fields__
    }


def test_no_figure_of_the_guide_is_left_open() -> None:
    assert "{{" not in (PROJECT / "docs" / "models.md").read_text("utf-8")


def test_every_target_of_make_says_what_it_does() -> None:
    makefile = (PROJECT / "Makefile").read_text("utf-8")
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", makefile, re.MULTILINE)
    assert phony
    for target in set(phony[1].replace("\\\n", " ").split()) - {"clean", "format"}:
        assert re.search(rf"^{target}:.* ## \S", makefile, re.MULTILINE), target
