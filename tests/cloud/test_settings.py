"""Settings: where they come from, and what is refused."""

import tomllib
from pathlib import Path

import pytest

from forewarn_cloud.settings import Settings, SettingsError, default_data_dir, load_settings

DEPLOY = Path(__file__).parents[2] / "deploy"


def config(folder: Path, text: str) -> Path:
    path = folder / "cloud.toml"
    path.write_text(text)
    return path


def test_flags_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    file = config(tmp_path, 'port = 1001\nhost = "127.0.0.2"\ninstance = "from-file"\n')
    environment = {"FOREWARN_PORT": "1002", "FOREWARN_HOST": "127.0.0.3", "FOREWARN_CLOCK_RATE": "5"}
    found = load_settings(file, environment, {"port": 1003, "host": None})
    assert (found.port, found.host, found.instance, found.tenant) == (1003, "127.0.0.3", "from-file", "local")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('tenant = "a"\n\nprot = 3\n', "line 3: prot: unknown key; known are"),
        ("port = 99999\n", "line 1: port: Input should be less than or equal to 65535"),
        ('tenant = "a/b"\n', "line 1: tenant: use letters, digits, _ and -"),
        ('log_level = "loud"\n', "line 1: log_level: Input should be 'debug', 'info', 'warning' or 'error'"),
        ("[broker]\nport = 3\n", "line 1: broker: unknown key"),
        ("port = \n", "Invalid value (at line 1"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    file = config(tmp_path, text)
    with pytest.raises(SettingsError) as refused:
        load_settings(file, {}, {})
    assert str(refused.value).startswith(str(file))
    assert told in str(refused.value)


def test_a_mistake_elsewhere_names_the_place(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="FOREWARN_PORT: Input should be a valid integer"):
        load_settings(None, {"FOREWARN_PORT": "many"}, {})
    with pytest.raises(SettingsError, match="--broker-port: Input should be greater"):
        load_settings(config(tmp_path, "broker_port = 5"), {"FOREWARN_BROKER_PORT": "6"}, {"broker_port": 0})
    with pytest.raises(SettingsError, match=r"nowhere\.toml: cannot be read"):
        load_settings(tmp_path / "nowhere.toml", {}, {})


def test_paths_in_a_file_are_relative_to_it(tmp_path: Path) -> None:
    found = load_settings(config(tmp_path, 'data_dir = "state"\npolicy_file = "/etc/policy.toml"\n'), {}, {})
    assert (found.data_dir, found.policy_file) == (tmp_path / "state", Path("/etc/policy.toml"))
    assert found.sqlalchemy_url == f"sqlite:///{tmp_path}/state/cloud.db"


def test_the_data_folder_follows_the_xdg_rules() -> None:
    assert default_data_dir({"XDG_STATE_HOME": "/state"}) == Path("/state/forewarn/cloud")
    assert default_data_dir({}) == Path.home() / ".local/state/forewarn/cloud"


def test_the_sample_loads_and_shows_every_key() -> None:
    sample = DEPLOY / "cloud.toml"
    found = load_settings(sample, {}, {})
    assert found.model_dump(exclude={"data_dir"}) == Settings().model_dump(exclude={"data_dir"}), (
        "it shows the defaults"
    )
    lines = [line.removeprefix("# ") for line in sample.read_text().splitlines()]
    shown = {line.partition(" = ")[0]: line for line in lines if " = " in line and " " not in line.partition(" = ")[0]}
    assert shown.keys() == Settings.model_fields.keys()
    everything = tomllib.loads("\n".join(shown.values()))
    Settings.model_validate(everything)
