"""What a candidate would have earned, against whole runs of the desk: equal to the cent, for each kind of desk.

Expected values are read by plain SQL from the journal of a desk on which the same answers were the live ones.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from daemon.core.effects import AskPolicy
from daemon.core.events import (
    Event,
    FlattenRequested,
    HaltRequested,
    PauseRequested,
    PolicyAnswered,
    PolicyFailed,
    ResumeRequested,
    ShadowAnswered,
    ShadowFailed,
)
from daemon.core.state import State
from daemon.engine.engine import EventSource
from daemon.journal.journal import FILE
from daemon.reports.shadow import Hypothetical, shadow_reports
from strategies import regime_switcher
from strategies.kit.units import DAY_NS, MINUTE_NS
from strategies.registry import STRATEGIES
from tests.support.core.share_bars import SPEC as TOY
from tests.support.core.share_bars import EveryThird, ShareBars
from tests.support.desks.desk_run import Desk, crashed, records, tape_rows, write_tape
from tests.support.desks.share_bar_run import toy_on
from tests.support.models.daily_models import VERSION, put_models, write_days

CENT = 0.005
FAILS = -1  # in a script


class Policy(Protocol):
    """A policy of the engine."""

    def answer(self, question: AskPolicy, now_ns: int) -> Any: ...


class Beside:
    """Answers beside the live model as a policy does, and fails where it fails."""

    shadow = "candidate"

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def shadow_answer(self, question: AskPolicy, state: State[Any]) -> ShadowAnswered | ShadowFailed:
        answer = self._policy.answer(question, state.now_ns)
        if isinstance(answer, PolicyFailed):
            return ShadowFailed(answer.time_ns, answer.decision, answer.reason, "candidate")
        return ShadowAnswered(answer.time_ns, answer.decision, answer.logits, answer.hidden, "candidate")


class InTurn:
    """Chooses the actions of a script in turn, by the time alone, whatever the desk holds; at FAILS it fails."""

    def __init__(self, script: tuple[int, ...], actions: int, every_ns: int) -> None:
        self._script, self._actions, self._every_ns = script, actions, every_ns

    def answer(self, question: AskPolicy, now_ns: int) -> PolicyAnswered | PolicyFailed:
        choice = self._script[now_ns // self._every_ns % len(self._script)]
        if choice == FAILS:
            return PolicyFailed(now_ns, question.decision, "planted")
        logits = tuple(8.0 * (place == choice) for place in range(self._actions))
        return PolicyAnswered(now_ns, question.decision, logits, question.observation.hidden, "candidate")


class Stage(Protocol):
    """A desk on a tape: runs with its own policy or another one, and a candidate beside it."""

    cash: float
    policy: Policy
    other: Policy

    def run(self, path: Path, policy: Policy, shadow: Any = None) -> Path: ...


class OnTape:
    """A desk as the daemon assembles it for a replay."""

    def __init__(self, desk: Desk, other: Policy) -> None:
        self.desk, self.other = desk, other
        self.policy: Policy = desk.replay.policy
        self.cash = float(desk.replay.settings.trading().paper.cash_usd)

    def run(self, path: Path, policy: Policy, shadow: Any = None) -> Path:
        replay: Any = self.desk.replay
        replay.policy = policy
        outcome = self.desk.run(path, shadow=shadow)
        assert outcome.failure is None
        return path


class Toy:
    """The toy desk of shares by the bar."""

    cash = 10_000.0
    policy: Policy = EveryThird()
    other: Policy = InTurn((1, FAILS, 0, 0, 1, 0, FAILS), 2, MINUTE_NS)

    def __init__(self, folder: Path) -> None:
        self._toy = toy_on(folder, sessions=3, bars=40)

    def run(self, path: Path, policy: Policy, shadow: Any = None) -> Path:
        assert self._toy.run(path, policy=policy, shadow=shadow)
        return path


def options(folder: Path) -> Stage:
    desk = Desk(write_tape(folder / "tape.csv", tape_rows(3, 60)))
    return OnTape(desk, InTurn((1, FAILS, 0, 3, 2, 0, 5), 6, MINUTE_NS))


def days(folder: Path) -> Stage:
    tape = write_days(folder / "days.csv", regime_switcher.SYMBOLS, 330)
    desk = Desk(
        tape,
        desk__strategy=regime_switcher.SPEC.name,
        paths__models_dir=put_models(folder / "models"),
        policy__version=VERSION,
    )
    return OnTape(desk, InTurn((1, 2, FAILS, 0, 3, 3, 1), len(regime_switcher.REGIMES), DAY_NS))


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enter the toy desk's strategy by its one line."""
    monkeypatch.setitem(STRATEGIES, TOY.name, ShareBars.__module__)


