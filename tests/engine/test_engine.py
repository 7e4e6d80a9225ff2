"""The engine journals before it acts, ends on a bug with the event marked, and never steps that event a third time."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from daemon.core.effects import AnyEffect, AskPolicy, CancelOrder, SubmitOrder
from daemon.core.events import (
    BarClosed,
    ClockTicked,
    Event,
    HaltRequested,
    PolicyAnswered,
    ResumeRequested,
    ShadowAnswered,
)
from daemon.core.state import State
from daemon.core.step import Core, Step
from daemon.engine.engine import Engine, EventSource, StepFailed
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.journal.rows import WriteFailed, decode_event
from strategies.option_scalper import OptionScalper
from strategies.registry import strategy as strategy_named
from tests.support.desks.desk_at_work import at_work
from tests.support.desks.desk_run import (
    Crash,
    Desk,
    chained,
    execute,
    read_models,
    table,
    tape_rows,
    verified,
    write_tape,
)

CAUSED = ("ContractsListed", "QuotesReceived", "PolicyAnswered", "OrderAccepted", "OrderFilled")
FED = ("SessionScheduled", "BarClosed", "SessionEnded")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(write_tape(tmp_path_factory.mktemp("tape") / "tape.csv", tape_rows(2, 75)))


@pytest.fixture(scope="module")
def undisturbed(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("undisturbed")
    assert desk.run(path).failure is None
    return path


def digest_of(desk: Desk, path: Path) -> str:
    """The state that a start on a finished journal comes to."""
    run = desk.run(path)
    assert run.failure is None
    return run.digest


class Faulty(Core):
    """A core with a bug: it raises on one event, every time."""

    __slots__ = ("stepped", "target")

    def __init__(self, target: Event) -> None:
        super().__init__(strategy_named("option_scalper"))
        self.target = target
        self.stepped = 0

    def step(self, state: State[Any], event: Event, facts: tuple[AnyEffect, ...] | None = None) -> Step:
        if event == self.target:
            self.stepped += 1
            raise ZeroDivisionError("planted")
        return super().step(state, event, facts)


def victim(undisturbed: Path, kind: str) -> Event:
    """The second to last event of this kind in the undisturbed journal: positions and orders are about by then."""
    return decode_event([row[3] for row in chained(undisturbed) if row[2] == kind][-2])


@pytest.mark.parametrize("kind", [*FED, *CAUSED])
def test_an_event_that_raises_is_journaled_alone_and_marked_and_ends_the_run(
    desk: Desk, undisturbed: Path, tmp_path: Path, kind: str
) -> None:
    target = victim(undisturbed, kind)
    run = desk.run(tmp_path, core=Faulty(target))
    assert isinstance(run.failure, StepFailed)
    assert f"{kind} at {target.time_ns}: ZeroDivisionError: planted" in str(run.failure)
    rows = table(tmp_path, "events")
    marked = [row for row in rows if row[5].startswith('{"raised"')]
    assert [(row[0], row[1], row[3]) for row in marked] == [(rows[-1][0], None, kind)]
    assert json.loads(marked[0][5]) == {"raised": "ZeroDivisionError: planted"}
    assert decode_event(marked[0][4]) == target
    before = chained(tmp_path)
    assert before == chained(undisturbed)[: len(before)]
    assert verified(tmp_path).difference == ""


@pytest.mark.parametrize("kind", [*FED, *CAUSED])
def test_when_the_bug_is_gone_the_event_is_stepped_once_and_all_ends_as_if_nothing_had_happened(
    desk: Desk, undisturbed: Path, tmp_path: Path, kind: str
) -> None:
    assert isinstance(desk.run(tmp_path, core=Faulty(victim(undisturbed, kind))).failure, StepFailed)
    run = desk.run(tmp_path)
    assert run.failure is None
    assert run.digest == digest_of(desk, undisturbed)
    assert chained(tmp_path) == chained(undisturbed)
    assert read_models(tmp_path) == read_models(undisturbed)
    assert verified(tmp_path).difference == ""


@pytest.mark.parametrize("kind", [*FED, *CAUSED])
def test_an_event_that_raises_again_is_quarantined_halts_the_desk_and_everything_else_goes_on(
    desk: Desk, undisturbed: Path, tmp_path: Path, kind: str
) -> None:
    target = victim(undisturbed, kind)
    assert isinstance(desk.run(tmp_path, core=Faulty(target)).failure, StepFailed)
    again = Faulty(target)
    run = desk.run(tmp_path, core=again)
    assert run.failure is None
    assert again.stepped == 1
    assert run.engine is not None
    state = run.engine.machine.state
    assert state.risk.halt is not None
    assert state.risk.halt.reason == "quarantine"
    assert "raised twice: ZeroDivisionError: planted" in state.risk.halt.detail
    left_out = [row for row in table(tmp_path, "events") if row[5].startswith('{"quarantined"')]
    assert [decode_event(row[4]) for row in left_out] == [target]
    fed = [json.loads(row[3]) for row in chained(undisturbed) if row[2] in FED]
    fed_here = [json.loads(row[3]) for row in chained(tmp_path) if row[2] in FED]
    assert fed_here == [event for event in fed if kind not in FED or event != json.loads(left_out[0][4])]
    assert verified(tmp_path).difference == ""
    third = Faulty(target)
    resumed = desk.run(tmp_path, core=third)
    assert (resumed.failure, third.stepped, resumed.digest) == (None, 0, run.digest)


class Raising(OptionScalper):
    """A strategy that raises at every bar while it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.raised = 0

    def observe(self, state: Any, bars: Any, view: Any) -> Any:
        if view.side:
            self.raised += 1
            raise ZeroDivisionError("planted")
        return super().observe(state, bars, view)


