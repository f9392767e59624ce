"""What a technician is told of an advisory, in both languages."""

import pytest

from forewarn_models.asset_type import AssetType, Signal, builtin_asset_type, builtin_names, generic_asset_type
from forewarn_models.explain import SIGNIFICANT, explanation, recommendation
from forewarn_models.wire import Advisory, ModelRef

HOUR_MS = 3_600_000
NOW_MS = 1_770_000_000_000
PUMP = builtin_asset_type("centrifugal_pump")
FAN = builtin_asset_type("motor_fan")
OIL = Signal(name="oil", unit="barg", limit_alert_low=1.5, limit_alarm_low=1.0, limit_source="maker's manual")
LEVEL = Signal(name="level", unit="%", limit_alert_low=20.0, limit_alert=90.0)


def advisory(**changes: object) -> Advisory:
    fields: dict[str, object] = {
        "asset": "pump-1",
        "asset_type": "centrifugal_pump",
        "observed_at": NOW_MS,
        "condition": "ALARM",
        "health_index": 0.5,
        "anomaly_score": 2.0,
        "contributions": {"bearing_temperature_c": 1.6, "vibration_rms_mm_s": 0.2, "flow_m3_h": 0.2},
        "failure_modes": {},
        "rul_hours": None,
        "maturity": "MATURE",
        "model": ModelRef(id="m", hash="h"),
        "since": NOW_MS - 31 * HOUR_MS,
        "residuals": {"bearing_temperature_c": 9.04, "vibration_rms_mm_s": 0.713, "flow_m3_h": -12.6},
    }
    return Advisory(**{**fields, **changes})  # type: ignore[arg-type]


def of(residual: float, **changes: object) -> Advisory:
    """About the one signal `x` of a machine."""
    return advisory(contributions={"x": 2.0}, residuals={"x": residual}, since=None, **changes)


def machine(unit: str) -> AssetType:
    return generic_asset_type((Signal(name="x", unit=unit),))


LIMIT_ONLY = {"contributions": {}, "anomaly_score": 0.0, "residuals": {}}


@pytest.mark.parametrize(
    ("changes", "english", "chinese"),
    [
        (
            {},
            "bearing temperature 9 K above what this load explains, for 31 h",
            "轴承温度比当前工况下的正常值高9 K，已持续31小时",
        ),
        (
            {"contributions": {"flow_m3_h": 1.2, "vibration_rms_mm_s": 0.8}, "since": NOW_MS - 100 * HOUR_MS},
            "flow 13 m³/h below and vibration velocity 0.71 mm/s above what this load explains, for 4 days",
            "流量比当前工况下的正常值低13 m³/h，振动速度高0.71 mm/s，已持续4天",
        ),
        (
            {
                "contributions": {"flow_m3_h": 0.9, "vibration_rms_mm_s": 0.6, "bearing_temperature_c": 0.5},
                "significance": {"flow_m3_h": -5.0, "vibration_rms_mm_s": 3.0, "bearing_temperature_c": 2.5},
                "since": None,
            },
            "flow 13 m³/h below, vibration velocity 0.71 mm/s above and bearing temperature 9 K above "
            "what this load explains",
            "流量比当前工况下的正常值低13 m³/h，振动速度高0.71 mm/s，轴承温度高9 K",
        ),
        (
            {"limits_exceeded": ("vibration_rms_mm_s",), **LIMIT_ONLY},
            "vibration velocity above its limit of 4.5 mm/s (ISO 20816-3)",
            "振动速度超过上限4.5 mm/s（ISO 20816-3）",
        ),
        (
            {"limits_exceeded": ("bearing_temperature_c",), "maturity": "LEARNING", **LIMIT_ONLY},
            "bearing temperature above its limit of 95 °C; still learning what is normal for this machine",
            "轴承温度超过上限95 °C；仍在学习本机的正常状态",
        ),
        (
            {"failure_modes": {"bearing_wear": 0.853, "seal_leak": 0.1}, "since": None},
            "bearing temperature 9 K above what this load explains; probably bearing wear (85 %)",
            "轴承温度比当前工况下的正常值高9 K；很可能是轴承磨损（85%）",
        ),
        (
            {"failure_modes": {"bearing_wear": 0.45, "seal_leak": 0.4}, "since": None},
            "bearing temperature 9 K above what this load explains; "
            "possibly bearing wear (45 %) or mechanical seal leak (40 %)",
            "轴承温度比当前工况下的正常值高9 K；可能是轴承磨损（45%）或机械密封泄漏（40%）",
        ),
        (
            {"failure_modes": {"bearing_wear": 0.2, "seal_leak": 0.1}, "since": None},
            "bearing temperature 9 K above what this load explains; none of the known failure modes fits",
            "轴承温度比当前工况下的正常值高9 K；与已知故障模式均不符",
        ),
        (
            {"failure_modes": {"bearing_wear": 0.99999}, "since": None, "maturity": "PROVISIONAL"},
            "bearing temperature 9 K above what this load explains; possibly bearing wear (99 %); "
            "provisional: this machine has not been watched for long",
            "轴承温度比当前工况下的正常值高9 K；可能是轴承磨损（99%）；初步判断：本机的监测时间尚短",
        ),
        (
            {"condition": "NORMAL", "sensor_faults": {"flow_m3_h": "stuck"}},
            "the flow sensor is doubtful (its reading does not move)",
            "流量传感器可疑（读数长时间不变）",
        ),
        (
            {"condition": "NORMAL", "maturity": "LEARNING"},
            "learning what is normal for this machine",
            "正在学习本机的正常状态",
        ),
        ({"condition": "NORMAL"}, "no deviation from what is normal for this machine", "未偏离本机正常状态"),
        (
            {"condition": "UNKNOWN"},
            "nothing to judge by: the machine stands still or its readings are missing",
            "无法判断：设备停机或缺少读数",
        ),
    ],
)
def test_one_sentence_in_both_languages(changes: dict[str, object], english: str, chinese: str) -> None:
    assert explanation(advisory(**changes), PUMP, "en") == english
    assert explanation(advisory(**changes), PUMP, "zh-CN") == chinese


