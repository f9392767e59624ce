from collections import Counter
from itertools import pairwise

import msgspec
import numpy as np
import pytest

from forewarn_models.advisory import PAUSE_HOURS, PERIOD_HOURS, AdvisoryMemory, advise
from forewarn_models.assessment import Assessment, Block
from forewarn_models.explain import explanation
from forewarn_models.kernel import Model, assess, new_state, reset_baseline
from forewarn_models.wire import Advisory, Rejected, decode_message, encode_advisory, encode_message
from tests.models.conftest import DAY_STEPS, STEP_MS, Duty, Fault, pump_history

HOUR_MS = 3_600_000


def told(model: Model, block: Block, block_steps: int = 6) -> tuple[list[Advisory], AdvisoryMemory]:
    """What an agent tells of the only asset when samples come in blocks."""
    state, memory, advisories = new_state(model, 1), None, list[Advisory]()
    for start in range(0, len(block.t_ms), block_steps):
        part = Block(t_ms=block.t_ms[start : start + block_steps], values=block.values[start : start + block_steps])
        assessment, state = assess(model, state, part)
        news, memory = advise(model, "pump-1", 0, assessment, memory)
        advisories += news
    assert memory is not None
    return advisories, memory


@pytest.fixture(scope="module")
def worn_block() -> Block:
    return pump_history(26, seed=40, duty=Duty(faults={0: Fault(failure_mode="bearing_wear", from_day=10, to_day=26)}))


@pytest.fixture(scope="module")
def worn(pump_model: Model, worn_block: Block) -> list[Advisory]:
    return told(pump_model, worn_block)[0]


def test_a_healthy_machine_reports_once_a_day(pump_model: Model) -> None:
    advisories, _ = told(pump_model, pump_history(30, seed=41))
    reasons = Counter(advisory.reason for advisory in advisories)
    assert 24 <= reasons["periodic"] <= 30
    assert reasons["change"] <= 4
    assert all(advisory.condition != "ALARM" for advisory in advisories)


def test_a_machine_that_stands_still_tells_nothing(pump_model: Model) -> None:
    block = pump_history(20, seed=42)
    block.values[12 * DAY_STEPS : 18 * DAY_STEPS, 0, 0] = 0.0
    advisories, _ = told(pump_model, block)
    assert not [a for a in advisories if 12.1 < (a.observed_at - block.t_ms[0, 0]) / HOUR_MS / 24 < 18]


def test_a_wearing_machine_tells_alert_alarm_mode_and_remaining_life(worn: list[Advisory]) -> None:
    conditions = [advisory.condition for advisory in worn]
    assert conditions.index("ALERT") < conditions.index("ALARM")
    last = worn[-1]
    assert max(last.failure_modes, key=lambda code: last.failure_modes[code]) == "bearing_wear"
    assert last.rul_hours is not None
    assert last.since is not None
    assert last.health_index < 0.6
    assert last.residuals["bearing_temperature_c"] > 5


def test_an_advisory_tells_what_was_expected_and_how_far_the_residual_stands_out(
    worn: list[Advisory], worn_block: Block, pump_model: Model
) -> None:
    """The bearing is worn, the flow is not."""
    last = worn[-1]
    assert last.significance["bearing_temperature_c"] > 10
    assert abs(last.significance["flow_m3_h"]) < 4
    step = int(np.searchsorted(worn_block.t_ms[:, 0], last.observed_at))
    around = slice(step - 16, step + 1)
    read = worn_block.values[around, 0, pump_model.asset_type.signal_names.index("bearing_temperature_c")]
    explained = last.expected["bearing_temperature_c"] + last.residuals["bearing_temperature_c"]
    assert read.min() - 1.5 < explained < read.max() + 1.5
    assert "bearing temperature" in explanation(last, pump_model.asset_type, "en")


def test_every_advisory_keeps_the_wire_contract(worn: list[Advisory], pump_model: Model) -> None:
    for advisory in worn:
        payload = encode_message("epoch", 1, [encode_advisory(advisory)])
        message = decode_message("advisory", payload, now_ms=advisory.observed_at)
        assert not isinstance(message.records[0].record, Rejected), message.records[0].record
        assert sum(advisory.contributions.values()) == pytest.approx(advisory.anomaly_score, abs=1e-9)
        assert advisory.model == pump_model.ref


