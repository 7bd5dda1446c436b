"""What a run in memory does with the messages in its inbox.

Messages are taken in arrival order, so in order per sender; one that nobody waits for yet stays.
Topics that begin with ``$`` are holdfast's own: ``$cancel``, ``$resolve``, ``$accept`` steer the
run, ``$child`` and ``$child-failed`` bring the end of a child. The empty topic begins a turn of an
agent with state.
"""

import json

from holdfast.core import events as ev
from holdfast.core.machine import CANCEL_TOPIC
from holdfast.ports import InboxMessage, Message
from holdfast.runtime.hosting import Host

__all__ = ["Inbox"]


class Inbox:
    """The unread messages of one run in memory."""

    def __init__(self, runner: Host) -> None:
        self._runner = runner
        self._unread: list[InboxMessage] = []
        self.seen = 0

    def add(self, messages: list[InboxMessage]) -> None:
        """Add messages read from the store."""
        for message in messages:
            if message.n > self.seen:
                self._unread.append(message)
                self.seen = message.n

    def serve(self) -> None:
        """Take in every message that somebody waits for, until none is left."""
        while self._unread and (found := self._next()) is not None:
            self._unread.remove(found)
            self._runner.log.take(found.n)
            self._take(found.message)
            if self._runner.closing:
                return

    def _next(self) -> InboxMessage | None:
        return next((m for m in self._unread if self._is_wanted(m.message)), None)

    def _is_wanted(self, message: Message) -> bool:
        runner = self._runner
        machine = runner.machine
        state = runner.log.state
        match message.topic:
            case "$cancel":
                return not state.cancelling or machine is None
            case "$accept":
                return True
            case "$resolve":
                return True
            case "$child" | "$child-failed":
                return machine is not None and any(
                    c.kind == "child" and c.topic == message.sender for c in machine.calls.values()
                )
            case "":
                idle = machine is None or machine.ended
                ready = state.status in ("idle", "pending") or runner.may_begin()
                return runner.agent.has_state and idle and ready
            case topic:
                return machine is not None and any(
                    c.kind == "message" and c.topic == topic for c in machine.calls.values()
                )

    def _take(self, message: Message) -> None:
        runner = self._runner
        match message.topic:
            case "$cancel":
                by = json.loads(message.payload).get("by", "")
                if runner.machine is None or runner.machine.ended:
                    runner.cancel_without_code(by, message.cause)
                else:
                    runner.take_in(ev.CancelRequested(by), None, message.cause)
            case "$accept":
                runner.accept(json.loads(message.payload).get("by", ""), message.cause)
            case "$resolve":
                runner.resolve(json.loads(message.payload), message.cause)
            case "$child" | "$child-failed":
                self._take_child(message)
            case "":
                runner.begin_turn(message.payload, message.cause, message.id, message.sub)
            case topic:
                assert runner.machine is not None
                waiting = runner.machine.calls.values()
                call = next(c for c in waiting if c.kind == "message" and c.topic == topic)
                body = ev.MessageReceived(call.key, topic, message.id)
                runner.take_in(body, message.payload, message.cause, message.sub)

    def _take_child(self, message: Message) -> None:
        machine = self._runner.machine
        assert machine is not None
        call = next(
            c for c in machine.calls.values() if c.kind == "child" and c.topic == message.sender
        )
        body = ev.ChildFinished(call.key, message.sender, ok=message.topic == "$child")
        self._runner.take_in(body, message.payload, message.cause, message.sub)


assert CANCEL_TOPIC == "$cancel"
