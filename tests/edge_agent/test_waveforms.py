"""Waveforms in machines' messages become the signals that the configuration says, and go no further."""

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from forewarn_edge_agent.machine_message import Declared, MachineMessage, MessageError, read
from forewarn_edge_agent.waveforms import Waveform
from forewarn_models.vibration import BearingGeometry, features
from forewarn_models.wire import MAX_MESSAGE_BYTES

NOW = 1_700_000_000_000
RATE_HZ = 20_480
BEARING = BearingGeometry(rolling_elements=9, ball_diameter_mm=7.94, pitch_diameter_mm=39.04)
MOTOR = Waveform(
    point="motor",
    speed="speed_rpm",
    bearing=BEARING,
    bands_hz=((1000.0, 5000.0),),
    features={
        "velocity_rms_mm_s": "vibration_mm_s",
        "envelope_bpfo_ratio": "outer_race",
        "acceleration_1000_5000_hz_rms_m_s2": "high_m_s2",
    },
)
PUMP = Waveform(point="pump", features={"acceleration_kurtosis": "pump_kurtosis"})
ASSETS = {
    "m-1": Declared(asset_type="generic", rename={"n": "speed_rpm"}, waveforms=(MOTOR, PUMP)),
    "m-2": Declared(asset_type="generic", rename={}),
}


def acceleration(seconds: float = 1.0) -> NDArray[np.float64]:
    """As a sensor sends it: 25 Hz of unbalance and noise, in steps of a thousandth."""
    time = np.arange(round(RATE_HZ * seconds)) / RATE_HZ
    noise = np.random.default_rng(1).normal(size=len(time))
    return np.asarray(np.round(2.0 * np.sin(2 * np.pi * 25 * time) + 0.5 * noise, 3))


def sampled(values: NDArray[np.float64], rate_hz: float = RATE_HZ) -> dict[str, Any]:
    return {"sample_rate_hz": rate_hz, "acceleration_m_s2": values.tolist()}


def message(payload: dict[str, Any], asset: str = "m-1") -> MachineMessage:
    return read(asset, json.dumps(payload, separators=(",", ":")).encode(), ASSETS, now_ms=NOW)


def readings(found: MachineMessage) -> dict[str, float]:
    (record,) = found.records
    assert record.t_ms.tolist() == [NOW]
    return {name: float(column[0]) for name, column in record.signals.items()}


def test_a_second_at_20_khz_fits_a_message_and_becomes_the_signals_declared() -> None:
    wave = acceleration()
    found = message({"t": NOW, "signals": {"n": 1500, "load": 0.5}, "waveforms": {"motor": sampled(wave)}})
    expected = features(wave, RATE_HZ, speed_hz=25.0, geometry=BEARING, bands_hz=MOTOR.bands_hz)
    assert not found.refusals
    assert readings(found) == pytest.approx(
        {
            "speed_rpm": 1500,
            "load": 0.5,
            "vibration_mm_s": float(expected["velocity_rms_mm_s"]),
            "outer_race": float(expected["envelope_bpfo_ratio"]),
            "high_m_s2": float(expected["acceleration_1000_5000_hz_rms_m_s2"]),
        },
        rel=1e-6,
    )


def test_a_waveform_needs_no_other_signal_if_its_point_needs_no_speed() -> None:
    found = message({"t": NOW, "waveforms": {"pump": sampled(acceleration())}})
    assert list(readings(found)) == ["pump_kurtosis"]
    assert message({"waveforms": {"pump": sampled(acceleration())}}).timed_on_receipt


def test_several_points_in_one_message() -> None:
    wave = acceleration(0.4)
    sent = {"motor": sampled(wave), "pump": sampled(wave)}
    found = message({"t": NOW, "signals": {"n": 1500}, "waveforms": sent})
    assert set(readings(found)) == {"speed_rpm", "vibration_mm_s", "outer_race", "high_m_s2", "pump_kurtosis"}