class Mute(OptionScalper):
    """A strategy that returns no decision."""

    def decide(self, state: Any, answer: Any, view: Any) -> Any:
        return state, None


def test_a_strategy_that_returns_no_decision_twice_is_not_asked_again(desk: Desk, tmp_path: Path) -> None:
    assert isinstance(desk.run(tmp_path, core=Core(Mute())).failure, StepFailed)
    run = desk.run(tmp_path, core=Core(Mute()))
    assert run.failure is None
    assert run.engine is not None
    assert run.engine.machine.state.risk.strategy_off


def test_a_strategy_that_raises_twice_while_it_holds_is_not_asked_again_and_exits_by_rule_go_on(
    desk: Desk, tmp_path: Path
) -> None:
    assert isinstance(desk.run(tmp_path, core=Core(Raising())).failure, StepFailed)
    again = Raising()
    run = desk.run(tmp_path, core=Core(again))
    assert (run.failure, again.raised) == (None, 1)
    assert run.engine is not None
    state = run.engine.machine.state
    assert state.risk.halt is not None
    assert (state.risk.halt.reason, state.risk.strategy_off, state.book.positions) == ("quarantine", True, {})
    rows = [row for row in table(tmp_path, "events") if '"quarantine"' in row[5] and "RaiseAlarm" in row[5]]
    assert len(rows) == 1
    resumed = Core(OptionScalper()).step(state, ResumeRequested(state.now_ns, "mended", "ann")).state
    assert (resumed.risk.strategy_off, resumed.risk.halt) == (False, None)


class Passing(OptionScalper):
    """A strategy that raises at the n-th bar that its process sees, and never at the same bar again."""

    def __init__(self, nth: int, kind: type[Exception] = ZeroDivisionError, *, armed: bool = False) -> None:
        super().__init__()
        self.nth, self.kind, self.armed = nth, kind, armed
        self.call_count = 0

    def arm(self, _: object) -> None:
        """From here on: what recovery steps again does not count."""
        self.armed = True

    def observe(self, state: Any, bars: Any, view: Any) -> Any:
        self.call_count += self.armed
        if self.armed and self.call_count == self.nth:
            raise self.kind("planted")
        return super().observe(state, bars, view)


class Resumed:
    """A tape whose first event is a person's resume."""

    def __init__(self, tape: EventSource) -> None:
        self._tape = tape
        self._resumed = False

    async def next(self) -> Event | None:
        return self.poll()

    def poll(self) -> Event | None:
        resumed, self._resumed = self._resumed, True
        return self._tape.poll() if resumed else ResumeRequested(0, "mended", "ann")  # time never goes back


def quarantines(path: Path) -> int:
    """The alarms of that name in the journal."""
    return len([row for row in table(path, "events") if '"quarantine"' in row[5] and "RaiseAlarm" in row[5]])


