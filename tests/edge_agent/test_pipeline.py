"""From deliveries to commits: what is kept, what is told, and that a crash changes neither."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forewarn_edge_agent import monitor as monitor_module
from forewarn_edge_agent.monitor import Monitor
from forewarn_edge_agent.pipeline import Pipeline
from forewarn_edge_agent.sources import Delivery, Position
from forewarn_edge_agent.spool import AssetRow, Spool, inspect
from forewarn_models import wire
from forewarn_models.assessment import Assessment, Block
from forewarn_models.asset_type import AssetType, Signal, generic_asset_type
from forewarn_models.kernel import Model, Settings, State, assess

NOW = 1_700_000_000_000
STEP_MS = 600_000
QUICK = Settings(baseline_samples=40)
TYPES: dict[str, AssetType | None] = {
    "pump-1": generic_asset_type((Signal(name="a", unit=""), Signal(name="b", unit=""))),
    "press-7": None,
}


def record(
    asset: str = "pump-1", steps: Sequence[int] = (0,), signals: Sequence[str] = ("a", "b"), level: float = 0.0
) -> wire.Telemetry:
    """Samples of a machine that reads `level` above normal, with some noise; the same step gives the same reading."""
    t_ms = NOW + np.array(steps, dtype=np.int64) * STEP_MS
    columns = {
        name: np.array([level + 10 + np.random.default_rng([step, k]).normal() for step in steps], dtype=np.float32)
        for k, name in enumerate(signals)
    }
    return wire.Telemetry(asset=asset, asset_type="generic", t_ms=t_ms, signals=columns)


class Rig:
    """A pipeline on a real spool that can crash."""

    def __init__(self, folder: Path, settings: Settings = QUICK, checkpoint_seconds: float = 1e9) -> None:
        self.folder = folder
        self.settings = settings
        self.checkpoint_seconds = checkpoint_seconds
        self.open()

    def open(self) -> None:
        self.spool = Spool.open(self.folder, max_bytes=16 * 1024 * 1024, now_ms=NOW)
        self.monitor = Monitor(TYPES, self.settings, self.spool.assets())
        self.pipeline = Pipeline(self.spool, self.monitor, checkpoint_seconds=self.checkpoint_seconds)
        self.spool.append(self.pipeline.catch_up(), now_ms=NOW)

    def crash(self) -> None:
        """All that was in memory is gone."""
        self.spool.close()
        self.open()

    def take(self, *records: wire.Telemetry, position: Position | None = None) -> None:
        batch = self.pipeline.take([Delivery(records=records, position=position)])
        self.spool.append(batch, now_ms=NOW)

    def assets(self) -> list[AssetRow]:
        self.spool.append(self.pipeline.checkpoint(), now_ms=NOW)
        return self.spool.assets()

    def bodies(self, lane: wire.Lane) -> list[bytes]:
        found: list[bytes] = []
        while (chunk := self.spool.read(lane, len(found), max_records=500, max_bytes=10**9)) is not None:
            found += chunk.bodies
        return found

    def counters(self) -> dict[str, int]:
        found = inspect(self.folder)
        assert found is not None
        return found.counters


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "state")
    yield rig
    rig.spool.close()


def life(faulty_from: int = 120, steps: int = 180) -> list[wire.Telemetry]:
    """A machine that is healthy, then is not; some of it as blocks, and a second machine beside it."""
    records = []
    for step in range(0, steps, 3):
        level = 0.0 if step < faulty_from else 8.0
        records.append(record(steps=range(step, step + 3), level=level))
        records.append(record("press-7", steps=[step], signals=("x", "y")))
    return records


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[AssetRow], list[bytes], list[bytes]]:
    rig = Rig(tmp_path_factory.mktemp("undisturbed"))
    for each in life():
        rig.take(each)
    found = rig.assets(), rig.bodies("telemetry"), rig.bodies("advisory")
    rig.spool.close()
    return found


def test_the_life_used_here_has_something_to_tell(
    undisturbed: tuple[list[AssetRow], list[bytes], list[bytes]],
) -> None:
    rows, _, advisories = undisturbed
    assert {row.asset: row.condition for row in rows}["pump-1"] in ("ALERT", "ALARM")
    assert len(advisories) > 3


@settings(max_examples=12, deadline=None)
@given(crashes=st.sets(st.integers(0, len(life()) - 1), min_size=1, max_size=6))
def test_a_crash_between_any_two_commits_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    undisturbed: tuple[list[AssetRow], list[bytes], list[bytes]],
    crashes: set[int],
) -> None:
    rig = Rig(tmp_path_factory.mktemp("crashing"))
    for number, each in enumerate(life()):
        rig.take(each)
        if number in crashes:
            rig.crash()
    assert (rig.assets(), rig.bodies("telemetry"), rig.bodies("advisory")) == undisturbed
    rig.spool.close()


def test_a_crash_before_the_commit_loses_nothing_that_is_delivered_again(
    rig: Rig, undisturbed: tuple[list[AssetRow], list[bytes], list[bytes]]
) -> None:
    for each in life():
        rig.pipeline.take([Delivery(records=(each,))])  # never committed
        rig.crash()
        rig.take(each)
    assert (rig.assets(), rig.bodies("telemetry"), rig.bodies("advisory")) == undisturbed


def test_what_a_source_delivers_again_is_recognised_also_after_a_crash(rig: Rig) -> None:
    records = [record(steps=[step]) for step in range(20)]
    for each in records:
        rig.take(each)
    rig.take(*records)
    rig.crash()
    rig.take(*records)
    assert len(rig.bodies("telemetry")) == 20
    assert rig.counters()["duplicate_records"] == 40


def test_only_so_many_records_are_remembered(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forewarn_edge_agent.pipeline.KEPT_DIGESTS", 2)
    rig.take(*(record(steps=[step]) for step in (0, 1, 2)))
    rig.take(record(steps=[2]), record(steps=[1]), record(steps=[0]))
    assert rig.counters()["duplicate_records"] == 2
    assert len(rig.bodies("telemetry")) == 4


def test_late_samples_are_kept_but_not_assessed(rig: Rig) -> None:
    rig.take(record(steps=[5]))
    before = rig.assets()
    rig.take(record(steps=[3]))
    rig.take(record(steps=[5], level=1.0))
    assert rig.assets() == before
    assert len(rig.bodies("telemetry")) == 3
    assert rig.counters()["late_samples"] == 2
    rig.take(record(steps=[3, 4, 6, 6]))
    assert rig.assets()[0].samples == before[0].samples + 1


def test_an_asset_that_declared_nothing_has_the_signals_of_its_first_message(rig: Rig) -> None:
    rig.take(record("press-7", steps=[0], signals=("x", "y")))
    rig.crash()
    rig.take(record("press-7", steps=[1], signals=("x", "z")))
    rig.take(record("press-7", steps=[2], signals=("z",)))
    assert [list(wire.decode_telemetry(body).signals) for body in rig.bodies("telemetry")] == [["x", "y"], ["x"]]
    counters = rig.counters()
    assert (counters["left_out_signals"], counters["refused.no_known_signal"]) == (2, 1)


def test_a_replay_position_is_committed_with_its_records(rig: Rig) -> None:
    rig.take(record(), position=Position(source="s", row=7, shift_ms=1))
    rig.crash()
    assert rig.spool.position("s") == Position(source="s", row=7, shift_ms=1)


def test_a_repair_starts_the_baseline_anew_and_is_told(rig: Rig) -> None:
    for each in life(faulty_from=10**9, steps=150):
        rig.take(each)
    assert {row.asset: row.maturity for row in rig.assets()}["pump-1"] != "LEARNING"
    told = len(rig.bodies("advisory"))
    command = wire.ResetBaseline(schema=1, id="c1", asset="pump-1", at=NOW + 149 * STEP_MS)
    batch = rig.pipeline.reset_baseline(command)
    assert batch.reply == wire.Reply(schema=1, id="c1", ok=True)
    rig.spool.append(batch, now_ms=NOW)
    rig.crash()
    assert rig.spool.reply("c1") == batch.reply
    rig.take(record(steps=[160]))
    assert {row.asset: row.maturity for row in rig.assets()}["pump-1"] == "LEARNING"
    assert len(rig.bodies("advisory")) == told + 1


def test_a_command_for_an_asset_that_is_not_here_is_answered_so(rig: Rig) -> None:
    command = wire.ResetBaseline(schema=1, id="c1", asset="who", at=NOW)
    reply = rig.pipeline.reset_baseline(command).reply
    assert reply is not None
    assert (reply.ok, "'who' is not declared" in reply.detail) == (False, True)


def test_other_settings_learn_anew_but_lose_no_record(rig: Rig) -> None:
    for step in range(60):
        rig.take(record(steps=[step]))
    assert rig.assets()[0].samples == 60
    rig.settings = Settings(baseline_samples=41)
    rig.crash()
    rig.take(record(steps=[60]))
    assert (rig.assets()[0].samples, rig.assets()[0].maturity) == (1, "LEARNING")
    assert len(rig.bodies("telemetry")) == 61


def test_checkpoints_come_with_time(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "state", checkpoint_seconds=0.0)
    rig.take(record(steps=[0]))
    rig.take(record(steps=[1]))
    assert list(rig.spool.records_since_checkpoint()) == []
    rig.spool.close()


def test_checkpoints_come_with_the_number_of_records(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forewarn_edge_agent.pipeline.CHECKPOINT_RECORDS", 5)
    since: list[int] = []
    for step in range(1, 12):
        rig.take(record(steps=[step]))
        since.append(len(list(rig.spool.records_since_checkpoint())))
    assert max(since) == 4
    assert since.count(0) >= 2


def test_an_error_in_the_models_costs_only_the_assessment(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: Model, state: State, block: Block) -> tuple[Assessment, State]:
        if len(model.asset_type.signals) == 3:
            raise ValueError("a bug")
        return assess(model, state, block)

    monkeypatch.setattr(monitor_module, "assess", broken)
    rig.take(record("press-7", steps=[0], signals=("x", "y", "z")), record("pump-1", steps=[0]))
    rig.crash()
    rig.take(record("press-7", steps=[1], signals=("w", "x", "y", "z")), record("pump-1", steps=[1]))
    assert len(rig.bodies("telemetry")) == 4
    assert list(wire.decode_telemetry(rig.bodies("telemetry")[2]).signals) == ["x", "y", "z"]
    assert [(row.asset, row.samples) for row in rig.assets()] == [("press-7", 0), ("pump-1", 2)]
    assert rig.counters()["not_assessed"] == 2