@pytest.mark.parametrize("speed", [0, -5, None])
def test_a_machine_at_rest_has_no_bearing_frequencies_but_still_vibrates(speed: int | None) -> None:
    found = readings(message({"t": NOW, "signals": {"n": speed}, "waveforms": {"motor": sampled(acceleration())}}))
    assert np.isnan(found["outer_race"])
    assert found["vibration_mm_s"] > 0


@pytest.mark.parametrize(
    ("waveforms", "kind", "detail"),
    [
        ({"gear": sampled(acceleration())}, "unknown_point", "waveforms: 'gear' is not declared"),
        ({"motor": sampled(acceleration(0.1))}, "waveform", "waveforms.motor: waveform: 0.1 s are too short"),
        ({"motor": sampled(acceleration(), 0)}, "waveform", "waveforms.motor: sample_rate_hz: give a positive"),
        ({"motor": sampled(acceleration(), 1500)}, "waveform", "waveforms.motor: band_hz: 1000 Hz needs a sample_r"),
        ({"motor": sampled(np.zeros(0))}, "waveform", "waveforms.motor: waveform: 0 samples are too few"),
        ({"motor": [1, 2]}, "waveform", "waveforms.motor: Expected `object`, got `array`"),
        ({"motor": {"sample_rate_hz": 1}}, "waveform", "missing required field `acceleration_m_s2`"),
        ({"motor": sampled(acceleration()) | {"unit": "g"}}, "waveform", "unknown field `unit`"),
        (
            {"motor": {"sample_rate_hz": 9, "acceleration_m_s2": [1, None]}},
            "waveform",
            "Expected `float`, got `null` - at `$.acceleration_m_s2[1]`",
        ),
        ({"motor": {"sample_rate_hz": "9", "acceleration_m_s2": [1]}}, "waveform", "Expected `float`, got `str`"),
    ],
)
def test_a_waveform_that_cannot_be_used_costs_only_itself(waveforms: Any, kind: str, detail: str) -> None:
    found = message({"t": NOW, "signals": {"n": 1500}, "waveforms": waveforms})
    assert readings(found) == {"speed_rpm": 1500}
    (refusal,) = found.refusals
    assert refusal.kind == kind
    assert detail in refusal.detail


def test_a_speed_that_is_not_in_the_message_is_asked_for() -> None:
    found = message({"t": NOW, "waveforms": {"motor": sampled(acceleration())}})
    assert found.records == ()
    assert [r.detail for r in found.refusals] == ["waveforms.motor: send the signal speed_rpm in the same message"]


def test_an_asset_that_declares_no_point_takes_no_waveform() -> None:
    found = message({"t": NOW, "signals": {"a": 1}, "waveforms": {"motor": sampled(acceleration())}}, "m-2")
    assert readings(found) == {"a": 1.0}
    assert [r.kind for r in found.refusals] == ["unknown_point"]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ({"t": [NOW, NOW - 1], "waveforms": {"pump": {}}}, "waveforms: give one time with them, not 2"),
        ({"t": NOW, "waveforms": {f"p{i}": {} for i in range(65)}}, "waveforms: give at most 64, not 65"),
        ({"t": NOW, "waveforms": {}}, "signals: give 1 to 64, not 0"),
        ({"t": NOW, "waveforms": [1]}, "Expected `object`, got `array`"),
        (
            {"t": NOW, "signals": {"pump_kurtosis": 3}, "waveforms": {"pump": sampled(acceleration(0.3))}},
            "signals.pump_kurtosis: it is also a feature of waveforms.pump",
        ),
        (
            {"t": NOW, "signals": {f"s{i}": 1 for i in range(64)}, "waveforms": {"pump": sampled(acceleration(0.3))}},
            "signals: give 1 to 64, not 65",
        ),
        ({"t": NOW, "waveforms": {"pump": sampled(acceleration(3.0))}}, f"the limit is {MAX_MESSAGE_BYTES}"),
    ],
)
def test_a_message_that_contradicts_itself_is_refused_whole(payload: dict[str, Any], reason: str) -> None:
    with pytest.raises(MessageError, match=reason):
        message(payload)
