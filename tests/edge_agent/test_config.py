"""A configuration is checked completely before anything starts, and a problem is told with its line."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forewarn_edge_agent.config import ConfigError, MqttSource, load, locate
from tests.edge_agent.conftest import AgentProcess

SAMPLE = Path(__file__).parents[2] / "deploy" / "edge.toml"


def problems_with(tmp_path: Path, old: str, new: str) -> list[str]:
    """What is wrong with the sample configuration after a change, as `line: problem`."""
    text = SAMPLE.read_text()
    assert old in text
    path = tmp_path / "edge.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        load(path)
    return [problem.removeprefix(f"{path}:") for problem in caught.value.problems]


def line_of(text: str) -> int:
    (number,) = [n for n, line in enumerate(SAMPLE.read_text().splitlines(), 1) if line.startswith(text)]
    return number


def test_the_sample_configuration_loads() -> None:
    setup = load(SAMPLE)
    assert setup.config.node.node == "plant-1"
    assert set(setup.asset_types) == {"pump-1", "press-7"}
    press = setup.asset_types["press-7"]
    assert press is not None
    assert {"oil_temperature_c", "load_pct"} <= set(press.signal_names)
    assert (press.signals[3].limit_alert, press.signals[3].limit_alarm) == (4.5, 7.1), "of its machine class"
    (waveform,) = setup.config.assets[1].waveforms
    assert set(waveform.features.values()) == {"motor_vibration_rms_mm_s", "motor_outer_race_ratio"}


def test_the_sample_shows_the_defaults(tmp_path: Path) -> None:
    lines = SAMPLE.read_text().splitlines()
    optional = (
        "keep_alive",
        "reconnect",
        "resend",
        "replay",
        "mqtt_version",
        "max_meb",
        "checkpoint",
        "baseline",
        "false_alarms",
        "settling",
        "level",
        "speed_unit",
        "velocity_band_hz",
    )
    short, whole = tmp_path / "short.toml", tmp_path / "whole.toml"
    short.write_text("\n".join(line for line in lines if not line.startswith(optional)))
    whole.write_text("\n".join(lines))
    assert load(short) == load(whole)


@pytest.mark.parametrize(
    ("old", "new", "at", "problem"),
    [
        ('node = "plant-1"', 'nod = "plant-1"', 'node = "plant-1"', "unknown key 'nod'"),
        ('node = "plant-1"', 'node = "plant-1"\nhots = 1', "state_dir", "unknown key 'hots'"),
        ("[log]", "[logs]", "[log]", "unknown key 'logs'"),
        ("max_mebibytes = 256", 'max_mebibytes = "big"', "max_mebibytes", "Expected `int`, got `str`"),
        ("max_mebibytes = 256", "max_mebibytes = true", "max_mebibytes", "Expected `int`, got `bool`"),
        ("max_mebibytes = 256", "max_mebibytes = 0", "max_mebibytes", "give at least 1"),
        ("baseline_samples = 500", "baseline_samples = 1", "[models]", "give 10 to 1000000"),
        ('kind = "mqtt"', 'kind = "opcua"', 'kind = "mqtt"', "Invalid value 'opcua'"),
        ('topic = "machines/+"', 'topic = "machines/#/x"', "topic", "not an MQTT topic filter"),
        ('asset = "press-7"', 'asset = "pump-1"', 'asset = "press-7"', "declared twice"),
        ('asset = "press-7"', 'asset = "press 7"', 'asset = "press-7"', "use letters, digits"),
        ('asset_type = "centrifugal_pump"', 'asset_type = "pmp"', 'asset_type = "centrifugal', "known: air_compressor"),
        ('asset_type = "centrifugal_pump"', 'asset_type = "no.toml"', 'asset_type = "centrifugal', "cannot be read"),
        ('{ vib = "vibration_rms_mm_s" }', '{ vib = "vibration" }', "rename", "none of the signals"),
        ("limit_alert = 75.0", "limit_alert = 95.0", 'asset_type = "generic"', "must not be above limit_alarm"),
        ('role = "condition"', 'role = "watch"', 'role = "condition"', "Invalid enum value 'watch'"),
        ("keep_alive_seconds = 30", 'ca_file = "ca.pem"', "keep_alive_seconds", "needs tls = true"),
        ('point = "motor"', 'pont = "motor"', 'point = "motor"', "unknown key 'pont'"),
        ("{ velocity_rms_mm_s =", "{ velocity_mm_s =", "features", "'velocity_mm_s' is none of the features here: acc"),
        ('"motor_outer_race_ratio" }', '"outer" }', "[[assets.waveforms]]", "'outer' is none of the signals oil_temp"),
        ('"motor_outer_race_ratio" }', '"motor_vibration_rms_mm_s" }', "features", "two features become the signal"),
        ('speed = "speed_rpm"', "", "bearing", "a bearing needs speed"),
        (
            'speed = "speed_rpm"',
            'speed = "rpm"',
            "[[assets.waveforms]]",
            "'rpm' is none of the signals oil_temperature",
        ),
        ('speed_unit = "rpm"', 'speed_unit = "r/s"', "speed_unit", "Invalid enum value 'r/s'"),
        ("rolling_elements = 9", "rolling_elements = 90", "bearing", "90 of that diameter do not fit"),
        ("keep_alive_seconds = 30", 'username = "u"\npassword_file = "no"', "# tls", "is no file"),
        ("keep_alive_seconds = 30", 'tls = true\nca_file = "no"', "keep_alive_seconds", "certificates cannot be used"),
    ],
)
def test_a_problem_names_the_line(tmp_path: Path, old: str, new: str, at: str, problem: str) -> None:
    (told,) = problems_with(tmp_path, old, new)
    line = line_of(at) if at != "# tls" else line_of("keep_alive_seconds") + 1
    assert told.startswith(f"{line}: "), told
    assert problem in told


def test_waveforms_of_a_machine_that_declares_no_signals_are_refused(tmp_path: Path) -> None:
    text = SAMPLE.read_text()
    path = tmp_path / "edge.toml"
    first, second = text.index("\n[[assets.signals]]"), text.index("# Which features of the waveforms")
    path.write_text(text[:first] + text[second:])
    with pytest.raises(ConfigError) as caught:
        load(path)
    (told,) = caught.value.problems
    assert "assets[1].waveforms: declare [[assets.signals]]" in told


def test_a_point_is_declared_once_and_its_features_are_not_renamed(tmp_path: Path) -> None:
    text = SAMPLE.read_text()
    again = text[text.index("[[assets.waveforms]]") :]
    path = tmp_path / "edge.toml"
    path.write_text(
        text.replace('asset_type = "generic"', 'asset_type = "generic"\nrename = { x = "motor_outer_race_ratio" }')
        + again
    )
    with pytest.raises(ConfigError) as caught:
        load(path)
    told = "\n".join(caught.value.problems)
    assert "assets[1].waveforms[1].point: 'motor' is declared twice" in told
    assert "assets[1].rename: 'motor_outer_race_ratio' is a feature of a waveform" in told


def test_several_problems_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    text = SAMPLE.read_text().replace("max_mebibytes = 256", "max_mebibytes = 0")
    path.write_text(text.replace("port = 1883", "port = 99999"))
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert [re.sub(r".*?: (\S+):.*", r"\1", problem) for problem in caught.value.problems] == [
        "uplink.port",
        "spool.max_mebibytes",
        "sources[0].port",
    ]


def test_what_is_no_toml_is_told(tmp_path: Path) -> None:
    (told,) = problems_with(tmp_path, "[log]", "[log")
    assert "not TOML" in told
    assert f"line {line_of('[log]')}" in told


def test_relative_paths_are_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\n")
    path = tmp_path / "edge.toml"
    login = 'username = "u"\npassword_file = "secret"\ntopic = "machines/+"'
    path.write_text(SAMPLE.read_text().replace('topic = "machines/+"', login))
    (source,) = load(path).config.sources
    assert isinstance(source, MqttSource)
    assert source.password() == "s3cret"


@given(st.text(alphabet='[]ab.="#\n {}', max_size=60))
def test_locating_lines_never_fails(text: str) -> None:
    assert all(0 < line <= len(text.splitlines()) for line in locate(text).values())


def test_check_and_run_refuse_with_78(agent: AgentProcess) -> None:
    good = agent.call("check")
    assert (good.returncode, good.stdout) == (0, f"{agent.config}: good; sources: 1, assets: 1\n")
    agent.config.write_text(agent.config.read_text() + "\n[nonsense]\n")
    line = len(agent.config.read_text().splitlines())
    for command in ("check", "run"):
        done = agent.call(command)
        assert done.returncode == 78
        assert f"edge.toml:{line}: nonsense: unknown key" in done.stderr
        assert "Traceback" not in done.stderr


def test_wrong_usage_is_2(agent: AgentProcess) -> None:
    assert agent.call("dance").returncode == 2
