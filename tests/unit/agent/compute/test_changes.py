"""Hints of changed machines."""

from __future__ import annotations

from contextlib import aclosing

from unkai_agent.compute.changes import ChangeFeed


async def test_hints_for_one_machine_are_merged_until_read() -> None:
    feed = ChangeFeed()
    changes = feed.subscribe()
    for instance_id in ("a", "b", "a"):
        feed.publish(instance_id)
    feed.close()
    assert [c async for c in changes] == ["a", "b"]


async def test_each_subscriber_gets_what_came_after_it_asked() -> None:
    feed = ChangeFeed()
    early = feed.subscribe()
    feed.publish("a")
    late = feed.subscribe()
    feed.publish("b")
    feed.close()
    assert [c async for c in early] == ["a", "b"]
    assert [c async for c in late] == ["b"]


async def test_a_slow_subscriber_loses_the_oldest_hints() -> None:
    feed = ChangeFeed(limit=2)
    changes = feed.subscribe()
    for instance_id in ("a", "b", "c"):
        feed.publish(instance_id)
    feed.close()
    assert [c async for c in changes] == ["b", "c"]


async def test_a_subscriber_that_leaves_is_forgotten() -> None:
    feed = ChangeFeed()
    feed.publish("before")
    async with aclosing(feed.subscribe()) as changes:  # type: ignore[type-var]
        feed.publish("a")
        assert await anext(changes) == "a"
    assert feed.subscriber_count == 0
