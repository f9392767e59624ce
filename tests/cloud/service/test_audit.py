"""Nobody can change, remove, insert or reorder what is in the audit without being found out."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, delete, update

from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.adapters.sql.engine import reading, writing
from forewarn_cloud.adapters.sql.repositories import verify_audit
from forewarn_cloud.adapters.sql.unit_of_work import SqlTransactions
from forewarn_cloud.entities import AuditNote
from forewarn_cloud.ports import UnitOfWork
from forewarn_cloud.service.audit import GENESIS, AuditEntry, AuditReport, check_chain, entry_hash


def note(i: int, tenant: str = "local") -> AuditNote:
    detail = {"reason": "Prüfung 检查", "probability": 0.1 + i / 3, "parts": [1, None, True]}
    return AuditNote(
        tenant=tenant, at=1000 + i, actor="dana", subject="order", subject_id=f"o{i}", action="opened", detail=detail
    )


def chain(length: int) -> list[AuditEntry]:
    entries, head = list[AuditEntry](), GENESIS
    for i in range(1, length + 1):
        entry = AuditEntry(**vars(note(i)), position=i, previous_hash=head, hash="")
        entries.append(replace(entry, hash=entry_hash(entry)))
        head = entries[-1].hash
    return entries


def test_a_whole_chain_is_whole() -> None:
    entries = chain(5)
    assert check_chain(entries) == AuditReport(entries=5, head=entries[-1].hash)
    assert check_chain([]) == AuditReport(entries=0, head=GENESIS)


@given(st.integers(0, 4), st.sampled_from(["at", "actor", "subject_id", "action", "detail", "hash", "previous_hash"]))
def test_any_change_is_found_where_it_is(i: int, field: str) -> None:
    entries = chain(5)
    changes: dict[str, Any] = {field: {"at": 5, "detail": {"reason": "other"}}.get(field, "0" * 63 + "1")}
    entries[i] = replace(entries[i], **changes)
    report = check_chain(entries)
    assert report.broken_at == i + 1
    assert report.entries == i


def test_a_changed_entry_with_a_new_hash_breaks_the_next() -> None:
    entries = chain(3)
    forged = replace(entries[1], actor="eve")
    entries[1] = replace(forged, hash=entry_hash(forged))
    assert check_chain(entries).broken_at == 3


def test_a_removed_entry_and_two_in_the_wrong_order_are_found() -> None:
    entries = chain(4)
    assert check_chain([entries[0], *entries[2:]]).reason == "entry 2 is missing"
    assert check_chain([entries[0], entries[2], entries[1], entries[3]]).broken_at == 2


def test_stored_entries_verify_and_tenants_have_chains_of_their_own(engine: Engine) -> None:
    write(engine, 3)
    write(engine, 2, tenant="other")
    write(engine, 1)
    with reading(engine) as connection:
        assert (verify_audit(connection, "local").entries, verify_audit(connection, "other").entries) == (4, 2)
        assert verify_audit(connection, "local").broken_at is None


@pytest.mark.parametrize("position", [1, 3])
def test_tampering_with_the_stored_rows_is_found(engine: Engine, position: int) -> None:
    write(engine, 4)
    mine = schema.audit.c.position == position
    with writing(engine) as connection:
        connection.execute(update(schema.audit).where(mine).values(actor="eve"))
    with reading(engine) as connection:
        assert verify_audit(connection, "local").broken_at == position
    with writing(engine) as connection:
        connection.execute(delete(schema.audit).where(mine))
    with reading(engine) as connection:
        assert verify_audit(connection, "local").broken_at == position


def write(engine: Engine, count: int, tenant: str = "local") -> None:
    def work(uow: UnitOfWork) -> None:
        for i in range(count):
            uow.records.add_audit(note(i, tenant))

    SqlTransactions(engine).run(work)
