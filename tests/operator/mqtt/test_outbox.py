"""The outbox: bounded, the oldest goes first, the newest of a retained topic stays, and everything is accounted for."""

from __future__ import annotations

import asyncio
import threading

from hypothesis import given
from hypothesis import strategies as st

from daemon.operator.mqtt.outbox import Item, Outbox


async def _drained(outbox: Outbox) -> list[Item]:
    """All items that wait, each marked as published."""
    items: list[Item] = []
    while len(items) < 10_000 and outbox.counts().waiting:
        items.append(await outbox.get())
        outbox.published()
    return items


async def test_what_is_put_comes_out_in_its_order() -> None:
    outbox = Outbox(10)
    for number in range(4):
        outbox.put("bars", number)
    assert [item.thing for item in await _drained(outbox)] == [0, 1, 2, 3]


async def test_a_full_outbox_drops_the_oldest_and_counts_it() -> None:
    outbox = Outbox(3)
    for number in range(10):
        outbox.put("bars", number)
    assert outbox.counts()._asdict() == {
        "offered": 10,
        "published": 0,
        "dropped": 7,
        "conflated": 0,
        "refused": 0,
        "waiting": 3,
    }
    assert [item.thing for item in await _drained(outbox)] == [7, 8, 9]


async def test_of_a_retained_topic_only_the_newest_waits_and_none_is_dropped() -> None:
    outbox = Outbox(2)
    for number in range(5):
        outbox.put_retained("status", number)
        outbox.put("bars", number)
    counts = outbox.counts()
    assert (counts.conflated, counts.dropped, counts.waiting) == (4, 3, 3)
    items = await _drained(outbox)
    assert {(item.topic, item.thing) for item in items} == {("status", 4), ("bars", 3), ("bars", 4)}


async def test_a_retained_topic_that_never_rests_does_not_keep_others_waiting() -> None:
    outbox = Outbox(10)
    outbox.put("alarms", "halt")
    topics = []
    for number in range(4):
        outbox.put_retained("equity", number)
        topics.append((await outbox.get()).topic)
        outbox.published()
    assert "alarms" in topics


async def test_what_was_not_told_comes_first_again() -> None:
    outbox = Outbox(10)
    for number in range(4):
        outbox.put("orders", number)
    items = [await outbox.get() for _ in range(2)]
    outbox.give_back(items)
    assert outbox.counts().waiting == 4
    assert [item.thing for item in await _drained(outbox)] == [0, 1, 2, 3]


async def test_a_retained_one_that_was_not_told_yields_to_a_newer_one() -> None:
    outbox = Outbox(10)
    outbox.put_retained("status", "old")
    first_item = await outbox.get()
    outbox.put_retained("status", "new")
    outbox.give_back([first_item])
    assert [item.thing for item in await _drained(outbox)] == ["new"]
    assert outbox.counts().conflated == 1


async def test_whoever_waits_is_woken_by_another_thread() -> None:
    outbox = Outbox(10)
    waiting = asyncio.create_task(outbox.get())
    await asyncio.sleep(0.03)  # it sleeps now and has asked to be woken
    thread = threading.Thread(target=outbox.put, args=("bars", 1))
    thread.start()
    assert (await asyncio.wait_for(waiting, 180)).thing == 1
    thread.join()


def test_putting_where_the_side_thread_has_ended_raises_nothing() -> None:
    outbox = Outbox(10)

    async def wait_in_vain() -> None:
        waiting = asyncio.create_task(outbox.get())
        await asyncio.sleep(0.03)
        waiting.cancel()

    asyncio.run(wait_in_vain())
    outbox.put("bars", 1)
    outbox.put_retained("status", 1)
    assert outbox.counts().waiting == 2


_ACTS = st.lists(st.sampled_from(("put", "retained", "published", "refused", "back")), max_size=60)


@given(_ACTS, st.integers(1, 4))
def test_everything_offered_is_always_accounted_for(acts: list[str], limit: int) -> None:
    async def play() -> None:
        outbox = Outbox(limit)
        number = 0
        for act in acts:
            if act in ("put", "retained"):
                number += 1
                (outbox.put if act == "put" else outbox.put_retained)("topic", number)
            elif (counts := outbox.counts()).waiting:
                item = await outbox.get()
                match act:
                    case "published":
                        outbox.published()
                    case "refused":
                        outbox.refused()
                    case _:
                        outbox.give_back([item])
            counts = outbox.counts()
            assert counts.offered == number
            assert counts.waiting <= limit + 2
            assert counts.published + counts.dropped + counts.conflated + counts.refused + counts.waiting == number

    asyncio.run(play())


def test_two_threads_at_once_lose_nothing_uncounted() -> None:
    outbox, total = Outbox(50), 20_000
    things: list[int] = []

    async def take() -> None:
        while True:
            item = await outbox.get()
            outbox.published()
            assert isinstance(item.thing, int)
            things.append(item.thing)
            if item.thing == total - 1:
                return

    def put() -> None:
        for number in range(total):
            outbox.put("bars", number)

    thread = threading.Thread(target=put)

    async def put_and_get() -> None:
        taking = asyncio.create_task(take())
        await asyncio.sleep(0)
        thread.start()
        await asyncio.wait_for(taking, 60)

    asyncio.run(put_and_get())
    thread.join()
    counts = outbox.counts()
    assert things == sorted(set(things))
    assert counts.published == len(things)
    assert (counts.published + counts.dropped, counts.waiting) == (total, 0)
