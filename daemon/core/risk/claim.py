"""A model's claim about its risk, checked against the desk's own daily closes, and when it counts as broken.

A session's return is that of the equity from one close to the next. Transfers and dividends are no return, and others'
holdings are not in the book. Volatility is judged once for each window of sessions that count, drawdown at once: a
claim of a probability is about each window, not about the worst of all overlapping ones. Nothing here halts or sells.
Invariant: an exit never depends on it.
"""

from __future__ import annotations

from decimal import Decimal
from math import fsum, sqrt
from typing import NamedTuple

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from daemon.core.draft import Draft
from daemon.core.events import ClaimJudged, RiskClaim
from daemon.core.gates import LOSSES
from daemon.core.instruments.option_market import SESSIONS_PER_YEAR
from daemon.core.state import Book, BrokenClaim, ClaimState

ROUNDING = 1e-9  # tolerance: a drawdown of exactly the stated size is within the claim
KEPT, BELOW, ABOVE, DRAWDOWN = "kept", "below", "above", "drawdown"  # verdicts
BROKEN = frozenset((ABOVE, DRAWDOWN))
"""The verdicts that have a consequence; less risk than stated is only noted."""
NO_NEW_RISK, FORMER_VERSION, ALARM = "no_new_risk", "former_version", "alarm"
"""Consequences, the values of `drift.claim_broken`."""
BROKEN_MAX = 50  # versions kept


class Verdict(NamedTuple):
    """A verdict on a claim, and its figures in words."""

    verdict: str
    detail: str


def volatility(returns: tuple[float, ...]) -> float:
    """Return the annual volatility of simple returns of sessions; 0.0 for fewer than two."""
    count = len(returns)
    if count < 2:
        return 0.0
    mean = fsum(returns) / count
    return sqrt(fsum((one - mean) ** 2 for one in returns) / (count - 1) * SESSIONS_PER_YEAR)


def fall(state: ClaimState | UnsetType, book: Book) -> float:
    """Return the drawdown that the claim limits: the part of its highest close that is lost now.

    It counts the equity at the claim's start and the closes since, over as many sessions as the claim states.
    """
    close = _counted_from(book)
    if isinstance(state, UnsetType) or close <= 0:
        return 0.0
    return max(1.0 - float(book.equity / close) / max(state.heights, default=1.0), 0.0)


def _counted_from(book: Book) -> Decimal:
    """Return the equity at the last close, moved with transfers; before the first one that of the session's start."""
    return book.session_base if isinstance(book.claim_close, UnsetType) else book.claim_close


def judge_claim(state: ClaimState | UnsetType, book: Book) -> Verdict | None:
    """Judge the claim of the version that answers; None without a verdict now, or where it was broken before."""
    if isinstance(state, UnsetType) or state.claim is None or state.version in state.broken:
        return None
    claim, drawdown = state.claim, fall(state, book)
    if drawdown > claim.drawdown_max + ROUNDING:
        return Verdict(DRAWDOWN, f"{drawdown:.2%} of the highest close lost, at most {claim.drawdown_max:.2%} stated")
    if state.sessions - state.judged < claim.window_sessions or len(state.returns) < claim.window_sessions:
        return None
    annual = volatility(state.returns)
    verdict = ABOVE if annual > claim.high else BELOW if annual < claim.low else KEPT
    return Verdict(
        verdict, f"volatility {annual:.2%} of {len(state.returns)} sessions, stated {claim.low:.2%} to {claim.high:.2%}"
    )


def note_model(draft: Draft, version: str, claim: RiskClaim | UnsetType) -> None:
    """Watch the claim of the version that answers from now on. Another version or claim starts anew."""
    claim_state = draft.claim
    if isinstance(claim_state, UnsetType):
        if isinstance(claim, UnsetType):
            return
        claim_state = ClaimState()
    new_state = ClaimState(broken=claim_state.broken)
    if not isinstance(claim, UnsetType):
        new_state = replace(new_state, version=version, claim=claim)
    if (claim_state.version, claim_state.claim) == (new_state.version, new_state.claim):
        return  # the same claim after a restart
    draft.claim = new_state
    _begin(draft)


