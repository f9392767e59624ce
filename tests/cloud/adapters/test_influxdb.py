"""What is sent to a database that speaks the InfluxDB 2 API, and what is made of its answers.

VictoriaMetrics runs for real in tests/contract and tests/faults. No InfluxDB runs here: its Flux is compared as text,
and its answers are written by hand after the format that InfluxData describes.
"""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from forewarn_cloud.adapters.influxdb import StoreUrl, StoreUrlError, open_influx_samples
from forewarn_cloud.adapters.influxdb_flux import buckets_of, columns_of, flux_of_buckets, flux_of_samples
from forewarn_cloud.adapters.influxdb_lines import decimals, lines
from forewarn_cloud.bootstrap import open_samples
from forewarn_cloud.errors import Unavailable
from forewarn_cloud.settings import Settings, SettingsError
from forewarn_cloud.telemetry import TelemetryRecord
from tests.conftest import VictoriaMetrics, free_port

NAN = float("nan")


def record(t_ms: list[int], *, asset: str = "pump-1", **signals: list[float]) -> TelemetryRecord:
    return TelemetryRecord(
        tenant="local",
        node="n1",
        epoch="e1",
        seq=1,
        digest=b"d" * 16,
        asset=asset,
        t_ms=np.array(t_ms, dtype=np.int64),
        signals={name: np.array(values, dtype=np.float32) for name, values in signals.items()},
    )


def test_a_sample_is_a_line_and_what_is_missing_is_not_said() -> None:
    written = b"\n".join(lines([record([1, 2, 3], flow=[1.5, NAN, NAN], head=[0.1, -3, NAN])], most=10)).decode()
    assert written.splitlines() == [
        "telemetry,tenant=local,asset=pump-1 flow=1.5,head=0.1 1",
        "telemetry,tenant=local,asset=pump-1 head=-3.0 2",
    ]


def test_a_request_has_no_more_lines_than_it_may() -> None:
    records = [record(list(range(n, n + 4)), flow=[1, 2, 3, 4]) for n in range(0, 40, 4)]
    requests = [body.count(b"\n") + 1 for body in lines(records, most=12)]
    assert requests == [12, 12, 12, 4]


@given(
    arrays.arrays(np.float32, st.integers(1, 20), elements=st.floats(width=32, allow_nan=False, allow_infinity=False))
)
def test_the_text_of_a_reading_is_the_same_float32(column: np.ndarray) -> None:
    assert np.array(decimals(column), dtype=np.float64).astype(np.float32).tolist() == column.tolist()


def test_the_text_of_a_reading_is_short() -> None:
    assert decimals(np.array([41.2, 518.67, -0.05], dtype=np.float32)) == ["41.2", "518.67", "-0.05"]
    assert decimals(np.array([1 / 3], dtype=np.float32)) == ["0.33333334"]


@pytest.mark.parametrize("name", ["plain-1", "a b,c=d", 'quo"te', "Ünï"])
def test_a_name_with_special_characters_is_read_back(victoria_metrics: VictoriaMetrics, name: str) -> None:
    samples = open_influx_samples(StoreUrl.parse(victoria_metrics.url.replace("http", "victoriametrics")), None)
    samples.write([record([1_700_000_000_123], asset=name, flow=[1.25])])
    victoria_metrics.make_visible()
    found = samples.read(
        tenant="local", asset=name, signals=None, from_ms=1_700_000_000_123, to_ms=1_700_000_000_123, max_points=9
    )
    assert found.signals["flow"].tolist() == [1.25]


# --- URLs and tokens --------------------------------------------------------------------------------------------------


def test_urls_of_stores() -> None:
    influx = StoreUrl.parse("influxdbs://influx.example.com:8086/tele%20metry?org=forewarn")
    assert (influx.kind, influx.http_url) == ("influxdb", "https://influx.example.com:8086")
    assert (influx.bucket, influx.org) == ("tele metry", "forewarn")
    metrics = StoreUrl.parse("victoriametrics://127.0.0.1:8428/select/")
    assert (metrics.kind, metrics.http_url) == ("victoriametrics", "http://127.0.0.1:8428/select")


@pytest.mark.parametrize(
    "url",
    ["http://h:1", "influxdb://h:1/b", "influxdb://h:1?org=o", "influxdb://:secret@h:1/b?org=o", "victoriametrics:x"],
)
def test_a_wrong_url_is_refused_and_no_secret_told(url: str) -> None:
    with pytest.raises(StoreUrlError) as refused:
        StoreUrl.parse(url)
    assert "secret" not in str(refused.value)
    with pytest.raises(SettingsError, match="telemetry_url: "):
        open_samples(Settings(telemetry_url=url))