def test_a_strategy_that_raises_on_two_events_of_a_session_and_passes_on_each_retry_is_not_asked_again(
    desk: Desk, tmp_path: Path
) -> None:
    raising = [Passing(3) for _ in range(3)]
    for strategy in raising[:2]:
        run = desk.run(tmp_path, core=Core(strategy), engine_made=strategy.arm)
        assert isinstance(run.failure, StepFailed)
    run = desk.run(tmp_path, core=Core(raising[2]), engine_made=raising[2].arm)
    assert (run.failure, raising[2].call_count) == (None, 0)
    assert run.engine is not None
    state = run.engine.machine.state
    assert state.risk.halt is not None
    assert (state.risk.halt.reason, state.risk.strategy_off, quarantines(tmp_path)) == ("quarantine", True, 1)
    assert "raised on 2 events of one session" in state.risk.halt.detail
    events = table(tmp_path, "events")
    assert len({row[4] for row in events if row[5].startswith('{"raised"')}) == 2
    assert not [row for row in events if row[5].startswith('{"quarantined"')]  # the event itself is stepped
    assert verified(tmp_path).difference == ""
    assert desk.run(tmp_path).digest == run.digest


def test_a_resume_gives_a_strategy_that_raised_a_fresh_start(desk: Desk, tmp_path: Path) -> None:
    for resumed in (False, True):
        for first in (True, False):
            strategy = Passing(3)
            source = Resumed if resumed and first else None
            run = desk.run(tmp_path, core=Core(strategy), engine_made=strategy.arm, source=source)
            assert isinstance(run.failure, StepFailed), (resumed, first)
            assert run.engine is not None
            assert not run.engine.machine.state.risk.strategy_off
    run = desk.run(tmp_path)
    assert run.engine is not None
    assert (run.engine.machine.state.risk.strategy_off, quarantines(tmp_path)) == (True, 2)


def test_a_strategy_that_raises_once_a_session_is_asked_on(desk: Desk, tmp_path: Path) -> None:
    for _ in range(2):  # the first sessions of the tape have 86 bars
        strategy = Passing(86)
        run = desk.run(tmp_path, core=Core(strategy), engine_made=strategy.arm)
        assert isinstance(run.failure, StepFailed)
    run = desk.run(tmp_path)
    assert run.engine is not None
    assert (run.failure, run.engine.machine.state.risk.halt, quarantines(tmp_path)) == (None, None, 0)


def test_a_strategy_that_raises_in_what_a_start_steps_again_does_not_end_the_start(desk: Desk, tmp_path: Path) -> None:
    steady = Passing(50, armed=True)
    assert isinstance(desk.run(tmp_path, core=Core(steady), snapshot_events=10_000).failure, StepFailed)
    again = Passing(7, KeyError, armed=True)
    run = desk.run(tmp_path, core=Core(again), snapshot_events=10_000)
    assert run.failure is None
    assert run.engine is not None
    state = run.engine.machine.state
    assert state.risk.halt is not None
    assert (state.risk.halt.reason, "KeyError" in state.risk.halt.detail) == ("code_changed", True)


def test_a_crash_between_the_halt_and_the_event_that_raised_loses_neither(desk: Desk, tmp_path: Path) -> None:
    for _ in range(2):
        strategy = Passing(3)
        assert isinstance(
            desk.run(tmp_path, core=Core(strategy), engine_made=strategy.arm, group_events=1).failure, StepFailed
        )
    missed = [row[4] for row in table(tmp_path, "events") if row[5].startswith('{"raised"')][-1]

    engines: list[Engine] = []

    def crash(boundary: str) -> None:
        if boundary == "after commit" and engines[0].machine.state.risk.strategy_off:
            while not quarantines(tmp_path):  # its thread writes
                time.sleep(0.01)
            raise Crash

    run = desk.run(tmp_path, boundary=crash, group_events=1, engine_made=engines.append)
    assert isinstance(run.failure, Crash)
    assert table(tmp_path, "events")[-1][3] == "HaltRequested"
    assert desk.run(tmp_path).failure is None
    assert [row[3] for row in chained(tmp_path)].count(missed) == 1
    assert quarantines(tmp_path) == 1
    assert verified(tmp_path).difference == ""


def test_a_bug_in_a_new_place_after_a_quarantine_is_marked_in_its_turn(
    desk: Desk, undisturbed: Path, tmp_path: Path
) -> None:
    bars = [decode_event(row[3]) for row in chained(undisturbed) if row[2] == "BarClosed"]
    for target in (bars[300], bars[310]):
        assert isinstance(desk.run(tmp_path, core=Faulty(target)).failure, StepFailed)
        core = Faulty(target)
        run = desk.run(tmp_path, core=core, source=up_to(bars[305] if target is bars[300] else None))
        assert run.failure is None
        assert core.stepped == 1
    marks = Counter(next(iter(json.loads(r[5]))) for r in table(tmp_path, "events") if r[5].startswith("{"))
    assert marks == {"raised": 2, "quarantined": 2}
    assert desk.run(tmp_path).failure is None
    assert sum(1 for row in chained(tmp_path) if row[2] == "BarClosed") == len(bars) - 2
    assert verified(tmp_path).difference == ""


