"""Ports for servers of tests and benchmarks."""

import random
import socket
from typing import Final

_PORTS: Final = range(15_000, 32_000)
"""Below those that the system gives to outgoing connections: nobody takes one before the test's server does."""
_CHANCE: Final = random.SystemRandom()  # not pytest's or hypothesis' seed: workers run beside each other
_given: set[int] = set()


def free_port() -> int:
    """One on 127.0.0.1 that nobody listens on, and that this process was not given before."""
    while True:
        port = _CHANCE.choice(_PORTS)
        if port not in _given and _is_free(port):
            _given.add(port)
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
