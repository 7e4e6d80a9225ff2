"""From the policy's answer to orders at an option desk: target, contract, size, gates; then works that reach the goal.

One decision row each. A work is an entry or an exit with a final quantity, reached by one attempt at a time. A new
attempt needs a terminal former one; its client order id derives from (epoch, strategy, decision, leg, attempt), so no
order can go out twice.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from functools import lru_cache
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from daemon.core.book import CENT, OPTION_MULTIPLIER, mid
from daemon.core.broker.exits import request_exit
from daemon.core.broker.sending import (
    QUOTE_WAIT_NS,
    held_up,
    in_the_way,
    may_send,
    reprice_ns,
    sellable,
    submit,
    tend_exits,
    ways_out,
    worked_ns,
)
from daemon.core.desks.guarded import head_rows
from daemon.core.draft import ENTRY, EXIT, Draft
from daemon.core.events import Contract, Quote
from daemon.core.gates import Denial, Intent, Verdicts, ask_gates
from daemon.core.instruments.option_market import option_terms
from daemon.core.instruments.quotes import candidates, is_wide, price_step
from daemon.core.limits import Sizing
from daemon.core.orders import REJECTED, Work
from daemon.core.records import DecisionRow
from daemon.core.risk.guards import risk_view
from daemon.core.risk.marks import guarded, leaps, measure, model_price, would_fetch
from daemon.core.session import expires_today, flatten_from_ns
from daemon.core.state import Ask, Position
from strategies.kit.contract import Answer, Choice, Decision, Target
from strategies.kit.units import SECOND_NS

BY_PRICE = frozenset(("stop_loss", "daily_loss", "drawdown", "panic"))  # these exits end at the market, however wide


def contracts_for(equity: Decimal, limit_price: Decimal, sizing: Sizing) -> int:
    """Return the contracts that `premium_fraction` of the equity buys at the limit, capped; 0 below `min_contracts`."""
    if limit_price <= 0 or equity <= 0:
        return 0
    budget = equity * Decimal(str(sizing.premium_fraction))
    count = min(int(budget / (limit_price * OPTION_MULTIPLIER)), sizing.max_contracts)
    return count if count >= sizing.min_contracts else 0


def entry_limit(quote: Quote, slack: float, bound: Decimal | None) -> Decimal:
    """Return the limit of a marketable buy: ask x (1 + slack), at most the bound, rounded down to the price step."""
    limit = quote.ask * (1 + Decimal(str(slack)))
    if bound is not None:
        limit = min(limit, bound)
    return _on_grid(limit, quote.symbol, ROUND_FLOOR)


def _on_grid(price: Decimal, symbol: str, rounding: str) -> Decimal:
    """Round the price to the contract's grid."""
    step = price_step(symbol, price)
    return ((price / step).quantize(Decimal(1), rounding=rounding) * step).quantize(CENT)


def entry_bound(quote: Quote, collar: float) -> Decimal:
    """Return the highest price of any attempt of an entry: the decision's mid x (1 + collar)."""
    return (mid(quote) * (1 + Decimal(str(collar)))).quantize(CENT, rounding=ROUND_FLOOR)


