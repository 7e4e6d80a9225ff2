"""Challengers on the ladder of a running desk: real engine, store, trial and lifecycle, on a tape of some sessions."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from daemon.config.tables import LadderTable
from daemon.core.events import (
    CashTransferred,
    ClaimJudged,
    ClockTicked,
    Event,
    LadderMoved,
    ModelPromoted,
    PauseRequested,
    ResumeRequested,
    RiskClaim,
    ShadowAnswered,
)
from daemon.core.state import LadderState, State
from daemon.core.step import Machine, Step
from daemon.journal.journal import FILE
from daemon.models.ladder import climber
from daemon.models.ladder.cards import HoldReasons, write_holds
from daemon.models.ladder.climber import Climber
from daemon.models.pointer import CURRENT, PROMOTIONS_FILE, canary_of, former_version, point, pointer_text
from daemon.models.runtime import NO_MODEL, NoPolicy
from daemon.models.shadow import Shadow
from daemon.reports.shadow import shadow_reports
from strategies.kit import card as cards
from strategies.kit.manifest import MANIFEST_FILE, POLICY_FILE, decode, encode
from tests.support.desks.desk_at_work import until
from tests.support.desks.desk_run import Desk, records, tape_rows, verified, write_tape
from tests.support.models.climbing import CARD, RULES, Climb, climber_of, vouch, with_card
from tests.support.models.swaps import alarms, damage, events, name, publish, running


def climbed(tmp_path: Path, play: Callable[[Climb], Awaitable[None]], rules: LadderTable = RULES) -> list[LadderMoved]:
    """Play with a desk of `v1` over eight warm sessions; returns the journaled steps of all that climbed."""
    store = tmp_path / "store"
    publish(store, "v1", 1)
    name(store, "v1")
    tape = write_tape(tmp_path / "tape.csv", tape_rows(11, 40))
    desk = Desk(tape, paths__models_dir=store, policy__version=CURRENT)

    async def run_play() -> None:
        async with running(desk, tmp_path / "state") as run:
            climb = Climb(run, climber_of(run, store, rules))
            for _ in range(3):  # until the strategy is warm
                await climb.session()
            await play(climb)

    asyncio.run(run_play())
    assert verified(tmp_path / "state").difference == ""
    return events(tmp_path / "state", "LadderMoved")


def steps(moves: list[LadderMoved]) -> list[tuple[str, str]]:
    """The steps that changed something, with their reasons."""
    return [(move.to_step, move.reason) for move in moves if move.to_step != move.from_step]


OUT = ("refused", "rolled_back")
UP = ["canary_10", "canary_25", "canary_50", "canary_100", "champion"]


def test_a_challenger_climbs_from_its_card_to_the_champion(tmp_path: Path) -> None:
    store, history = tmp_path / "store", []

    async def play(climb: Climb) -> None:
        await climb.session()
        assert climb.step == ""  # nothing has a card
        with_card(store, CARD)
        await climb.settle()
        for _ in range(6):
            history.append(
                (climb.step, pointer_text(store / "option_scalper", CURRENT), climb.run.models.running.version)
            )
            await climb.session()
        history.append((climb.step, pointer_text(store / "option_scalper", CURRENT), climb.run.models.running.version))

    moves = climbed(tmp_path, play)
    assert history == [
        ("v2 shadow", "v1", "v1"),
        ("v2 canary_10", "v2", "v2"),
        ("v2 canary_25", "v2", "v2"),
        ("v2 canary_50", "v2", "v2"),
        ("v2 canary_100", "v2", "v2"),
        ("v2 champion", "v2", "v2"),
        ("v2 champion", "v2", "v2"),
    ]
    assert steps(moves) == [
        ("shadow", "card_passed"),
        ("canary_10", "shadow_passed"),
        *((step, "canary_passed") for step in UP[1:]),
    ]
    assert [move.share for move in moves if move.to_step != move.from_step] == [1.0, 0.1, 0.25, 0.5, 1.0, 1.0]
    shadow = next(move for move in moves if move.to_step == "canary_10")
    answers = len(events(tmp_path / "state", "ShadowAnswered"))
    assert (shadow.figures["answered"], shadow.figures["failed"]) == (float(answers), 0.0)
    assert answers > 0
    assert alarms(tmp_path / "state").count("ladder_refused") == 0
    (report,) = shadow_reports(tmp_path / "state" / FILE)
    parted = events(tmp_path / "state", "ShadowAnswered")[0].time_ns
    money = [(row["time_ns"], float(row["equity_usd"])) for row in records(tmp_path / "state", "equity", "time_ns")]
    base = [usd for time_ns, usd in money if time_ns <= parted][-1]
    assert report.hypothetical is not None
    assert report.hypothetical.shadow_usd != 0.0
    assert shadow.figures["pnl"] * base == pytest.approx(report.hypothetical.shadow_usd, abs=0.005)
    assert shadow.figures["champion_pnl"] * base == pytest.approx(report.hypothetical.live_usd, abs=0.005)


class Broken(Shadow):
    """A shadow with a fault in its first session."""

    faults_left: ClassVar[int] = 1

    def observe(self, machine: Machine, event: Event, step: Step) -> None:
        super().observe(machine, event, step)
        if isinstance(event, ShadowAnswered) and Broken.faults_left:
            Broken.faults_left -= 1
            raise RuntimeError("planted")


def test_a_fault_of_a_shadow_is_logged_and_the_climb_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "store"
    monkeypatch.setattr(climber, "Shadow", Broken)
    log: list[tuple[str, dict[str, Any]]] = []

    async def play(climb: Climb) -> None:
        with_card(store, CARD)
        await climb.settle()
        await climb.session()
        log.extend(climb.run.log)
        assert climb.step == "v2 canary_10"

    moves = climbed(tmp_path, play)
    assert [fields["reason"] for event, fields in log if event == "ladder_held"] == [
        "the shadow of v2: RuntimeError: planted"
    ]
    shadow = next(move for move in moves if move.to_step == "canary_10")
    answers = len(events(tmp_path / "state", "ShadowAnswered"))
    assert shadow.figures["answered"] == answers - 1  # a new pair of copies went on at the next question


class Holding(Shadow):
    """A shadow whose copies always hold something."""

    symbols_used = frozenset({"HELD"})


def test_what_a_shadow_s_copies_hold_is_used_as_long_as_it_climbs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, used = tmp_path / "store", set[tuple[str, frozenset[str]]]()
    monkeypatch.setattr(climber, "Shadow", Holding)

    async def play(climb: Climb) -> None:
        with_card(store, CARD)
        await climb.settle()
        climb.run.observers.append(lambda *_: used.add((climb.step, climb.climber.symbols_used)))
        for _ in range(2):
            await climb.session()

    climbed(tmp_path, play)
    assert ("v2 shadow", frozenset({"HELD"})) in used
    assert {symbols for step, symbols in used if step == "v2 canary_10"} == {frozenset()}


def test_by_default_a_shadow_that_passed_waits_for_a_person(tmp_path: Path) -> None:
    store = tmp_path / "store"

    async def play(climb: Climb) -> None:
        with_card(store, CARD)
        await climb.settle()
        for _ in range(3):
            await climb.session()
        assert (climb.step, climb.run.models.running.version) == ("v2 shadow", "v1")
        name(store, "v2")
        await climb.run.lifecycle.look()
        await climb.settle()
        assert (climb.step, climb.run.models.running.version) == ("v2 champion", "v2")

    moves = climbed(tmp_path, play, replace(RULES, promotion="shadow"))
    assert steps(moves) == [("shadow", "card_passed"), ("champion", "by_hand")]
    assert [move.sessions for move in moves] == [0, 1, 2, 3, 0]


def test_bad_forged_and_unvouched_cards_are_refused_once_and_the_champion_goes_on(tmp_path: Path) -> None:
    store = tmp_path / "store"

    async def play(climb: Climb) -> None:
        lead = {"dr": cards.Lead(estimate=0.1, low=-0.1, high=0.3)}
        published: list[tuple[str, cards.Card, bool]] = [
            ("bad", msgspec.structs.replace(CARD, version="bad", leads=lead), True),
            ("forged", msgspec.structs.replace(CARD, version="forged"), True),
            ("unvouched", msgspec.structs.replace(CARD, version="unvouched"), False),
            ("another", msgspec.structs.replace(CARD, version="v9"), True),
        ]
        for number, (version, card, vouched) in enumerate(published):
            folder = with_card(store, card, seed=number + 5, version=version, vouched=vouched)
            if version == "forged":
                (folder / cards.CARD_FILE).write_bytes(cards.encode(msgspec.structs.replace(card, effective=9e9)))
            os.utime(folder / cards.CARD_FILE, ns=(number + 1, number + 1))
        await climb.session()
        await climb.session()
        assert climb.run.models.running.version == "v1"

    moves = climbed(tmp_path, play)
    assert [(move.version, move.to_step, move.reason) for move in moves] == [
        ("bad", "refused", "card_lead"),
        ("another", "refused", "card_refused"),
        ("unvouched", "refused", "card_refused"),
        ("forged", "refused", "card_refused"),
    ]
    assert "file digest" in moves[3].detail
    assert "is not named by the manifest" in moves[2].detail
    assert alarms(tmp_path / "state").count("ladder_refused") == 4


@pytest.mark.parametrize("half", [b"", b"\0"], ids=["missing", "half copied"])
def test_a_version_whose_card_came_before_its_other_files_climbs_once_they_are_there(
    tmp_path: Path, half: bytes
) -> None:
    store = tmp_path / "store"

    async def play(climb: Climb) -> None:
        policy = with_card(store, CARD) / POLICY_FILE
        whole = policy.read_bytes()
        policy.write_bytes(half)
        if not half:
            policy.unlink()
        for _ in range(1 if half else 3):
            await climb.climber.look()
        reasons = [fields["reason"] for name, fields in climb.run.log if name == "ladder_held"]
        assert len(reasons) == 1
        assert str(policy) in reasons[0]
        policy.write_bytes(whole)
        await climb.settle()
        assert climb.step == "v2 shadow"

    assert steps(climbed(tmp_path, play)) == [("shadow", "card_passed")]


def test_each_of_several_versions_that_wait_for_their_files_is_logged_once(tmp_path: Path) -> None:
    store = tmp_path / "store"

    async def play(climb: Climb) -> None:
        for version in ("half", "torn"):
            (with_card(store, msgspec.structs.replace(CARD, version=version)) / POLICY_FILE).unlink()
        for _ in range(4):
            await climb.climber.look()
        reasons = [str(fields["reason"]) for name, fields in climb.run.log if name == "ladder_held"]
        assert sorted(reason.partition(" ")[0] for reason in reasons) == ["half", "torn"]

    climbed(tmp_path, play)


def test_a_card_that_is_nested_deep_is_refused_and_the_ladder_goes_on(tmp_path: Path) -> None:
    store = tmp_path / "store"

    async def play(climb: Climb) -> None:
        folder = with_card(store, msgspec.structs.replace(CARD, version="deep"), seed=5)
        nested = b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        (folder / cards.CARD_FILE).write_bytes(nested)
        manifest = decode((folder / MANIFEST_FILE).read_bytes())
        files = {cards.CARD_FILE: sha256(nested).hexdigest()}
        (folder / MANIFEST_FILE).write_bytes(encode(msgspec.structs.replace(manifest, files=files)))
        await climb.session()

    assert [(move.version, move.to_step, move.reason) for move in climbed(tmp_path, play)] == [
        ("deep", "refused", "card_refused")
    ]


def test_a_canary_far_below_its_card_is_rolled_back_for_its_rewards(tmp_path: Path) -> None:
    """The forged card promises 5 % a session to 0.1 %; what a canary earns is nowhere near."""
    store = tmp_path / "store"

    async def play(climb: Climb) -> None:
        with_card(store, msgspec.structs.replace(CARD, session_mean=0.05, session_deviation=0.001))
        await climb.settle()
        for _ in range(6):
            await climb.session()
        assert climb.run.models.running.version == "v1"
        assert pointer_text(store / "option_scalper", CURRENT) == "v1"

    moves = climbed(tmp_path, play, replace(RULES, canary_sessions=4))
    assert steps(moves)[-1] == ("rolled_back", "canary_rewards")
    assert [move.share for move in moves[-2:]] == [0.1, 1.0]  # until v1 answers again
    assert alarms(tmp_path / "state").count("ladder_rolled_back") == 1
    swaps = [(event.previous, event.version) for event in events(tmp_path / "state", "ModelPromoted")]
    assert swaps == [("v1", "v2"), ("v2", "v1")]


def test_a_champion_with_a_card_of_its_own_answers_again_after_a_canary_fell(tmp_path: Path) -> None:
    """A trainer's first version has a card, which was never judged; it must not take the place of the one that fell."""
    store = tmp_path / "store"

    async def play(climb: Climb) -> None:
        vouch(store / "option_scalper" / "v1", msgspec.structs.replace(CARD, version="v1", parent=""))
        await climb.settle()  # it answers with its card from here on
        with_card(store, CARD)
        await climb.settle()
        await climb.session()
        climb.climber.drifted("v2", "index 3.1")
        await climb.settle()
        assert (climb.step, climb.run.models.running.version) == ("v2 rolled_back", "v1")
        assert pointer_text(store / "option_scalper", CURRENT) == "v1"

    moves = climbed(tmp_path, play)
    assert {move.version for move in moves} == {"v2"}
    assert moves[-1].share == 1.0


