"""The spool itself: what is committed together, and what comes back of it."""

# ruff: noqa: S608 - the only names put into statements are those of the two lanes
import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Final, Self

import msgspec

from forewarn_edge_agent.log import event
from forewarn_edge_agent.sources import Position
from forewarn_edge_agent.spool import earlier, identity, opening, salvage, schema
from forewarn_edge_agent.spool.earlier import Row, checksum
from forewarn_edge_agent.spool.identity import Identity
from forewarn_edge_agent.spool.inspection import asset_crc, asset_rows, asset_values
from forewarn_edge_agent.spool.lanes import monotonic_ms
from forewarn_edge_agent.spool.opening import Connect, Opened
from forewarn_edge_agent.spool.records import MOST_IN_A_PART, AssetRow, Batch, Chunk, Limits, Range, Remembered
from forewarn_edge_agent.spool.room import Room
from forewarn_models import wire

log = logging.getLogger(__name__)

KEPT_DIGESTS: Final = 4096
KEPT_COMMANDS: Final = 1000
HOUR_MS: Final = 3_600_000
NO_LONGER_HELD: Final = "no longer held"
TORN: Final = "the power went during a write"
LEFT_OUT: Final = 2 * MOST_IN_A_PART
ROW_BYTES: Final = 100
"""What a record takes beside its body, with its digest."""
DAMAGED: Final = "the spool file was damaged"
IDENTITY_EVERY_MS: Final = 60_000
SALVAGED_AT_ONCE: Final = 500


