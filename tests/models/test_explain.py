import pytest

from forewarn_models.asset_type import AssetType, Signal, builtin_asset_type, generic_asset_type
from forewarn_models.explain import explanation
from forewarn_models.wire import Advisory, ModelRef

HOUR_MS = 3_600_000
NOW_MS = 1_770_000_000_000
PUMP = builtin_asset_type("centrifugal_pump")


def advisory(**changes: object) -> Advisory:
    fields: dict[str, object] = {
        "asset": "pump-1",
        "asset_type": "centrifugal_pump",
        "observed_at": NOW_MS,
        "condition": "ALARM",
        "health_index": 0.5,
        "anomaly_score": 2.0,
        "contributions": {"bearing_temperature_c": 1.5, "vibration_rms_mm_s": 0.3, "flow_m3_h": 0.2},
        "failure_modes": {},
        "rul_hours": None,
        "maturity": "MATURE",
        "model": ModelRef(id="m", hash="h"),
        "since": NOW_MS - 31 * HOUR_MS,
        "residuals": {"bearing_temperature_c": 9.04, "vibration_rms_mm_s": 0.713, "flow_m3_h": -12.6},
    }
    return Advisory(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "english", "chinese"),
    [
        (
            {},
            "bearing temperature 9.0 K above what this load explains, for 31 h",
            "轴承温度比当前工况应有的水平高9.0 K，已持续31小时",
        ),
        (
            {"contributions": {"flow_m3_h": 1.2, "vibration_rms_mm_s": 0.8}, "since": NOW_MS - 100 * HOUR_MS},
            "flow 13 m³/h below what this load explains and "
            "vibration velocity 0.71 mm/s above what this load explains, for 4 days",
            "流量比当前工况应有的水平低13 m³/h，振动速度比当前工况应有的水平高0.71 mm/s，已持续4天",
        ),
        (
            {"limits_exceeded": ("vibration_rms_mm_s",), "contributions": {}, "anomaly_score": 0.0},
            "vibration velocity above its limit of 4.5 mm/s",
            "振动速度超过限值4.5 mm/s",
        ),
        (
            {"condition": "NORMAL", "maturity": "LEARNING"},
            "learning what is normal for this machine",
            "正在学习本机的正常状态",
        ),
        ({"condition": "NORMAL"}, "no deviation from what is normal for this machine", "与本机正常状态无偏差"),
    ],
)
def test_one_sentence_in_both_languages(changes: dict[str, object], english: str, chinese: str) -> None:
    assert explanation(advisory(**changes), PUMP, "en") == english
    assert explanation(advisory(**changes), PUMP, "zh-CN") == chinese


def test_an_unknown_machine_is_compared_with_itself() -> None:
    machine = generic_asset_type((Signal(name="pressure_bar", unit="bar"),))
    told = advisory(contributions={"pressure_bar": 2.0}, residuals={"pressure_bar": -0.052}, since=None)
    assert explanation(told, machine, "en") == "pressure_bar 0.052 bar below what is normal for this machine"


@pytest.mark.parametrize("asset_type", [PUMP, generic_asset_type((Signal(name="x", unit="1"),))])
@pytest.mark.parametrize("language", ["en", "zh", "fr", ""])
def test_signals_a_type_does_not_know_are_left_out(asset_type: AssetType, language: str) -> None:
    told = advisory(contributions={"other": 2.0}, limits_exceeded=("other",), sensor_faults={"other": "stuck"})
    assert "other" not in explanation(told, asset_type, language)
    assert explanation(told, asset_type, language)
