"""A candidate beside the live model: the statistics by hand, and whole journals of a replay."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daemon.core.effects import AskPolicy
from daemon.core.events import (
    ShadowAnswered,
    ShadowFailed,
)
from daemon.core.records import DecisionRow, ShadowRow
from daemon.core.state import State
from daemon.engine.engine import Engine
from daemon.journal.journal import FILE, Journal
from daemon.journal.rows import CommitBatch
from daemon.reports.shadow import (
    Hypothetical,
    SessionPair,
    ShadowReport,
    agreement_of,
    interval_of_mean,
    kappa_of,
    shadow_reports,
    verdict_of,
)
from tests.support.core.desk import (
    HOLD,
)
from tests.support.desks.desk_run import Desk as Run
from tests.support.desks.desk_run import execute, table, tape_rows, write_tape

# --- the figures --------------------------------------------------------------------------------------------------


def test_agreement_and_kappa_by_hand() -> None:
    assert agreement_of([[20, 5], [10, 15]]) == pytest.approx(0.7)
    assert kappa_of([[20, 5], [10, 15]]) == pytest.approx(0.4)  # by chance 0.5 x 0.6 + 0.5 x 0.4 = 0.5
    assert kappa_of([[10, 0], [0, 10]]) == 1.0


def test_where_chance_alone_agrees_or_nothing_was_counted_there_is_no_kappa() -> None:
    assert kappa_of([[7]]) is None
    assert (agreement_of([[0, 0], [0, 0]]), kappa_of([])) == (None, None)


def test_the_interval_of_independent_sessions_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(3).normal(1.0, 2.0, 400)
    low, high = interval_of_mean(values, 1.0)
    error = values.std() / math.sqrt(400)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.05 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.05 * error)


def test_the_interval_of_sessions_that_hang_together_is_wider_by_blocks() -> None:
    values = np.repeat(np.random.default_rng(3).normal(0.0, 1.0, 60), 10)
    widths = [high - low for low, high in (interval_of_mean(values, block) for block in (1.0, 10.0))]
    assert widths[1] > 1.8 * widths[0]


def hypothetical(difference: float, low: float | None, high: float | None) -> Hypothetical:
    pairs = tuple(SessionPair(f"2024-07-{number:02}", 0.0, difference) for number in range(1, 21))
    return Hypothetical("", pairs, 0.0, 0.0, 0, 0, 0, difference, low, high, 2.7)


@pytest.mark.parametrize(
    ("comparison", "sentence"),
    [
        (hypothetical(3.2, -1.0, 7.0), "May be chance: over 20 sessions the candidate would have earned 3.20 USD"),
        (hypothetical(-3.2, -5.0, -1.0), "More than chance at 95 %: over 20 sessions the candidate would have"),
        (hypothetical(3.2, None, None), "May be chance: over 20 sessions"),
        (None, "No result to compare"),
    ],
)
def test_the_sentence_says_first_whether_it_may_be_chance(comparison: Hypothetical | None, sentence: str) -> None:
    assert verdict_of(comparison).startswith(sentence)


# --- whole journals -----------------------------------------------------------------------------------------------


class Candidate:
    """Answers beside the live model: as it does, or by a script of (decision, action); raises at `fails`."""

    shadow = "candidate"

    def __init__(self, run: Run, script: dict[int, int] | None = None, fails: tuple[int, ...] = ()) -> None:
        self._policy = run.replay.policy
        self._script = script
        self._fails = fails

    def shadow_answer(self, question: AskPolicy, state: State[Any]) -> ShadowAnswered | ShadowFailed:
        now, number = state.now_ns, question.decision
        if number in self._fails:
            return ShadowFailed(now, number, "out of order", "candidate")
        if self._script is not None:
            action = self._script.get(number, HOLD)
            values = tuple(8.0 * (place == action) for place in range(6))
            return ShadowAnswered(now, number, values, b"", "candidate")
        answer: Any = self._policy.answer(question, now)
        return ShadowAnswered(now, number, answer.logits, answer.hidden, "candidate")


def replayed(folder: Path, *, sessions: int = 2, **options: Any) -> Path:
    """The state directory of a run with a candidate."""
    run = Run(write_tape(folder / "tape.csv", tape_rows(sessions, 60)))

    def attach(engine: Engine) -> None:
        engine._shadow = Candidate(run, **options)

    result = run.run(folder / "state", engine_made=attach)
    assert result.failure is None
    return folder / "state"


def reported(state: Path) -> ShadowReport:
    (report,) = shadow_reports(state / FILE)
    return report


def test_a_candidate_that_answers_as_the_live_model_does_agrees_in_everything(tmp_path: Path) -> None:
    state = replayed(tmp_path)
    report = reported(state)
    decided = [row for row in table(state, "decisions") if row[1] == "policy"]
    assert (report.model, report.beside, report.failures, report.unmatched) == ("candidate", ("fixture",), 0, 0)
    assert report.decisions == len(decided) > 60
    assert (report.agreement, report.total_variation) == (1.0, 0.0)
    assert report.kappa == pytest.approx(1.0)
    assert report.confidence_live == report.confidence_shadow
    assert sum(map(sum, report.confusion)) == report.decisions
    hypothetical = report.hypothetical
    assert hypothetical is not None
    assert hypothetical.live_trades == hypothetical.shadow_trades > 2
    assert {pair.live_usd - pair.shadow_usd for pair in hypothetical.sessions} == {0.0}
    assert (len(hypothetical.sessions), hypothetical.low_usd) == (2, None)
    assert report.verdict.startswith("May be chance")


def write_journal(folder: Path, strategy: str, pairs: list[tuple[dict[str, Any] | None, dict[str, Any]]]) -> Path:
    """A journal of read models alone: the answers of live model and candidate to each question."""
    meta = {"mode": "replay", "account": "paper", "strategy": strategy, "epoch": "e1", "feed": "sip"}
    journal, batch = Journal.create(folder / FILE, meta), CommitBatch()
    for number, (live, shadow) in enumerate(pairs, start=1):
        outcome = {"outcome": "hold", **live, "model": "v1"} if live else {"outcome": "failed"}
        batch.rows.append(DecisionRow(decision=number, kind="policy", bar_ns=0, time_ns=0, **outcome))
        batch.rows.append(ShadowRow(decision=number, model="v2", bar_ns=0, time_ns=0, **shadow))
    journal.commit(batch)
    journal.close()
    return folder


def chose(action: str, *probabilities: float) -> dict[str, Any]:
    answer = json.dumps(probabilities)
    return {"action": action, "confidence": max(probabilities), "probabilities": answer, "logits": answer}


def test_the_comparison_by_hand(tmp_path: Path) -> None:
    hold, call = chose("HOLD", 0.7, 0.3, 0.0, 0.0, 0.0, 0.0), chose("BUY_CALL", 0.1, 0.9, 0.0, 0.0, 0.0, 0.0)
    pairs = [(hold, hold), (hold, call), (call, call), (call, call), (None, hold), (hold, {"problem": "too slow"})]
    report = reported(write_journal(tmp_path, "option_scalper", pairs))
    assert (report.decisions, report.failures, report.unmatched, report.beside) == (4, 1, 1, ("v1",))
    assert (report.actions, report.confusion) == (("HOLD", "BUY_CALL"), ((1, 1), (0, 2)))
    assert report.agreement == 0.75
    assert report.kappa == pytest.approx(0.5)  # by chance 1/2 x 1/4 + 1/2 x 3/4 = 1/2
    assert report.confidence_live == pytest.approx(0.8)
    assert report.confidence_shadow == pytest.approx(0.85)
    assert report.total_variation == pytest.approx(0.6 / 4)  # half of |0.7 - 0.1| + |0.3 - 0.9|, in one of four
    assert report.mean_difference is None
    assert report.hypothetical is None


def test_a_continuous_policy_is_compared_by_direction_and_distance_of_each_action(tmp_path: Path) -> None:
    live, shadow = [0.5] * 25 + [-0.5] * 25, [0.5] * 20 + [-0.1] * 5 + [0.0] * 25
    pair = [{"action": "rebalance", "logits": json.dumps(values)} for values in (live, shadow)]
    report = reported(write_journal(tmp_path, "daily_rebalancer", [(pair[0], pair[1])]))
    assert (report.actions, report.confusion) == (("SELL", "NONE", "BUY"), ((0, 25, 0), (0, 0, 0), (5, 0, 20)))
    assert report.agreement == pytest.approx(20 / 50)
    assert report.mean_difference == pytest.approx((5 * 0.6 + 25 * 0.5) / 50)
    assert (report.confidence_live, report.total_variation) == (None, None)


def test_a_candidate_that_only_failed_has_nothing_to_compare(tmp_path: Path) -> None:
    report = reported(write_journal(tmp_path, "option_scalper", [(chose("HOLD", 1.0), {"problem": "too slow"})]))
    assert (report.decisions, report.failures, report.actions, report.confusion) == (0, 1, (), ())
    assert (report.agreement, report.kappa, report.beside) == (None, None, ())
    assert report.verdict == "No result to compare: there is no decision that both answered."


def test_a_journal_that_cannot_be_stepped_again_still_tells_the_agreement(tmp_path: Path) -> None:
    state = replayed(tmp_path, sessions=1)
    (seq, payload) = next((row[1], row[4]) for row in table(state, "events") if row[3] == "OrderFilled")
    fields = {**json.loads(payload), "quantity": 999}
    assert execute(state, "UPDATE events SET payload = ? WHERE seq = ?", json.dumps(fields), seq) == 1
    report = reported(state)
    assert (report.agreement, report.hypothetical) == (1.0, None)
    assert report.untold.startswith("the journal cannot be stepped again with this code")
    assert report.verdict.startswith("No result to compare: the journal cannot")


def test_a_journal_without_a_candidate_or_from_before_there_were_any_has_no_report(tmp_path: Path) -> None:
    run = Run(write_tape(tmp_path / "tape.csv", tape_rows(1, 30)))
    assert run.run(tmp_path / "state").failure is None
    assert shadow_reports(tmp_path / "state" / FILE) == ()
    execute(tmp_path / "state", "DROP TABLE shadows")
    assert shadow_reports(tmp_path / "state" / FILE) == ()
