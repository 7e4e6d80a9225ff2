"""A model's claim about risk, held against what the desk does: its own daily closes, and when the claim is broken.

A session's return is that of the equity from one close to the next. Transfers and dividends are no return, and what
others hold is not in the book. The volatility is judged once a window of sessions that count, the drawdown at once: a
claim of a probability is one about each window, not about the worst of all that overlap. Nothing here halts or sells.
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

ROUNDING = 1e-9  # of a drawdown: exactly the stated one is none beyond it
KEPT, BELOW, ABOVE, DRAWDOWN = "kept", "below", "above", "drawdown"  # verdicts
BROKEN = frozenset((ABOVE, DRAWDOWN))
"""The verdicts that have a consequence; less risk than stated is only noted."""
NO_NEW_RISK, FORMER_VERSION, ALARM = "no_new_risk", "former_version", "alarm"
"""Consequences, the values of `drift.claim_broken`."""
BROKEN_MAX = 50  # versions that are remembered


class Verdict(NamedTuple):
    """What is to be said of a claim now."""

    verdict: str
    detail: str


def volatility(returns: tuple[float, ...]) -> float:
    """Return the volatility of a year of simple returns of sessions; 0.0 of fewer than two."""
    count = len(returns)
    if count < 2:
        return 0.0
    mean = fsum(returns) / count
    return sqrt(fsum((one - mean) ** 2 for one in returns) / (count - 1) * SESSIONS_PER_YEAR)


def fall(state: ClaimState | UnsetType, book: Book) -> float:
    """Return the drawdown that the claim is held against: the part of its highest close that is lost now.

    It counts closes since the version answers, of as many sessions as the claim is about, and the equity when it began.
    """
    close = _counted_from(book)
    if isinstance(state, UnsetType) or close <= 0:
        return 0.0
    return max(1.0 - float(book.equity / close) / max(state.heights, default=1.0), 0.0)


def _counted_from(book: Book) -> Decimal:
    """Return the equity at the last close, moved with transfers; before the first one that of the session's start."""
    return book.session_base if isinstance(book.claim_close, UnsetType) else book.claim_close


def judged(state: ClaimState | UnsetType, book: Book) -> Verdict | None:
    """Judge the claim that is watched; None where nothing is to be said now, or the version broke it before."""
    if isinstance(state, UnsetType) or state.claim is None or state.version in state.broken:
        return None
    claim, lost = state.claim, fall(state, book)
    if lost > claim.drawdown_max + ROUNDING:
        return Verdict(DRAWDOWN, f"{lost:.2%} of the highest close lost, at most {claim.drawdown_max:.2%} stated")
    if state.sessions - state.judged < claim.window_sessions or len(state.returns) < claim.window_sessions:
        return None
    found = volatility(state.returns)
    verdict = ABOVE if found > claim.high else BELOW if found < claim.low else KEPT
    return Verdict(
        verdict, f"volatility {found:.2%} of {len(state.returns)} sessions, stated {claim.low:.2%} to {claim.high:.2%}"
    )


def note_model(draft: Draft, version: str, claim: RiskClaim | UnsetType) -> None:
    """Watch the claim of the version that answers from here on. Another version or claim begins anew."""
    watched = draft.claim
    if isinstance(watched, UnsetType):
        if isinstance(claim, UnsetType):
            return
        watched = ClaimState()
    begun = ClaimState(broken=watched.broken)
    if not isinstance(claim, UnsetType):
        begun = replace(begun, version=version, claim=claim)
    if (watched.version, watched.claim) == (begun.version, begun.claim):
        return  # a start
    draft.claim = begun
    _begin(draft)


def _begin(draft: Draft) -> None:
    """Count the drawdown from the equity of now, and returns from the next close."""
    equity = draft.book.equity
    draft.put_book(replace(draft.book, claim_close=equity if equity > 0 else UNSET, claim_base=UNSET))


def note_close(draft: Draft) -> None:
    """Take the close of the session that ended, of a book that is marked: its return, and the highest close."""
    watched, session, book = draft.claim, draft.session.session, draft.book
    if isinstance(watched, UnsetType) or watched.claim is None or session is None or watched.closed == session.date:
        return
    base, close, equity = book.claim_base, _counted_from(book), book.equity
    grown = float(equity / close) if close > 0 and equity > 0 else 1.0
    heights = [height / grown for height in watched.heights or (1.0,)]
    noted = replace(
        watched,
        closed=session.date,
        decision=draft.decision,
        heights=(*heights, 1.0)[-watched.claim.drawdown_sessions :],
    )
    if not isinstance(base, UnsetType) and base > 0:
        if why := _left_out(draft, watched):
            noted = replace(noted, left_out=watched.left_out + 1, why_left_out=why)
        else:
            newest = (*watched.returns, float(equity / base) - 1.0)[-watched.claim.window_sessions :]
            noted = replace(noted, returns=newest, sessions=watched.sessions + 1)
    draft.claim = noted
    draft.put_book(replace(book, claim_close=equity, claim_base=equity))


def _left_out(draft: Draft, watched: ClaimState) -> str:
    """Return why the session that ends says nothing about the volatility; "" where it counts.

    Its loss counts for the drawdown in any case.
    """
    session, halt, pause = draft.session, draft.risk.halt, draft.risk.pause
    assert session.session is not None
    if session.previous != watched.closed:
        return f"no close was seen between {watched.closed} and {session.session.date}"
    if watched.version in watched.broken:
        return "no new risk is taken"
    if draft.size_share < 1.0:
        return f"the version trades {draft.size_share:.0%} of the size"
    if halt is not None and halt.since_ns < session.session.open_ns:
        return f"halted: {halt.reason}"
    if pause is not None and pause.reason != LOSSES:
        return f"paused: {pause.reason}"
    return "" if draft.decision > watched.decision else "no question was asked"


def on_claim_judged(draft: Draft, event: ClaimJudged) -> None:
    """Record the verdict; a broken claim ends what was about to be bought. Sales go on."""
    watched = draft.claim
    if isinstance(watched, UnsetType) or watched.version != event.version or event.version in watched.broken:
        return  # another version answers by now
    watched = replace(watched, judged=watched.sessions, verdict=event.verdict)
    if event.verdict in BROKEN:
        draft.alarm("claim_broken", f"{event.version}: {event.detail}; {_words(event)}")
        if event.consequence == ALARM:  # said again once as much is lost from here
            watched = replace(watched, heights=())
            draft.put_book(replace(draft.book, claim_close=draft.book.equity))
        else:
            broken = {**watched.broken, event.version: BrokenClaim(event.detail, draft.now_ns, event.former)}
            watched = replace(watched, broken=dict(list(broken.items())[-BROKEN_MAX:]))
            draft.end_trading(leaving=True)
    draft.claim = watched


def _words(event: ClaimJudged) -> str:
    """Return the consequence in words."""
    if event.consequence == ALARM:
        return "the desk trades on, as drift.claim_broken says"
    then = f"{event.former} is to answer again" if event.former else "exits go on"
    return f"it takes no new risk until the desk is resumed; {then}"


def forgive(draft: Draft) -> None:
    """Let versions that broke their claims take risk again: a person resumed the desk. Their claim is watched anew."""
    watched = draft.claim
    if isinstance(watched, UnsetType) or not watched.broken:
        return
    if watched.version in watched.broken:
        _begin(draft)
        watched = ClaimState(version=watched.version, claim=watched.claim)
    draft.claim = replace(watched, broken={})
