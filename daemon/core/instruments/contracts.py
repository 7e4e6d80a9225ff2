"""Choice of the option contract: nearest expiry within the limits, strike by rule. Pure look-ups."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from decimal import Decimal

from daemon.core.events import Contract, ContractsListed, Quote
from daemon.core.instruments.option_market import parse_occ, strike_for_delta, years_to_expiry
from daemon.core.limits import Contracts
from daemon.core.state import Chain, SessionState
from strategies.kit.contract import Session

PENNY_ROOTS = frozenset(("SPY", "QQQ", "IWM"))  # all their series trade in cents at every price
COARSE_FROM = Decimal(3)  # USD


def implied_spot(symbol: str, quotes: Mapping[str, Quote]) -> float | None:
    """Return the underlying's price in USD implied by a contract and its counterpart, by put-call parity.

    None when one of them has no two-sided quote. Rates and dividends are left out: within days they are cents.
    """
    terms = parse_occ(symbol)
    if terms is None:
        return None
    other = f"{symbol[:-9]}{'P' if terms.right > 0 else 'C'}{symbol[-8:]}"
    pair = [quotes.get(symbol), quotes.get(other)]
    mids = [float(quote.bid + quote.ask) / 2 for quote in pair if quote is not None and 0 < quote.bid <= quote.ask]
    return float(terms.strike) + terms.right * (mids[0] - mids[1]) if len(mids) == 2 else None


def price_step(symbol: str, price: Decimal) -> Decimal:
    """Return the price step of an option's orders in USD; a cent for other instruments.

    A cent for the three roots above; for others 0.05 below 3 USD and 0.10 from there, valid for any class in or out of
    the penny programme (options exchanges' minimum increments, e.g. Cboe rule 5.4).
    """
    contract = parse_occ(symbol)
    if contract is None or contract.root in PENNY_ROOTS:
        return Decimal("0.01")
    return Decimal("0.10") if price >= COARSE_FROM else Decimal("0.05")


def choose_expiry(listed: ContractsListed, session: Session, upcoming: tuple[Session, ...], rule: Contracts) -> Chain:
    """Return the chain of the nearest expiry within the rule's trading days that has calls and puts.

    The result has no strikes when nothing fits.
    """
    dates = [session.date, *(s.date for s in upcoming)][rule.min_days : rule.max_days + 1]
    calls: dict[str, dict[float, Contract]] = {}
    puts: dict[str, dict[float, Contract]] = {}
    for contract in listed.contracts:
        side = calls if contract.right > 0 else puts
        side.setdefault(contract.expiry, {})[float(contract.strike)] = contract
    for date in dates:
        strikes = tuple(sorted(calls.get(date, {}).keys() & puts.get(date, {}).keys()))
        if strikes:
            return Chain(
                listed.session_date,
                date,
                strikes,
                tuple(calls[date][k] for k in strikes),
                tuple(puts[date][k] for k in strikes),
                listed.volatility,
            )
    return Chain(listed.session_date, "", (), (), (), listed.volatility)


def nearest(strikes: tuple[float, ...], level: float) -> int:
    """Return the index of the strike nearest to `level`, the lower one on a tie. `strikes` ascend and are not empty."""
    i = bisect_left(strikes, level)
    if i == 0:
        return 0
    if i == len(strikes) or level - strikes[i - 1] <= strikes[i] - level:
        return i - 1
    return i


def candidates(chain: Chain, state: SessionState, now_ns: int, rule: Contracts) -> tuple[Contract, ...]:
    """Return the call and the put that an entry would buy at the present spot; empty when there is none.

    `strike = "nearest"`: nearest the money. `"delta"`: the strike whose Black-Scholes delta at the chain's volatility
    is nearest to the target; none while that volatility is unknown.
    """
    if not chain.strikes or state.spot <= 0 or state.session is None:
        return ()
    if rule.strike == "nearest":
        i = nearest(chain.strikes, state.spot)
        return (chain.calls[i], chain.puts[i])
    if chain.volatility is None:
        return ()
    later = tuple(s for s in state.upcoming if s.date <= chain.expiry)
    years = years_to_expiry(now_ns, state.session, later)
    if years <= 0:
        return ()
    call = strike_for_delta(state.spot, years, chain.volatility, +1, rule.delta_target)
    put = strike_for_delta(state.spot, years, chain.volatility, -1, rule.delta_target)
    return (chain.calls[nearest(chain.strikes, call)], chain.puts[nearest(chain.strikes, put)])