# --- directions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("significance", [SIGNIFICANT - 0.01, -0.4, 0.0])
def test_no_direction_is_claimed_of_a_residual_that_does_not_stand_out(significance: float) -> None:
    told = advisory(significance={"bearing_temperature_c": significance}, since=None)
    assert explanation(told, PUMP, "en") == "bearing temperature unlike what this load explains, in no clear direction"
    assert explanation(told, PUMP, "zh") == "轴承温度偏离当前工况下的正常值，方向不明"


@pytest.mark.parametrize(("residual", "side"), [(0.5, "above"), (-0.5, "below")])
def test_a_residual_that_stands_out_has_its_direction(residual: float, side: str) -> None:
    told = of(residual, significance={"x": 2.5 if residual > 0 else -2.5})
    assert explanation(told, machine("bar"), "en") == f"x 0.5 bar {side} what is normal for this machine"


def test_what_has_a_direction_and_what_has_none_are_told_apart() -> None:
    told = advisory(
        contributions={"flow_m3_h": 1.2, "vibration_rms_mm_s": 0.8},
        significance={"flow_m3_h": -4.0, "vibration_rms_mm_s": 0.3},
        since=None,
    )
    assert explanation(told, PUMP, "en") == (
        "flow 13 m³/h below what this load explains, "
        "vibration velocity unlike what this load explains, in no clear direction"
    )
    assert explanation(told, PUMP, "zh") == (
        "流量比当前工况下的正常值低13 m³/h，振动速度偏离当前工况下的正常值，方向不明"
    )


@pytest.mark.parametrize("residuals", [{}, {"bearing_temperature_c": 0.0}])
def test_without_a_residual_there_is_no_direction(residuals: dict[str, float]) -> None:
    said = explanation(advisory(residuals=residuals, since=None), PUMP, "en")
    assert "above" not in said
    assert "below" not in said


# --- sizes, units, times ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "residual", "english", "chinese"),
    [
        ("degC", 9.04, "9 K", "9 K"),
        ("℃", 12.4, "12 K", "12 K"),
        ("degF", 16.2, "16 °F", "16 °F"),
        ("degR", 16.2, "16 °R", "16 °R"),
        ("K", 3.14, "3.1 K", "3.1 K"),
        ("barg", 0.052, "0.052 bar", "0.052 bar"),
        ("m3/h", 136.0, "140 m³/h", "140 m³/h"),
        ("Pa", 123456.0, "120,000 Pa", "120,000 Pa"),
        ("g", 0.99999, "1 g", "1 g"),
        ("%", 4.8, "4.8 percentage points", "4.8个百分点"),
        ("%", 1.0, "1 percentage point", "1个百分点"),
        ("A", 0.0000123, "1.2e-05 A", "1.2e-05 A"),
    ],
)
def test_sizes_have_two_digits_and_the_unit_of_a_difference(
    unit: str, residual: float, english: str, chinese: str
) -> None:
    assert explanation(of(residual), machine(unit), "en") == f"x {english} above what is normal for this machine"
    assert explanation(of(residual), machine(unit), "zh") == f"x比本机正常值高{chinese}"


