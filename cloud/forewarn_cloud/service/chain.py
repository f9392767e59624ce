"""The chain from advisory to order: what the machine said, what it means, what is done about it. One transaction."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from forewarn_cloud.clock import Clock
from forewarn_cloud.entities import Asset, AuditNote, Episode, ReceivedAdvisory
from forewarn_cloud.ports import UnitOfWork
from forewarn_cloud.service import parts
from forewarn_cloud.service.catalogue import asset_type_of
from forewarn_cloud.service.decision import HOUR_MS
from forewarn_cloud.service.diagnosis import Reading, read_with_findings
from forewarn_cloud.service.episodes import follow
from forewarn_cloud.service.ordering import ACTOR, decide_on, has_open_order, note_begun_anew, withdraw
from forewarn_cloud.service.policy import Policy
from forewarn_models.wire import Advisory

STORM_ADVISORIES: Final = 100
STORM_MS: Final = 60_000
STORM_QUIET_MS: Final = 3_600_000


@dataclass(frozen=True, kw_only=True)
class Chain:
    """What the workers run. Every method is one step of work inside the given unit of work."""

    clock: Clock
    policy: Policy

    def handle_advisories(self, uow: UnitOfWork, tenant: str, asset_id: str, limit: int) -> int:
        """Act on the oldest advisories that wait about one asset, which is locked; how many there were."""
        now_ms = self.clock.now_ms()
        received = uow.inbox.pending(tenant, asset_id, limit, now_ms)
        advisories = self._readable(uow, received, now_ms)
        asset = uow.assets.get(tenant, asset_id)
        if asset is None:
            for row in received:
                uow.inbox.set_aside(row.id, f"asset: {asset_id} is not registered", now_ms)
        elif asset.deleted_at is None and advisories:
            self._note_storm(uow, asset, advisories, now_ms)
            reading = read_with_findings(uow, asset, advisories)
            uow.assets.record_health(tenant, reading.advisories[-1])
            self._follow(uow, asset, reading, now_ms)
        uow.inbox.mark_handled([row.id for row in received], now_ms)
        return len(received)

    def _note_storm(self, uow: UnitOfWork, asset: Asset, advisories: Sequence[Advisory], now_ms: int) -> None:
        """A hundred in a minute of the machine's time: told once an hour. There is one order for them all anyway."""
        span_ms = advisories[-1].observed_at - advisories[0].observed_at
        if len(advisories) < STORM_ADVISORIES or span_ms > STORM_MS:
            return
        if uow.assets.note_storm(asset.tenant, asset.asset, now_ms, now_ms - STORM_QUIET_MS):
            detail = {"advisories": len(advisories), "seconds": round(span_ms / 1000, 1)}
            uow.records.add_audit(
                AuditNote(
                    tenant=asset.tenant,
                    at=now_ms,
                    actor=ACTOR,
                    subject="asset",
                    subject_id=asset.asset,
                    action="advisory_storm",
                    detail=detail,
                )
            )

    def set_aside_oldest(self, uow: UnitOfWork, tenant: str, asset_id: str, reason: str) -> int:
        """Put the oldest advisory that waits about an asset, which is locked, into quarantine; how many there were."""
        now_ms = self.clock.now_ms()
        oldest = uow.inbox.pending(tenant, asset_id, 1, now_ms)
        for row in oldest:
            uow.inbox.set_aside(row.id, reason, now_ms)
        return len(oldest)

    def revisit_next(self, uow: UnitOfWork) -> bool:
        """Decide again on the episode that is most overdue; whether there was one."""
        now_ms = self.clock.now_ms()
        due = uow.episodes.next_due(now_ms)
        if due is None:
            return False
        asset = uow.assets.lock(due.tenant, due.asset)
        episode = uow.episodes.get(due.tenant, due.id)  # again, now that nobody else can change it
        if asset is None or episode != due:
            return True
        if asset.deleted_at is None and episode.cleared_at is None:
            uow.episodes.save(decide_on(uow, episode, asset, self.policy, now_ms))
        else:
            uow.episodes.save(replace(episode, revisit_at=None))
        return True

    def postpone_next(self, uow: UnitOfWork) -> bool:
        """Leave the most overdue episode for one review interval; whether there was one."""
        now_ms = self.clock.now_ms()
        due = uow.episodes.next_due(now_ms)
        if due is not None:
            revisit_at = now_ms + round(self.policy.times.review_hours * HOUR_MS)
            uow.episodes.save(replace(due, revisit_at=revisit_at))
        return due is not None

    def finish_next_transfer(self, uow: UnitOfWork) -> bool:
        """Put the part that should have arrived first into its depot; whether there was one."""
        now_ms = self.clock.now_ms()
        due = uow.parts.next_arrival(now_ms)
        if due is None:
            return False
        parts.finish_transfer(uow, due.tenant, due.order_id, due.part_no, ACTOR, now_ms)
        return True

    def _readable(self, uow: UnitOfWork, received: Sequence[ReceivedAdvisory], now_ms: int) -> list[Advisory]:
        """The advisories in the order the machine made them; what cannot be read goes into quarantine."""
        advisories = []
        for row in received:
            try:
                advisories.append(msgspec.convert(row.body, Advisory))
            except msgspec.ValidationError as error:
                uow.inbox.set_aside(row.id, f"advisory: {error}", now_ms)
        return sorted(advisories, key=lambda advisory: advisory.observed_at)

    def _follow(self, uow: UnitOfWork, asset: Asset, reading: Reading, now_ms: int) -> None:
        """All steps are taken one after the other; what to do is decided once, on what is known at the end."""
        asset_type = asset_type_of(asset.asset_type)
        repaired_at = uow.orders.last_repair_at(asset.tenant, asset.asset)
        reset_pending = uow.records.awaits_answer(asset, "reset_baseline")
        episode = uow.episodes.open_one(asset.tenant, asset.asset)
        order_open = episode is not None and has_open_order(uow, episode)
        undecided = unsaved = False
        for advisory in reading.advisories:
            step = follow(
                episode,
                advisory,
                asset_type,
                self.policy,
                tenant=asset.tenant,
                now_ms=now_ms,
                repaired_at=repaired_at,
                reset_pending=reset_pending,
                order_open=order_open,
            )
            kept = episode is not None and episode.baseline == "KEPT"
            undecided = (undecided or step.event in ("opened", "confirmed", "rediagnosed")) and step.event != "cleared"
            episode = step.episode
            if episode is None:
                continue
            if episode.advisory is advisory:
                episode = replace(episode, diagnosis_version=reading.version)
            unsaved = step.event not in ("opened", "rediagnosed", "cleared")
            if not unsaved:
                uow.episodes.save(episode)
            if step.event in ("opened", "rediagnosed", "cleared"):
                _note_episode(uow, episode, step.event, now_ms)
            if kept and episode.baseline == "ANEW":
                note_begun_anew(uow, episode, now_ms)
            if step.event == "cleared":
                withdraw(uow, episode, "evidence cleared", now_ms)
                episode, order_open = None, False
        if episode is not None and undecided and episode.cleared_at is None:
            uow.episodes.save(decide_on(uow, episode, asset, self.policy, now_ms))
        elif episode is not None and unsaved:
            uow.episodes.save(episode)


def _note_episode(uow: UnitOfWork, episode: Episode, action: str, at: int) -> None:
    uow.records.add_audit(
        AuditNote(
            tenant=episode.tenant,
            at=at,
            actor=ACTOR,
            subject="episode",
            subject_id=episode.id,
            action=action,
            detail={"asset": episode.asset, "failure_mode": episode.failure_mode, "since": episode.started_at},
        )
    )
