"""The fault proxy itself, against a server that answers whatever it gets."""

import select
import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from tests.conftest import free_port, wait_until
from tests.faults.proxy import DOWN, UP, FaultProxy

SECONDS = 20.0


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        try:
            while read := self.request.recv(65_536):
                self.request.sendall(read)
        except ConnectionError:
            return


class EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 1024


@pytest.fixture
def server() -> Iterator[int]:
    with EchoServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield int(server.server_address[1])
        server.shutdown()
        thread.join()


@pytest.fixture
def link(server: int) -> Iterator[FaultProxy]:
    with FaultProxy(server) as link:
        yield link


def connect(link: FaultProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", link.port), SECONDS)


def answered(client: socket.socket, said: bytes) -> bytes:
    client.sendall(said)
    return exactly(client, len(said))


def exactly(client: socket.socket, size: int) -> bytes:
    read = b""
    while len(read) < size:
        more = client.recv(size - len(read))
        assert more, f"the stream ended after {len(read)} bytes"
        read += more
    return read


def is_silent(client: socket.socket, seconds: float = 0.3) -> bool:
    return not select.select([client], [], [], seconds)[0]


def test_it_passes_both_ways_and_counts(link: FaultProxy) -> None:
    with connect(link) as client:
        assert answered(client, b"x" * 100_000) == b"x" * 100_000
        assert (link.passed_bytes(UP), link.passed_bytes(DOWN)) == (100_000, 100_000)
        assert (link.accepted, link.open_connections) == (1, 1)
    wait_until(lambda: link.open_connections == 0, "the connection is closed with its ends")


def test_the_end_of_one_direction_is_passed_on(link: FaultProxy) -> None:
    with connect(link) as client:
        client.sendall(b"last words")
        client.shutdown(socket.SHUT_WR)
        assert exactly(client, 10) == b"last words"
        assert client.recv(1) == b""


def test_a_cut_resets_what_is_open_and_takes_new_connections(link: FaultProxy) -> None:
    with connect(link) as client, connect(link) as other:
        answered(client, b"a")
        link.cut()
        for end in (client, other):
            with pytest.raises(ConnectionResetError):
                end.recv(1)
    with connect(link) as client:
        assert answered(client, b"again") == b"again"


def test_refusing_keeps_the_port_and_lets_nobody_in(link: FaultProxy) -> None:
    with connect(link) as client:
        answered(client, b"a")
        link.refuse()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect(link)
    link.restore()
    with connect(link) as client:
        assert answered(client, b"back") == b"back"


def test_a_black_hole_says_nothing_ever_again_and_new_connections_are_good(link: FaultProxy) -> None:
    with connect(link) as client, connect(link) as idle:
        answered(client, b"a")
        answered(idle, b"a")
        link.blackhole()
        client.sendall(b"lost")
        with connect(link) as late:
            late.sendall(b"lost too")
            wait_until(lambda: link.swallowed_bytes(UP) == 12, "both are swallowed")
            link.restore()
            client.sendall(b"?")
            assert is_silent(client)
            assert is_silent(late)
        assert answered(idle, b"lost nothing") == b"lost nothing"
        with connect(link) as fresh:
            assert answered(fresh, b"fresh") == b"fresh"


def test_the_server_of_a_black_hole_is_not_told_that_its_client_left(server: int) -> None:
    with FaultProxy(server) as link:
        client = connect(link)
        answered(client, b"a")
        link.blackhole()
        client.close()
        time.sleep(0.1)
        assert link.open_connections == 1
        link.cut()
        assert link.open_connections == 0


def test_a_black_hole_in_one_direction_lets_the_other_through(link: FaultProxy) -> None:
    with connect(link) as client:
        answered(client, b"a")
        link.blackhole(DOWN)
        client.sendall(b"heard")
        wait_until(lambda: link.swallowed_bytes(DOWN) == 5, "the answer is lost on its way back")
        assert link.passed_bytes(UP) == 6
        assert is_silent(client, 0.1)


def test_a_slow_link_has_one_rate_for_all_its_connections(link: FaultProxy) -> None:
    with connect(link) as one, connect(link) as two:
        link.slow(2000, UP)
        began = time.monotonic()
        one.sendall(b"x" * 500)
        two.sendall(b"x" * 500)
        exactly(one, 500)
        exactly(two, 500)
        assert time.monotonic() - began >= 0.4
        link.restore()
        assert answered(one, b"y" * 100_000) == b"y" * 100_000


def test_a_held_link_loses_nothing(link: FaultProxy) -> None:
    with connect(link) as client:
        link.slow(0)
        client.sendall(b"x" * 10_000)
        assert is_silent(client)
        link.restore()
        assert exactly(client, 10_000) == b"x" * 10_000


def test_a_flapping_link_goes_down_and_comes_back(link: FaultProxy) -> None:
    link.flap(0.2)

    def is_up() -> bool:
        try:
            with connect(link) as client:
                return answered(client, b"?") == b"?"
        except (ConnectionError, AssertionError):
            return False

    for state in (False, True, False, True):
        wait_until(lambda state=state: is_up() is state, f"the link is {'up' if state else 'down'}")  # type: ignore[misc]
    link.restore()
    time.sleep(0.5)
    assert is_up()


def test_a_target_that_is_away_resets_the_client() -> None:
    def reach(link: FaultProxy) -> None:
        with connect(link) as client:
            client.recv(1)

    with FaultProxy(free_port()) as link, pytest.raises(ConnectionResetError):
        reach(link)


def test_hundreds_of_connections_at_once(link: FaultProxy) -> None:
    clients = [connect(link) for _ in range(300)]
    try:
        for client in clients:
            client.sendall(b"x" * 100)
        assert all(exactly(client, 100) == b"x" * 100 for client in clients)
        link.cut()
        assert link.open_connections == 0
    finally:
        for client in clients:
            client.close()
