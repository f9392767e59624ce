"""What time alone brings: episodes are decided on again when they are due, and parts in transfer arrive."""

import logging
import threading
from dataclasses import dataclass
from typing import Final

from forewarn_cloud.errors import ServiceError, Unavailable
from forewarn_cloud.ports import Transactions
from forewarn_cloud.service.chain import Chain

POLL_SECONDS: Final = 0.5

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Revisits:
    """Each step is one transaction; any number of these workers may run."""

    transactions: Transactions
    chain: Chain

    def run(self, stopping: threading.Event) -> None:
        """Work until `stopping` is set. For a thread of its own."""
        while not stopping.is_set():
            try:
                worked = self.transactions.run(self.chain.finish_next_transfer) or self.revisit_next()
            except Unavailable as error:
                _log.warning("revisits wait for the database: %s", error)
                worked = False
            if not worked:
                stopping.wait(POLL_SECONDS)

    def revisit_next(self) -> bool:
        """Decide again on the episode that is most overdue; whether there was one."""
        try:
            return self.transactions.run(self.chain.revisit_next)
        except ServiceError:
            raise
        except Exception:  # noqa: BLE001 - whatever is wrong with one episode must not hold up the others
            _log.exception("an episode cannot be decided on; it is tried again after the review interval")
            return self.transactions.run(self.chain.postpone_next)