def test_a_loss_since_its_promotion_rolls_a_canary_back_within_the_session(tmp_path: Path) -> None:
    store = tmp_path / "store"

    async def play(climb: Climb) -> None:
        with_card(store, CARD)
        await climb.settle()
        await climb.session()
        assert climb.step == "v2 canary_10"
        lose(climb, climb.run.submitter.state.book.equity - 1)  # all but gone
        await climb.settle()
        assert (climb.step, climb.run.models.running.version) == ("v2 rolled_back", "v1")

    moves = climbed(tmp_path, play, replace(RULES, drawdown_max=0.5))
    assert steps(moves)[-1] == ("rolled_back", "canary_drawdown")


def lose(climb: Climb, amount: Decimal) -> None:
    """Show the climber the book as if this much had been lost."""
    state = climb.run.submitter.state
    book, ladder = state.book, state.ladder
    assert isinstance(ladder, LadderState)
    figures = {name: getattr(book, name) - amount for name in ("cash", "equity", "realized")}
    climb.climber._check_drawdown(msgspec.structs.replace(book, **figures), ladder)


def test_a_withdrawal_is_no_loss_of_a_canary_and_what_is_left_is_its_capital(tmp_path: Path) -> None:
    store = tmp_path / "store"
    rules = replace(RULES, drawdown_max=0.5, canary_sessions=9)  # a tenth of it: 5 % of the capital

    async def play(climb: Climb) -> None:
        with_card(store, CARD)
        await climb.settle()
        await climb.session()
        state = climb.run.submitter.state
        climb.run.intake.put(CashTransferred(state.now_ns, -state.book.equity / 2))
        await climb.run.quiet()
        climb.climber = climber_of(climb.run, store, rules)  # as after a restart: it saw no transfer
        climb.run.intake.put(ClockTicked(state.now_ns + 1))
        await climb.settle()
        assert climb.step == "v2 canary_10"
        equity = climb.run.submitter.state.book.equity
        lose(climb, equity * Decimal("0.04"))
        await climb.settle()
        assert climb.step == "v2 canary_10"
        lose(climb, equity * Decimal("0.07"))
        await climb.settle()
        assert climb.step == "v2 rolled_back"

    assert steps(climbed(tmp_path, play, rules))[-1] == ("rolled_back", "canary_drawdown")


