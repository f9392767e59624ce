"""Why the broker was not reached or would not have us, and what to do about it, in words for whoever reads the log."""

from dataclasses import dataclass
from typing import Final, Literal

import aiomqtt
from aiomqtt.exceptions import MqttConnectError
from paho.mqtt.reasoncodes import ReasonCode

Kind = Literal["unreachable", "refused", "lost"]


class SubscriptionRefusedError(aiomqtt.MqttError):
    """The broker does not let us hear what the cloud answers."""


class PublicationRefusedError(aiomqtt.MqttError):
    """The broker does not take what we publish: MQTT 5 says so, with 3.1.1 it hangs up or says nothing."""

    def __init__(self, code: ReasonCode) -> None:
        super().__init__(f"publication refused: {code}")
        self.rc = code


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """`reason` as the other end or the system put it; `fix` is empty where nothing needs to be done here."""

    kind: Kind
    reason: str
    fix: str = ""


_BY_CODE: Final = {
    0x84: "the broker does not speak this version of MQTT: set uplink.mqtt_version",
    0x85: "the broker does not accept the client id; give the node another name, or allow it at the broker",
    0x86: "check uplink.username and what is in uplink.password_file",
    0x87: "the broker does not allow this: check uplink.username, what is in uplink.password_file, uplink.cert_file, "
    "and the permissions of the node at the broker",
    0x88: "the broker is not serving; nothing is to be done here",
    0x89: "the broker is busy; nothing is to be done here",
    0x8A: "the broker has banned this node: ask whoever runs it",
    0x8E: "another agent connected with the name of this node: give each agent its own node.node",
    0x95: "the broker takes no message as large as ours: raise its limit to 256 KiB",
    0x97: "the quota of this node at the broker is used up: raise it there, or send less",
    0x9F: "the broker refuses so many connections a second; nothing is to be done here",
}
_LOST: Final = {
    0x80: "the connection broke, or the broker closed it",
    0x8B: "the broker is shutting down",
    0x8D: "the broker has not answered within the keep-alive",
}
_CERTIFICATE: Final = {
    "CERTIFICATE_VERIFY_FAILED": "the broker's certificate is not trusted: check uplink.ca_file, uplink.host, its "
    "expiry, and the clock of this device",
    "CERTIFICATE_EXPIRED": "the client certificate has expired: renew uplink.cert_file",
    "CERTIFICATE_REQUIRED": "the broker wants a client certificate: set uplink.cert_file and uplink.key_file",
    "UNKNOWN_CA": "the broker does not trust the client certificate: check uplink.cert_file",
    "BAD_CERTIFICATE": "the broker does not accept the client certificate: check uplink.cert_file",
    "WRONG_VERSION_NUMBER": "the broker does not speak TLS on this port: check uplink.port and uplink.tls",
}


def trouble(error: BaseException) -> Trouble:
    """What an error of a session means."""
    code = getattr(error, "rc", None)
    text = str(error) or type(error).__name__
    if isinstance(error, SubscriptionRefusedError):
        fix = "let the node subscribe to its topics ack and command at the broker"
        return Trouble(kind="refused", reason=text, fix=fix)
    if isinstance(code, ReasonCode) and code.value in _LOST and not isinstance(error, MqttConnectError):
        return Trouble(kind="lost", reason=_LOST[code.value])
    if isinstance(code, ReasonCode) and code.value >= 0x80:
        fix = _BY_CODE.get(code.value, "ask whoever runs the broker")
        return Trouble(kind="refused", reason=f"{code} (0x{code.value:02X})", fix=fix)
    for sign, fix in _CERTIFICATE.items():
        if sign in text.upper().replace(" ", "_"):
            return Trouble(kind="refused", reason=text, fix=fix)
    if isinstance(error, aiomqtt.MqttCodeError):
        return Trouble(kind="lost", reason=text)
    if "timed out" in text:
        fix = "no answer as of an MQTT broker: check uplink.host, uplink.port, uplink.tls and uplink.cert_file"
        return Trouble(kind="unreachable", reason=text, fix=fix)
    return Trouble(kind="unreachable", reason=text)
