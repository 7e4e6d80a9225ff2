"""A journal gives one experience for each decision, the same ones from wherever it is read."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import shutil
from collections import defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Literal

import pytest
from msgspec.structs import replace

from daemon.core.effects import AnyEffect, SubmitOrder
from daemon.core.events import Event
from daemon.core.limits import Broker
from daemon.engine.state_dir import rotate
from daemon.experience.experience import ActionChoice, Experience, ForeignEntry, of_entry, to_entry
from daemon.experience.of_journal import Experiences
from daemon.experience.walk import JournalWalk, OtherJournal
from daemon.journal.journal import FILE
from tests.support.core.desk import of
from tests.support.core.share_bars import SPEC
from tests.support.core.two_shares import RULES, Desk, TwoShares
from tests.support.desks.desk_run import execute, table
from tests.support.desks.share_bar_run import Toy, toy_on
from tests.support.outside.stream import walked


def test_each_decision_gives_one_and_the_next_one_goes_on_where_it_ends(original: Path) -> None:
    experiences = walked(original)
    assert [e.decision for e in experiences] == list(range(1, 77))  # two sessions of 40 bars, less two each that warm
    assert [e.decision for e in experiences if e.terminal] == [38, 76]
    for one, other in itertools.pairwise(experiences):
        assert one.row < other.row
        assert one.terminal or (one.next_state, one.next_equity) == (other.state, other.equity)
        assert one.terminal or one.holdings[0].next_bar == other.holdings[0].bar
    assert {e.bars for e in experiences if not e.terminal} == {1}
    assert {e.next_state for e in experiences if e.terminal} == {b""}


def test_its_states_are_the_observations_that_the_journal_names_by_digest(original: Path) -> None:
    by_decision = {
        effect["decision"]: effect["observation"]
        for row in table(original, "events")
        for effect in json.loads(row[5])
        if isinstance(effect, dict) and effect.get("type") == "AskPolicy"
    }
    digests = {e.decision: hashlib.sha256(e.state).hexdigest()[:16] for e in walked(original)}
    assert digests == by_decision


def test_the_symbols_gains_are_the_change_of_the_equity_and_their_flow_is_that_of_the_fills(original: Path) -> None:
    experiences = walked(original)
    for e in experiences:
        gain = sum(h.next_shares * h.next_mark - h.shares * h.mark + h.flow for h in e.holdings)
        assert gain == pytest.approx(e.next_equity - e.equity, abs=1e-6)
        assert e.transfers == 0.0
    costs: dict[int, Decimal] = defaultdict(Decimal)
    for _, _, _, _, side, quantity, price, fees, *_ in table(original, "fills"):
        costs[side] += side * quantity * Decimal(price) + Decimal(fees)
    assert sum(e.holdings[0].flow for e in experiences) == pytest.approx(-float(sum(costs.values())))
    assert sum(e.holdings[0].fees for e in experiences) == pytest.approx(
        sum(float(row[7]) for row in table(original, "fills"))
    )


class Watched(Desk):
    """A desk of two shares at a real broker, with what its steps give."""

    def __init__(self, foreign_orders: Literal["halt", "adopt"] = "halt") -> None:
        self.experiences: list[Experience] = []
        self._experiences = Experiences(TwoShares.spec)
        super().__init__(dataclasses.replace(RULES, broker=Broker(foreign_orders=foreign_orders)))

    def put(self, *events: Event) -> list[AnyEffect]:
        effects: list[AnyEffect] = []
        for event in events:
            step = self.core.step(self.state, event)
            self.state = step.state
            effects += step.effects
            experience = self._experiences.take(step.state.seq, step)
            self.experiences += [] if experience is None else [experience]
        return effects


def test_two_fills_that_one_report_brings_are_paid_by_their_own_symbols() -> None:
    d = Watched()
    d.minute(0)
    for order in of(d.answer(1.0, 1.0), SubmitOrder):
        d.account.fill(d.account.take(order, d.state.now_ns), 10, "100", d.state.now_ns)  # the stream says nothing
    d.put(d.account.report(d.state.now_ns + 1))
    d.minute(1)
    (experience,) = d.experiences
    assert [(h.next_shares, h.flow) for h in experience.holdings] == [(10, -1000.0)] * 2
    assert [h.gain for h in experience.holdings] == pytest.approx([0.1, 0.1])  # a cent a share, bought at 100
    assert experience.transfers == 0.0


def test_shares_that_come_without_a_trade_are_no_gain() -> None:
    d = Watched("adopt")
    d.minute(0)
    d.answer(-1.0, -1.0)
    d.account.positions["SPY"] = (5, Decimal(90))
    for second in (1, 16, 31):
        d.put(d.account.report(d.at(1, second + 1.0)))
    assert d.state.book.positions["SPY"].quantity == 5
    d.minute(1)
    (experience,) = d.experiences
    assert [h.gain for h in experience.holdings] == pytest.approx([0.0, 0.0])
    assert [experience.transfers, experience.next_equity - experience.equity] == pytest.approx([500.05, 500.05])


def test_what_was_chosen_is_the_decisions_own_record(original: Path) -> None:
    rows = {row[0]: row for row in table(original, "decisions")}
    for e in walked(original):
        choice = e.chosen[0]
        assert SPEC.actions[choice.action] == rows[e.decision][4]
        assert list(choice.probabilities) == json.loads(rows[e.decision][7])
        assert e.outcome == rows[e.decision][12]
        assert e.model == "v1"


@pytest.mark.parametrize("snapshots", [1, 7, 100_000])
def test_read_from_any_row_it_gives_the_same(toy: Toy, tmp_path: Path, snapshots: int) -> None:
    assert toy.run(tmp_path / "state", snapshots=snapshots)
    whole = walked(tmp_path / "state")
    rows = [e.row for e in whole]
    for after in (1, rows[0] - 1, rows[0], rows[0] + 1, rows[30], rows[37], rows[38], rows[-2], rows[-1]):
        assert walked(tmp_path / "state", after) == [e for e in whole if e.row > after]


def test_a_rotation_keeps_the_rows_and_what_follows_is_read_from_both_files(toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "short").mkdir()
    first = toy_on(tmp_path / "short", sessions=1, bars=20)
    assert first.run(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "rotated")
    rotated = rotate(tmp_path / "rotated")
    for name in ("whole", "rotated"):
        assert toy.run(tmp_path / name)
    expected = walked(tmp_path / "whole")
    assert walked(tmp_path / "rotated") == expected
    assert expected[0].row < rotated.row < expected[-1].row
    for after in (rotated.row - 1, rotated.row, rotated.row + 1):
        assert walked(tmp_path / "rotated", after) == [e for e in expected if e.row > after]


def test_a_rotation_under_a_walk_loses_nothing(toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "short").mkdir()
    state = tmp_path / "state"
    assert toy_on(tmp_path / "short", sessions=1, bars=20).run(state)
    walk, experiences, results = JournalWalk(state, "e1"), Experiences(SPEC), []

    def take() -> None:
        walk.caught_up = False
        while not walk.caught_up:
            for row, _, step, begins in walk.look():
                if begins is not None:
                    experiences.begin(begins)
                experience = None if step is None else experiences.take(row, step)
                if experience is not None:
                    results.append(experience)

    take()
    rotate(state)
    assert toy.run(state)
    take()
    assert (results, walk.gaps, walk.problem) == (walked(state), 0, "")


def test_files_that_are_gone_are_a_gap_and_the_rest_is_read(toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "short").mkdir()
    state = tmp_path / "state"
    assert toy_on(tmp_path / "short", sessions=1, bars=20).run(state)
    rotated = rotate(state)
    assert toy.run(state)
    whole = walked(state)
    rotated.old.unlink()
    walk = JournalWalk(state, "e1")
    walk.look()
    assert walk.gaps == 1
    assert walked(state) == [e for e in whole if e.row > rotated.row]


def test_rows_of_other_code_are_passed_over_at_the_next_snapshot(toy: Toy, tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert toy.run(state, snapshots=20)
    whole = walked(state)
    snapshots = [row[0] for row in table(state, "snapshots")]
    bad = next(e.row for e in whole if e.row > 40)
    assert bad < snapshots[-2]
    execute(state, "UPDATE events SET effects = '[]' WHERE id = ?", bad)
    walk, experiences, results = JournalWalk(state, "e1"), Experiences(SPEC), []
    for _ in range(20):
        for row, _, step, begins in walk.look():
            if begins is not None:
                experiences.begin(begins)
            experience = None if step is None else experiences.take(row, step)
            if experience is not None:
                results.append(experience)
    assert walk.gaps == 1
    assert results == [e for e in whole if e.row < bad or e in results]
    assert len(whole) > len(results) > 0
    assert results[-1] == whole[-1]


def test_a_journal_of_another_epoch_is_not_walked_on(state: Path, toy: Toy, tmp_path: Path) -> None:
    walk = JournalWalk(state, "e1")
    assert walk.look()
    shutil.rmtree(state)
    assert toy.run(state, epoch="e2")
    assert walk.look() == []  # another file: the next look finds out whose
    with pytest.raises(OtherJournal, match="e1 is gone"):
        walk.look()


def test_a_missing_journal_is_a_problem_and_read_when_it_comes(state: Path) -> None:
    (state / FILE).rename(state / "away")
    walk = JournalWalk(state, "e1")
    assert walk.look() == []
    assert "no journal here" in walk.problem
    (state / "away").rename(state / FILE)
    assert walk.look()
    assert walk.problem == ""


def test_an_entry_is_read_as_it_was_written_and_foreign_ones_are_refused(original: Path) -> None:
    experience = walked(original)[3]
    entry, row = to_entry(experience, 7), experience.row
    assert of_entry(row, entry) == (experience, 7)
    for field, value, why in (
        (b"schema", b"2", "schema '2'"),
        (b"schema", b"\xff", "schema"),
        (b"after", b"x", "after 'x'"),
        (b"after", b"%d" % row, "a row below"),
        (b"experience", b"\x00", "no experience"),
    ):
        with pytest.raises(ForeignEntry, match=why):
            of_entry(row, {**entry, field: value})
    with pytest.raises(ForeignEntry, match="schema ''"):
        of_entry(row, {b"else": b"1"})
    with pytest.raises(ForeignEntry, match=f"row {row} under the id {row + 1}-0"):
        of_entry(row + 1, entry)


def test_an_entry_whose_parts_do_not_fit_each_other_is_refused(original: Path) -> None:
    whole = walked(original)[3]
    assert not whole.terminal
    for changes, why in (
        ({"state": whole.state[4:]}, f"state has {len(whole.state) - 4} bytes, expected {len(whole.state)}"),
        ({"next_state": b""}, f"next_state has 0 bytes, expected {len(whole.state)}"),
        ({"terminal": True}, f"next_state has {len(whole.state)} bytes, expected 0"),
        ({"chosen": ()}, "no choice"),
        ({"chosen": (ActionChoice(3, 0, (0.5, 0.25, 0.25)),)}, "action 3 or 0 of 3"),
    ):
        with pytest.raises(ForeignEntry, match=why):
            of_entry(whole.row, to_entry(replace(whole, **changes), 7))