def test_a_restart_keeps_the_highest_gain_of_a_canary_s_session(tmp_path: Path) -> None:
    store = tmp_path / "store"
    rules = replace(RULES, drawdown_max=0.5, canary_sessions=9)  # a tenth of it: 5 % of the capital

    async def play(climb: Climb) -> None:
        with_card(store, CARD)
        await climb.settle()
        await climb.session()
        equity = climb.run.submitter.state.book.equity
        lose(climb, -equity * Decimal("0.01"))  # a gain below a quarter of what may be lost
        await climb.settle()
        lose(climb, -equity * Decimal("0.03"))
        await climb.settle()
        climb.climber = climber_of(climb.run, store, rules)
        lose(climb, equity * Decimal("0.015"))
        await climb.settle()
        assert climb.step == "v2 canary_10"
        lose(climb, equity * Decimal("0.025"))  # 2.5 % below its start, 5.5 % below its peak
        await climb.settle()
        assert climb.step == "v2 rolled_back"

    moves = climbed(tmp_path, play, rules)
    assert [move.reason for move in moves].count("peak") == 1
    assert steps(moves)[-1] == ("rolled_back", "canary_drawdown")


def test_a_canary_does_not_climb_while_its_desk_is_paused(tmp_path: Path) -> None:
    store = tmp_path / "store"

    async def play(climb: Climb) -> None:
        with_card(store, CARD)
        await climb.settle()
        await climb.session()
        for command in (PauseRequested, ResumeRequested):
            climb.run.intake.put(command(climb.run.submitter.state.now_ns, "a quiet day", "alice"))
            await climb.session()
            stood.append(climb.step)

    stood: list[str] = []
    moves = climbed(tmp_path, play)
    assert stood == ["v2 canary_10", "v2 canary_25"]
    idle = [move.detail for move in moves if move.reason == "idle"]
    assert idle == ["paused: a quiet day (by alice): it does not count"]


