"""A faulty link: a TCP proxy on the loopback interface that passes, cuts, refuses, slows or swallows what goes through.

    with FaultProxy(broker.port) as link:
        agent.configure(uplink_port=link.port, ...)
        link.cut()                       # every connection is reset; new ones are taken
        link.refuse()                    # reset, and nobody listens
        link.blackhole()                 # half-open: taken and swallowed, nothing is ever answered or closed
        link.slow(1000)                  # bytes per second of the whole link; 0 holds everything back, losing nothing
        link.slow(1000, UP)              # one direction only, UP is from the client to the target
        link.flap(2.0)                   # up for 2 s, refusing for 2 s, until another mode is set
        link.restore()

One thread with an event loop carries all connections. Every call returns when it has taken effect.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Self

from tests.ports import free_port

READ_BYTES: Final = 16 * 1024
BUFFER_BYTES: Final = 32 * 1024
"""Of each socket of ours: what is sent into a slow link must not vanish into a large buffer."""
SLICES_PER_SECOND: Final = 10
BACKLOG: Final = 4096
CALL_SECONDS: Final = 30.0
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class Direction(Enum):
    UP = "up"
    DOWN = "down"


UP: Final = Direction.UP
DOWN: Final = Direction.DOWN
BOTH: Final = (UP, DOWN)


@dataclass(kw_only=True)
class _Lane:
    """One direction of the link."""

    swallows: bool = False
    bytes_per_second: float | None = None
    """None: as fast as it goes; 0: held back."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Connections of a slow link take turns: the rate is that of the link."""
    passed_bytes: int = 0
    swallowed_bytes: int = 0


@dataclass(kw_only=True, eq=False)
class _Connection:
    client: socket.socket
    target: socket.socket | None = None
    is_dead: bool = False
    """Something was swallowed. TCP cannot go on without it: this one stays silent even when the link is good again."""
    is_reset: bool = False
    task: "asyncio.Task[None] | None" = None

    def close(self) -> None:
        for end in (self.client, self.target):
            if end is not None and end.fileno() >= 0:
                if self.is_reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                end.close()


