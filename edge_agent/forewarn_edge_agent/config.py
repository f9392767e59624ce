"""The agent's configuration: one TOML file, checked completely before anything starts.

Every problem is told with the file, the line and the fix. Relative paths are relative to the file.
"""

import re
import ssl
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec

from forewarn_edge_agent import waveforms
from forewarn_edge_agent.waveforms import Waveform
from forewarn_models.asset_type import (
    IDENTIFIER,
    SIGNAL_NAME,
    AssetType,
    AssetTypeError,
    Signal,
    builtin_asset_type,
    builtin_names,
    generic_asset_type,
    parse_asset_type,
)
from forewarn_models.kernel import Settings
from forewarn_models.knowledge import FleetKnowledge
from forewarn_models.model_folder import ModelFolderError, load_model

MIN_SPOOL_MEBIBYTES: Final = 1
_TABLE: Final = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?")
_KEY: Final = re.compile(r"""\s*("[^"]*"|'[^']*'|[A-Za-z0-9_.-]+)\s*=""")
_NAMING: Final = "use letters, digits, _ and -, at most 64"


class ConfigError(Exception):
    """The configuration cannot be used; each of `problems` names the line and the fix."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Node(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who this agent is. `node` must be unique in the tenant, also as an MQTT client id."""

    tenant: str
    node: str
    state_dir: Path


class Broker(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An MQTT broker and how to log in to it."""

    host: str
    port: int = 1883
    username: str | None = None
    password_file: Path | None = None
    keep_alive_seconds: int = 30
    tls: bool = False
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def password(self) -> str | None:
        return None if self.password_file is None else self.password_file.read_text("utf-8").rstrip("\r\n")

    def tls_context(self) -> ssl.SSLContext | None:
        """None without TLS; the server's name and certificate are always checked.

        Raises:
            OSError: a certificate or key cannot be read or used.
        """
        if not self.tls:
            return None
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.cert_file is not None:
            context.load_cert_chain(self.cert_file, self.key_file)
        return context


class Uplink(Broker, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The broker that leads to the cloud."""

    mqtt_version: Literal["3.1.1", "5"] = "3.1.1"
    reconnect_max_seconds: float = 60.0
    resend_after_seconds: float = 10.0
    replay_records_per_s: int = 20_000


class Spool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    max_mebibytes: int = 256
    max_days: float = 7.0
    keep_acknowledged_hours: float = 24.0
    checkpoint_seconds: float = 60.0


class MqttSource(Broker, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="mqtt"):
    """Machines that publish to a broker; the last level of the topic is the asset."""

    topic: str = "machines/+"


class CsvSource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="csv"):
    """Replay of one CSV file. `asset` names the machine if the file has no column asset_id."""

    path: Path
    asset: str | None = None
    align: Literal["none", "first", "last"] = "none"


class DatasetSource(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="dataset"
):
    """Replay of the telemetry of a dataset folder."""

    path: Path
    align: Literal["none", "first", "last"] = "none"