@pytest.mark.parametrize("unit", ["", "1", "counts"])
def test_without_a_unit_that_says_something_the_size_is_a_percentage(unit: str) -> None:
    told = of(-4.2, expected={"x": 3.0})
    assert explanation(told, machine(unit), "en") == "x 140 % below what is normal for this machine"
    assert explanation(told, machine(unit), "zh") == "x比本机正常值低140%"


@pytest.mark.parametrize("expected", [{}, {"x": 0.0}, {"x": 0.001}])
def test_a_percentage_of_nothing_is_not_told(expected: dict[str, float]) -> None:
    told = of(4.2, expected=expected)
    assert explanation(told, machine("1"), "en") == "x 4.2 above what is normal for this machine"


@pytest.mark.parametrize(
    ("hours", "english", "chinese"),
    [
        (0.0125, "45 s", "45秒"),
        (0.5, "30 min", "30分钟"),
        (1.4, "84 min", "84分钟"),
        (2.0, "2 h", "2小时"),
        (71.0, "71 h", "71小时"),
        (100.0, "4 days", "4天"),
        (24.0 * 40, "6 weeks", "6周"),
    ],
)
def test_durations_are_in_the_unit_one_would_say(hours: float, english: str, chinese: str) -> None:
    told = advisory(since=NOW_MS - round(hours * HOUR_MS))
    assert explanation(told, PUMP, "en").endswith(f", for {english}")
    assert explanation(told, PUMP, "zh").endswith(f"，已持续{chinese}")


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signal", "changes", "english", "chinese"),
    [
        (OIL, {}, "oil below its lower limit of 1.5 barg", "oil低于下限1.5 barg"),
        (LEVEL, {"residuals": {"level": -9.0}}, "level below its lower limit of 20 %", "level低于下限20 %"),
        (LEVEL, {"residuals": {"level": 9.0}}, "level above its limit of 90 %", "level超过上限90 %"),
        (LEVEL, {}, "level outside its limits of 20 % to 90 %", "level超出允许范围20 %至90 %"),
    ],
)
def test_a_limit_is_told_with_its_side(signal: Signal, changes: dict[str, object], english: str, chinese: str) -> None:
    told = advisory(**{**LIMIT_ONLY, "limits_exceeded": (signal.name,), **changes})
    assert explanation(told, generic_asset_type((signal,)), "en") == english
    assert explanation(told, generic_asset_type((signal,)), "zh") == chinese


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["en", "zh", "fr", ""])
def test_signals_a_type_does_not_know_are_called_by_their_own_names(language: str) -> None:
    """As of a machine whose type only its edge knows."""
    told = advisory(
        contributions={"other": 2.0},
        residuals={"other": -3.0},
        expected={"other": 12.0},
        limits_exceeded=("another",),
        sensor_faults={"third": "stuck"},
        failure_modes={"unheard_of": 0.9},
    )
    said = explanation(told, PUMP, language)
    assert all(name in said for name in ("other", "another", "third"))
    assert "25 %" in said or "25%" in said
    assert "unheard_of" not in said


@pytest.mark.parametrize("name", builtin_names())
@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_failure_mode_has_words_and_something_to_do(name: str, language: str) -> None:
    asset_type = builtin_asset_type(name)
    for mode in asset_type.failure_modes:
        told = advisory(failure_modes={mode.code: 0.8}, asset_type=name)
        title = mode.title.in_language(language)
        assert title[1:] in explanation(told, asset_type, language)
        assert recommendation(told, asset_type, language) == mode.action.in_language(language)
    assert recommendation(advisory(), asset_type, language) is None


def test_chinese_holds_no_english_words_beyond_units_and_standards() -> None:
    told = advisory(
        contributions={"acceleration_kurtosis": 2.0},
        residuals={"acceleration_kurtosis": 3.0},
        expected={"acceleration_kurtosis": 3.0},
        failure_modes={"bearing_spall": 0.6},
        maturity="PROVISIONAL",
    )
    said = explanation(told, FAN, "zh")
    assert said == (
        "加速度峭度比当前工况下的正常值高100%，已持续31小时；可能是滚动轴承剥落（60%）；初步判断：本机的监测时间尚短"
    )