class Spool(Room):
    """Open with `Spool.open` or, where no disk can be written, `Spool.in_memory`; one thread at a time.

    Errors of SQLite: see `damage.is_of_the_disk`. After one that is not of the disk the file is to be opened anew, with
    what was `found` wrong; any other leaves it as it was.
    """

    def __init__(
        self,
        opened: Opened,
        limits: Limits,
        *,
        now_ms: int,
        path: Path | None = None,
        lock: IO[str] | None = None,
        connect: Connect = opening.plain_connection,
        running_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        super().__init__(opened.connection, limits, path, running_ms)
        self._lock = lock
        self._connect = connect
        self._damaged: sqlite3.Connection | None = None
        for loss in opened.losses:
            self._tell_gap(loss.lane, loss.first_seq, loss.last_seq, now_ms, DAMAGED, epoch=loss.epoch)
        if self._connection.in_transaction:
            self._connection.execute("COMMIT")
        if opened.is_torn:
            self._leave_out_sequences(now_ms)
        self._note_identity()

    @classmethod
    def open(
        cls,
        state_dir: Path,
        *,
        max_bytes: int,
        now_ms: int,
        max_days: float = 7.0,
        keep_acknowledged_hours: float = 24.0,
        running_ms: Callable[[], int] = monotonic_ms,
        connect: Connect = opening.plain_connection,
        lock: IO[str] | None = None,
        found: str | None = None,
        known: Identity | None = None,
    ) -> Self:
        """Open the spool of a state directory, or create it.

        A damaged file is kept aside (the newest such file only, the disk must not fill) and a new one, with a new
        epoch, takes its place; what can be read of it is sent with its own epoch, what cannot is told.
        `running_ms` is a clock that only counts how long the process has run. To open it again: the `lock` that is
        held, what is `known` of the file, and what was `found` wrong with it.

        Raises:
            SpoolInUseError: another process has it open.
            SpoolVersionError: a newer agent wrote it.
            OSError, sqlite3.Error: the disk does not allow it.
        """
        limits = Limits(
            max_bytes=max_bytes,
            max_age_ms=round(max_days * 24 * HOUR_MS),
            keep_acknowledged_ms=round(keep_acknowledged_hours * HOUR_MS),
        )
        state_dir.mkdir(parents=True, exist_ok=True)
        path = state_dir / opening.FILE_NAME
        held = lock or opening.take_lock(state_dir / opening.LOCK_NAME)
        known = known or identity.read(state_dir / identity.NAME)
        try:
            opened = opening.open_or_replace(path, limits, now_ms=now_ms, connect=connect, found=found, known=known)
            try:
                return cls(opened, limits, now_ms=now_ms, path=path, lock=held, connect=connect, running_ms=running_ms)
            except BaseException:
                opened.connection.close()
                raise
        except BaseException:
            if lock is None:
                held.close()
            raise

    @classmethod
    def in_memory(cls, *, max_bytes: int, max_records: int, now_ms: int) -> Self:
        """A spool with an epoch of its own that lasts as long as the process."""
        limits = Limits(max_bytes=max_bytes, max_records=max_records, keep_acknowledged_ms=0)
        connection = opening.plain_connection(Path(":memory:"))
        connection.execute(f"PRAGMA max_page_count = {schema.max_pages(limits)}")
        connection.execute("BEGIN")
        schema.create(connection, now_ms=now_ms)
        return cls(Opened(connection=connection), limits, now_ms=now_ms)

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._note_identity()
        lock = self.release()
        if lock is not None:
            lock.close()

    def release(self) -> IO[str] | None:
        """Close the file but keep the lock, for the next that opens it."""
        if self._damaged is not None:
            self._damaged.close()
        with suppress(sqlite3.Error):
            self._connection.close()
        return self._lock

    @property
    def commit_bytes(self) -> int:
        """What a batch may hold for the write-ahead log to stay within its share of the cap."""
        return schema.wal_bytes(self._limits) // 4

    def _leave_out_sequences(self, now_ms: int) -> None:
        """More than a commit gives: what it gave may have been sent, and must not be given to anything else."""
        with self._transaction():
            for lane in wire.LANES:
                last_seq = self.last_seq(lane)
                left_out = f"INSERT INTO {lane} (seq, spooled_at_ms, is_gap, body) VALUES (?, ?, 0, x'')"
                self._connection.execute(left_out, (last_seq + LEFT_OUT, now_ms))
                self._connection.execute(f"DELETE FROM {lane} WHERE seq = ?", (last_seq + LEFT_OUT,))
                self._tell_gap(lane, last_seq + 1, last_seq + LEFT_OUT, now_ms, TORN)

    # --- writing ----------------------------------------------------------------------------------------------------

    def append(self, batch: Batch, *, now_ms: int) -> None:
        """Commit a batch; it is on the disk when this returns. Where the cap is reached, the oldest telemetry goes.

        Raises:
            sqlite3.OperationalError: the disk is full or failing; nothing of the batch was written.
        """
        with self._transaction():
            for lane in wire.LANES:
                self._trim(lane)
            self._keep(batch, now_ms)
            self._tell_of_drops(now_ms)
            self._drop_aged(now_ms)
        self._last = self._last_seqs()
        if self._running_ms() - self._noted_ms >= IDENTITY_EVERY_MS:
            self._note_identity()

    def acknowledge(self, lane: wire.Lane, epoch: str, seq: int) -> bool:
        """The cloud has committed everything up to `seq`. False if that is no news, or not about this spool.

        The epoch may be an earlier one.
        """
        with self._transaction():
            if epoch != self.epoch:
                return earlier.acknowledge(self._connection, lane, epoch, seq)
            before = self.acknowledged_seq(lane)
            if not before < seq <= self.last_seq(lane):
                return False
            self._connection.execute("UPDATE lane SET acknowledged_seq = ? WHERE lane = ?", (seq, lane))
            self._trim(lane)
            return True

    def tell_missing(self, lane: wire.Lane, first_seq: int, last_seq: int, *, now_ms: int) -> list[Range]:
        """Spool gap records, on the disk when this returns, for what of a range is held no longer; which that is.

        Only sequences that were given already are considered.
        """
        with self._transaction():
            missing = self._missing(lane, first_seq, min(last_seq, self.last_seq(lane)))
            for first, last in missing:
                self._tell_gap(lane, first, last, now_ms, NO_LONGER_HELD)
            return missing

    def _keep(self, batch: Batch, now_ms: int) -> None:
        by_lane: dict[wire.Lane, list[bytes]] = {"telemetry": batch.telemetry, "advisory": batch.advisories}
        for lane, bodies in by_lane.items():
            for group in self._at_once(bodies):
                self._make_room(_stored_bytes(group), now_ms, records=len(group))
                self._insert(lane, group, now_ms)
        self._remember_digests(map(wire.digest, batch.telemetry))
        if batch.assets is not None:
            self._make_room(sum(len(row.state) for row in batch.assets), now_ms)
            self._checkpoint(batch.assets)
        for position in batch.positions:
            self._connection.execute(
                "INSERT OR REPLACE INTO position (source, row, shift_ms) VALUES (?, ?, ?)",
                (position.source, position.row, position.shift_ms),
            )
        if batch.reply is not None:
            self._remember(batch.reply)
        for name, value in batch.counters.items():
            self._count(name, value)

    def _at_once(self, bodies: list[bytes]) -> list[list[bytes]]:
        """All together, or each alone where they are so large that room has to be made for one after the other."""
        is_small = _stored_bytes(bodies) <= self.commit_bytes // 4
        return ([bodies] if bodies else []) if is_small else [[body] for body in bodies]

    def _remember_digests(self, digests: Iterable[bytes]) -> None:
        insert = "INSERT INTO recent (digest) VALUES (?)"
        self._connection.executemany(insert, [(digest,) for digest in digests])
        newest = "(SELECT max(number) FROM recent)"
        self._connection.execute(f"DELETE FROM recent WHERE number <= {newest} - ?", (KEPT_DIGESTS,))

    def _checkpoint(self, assets: tuple[AssetRow, ...]) -> None:
        rows = [asset_values(row) for row in assets]
        self._connection.executemany(
            "INSERT OR REPLACE INTO asset VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [[*values, asset_crc(values)] for values in rows],
        )
        self._connection.execute("UPDATE spool SET checkpoint_seq = ?", (self.last_seq("telemetry"),))

    def _remember(self, reply: wire.Reply) -> None:
        blob = wire.encode_control(reply)
        self._connection.execute("INSERT OR IGNORE INTO command (id, reply) VALUES (?, ?)", (reply.id, blob))
        oldest = "SELECT number FROM command ORDER BY number DESC LIMIT 1 OFFSET ?"
        self._connection.execute(f"DELETE FROM command WHERE number <= ({oldest})", (KEPT_COMMANDS,))

    def _count(self, name: str, value: int) -> None:
        self._connection.execute(
            "INSERT INTO counter VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
            (name, value),
        )

    # --- who we are -------------------------------------------------------------------------------------------------

    def known(self) -> Identity:
        """What the next to open the file should know of it. Reads nothing: the file may be lost already."""
        return msgspec.structs.replace(self._noted, last=self._last)

    def _note_identity(self) -> None:
        self._noted = Identity(
            version=schema.SCHEMA_VERSION,
            epoch=self.epoch,
            acknowledged={lane: self.acknowledged_seq(lane) for lane in wire.LANES},
            last=self._last_seqs(),
            outstanding=earlier.outstanding(self._connection),
        )
        self.has_earlier = bool(self._noted.outstanding)
        """Whether `read_earlier` may find something."""
        self._last, self._noted_ms = self._noted.last, self._running_ms()
        if self._path is not None:
            try:
                identity.write(self._path.with_name(identity.NAME), self._noted)
            except OSError as error:
                # The older one is less exact, no more; and what was committed is committed.
                event(log, logging.WARNING, "identity_not_noted", reason=error)

    def _last_seqs(self) -> dict[str, int]:
        return {lane: self.last_seq(lane) for lane in wire.LANES}

    # --- earlier epochs ---------------------------------------------------------------------------------------------

    def read_earlier(
        self, lane: wire.Lane, after: int, *, max_records: int, max_bytes: int, now_ms: int
    ) -> Chunk | None:
        """Consecutive unacknowledged records of one earlier epoch behind the mark `after`, with the mark behind them.

        0 is before all. None: there are no more, or no more before some are acknowledged.
        """
        self._salvage(lane, now_ms)
        found = earlier.read(self._connection, lane, after, max_records=max_records, max_bytes=max_bytes)
        if found is None:
            self.has_earlier = earlier.is_outstanding(self._connection)
        return found

    def holds(self, epoch: str) -> bool:
        """Whether it is this one's epoch, or records of it are still to be sent."""
        return epoch == self.epoch or any(each.epoch == epoch for each in earlier.outstanding(self._connection))

    def adopt(self, other: "Spool", assets: Iterable[AssetRow], *, now_ms: int) -> None:
        """Take over what a spool that was used after this one holds and the cloud lacks, and what it remembers.

        The records keep their epoch. `assets`: the present states of the models. If it fails it can be done again.
        """
        for lane in wire.LANES:
            for rows in other.waiting_rows(lane):
                with self._transaction():
                    self._make_room(sum(len(row.body) for row in rows), now_ms)
                    earlier.add(self._connection, lane, other.epoch, rows)
                    self._tell_of_drops(now_ms)
        self.has_earlier = True
        remembered = other.remembered()
        with self._transaction():
            self._keep(
                Batch(assets=tuple(assets), positions=remembered.positions, counters=remembered.counters), now_ms
            )
            for reply in remembered.replies:
                self._remember(reply)
            self._count("disk_failures", 1)
            self._remember_digests(other.recent_digests())
            self._tell_of_drops(now_ms)
        self._note_identity()

    def waiting_rows(self, lane: wire.Lane) -> Iterator[list[Row]]:
        """All that the cloud lacks of a lane, gap records first, in portions."""
        columns = "seq, spooled_at_ms, is_gap, crc, body"
        query = f"SELECT {columns} FROM {lane} WHERE seq > ? ORDER BY is_gap DESC, seq"
        rows: list[Row] = []
        for seq, at_ms, is_gap, crc, body in self._connection.execute(query, (self.acknowledged_seq(lane),)):
            rows.append(Row(seq=seq, spooled_at_ms=at_ms, is_gap=bool(is_gap), crc=crc, body=body))
            if len(rows) >= SALVAGED_AT_ONCE:
                yield rows
                rows = []
        yield rows

    def answer_as(self, other: "Spool") -> None:
        """Know the commands that another spool knows."""
        with self._transaction():
            for reply in other.remembered().replies:
                self._remember(reply)

    def remembered(self) -> Remembered:
        positions = self._connection.execute("SELECT source, row, shift_ms FROM position")
        replies = self._connection.execute("SELECT reply FROM command ORDER BY number")
        return Remembered(
            positions=tuple(Position(source=source, row=row, shift_ms=shift) for source, row, shift in positions),
            replies=tuple(wire.decode_control(blob, wire.Reply) for (blob,) in replies),
            counters=dict(self._connection.execute("SELECT name, value FROM counter").fetchall()),
        )

    def _salvage(self, lane: wire.Lane, now_ms: int) -> None:
        """Read on in the damaged file if little of it is left to send, and there is room that nothing newer needs."""
        row = self._connection.execute("SELECT epoch, next_seq FROM salvage WHERE lane = ?", (lane,))
        found = row.fetchone()
        if found is None or not earlier.is_short(self._connection, lane, SALVAGED_AT_ONCE):
            return
        epoch, first_seq = found
        rows, next_seq = salvage.scan(self._open_damaged(), lane, first_seq, SALVAGED_AT_ONCE)
        # How far the file went cannot be known: something may have been committed, and sent, that it does not show.
        # That is told last, or the cloud would miss what is still on its way.
        end = wire.MAX_SEQ if next_seq is None else next_seq - 1
        with self._transaction():
            if not self._make_room_in_archive(sum(len(row.body) for row in rows)):
                return
            earlier.add(self._connection, lane, epoch, rows)
            for first, last in salvage.holes(first_seq, (row.seq for row in rows), end):
                self._tell_gap(lane, first, last, now_ms, DAMAGED, epoch=epoch)
            if next_seq is None:
                self._connection.execute("DELETE FROM salvage WHERE lane = ?", (lane,))
            else:
                self._connection.execute("UPDATE salvage SET next_seq = ? WHERE lane = ?", (next_seq, lane))

    def _open_damaged(self) -> sqlite3.Connection:
        if self._damaged is None:
            assert self._path is not None
            self._damaged = opening.open_aside(self._path, self._connect)
        return self._damaged

    # --- reading ----------------------------------------------------------------------------------------------------

    def recent_digests(self) -> list[bytes]:
        """`wire.digest` of the last telemetry records, sent or not, oldest first."""
        return [row[0] for row in self._connection.execute("SELECT digest FROM recent ORDER BY number")]

    def records_since_checkpoint(self) -> Iterator[bytes]:
        """Telemetry that the model states have not seen, oldest first. Not to be mixed with writing."""
        since = "seq > (SELECT checkpoint_seq FROM spool)"
        rows = self._connection.execute(
            f"SELECT seq, crc, body FROM telemetry WHERE is_gap = 0 AND {since} ORDER BY seq"
        )
        return (body for seq, crc, body in rows if crc in (None, checksum(seq, body)))

    def assets(self) -> list[AssetRow]:
        return asset_rows(self._connection)

    def position(self, source: str) -> Position | None:
        row = self._connection.execute("SELECT row, shift_ms FROM position WHERE source = ?", (source,)).fetchone()
        return Position(source=source, row=row[0], shift_ms=row[1]) if row else None

    def reply(self, command_id: str) -> wire.Reply | None:
        """The answer that was given to a command, if it was already done."""
        row = self._connection.execute("SELECT reply FROM command WHERE id = ?", (command_id,)).fetchone()
        return wire.decode_control(row[0], wire.Reply) if row else None


def _stored_bytes(bodies: Iterable[bytes]) -> int:
    return sum(len(body) + ROW_BYTES for body in bodies)
