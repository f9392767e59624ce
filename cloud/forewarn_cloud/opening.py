"""What every command opens first. Little is imported for it: a command that only looks is to answer at once."""

from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import ArgumentError

from forewarn_cloud.adapters.sql.engine import make_engine
from forewarn_cloud.clock import Clock, SystemClock
from forewarn_cloud.principal import Principal
from forewarn_cloud.settings import Settings, SettingsError
from forewarn_models.timebase import timebase_from_environment


def open_clock(environment: Mapping[str, str]) -> Clock:
    """The wall clock, or the accelerated one that the environment describes. Raises: SettingsError"""
    try:
        return SystemClock(timebase=timebase_from_environment(environment))
    except ValueError as error:
        raise SettingsError(str(error)) from None


def open_database(settings: Settings) -> Engine:
    """An engine; nothing is connected yet. Raises: SettingsError"""
    if settings.database_url is None:
        make_data_dir(settings)
    try:
        return make_engine(settings.sqlalchemy_url)
    except (ArgumentError, ModuleNotFoundError) as error:
        raise SettingsError(f"database_url: {error}") from None


def make_data_dir(settings: Settings) -> Path:
    """Where the cloud keeps its files, readable for its own user only. Raises: SettingsError"""
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"data_dir: {settings.data_dir} cannot be made: {error.strerror}") from None
    return settings.data_dir


def local_principal(settings: Settings) -> Principal:
    """Stands in for everyone until identity is built."""
    return Principal(name="local", tenant=settings.tenant, role="admin")
