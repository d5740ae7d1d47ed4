"""The channel of one request: order, merging, the end."""

import asyncio

from server.rpc.events import EventBridge, EventChannel
from server.types import Delta, Event, Failed, TokenLogprob


def delta(index: int, token_id: int) -> Delta:
    return Delta(f"<{token_id}>", (token_id,), (TokenLogprob(token_id, -1.0),), index)


async def read_all(channel: EventChannel) -> list[Event]:
    events = [await channel.next()]
    while isinstance(events[-1], Delta):
        events.append(await channel.next())
    return events


async def test_what_piled_up_comes_as_one_delta_per_sample() -> None:
    channel = EventChannel()
    end = Failed(RuntimeError())
    for event in (delta(1, 10), delta(0, 20), delta(1, 11), delta(2, 30), delta(0, 21), end):
        channel.put(event)
    assert channel.ended
    first, second, third, last = await read_all(channel)
    assert first == Delta("<10><11>", (10, 11), (TokenLogprob(10, -1.0), TokenLogprob(11, -1.0)), 1)
    assert (second.token_ids, second.index) == ((20, 21), 0)
    assert third == delta(2, 30)
    assert last is end


async def test_a_reader_that_keeps_up_gets_each_delta() -> None:
    bridge = EventBridge(asyncio.get_running_loop())
    channel = EventChannel()
    sent = [delta(i % 2, i) for i in range(6)]

    async def send() -> None:
        for event in sent:
            bridge.emit(channel, event)
            await asyncio.sleep(0.001)
        bridge.emit(channel, Failed(RuntimeError()))

    sender = asyncio.create_task(send())
    events = await read_all(channel)
    await sender
    assert events[:-1] == sent