class UpTo:
    """The tape up to this event."""

    def __init__(self, tape: EventSource, last: Event | None) -> None:
        self._tape = tape
        self._last = last
        self._over = False

    def poll(self) -> Event | None:
        event = None if self._over else self._tape.poll()
        self._over = self._over or event == self._last
        return event

    async def next(self) -> Event | None:
        return self.poll()


def up_to(last: Event | None) -> Callable[[EventSource], EventSource]:
    return lambda tape: UpTo(tape, last)


class Broker:
    """Looks into the journal, as another process would, at the moment in which an effect leaves."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.released: list[AnyEffect] = []

    async def release(self, effects: Sequence[AnyEffect]) -> None:
        reader = JournalReader(self.path / FILE)
        last = reader.last_entry()
        reader.close()
        assert last is not None
        journaled = json.loads(last.effects)
        for effect in effects:
            if isinstance(effect, SubmitOrder | CancelOrder):
                name = type(effect).__name__
                assert any(e["type"] == name and e["client_order_id"] == effect.client_order_id for e in journaled)
                self.released.append(effect)


def test_an_effect_leaves_the_process_only_when_its_event_is_durable(desk: Desk, tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    run = desk.run(tmp_path, outside=broker, group_events=100_000)
    assert run.failure is None
    order_ids = [effect.client_order_id for effect in broker.released if isinstance(effect, SubmitOrder)]
    assert order_ids == [row[0] for row in sorted(table(tmp_path, "orders"), key=lambda row: order_ids.index(row[0]))]
    assert len(order_ids) > 5
    assert any(isinstance(effect, CancelOrder) for effect in broker.released)


def test_without_a_broker_outside_events_are_committed_in_groups(desk: Desk, tmp_path: Path) -> None:
    commits: Counter[str] = Counter()
    run = desk.run(tmp_path, group_events=100, boundary=lambda name: commits.update([name]))
    assert run.failure is None
    rows = len(table(tmp_path, "events"))
    assert commits["before step"] == commits["after step"] == rows
    assert commits["before commit"] == commits["after commit"] == -(-rows // 100) + 1  # and the last snapshot


def test_a_write_failure_ends_the_run_and_leaves_an_intact_journal(
    desk: Desk, undisturbed: Path, tmp_path: Path
) -> None:
    engines: list[Engine] = []

    def fill_up(boundary: str) -> None:
        writer = engines[0]._writer
        if boundary == "before commit" and engines[0].machine.state.seq > 500:
            writer.journal._db.execute("PRAGMA max_page_count = 1")  # SQLite's own full disk

    run = desk.run(tmp_path, group_events=8, engine_made=engines.append, boundary=fill_up)
    assert isinstance(run.failure, WriteFailed)
    assert "database or disk is full" in str(run.failure)
    rows = chained(tmp_path)
    assert 0 < len(rows) < len(chained(undisturbed))
    assert rows == chained(undisturbed)[: len(rows)]
    assert verified(tmp_path).difference == ""
    assert desk.run(tmp_path).failure is None
    assert chained(tmp_path) == chained(undisturbed)


def test_stop_ends_after_the_event_under_way_with_a_snapshot_and_a_resume_ends_the_same(
    desk: Desk, undisturbed: Path, tmp_path: Path
) -> None:
    engines: list[Engine] = []

    def stop_in_the_middle(event: Event, step: Step) -> None:
        if isinstance(event, BarClosed) and step.state.stats.bars == 350:
            engines[0].stop("SIGTERM")

    run = desk.run(tmp_path, engine_made=engines.append, observe=stop_in_the_middle, snapshot_events=10_000)
    assert run.failure is None
    engine = engines[0]
    assert engine.stopped_by == "SIGTERM"
    assert engine.machine.state.stats.bars == 350
    assert not engine.machine.queue
    last = table(tmp_path, "events")[-1]
    newest = table(tmp_path, "snapshots")[-1]
    assert (newest[0], newest[6]) == (last[0], run.digest)
    assert desk.run(tmp_path).digest == digest_of(desk, undisturbed)
    assert chained(tmp_path) == chained(undisturbed)


def test_what_the_reconciliation_cancels_is_settled_also_when_no_event_follows(desk: Desk, tmp_path: Path) -> None:
    engines: list[Engine] = []

    def stop_with_an_entry_at_work(event: Event, step: Step) -> None:
        if isinstance(event, PolicyAnswered) and any(o.purpose == "entry" for o in step.state.orders.values()):
            engines[0].stop("SIGTERM")

    assert desk.run(tmp_path, engine_made=engines.append, observe=stop_with_an_entry_at_work).failure is None
    newest = table(tmp_path, "snapshots")[-1]
    market = json.dumps({**json.loads(newest[5]), "cash": "1.00"}).encode()  # the book has another figure
    change = "UPDATE snapshots SET market = ?, market_digest = ? WHERE event_id = ?"
    execute(tmp_path, change, market, hashlib.sha256(market).hexdigest(), newest[0])
    run = desk.run(tmp_path, source=lambda _: Silent())
    assert run.failure is None
    assert run.engine is not None
    state = run.engine.machine.state
    assert state.risk.halt is not None
    assert (state.risk.halt.reason, state.orders) == ("reconciliation", {})


class Silent:
    """A source that has ended."""

    def poll(self) -> Event | None:
        return None

    async def next(self) -> Event | None:
        return None


@pytest.mark.parametrize("group", [1, 7, 10_000])
def test_the_group_size_and_the_snapshot_interval_change_nothing_but_speed(
    desk: Desk, undisturbed: Path, tmp_path: Path, group: int
) -> None:
    assert desk.run(tmp_path, group_events=group, snapshot_events=group).failure is None
    assert chained(tmp_path) == chained(undisturbed)
    assert read_models(tmp_path) == read_models(undisturbed)


def test_every_bar_with_a_decision_is_timed(desk: Desk, tmp_path: Path) -> None:
    engines: list[Engine] = []
    assert desk.run(tmp_path, engine_made=engines.append).failure is None
    assert engines[0].latency.count == sum(1 for row in chained(tmp_path) if row[2] == "PolicyAnswered") > 50


def test_a_snapshot_of_other_code_is_kept_for_verify(desk: Desk, tmp_path: Path) -> None:
    for code in ("aaaaaaaaaaaa", "bbbbbbbbbbbb"):
        assert desk.run(tmp_path, code=code).failure is None
    snapshots = [(row[2], row[3]) for row in table(tmp_path, "snapshots") if row[3]]
    assert snapshots == [("bbbbbbbbbbbb", 1)]  # the first code starts from the first event
    assert desk.run(tmp_path, code="bbbbbbbbbbbb").failure is None
    assert [row[2] for row in table(tmp_path, "snapshots") if row[3]] == ["bbbbbbbbbbbb"]


class Pausing(UpTo):
    """The tape as a live feed: after each event nothing waits, and the engine is seen to ask for more."""

    def __init__(self, tape: EventSource, journal: Path) -> None:
        super().__init__(tape, None)
        self._journal = journal
        self.event_count = 0
        self.durable: list[int] = []

    def poll(self) -> Event | None:
        return None

    async def next(self) -> Event | None:
        async with asyncio.timeout(180):  # as long as a commit may take
            while True:
                durable = len(chained(self._journal))
                if not self.durable or durable > self.durable[-1]:
                    break
                await asyncio.sleep(0.01)
        self.durable.append(durable)
        event = super().poll() if self.event_count < 5 else None
        self.event_count += event is not None
        return event


def test_what_was_stepped_is_durable_while_the_engine_waits_for_more(desk: Desk, tmp_path: Path) -> None:
    sources: list[Pausing] = []

    def pausing(tape: EventSource) -> EventSource:
        sources.append(Pausing(tape, tmp_path))
        return sources[0]

    assert desk.run(tmp_path, source=pausing, group_events=10_000).failure is None
    (source,) = sources
    assert source.durable[0] == 0
    assert all(later > earlier for earlier, later in itertools.pairwise(source.durable))


# --- beside the policy --------------------------------------------------------------------------------------------


class Watching:
    """A candidate that notes what the engine had done when it was asked."""

    shadow = "v9"

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.questions: list[tuple[int, int, bool]] = []  # decision, orders that had left, is the question closed
        self.silent = False

    def shadow_answer(self, question: AskPolicy, state: State[Any]) -> ShadowAnswered | None:
        self.questions.append((question.decision, len(self.broker.released), state.ask is None))
        if self.silent:
            return None
        return ShadowAnswered(state.now_ns, question.decision, (0.0,) * 6, b"", "v9")


def test_a_candidate_is_asked_when_the_live_answer_was_stepped_and_its_orders_had_left(
    desk: Desk, tmp_path: Path
) -> None:
    broker = Broker(tmp_path)
    watching = Watching(broker)

    def candidate(engine: Engine) -> None:
        engine._shadow = watching

    assert desk.run(tmp_path, outside=broker, engine_made=candidate, group_events=100_000).failure is None
    orders_out, expected = 0, []
    for _, _, kind, payload, effects, _ in chained(tmp_path):
        orders_out += sum(effect["type"] in ("SubmitOrder", "CancelOrder") for effect in json.loads(effects))
        if kind == "PolicyAnswered":
            expected.append((json.loads(payload)["decision"], orders_out, True))
    assert watching.questions == expected
    assert orders_out > 5
    kinds = [row[2] for row in chained(tmp_path)]
    answers = [place for place, kind in enumerate(kinds) if kind == "PolicyAnswered"]
    assert {kinds[place + 1] for place in answers} == {"ShadowAnswered"}
    assert kinds.count("ShadowAnswered") == len(answers) > 50


def test_a_candidate_that_says_nothing_leaves_the_journal_as_it_is_without_one(
    desk: Desk, undisturbed: Path, tmp_path: Path
) -> None:
    watching = Watching(Broker(tmp_path))
    watching.silent = True

    def candidate(engine: Engine) -> None:
        engine._shadow = watching

    assert desk.run(tmp_path, engine_made=candidate).failure is None
    assert chained(tmp_path) == chained(undisturbed)
    assert len(watching.questions) > 50


async def test_a_row_is_kept_when_another_process_can_read_it(desk: Desk, tmp_path: Path) -> None:
    async with at_work(desk, tmp_path) as work:
        row = work.engine.last_row + 1
        waiting = asyncio.create_task(work.engine.wait_until_durable(row))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        work.intake.put(ClockTicked(0))
        await waiting
        assert table(tmp_path, "events")[-1][0] == row == work.engine.last_row
        await work.engine.wait_until_durable(row)  # once it is, at once


async def kept_on_a_full_disk(desk: Desk, path: Path) -> None:
    async with at_work(desk, path) as work:
        work.engine._writer.journal._db.execute("PRAGMA max_page_count = 1")  # SQLite's own full disk
        row = work.engine.last_row + 1
        for number in range(200):
            work.intake.put(HaltRequested(number, "operator", "x" * 400, "ann"))
        await work.engine.wait_until_durable(row)


async def test_a_row_that_cannot_be_written_is_not_kept(desk: Desk, tmp_path: Path) -> None:
    with pytest.raises(WriteFailed, match="database or disk is full"):
        await kept_on_a_full_disk(desk, tmp_path)


def test_snapshots_are_written_within_a_session_too(desk: Desk, tmp_path: Path) -> None:
    """Of a session of hundreds of events a kill leaves no more than twice `snapshot_events` to step again."""
    steps_left = 1000

    def crash(boundary: str) -> None:
        nonlocal steps_left
        steps_left -= boundary == "before step"
        if steps_left == 0:
            raise Crash

    desk.run(tmp_path, boundary=crash, group_events=1, snapshot_events=50)
    rows = table(tmp_path, "events")
    newest = table(tmp_path, "snapshots")[-1][0]
    ends = [row[0] for row in rows if row[3] == "SessionEnded"]
    assert ends[-1] < newest  # the last session did not end
    assert rows[-1][0] - newest <= 2 * 50 + 30  # and what one bar causes
    assert len(table(tmp_path, "snapshots")) == 3


async def test_a_quiet_moment_takes_a_snapshot_as_soon_as_one_is_due(desk: Desk, tmp_path: Path) -> None:
    quiet: list[int] = []

    class Pausing:
        """A source that has nothing to give after each event until it is waited for."""

        def __init__(self, tape: EventSource) -> None:
            self._tape = tape
            self._gives = False

        def poll(self) -> Event | None:
            self._gives = not self._gives
            return self._tape.poll() if self._gives else None

        async def next(self) -> Event | None:
            quiet.append(1)
            return self._tape.poll()

    await asyncio.to_thread(lambda: desk.run(tmp_path, snapshot_events=50, source=Pausing))
    assert quiet
    assert verified(tmp_path).difference == ""
    rows = [row[0] for row in table(tmp_path, "snapshots")]
    assert all(later - earlier < 50 + 40 for earlier, later in itertools.pairwise(rows))
