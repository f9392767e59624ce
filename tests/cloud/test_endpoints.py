"""Ports: the one asked for, that of the last run, the usual one, any."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from forewarn_cloud.endpoints import Endpoints, PortTaken, choose_port, listen, read_endpoints, write_endpoints
from tests.conftest import free_port

HOST = "127.0.0.1"


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server((HOST, 0)) as server:
        yield int(server.getsockname()[1])


def test_the_port_asked_for_or_none(taken: int) -> None:
    free = free_port()
    assert choose_port(HOST, asked=free, last=1, usual=2) == free
    with pytest.raises(PortTaken, match=f"port {taken} on 127.0.0.1 is taken"):
        choose_port(HOST, asked=taken, last=free, usual=free)
    with pytest.raises(PortTaken, match="cannot listen"):
        listen(HOST, taken)


def test_that_of_the_last_run_before_the_usual_one(taken: int) -> None:
    last, usual = free_port(), free_port()
    assert choose_port(HOST, asked=None, last=last, usual=usual) == last
    assert choose_port(HOST, asked=None, last=taken, usual=usual) == usual
    assert choose_port(HOST, asked=None, last=None, usual=taken) not in (0, taken)


def test_endpoints_are_read_as_written(tmp_path: Path) -> None:
    assert read_endpoints(tmp_path) is None
    endpoints = Endpoints(console="http://a/", api="http://a/api/v1", broker="mqtt://b", smtp="smtp://c", pid=7)
    write_endpoints(tmp_path, endpoints)
    assert read_endpoints(tmp_path) == endpoints
    (tmp_path / "endpoints.json").write_text('{"console": 1')
    assert read_endpoints(tmp_path) is None
