"""Hands messages from the network thread to the writer: bounded in number and in bytes."""

import time
from collections import deque
from threading import Condition
from typing import Final

from forewarn_cloud.ingest.messages import Delivery

MAX_MESSAGES: Final = 8192
MAX_BYTES: Final = 32 * 1024 * 1024
BATCH_MESSAGES: Final = 1000
BATCH_BYTES: Final = 8 * 1024 * 1024


class HandOver:
    """`put` blocks while it is full, which makes the broker wait; `take` ends with an empty batch once it is closed."""

    def __init__(self) -> None:
        self._waiting = deque[Delivery]()
        self._bytes = 0
        self._closed = False
        self.left_over = False
        """Whether there was more than the last batch could hold."""
        self._changed = Condition()

    def put(self, delivery: Delivery) -> bool:
        """False if it was closed: the delivery is not taken, and is to be left unacknowledged."""
        with self._changed:
            if self.full:
                self._changed.wait_for(lambda: self._closed or not self.full)
            if self._closed:
                return False
            self._waiting.append(delivery)
            self._bytes += len(delivery.payload)
            if len(self._waiting) == 1 or self._batch_is_full():  # what `take` waits for, and nothing between
                self._changed.notify_all()
            return True

    def take(self, *, wait_seconds: float, fill_seconds: float) -> list[Delivery]:
        """A batch: waits for the first message, and then a little for more, so that a transaction is worth its sync."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting, wait_seconds)
            if not self._waiting:
                return []
            deadline = time.monotonic() + fill_seconds
            self._changed.wait_for(self._batch_is_full, max(0.0, deadline - time.monotonic()))
            batch = self._pop_batch()
            self._changed.notify_all()
            return batch

    def close(self) -> None:
        """Take nothing more. What waits is still handed out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def full(self) -> bool:
        """Whether `put` would wait."""
        return len(self._waiting) >= MAX_MESSAGES or self._bytes >= MAX_BYTES

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def fill(self) -> float:
        """0 empty, 1 full, by whichever of the bounds is nearer."""
        return min(1.0, max(len(self._waiting) / MAX_MESSAGES, self._bytes / MAX_BYTES))

    def _batch_is_full(self) -> bool:
        return self._closed or len(self._waiting) >= BATCH_MESSAGES or self._bytes >= BATCH_BYTES

    def _pop_batch(self) -> list[Delivery]:
        batch, size = list[Delivery](), 0
        while self._waiting and len(batch) < BATCH_MESSAGES and size < BATCH_BYTES:
            batch.append(self._waiting.popleft())
            size += len(batch[-1].payload)
        self._bytes -= size
        self.left_over = bool(self._waiting)
        return batch
