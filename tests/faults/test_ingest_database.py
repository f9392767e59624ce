"""The database is away, locked or full while nodes send."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.engine import make_url

from forewarn_cloud.adapters.ingest_sql import SqlLedger
from forewarn_cloud.adapters.sql.engine import make_engine, reading
from forewarn_cloud.adapters.sql.migrating import migrate
from forewarn_cloud.clock import SystemClock
from forewarn_cloud.ingest.connection import BrokerUrl
from forewarn_cloud.ingest.pipeline import Ingest
from forewarn_cloud.service.policy import Policy
from tests.cloud.api.serving import assert_problem, deps_of, serving
from tests.cloud.ingest.sending import TENANT, enrol, rows
from tests.cloud.world import SEAL, make_world
from tests.conftest import Broker, wait_until
from tests.faults.proxy import FaultProxy
from tests.faults.test_ingest_kills import RECORDS, Node


@contextmanager
def ingesting(engine: Engine, broker: Broker) -> Iterator[Ingest]:
    url = BrokerUrl(host="127.0.0.1", port=broker.port)
    ingest = Ingest(broker=url, client_id="ingest", ledger=SqlLedger(engine), clock=SystemClock(), tenant=TENANT)
    writing = threading.Thread(target=ingest.write)
    writing.start()
    ingest.start()
    wait_until(lambda: ingest.connected, "ingest is connected")
    try:
        yield ingest
    finally:
        ingest.stop()
        writing.join()


def stored(engine: Engine) -> int:
    return len(rows(engine, "telemetry_blocks", "seq"))


def suffer(ingest: Ingest, engine: Engine, node: Node, recover: Callable[[], None]) -> None:
    """Nothing is acknowledged while the fault lasts; all is, once, when it is over."""
    node.send()
    wait_until(lambda: not ingest.serving, "the fault is noticed", 40)
    assert node.acknowledged == 0
    recover()
    wait_until(lambda: node.acknowledged == RECORDS, "everything is acknowledged", 60)
    assert ingest.serving
    assert stored(engine) == RECORDS
    assert rows(engine, "quarantine", "reason") == []
    assert rows(engine, "lane_progress", "contiguous_seq", "records_stored") == [(RECORDS, RECORDS)]


def test_fault_24_the_database_is_down_for_a_while(postgres_url: str, mosquitto: Broker) -> None:
    direct = make_engine(postgres_url)
    migrate(direct)
    enrol(direct, "n1", "pump-1")
    address = make_url(postgres_url)
    assert address.port is not None
    with FaultProxy(address.port) as link:
        engine = make_engine(address.set(port=link.port).render_as_string(hide_password=False))
        node = Node(mosquitto.port)
        with ingesting(engine, mosquitto) as ingest:
            link.refuse()
            suffer(ingest, direct, node, link.restore)
        engine.dispose()
    node.close()
    direct.dispose()


def test_fault_25_another_program_holds_the_database_locked(tmp_path: Path, mosquitto: Broker) -> None:
    """For longer than a transaction is tried: the batch waits, and is no poison."""
    engine = make_engine(f"sqlite:///{tmp_path}/cloud.db")
    migrate(engine)
    enrol(engine, "n1", "pump-1")
    node = Node(mosquitto.port)
    with ingesting(engine, mosquitto) as ingest, engine.connect() as other:
        other.exec_driver_sql("ROLLBACK")
        other.exec_driver_sql("BEGIN IMMEDIATE")
        suffer(ingest, engine, node, lambda: print(other.exec_driver_sql("ROLLBACK")))
        other.exec_driver_sql("BEGIN")
    node.close()
    engine.dispose()


def test_fault_26_the_disk_of_the_database_is_full(tmp_path: Path, mosquitto: Broker) -> None:
    """Reads go on, writes are answered 503, and the nodes keep what they have; then it goes on by itself."""
    engine = make_engine(f"sqlite:///{tmp_path}/cloud.db")
    migrate(engine)
    world = make_world(engine, {SEAL: {"north": 1}}, Policy())
    enrol(engine, "n1", "extra-1")
    fill(engine)
    node = Node(mosquitto.port, "extra-1", samples=500)
    with ingesting(engine, mosquitto) as ingest, serving(deps_of(world)) as api:

        def look_and_recover() -> None:
            assert len(api.get("/api/v1/assets")["items"]) == 4
            tried = (api.post("/api/v1/nodes", {"node": f"n{number}"}) for number in range(2, 200))
            answer = next(answer for answer in tried if answer.status_code != 201)  # the last page had some room
            assert_problem(answer, 503)
            assert int(answer.headers["Retry-After"]) > 0
            limit[0] = 2**30

        limit = limited(engine)
        suffer(ingest, engine, node, look_and_recover)
        assert api.post("/api/v1/nodes", {"node": "n200"}).status_code == 201
    node.close()
    engine.dispose()


def fill(engine: Engine) -> None:
    """No free page is left in the file."""
    with engine.connect() as connection:
        connection.exec_driver_sql("ROLLBACK")
        connection.exec_driver_sql("VACUUM")
        connection.exec_driver_sql("BEGIN")


def limited(engine: Engine) -> list[int]:
    """The database may not grow beyond so many pages, which can be changed: as on a full disk."""
    with reading(engine) as connection:
        limit = [int(connection.execute(text("PRAGMA page_count")).scalar_one())]

    def apply(connection: Connection) -> None:
        cursor: Any = connection.connection.cursor()
        cursor.execute(f"PRAGMA max_page_count = {limit[0]}")
        cursor.close()

    event.listen(engine, "begin", apply)
    return limit
