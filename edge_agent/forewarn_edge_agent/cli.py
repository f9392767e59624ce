"""The command line. Exit status: 0 done, 1 failed, 2 wrong usage, 78 a configuration that cannot be used."""

import argparse
import json
import os
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from forewarn_edge_agent import __version__, agent, live, log, status
from forewarn_edge_agent.clock import Clock
from forewarn_edge_agent.config import ConfigError, CsvSource, MqttSource, Setup, load
from forewarn_edge_agent.sources.replay import RecordingError, read_recording
from forewarn_edge_agent.spool import SpoolInUseError, SpoolVersionError, inspect
from forewarn_models.timebase import timebase_from_environment

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_CONFIGURATION: Final = 78


def run(arguments: Sequence[str]) -> int:
    """Do what the command line says; the exit status. Wrong usage ends the process with 2, as argparse does."""
    given = _parser().parse_args(arguments)
    try:
        setup = load(given.config, models=given.command != "status")
        if given.command == "check":
            return _check(setup, given.config)
        if given.command == "status":
            return _status(setup, as_json=given.json)
        return _run(setup)
    except (ConfigError, RecordingError) as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIGURATION


def _run(setup: Setup) -> int:
    try:
        clock = Clock(timebase=timebase_from_environment(os.environ))
    except ValueError as error:
        raise ConfigError([str(error)]) from None
    log.configure(setup.config.log.level)
    _read_recordings(setup)
    try:
        agent.run(setup, clock)
    except (SpoolInUseError, SpoolVersionError, OSError) as error:
        print(error, file=sys.stderr)
        return EXIT_FAILED
    return EXIT_OK


def _check(setup: Setup, path: Path) -> int:
    _read_recordings(setup)
    config = setup.config
    print(f"{path}: good; sources: {len(config.sources)}, assets: {len(config.assets)}{_models(setup)}")
    return EXIT_OK


def _models(setup: Setup) -> str:
    return f", with a model: {len(setup.knowledge)}" if setup.knowledge else ""


def _status(setup: Setup, *, as_json: bool) -> int:
    try:
        found = inspect(setup.config.node.state_dir)
    except sqlite3.DatabaseError as error:
        print(f"{setup.config.node.state_dir}: the spool cannot be read: {error}", file=sys.stderr)
        return EXIT_FAILED
    told = status.as_json(setup.config, found, live.ask(setup.config.node.state_dir) if found is not None else None)
    try:
        print(json.dumps(told, indent=2) if as_json else status.as_text(told), flush=True)
    except BrokenPipeError:
        # The reader has seen enough (`| head`); without this Python would complain when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_OK


def _read_recordings(setup: Setup) -> None:
    """Find out now, not in the middle of the night, whether a recording can be replayed."""
    for source in setup.config.sources:
        if not isinstance(source, MqttSource):
            read_recording(source.path, source.asset if isinstance(source, CsvSource) else None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="forewarn-edge", description="Watches machines and tells the cloud.")
    parser.add_argument("--version", action="version", version=f"forewarn-edge {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{run,check,status}")
    for name, about in (
        ("run", "watch until SIGTERM"),
        ("check", "check the configuration and end"),
        ("status", "what was recorded, sent and found so far; works while the agent runs"),
    ):
        command = commands.add_parser(name, help=about, description=about)
        command.add_argument("--config", type=Path, required=True, metavar="FILE", help="the configuration (TOML)")
        if name == "status":
            command.add_argument("--json", action="store_true", help="print JSON")
    return parser