def test_a_shadow_does_not_pass_while_its_desk_is_paused(tmp_path: Path) -> None:
    async def play(climb: Climb) -> None:
        with_card(tmp_path / "store", CARD)
        await climb.settle()
        for command in (PauseRequested, ResumeRequested):
            climb.run.intake.put(command(climb.run.submitter.state.now_ns, "a quiet day", "alice"))
            await climb.session()
            stood.append(climb.step)

    stood: list[str] = []
    moves = climbed(tmp_path, play)
    assert stood == ["v2 shadow", "v2 canary_10"]
    idle = [(move.detail, move.figures.get("answered")) for move in moves if move.reason == "idle"]
    assert idle == [("paused: a quiet day (by alice): it does not count", None)]


def test_a_canary_whose_answers_cannot_be_used_gives_its_place_back_after_the_session(tmp_path: Path) -> None:
    async def play(climb: Climb) -> None:
        with_card(tmp_path / "store", CARD)
        await climb.settle()
        await climb.session()
        climb.run.models._policy = NoPolicy(1, "logits [nan], expected finite ones")
        await climb.session()
        assert (climb.step, climb.run.models.running.version) == ("v2 rolled_back", "v1")

    assert steps(climbed(tmp_path, play))[-1] == ("rolled_back", "canary_failed")
    assert alarms(tmp_path / "state").count("ladder_rolled_back") == 1


def without_model(climb: Climb) -> None:
    """As after a start of a desk that holds something and whose version cannot be loaded."""
    models = climb.run.models
    models.running = replace(models.running, version=NO_MODEL, digest="", manifest_digest="")


def test_a_canary_that_cannot_be_loaded_at_a_start_gives_its_place_back_to_the_champion(tmp_path: Path) -> None:
    store = tmp_path / "store"

    async def play(climb: Climb) -> None:
        with_card(store, CARD)
        await climb.settle()
        await climb.session()
        assert (climb.step, climb.run.models.running.version) == ("v2 canary_10", "v2")
        damage(store / "option_scalper" / "v2")
        without_model(climb)
        for _ in range(3):
            await climb.settle()
        assert (climb.step, climb.run.models.running.version) == ("v2 rolled_back", "v1")
        assert pointer_text(store / "option_scalper", CURRENT) == "v1"

    moves = climbed(tmp_path, play)
    assert steps(moves)[-1] == ("rolled_back", "verification")
    assert [move.share for move in moves if move.to_step == "rolled_back"] == [0.1, 1.0]
    assert moves[-1].detail == "v1 answers"


def test_nothing_is_proposed_while_no_model_answers(tmp_path: Path) -> None:
    store = tmp_path / "store"

    async def play(climb: Climb) -> None:
        with_card(store, CARD)
        climb.run.lifecycle.look = quiet  # type: ignore[method-assign]
        without_model(climb)
        await climb.settle()
        assert climb.step == ""
        del climb.run.lifecycle.look
        await climb.settle()
        await climb.settle()
        assert (climb.step, climb.run.models.running.version) == ("v2 shadow", "v1")

    async def quiet() -> None:
        pass

    climbed(tmp_path, play)


