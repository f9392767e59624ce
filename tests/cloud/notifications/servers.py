"""Real receivers that misbehave on demand: an SMTP server and an HTTP server."""

import socket
import struct
import threading
from asyncio import WriteTransport
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.conftest import free_port


@dataclass
class MailServer:
    """Answers each message with the next of `answers` ("cut": with a cut connection), then with 250; keeps them all."""

    answers: list[str]
    port: int
    seen: list[Any] = field(default_factory=list)

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:
        assert envelope.original_content is not None
        self.seen.append(message_from_bytes(envelope.original_content))
        answer = self.answers.pop(0) if self.answers else "250 OK"
        if answer == "cut":
            assert isinstance(server.transport, WriteTransport)
            server.transport.abort()
        return answer

    @property
    def message_ids(self) -> list[str]:
        return [str(message["Message-ID"]) for message in self.seen]


@contextmanager
def mail_server(*answers: str) -> Iterator[MailServer]:
    server = MailServer(list(answers), free_port())
    controller = Controller(server, hostname="127.0.0.1", port=server.port)
    controller.start()
    try:
        yield server
    finally:
        controller.stop()


@dataclass(frozen=True)
class Request:
    path: str
    headers: dict[str, str]
    body: bytes


class WebServer(ThreadingHTTPServer):
    """Answers each POST with the next of `answers`, then with 204: a status, or "hang", "late" (a
    204 once it is released), "reset", "reset-body"."""

    daemon_threads = True

    def __init__(self, answers: list[str | int], location: str | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = answers
        self.location = location
        self.seen: list[Request] = []
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook?x=1"


class _Handler(BaseHTTPRequestHandler):
    server: WebServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append(Request(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        answer = self.server.answers.pop(0) if self.server.answers else 204
        if answer in ("hang", "late"):
            self.server.released.wait(120)
        if answer == "late":
            answer = 204
        if answer == "hang":
            return
        if answer == "reset":
            self._reset()
        elif answer == "reset-body":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf of")
            self._reset()
        else:
            assert isinstance(answer, int)
            self.send_response(answer)
            self.send_header("Content-Length", "0")
            if self.server.location:
                self.send_header("Location", self.server.location)
            self.end_headers()

    def _reset(self) -> None:
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def web_server(*answers: str | int, location: str | None = None) -> Iterator[WebServer]:
    server = WebServer(list(answers), location)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
