"""The virtual accounts of champion and challenger: the same decisions, by the rules of a desk's player."""

from __future__ import annotations

from typing import Any

from daemon.core.events import Event, PolicyAnswered, SessionScheduled, ShadowAnswered, ShadowFailed
from daemon.core.state import State
from daemon.models.ladder.minute_play import MinuteSharePlay, player_of
from daemon.models.shadow_play import Play
from strategies.kit.contract import Answer, AnyStrategy


class ShadowAccount:
    """`observe` must see every step while a challenger answers in shadow; `close` ends a session."""

    def __init__(self, strategy: AnyStrategy) -> None:
        self._strategy = strategy
        self._plays: tuple[Play, Play] | None = None  # the champion's, the challenger's
        self._before: State[Any] | None = None  # the state before the step
        self._asked: tuple[State[Any], PolicyAnswered] | None = None
        self._answered = self._failed = 0
        self._counted = (0.0, 0.0)

    def observe(self, event: Event, state: State[Any], version: str) -> None:
        """Play both answers to the same question."""
        before, self._before = self._before, state
        if self._plays is None:
            cash = float(state.trading.paper.cash_usd)
            self._plays = (player_of(self._strategy, cash), player_of(self._strategy, cash))
        for play in self._plays:
            if isinstance(play, MinuteSharePlay):
                play.watch(state, event)
        match event:
            case PolicyAnswered() if before is not None:
                self._asked = (before, event)
            case ShadowAnswered(model=model) if model == version and self._is_of(event.decision):
                assert self._asked is not None
                asked, live = self._asked
                self._answered += 1
                self._plays[0].decide(asked, Answer(live.logits, live.hidden, live.heads))
                self._plays[1].decide(asked, Answer(event.logits, event.hidden, event.heads))
            case ShadowFailed(model=model) if model == version:
                self._failed += 1
            case SessionScheduled():
                self._asked = None
            case _:
                pass

    def close(self, state: State[Any]) -> dict[str, float] | None:
        """End the session: answers, failures and results as parts of paper.cash_usd; None where it was not asked."""
        answered, failed, self._answered, self._failed = self._answered, self._failed, 0, 0
        if self._plays is None or not answered + failed:
            return None
        for play in self._plays:
            play.end(state)
        cash = float(state.trading.paper.cash_usd)
        theirs, ours = (sum(play.pnl_usd.values()) for play in self._plays)
        before, self._counted = self._counted, (theirs, ours)
        return {
            "answered": float(answered),
            "failed": float(failed),
            "champion_pnl": (theirs - before[0]) / cash,
            "pnl": (ours - before[1]) / cash,
        }

    def _is_of(self, decision: int) -> bool:
        return self._asked is not None and self._asked[1].decision == decision
