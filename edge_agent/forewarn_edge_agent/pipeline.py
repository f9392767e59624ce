"""From deliveries to one commit: select, assess, advise, encode; and back up to date from the spool after a crash."""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from forewarn_edge_agent.clock import Clock
from forewarn_edge_agent.log import Throttle, event
from forewarn_edge_agent.monitor import Judgement, Monitor
from forewarn_edge_agent.sources import Delivery, Position, Refusal
from forewarn_edge_agent.spool import KEPT_DIGESTS, AssetRow, Batch, Spool
from forewarn_edge_agent.storage import Storage
from forewarn_edge_agent.watchdog import Silence, Watchdog
from forewarn_models import wire

log = logging.getLogger(__name__)

CHECKPOINT_RECORDS: Final = 1000
"""A checkpoint is due after so many records at the latest: what a restart has to assess again."""


@dataclass(kw_only=True)
class _Gathered:
    """What will be committed, while it is being gathered."""

    telemetry: list[bytes] = field(default_factory=list)
    advisories: list[bytes] = field(default_factory=list)
    positions: list[Position] = field(default_factory=list)
    counters: Counter[str] = field(default_factory=Counter)
    is_checkpoint: bool = False


class Pipeline:
    """One thread uses it, the same as the spool's."""

    def __init__(
        self,
        spool: Spool | Storage,
        monitor: Monitor,
        *,
        checkpoint_seconds: float,
        watchdog: Watchdog | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._spool = spool
        self._monitor = monitor
        self._clock = clock or Clock()
        self._watchdog = watchdog or Watchdog({}, frozenset(), self._clock.monotonic())
        self._checkpoint_seconds = checkpoint_seconds
        self._checkpoint_at = time.monotonic() + checkpoint_seconds
        self._records_since_checkpoint = 0
        self._recent = dict.fromkeys(spool.recent_digests())
        """Digests of the last records, in order."""
        self._throttle = Throttle()

    def catch_up(self) -> Batch:
        """Show the models what was spooled after their last checkpoint; the batch makes the result durable.

        The same telemetry gives the same states. It holds advisories only if a model was replaced meanwhile: all
        others were committed with a checkpoint of their own.
        """
        gathered = _Gathered(is_checkpoint=True)
        for body in self._spool.records_since_checkpoint():
            record = wire.decode_telemetry(body)
            if self._monitor.watches(record.asset):
                selected, _ = self._monitor.select(record)
                if selected is not None:
                    gathered.advisories += map(wire.encode_advisory, self._observe(selected, gathered).advisories)
        return self._batch(gathered)

    def take(self, deliveries: Sequence[Delivery]) -> Batch:
        """Work through deliveries in order. The states in memory move on: the batch has to be committed next."""
        gathered = _Gathered()
        for delivery in deliveries:
            for record in delivery.records:
                self._take_record(record, gathered)
            for refusal in delivery.refusals:
                self._refuse(refusal, gathered)
            gathered.counters.update(delivery.notes)
            if delivery.position is not None:
                gathered.positions.append(delivery.position)
        return self._batch(gathered)

    def reset_baseline(self, command: wire.ResetBaseline) -> Batch:
        """Carry out a command; the batch remembers the answer together with the effect."""
        done = self._monitor.reset_baseline(command.asset, command.at)
        detail = "" if done else f"asset {command.asset!r} is not declared on this node"
        reply = wire.Reply(schema=wire.SCHEMA, id=command.id, ok=done, detail=detail)
        return self._batch(_Gathered(is_checkpoint=True, counters=Counter({"commands": 1})), reply)

    def watch(self) -> Batch | None:
        """Tell of assets that have gone silent; None if none has."""
        gathered = _Gathered(is_checkpoint=True)
        for silence in self._watchdog.fall_silent(self._clock.monotonic()):
            advisory = self._monitor.note_silence(silence.asset, self._instant_of(silence))
            event(log, logging.WARNING, "silent", asset=silence.asset, seconds=round(silence.seconds))
            if advisory is not None:
                gathered.advisories.append(wire.encode_advisory(advisory))
                gathered.counters.update(advisories=1, silences=1)
        return self._batch(gathered) if gathered.advisories else None

    def _instant_of(self, silence: Silence) -> int:
        """By the machine's own time, which an advisory about it has; no clock can be relied on for that."""
        elapsed_ms = round(silence.seconds * 1000 * self._clock.timebase.rate)
        at_ms = self._monitor.last_ms(silence.asset) + elapsed_ms
        return at_ms if silence.heard_here else max(at_ms, self._clock.now_ms())

    def checkpoint(self) -> Batch:
        return self._batch(_Gathered(is_checkpoint=True))

    def _take_record(self, record: wire.Telemetry, gathered: _Gathered) -> None:
        is_new = self._monitor.signals(record.asset) is None
        selected, left_out = self._monitor.select(record)
        if left_out:
            gathered.counters["left_out_signals"] += len(left_out)
            self._tell("left_out_signals", asset=record.asset, signals=",".join(left_out))
        if selected is None:
            self._refuse(Refusal(kind="no_known_signal", detail=f"asset {record.asset}: none of its signals"), gathered)
            return
        body = wire.encode_telemetry(selected)
        digest = wire.digest(body)
        if digest in self._recent:
            gathered.counters["duplicate_records"] += 1
            return
        self._recent[digest] = None
        if len(self._recent) > KEPT_DIGESTS:
            del self._recent[next(iter(self._recent))]
        self._forget_the_future(selected, gathered)
        judgement = self._observe(selected, gathered)
        if judgement.fresh and self._watchdog.heard(record.asset, self._clock.monotonic()):
            event(log, logging.INFO, "heard_again", asset=record.asset)
        gathered.telemetry.append(body)
        gathered.advisories += map(wire.encode_advisory, judgement.advisories)
        gathered.counters.update(records=1, samples=len(selected.t_ms), advisories=len(judgement.advisories))
        if judgement.late:
            gathered.counters["late_samples"] += judgement.late
        # An advisory and the state it came from, or the signals an asset turned out to have, are kept at once.
        gathered.is_checkpoint |= is_new or bool(judgement.advisories)

    def _forget_the_future(self, record: wire.Telemetry, gathered: _Gathered) -> None:
        """A clock that once was far ahead must not leave a machine unwatched until that time has come."""
        last_ms = self._monitor.last_ms(record.asset)
        if int(record.t_ms[-1]) <= last_ms and last_ms > self._clock.now_ms() + wire.MAX_FUTURE_MS:
            self._monitor.set_clock_back(record.asset, int(record.t_ms[0]) - 1)
            gathered.counters["clock_set_back"] += 1
            gathered.is_checkpoint = True
            event(log, logging.WARNING, "clock_set_back", asset=record.asset, from_ms=last_ms, to_ms=record.t_ms[0])

    def _observe(self, record: wire.Telemetry, gathered: _Gathered) -> Judgement:
        try:
            return self._monitor.observe(record)
        except Exception as error:
            # An error of ours in the models of one machine must not stop the others, nor lose what it measured.
            gathered.counters["not_assessed"] += 1
            if self._tell("not_assessed", asset=record.asset, reason=repr(error)):
                log.exception("not_assessed")
            return Judgement()

    def _refuse(self, refusal: Refusal, gathered: _Gathered) -> None:
        gathered.counters[f"refused.{refusal.kind}"] += 1
        self._tell(f"refused.{refusal.kind}", detail=refusal.detail)

    def _tell(self, kind: str, **fields: object) -> bool:
        """Log it unless one of its kind was logged just now."""
        held_back = self._throttle.admit(kind)
        if held_back is not None:
            event(log, logging.WARNING, kind, **fields, held_back=held_back)
        return held_back is not None

    def _batch(self, gathered: _Gathered, reply: wire.Reply | None = None) -> Batch:
        self._records_since_checkpoint += len(gathered.telemetry)
        is_due = gathered.is_checkpoint or (
            self._records_since_checkpoint > 0
            and (self._records_since_checkpoint >= CHECKPOINT_RECORDS or time.monotonic() >= self._checkpoint_at)
        )
        assets: tuple[AssetRow, ...] | None = None
        if is_due:
            assets = self._monitor.checkpoint()
            self._records_since_checkpoint = 0
            self._checkpoint_at = time.monotonic() + self._checkpoint_seconds
        return Batch(
            telemetry=gathered.telemetry,
            advisories=gathered.advisories,
            assets=assets,
            positions=tuple(gathered.positions),
            reply=reply,
            counters=gathered.counters,
        )