class FaultProxy:
    """Use as a context manager. `port` is where clients connect; it stays the same, also after `refuse`."""

    def __init__(self, target_port: int, *, port: int | None = None) -> None:
        self._target_port = target_port
        self._asked_port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._lanes = {direction: _Lane() for direction in BOTH}
        self._connections = set[_Connection]()
        self._changed = asyncio.Event()
        self._listens = False
        self._flapping: asyncio.Task[None] | None = None
        self._accepted = 0

    def __enter__(self) -> Self:
        self._listener = _bound(self._asked_port)
        self.port = int(self._listener.getsockname()[1])
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(self, *_error: object) -> None:
        self._call(self._refuse())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_SECONDS)
        self._loop.close()
        self._listener.close()

    # --- faults -----------------------------------------------------------------------------------------------------

    def restore(self) -> None:
        """A good link again. Connections that lost something stay dead until one of their ends gives up."""
        self._call(self._restore())

    def cut(self) -> None:
        """Reset every connection; whoever connects again is served in the mode that is set."""
        self._call(self._cut())

    def refuse(self) -> None:
        """Reset every connection and let nobody in: `ECONNREFUSED`."""
        self._call(self._refuse())

    def blackhole(self, *directions: Direction) -> None:
        """Swallow everything in these directions (default: both), without a word to either end.

        Connections are still taken; those that come now are never answered, whatever the directions.
        """
        self._call(self._change(directions, swallows=True))

    def slow(self, bytes_per_second: float, *directions: Direction) -> None:
        """Carry so many bytes per second in each of these directions (default: both), all connections together."""
        self._call(self._change(directions, bytes_per_second=bytes_per_second))

    def flap(self, period_seconds: float) -> None:
        """Down and up again, each for `period_seconds`, until another mode is set."""
        self._call(self._flap(period_seconds))

    # --- what went through ------------------------------------------------------------------------------------------

    @property
    def accepted(self) -> int:
        """Connections ever taken."""
        return self._accepted

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    def passed_bytes(self, direction: Direction) -> int:
        return self._lanes[direction].passed_bytes

    def swallowed_bytes(self, direction: Direction) -> int:
        return self._lanes[direction].swallowed_bytes

    # --- on the loop ------------------------------------------------------------------------------------------------

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_SECONDS)

    async def _listen(self) -> None:
        if not self._listens:
            self._listener.listen(BACKLOG)
            self._loop.add_reader(self._listener, self._accept)
            self._listens = True

    async def _stop_listening(self) -> None:
        if self._listens:
            self._loop.remove_reader(self._listener)
            self._listens = False
            # The port stays ours: bound, but nobody listens.
            self._listener.shutdown(socket.SHUT_RD)

    async def _restore(self) -> None:
        await self._end_flapping()
        for lane in self._lanes.values():
            lane.swallows, lane.bytes_per_second = False, None
        self._tell_change()
        await self._listen()

    async def _refuse(self) -> None:
        await self._end_flapping()
        await self._go_down()

    async def _go_down(self) -> None:
        await self._stop_listening()
        await self._cut()

    async def _cut(self) -> None:
        for connection in list(self._connections):
            connection.is_reset = True
            if connection.task is not None:
                await _ended(connection.task)
            self._forget(connection)

    def _forget(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        connection.close()

    async def _change(
        self, directions: tuple[Direction, ...], *, swallows: bool = False, bytes_per_second: float | None = None
    ) -> None:
        await self._end_flapping()
        for direction in directions or BOTH:
            lane = self._lanes[direction]
            lane.swallows, lane.bytes_per_second = swallows, bytes_per_second
        self._tell_change()
        await self._listen()

    async def _flap(self, period_seconds: float) -> None:
        await self._restore()
        self._flapping = asyncio.create_task(self._flap_on(period_seconds))

    async def _flap_on(self, period_seconds: float) -> None:
        while True:
            await asyncio.sleep(period_seconds)
            await self._go_down()
            await asyncio.sleep(period_seconds)
            await self._listen()

    async def _end_flapping(self) -> None:
        if self._flapping is not None:
            await _ended(self._flapping)
            self._flapping = None

    def _tell_change(self) -> None:
        """Wake those that are held back."""
        self._changed.set()
        self._changed = asyncio.Event()

    # --- connections ------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        """Called, not awaited: a task that is cancelled loses the connection that it has just taken."""
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        client.setblocking(False)
        self._accepted += 1
        connection = _Connection(client=client)
        self._connections.add(connection)
        connection.task = self._loop.create_task(self._carry(connection))

    async def _carry(self, connection: _Connection) -> None:
        try:
            if any(lane.swallows for lane in self._lanes.values()):
                await self._swallow_all(connection)
            else:
                connection.target = await self._reach_target()
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pump(connection, connection.client, connection.target, UP))
                    both.create_task(self._pump(connection, connection.target, connection.client, DOWN))
        except* OSError:
            connection.is_reset = True
        finally:
            self._forget(connection)

    async def _reach_target(self) -> socket.socket:
        target = _narrow(socket.socket())
        target.setblocking(False)
        try:
            await self._loop.sock_connect(target, ("127.0.0.1", self._target_port))
        except BaseException:
            target.close()
            raise
        return target

    async def _pump(
        self, connection: _Connection, source: socket.socket, sink: socket.socket, direction: Direction
    ) -> None:
        lane = self._lanes[direction]
        while read := await self._read(connection, source, lane):
            if connection.is_dead:
                lane.swallowed_bytes += len(read)
            else:
                await self._forward(lane, sink, read)
        if not connection.is_dead:
            sink.shutdown(socket.SHUT_WR)

    async def _read(self, connection: _Connection, source: socket.socket, lane: _Lane) -> bytes:
        """What comes next, nothing at the end. Through a dead link the end is not seen either, nor a reset."""
        try:
            read = await self._loop.sock_recv(source, _slice_bytes(lane))
        except ConnectionError:
            if not (lane.swallows or connection.is_dead):
                raise
            read = b""
        connection.is_dead |= lane.swallows
        return read

    async def _forward(self, lane: _Lane, sink: socket.socket, read: bytes) -> None:
        if lane.bytes_per_second is None:
            lane.passed_bytes += len(read)
            await self._loop.sock_sendall(sink, read)
            return
        async with lane.turn:
            await self._take_time(lane, len(read))
            lane.passed_bytes += len(read)
            await self._loop.sock_sendall(sink, read)

    async def _take_time(self, lane: _Lane, size: int) -> None:
        """As long as `size` bytes take at the lane's rate, which may change meanwhile."""
        left = float(size)
        while left > 0 and lane.bytes_per_second is not None:
            rate, began = lane.bytes_per_second, self._loop.time()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left / rate if rate else None)
            left -= (self._loop.time() - began) * rate

    async def _swallow_all(self, connection: _Connection) -> None:
        connection.is_dead = True
        while read := await self._read(connection, connection.client, self._lanes[UP]):
            self._lanes[UP].swallowed_bytes += len(read)


def _slice_bytes(lane: _Lane) -> int:
    rate = lane.bytes_per_second
    return READ_BYTES if rate is None else max(1, min(READ_BYTES, int(rate / SLICES_PER_SECOND)))


def _bound(port: int | None) -> socket.socket:
    """A socket with a port of its own, fixed by name so that it keeps it while nobody listens."""
    if port is None:
        port = free_port()
    listener = _narrow(socket.socket())
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setblocking(False)
    listener.bind(("127.0.0.1", port))
    return listener


def _narrow(end: socket.socket) -> socket.socket:
    for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        end.setsockopt(socket.SOL_SOCKET, buffer, BUFFER_BYTES)
    return end


async def _ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait([task])