@pytest.fixture(scope="module", params=[options, Toy, days], ids=["options", "shares by the bar", "days"])
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    factory: Callable[[Path], Stage] = request.param
    return factory(tmp_path_factory.mktemp("stage"))


def earned(state: Path, cash: float) -> float:
    """What the desk earned from its first to its last line of equity, USD."""
    return float(records(state, "equity", "time_ns")[-1]["equity_usd"]) - cash


def compared(state: Path) -> Hypothetical:
    (report,) = shadow_reports(state / FILE)
    assert report.hypothetical is not None, report.untold
    return report.hypothetical


def test_the_live_model_as_its_own_candidate_earns_what_the_desk_earned(stage: Stage, tmp_path: Path) -> None:
    state = stage.run(tmp_path / "state", stage.policy, Beside(stage.policy))
    comparison, money = compared(state), earned(state, stage.cash)
    assert abs(money) > 1.0
    assert comparison.live_usd == pytest.approx(money, abs=CENT)
    assert comparison.shadow_usd == pytest.approx(money, abs=CENT)
    assert comparison.live_trades == comparison.shadow_trades == len(records(state, "fills", "filled_ns")) > 4
    assert {round(pair.live_usd - pair.shadow_usd, 2) for pair in comparison.sessions} == {0.0}


def test_a_candidate_earns_what_a_desk_of_its_own_would_have(stage: Stage, tmp_path: Path) -> None:
    state = stage.run(tmp_path / "state", stage.policy, Beside(stage.other))
    alone = stage.run(tmp_path / "alone", stage.other)
    comparison, money = compared(state), earned(alone, stage.cash)
    assert abs(money - earned(state, stage.cash)) > 1.0
    assert comparison.shadow_usd == pytest.approx(money, abs=CENT)
    assert comparison.live_usd == pytest.approx(earned(state, stage.cash), abs=CENT)
    assert comparison.shadow_trades == len(records(alone, "fills", "filled_ns")) > 4


# --- what happens to the running desk ---------------------------------------------------------------------------------


class Commanded:
    """The tape with an operator's commands before events of these numbers."""

    def __init__(self, tape: EventSource, commands: dict[int, Callable[[int], Event]]) -> None:
        self._tape, self._commands, self._count = tape, commands, 0
        self._event: Event | None = None

    def poll(self) -> Event | None:
        event, self._event = self._event or self._tape.poll(), None
        self._count += 1
        if event is not None and (command := self._commands.pop(self._count, None)) is not None:
            self._event = event
            return command(event.time_ns)
        return event

    async def next(self) -> Event | None:
        return self.poll()


def test_a_halt_a_pause_and_their_end_come_to_both_copies(tmp_path: Path) -> None:
    commands: dict[int, Callable[[int], Event]] = {
        300: lambda now_ns: HaltRequested(now_ns, "operator", "a test", "a test"),
        320: lambda now_ns: ResumeRequested(now_ns, "a test", "a test"),
        345: lambda now_ns: PauseRequested(now_ns, "a test", "a test"),
        360: lambda now_ns: ResumeRequested(now_ns, "a test", "a test"),
        375: lambda now_ns: FlattenRequested(now_ns, "a test", "a test"),
    }
    desk = Desk(write_tape(tmp_path / "tape.csv", tape_rows(3, 60)))
    usual, shadow = desk.run(tmp_path / "usual"), Beside(desk.replay.policy)
    commanded = desk.run(tmp_path / "commanded", shadow=shadow, source=lambda tape: Commanded(tape, dict(commands)))
    assert usual.failure is None
    assert commanded.failure is None
    kinds = [row["kind"] for row in records(tmp_path / "commanded", "events", "id")]
    assert [kind for kind in kinds if kind.endswith("Requested")] == [
        "HaltRequested",
        "ResumeRequested",
        "PauseRequested",
        "ResumeRequested",
        "FlattenRequested",
    ]
    comparison, money = compared(tmp_path / "commanded"), earned(tmp_path / "commanded", 100_000.0)
    assert abs(money - earned(tmp_path / "usual", 100_000.0)) > 1.0
    assert comparison.live_usd == pytest.approx(money, abs=CENT)
    assert comparison.shadow_usd == pytest.approx(money, abs=CENT)


def test_a_crash_in_the_middle_of_a_session_changes_no_result(tmp_path: Path) -> None:
    stage = options(tmp_path)
    assert isinstance(stage, OnTape)
    whole = compared(stage.run(tmp_path / "whole", stage.policy, Beside(stage.other)))
    crashed(stage.desk, tmp_path / "state", 700, shadow=Beside(stage.other))
    rows = records(tmp_path / "state", "events", "id")
    assert rows[-1]["kind"] != "SessionEnded"
    assert any(row["kind"] == "ShadowAnswered" for row in rows)
    assert compared(stage.run(tmp_path / "state", stage.policy, Beside(stage.other))) == whole
