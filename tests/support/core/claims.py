"""A daily desk whose model proves a claim about risk, day by day.

With 50 AAA at 100.00 and 5,000 USD from Monday on, a price of 100 + x is an equity of 10,000 + 50 x.
"""

from __future__ import annotations

from typing import Any

import msgspec

from daemon.core.events import ClaimJudged, ModelVerified, RiskClaim
from daemon.core.risk.claim import fall, judge_claim
from daemon.core.state import ClaimState
from strategies.kit.contract import Session
from tests.support.core.daily_desk import KEEP, DailyDesk

CLAIM = RiskClaim(0.10, 0.08, 0.12, 2, 0.9, 0.04, 0.95, 252)


def verified(d: DailyDesk, claim: RiskClaim | msgspec.UnsetType = CLAIM, version: str = "v1") -> ModelVerified:
    return ModelVerified(d.state.now_ns, version, "d", promoted=True, feed="sip", claim=claim)


def watched(claim: RiskClaim = CLAIM, **shares: int) -> DailyDesk:
    """A desk whose model states this, after Monday."""
    d = DailyDesk().fund()
    d.put(verified(d, claim))
    d.reload = True
    return d.holds(**(shares or {"AAA": 50}))


def day(d: DailyDesk, session: Session, close: float, *, asked: bool = True) -> list[Any]:
    """A session that ends at this price of AAA and changes no position; returns its effects."""
    d.begin(session)
    effects = []
    if asked:
        effects += d.due() + d.answer(KEEP, KEEP, KEEP)
    return effects + quoted(d, 1, AAA=str(close)) + d.end(AAA=close, BBB=100.0, CCC=100.0)


def quoted(d: DailyDesk, minute: float, **prices: str) -> list[Any]:
    """The same quotes twice: a price far from the last one is believed with the second."""
    return d.quotes(minute, **prices) + d.quotes(minute + 0.1, **prices)


def claim_of(d: DailyDesk) -> ClaimState:
    assert isinstance(d.state.claim, ClaimState)
    return d.state.claim


def verdict(d: DailyDesk) -> str:
    found = judge_claim(d.state.claim, d.state.book)
    return "" if found is None else found.verdict


def judge(d: DailyDesk, consequence: str = "no_new_risk", former: str = "") -> list[Any]:
    """The event that a running desk's watch makes of what is to be said."""
    found, claim = judge_claim(d.state.claim, d.state.book), claim_of(d)
    assert found is not None
    lost = fall(claim, d.state.book)
    event = ClaimJudged(
        d.state.now_ns, claim.version, found.verdict, found.detail, claim.sessions, 0.0, lost, consequence, former
    )
    return d.put(event)
