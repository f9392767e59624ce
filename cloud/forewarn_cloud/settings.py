"""Settings of the cloud: flags over environment (FOREWARN_...) over the TOML file given by --config over defaults."""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from forewarn_models.asset_type import IDENTIFIER

ENVIRONMENT_PREFIX: Final = "FOREWARN_"
PATHS: Final = frozenset({"data_dir", "broker_ca_file", "policy_file", "telemetry_token_file"})
USUAL_PORT: Final = 8420
USUAL_BROKER_PORT: Final = 1883


class SettingsError(ValueError):
    """The settings cannot be used; the message names the place, the key and the fix."""


def _identifier(value: str) -> str:
    if not IDENTIFIER.fullmatch(value):
        raise ValueError("use letters, digits, _ and -, at most 64")
    return value


Identifier = Annotated[str, AfterValidator(_identifier)]
Port = Annotated[int, Field(ge=1, le=65535)]


class Settings(BaseModel):
    """Every key is optional. deploy/cloud.toml shows and explains them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data_dir: Path = Field(default_factory=lambda: default_data_dir(os.environ))
    database_url: str | None = None
    telemetry_url: str | None = None
    telemetry_token_file: Path | None = None
    telemetry_days: Annotated[int, Field(ge=1)] | Literal["never"] = 400
    broker_url: str | None = None
    broker_port: Port | None = None
    broker_ca_file: Path | None = None
    host: str = "127.0.0.1"
    port: Port | None = None
    public_url: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    tenant: Identifier = "local"
    instance: Identifier = "main"
    node_records_per_s: Annotated[int, Field(ge=1)] = 20_000
    node_bytes_per_s: Annotated[int, Field(ge=1024)] = 33_554_432
    silent_after_minutes: Annotated[float, Field(gt=0)] = 10.0
    policy_file: Path | None = None
    smtp_url: str | None = None
    mail_from: str = "forewarn@localhost"
    allow_private_webhooks: bool = False
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def sqlalchemy_url(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir / 'cloud.db'}"


def default_data_dir(environment: Mapping[str, str]) -> Path:
    """Where state belongs by the XDG base directory specification."""
    base = environment.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "forewarn" / "cloud"


def load_settings(config: Path | None, environment: Mapping[str, str], flags: Mapping[str, Any]) -> Settings:
    """Put the settings together; flags that are None were not given.

    Raises:
        SettingsError: a key is unknown or a value is wrong, or the file cannot be read.
    """
    text = _read(config)
    values = _parse(config, text)
    for name in Settings.model_fields:
        if ENVIRONMENT_PREFIX + name.upper() in environment:
            values[name] = environment[ENVIRONMENT_PREFIX + name.upper()]
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return Settings.model_validate(values | given)
    except ValidationError as error:
        raise SettingsError(_explain(error.errors()[0], config, text, environment, given)) from None


def _read(config: Path | None) -> str:
    if config is None:
        return ""
    try:
        return config.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{config}: cannot be read: {error}") from None


def _parse(config: Path | None, text: str) -> dict[str, Any]:
    """Relative paths in the file are relative to the file."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{config}: {error}") from None
    for key in PATHS & values.keys():
        if config is not None and isinstance(values[key], str):
            values[key] = str(config.parent / values[key])
    return values


def _explain(
    error: ErrorDetails, config: Path | None, text: str, environment: Mapping[str, str], flags: Mapping[str, Any]
) -> str:
    key = str(error["loc"][0]) if error["loc"] else ""
    problem = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        problem = f"unknown key; known are {', '.join(sorted(Settings.model_fields))}"
    return f"{_place(key, config, text, environment, flags)}: {problem}"


def _place(key: str, config: Path | None, text: str, environment: Mapping[str, str], flags: Mapping[str, Any]) -> str:
    if key in flags:
        return f"--{key.replace('_', '-')}"
    if ENVIRONMENT_PREFIX + key.upper() in environment:
        return ENVIRONMENT_PREFIX + key.upper()
    pattern = re.compile(rf"^\s*\[*\s*[\"']?{re.escape(key)}\b")
    line = next((number for number, line in enumerate(text.splitlines(), 1) if pattern.match(line)), None)
    return f"{config}: line {line}: {key}" if line else f"{config}: {key}"