class Asset(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A machine this agent watches.

    `asset_type`: a built-in name, the path of a TOML file, or "generic". A generic asset may declare its `signals`;
    if it does not, its first message decides which it has. `model`: a folder that `forewarn-cloud fit` wrote. `rename`:
    name at the source -> signal. `waveforms`: its points that send waveforms. `silent_after_seconds`: without a new
    sample for so long its condition is unknown; None: after five of its usual pauses.
    """

    asset: str
    asset_type: str
    model: Path | None = None
    signals: tuple[Signal, ...] = ()
    rename: dict[str, str] = {}
    waveforms: tuple[Waveform, ...] = ()
    silent_after_seconds: float | None = None


class Log(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    level: Literal["debug", "info", "warning", "error"] = "info"


class Metrics(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`port` on 127.0.0.1; None: none."""

    port: int | None = None


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    node: Node
    uplink: Uplink
    sources: tuple[MqttSource | CsvSource | DatasetSource, ...]
    assets: tuple[Asset, ...]
    spool: Spool = Spool()
    models: Settings = Settings()
    metrics: Metrics = Metrics()
    log: Log = Log()


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration that was found good, with what it refers to."""

    config: Config
    asset_types: dict[str, AssetType | None]
    """Of each asset; None: its first message decides."""
    knowledge: dict[str, FleetKnowledge]
    """Of the assets that have a model."""


def load(path: Path, *, models: bool = True) -> Setup:
    """Read and check a configuration file and, unless `models` is False, the model folders it names.

    Raises:
        ConfigError: with all the problems that could be found.
    """
    try:
        text = path.read_text("utf-8")
        tree = tomllib.loads(text)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise ConfigError([f"{path}: not UTF-8 text"]) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{path}: not TOML: {error}"]) from None
    lines = locate(text)
    try:
        config = msgspec.convert(tree, Config, dec_hook=_path_beside(path.parent))
    except msgspec.ValidationError as error:
        where, problem = _where(str(error))
        raise ConfigError([_told(path, lines, where, problem)]) from None
    problems = list(_problems(config))
    asset_types: dict[str, AssetType | None] = {}
    learned = _Learned()
    knowledge: dict[str, FleetKnowledge] = {}
    for i, asset in enumerate(config.assets):
        try:
            asset_types[asset.asset] = _asset_type(asset, path.parent)
        except AssetTypeError as error:
            problems.append((f"assets[{i}].asset_type", str(error)))
            continue
        problems += _rename_problems(f"assets[{i}].rename", asset, asset_types[asset.asset])
        problems += _waveform_problems(f"assets[{i}]", asset, asset_types[asset.asset])
        if models and asset.model is not None:
            try:
                knowledge[asset.asset] = learned.about(asset_types[asset.asset], asset.model)
            except ModelFolderError as error:
                problems.append((f"assets[{i}].model", str(error)))
    if problems:
        raise ConfigError([_told(path, lines, where, problem) for where, problem in problems])
    return Setup(config=config, asset_types=asset_types, knowledge=knowledge)


class _Learned:
    """The model folders that were read: assets of one type share what one folder holds."""

    def __init__(self) -> None:
        self._found: dict[tuple[Path, bytes], FleetKnowledge] = {}

    def about(self, asset_type: AssetType | None, folder: Path) -> FleetKnowledge:
        """
        Raises:
            ModelFolderError: the folder holds no whole model, or one of other machines; the message names the file.
        """
        if asset_type is None:
            raise ModelFolderError("declare [[assets.signals]], those that the model was learned from")
        key = folder, msgspec.json.encode(asset_type)
        if key not in self._found:
            self._found[key] = _read_model(folder, asset_type)
        return self._found[key]


def _read_model(folder: Path, asset_type: AssetType) -> FleetKnowledge:
    if not folder.is_dir():
        raise ModelFolderError(f"{folder} is no folder")
    try:
        return load_model(lambda name: (folder / name).read_bytes(), asset_type)
    except ModelFolderError as error:
        raise ModelFolderError(f"{folder}/{error}") from None
    except OSError as error:
        raise ModelFolderError(f"{folder}: cannot be read: {error.strerror}") from None


def _asset_type(asset: Asset, folder: Path) -> AssetType | None:
    if asset.asset_type == "generic":
        return generic_asset_type(asset.signals) if asset.signals else None
    if asset.signals:
        raise AssetTypeError('signals can only be declared for asset_type = "generic"')
    if not asset.asset_type.endswith(".toml"):
        return builtin_asset_type(asset.asset_type)
    try:
        found = parse_asset_type((folder / asset.asset_type).read_text("utf-8"))
    except OSError as error:
        raise AssetTypeError(f"{asset.asset_type}: cannot be read: {error.strerror}") from None
    if found.asset_type in (*builtin_names(), "generic"):
        raise AssetTypeError(f"{asset.asset_type}: {found.asset_type!r} is the name of a built-in type; choose another")
    return found


# --- what a type cannot say ------------------------------------------------------------------------------------------

_Problem = tuple[str, str]
"""Where, as a path like `sources[0].port`, and what."""


def _problems(config: Config) -> Iterator[_Problem]:
    for level in ("tenant", "node"):
        yield from _unless(IDENTIFIER.fullmatch(getattr(config.node, level)), f"node.{level}", _NAMING)
    yield from _broker_problems("uplink", config.uplink)
    yield from _unless(config.uplink.reconnect_max_seconds >= 1, "uplink.reconnect_max_seconds", "give at least 1")
    yield from _unless(config.uplink.resend_after_seconds >= 1, "uplink.resend_after_seconds", "give at least 1")
    yield from _unless(config.uplink.replay_records_per_s >= 1, "uplink.replay_records_per_s", "give at least 1")
    least = MIN_SPOOL_MEBIBYTES
    yield from _unless(config.spool.max_mebibytes >= least, "spool.max_mebibytes", f"give at least {least}")
    yield from _unless(config.spool.max_days > 0, "spool.max_days", "give more than 0")
    archive = "spool.keep_acknowledged_hours"
    yield from _unless(config.spool.keep_acknowledged_hours >= 0, archive, "give 0 or more")
    yield from _unless(config.spool.checkpoint_seconds >= 0, "spool.checkpoint_seconds", "give 0 or more")
    port = config.metrics.port
    yield from _unless(port is None or 1 <= port <= 65535, "metrics.port", f"{port} is not within 1..65535")
    yield from _unless(config.sources, "sources", "give at least one [[sources]]")
    for i, source in enumerate(config.sources):
        yield from _source_problems(f"sources[{i}]", source)
    yield from _unless(config.assets, "assets", "give at least one [[assets]]")
    names = [asset.asset for asset in config.assets]
    for i, asset in enumerate(config.assets):
        where = f"assets[{i}]"
        yield from _unless(asset.asset not in names[:i], f"{where}.asset", f"{asset.asset!r} is declared twice")
        yield from _asset_problems(where, asset)


def _source_problems(where: str, source: MqttSource | CsvSource | DatasetSource) -> Iterator[_Problem]:
    if isinstance(source, MqttSource):
        yield from _broker_problems(where, source)
        yield from _unless(_is_topic_filter(source.topic), f"{where}.topic", "not an MQTT topic filter")
    elif isinstance(source, CsvSource):
        yield from _unless(source.path.is_file(), f"{where}.path", f"{source.path} is no file")
    else:
        yield from _unless(source.path.is_dir(), f"{where}.path", f"{source.path} is no folder")


def _asset_problems(where: str, asset: Asset) -> Iterator[_Problem]:
    yield from _unless(IDENTIFIER.fullmatch(asset.asset), f"{where}.asset", _NAMING)
    for signal in asset.rename.values():
        yield from _unless(SIGNAL_NAME.fullmatch(signal), f"{where}.rename", f"{signal!r} is no signal name")
    patience = asset.silent_after_seconds
    yield from _unless(patience is None or patience >= 1, f"{where}.silent_after_seconds", "give at least 1")
    twice = len(set(asset.rename.values())) < len(asset.rename)
    yield from _unless(not twice, f"{where}.rename", "two names at the source become the same signal")


def _rename_problems(where: str, asset: Asset, asset_type: AssetType | None) -> Iterator[_Problem]:
    if asset_type is not None:
        for signal in asset.rename.values():
            known = ", ".join(asset_type.signal_names)
            yield from _unless(signal in asset_type.signal_names, where, f"{signal!r} is none of the signals {known}")


def _waveform_problems(where: str, asset: Asset, asset_type: AssetType | None) -> Iterator[_Problem]:
    for below, problem in waveforms.problems(asset.waveforms):
        yield f"{where}.{below}", problem
    if asset_type is None:
        yield from _unless(not asset.waveforms, f"{where}.waveforms", "declare [[assets.signals]], with the features")
        return
    for i, waveform in enumerate(asset.waveforms):
        becoming = [*waveform.features.values(), *filter(None, [waveform.speed])]
        for signal in becoming:
            known = ", ".join(asset_type.signal_names)
            problem = f"{signal!r} is none of the signals {known}"
            yield from _unless(signal in asset_type.signal_names, f"{where}.waveforms[{i}]", problem)
        for signal in waveform.features.values():
            renamed = signal in {*asset.rename, *asset.rename.values()}
            yield from _unless(not renamed, f"{where}.rename", f"{signal!r} is a feature of a waveform")


def _broker_problems(where: str, broker: Broker) -> Iterator[_Problem]:
    yield from _unless(broker.host, f"{where}.host", "give the broker's host name or address")
    yield from _unless(1 <= broker.port <= 65535, f"{where}.port", f"{broker.port} is not within 1..65535")
    keep_alive = 5 <= broker.keep_alive_seconds <= 65535
    yield from _unless(keep_alive, f"{where}.keep_alive_seconds", "give 5 to 65535")
    if broker.password_file is not None:
        yield from _unless(broker.username, f"{where}.password_file", "a password needs a username")
        yield from _unless(
            broker.password_file.is_file(), f"{where}.password_file", f"{broker.password_file} is no file"
        )
    if not broker.tls:
        for name in ("ca_file", "cert_file", "key_file"):
            yield from _unless(getattr(broker, name) is None, f"{where}.{name}", "needs tls = true")
        return
    try:
        broker.tls_context()
    except OSError as error:
        yield f"{where}.tls", f"the certificates cannot be used: {error}"


def _unless(right: object, where: str, problem: str) -> Iterator[_Problem]:
    if not right:
        yield where, problem


def _is_topic_filter(topic: str) -> bool:
    levels = topic.split("/")
    plain = all(level in ("+", "#") or not set(level) & set("+#\0") for level in levels)
    return bool(topic) and plain and "#" not in levels[:-1]


# --- from a place in the tree to a line of the file ------------------------------------------------------------------


def locate(text: str) -> dict[str, int]:
    """The line, counted from 1, of each table and key of a TOML file, under its path such as `sources[0].port`.

    Keys within inline tables and multi-line values are not found; their parent is.
    """
    lines: dict[str, int] = {}
    arrays: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _TABLE.fullmatch(line):
            table = _table_path(header[2].replace(" ", ""), header[1] == "[[", arrays)
            lines.setdefault(table, number)
            lines.setdefault(table.partition("[")[0], number)
        elif key := _KEY.match(line):
            lines.setdefault(".".join(filter(None, (table, key[1].strip("\"'")))), number)
    return lines


def _table_path(name: str, is_array: bool, arrays: dict[str, int]) -> str:
    parts = name.split(".")
    path = ""
    for depth, part in enumerate(parts):
        path = f"{path}.{part}" if path else part
        if is_array and depth == len(parts) - 1:
            arrays[path] = arrays.get(path, -1) + 1
        if path in arrays:
            path = f"{path}[{arrays[path]}]"
    return path


def _where(message: str) -> _Problem:
    """The place and the problem in a message of msgspec such as "Expected `int`, got `str` - at `$.uplink.port`"."""
    problem, _, place = message.partition(" - at ")
    path = place.strip("`").removeprefix("$").removeprefix(".")
    if unknown := re.search(r"unknown field `(.+)`", problem):
        return f"{path}.{unknown[1]}" if path else unknown[
            1
        ], f"unknown key {unknown[1]!r}; remove it or correct its name"
    if missing := re.search(r"missing required field `(.+)`", problem):
        return path, f"the key {missing[1]!r} is missing"
    return path, problem


def _told(path: Path, lines: dict[str, int], where: str, problem: str) -> str:
    place = where
    while place and place not in lines:
        place = re.sub(r"(?:^|\.)[^.\[]+$|\[[^\]]*\]$", "", place)
    line = f":{lines[place]}" if place else ""
    return f"{path}{line}: {where + ': ' if where else ''}{problem}"


def _path_beside(folder: Path) -> Callable[[type, object], Path]:
    def convert(kind: type, value: object) -> Path:
        if kind is not Path or not isinstance(value, str) or not value:
            raise ValueError("give a path as text")
        return folder / value

    return convert