def test_a_person_may_promote_a_version_again_that_fell(tmp_path: Path) -> None:
    store = tmp_path / "store"

    async def play(climb: Climb) -> None:
        with_card(store, CARD)
        await climb.settle()
        await climb.session()
        climb.climber.drifted("v2", "index 3.1")
        await climb.settle()
        name(store, "v2")
        await climb.run.lifecycle.look()
        await climb.settle()
        await climb.session()
        assert (climb.step, climb.run.models.running.version) == ("v2 rolled_back", "v2")
        assert pointer_text(store / "option_scalper", CURRENT) == "v2"

    assert climbed(tmp_path, play)[-1].share == 1.0


def swap(store: Path, version: str, seed: int) -> Path:
    """Put another policy of the same name into the version's place, whole and with a card of its own."""
    shutil.rmtree(store / "option_scalper" / version)
    return with_card(store, msgspec.structs.replace(CARD, version=version, effective=901.0), seed=seed)


class Swapping(Climber):
    """A version that its trainer swaps after the last session of its shadow was judged, before the pointer moves."""

    async def _end_shadow_session(self, ladder: LadderState, state: State[Any]) -> None:
        await super()._end_shadow_session(ladder, state)
        swap(self._desk.models_dir, "v2", 9)


def test_a_version_that_was_swapped_after_its_card_and_shadow_were_judged_never_answers(tmp_path: Path) -> None:
    store = tmp_path / "store"
    digests = []

    async def play(climb: Climb) -> None:
        climb.climber = climber_of(climb.run, store, RULES, kind=Swapping)
        manifest = with_card(store, CARD) / MANIFEST_FILE
        digests.append(sha256(manifest.read_bytes()).hexdigest())
        await climb.settle()
        assert climb.step == "v2 shadow"
        for _ in range(3):
            await climb.session()
        assert (climb.step, climb.run.models.running.version) == ("v2 refused", "v1")
        assert pointer_text(store / "option_scalper", CURRENT) == "v1"

    moves = climbed(tmp_path, play)
    assert steps(moves) == [
        ("shadow", "card_passed"),
        ("canary_10", "shadow_passed"),
        ("refused", "version_changed"),
    ]
    assert {move.manifest for move in moves} == set(digests)
    assert moves[-1].share == 1.0
    assert alarms(tmp_path / "state").count("ladder_refused") == 1
    assert [event.version for event in events(tmp_path / "state", "ModelPromoted")] == []


def test_a_version_that_is_swapped_in_its_shadow_is_refused(tmp_path: Path) -> None:
    store = tmp_path / "store"

    async def play(climb: Climb) -> None:
        with_card(store, CARD)
        await climb.settle()
        assert climb.step == "v2 shadow"
        swap(store, "v2", 9)
        await climb.session()
        assert (climb.step, climb.run.models.running.version) == ("v2 refused", "v1")

    moves = climbed(tmp_path, play, replace(RULES, shadow_sessions=3))
    assert steps(moves) == [("shadow", "card_passed"), ("refused", "verification")]
    assert "judged version" in moves[-1].detail


def test_a_champion_that_was_swapped_does_not_take_the_place_of_a_canary_that_fell(tmp_path: Path) -> None:
    store = tmp_path / "store"

    async def play(climb: Climb) -> None:
        with_card(store, CARD)
        await climb.settle()
        await climb.session()
        assert climb.step == "v2 canary_10"
        swap(store, "v1", 9)
        climb.climber.drifted("v2", "index 3.1")
        await climb.settle()
        await climb.session()
        assert (climb.step, climb.run.models.running.version) == ("v2 rolled_back", "v2")
        assert pointer_text(store / "option_scalper", CURRENT) == "v2"
        publish(store, "good", 7)
        name(store, "good")  # by a person
        await climb.run.lifecycle.look()
        await climb.settle()
        assert climb.run.models.running.version == "good"

    moves = climbed(tmp_path, play)
    assert [move.share for move in moves if move.to_step == "rolled_back"] == [0.1, 1.0]
    alarms_before = alarms(tmp_path / "state")
    assert (alarms_before.count("ladder_rolled_back"), alarms_before.count("candidate_refused")) == (1, 1)


def test_a_canary_that_never_answered_is_not_what_a_start_would_take(tmp_path: Path) -> None:
    store = tmp_path / "store"

    async def play(climb: Climb) -> None:
        with_card(store, CARD)
        await climb.settle()
        damage(store / "option_scalper" / "v2")  # what answers in shadow is in memory
        await climb.session()
        assert (climb.step, climb.run.models.running.version) == ("v2 rolled_back", "v1")
        assert pointer_text(store / "option_scalper", CURRENT) == "v1"

    moves = climbed(tmp_path, play)
    assert [(move.to_step, move.reason) for move in moves[-2:]] == [
        ("rolled_back", "verification"),
        ("rolled_back", "left"),
    ]


def challenger_is_gone(shelf: Path) -> None:
    shutil.rmtree(shelf / "v2")


def manifest_is_gone(shelf: Path) -> None:
    (shelf / "v2" / MANIFEST_FILE).unlink()


