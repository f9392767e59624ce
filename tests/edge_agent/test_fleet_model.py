"""A fleet model on the edge: it is used, anything unsound is refused at start, another one learns anew."""

import json
import logging
from pathlib import Path

import pytest

from forewarn_edge_agent.config import ConfigError, Setup, load
from forewarn_edge_agent.monitor import Monitor
from forewarn_edge_agent.pipeline import Pipeline
from forewarn_edge_agent.sources import Delivery
from forewarn_edge_agent.spool import Spool
from forewarn_models.model_folder import MANIFEST
from tests.edge_agent.conftest import AgentProcess, write_model

from .test_pipeline import NOW, record

SIGNALS = '[[assets.signals]]\nname = "a"\nunit = ""\n[[assets.signals]]\nname = "b"\nunit = ""\n'
PUMPS = "".join(f'[[assets]]\nasset = "pump-{i}"\nasset_type = "generic"\nmodel = "model"\n{SIGNALS}' for i in (1, 2))
CONFIG = f"""
[node]
tenant = "t"
node = "n"
state_dir = "state"
[uplink]
host = "127.0.0.1"
[models]
baseline_samples = 40
[[sources]]
kind = "mqtt"
host = "127.0.0.1"
{PUMPS}"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Two pumps that share a model, beside the configuration."""
    write_model(tmp_path / "model")
    path = tmp_path / "edge.toml"
    path.write_text(CONFIG)
    return path


def refusals(config: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(config)
    return caught.value.problems


def line_of(config: Path, text: str) -> int:
    return config.read_text().splitlines().index(text) + 1


def test_assets_of_one_type_share_one_model(config: Path) -> None:
    knowledge = load(config).knowledge
    assert set(knowledge) == {"pump-1", "pump-2"}
    assert knowledge["pump-1"] is knowledge["pump-2"]
    assert knowledge["pump-1"].fleet_model is not None


def test_a_model_that_is_not_there_is_told_with_the_line_of_each_asset(config: Path) -> None:
    config.write_text(CONFIG.replace('"model"', '"nowhere"'))
    first, second = refusals(config)
    line = line_of(config, 'model = "nowhere"')
    assert first == f"{config}:{line}: assets[0].model: {config.parent / 'nowhere'} is no folder"
    assert "assets[1].model" in second


def test_a_changed_file_is_refused(config: Path) -> None:
    (arrays,) = config.parent.glob("model/fleet_arrays-*.npz")
    arrays.write_bytes(arrays.read_bytes()[:-1])
    told, _ = refusals(config)
    assert f"assets[0].model: {arrays}: changed since it was written; run `forewarn-cloud fit` again" in told


def test_an_unknown_version_is_refused(config: Path) -> None:
    manifest = config.parent / "model" / MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"schema": 99}))
    told, _ = refusals(config)
    assert f"{manifest}: version 99, this program reads 1; fit the model again" in told


@pytest.mark.parametrize(
    ("asset_type", "condition", "problem"),
    [
        ("fan", ("a", "b"), "learned from fan, but this is generic; give a model fitted on machines of the same type"),
        ("generic", ("a", "b", "c"), "learned with the signals c, which this machine lacks"),
        ("generic", ("a",), "learned without the signals b"),
    ],
)
def test_a_model_of_other_machines_is_refused(
    config: Path, asset_type: str, condition: tuple[str, ...], problem: str
) -> None:
    write_model(config.parent / "other", asset_type, condition)
    config.write_text(CONFIG.replace('"model"', '"other"'))
    assert all(problem in told for told in refusals(config))


def test_a_machine_that_declares_no_signals_cannot_have_a_model(config: Path) -> None:
    config.write_text(CONFIG.replace(SIGNALS, ""))
    told, _ = refusals(config)
    assert "assets[0].model: declare [[assets.signals]]" in told


class Rig:
    """A pipeline of one pump; `setup` names its model."""

    def __init__(self, folder: Path, setup: Setup) -> None:
        self.spool = Spool.open(folder, max_bytes=16 * 1024 * 1024, now_ms=NOW)
        self.monitor = Monitor(setup.asset_types, setup.config.models, self.spool.assets(), setup.knowledge)
        self.pipeline = Pipeline(self.spool, self.monitor, checkpoint_seconds=1e9)
        self.spool.append(self.pipeline.catch_up(), now_ms=NOW)

    def take(self, first: int, last: int, level: float = 0.0) -> None:
        deliveries = [Delivery(records=(record(steps=range(first, last), level=level),))]
        self.spool.append(self.pipeline.take(deliveries), now_ms=NOW)

    def close(self) -> None:
        self.spool.append(self.pipeline.checkpoint(), now_ms=NOW)
        self.spool.close()

    def maturity(self) -> str:
        (row,) = (row for row in self.spool.assets() if row.asset == "pump-1")
        return row.maturity


def test_the_model_tells_a_remaining_life_that_falls_as_the_machine_wears(config: Path) -> None:
    monitor = Monitor(load(config).asset_types, load(config).config.models, (), load(config).knowledge)
    without = Monitor(load(config).asset_types, load(config).config.models)
    told = [
        advisory.rul_hours
        for step in range(0, 240, 6)
        for advisory in monitor.observe(
            record(steps=range(step, step + 6), level=0.0 if step < 120 else 3.0)
        ).advisories
    ]
    known = [rul.p50 for rul in told if rul is not None]
    assert known[-1] < known[0]
    early = record(steps=range(6))
    assert all(advisory.rul_hours is None for advisory in without.observe(early).advisories)


def test_another_model_learns_anew_and_says_so(config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(tmp_path / "state", load(config))
    rig.take(0, 100)
    rig.close()
    rig = Rig(tmp_path / "state", load(config))
    assert rig.maturity() != "LEARNING", "the same model goes on"
    rig.close()
    config.write_text(CONFIG.replace('model = "model"\n', ""))
    with caplog.at_level(logging.WARNING):
        rig = Rig(tmp_path / "state", load(config))
    assert "baseline_lost" in caplog.text
    rig.take(100, 103)
    rig.close()
    rig = Rig(tmp_path / "state", load(config))
    assert rig.maturity() == "LEARNING"
    rig.close()


def test_check_and_run_refuse_a_corrupt_model_with_78_but_status_works(agent: AgentProcess) -> None:
    write_model(agent.folder / "model")
    agent.config.write_text(agent.config.read_text() + f'model = "model"\n{SIGNALS}')
    good = agent.call("check")
    assert (good.returncode, good.stdout) == (0, f"{agent.config}: good; sources: 1, assets: 1, with a model: 1\n")
    (knowledge,) = agent.folder.glob("model/knowledge-*.json")
    knowledge.write_text("{}")
    for command in ("check", "run"):
        done = agent.call(command)
        assert done.returncode == 78
        assert f"assets[0].model: {knowledge}: changed since it was written" in done.stderr
        assert "Traceback" not in done.stderr
    assert agent.call("status").returncode == 0


def test_a_running_agent_is_not_stopped_by_a_model_that_breaks(agent: AgentProcess) -> None:
    write_model(agent.folder / "model")
    agent.config.write_text(agent.config.read_text() + f'model = "model"\n{SIGNALS}')
    agent.start_listening()
    (agent.folder / "model" / MANIFEST).unlink()
    assert agent.status()["node"] == "n"
    assert agent.stop() == 0
