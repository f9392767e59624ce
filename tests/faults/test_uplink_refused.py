"""A broker that will not have us: wait, delete nothing, say what to do about it. And two agents under one name."""

import contextlib
import os
import pwd
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path

import pytest

from tests.conftest import Broker, accepts_connections, find_program, free_port, require, stop, wait_until
from tests.edge_agent.conftest import PUMP, SECONDS, AgentProcess, Cloud, Machine, mqtt_source
from tests.edge_agent.test_agent import is_empty, recent

pytestmark = pytest.mark.e2e


@contextlib.contextmanager
def strict_broker(folder: Path, *lines: str) -> Iterator[int]:
    """A mosquitto with these settings; its port."""
    program = find_program("mosquitto", "/usr/sbin")
    require(program is not None, "mosquitto is not installed (apt install mosquitto)")
    port = free_port()
    user = pwd.getpwuid(os.getuid()).pw_name
    config = folder / "strict.conf"
    config.write_text("\n".join([f"listener {port} 127.0.0.1", f"user {user}", *lines, ""]))
    silent = subprocess.DEVNULL
    process = subprocess.Popen([str(program), "-c", str(config)], stdout=silent, stderr=silent)
    try:
        wait_until(lambda: accepts_connections(port), "the broker listens", SECONDS)
        yield port
    finally:
        stop(process)


def spooled(agent: AgentProcess, machine: Machine) -> None:
    """Samples are in the spool of an agent whose broker refuses it."""
    machine.send_samples(recent(5))
    status = agent.wait_for_status(lambda s: s["lanes"]["telemetry"]["last_seq"] == 5, "it is in the spool")
    assert status["lanes"]["telemetry"]["depth"] == 5


def waits(agent: AgentProcess, sign: str, fix: str) -> None:
    """It has tried more than once, says why and what to do, lives, and has deleted nothing."""
    wait_until(lambda: agent.log().count(sign) >= 2, f"it tries again after {sign}", SECONDS)
    assert fix in agent.log()
    status = agent.status()
    assert status["lanes"]["telemetry"]["depth"] == 5
    assert status["live"]["connection"]["failures"] >= 2
    assert agent.processes[-1].poll() is None


def test_fault_16_bad_credentials_back_off_and_delete_nothing(
    agent: AgentProcess, mosquitto: Broker, machine: Machine, tmp_path: Path
) -> None:
    tool = find_program("mosquitto_passwd", "/usr/bin")
    require(tool is not None, "mosquitto_passwd is not installed (apt install mosquitto)")
    passwords = tmp_path / "passwords"
    subprocess.run([str(tool), "-b", "-c", str(passwords), "n", "right"], check=True, capture_output=True)
    secret = agent.folder / "secret"
    secret.write_text("wrong\n")
    with strict_broker(tmp_path, f"password_file {passwords}", "allow_anonymous false") as port:
        login = 'username = "n"\npassword_file = "secret"'
        agent.configure(uplink_port=port, source=mqtt_source(mosquitto.port), assets=PUMP, extra=login)
        agent.start_listening()
        spooled(agent, machine)
        waits(agent, "uplink_refused", "uplink.password_file")
        secret.write_text("right\n")
        wait_until(lambda: "uplink_up" in agent.log(), "the right password is used without a restart", SECONDS)


def test_fault_16_a_certificate_that_is_not_trusted_is_refused(
    agent: AgentProcess, mosquitto: Broker, machine: Machine, tmp_path: Path
) -> None:
    tool = find_program("openssl", "/usr/bin")
    require(tool is not None, "openssl is not installed (apt install openssl)")
    for name in ("broker", "other"):
        make = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
        names = ["-addext", "subjectAltName=IP:127.0.0.1"]
        files = ["-keyout", str(tmp_path / f"{name}.key"), "-out", str(tmp_path / f"{name}.pem")]
        subprocess.run([str(tool), *make, *names, *files], check=True, capture_output=True)
    lines = (f"certfile {tmp_path}/broker.pem", f"keyfile {tmp_path}/broker.key", "allow_anonymous true")
    with strict_broker(tmp_path, *lines) as port:
        tls = f'tls = true\nca_file = "{tmp_path}/other.pem"'
        agent.configure(uplink_port=port, source=mqtt_source(mosquitto.port), assets=PUMP, extra=tls)
        agent.start_listening()
        spooled(agent, machine)
        waits(agent, "uplink_refused", "uplink.ca_file")


def test_fault_16_a_publication_refused_with_0x87_backs_off_and_deletes_nothing(
    agent: AgentProcess, mosquitto: Broker, machine: Machine, tmp_path: Path
) -> None:
    rules = tmp_path / "rules"
    rules.write_text("topic read fw/v1/t/n/ack\ntopic read fw/v1/t/n/command\ntopic write fw/v1/t/n/presence\n")
    with strict_broker(tmp_path, "allow_anonymous true", f"acl_file {rules}") as port:
        version = 'mqtt_version = "5"'
        agent.configure(uplink_port=port, source=mqtt_source(mosquitto.port), assets=PUMP, extra=version)
        agent.start_listening()
        spooled(agent, machine)
        waits(agent, "(0x87)", "permissions of the node")


