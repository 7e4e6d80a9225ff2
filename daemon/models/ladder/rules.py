"""The ladder of a challenger as a pure machine: proposed, replay, shadow, canary by parts of the size, champion.

No clock, no file: each function takes the known figures and returns the next step with its reason, or None to stay. The
names of the reasons are in docs/OPERATIONS.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from msgspec import UNSET, UnsetType

from daemon.config.tables import LadderTable
from daemon.core.broker.fills import at_cost
from daemon.core.gates import LOSSES
from daemon.core.state import Book, LadderState, RiskState, Stats
from daemon.models.ladder.replay_gate import Replayed
from strategies.kit.card import DEVIATIONS_MOST, STAKES, Card

REPLAY, SHADOW, CHAMPION = "replay", "shadow", "champion"
REFUSED, ROLLED_BACK = "refused", "rolled_back"
CANARY = {"canary_10": 0.10, "canary_25": 0.25, "canary_50": 0.50, "canary_100": 1.0}
"""The steps at which a challenger trades, and their parts of the size."""
OWN_HALTS = ("daily_loss", "drawdown")
UNUSABLE = "answer_not_finite"  # gate that denies when the version's answer cannot be used
UNANSWERED = (UNUSABLE, "served_late")  # gates that deny when there is no usable answer
CLIMBING = (REPLAY, SHADOW, *CANARY)
LOSS_MOST = 2.0  # x stake²: most that a card may allow for the tails of its sessions


class LadderMove(NamedTuple):
    """The next step, its reason, and the figures in words."""

    to_step: str
    reason: str
    detail: str


def falls(ladder: LadderState | UnsetType) -> bool:
    """Return whether a version was rolled back and still answers: nothing is proposed meanwhile."""
    return ladder is not UNSET and ladder.step == ROLLED_BACK and "left" not in ladder.figures


def judge_card(card: Card, champion: str, rules: LadderTable) -> LadderMove:
    """Judge a card by the criteria of the configuration: on to the replay, or refused by the first that fails."""
    lead = card.leads.get(rules.estimator)
    checks = (
        ("card_parent", card.parent == champion, f"it was compared with {card.parent}, the champion is {champion}"),
        ("card_cannot_say", not card.cannot_be_said, card.cannot_be_said),
        ("card_sessions", card.sessions >= rules.card_sessions_min, f"{card.sessions} sessions"),
        ("card_overlap", card.overlap >= rules.overlap_min, f"overlap {card.overlap:.2f}"),
        (
            "card_effective",
            card.effective >= rules.effective_min,
            f"{card.effective:,.0f} effective episodes",
        ),
        ("card_lead", lead is not None and lead.low > rules.lead_min, _lead(card, rules.estimator)),
        (
            "card_band",
            _has_band(card),
            f"sessions of {card.session_mean:.5f} with the deviation {card.session_deviation:.5f}",
        ),
    )
    for name, is_passed, detail in checks:
        if not is_passed:
            return LadderMove(REFUSED, name, detail)
    return LadderMove(REPLAY if rules.replay_sessions else SHADOW, "card_passed", _lead(card, rules.estimator))


def after_replay(result: Replayed, rules: LadderTable) -> LadderMove:
    """Judge the replay: whether it could be made, then its final result against the champion's.

    A journal without a session to replay is no evidence either way: the shadow will show.
    """
    if result.problem:
        return LadderMove(REFUSED, "replay_failed", result.problem)
    if not result.asked:
        return LadderMove(SHADOW, "replay_empty", "the journal holds no whole session in which a question was asked")
    if _fails(result.failed, result.asked, rules):
        return LadderMove(REFUSED, "replay_failed", f"{result.failed} of {result.asked} questions without an answer")
    detail = f"{result.pnl:+.3%}, the champion {result.champion_pnl:+.3%} in {result.sessions} sessions of the journal"
    if result.pnl < result.champion_pnl - rules.replay_behind_max:
        return LadderMove(REFUSED, "replay_behind", detail)
    return LadderMove(SHADOW, "replay_passed", detail)


def after_shadow(
    sessions: int, answers: int, failures: int, pnl: float, champion_pnl: float, rules: LadderTable
) -> LadderMove | None:
    """Judge the shadow after each session: its failures, then its copy of the desk against the champion's.

    `pnl` and `champion_pnl` are both copies' profits, as parts of the equity at which they began.
    """
    if _fails(failures, answers + failures, rules):
        return LadderMove(REFUSED, "shadow_failed", f"{failures} of {answers + failures} questions without an answer")
    if sessions < rules.shadow_sessions:
        return None
    detail = f"{pnl:+.3%}, the champion's {champion_pnl:+.3%} in {sessions} sessions"
    if not answers:
        return LadderMove(REFUSED, "shadow_failed", "it answered no question")
    if pnl < champion_pnl - rules.shadow_behind_max:
        return LadderMove(REFUSED, "shadow_behind", detail)
    return LadderMove("canary_10", "shadow_passed", detail) if rules.promotion == "automatic" else None


def after_canary(step: str, sessions: int, evidence: float, rules: LadderTable) -> LadderMove | None:
    """Judge a canary after each session: out of its band, or long enough on its step for the next one."""
    if evidence >= 1.0 / rules.false_alarm:
        return LadderMove(
            ROLLED_BACK, "canary_rewards", f"evidence {evidence:,.0f} against the card's expected sessions"
        )
    if sessions < rules.canary_sessions:
        return None
    steps = (*CANARY, CHAMPION)
    return LadderMove(steps[steps.index(step) + 1], "canary_passed", f"{sessions} sessions without a breach")


def unusable(questions: int, answers: int, rules: LadderTable) -> LadderMove | None:
    """Judge a canary's session by the answers that nothing could use, which are its own fault as no late one is."""
    if not _fails(answers, questions, rules):
        return None
    return LadderMove(ROLLED_BACK, "canary_failed", f"{answers} of {questions} questions without a usable answer")


