"""A rule's desk on a bars file, in memory, with core, gates, orders and paper broker; and the rule's baselines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.core.limits import Trading
from strategies.kit.contract import AnyStrategy, Float32Array, Spec
from strategies.kit.entry import RULE
from strategies.registry import entry, strategy
from training.data.daily_table import read_table
from training.desks.own.sessions import minutes_of
from training.evaluate import days as daily
from training.evaluate.bars import BarDesk
from training.evaluate.machine import Numbers
from training.study.study import PlayResult

CERTAIN = 10.0  # the value of the action that a baseline takes; other actions have 0


@dataclass(frozen=True, slots=True)
class RuleDesk:
    """One account of a rule's desk on the sessions of a file."""

    strategy: AnyStrategy
    days: tuple[str, ...]  # sessions that have a decision, ascending
    sha256: str  # of the bars
    synthetic: str  # the label of made-up bars
    remark: str  # what of the bars counts for nothing, for a person
    play: Callable[[Numbers, Sequence[str], Trading], PlayResult]  # one account through all of these sessions

    @property
    def spec(self) -> Spec:
        """The contract of the strategy."""
        return self.strategy.spec


def rule_desk(name: str, bars: Path, trading: Trading, config: str = "") -> RuleDesk:
    """Read a bars file for a rule with the parameters of this canonical text.

    Raises:
        TapeError, CalendarError: the file cannot be read.
        ValueError: the strategy is no rule.
    """
    if not is_rule(name):
        raise ValueError(f"{name} is no rule: its StrategyEntry has training={entry(name).training!r}, not kit.RULE")
    rule: Any = strategy(name, (), config)
    return _DESKS[rule.spec.decides](rule, bars, trading)


def is_rule(name: str) -> bool:
    """Whether the strategy's own answer is its policy."""
    return entry(name).training == RULE


def _of_days(rule: Any, bars: Path, _: Trading) -> RuleDesk:
    table = read_table(bars, rule)

    def play(player: Numbers, dates: Sequence[str], trading: Trading) -> PlayResult:
        return daily.dry_run(player, daily.desk_before(table, dates, rule, trading))

    return RuleDesk(rule, table.dates[table.first_decision :], table.sha256, table.synthetic, table.remark, play)


def _of_bars(rule: Any, bars: Path, trading: Trading) -> RuleDesk:
    minutes = minutes_of(bars, rule.spec, trading)
    desk = BarDesk(rule, lambda _date, _trading: (minutes.source, len(minutes.dates)), always(rule.spec, 0))

    def play(player: Numbers, dates: Sequence[str], trading: Trading) -> PlayResult:
        return desk.relay([player], [dates], trading)[0]

    days, info = minutes.dates[minutes.warmup_sessions :], minutes.info
    return RuleDesk(rule, days, info.sha256, info.synthetic, info.remark, play)


_DESKS: Mapping[str, Callable[[Any, Path, Trading], RuleDesk]] = {"session": _of_days, "bar": _of_bars}


def own_answer(spec: Spec) -> Numbers:
    """The policy of a rule: the last numbers of its observation, one for each action."""
    count = len(spec.actions)

    def answer(observation: Float32Array) -> list[float]:
        answers: list[float] = observation.reshape(-1)[-count:].tolist()
        return answers

    return Numbers(answer)


def always(spec: Spec, place: int) -> Numbers:
    """The baseline that takes the action of this place at each decision."""
    answer = [CERTAIN * (index == place) for index in range(len(spec.actions))]
    return Numbers(lambda _: answer)