def test_fault_16_a_subscription_that_is_refused_is_told(
    agent: AgentProcess, mosquitto: Broker, machine: Machine
) -> None:
    with QuotaBroker(subscription=0x87) as broker:
        extra = 'mqtt_version = "5"'
        agent.configure(uplink_port=broker.port, source=mqtt_source(mosquitto.port), assets=PUMP, extra=extra)
        agent.start_listening()
        spooled(agent, machine)
        waits(agent, "uplink_refused", "let the node subscribe")


def test_fault_16_a_quota_used_up_0x97_backs_off_and_deletes_nothing(
    agent: AgentProcess, mosquitto: Broker, machine: Machine
) -> None:
    with QuotaBroker(publication=0x97) as broker:
        extra = 'mqtt_version = "5"'
        agent.configure(uplink_port=broker.port, source=mqtt_source(mosquitto.port), assets=PUMP, extra=extra)
        agent.start_listening()
        spooled(agent, machine)
        waits(agent, "(0x97)", "quota of this node")


def test_with_mqtt_5_everything_arrives_too(
    agent: AgentProcess, mosquitto: Broker, machine: Machine, cloud: Cloud
) -> None:
    version = 'mqtt_version = "5"'
    agent.configure(uplink_port=mosquitto.port, source=mqtt_source(mosquitto.port), assets=PUMP, extra=version)
    agent.start_listening()
    times = recent(10)
    machine.send_samples(times)
    wait_until(lambda: cloud.times_ms() == times, "all is in the cloud", SECONDS)
    agent.wait_for_status(is_empty, "all is acknowledged")


def test_fault_19_two_agents_with_one_name_are_noticed_and_others_not_disturbed(
    agent: AgentProcess, mosquitto: Broker, machine: Machine, cloud: Cloud, tmp_path: Path
) -> None:
    twin, bystander = (AgentProcess(folder=tmp_path / name) for name in ("twin", "bystander"))
    for other in (twin, bystander):
        other.folder.mkdir()
        other.configure(uplink_port=mosquitto.port, source=mqtt_source(mosquitto.port), assets=PUMP)
    # The sources of the others listen elsewhere: it is about the connections to the cloud.
    for other, name in ((twin, "n"), (bystander, "m")):
        text = other.config.read_text().replace("[[sources]]", '[[sources]]\ntopic = "elsewhere/+"')
        other.config.write_text(text.replace('node = "n"', f'node = "{name}"'))
    try:
        for one in (bystander, agent, twin):
            one.start()
        wait_until(
            lambda: "takeover_suspected" in agent.log() and "takeover_suspected" in twin.log(), "noticed", SECONDS
        )
        assert "give each agent its own node.node" in agent.log()
        assert agent.status()["live"]["connection"]["takeover_suspected"]
        assert bystander.log().count("uplink_up") == 1
        assert "uplink_lost" not in bystander.log()
        assert twin.stop() == 0
        times = recent(5)
        machine.send_samples(times)
        wait_until(lambda: cloud.times_ms() == times, "alone again, it goes on", SECONDS)
    finally:
        for other in (twin, bystander):
            for process in other.processes:
                if process.poll() is None:
                    process.kill()
                process.wait(SECONDS)


@dataclass(kw_only=True)
class QuotaBroker:
    """As much of an MQTT 5 broker as it takes to refuse: mosquitto knows no quota."""

    subscription: int = 0x01
    publication: int = 0x00
    _listener: socket.socket = field(init=False)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> "QuotaBroker":
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as stream, contextlib.suppress(OSError):
            while head := stream.read(1):
                body = stream.read(_length(stream))
                answer = self._answer(head[0], body)
                if answer:
                    client.sendall(answer)

    def _answer(self, head: int, body: bytes) -> bytes:
        kind = head >> 4
        if kind == 1:
            return bytes([0x20, 3, 0, 0, 0])
        if kind == 8:
            return bytes([0x90, 5, *body[:2], 0, self.subscription, self.subscription])
        if kind == 3:
            (topic,) = struct.unpack(">H", body[:2])
            refused = b"presence" not in body[2 : 2 + topic]
            return bytes([0x40, 4, *body[2 + topic : 4 + topic], self.publication if refused else 0, 0])
        return bytes([0xD0, 0]) if kind == 12 else b""


def _length(stream: BufferedReader) -> int:
    """The remaining length of a packet: seven bits a byte, the lowest first."""
    length, shift = 0, 0
    while (byte := stream.read(1)[0]) & 0x80:
        length |= (byte & 0x7F) << shift
        shift += 7
    return length | byte << shift
