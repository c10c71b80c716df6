"""Events onto a publisher by topic, with a sink and without: what is published is received, in order."""

from __future__ import annotations

from collections import defaultdict

from _common import MEMORY, TOOL_USE, claim, main

from asm_core import ScriptedAdapter, StreamSession, open_manager
from asm_core.rendering import PassthroughRenderer, PubSubSink, arender_stream
from asm_core.rendering.pubsub import Message, encode, topic_of


class Broker:
    """In memory. With Redis the same function is `lambda topic, message: redis.publish(topic, encode(message))`."""

    def __init__(self) -> None:
        self.received: dict[str, list[Message]] = defaultdict(list)

    async def publish(self, topic: str, message: Message) -> None:
        self.received[topic].append(message)


async def example() -> None:
    broker = Broker()
    async with open_manager(MEMORY, ScriptedAdapter()) as manager:
        async with StreamSession(manager, TOOL_USE) as stream:
            one_topic = PubSubSink(broker.publish, topic="asm:examples:all")
            by_session = PubSubSink(broker.publish)
            by_type = PubSubSink(broker.publish, scope="type", prefix="examples")
            await arender_stream(stream, renderer=PassthroughRenderer(), sinks=[one_topic, by_session, by_type])
        events = await manager.get_session_events(stream.session_id)
    claim("received is what was stored", [message[2] for message in broker.received["asm:examples:all"]] == events)
    claim("and what was counted", one_topic.broadcast_count == by_session.broadcast_count == len(events))
    claim("a session has its topic", len(broker.received[topic_of(events[0])]) == len(events))
    tools = broker.received[f"examples:session:{stream.session_id}:type:tool_call_started"]
    claim("and so has each type in it", len(tools) == 2)
    print(encode(tools[0]).decode())


if __name__ == "__main__":
    main(example)