def total_gain(book: Book) -> float:
    """Return the desk's total profit, USD, realised and not, which no transfer changes."""
    return float(book.realized + book.equity - at_cost(book))


def drawdown(gain: float, peak: float, capital: float, share: float, rules: LadderTable) -> LadderMove | None:
    """Judge the loss from the highest gain since the promotion, USD, as a part of the capital without that gain."""
    loss_share, most = (peak - gain) / capital if capital > 0.0 else 1.0, rules.drawdown_max * share
    if loss_share <= most:
        return None
    return LadderMove(
        ROLLED_BACK, "canary_drawdown", f"{loss_share:.2%} of the equity lost since then, at most {most:.2%}"
    )


def unanswered_questions(stats: Stats) -> int:
    """Return how many questions had no usable answer since the journal began."""
    return sum(stats.denials.get(gate, 0) for gate in UNANSWERED)


def unusable_answers(stats: Stats) -> int:
    """Return how many answers could not be used since the journal began."""
    return stats.denials.get(UNUSABLE, 0)


def idle(risk: RiskState, now_ns: int, questions: int, failures: int, rules: LadderTable) -> str:
    """Return why a session does not count for a challenger, "" where it does.

    A stop by its own losses is no reason. `questions` counts its questions, `failures` those without an answer.
    """
    if not questions:
        return "no question was asked"
    if _fails(failures, questions, rules):
        return f"{failures} of {questions} questions without an answer"
    pause, halt = risk.pause, risk.halt
    if halt is not None and halt.reason not in OWN_HALTS:
        return f"halt {halt.reason}"
    if pause is None or pause.reason == LOSSES or (pause.until_ns and now_ns >= pause.until_ns):
        return ""
    return f"paused: {pause.reason}"


def bet(figures: Mapping[str, float], session_return: float, share: float) -> dict[str, float]:
    """Let each stake bet that the session falls short of the card's mean; return the wealths afterwards.

    A stake b multiplies its wealth by exp(-b z) over that factor's mean in the sessions of the card, with z the
    session's standardised return at the full size. While sessions are as good as those, this is a supermartingale: its
    chance of ever reaching 1 / a is a at most (Ville 1939; Howard et al. 2021, Annals of Statistics 49(2)). `figures`
    hold the card's `session_mean`, `session_deviation` and `band_*`, and the wealths so far as `bet_*`.
    """
    z = (session_return / share - figures["session_mean"]) / figures["session_deviation"]
    z = min(max(z, -DEVIATIONS_MOST), DEVIATIONS_MOST)
    return {
        f"bet_{stake}": figures.get(f"bet_{stake}", 1.0) * math.exp(-stake * z - figures[f"band_{stake}"])
        for stake in STAKES
    }


def evidence_of(figures: Mapping[str, float]) -> float:
    """Return the mean wealth of all stakes, again a supermartingale."""
    return sum(figures.get(f"bet_{stake}", 1.0) for stake in STAKES) / len(STAKES)


def _fails(failures: int, questions: int, rules: LadderTable) -> bool:
    """Return whether too many of the questions had no usable answer."""
    return failures > rules.shadow_failures_max * questions


def _has_band(card: Card) -> bool:
    """Return whether the card describes the version's sessions, within reason."""
    if not math.isfinite(card.session_mean) or not 0.0 < card.session_deviation < math.inf:
        return False
    most = [LOSS_MOST * stake * stake for stake in STAKES]
    return len(card.band) == len(STAKES) and all(0.0 < loss <= top for loss, top in zip(card.band, most, strict=True))


def _lead(card: Card, estimator: str) -> str:
    lead = card.leads.get(estimator)
    if lead is None:
        return f"the card has no estimate {estimator}"
    return f"lead by {estimator} {lead.estimate:+.5f}, 95 % interval {lead.low:+.5f} to {lead.high:+.5f}"
