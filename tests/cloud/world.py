"""A small world for tests of the service chain: one customer, two depots, three pumps, and advisories about them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import Engine, Row, Table, insert, select

from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.adapters.sql.engine import reading, writing
from forewarn_cloud.adapters.sql.unit_of_work import SqlTransactions
from forewarn_cloud.entities import Order
from forewarn_cloud.ports import UnitOfWork
from forewarn_cloud.principal import Principal
from forewarn_cloud.seed import parse_master_data, seed
from forewarn_cloud.service.chain import Chain
from forewarn_cloud.service.policy import Policy
from forewarn_cloud.workers.advisories import Advisories
from forewarn_cloud.workers.revisit import Revisits
from forewarn_models.wire import Advisory, ModelRef, RulHours
from tests.cloud.clock import FixedClock

T = TypeVar("T")
TENANT: Final = "local"
DESK: Final = Principal(name="dana", tenant=TENANT, role="desk")
START_MS: Final = 1_780_000_000_000
HOUR_MS: Final = 3_600_000
SEAL: Final = "PMP-SEAL-45"
"""The one part of a seal leak."""
MASTER_DATA: Final = """
[[customers]]
customer = "acme"
name = "Acme"
email = "ops@acme.example"
webhook_url = "https://acme.example/hook"
tier = 1
[[customers]]
customer = "small"
name = "小厂"
email = "ops@small.example"
language = "zh"
tier = 3
[[depots]]
depot = "north"
name = "North"
[[depots]]
depot = "south"
name = "South"
[[sites]]
site = "works"
name = "Works"
customer = "acme"
depot = "north"
dispatch_hours = 6
[[sites]]
site = "yard"
name = "Yard"
customer = "small"
depot = "north"
[[transfers]]
from_depot = "south"
to_depot = "north"
hours = 24
cost = 50
[[parts]]
part_no = "PMP-SEAL-45"
name_en = "Mechanical seal"
name_zh = "机械密封"
unit_cost = 400
purchase_hours = 48
[[parts]]
part_no = "PMP-IMP-200"
name_en = "Impeller"
name_zh = "叶轮"
unit_cost = 1200
purchase_hours = 240
expedite_hours = 72
expedite_cost = 300
[[parts]]
part_no = "PMP-GSK-01"
name_en = "Gasket set"
name_zh = "垫片组"
unit_cost = 30
purchase_hours = 72
[[parts]]
part_no = "PMP-BRG-6309"
name_en = "Bearing"
name_zh = "轴承"
unit_cost = 48
purchase_hours = 72
[[nodes]]
node = "edge-1"
[[assets]]
asset = "pump-1"
node = "edge-1"
asset_type = "centrifugal_pump"
name = "Feed pump 1"
site = "works"
[[assets]]
asset = "pump-2"
node = "edge-1"
asset_type = "centrifugal_pump"
name = "Feed pump 2"
site = "yard"
[[assets]]
asset = "pump-3"
node = "edge-1"
asset_type = "centrifugal_pump"
name = "Feed pump 3"
site = "works"
"""


def advisory(asset: str = "pump-1", *, at_hours: float = 0.0, **changes: Any) -> Advisory:
    """A clear seal leak that leaves some days, `at_hours` after the start; `changes` replace fields."""
    observed_at = START_MS + round(at_hours * HOUR_MS)
    usual: dict[str, Any] = {
        "asset": asset,
        "asset_type": "centrifugal_pump",
        "observed_at": observed_at,
        "condition": "ALARM",
        "health_index": 0.6,
        "anomaly_score": 1.5,
        "contributions": {"seal_leakage_ml_h": 1.5},
        "failure_modes": {"seal_leak": 0.9, "bearing_wear": 0.05},
        "rul_hours": RulHours(60.0, 100.0, 160.0),
        "maturity": "MATURE",
        "model": ModelRef(id="kernel", hash="a" * 64),
        "since": observed_at - HOUR_MS,
        "residuals": {"seal_leakage_ml_h": 35.0},
    }
    return Advisory(**{**usual, **changes})


def normal(asset: str = "pump-1", *, at_hours: float = 0.0, **changes: Any) -> Advisory:
    """The machine is well."""
    well: dict[str, Any] = {"condition": "NORMAL", "health_index": 1.0, "anomaly_score": 0.1, "failure_modes": {}}
    well |= {"contributions": {"seal_leakage_ml_h": 0.1}, "rul_hours": None, "since": None, "residuals": {}}
    return advisory(asset, at_hours=at_hours, **{**well, **changes})


@dataclass(kw_only=True)
class World:
    """A database with the master data, a clock, and the workers run by hand."""

    engine: Engine
    clock: FixedClock
    policy: Policy

    @property
    def transactions(self) -> SqlTransactions:
        return SqlTransactions(self.engine)

    @property
    def chain(self) -> Chain:
        return Chain(clock=self.clock, policy=self.policy)

    def run(self, work: Callable[[UnitOfWork], T]) -> T:
        return self.transactions.run(work)

    def receive(self, *received: Advisory) -> None:
        """Put them into the inbox, as ingest does."""
        with writing(self.engine) as connection:
            seq = len(connection.execute(select(schema.advisories.c.id)).all())
            for i, one in enumerate(received, start=1):
                connection.execute(insert(schema.advisories).values(self._inbox_row(one, seq + i)))

    def _inbox_row(self, one: Advisory, seq: int) -> dict[str, Any]:
        return {
            "tenant": TENANT,
            "node": "edge-1",
            "epoch": "e1",
            "seq": seq,
            "digest": seq.to_bytes(16, "big"),
            "asset": one.asset,
            "observed_at": one.observed_at,
            "received_at": self.clock.now_ms(),
            "body": msgspec.to_builtins(one),
        }

    def work(self) -> None:
        """Handle everything that waits, then everything that is due."""
        while Advisories(transactions=self.transactions, chain=self.chain).handle_next():
            pass
        revisits = Revisits(transactions=self.transactions, chain=self.chain)
        while self.transactions.run(self.chain.finish_next_transfer) or revisits.revisit_next():
            pass

    def hear(self, *received: Advisory) -> None:
        """Receive and handle, when the latest of them has been observed."""
        self.clock.at_ms = max(self.clock.at_ms, *(one.observed_at for one in received))
        self.receive(*received)
        self.work()

    def rows(self, table: Table) -> list[Row[Any]]:
        with reading(self.engine) as connection:
            return list(connection.execute(select(table)).all())

    def everything(self) -> dict[str, list[str]]:
        """All rows of all tables, to see that nothing has changed."""
        return {table.name: sorted(map(repr, self.rows(table))) for table in schema.metadata.sorted_tables}

    def orders(self, asset: str | None = None) -> list[Order]:
        found = [Order(**row._mapping) for row in self.rows(schema.orders)]
        return sorted((o for o in found if asset in (None, o.asset)), key=lambda order: order.number)

    def order(self, asset: str = "pump-1") -> Order:
        """The one order of an asset, as it is now."""
        (found,) = self.orders(asset)
        return found

    def stock(self, part_no: str, depot: str = "north") -> tuple[int, int]:
        """(on_hand, reserved)"""
        found = [row for row in self.rows(schema.stock) if (row.part_no, row.depot) == (part_no, depot)]
        return (found[0].on_hand, found[0].reserved) if found else (0, 0)

    def reservations(self, order: Order) -> dict[str, tuple[str, str, int]]:
        """Part number -> (state, sourcing, quantity), of what is or was held."""
        rows = [row for row in self.rows(schema.reservations) if row.order_id == order.id]
        return {row.part_no: (row.state, row.sourcing, row.quantity) for row in rows}

    def news(self, channel: str = "email") -> list[tuple[str, str]]:
        """(kind, recipient) of all messages, by the time they were queued; those of one instant in no order."""
        rows = sorted(self.rows(schema.outbox), key=lambda row: row.created_at)
        return [(row.kind, row.recipient) for row in rows if row.channel == channel]


def make_world(engine: Engine, stock: dict[str, dict[str, int]], policy: Policy) -> World:
    """`stock`: part number -> depot -> on hand."""
    rows = [
        f'[[stock]]\npart_no = "{part_no}"\ndepot = "{depot}"\non_hand = {on_hand}'
        for part_no, depots in stock.items()
        for depot, on_hand in depots.items()
    ]
    seed(engine, TENANT, parse_master_data("\n".join([MASTER_DATA, *rows])), START_MS)
    return World(engine=engine, clock=FixedClock(at_ms=START_MS), policy=policy)
