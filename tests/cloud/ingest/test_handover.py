"""The hand-over is bounded, and hands out everything it took."""

import threading

from forewarn_cloud.ingest.handover import BATCH_BYTES, BATCH_MESSAGES, MAX_BYTES, MAX_MESSAGES, HandOver
from forewarn_cloud.ingest.messages import Delivery
from tests.conftest import wait_until


def delivery(number: int = 0, size: int = 0) -> Delivery:
    return Delivery(topic=str(number), payload=bytes(size))


def take(handover: HandOver) -> list[Delivery]:
    return handover.take(wait_seconds=0.0, fill_seconds=0.0)


def test_batches_are_bounded_in_number_and_bytes_and_keep_the_order() -> None:
    handover = HandOver()
    for number in range(BATCH_MESSAGES + 5):
        assert handover.put(delivery(number))
    assert [len(take(handover)) for _ in range(3)] == [BATCH_MESSAGES, 5, 0]
    for number in range(5):
        handover.put(delivery(number, BATCH_BYTES // 2))
    batches = [[int(found.topic) for found in take(handover)] for _ in range(3)]
    assert batches == [[0, 1], [2, 3], [4]]


def test_what_is_full_makes_the_sender_wait() -> None:
    for messages, size in ((MAX_MESSAGES, 0), (4, MAX_BYTES // 4)):
        handover = HandOver()
        for number in range(messages):
            handover.put(delivery(number, size))
        went_on = threading.Event()
        sender = threading.Thread(
            target=lambda h=handover, e=went_on: e.set() if h.put(delivery()) else None, daemon=True
        )
        sender.start()
        assert not went_on.wait(0.05)
        take(handover)
        assert went_on.wait(10)
        sender.join()


def test_closing_frees_who_waits_and_hands_out_the_rest() -> None:
    handover = HandOver()
    for number in range(MAX_MESSAGES):
        handover.put(delivery(number))
    taken = list[bool]()
    sender = threading.Thread(target=lambda: taken.append(handover.put(delivery())), daemon=True)
    sender.start()
    handover.close()
    sender.join(10)
    assert taken == [False], "it is not acknowledged, so the broker delivers it again"
    assert sum(len(take(handover)) for _ in range(20)) == MAX_MESSAGES
    assert take(handover) == []


def test_a_message_ends_the_waiting() -> None:
    handover, batches = HandOver(), list[list[Delivery]]()
    taker = threading.Thread(target=lambda: batches.append(handover.take(wait_seconds=30.0, fill_seconds=0.0)))
    taker.start()
    handover.put(delivery())
    taker.join(10)
    wait_until(lambda: len(batches) == 1, "it was handed out")
    assert len(batches[0]) == 1
