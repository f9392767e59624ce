"""Samples in a database that speaks the InfluxDB 2 API: InfluxDB itself, or VictoriaMetrics.

Both are written alike, in batches of line protocol through `influxdb-client`. They are read in their own languages:
InfluxDB in Flux, VictoriaMetrics through its export of raw samples and its query API.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from time import sleep
from typing import Any, Final, Literal, Protocol, Self, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from influxdb_client.client.exceptions import InfluxDBError
from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.client.write_api import SYNCHRONOUS, WriteApi
from influxdb_client.domain.write_precision import WritePrecision
from influxdb_client.rest import ApiException
from urllib3.exceptions import HTTPError

from forewarn_cloud.adapters.influxdb_lines import lines
from forewarn_cloud.errors import Invalid, Unavailable
from forewarn_cloud.series import Buckets, Columns, bucket_series, count_samples, least_width, level_for, series
from forewarn_cloud.telemetry import TelemetryRecord, TelemetrySeries

T = TypeVar("T")
Kind = Literal["influxdb", "victoriametrics"]
CONNECT_MS: Final = 2_000
ANSWER_MS: Final = 5_000
TRIES: Final = 2
"""Soon one after another, for a connection that the server has closed meanwhile. What is down longer is the caller's:
it waits outside of its transaction."""
_PAUSE_SECONDS: Final = 0.1
_LINES_A_REQUEST: Final = 5_000
_REFUSED_STATUSES: Final = (400, 413, 422)
_STARTED: Final = "process_start_time_seconds "


class StoreUrlError(ValueError):
    """The URL names no such store."""


@dataclass(frozen=True, kw_only=True)
class StoreUrl:
    """`influxdb://host:8086/BUCKET?org=ORG` or `victoriametrics://host:8428`; an s after the scheme means TLS."""

    kind: Kind
    http_url: str
    bucket: str = ""
    org: str = ""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Raises: StoreUrlError"""
        parts = urlsplit(url)
        kinds: dict[str, tuple[Kind, str]] = {
            "influxdb": ("influxdb", "http"),
            "influxdbs": ("influxdb", "https"),
            "victoriametrics": ("victoriametrics", "http"),
            "victoriametricss": ("victoriametrics", "https"),
        }
        if parts.scheme not in kinds or not parts.hostname:
            raise StoreUrlError("use influxdb://HOST:PORT/BUCKET?org=ORG or victoriametrics://HOST:PORT")
        if parts.username is not None or parts.password is not None:
            raise StoreUrlError("put the token into a file and name it in telemetry_token_file")
        kind, protocol = kinds[parts.scheme]
        bucket, org = unquote(parts.path.strip("/")), dict(parse_qsl(parts.query)).get("org", "")
        if kind == "influxdb" and not (bucket and org):
            raise StoreUrlError("InfluxDB needs a bucket and an organisation: influxdb://HOST:PORT/BUCKET?org=ORG")
        path = parts.path.rstrip("/") if kind == "victoriametrics" else ""
        return cls(kind=kind, http_url=f"{protocol}://{parts.netloc}{path}", bucket=bucket, org=org)


class SampleReader(Protocol):
    """How the samples of one asset are read."""

    def samples(
        self, *, tenant: str, asset: str, signals: Collection[str] | None, from_ms: int, to_ms: int
    ) -> Columns: ...

    def buckets(
        self, *, tenant: str, asset: str, signals: Collection[str] | None, from_ms: int, to_ms: int, width: int
    ) -> Buckets:
        """Whole buckets, computed where the samples are."""
        ...


@dataclass(frozen=True, kw_only=True)
class InfluxSamples:
    """`SampleStore` over the InfluxDB 2 API. `client` is shared by threads."""

    url: StoreUrl
    client: InfluxDBClient
    writer: WriteApi
    reader: SampleReader

    def write(self, records: Sequence[TelemetryRecord]) -> None:
        for body in lines(records, most=_LINES_A_REQUEST):
            self._write(body)

    def _write(self, body: bytes) -> None:
        def once() -> None:
            precision: Any = WritePrecision.MS  # a string; its stub says enum
            self.writer.write(bucket=self.url.bucket or "telemetry", record=body, write_precision=precision)

        try:
            answered(once)
        except Invalid:
            middle = body.find(b"\n", len(body) // 2)
            if middle < 0:
                raise
            self._write(body[:middle])
            self._write(body[middle + 1 :])

    def read(
        self, *, tenant: str, asset: str, signals: Collection[str] | None, from_ms: int, to_ms: int, max_points: int
    ) -> TelemetrySeries:
        of: dict[str, Any] = {"tenant": tenant, "asset": asset, "signals": signals, "from_ms": from_ms, "to_ms": to_ms}
        if level_for(from_ms, to_ms, max_points) is not None:
            width = least_width(from_ms, to_ms, max_points)
            buckets = answered(lambda: self.reader.buckets(**of, width=width))
            samples = count_samples(buckets)
            if samples > max_points:
                return bucket_series(buckets, width=width, samples=samples, max_points=max_points)
        found = answered(lambda: self.reader.samples(**of))
        return series([found], signals=signals, from_ms=from_ms, to_ms=to_ms, max_points=max_points)

    def started_at(self) -> str:
        def once() -> str:
            answer = self.client.api_client.rest_client.pool_manager.request("GET", f"{self.url.http_url}/metrics")
            told = answer.data.decode(errors="replace").splitlines()
            return next((line for line in told if line.startswith(_STARTED)), "")

        return answered(once)


def open_influx_samples(url: StoreUrl, token: str | None) -> InfluxSamples:
    """Nothing is connected yet."""
    from forewarn_cloud.adapters.influxdb_flux import FluxReader
    from forewarn_cloud.adapters.victoriametrics import ExportReader

    timeout: Any = (CONNECT_MS, ANSWER_MS)
    org = url.org or "-"
    client = InfluxDBClient(url=url.http_url, token=token or "", org=org, timeout=timeout, enable_gzip=False)
    readers: Mapping[Kind, Callable[[], SampleReader]] = {
        "influxdb": lambda: FluxReader(query=client.query_api(), bucket=url.bucket),
        "victoriametrics": lambda: ExportReader(
            pool=client.api_client.rest_client.pool_manager, url=url.http_url, token=token
        ),
    }
    writer = client.write_api(write_options=SYNCHRONOUS)
    return InfluxSamples(url=url, client=client, writer=writer, reader=readers[url.kind]())


def answered(ask: Callable[[], T]) -> T:
    """What the server answers; asked a second time where the connection failed.

    Raises:
        Unavailable: it does not answer, or cannot serve now, or not us.
        Invalid: it refuses what was sent.
    """
    for tried in range(1, TRIES + 1):
        try:
            return ask()
        except ApiException as error:
            raise _of_status(error) from error
        except (HTTPError, InfluxDBError, OSError) as error:
            if tried == TRIES:
                raise Unavailable(f"the telemetry store does not answer: {type(error).__name__}") from error
        sleep(_PAUSE_SECONDS)
    raise AssertionError("unreachable")


def _of_status(error: ApiException) -> Unavailable | Invalid:
    body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else str(error.body or "")
    told = f"the telemetry store answers {error.status} {error.reason}: {' '.join(body.split())[:300]}"
    if error.status in _REFUSED_STATUSES:
        return Invalid("telemetry", told)
    return Unavailable(told)
