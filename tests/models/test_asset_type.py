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
