"""The servers that other tests rely on do run here."""

import psycopg

from tests.conftest import Broker, accepts_connections


def test_postgres_is_a_real_server(postgres_url: str) -> None:
    with psycopg.connect(postgres_url.replace("+psycopg", "")) as connection:
        row = connection.execute("SELECT version()").fetchone()
    assert row is not None
    assert row[0].startswith("PostgreSQL")


def test_mosquitto_listens(mosquitto: Broker) -> None:
    assert accepts_connections(mosquitto.port)
