"""A cloud with machines, measurements and orders in it, filled through the code that fills it in the field."""

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import uvicorn
from sqlalchemy import Engine, func, insert, select, update

from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.adapters.sql.answers import SqlChanges
from forewarn_cloud.adapters.sql.engine import make_engine, reading, writing
from forewarn_cloud.adapters.sql.migrating import migrate
from forewarn_cloud.adapters.sql.unit_of_work import SqlTransactions
from forewarn_cloud.adapters.telemetry_sql import SqlTelemetry
from forewarn_cloud.api.access import ApiDeps
from forewarn_cloud.api.app import create_app
from forewarn_cloud.console.pages import router
from forewarn_cloud.principal import LOCAL_PRINCIPAL, Principal
from forewarn_cloud.seed import parse_master_data, seed
from forewarn_cloud.service.chain import Chain
from forewarn_cloud.service.policy import default_policy
from forewarn_cloud.telemetry import TelemetryRecord
from forewarn_cloud.workers.advisories import Advisories
from forewarn_models.wire import Advisory, ModelRef, RulHours
from tests.cloud.clock import FixedClock
from tests.conftest import wait_until

HOUR_MS = 3_600_000
NOW_MS = 1_772_697_600_000  # 2026-03-05T08:00:00Z
MASTER_DATA = Path(__file__).parents[2] / "deploy" / "master-data.toml"
NODE = "edge-1"
FIVE_DAYS = RulHours(p10=70.0, p50=120.0, p90=260.0)


@dataclass(kw_only=True)
class World:
    """One service desk: its database, its clock, and the workers that turn advisories into orders."""

    engine: Engine
    clock: FixedClock
    transactions: SqlTransactions
    workers: Advisories
    next_seq: int = 0

    def deps(self, principal: Principal = LOCAL_PRINCIPAL) -> ApiDeps:
        return ApiDeps(
            principal=principal,
            clock=self.clock,
            reading=lambda: reading(self.engine),
            telemetry=SqlTelemetry,
            transactions=self.transactions,
            changes=SqlChanges(self.engine),
        )

    def say(self, advisory: Advisory) -> None:
        """The machine's node says it, ingest stores it, the worker acts on it."""
        row = {
            "tenant": LOCAL_PRINCIPAL.tenant,
            "node": NODE,
            "epoch": "e1",
            "seq": self._seq(),
            "digest": uuid.uuid4().bytes,
            "asset": advisory.asset,
            "observed_at": advisory.observed_at,
            "received_at": self.clock.now_ms(),
            "body": msgspec.to_builtins(advisory),
        }
        with writing(self.engine) as connection:
            connection.execute(insert(schema.advisories).values(row))
        while self.workers.handle_next():
            pass

    def measure(self, asset: str, t_ms: "np.ndarray[tuple[int], np.dtype[np.int64]]", **signals: object) -> None:
        record = TelemetryRecord(
            tenant=LOCAL_PRINCIPAL.tenant,
            node=NODE,
            epoch="e1",
            seq=self._seq(),
            digest=uuid.uuid4().bytes,
            asset=asset,
            t_ms=t_ms,
            signals={name: np.asarray(column, dtype=np.float32) for name, column in signals.items()},
        )
        with writing(self.engine) as connection:
            SqlTelemetry(connection).append([record])

    def _seq(self) -> int:
        self.next_seq += 1
        return self.next_seq


@contextmanager
def world(database: Path) -> Iterator[World]:
    """A desk with the master data that ships with forewarn, and what is in the database already."""
    engine = make_engine(f"sqlite:///{database}")
    migrate(engine)
    seed(engine, LOCAL_PRINCIPAL.tenant, parse_master_data(MASTER_DATA.read_text("utf-8")), NOW_MS - 30 * 24 * HOUR_MS)
    with reading(engine) as connection:
        last_seq = connection.execute(select(func.max(schema.advisories.c.seq))).scalar() or 0
    clock, transactions = FixedClock(at_ms=NOW_MS), SqlTransactions(engine)
    chain = Chain(clock=clock, policy=default_policy())
    yield World(
        engine=engine,
        clock=clock,
        transactions=transactions,
        workers=Advisories(transactions=transactions, chain=chain),
        next_seq=last_seq,
    )
    engine.dispose()


