"""The audit is a chain: each entry's hash covers the entry and the hash before it, so nothing in it can be changed,
removed or put in between without breaking every hash that follows. (Cutting off the end shows only against a hash that
was noted elsewhere.)"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

GENESIS: Final = "0" * 64
"""What the first entry of a tenant names as the hash before it."""


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    tenant: str
    position: int
    """1, 2, 3, ... without a gap."""
    at: int
    actor: str
    subject: str
    subject_id: str
    action: str
    detail: dict[str, Any]
    previous_hash: str
    hash: str


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """`broken_at`: the first position that does not fit; None if the chain is whole."""

    entries: int
    head: str
    broken_at: int | None = None
    reason: str = ""


def entry_hash(entry: AuditEntry) -> str:
    """SHA-256 over everything in the entry but its own hash, as canonical JSON."""
    content = [
        entry.tenant,
        entry.position,
        entry.at,
        entry.actor,
        entry.subject,
        entry.subject_id,
        entry.action,
        entry.detail,
        entry.previous_hash,
    ]
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def check_chain(entries: Iterable[AuditEntry]) -> AuditReport:
    """Follow the chain from its beginning; `entries` in the order of their positions."""
    position, head = 0, GENESIS
    for entry in entries:
        position += 1
        reason = _flaw(entry, position, head)
        if reason:
            return AuditReport(entries=position - 1, head=head, broken_at=position, reason=reason)
        head = entry.hash
    return AuditReport(entries=position, head=head)


def _flaw(entry: AuditEntry, position: int, head: str) -> str:
    if entry.position != position:
        return f"entry {position} is missing"
    if entry.previous_hash != head:
        return f"entry {position} does not follow the one before it"
    if entry.hash != entry_hash(entry):
        return f"entry {position} was changed"
    return ""
