"""The deterministic machine: core, paper broker and the queue of caused events, advanced one event at a time.

Live replay, recovery, verify and training's evaluation all drive this one class, so they cannot differ. The queue holds
events of the paper broker and open questions to the policy, in the order in which they were caused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from daemon.core.draft import PaperMarket
from daemon.core.effects import AnyEffect, AskPolicy
from daemon.core.events import FEED_EVENTS, Event, PolicyAnswered, PolicyFailed
from daemon.core.state import State
from daemon.core.step import Core, Step

Caused = Event | AskPolicy
PolicyEvent = PolicyAnswered | PolicyFailed
ANSWERS = (PolicyAnswered, PolicyFailed)


class Divergence(ValueError):
    """A journaled event differs from the one that the events before it cause."""


class Machine:
    """One desk in memory: `state`, the paper broker's own (None with a real broker), and the queue."""

    __slots__ = ("core", "market", "market_state", "queue", "state")

    def __init__(
        self, core: Core, state: State[Any], market: PaperMarket | None = None, market_state: Any = None
    ) -> None:
        self.core = core
        self.state = state
        self.market = market
        self.market_state: Any = market_state  # returned by the market's `start` and `step`
        self.queue: deque[Caused] = deque()

    @property
    def caused(self) -> tuple[type[Event], ...]:
        """The kinds of event that follow from earlier ones; all others come from outside."""
        return ANSWERS if self.market is None else (*self.market.EMITS, *ANSWERS)

    def apply(self, event: Event) -> Step:
        """Step one event and queue what it causes. When it raises, nothing has changed."""
        step = self.core.step(self.state, event)
        return self._moved(event, step, step.effects)

    def _moved(self, event: Event, step: Step, left: tuple[AnyEffect, ...]) -> Step:
        """Move to the result of a step, and step the market with the effects that `left`."""
        if self.market is not None and self.market_state is not None:
            market_state, news = self.market.step(self.market_state, event, left)
            self.market_state = market_state
            self.queue.extend(news)
        self.state = step.state
        for effect in step.effects:
            if type(effect) is AskPolicy and not effect.served:
                self.queue.append(effect)
        return step

    def reapply(self, event: Event) -> Step:
        """Apply a journaled event: caused events must come in their order.

        With a real broker only the answers to questions are caused, and a served one comes from outside. Raises
        Divergence when the journal holds another event than the paper broker emitted, or an answer without a question.
        """
        if isinstance(event, self.caused) and not self._is_served(event):
            expected = self.queue.popleft() if self.queue else None
            if expected is None or not _follows(expected, event):
                what = "an answer" if isinstance(expected, AskPolicy) else repr(expected)
                raise Divergence(f"the journal holds {event!r} where {what} follows from the events before it")
        return self.apply(event)

    def _is_served(self, event: Event) -> bool:
        """Return whether this answers an open question that went to another process."""
        ask = self.state.ask
        return isinstance(event, ANSWERS) and ask is not None and ask.served and ask.decision == event.decision

    def take(self, event: Event, left: tuple[AnyEffect, ...]) -> Step:
        """Apply a journaled event as other code stepped it: `left` is what left the process then.

        Expected events that did not come are dropped. When it raises, nothing but the queue has changed.
        """
        if isinstance(event, FEED_EVENTS):
            self.queue.clear()  # an engine reads its source only when the queue is empty
        elif isinstance(event, self.caused):
            while self.queue and not _follows(self.queue.popleft(), event):
                pass
        step = self.core.take(self.state, event, left)
        return self._moved(event, step, left)

    def run(
        self,
        feed: Iterable[Event],
        answer: Callable[[AskPolicy, int], PolicyEvent],
        watch: Callable[[Event, Step], None] | None = None,
    ) -> State[Any]:
        """Step a whole feed in memory; the next event enters when the queue of caused events is empty.

        `answer(question, now_ns)` is the policy. Returns the last state.
        """
        for fed in feed:
            event: Event = fed
            while True:
                step = self.apply(event)
                if watch is not None:
                    watch(event, step)
                if not self.queue:
                    break
                caused = self.queue.popleft()
                event = answer(caused, self.state.now_ns) if isinstance(caused, AskPolicy) else caused
        return self.state


def _follows(expected: Caused, event: Event) -> bool:
    """Return whether `event` is what was expected: that very event, or an answer to that question."""
    if isinstance(expected, AskPolicy):
        return isinstance(event, ANSWERS) and event.decision == expected.decision
    return event == expected