@pytest.mark.parametrize("harm", [challenger_is_gone, manifest_is_gone])
def test_a_challenger_that_was_removed_in_its_shadow_leaves_the_ladder_to_the_next_one(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    store = tmp_path / "store"

    async def play(climb: Climb) -> None:
        with_card(store, CARD)
        await climb.settle()
        harm(store / "option_scalper")  # what answers in shadow is in memory
        await climb.session()
        assert (climb.step, climb.run.models.running.version) == ("v2 refused", "v1")
        with_card(store, msgspec.structs.replace(CARD, version="v3"), seed=3)
        await climb.settle()
        assert climb.step == "v3 shadow"

    moves = climbed(tmp_path, play)
    assert [(move.to_step, move.reason) for move in moves if move.version == "v2"][-1] == ("refused", "verification")
    assert alarms(tmp_path / "state").count("ladder_refused") == 1


def test_a_rollback_after_a_canary_fell_goes_behind_it(tmp_path: Path) -> None:
    store = tmp_path / "store"

    async def play(climb: Climb) -> None:
        publish(store, "v0", 4)
        for version in ("v0", "v1"):
            name(store, version)
            await climb.run.lifecycle.look()
        with_card(store, CARD)
        await climb.settle()
        await climb.session()
        assert climb.step == "v2 canary_10"
        climb.climber.drifted("v2", "index 3.1")
        await climb.settle()
        assert former_version(store / "option_scalper") == "v0"

    climbed(tmp_path, play)


def pointer_is_empty(shelf: Path) -> None:
    (shelf / CURRENT).write_bytes(b"")


def champion_is_away(shelf: Path) -> None:
    (shelf / "v1").rename(shelf / ".away")


def history_cannot_be_written(shelf: Path) -> None:
    (shelf / PROMOTIONS_FILE).rename(shelf / ".history")
    (shelf / PROMOTIONS_FILE).mkdir()


def store_is_no_folder(shelf: Path) -> None:
    shelf.parent.rename(shelf.parent.with_name("away"))
    shelf.parent.write_bytes(b"")


@pytest.mark.parametrize("harm", [pointer_is_empty, champion_is_away, history_cannot_be_written, store_is_no_folder])
def test_a_canary_that_fell_gives_way_or_an_alarm_says_that_it_answers_on(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    store = tmp_path / "store"
    answers = "v1" if harm is pointer_is_empty else "v2"

    async def play(climb: Climb) -> None:
        with_card(store, CARD)
        await climb.settle()
        await climb.session()
        assert climb.step == "v2 canary_10"
        harm(store / "option_scalper")
        climb.climber.drifted("v2", "index 3.1")
        for _ in range(2):
            await climb.settle()
        assert (climb.step, climb.run.models.running.version) == ("v2 rolled_back", answers)

    assert climbed(tmp_path, play)[-1].share == (1.0 if answers == "v1" else 0.1)
    refused = [event.version for event in events(tmp_path / "state", "CandidateRefused")]
    assert refused.count("v1") == (answers == "v2")


@pytest.mark.parametrize("harm", [history_cannot_be_written, store_is_no_folder])
def test_a_challenger_that_a_store_keeps_from_answering_is_an_alarm_and_goes_on_once_it_is_mended(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    store = tmp_path / "store"

    async def play(climb: Climb) -> None:
        with_card(store, CARD)
        await climb.settle()
        whole = shutil.copytree(store, tmp_path / "whole")
        harm(store / "option_scalper")
        for _ in range(2):
            await climb.session()
        assert climb.run.models.running.version == "v1"
        shutil.rmtree(store) if store.is_dir() else store.unlink()
        whole.rename(store)
        await climb.settle()
        assert (climb.step, climb.run.models.running.version) == ("v2 canary_10", "v2")

    climbed(tmp_path, play)
    told = [event.reason for event in events(tmp_path / "state", "CandidateRefused") if event.version == "v1"]
    assert [reason.partition(":")[0] for reason in told] == ["it cannot give its place to v2"]


@pytest.mark.parametrize(
    ("version", "when"),
    [
        ("good", "in its shadow"),
        ("good", "before it is named"),
        ("good", "after it is named"),
        ("v1", "after it is named"),  # the champion: the canary is taken out before it answered
    ],
)
def test_what_a_person_lets_answer_stays_whatever_a_challenger_does(tmp_path: Path, when: str, version: str) -> None:
    store = tmp_path / "store"

    async def play(climb: Climb) -> None:
        publish(store, "good", 7)
        with_card(store, CARD)
        await climb.settle()
        if when != "in its shadow":
            await climb.run.feed_session()
        if when == "after it is named":
            await climb.climber.look()
            assert pointer_text(store / "option_scalper", CURRENT) == "v2"
        name(store, version)
        for _ in range(2):
            await climb.session()
        assert climb.run.models.running.version == version

    moves = climbed(tmp_path, play)
    assert moves[-1].share == 1.0
    assert "by_hand" in [move.reason for move in moves if move.to_step in OUT]
    assert {event.version for event in events(tmp_path / "state", "ModelPromoted")} <= {"good"}


@pytest.mark.parametrize("pinned", ["v1", "v2"])
def test_a_pin_lets_no_canary_in_and_an_alarm_says_that_a_pinned_one_that_fell_answers_on(
    tmp_path: Path, pinned: str
) -> None:
    store = tmp_path / "store"

    async def play(climb: Climb) -> None:
        with_card(store, CARD)
        await climb.settle()
        if pinned == "v2":
            await climb.session()
            climb.climber.drifted("v2", "index 3.1")
        climb.run.lifecycle._versions["live"] = pinned  # as a start with `policy.version`
        for _ in range(2):
            await climb.session()
        assert (climb.step, climb.run.models.running.version) == ("v2 rolled_back", pinned)

    moves = climbed(tmp_path, play)
    assert (steps(moves)[-1], moves[-1].share) == (
        (("rolled_back", "by_hand"), 1.0) if pinned == "v1" else (("rolled_back", "canary_drift"), 0.1)
    )
    assert alarms(tmp_path / "state").count("candidate_refused") == (pinned == "v2")


def test_a_canary_that_is_swapped_while_it_answers_is_rolled_back(tmp_path: Path) -> None:
    store = tmp_path / "store"

    async def play(climb: Climb) -> None:
        with_card(store, CARD)
        await climb.settle()
        await climb.session()
        swap(store, "v2", 9)
        await climb.settle()
        assert (climb.step, climb.run.models.running.version) == ("v2 rolled_back", "v1")

    assert steps(climbed(tmp_path, play))[-1] == ("rolled_back", "version_changed")


def test_a_canary_s_session_whose_daemon_dies_at_its_end_is_judged_once_by_the_next_start(tmp_path: Path) -> None:
    store = tmp_path / "store"

    async def play(climb: Climb) -> None:
        with_card(store, CARD)
        await climb.settle()
        await climb.session()
        await climb.run.feed_session()
        for _ in range(3):  # the first one dies before it looks
            climb.run.observers.remove(climb.climber.observe)
            climb.climber = climber_of(climb.run, store, rules)
            await climb.settle()

    rules = replace(RULES, canary_sessions=3)
    assert [move.sessions for move in climbed(tmp_path, play, rules) if move.reason == "session"] == [1]


def test_what_was_found_of_one_version_takes_no_other_off_the_ladder(tmp_path: Path) -> None:
    store = tmp_path / "store"

    async def play(climb: Climb) -> None:
        with_card(store, CARD)
        await climb.settle()
        await climb.session()
        climb.climber.drifted("v2", "index 3.1")  # and before the next look a person takes its place
        ladder = climb.run.submitter.state.ladder
        assert isinstance(ladder, LadderState)
        await climb.climber._submit(ladder, "champion", 0, ladder.figures, "by_hand", "")
        with_card(store, msgspec.structs.replace(CARD, version="v3", parent="v2"), seed=3)
        await climb.settle()
        assert climb.step == "v3 shadow"

    climbed(tmp_path, play)


def test_a_canary_of_another_journal_that_comes_to_answer_in_a_session_does_not_wait_for_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file was damaged at the start, so the champion answers; then it is whole again. No look comes by itself."""
    monkeypatch.setattr(climber, "BROKER_MODES", ("replay",))
    store, shelf = tmp_path / "store", tmp_path / "store" / "option_scalper"

    async def play(climb: Climb) -> None:
        folder = publish(store, "v2", 2)
        damage(folder)
        point(shelf, CURRENT, "v2", author=climber.WHO, why="test", now_ns=0, canary=True)
        looking = asyncio.create_task(climb.climber.run())
        await climb.run.lifecycle.look()
        assert climb.run.models.running.version == "v1"
        damage(folder)  # the same bit turned back
        await climb.run.lifecycle.look()
        assert climb.run.models.running.version == "v2"
        await until(lambda: climb.step == "v2 rolled_back")
        ladder = climb.run.submitter.state.ladder
        assert isinstance(ladder, LadderState)
        assert ladder.share == 0.1
        await until(lambda: pointer_text(shelf, CURRENT) == "v1")
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)

    moves = climbed(tmp_path, play)
    assert steps(moves)[0] == ("rolled_back", "canary_unknown")


@pytest.mark.parametrize(
    "sessions", [1, 2, 6]
)  # the challenger is in its canary's first step, in the second one, champion
@pytest.mark.parametrize("copied", [False, True])
def test_a_canary_of_another_journal_does_not_trade_the_full_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sessions: int, copied: bool
) -> None:
    """A journal that is begun anew, an older copy of it, or one of a second desk, on the store of a canary."""
    monkeypatch.setattr(climber, "BROKER_MODES", ("replay",))
    store, other = tmp_path / "store", tmp_path / "other"

    async def play(climb: Climb) -> None:
        with_card(store, CARD)
        await climb.settle()
        if copied:
            (other).mkdir()
            with (
                closing(sqlite3.connect(tmp_path / "state" / FILE)) as now,
                closing(sqlite3.connect(other / FILE)) as old,
            ):
                now.backup(old)
        for _ in range(sessions):
            await climb.session()
        assert climb.run.models.running.version == "v2"

    climbed(tmp_path, play)
    desk = Desk(tmp_path / "tape.csv", paths__models_dir=store, policy__version=CURRENT)
    shares: list[float] = []

    async def again() -> None:
        async with running(desk, other) as run:
            assert run.models.running.version == "v2"
            climb = Climb(run, climber_of(run, store))
            climb.climber._align = nothing  # type: ignore[method-assign]
            await climb.climber.look()
            ladder = run.submitter.state.ladder
            shares.append(ladder.share if isinstance(ladder, LadderState) else 1.0)
            del climb.climber._align
            await climb.settle()
            assert run.models.running.version == pointer_text(store / "option_scalper", CURRENT) == answers

    async def nothing() -> None:
        pass

    answers, share = ("v2", 1.0) if sessions == 6 else ("v1", 0.1)
    asyncio.run(again())
    assert shares == [share]
    assert alarms(other).count("ladder_rolled_back") == (sessions < 6)


async def to_the_last_canary_step(climb: Climb, store: Path) -> None:
    """Let v2 climb, with its card, until the last session before it is champion."""
    with_card(store, CARD)
    await climb.settle()
    for _ in range(4):
        await climb.session()
    assert climb.step == "v2 canary_100"


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_champion_that_climbed_stays_although_another_challenger_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_lost: bool
) -> None:
    monkeypatch.setattr(climber, "BROKER_MODES", ("replay",))
    store = tmp_path / "store"

    async def play(climb: Climb) -> None:
        await to_the_last_canary_step(climb, store)
        if is_lost:
            (store / "option_scalper" / CURRENT).unlink()
        with_card(store, msgspec.structs.replace(CARD, version="v3", parent="v2"), seed=3)
        await climb.session()
        assert (climb.step, climb.run.models.running.version) == ("v3 shadow", "v2")
        assert pointer_text(store / "option_scalper", CURRENT) == "v2"

    climbed(tmp_path, play)


def test_a_champion_that_its_store_cannot_note_is_an_alarm_and_is_noted_once_it_is_mended(tmp_path: Path) -> None:
    store = tmp_path / "store"

    async def play(climb: Climb) -> None:
        await to_the_last_canary_step(climb, store)
        shelf = store / "option_scalper"
        history_cannot_be_written(shelf)
        for _ in range(2):
            await climb.session()
        assert climb.step == "v2 champion"
        (shelf / PROMOTIONS_FILE).rmdir()
        (shelf / ".history").rename(shelf / PROMOTIONS_FILE)
        assert canary_of(shelf) is not None
        await climb.settle()
        assert canary_of(shelf) is None

    climbed(tmp_path, play)
    told = [event.reason for event in events(tmp_path / "state", "CandidateRefused") if event.version == "v2"]
    assert [reason.partition(",")[0] for reason in told] == ["it climbed to champion"]


def test_a_canary_that_breaks_its_claim_about_risk_falls(tmp_path: Path) -> None:
    async def play(climb: Climb) -> None:
        with_card(tmp_path / "store", CARD)
        await climb.settle()
        await climb.session()
        assert climb.step == "v2 canary_10"
        run, now_ns = climb.run, climb.run.submitter.now_ns()
        claim = RiskClaim(0.10, 0.08, 0.12, 60, 0.9, 0.1, 0.95, 252)
        run.intake.put(ModelPromoted(now_ns, "v2", run.models.running.digest, False, "sip", "v1", claim))
        run.intake.put(ClaimJudged(now_ns, "v2", "above", "volatility 20.00%", 60, 0.2, 0.0, "no_new_risk"))
        await climb.settle()
        assert climb.step == "v2 rolled_back"
        assert run.models.running.version == "v1"

    assert steps(climbed(tmp_path, play))[-1] == ("rolled_back", "canary_claim")


def test_drift_a_hold_and_a_hand_take_a_challenger_off_the_ladder(tmp_path: Path) -> None:
    store = tmp_path / "store"

    async def play(climb: Climb) -> None:
        shelf = store / "option_scalper"
        with_card(store, CARD)
        await climb.settle()
        await climb.session()
        climb.climber.drifted("v1", "of another version")
        climb.climber.drifted("v2", "index 3.1")
        await climb.settle()
        assert (climb.step, climb.run.models.running.version) == ("v2 rolled_back", "v1")
        write_holds(shelf, HoldReasons(frozen="a quiet week"))
        with_card(store, msgspec.structs.replace(CARD, version="v3"), seed=3)
        await climb.settle()
        assert climb.step == "v2 rolled_back"  # frozen
        write_holds(shelf, HoldReasons())
        await climb.settle()
        assert climb.step == "v3 shadow"
        write_holds(shelf, HoldReasons(held={"v3": "not this one"}))
        await climb.settle()
        assert climb.step == "v3 refused"
        with_card(store, msgspec.structs.replace(CARD, version="v4"), seed=4)
        await climb.settle()
        await climb.session()
        assert (climb.step, climb.run.models.running.version) == ("v4 canary_10", "v4")
        name(store, "v1")  # as `rltraderctl models rollback` does
        await climb.run.lifecycle.look()
        await climb.settle()
        assert (climb.step, climb.run.models.running.version) == ("v4 rolled_back", "v1")
        (shelf / "holds.json").write_text("{")
        with_card(store, msgspec.structs.replace(CARD, version="v5"), seed=6)
        await climb.settle()
        assert climb.step == "v4 rolled_back"  # unreadable holds: nothing climbs
        assert [event for event, _ in climb.run.log].count("ladder_held") == 1

    moves = climbed(tmp_path, play)
    exits = [(one.version, one.reason) for one in moves if one.to_step != one.from_step and one.to_step in OUT]
    assert exits == [("v2", "canary_drift"), ("v3", "held_back"), ("v4", "by_hand")]