def worn_bearing(
    asset: str = "pump-1", *, at_ms: int = NOW_MS, p50_hours: float = 120.0, health_index: float = 0.46
) -> Advisory:
    """What the model of a pump says when a bearing wears."""
    return Advisory(
        asset=asset,
        asset_type="centrifugal_pump",
        observed_at=at_ms,
        condition="ALARM",
        health_index=health_index,
        anomaly_score=9.1,
        contributions={"vibration_rms_mm_s": 5.6, "bearing_temperature_c": 3.1, "motor_power_kw": 0.4},
        failure_modes={"bearing_wear": 0.88, "impeller_wear": 0.05},
        rul_hours=RulHours(p10=p50_hours * 0.55, p50=p50_hours, p90=p50_hours * 1.9),
        maturity="MATURE",
        model=ModelRef(id="centrifugal_pump/1", hash="5e" * 32),
        since=at_ms - 31 * HOUR_MS,
        residuals={"vibration_rms_mm_s": 1.9, "bearing_temperature_c": 9.2, "motor_power_kw": 0.3},
    )


def leaking_valve(*, at_ms: int = NOW_MS, rul_hours: RulHours = FIVE_DAYS) -> Advisory:
    """What the model of a compressor says when a valve leaks."""
    return Advisory(
        asset="compressor-1",
        asset_type="air_compressor",
        observed_at=at_ms,
        condition="ALARM",
        health_index=0.58,
        anomaly_score=6.0,
        contributions={"discharge_temperature_c": 4.5, "interstage_pressure_bar": 1.5},
        failure_modes={"valve_leak": 0.81, "cooler_fouling": 0.07},
        rul_hours=rul_hours,
        maturity="MATURE",
        model=ModelRef(id="air_compressor/1", hash="ac" * 32),
        since=at_ms - 40 * HOUR_MS,
    )


def healthy(
    asset: str, asset_type: str, *, at_ms: int, health_index: float = 0.97, residuals: dict[str, float] | None = None
) -> Advisory:
    return Advisory(
        asset=asset,
        asset_type=asset_type,
        observed_at=at_ms,
        condition="NORMAL",
        health_index=health_index,
        anomaly_score=0.8,
        contributions={},
        failure_modes={},
        rul_hours=None,
        maturity="MATURE",
        model=ModelRef(id=f"{asset_type}/1", hash="0a" * 32),
        residuals=residuals or {},
        reason="periodic",
    )


def wear_a_pump(desk: World) -> None:
    """Two weeks of a pump whose bearing has been wearing for a week, told by its model on the way."""
    random = np.random.default_rng(7)
    t_ms = np.arange(NOW_MS - 14 * 24 * HOUR_MS, NOW_MS, HOUR_MS // 6, dtype=np.int64)
    hours = (t_ms - t_ms[0]) / HOUR_MS
    load = 0.75 + 0.2 * np.sin(2 * np.pi * hours / 24)
    wear = np.clip((hours - 200) / 136, 0, 1) ** 2
    desk.measure(
        "pump-1",
        t_ms,
        speed_rpm=2900 * load,
        ambient_temperature_c=18 + 4 * np.sin(2 * np.pi * hours / 24),
        vibration_rms_mm_s=1.4 + 1.1 * load + 2.4 * wear + random.normal(0, 0.08, len(hours)),
        bearing_temperature_c=42 + 18 * load + 11 * wear + random.normal(0, 0.5, len(hours)),
        motor_power_kw=30 * load + random.normal(0, 0.3, len(hours)),
    )
    for day in range(13):
        at_ms = NOW_MS - (14 - day) * 24 * HOUR_MS + HOUR_MS
        worn = max(0.0, (day - 8) / 5)
        residuals = {"vibration_rms_mm_s": 2.0 * worn**2, "bearing_temperature_c": 9.0 * worn**2}
        desk.clock.at_ms = at_ms
        desk.say(
            healthy("pump-1", "centrifugal_pump", at_ms=at_ms, health_index=0.97 - 0.4 * worn, residuals=residuals)
        )
    desk.clock.at_ms = NOW_MS - 2 * HOUR_MS
    desk.say(worn_bearing(at_ms=NOW_MS - 2 * HOUR_MS))
    desk.clock.at_ms = NOW_MS


def rename(desk: World, asset: str, name: str) -> None:
    with writing(desk.engine) as connection:
        connection.execute(update(schema.assets).where(schema.assets.c.asset == asset).values(name=name))


@contextmanager
def serving(
    desk: World, port: int = 0, *, principal: Principal = LOCAL_PRINCIPAL, deps: ApiDeps | None = None
) -> Iterator[str]:
    """The console of this desk on that port, a free one if it is 0; its address."""
    app = create_app(deps or desk.deps(principal), [router])
    server = uvicorn.Server(
        uvicorn.Config(
            app, host="127.0.0.1", port=port, log_level="critical", timeout_graceful_shutdown=1, lifespan="off"
        )
    )
    thread = threading.Thread(target=server.run, name="console", daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started, "the console listens")
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)