def test_news_that_makes_nothing_worse_waits(worn: list[Advisory]) -> None:
    order = {"UNKNOWN": 0, "NORMAL": 1, "ALERT": 2, "ALARM": 3}
    for before, after in pairwise(worn):
        urgent = order[after.condition] > order[before.condition] or after.reason in ("limit", "reset")
        assert urgent or after.observed_at - before.observed_at >= PAUSE_HOURS * HOUR_MS
        assert after.observed_at - before.observed_at <= (PERIOD_HOURS + 16) * HOUR_MS


@pytest.mark.parametrize("block_steps", [1, 50, 10_000])
def test_the_length_of_blocks_does_not_change_what_is_told(
    pump_model: Model, worn_block: Block, worn: list[Advisory], block_steps: int
) -> None:
    again, _ = told(pump_model, worn_block, block_steps)
    assert [(a.observed_at, a.reason, a.condition) for a in again] == [
        (a.observed_at, a.reason, a.condition) for a in worn
    ]


def test_a_score_that_swings_floods_nobody(pump_model: Model) -> None:
    """An asset whose every number changes at every sample is told about a few times a day."""
    n, signals = 6 * 24 * 10, len(pump_model.asset_type.signals)
    swing = np.arange(n) % 2 == 0
    modes = np.zeros((n, 1, 3))
    modes[swing, 0, 0], modes[~swing, 0, 1] = 0.9, 0.9
    assessment = Assessment(
        t_ms=(np.arange(n, dtype=np.int64) * STEP_MS)[:, None],
        anomaly_score=np.where(swing, 3.0, 0.1)[:, None],
        contribution=np.zeros((n, 1, signals)),
        residual=np.zeros((n, 1, signals)),
        deviation=np.zeros((n, 1, signals)),
        significance=np.zeros((n, 1, signals)),
        expected=np.full((n, 1, signals), np.nan),
        condition=np.where(swing, 3, 1).astype(np.int8)[:, None],
        since_ms=np.full((n, 1), -1, dtype=np.int64),
        health_index=np.where(swing, 0.2, 0.9)[:, None],
        rul_hours=np.where(swing, 10.0, 500.0)[:, None, None] * np.ones(3),
        failure_mode_probability=modes,
        maturity=np.ones((n, 1), dtype=np.int8),
        quality=np.zeros((n, 1, signals), dtype=np.int8),
        limit_exceeded=np.zeros((n, 1, signals), dtype=np.bool_),
    )
    advisories, _ = advise(pump_model, "a", 0, assessment, None)
    assert 10 < len(advisories) <= 2 * 10 * 24 / PAUSE_HOURS + 1


def test_a_repair_is_told_at_once(pump_model: Model, worn_block: Block) -> None:
    assessment, state = assess(pump_model, new_state(pump_model, 1), worn_block)
    _, memory = advise(pump_model, "a", 0, assessment, None)
    state = reset_baseline(pump_model, state, 0, int(worn_block.t_ms[-1, 0]))
    later = pump_history(1, seed=43)
    later = Block(t_ms=later.t_ms + 26 * DAY_STEPS * STEP_MS, values=later.values)
    advisories, _ = advise(pump_model, "a", 0, assess(pump_model, state, later)[0], memory)
    assert (advisories[0].reason, advisories[0].maturity) == ("reset", "LEARNING")
    assert advisories[0].rul_hours is None


def test_a_stuck_sensor_is_told_and_explained(pump_model: Model) -> None:
    block = pump_history(12, seed=44)
    flow = pump_model.asset_type.signal_names.index("flow_m3_h")
    block.values[10 * DAY_STEPS :, 0, flow] = 71.25
    advisories, _ = told(pump_model, block)
    sensor = [advisory for advisory in advisories if advisory.sensor_faults == {"flow_m3_h": "stuck"}]
    assert sensor
    assert "flow sensor is doubtful" in explanation(sensor[0], pump_model.asset_type, "en")
    assert "传感器可疑" in explanation(sensor[0], pump_model.asset_type, "zh")


def test_the_memory_survives_on_disk(pump_model: Model, worn_block: Block) -> None:
    _, memory = told(pump_model, worn_block)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(memory), type=AdvisoryMemory) == memory