def test_a_token_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    settings = Settings(telemetry_url="victoriametrics://h:1", telemetry_token_file=tmp_path / "none")
    with pytest.raises(SettingsError, match=r"telemetry_token_file: .*none"):
        open_samples(settings)


def test_a_store_that_is_not_there_is_unavailable() -> None:
    samples = open_influx_samples(StoreUrl.parse(f"victoriametrics://127.0.0.1:{free_port()}"), "secret-token")
    for ask in (
        lambda: samples.write([record([1], flow=[1])]),
        lambda: samples.read(tenant="t", asset="a", signals=None, from_ms=0, to_ms=1, max_points=9),
        lambda: samples.started_at(),
    ):
        with pytest.raises(Unavailable) as refused:
            ask()
        assert "secret-token" not in str(refused.value)


# --- Flux, which was not run against InfluxDB -------------------------------------------------------------------------


def test_flux_of_samples_names_all_it_wants_with_quotes_escaped() -> None:
    assert flux_of_samples('te"le', "local", "pump-1", ["head", "flow"], 5, 9) == (
        'from(bucket: "te\\"le")\n'
        "  |> range(start: time(v: 5000000), stop: time(v: 10000000))\n"
        '  |> filter(fn: (r) => r._measurement == "telemetry" and r.tenant == "local" and r.asset == "pump-1" '
        'and (r._field == "flow" or r._field == "head"))\n'
        '  |> keep(columns: ["_time", "_field", "_value"])'
    )
    assert "\\${x}" in flux_of_samples("b", "t", "${x}", None, 0, 1)


def test_flux_of_buckets_asks_for_whole_ones() -> None:
    flux = flux_of_buckets("b", "t", "a", None, 61_000, 119_000, 60_000)
    assert "range(start: time(v: 60000000000), stop: time(v: 120000000000))" in flux
    for name in ("count", "min", "max", "mean"):
        assert (
            f'aggregateWindow(every: 60000ms, fn: {name}, createEmpty: false, timeSrc: "_start") |> toFloat() '
            f'|> set(key: "aggregate", value: "{name}")'
        ) in flux


SAMPLES = """\
,result,table,_time,_value,_field\r
,_result,0,2023-11-14T22:13:20Z,1.5,flow\r
,_result,0,2023-11-14T22:13:20.25Z,2,flow\r
\r
,result,table,_field,_time,_value\r
,_result,1,head,2023-11-14T22:13:20.250000000Z,0.1\r
\r
"""


def test_an_answer_in_csv_becomes_columns() -> None:
    t_ms, columns = columns_of(SAMPLES)
    assert t_ms.tolist() == [1_700_000_000_000, 1_700_000_000_250]
    np.testing.assert_array_equal(columns["flow"], [1.5, 2])
    np.testing.assert_array_equal(columns["head"], np.array([NAN, 0.1], dtype=np.float32))
    assert columns_of("\r\n")[1] == {}


BUCKETS = """\
#datatype,string,long,dateTime:RFC3339,double,string,string
#group,false,false,false,false,true,true
#default,_result,,,,,
,result,table,_time,_value,_field,aggregate
,,0,2023-11-14T22:13:00Z,3,flow,count
,,0,2023-11-14T22:14:00Z,1,flow,count
,,1,2023-11-14T22:13:00Z,-1.5,flow,min
,,1,2023-11-14T22:14:00Z,7,flow,min
,,2,2023-11-14T22:13:00Z,2.5,flow,max
,,2,2023-11-14T22:14:00Z,7,flow,max
,,3,2023-11-14T22:13:00Z,1,flow,mean
,,3,2023-11-14T22:14:00Z,7,flow,mean
,,4,2023-11-14T22:14:00Z,1,head,count
,,5,2023-11-14T22:14:00Z,9,head,min
,,6,2023-11-14T22:14:00Z,9,head,max
,,7,2023-11-14T22:14:00Z,9,head,mean
"""


def test_an_answer_in_csv_becomes_buckets() -> None:
    starts, summaries = buckets_of(BUCKETS)
    assert starts.tolist() == [1_699_999_980_000, 1_700_000_040_000]
    flow, head = summaries["flow"], summaries["head"]
    assert (flow.count.tolist(), flow.low.tolist(), flow.high.tolist()) == ([3, 1], [-1.5, 7], [2.5, 7])
    assert (flow.mean.tolist(), head.count.tolist()) == ([1, 7], [0, 1])
    np.testing.assert_array_equal(head.low, [NAN, 9])
