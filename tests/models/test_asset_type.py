"""Asset types are tables, completely checked when read."""

import pytest

from forewarn_models.asset_type import (
    AssetTypeError,
    Signal,
    builtin_asset_type,
    builtin_names,
    generic_asset_type,
    parse_asset_type,
)
from forewarn_models.vibration_zones import MachineClass, limits

HEAD = 'asset_type = "press"\ntitle = { en = "Press", zh = "压力机" }\n'
SIGNAL = '[[signals]]\nname = "force_kn"\nunit = "kN"\n'
MODE = '[[failure_modes]]\ncode = "wear"\ntitle = { en = "Wear", zh = "磨损" }\nsymptoms = { force_kn = -1.0 }\n'


@pytest.mark.parametrize("name", builtin_names())
def test_every_built_in_type_is_complete(name: str) -> None:
    asset_type = builtin_asset_type(name)
    assert asset_type.asset_type == name
    assert asset_type.running is not None
    assert all(signal.title is not None for signal in asset_type.signals)
    assert len(asset_type.failure_modes) >= 2
    assert all(mode.parts and mode.symptoms for mode in asset_type.failure_modes)


def test_a_table_of_the_users_own() -> None:
    asset_type = parse_asset_type(HEAD + SIGNAL + MODE)
    mode = asset_type.failure_mode("wear")
    assert mode is not None
    assert mode.title.in_language("zh-CN") == "磨损"
    assert asset_type.signal_names == ("force_kn",)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (HEAD, "signals"),
        ("= 1\n" + HEAD, "line 1"),
        (HEAD + SIGNAL + "colour = 1\n", "colour"),
        (HEAD + SIGNAL + SIGNAL, "signals.force_kn: give each signal once"),
        (HEAD + SIGNAL + 'role = "spare"\n', "role"),
        (HEAD + SIGNAL + "valid_min = 5.0\nvalid_max = 1.0\n", "valid_min must be below valid_max"),
        (HEAD + SIGNAL + "limit_alert = 5.0\nlimit_alarm = 1.0\n", "limit_alert must not be above"),
        (HEAD + SIGNAL + "limit_alert_low = 1.0\nlimit_alarm_low = 2.0\n", "limit_alert_low must not be below"),
        (HEAD + SIGNAL + "limit_alert_low = 1.0\nlimit_alarm = 1.0\n", "the lower limits must be below"),
        (HEAD + SIGNAL + "limit_alarm = nan\n", "signals.force_kn.limit_alarm: give a finite number"),
        (HEAD + SIGNAL + "limit_alarm_low = -inf\n", "signals.force_kn.limit_alarm_low: give a finite number"),
        (HEAD + SIGNAL + "sentinels = [inf]\n", "signals.force_kn.sentinels: give finite numbers"),
        (HEAD + SIGNAL + 'machine_class = "x"\n', "signals.force_kn.machine_class: give one of iso_20816_3_group_1"),
        (HEAD + 'machine_class = "x"\n' + SIGNAL, "machine_class: give one of iso_20816_3_group_1_rigid"),
        (
            HEAD + SIGNAL + 'machine_class = "iso_10816_1_class_i"\n',
            "signals.force_kn.machine_class: is for velocities in mm/s",
        ),
        (HEAD + SIGNAL + MODE.replace("-1.0", "-3.0"), "failure_modes.wear.symptoms: keep each within"),
        (HEAD + SIGNAL + MODE.replace("force_kn =", "speed ="), "speed is no condition signal"),
        (HEAD + SIGNAL + MODE + MODE, "give each failure mode once"),
        (HEAD + SIGNAL + '[running]\nsignal = "x"\nabove = 1.0\n', "running.signal"),
        ((HEAD + SIGNAL).replace("force_kn", "force kn"), "signals.force kn: use letters"),
    ],
)
def test_a_wrong_table_names_the_field(text: str, names: str) -> None:
    with pytest.raises(AssetTypeError, match=names):
        parse_asset_type(text)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(AssetTypeError, match="centrifugal_pump"):
        builtin_asset_type("submarine")


def test_a_generic_type_knows_signals_and_nothing_else() -> None:
    asset_type = generic_asset_type((Signal(name="temperature_c", unit="degC"),))
    assert (asset_type.asset_type, asset_type.failure_modes, asset_type.running) == ("generic", (), None)
    assert asset_type.signals[0].limit_alert is None


@pytest.mark.parametrize("machine_class", MachineClass)
def test_a_machine_class_stands_for_the_limits_of_its_vibration_zones(machine_class: MachineClass) -> None:
    (signal,) = generic_asset_type((Signal(name="v", unit="mm/s", machine_class=machine_class),)).signals
    assert (signal.limit_alert, signal.limit_alarm) == limits(machine_class)
    assert signal.limit_source.startswith(("ISO 20816-3, group ", "ISO 10816-1, class I"))


def test_the_limits_of_a_machine_class_are_in_the_unit_of_the_signal() -> None:
    (signal,) = generic_asset_type((Signal(name="v", unit="in/s", machine_class="iso_10816_1_class_i"),)).signals
    assert signal.limit_alarm == pytest.approx(4.5 / 25.4, abs=1e-6)


def test_the_class_of_a_machine_is_for_velocities_that_say_nothing_themselves() -> None:
    asset_type = generic_asset_type(
        (
            Signal(name="drive_end", unit="mm/s"),
            Signal(name="free_end", unit="mm/s", machine_class="iso_10816_1_class_i"),
            Signal(name="gearbox", unit="mm/s", limit_alarm=20.0, limit_source="maker"),
            Signal(name="wind", unit="m/s"),
            Signal(name="belt", unit="mm/s", role="regime"),
        ),
        machine_class="iso_20816_3_group_1_rigid",
    )
    assert [signal.limit_alarm for signal in asset_type.signals] == [7.1, 4.5, 20.0, None, None]
    assert asset_type.signals[0].limit_source == "ISO 20816-3, group 1, rigid support: zones B/C and C/D"
    assert asset_type.signals[2].limit_source == "maker"


@pytest.mark.parametrize("name", ["centrifugal_pump", "motor_fan"])
def test_the_built_in_machines_have_the_limits_of_their_class(name: str) -> None:
    signal = next(s for s in builtin_asset_type(name).signals if s.name == "vibration_rms_mm_s")
    assert (signal.limit_alert, signal.limit_alarm) == limits(MachineClass.GROUP_2_FLEXIBLE)