def _begin(draft: Draft) -> None:
    """Count the drawdown from the equity now, and returns from the next close on."""
    equity = draft.book.equity
    draft.put_book(replace(draft.book, claim_close=equity if equity > 0 else UNSET, claim_base=UNSET))


def note_close(draft: Draft) -> None:
    """Record the close of the session that ended, with the book marked: its return, and the highest close."""
    claim_state, session, book = draft.claim, draft.session.session, draft.book
    if (
        isinstance(claim_state, UnsetType)
        or claim_state.claim is None
        or session is None
        or claim_state.closed == session.date
    ):
        return
    base, close, equity = book.claim_base, _counted_from(book), book.equity
    growth = float(equity / close) if close > 0 and equity > 0 else 1.0
    heights = [height / growth for height in claim_state.heights or (1.0,)]
    new_state = replace(
        claim_state,
        closed=session.date,
        decision=draft.decision,
        heights=(*heights, 1.0)[-claim_state.claim.drawdown_sessions :],
    )
    if not isinstance(base, UnsetType) and base > 0:
        if why := _reason_to_skip(draft, claim_state):
            new_state = replace(new_state, left_out=claim_state.left_out + 1, why_left_out=why)
        else:
            newest = (*claim_state.returns, float(equity / base) - 1.0)[-claim_state.claim.window_sessions :]
            new_state = replace(new_state, returns=newest, sessions=claim_state.sessions + 1)
    draft.claim = new_state
    draft.put_book(replace(book, claim_close=equity, claim_base=equity))


def _reason_to_skip(draft: Draft, claim_state: ClaimState) -> str:
    """Return why the ending session does not count for the volatility; "" where it counts.

    Its loss counts for the drawdown in any case.
    """
    session, halt, pause = draft.session, draft.risk.halt, draft.risk.pause
    assert session.session is not None
    if session.previous != claim_state.closed:
        return f"no close was seen between {claim_state.closed} and {session.session.date}"
    if claim_state.version in claim_state.broken:
        return "no new risk is taken"
    if draft.size_share < 1.0:
        return f"the version trades {draft.size_share:.0%} of the size"
    if halt is not None and halt.since_ns < session.session.open_ns:
        return f"halted: {halt.reason}"
    if pause is not None and pause.reason != LOSSES:
        return f"paused: {pause.reason}"
    return "" if draft.decision > claim_state.decision else "no question was asked"


def on_claim_judged(draft: Draft, event: ClaimJudged) -> None:
    """Record the verdict; a broken claim ends pending buys. Sales go on."""
    claim_state = draft.claim
    if (
        isinstance(claim_state, UnsetType)
        or claim_state.version != event.version
        or event.version in claim_state.broken
    ):
        return  # another version answers by now
    claim_state = replace(claim_state, judged=claim_state.sessions, verdict=event.verdict)
    if event.verdict in BROKEN:
        draft.alarm("claim_broken", f"{event.version}: {event.detail}; {_words(event)}")
        if event.consequence == ALARM:  # a new alarm follows once as much is lost again
            claim_state = replace(claim_state, heights=())
            draft.put_book(replace(draft.book, claim_close=draft.book.equity))
        else:
            broken_versions = {
                **claim_state.broken,
                event.version: BrokenClaim(event.detail, draft.now_ns, event.former),
            }
            claim_state = replace(claim_state, broken=dict(list(broken_versions.items())[-BROKEN_MAX:]))
            draft.end_trading(leaving=True)
    draft.claim = claim_state


def _words(event: ClaimJudged) -> str:
    """Return the consequence in words."""
    if event.consequence == ALARM:
        return "the desk trades on, as drift.claim_broken says"
    next_step = f"{event.former} is to answer again" if event.former else "exits go on"
    return f"it takes no new risk until the desk is resumed; {next_step}"


def forgive(draft: Draft) -> None:
    """Let versions that broke their claims take risk again after a person's resume; their claim is watched anew."""
    claim_state = draft.claim
    if isinstance(claim_state, UnsetType) or not claim_state.broken:
        return
    if claim_state.version in claim_state.broken:
        _begin(draft)
        claim_state = ClaimState(version=claim_state.version, claim=claim_state.claim)
    draft.claim = replace(claim_state, broken={})
