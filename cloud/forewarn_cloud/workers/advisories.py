"""Advisories become orders: any number of these workers may run over the same inbox; each holds one asset at a time."""

import logging
import threading
from dataclasses import dataclass
from typing import Final

from forewarn_cloud.errors import ServiceError, Unavailable
from forewarn_cloud.ports import Transactions, UnitOfWork
from forewarn_cloud.service.chain import Chain

BATCH: Final = 100
POLL_SECONDS: Final = 0.1
UNAVAILABLE_SECONDS: Final = 1.0

_log = logging.getLogger(__name__)
_Target = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Advisories:
    """Takes what waits about one asset, acts on it and marks it handled, all in one transaction.

    A crash anywhere leaves the advisories waiting, and nothing done.
    """

    transactions: Transactions
    chain: Chain

    def run(self, stopping: threading.Event) -> None:
        """Work until `stopping` is set. For a thread of its own."""
        while not stopping.is_set():
            try:
                pause = 0.0 if self.handle_next() else POLL_SECONDS
            except Unavailable as error:
                _log.warning("advisories wait for the database: %s", error)
                pause = UNAVAILABLE_SECONDS
            stopping.wait(pause)

    def handle_next(self, limit: int = BATCH) -> int:
        """Act on the advisories about the asset that has waited longest; how many there were, 0 if none wait."""
        taken = list[_Target]()

        def work(uow: UnitOfWork) -> int:
            taken[:] = filter(None, [uow.inbox.next_asset(self.chain.clock.now_ms())])
            return sum(self.chain.handle_advisories(uow, *target, limit) for target in taken)

        try:
            return self.transactions.run(work)
        except ServiceError:
            raise
        except Exception as error:
            # A mistake of ours with one advisory must hold up neither the others about its asset nor other assets.
            if not taken:
                raise
            _log.exception("advisories about %s/%s cannot be handled", *taken[0])
            return self._handle_oldest(taken[0], error) if limit > 1 else self._set_aside(taken[0], error)

    def _handle_oldest(self, target: _Target, error: Exception) -> int:
        """One by one, so that only the advisory at fault is set aside."""

        def work(uow: UnitOfWork) -> int:
            uow.assets.lock(*target)
            return self.chain.handle_advisories(uow, *target, 1)

        try:
            return self.transactions.run(work)
        except ServiceError:
            raise
        except Exception as again:  # noqa: BLE001 - one advisory must not hold up the others
            _log.error("the oldest advisory about %s/%s is set aside after: %s", *target, error)
            return self._set_aside(target, again)

    def _set_aside(self, target: _Target, error: Exception) -> int:
        reason = f"advisory: could not be handled: {type(error).__name__}: {error}"

        def work(uow: UnitOfWork) -> int:
            uow.assets.lock(*target)
            return self.chain.set_aside_oldest(uow, *target, reason)

        return self.transactions.run(work)