def sold_by_trim(quantity: int, keep_percent: int) -> int:
    """Return the contracts that a trim to `keep_percent` sells: rounded down, at least one."""
    return max(1, quantity * (100 - keep_percent) // 100)


def open_entry(draft: Draft, decision: int, intent: Intent) -> str:
    """Start an entry work that passed the gates; returns the work's key."""
    quote = draft.quotes[intent.symbol]
    bound = entry_bound(quote, draft.trading.risk.price_collar)
    goal = draft.held(intent.symbol) + intent.quantity
    work = Work(f"{decision}.0", decision, ENTRY, "policy", intent.symbol, goal, -1, "", draft.now_ns, bound)
    draft.wanted = {**dict.fromkeys(draft.wanted, 0), intent.symbol: goal}  # one position at a time
    submit(draft, work, intent, draft.trading.execution.entry_reprice_s)
    return work.key


def drive(draft: Draft) -> None:
    """Advance every work: cancel old attempts, send the next one after the last ended, close finished works.

    An entry order whose work was given up (a halt, an exit) is cancelled, even after its state was unknown.
    """
    for name, order in draft.orders.items():
        if order.purpose == ENTRY and order.work not in draft.works:
            draft.cancel(name)
    for work in tuple(draft.works.values()):
        if work.purpose == EXIT:
            _drive_exit(draft, work)
        else:
            _drive_entry(draft, work)


def _drive_entry(draft: Draft, work: Work) -> None:
    rules = draft.trading.execution
    order = draft.newest_attempt(work)
    late = draft.now_ns - work.started_ns >= rules.entry_deadline_s * SECOND_NS
    missing = work.goal - draft.held(work.symbol)
    if order.working:
        old = draft.now_ns - order.submitted_ns >= rules.entry_reprice_s * SECOND_NS
        if late or old or order.remaining > missing:  # more than missing: an earlier attempt filled after its end
            draft.cancel(order.client_order_id)
        return
    quote = draft.fresh(draft.quotes.get(work.symbol))
    closed = not may_send(draft)
    if missing <= 0 or late or order.status == REJECTED or quote is None or quote.ask <= 0 or closed:
        draft.close_work(work)
        return
    contract = draft.contracts.get(work.symbol)
    limit = entry_limit(quote, rules.entry_slack, work.limit_bound)
    intent = Intent(ENTRY, contract, work.symbol, +1, missing, limit)
    if limit < quote.ask or ask_gates(risk_view(draft), intent, draft.desk.gates).denials:
        draft.close_work(work)
        return
    submit(draft, work, intent, rules.entry_reprice_s)


def _drive_exit(draft: Draft, work: Work) -> None:
    rules = draft.trading.execution
    holding = draft.held(work.symbol)
    side = 1 if holding < 0 else -1  # short shares are bought back
    surplus = abs(holding) - work.goal
    order = draft.newest_attempt(work) if work.order_id else None
    well, hanging = tend_exits(draft, work.symbol, side, surplus)
    if well:
        return
    if surplus <= 0:
        if not hanging:
            draft.close_work(work)
        return
    if not may_send(draft) or held_up(draft, work.symbol, side):
        return
    if order is not None and order.status == REJECTED and worked_ns(draft, order) < reprice_ns(draft):
        return  # retried one re-price interval later
    leave = sellable(draft, work, side, surplus, hanging)
    quantity = leave.quantity
    if quantity <= 0:
        return
    # a short position is bought back at the market
    quote = draft.fresh(draft.quotes.get(work.symbol)) if side < 0 else None
    priced = None if quote is None else _priced_while_wide(draft, quote, work)
    if quote is not None and quote.bid <= 0:
        why = f"{work.symbol}: {quantity} contracts cannot be sold, nobody bids"
        draft.alarm("no_bid", why, once=True, about=work.symbol)
        if priced is None:
            return
    if _quote_may_come(draft, work, quote):
        return
    price, contract = _exit_limit(quote, priced, work, draft), draft.contract_of(work.symbol)
    view = replace(risk_view(draft), orders=in_the_way(draft))
    for way in ways_out(draft, work, side, leave):
        limit = way.limit(price, side)
        intent = Intent(EXIT, contract, work.symbol, side, quantity, limit, closing=way.closing)
        if not ask_gates(view, intent, draft.desk.gates).denials:
            submit(draft, work, intent, rules.exit_reprice_s)
            return


def _quote_may_come(draft: Draft, work: Work, quote: Quote | None) -> bool:
    """Return True in the first seconds of an exit from an option without a usable quote.

    Usable: quoted since the daemon's start and the open, with a price that a later quote confirmed.
    """
    session, newest = draft.session.session, draft.quotes.get(work.symbol)
    if not guarded(draft) or session is None or draft.contract_of(work.symbol) is None:
        return False
    if draft.now_ns - work.started_ns >= QUOTE_WAIT_NS:
        return False
    if quote is not None:
        return leaps(draft, quote)
    return newest is None or newest.quoted_ns < max(draft.broker.started_ns, session.open_ns)


def _priced_while_wide(draft: Draft, quote: Quote, work: Work) -> Decimal | None:
    """Return the price in USD that an exit asks for while the quote is wide; None where quote and mark decide.

    It is what the option would fetch where its price is the reason to leave, else the model's price.
    """
    if not guarded(draft) or not is_wide(quote, draft.trading.risk):
        return None
    modelled = model_price(draft, quote.symbol)
    fetch = would_fetch(draft, quote.symbol)
    if work.reason in BY_PRICE and modelled is not None and fetch is not None:
        return fetch
    return modelled


def _may_reach_market(draft: Draft, quote: Quote, work: Work) -> bool:
    """Return False where a market order could sell far below the worth, and waiting costs no more than a night.

    A contract that expires today may wait until it has to be left before the close.
    """
    session, expiry = draft.session.session, option_terms(quote.symbol)[2]
    must_leave = session is None or (
        expires_today(session, expiry)
        and draft.now_ns >= flatten_from_ns(session, expiry, draft.trading.execution, draft.spec.bar_interval_s)
    )
    return quote.bid > 0 and (work.reason in BY_PRICE or must_leave)


def _is_last_attempt(draft: Draft) -> bool:
    """Return True where an attempt of now is not priced anew before the close; a tape goes on at its next bar's end."""
    session = draft.session.session
    again_ns = reprice_ns(draft)
    if draft.identity.by_tape:
        again_ns = max(again_ns, draft.spec.bar_interval_s * SECOND_NS)
    return session is not None and draft.now_ns + again_ns >= session.close_ns


def _exit_limit(quote: Quote | None, priced: Decimal | None, work: Work, draft: Draft) -> Decimal | None:
    """Return the next attempt's limit: first the mid where configured, then below the bid, then None (market, also
    unquoted).

    At most the collar below the confirmed mark (or the price paid, before there is one), and never above it, whatever
    the bid; the walk to the market ends that. While the quote is wide `priced` stands in for the mark, and only an
    exit that the price itself asks for, or the one before the close of a contract's last day, ends at the market. So
    does at once the last attempt before the close: a limit that does not fill would be held over night.
    """
    rules, attempt = draft.trading.execution, work.attempt + 1
    if quote is None:
        return None
    ends = attempt >= rules.exit_limit_attempts or _is_last_attempt(draft)
    if ends and (priced is None or _may_reach_market(draft, quote, work)):
        return None
    reference = measure(draft, quote.symbol)
    if attempt == 0 and rules.exit_start == "mid":
        return _on_grid(mid(quote) if reference is None else reference, quote.symbol, ROUND_CEILING)
    price = reference if priced is None else priced
    limit = max(quote.bid * (1 - Decimal(str(rules.exit_slack))), CENT)
    if price and guarded(draft):
        limit = max(min(max(limit, price * (1 - Decimal(str(draft.trading.risk.price_collar)))), price), CENT)
    return _on_grid(limit, quote.symbol, ROUND_CEILING)


_encode = msgspec.json.encode


def act(draft: Draft, ask: Ask, decision: Decision, answer: Answer, model: str) -> None:
    """Turn the strategy's decision into an entry, an exit or nothing, and record it."""
    _count_action(draft, decision.resolved)
    done = TargetOutcome("hold")
    position = draft.holding
    if not _is_held(decision.target, position):
        if position is None:
            done = _enter(draft, ask.decision, decision.target, decision.choice, answer.logits)
        else:
            done = _reduce(draft, position, ask.decision, decision.target, decision.choice, answer.logits)
    choice, actions = decision.choice, draft.spec.actions
    draft.records.append(
        DecisionRow(
            decision=ask.decision,
            kind="policy",
            bar_ns=ask.bar_ns,
            time_ns=draft.now_ns,
            action=actions[choice.action],
            resolved=actions[decision.resolved],
            confidence=choice.confidence,
            probabilities=_encode(choice.probabilities).decode(),
            logits=_encode(answer.logits).decode(),
            target=_as_json(decision.target),
            gates=_encode(done.verdicts.by_gate).decode() if done.verdicts else None,
            work=done.work or None,
            outcome=done.outcome,
            model=model,
            row=ask.row,
        )
    )
    draft.records.extend(head_rows(draft, ask.decision, answer))


def _is_held(target: Target, position: Position | None) -> bool:
    """Return True when the target asks for no change of the position."""
    if target.keep:
        return True
    if position is None:
        return target.side == 0 or target.percent <= 0
    return target.side == position.right and target.percent >= 100


@lru_cache(maxsize=64)
def _as_json(target: Target) -> str:
    """Return the target as JSON, cached: there are few different ones."""
    return _encode(target).decode()


class TargetOutcome(NamedTuple):
    """The outcome of a target: its name, the gates' verdicts, the key of the work it started."""

    outcome: str
    verdicts: Verdicts | None = None
    work: str = ""


def _enter(draft: Draft, decision: int, target: Target, choice: Choice, logits: tuple[float, ...]) -> TargetOutcome:
    """Open the target's side with the candidate contract."""
    contract = _candidate(draft, target.side)
    quote = draft.quotes.get(contract.symbol) if contract is not None else None
    if contract is None or quote is None or quote.ask <= 0 or quote.bid <= 0:
        what = "no contract fits the limits" if contract is None else f"no two-sided quote for {contract.symbol}"
        return _denied(draft, Denial("no_quote", what))
    bound = entry_bound(quote, draft.trading.risk.price_collar)
    limit = entry_limit(quote, draft.trading.execution.entry_slack, bound)
    equity = draft.book.equity * Decimal(str(draft.size_share))
    size = contracts_for(equity, limit, draft.trading.sizing) * min(target.percent, 100) // 100
    intent = Intent(ENTRY, contract, contract.symbol, +1, size, limit, choice.confidence, logits)
    verdicts = ask_gates(risk_view(draft), intent, draft.desk.gates)
    if verdicts.denials:
        draft.count_denials(denial.gate for denial in verdicts.denials)
        return TargetOutcome("denied", verdicts)
    return TargetOutcome("ordered", verdicts, open_entry(draft, decision, intent))


def _reduce(
    draft: Draft, position: Position, decision: int, target: Target, choice: Choice, logits: tuple[float, ...]
) -> TargetOutcome:
    """Sell down to what the target keeps; buy back a short (adopted) position whole.

    A trim during an exit under way is denied; a full exit takes it over.
    """
    keep = target.percent if target.side == position.right and position.quantity > 0 else 0
    goal = max(position.quantity - sold_by_trim(position.quantity, keep), 0)
    side = -1 if position.quantity > 0 else 1
    under_way = draft.exit_of(position.symbol)
    if under_way is not None and keep:
        return _denied(draft, Denial("duplicate_intent", f"an exit of {position.symbol} is under way"))
    contract = draft.contracts.get(position.symbol)
    intent = Intent(
        EXIT, contract, position.symbol, side, abs(position.quantity - goal), None, choice.confidence, logits
    )
    verdicts = ask_gates(risk_view(draft), intent, draft.desk.gates)
    request_exit(draft, decision, position.symbol, goal, "policy")
    work = draft.exit_of(position.symbol)
    return TargetOutcome("exit", verdicts, work.key if work else "")


def _denied(draft: Draft, denial: Denial) -> TargetOutcome:
    draft.count_denials((denial.gate,))
    return TargetOutcome("denied", Verdicts({denial.gate: denial.reason}, (denial,)))


def _candidate(draft: Draft, side: int) -> Contract | None:
    if draft.chain is None:
        return None
    for contract in candidates(draft.chain, draft.session, draft.now_ns, draft.trading.contracts):
        if contract.right == side:
            return contract
    return None


def _count_action(draft: Draft, action: int) -> None:
    stats = draft.stats
    actions = list(stats.actions or (0,) * len(draft.spec.actions))
    actions[action] += 1
    draft.stats = replace(stats, decisions=stats.decisions + 1, actions=tuple(actions))
