"""A desk that holds one option position: buys calls or puts, and is flat before the close.

The policy's answer becomes a target, a contract and a size that pass the gates, one decision row each; works reach the
goal. A work is an entry or an exit with a final quantity, reached by one attempt at a time. A new attempt needs a
terminal former one; its client order id derives from (epoch, strategy, decision, leg, attempt), so no order can go out
twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import msgspec
from msgspec.structs import replace

from daemon.core.book import CENT, OPTION_MULTIPLIER, mid
from daemon.core.broker.exits import BY_PRICE, exit_at_stop, exit_by_rule, exit_in_time, request_exit
from daemon.core.broker.protection import lift, resting
from daemon.core.broker.sending import (
    awaits_trading,
    held_up,
    in_the_way,
    may_send,
    reprice_ns,
    sellable,
    submit,
    tend_exits,
    waited_for_quote,
    ways_out,
    worked_ns,
)
from daemon.core.desks.guarded import GuardedStrategy, head_rows
from daemon.core.draft import ENTRY, EXIT, Draft, Handler, ShownDecision
from daemon.core.effects import WatchContracts
from daemon.core.events import Activity, BrokerPosition, ContractsListed, Event, Funds, Quote, QuotesReceived
from daemon.core.gates import OPTION_SHARES, Denial, Intent, RiskView, Verdicts, ask_gates
from daemon.core.instruments.option_market import option_terms
from daemon.core.instruments.quotes import (
    NARROW_USD,
    STEP_USD,
    QuoteGuard,
    candidates,
    choose_expiry,
    implied_spot,
    is_quote,
    is_wide,
    price_step,
)
from daemon.core.limits import Sizing, Trading
from daemon.core.orders import REJECTED, Order, Work
from daemon.core.paper.paper import PaperBroker
from daemon.core.paper.quotes import QuotePaperBroker, RecordedPaperBroker
from daemon.core.records import DecisionRow
from daemon.core.risk.guards import revalue, risk_view
from daemon.core.risk.marks import (
    guarded,
    leaps,
    mark_options,
    measure,
    model_price,
    note_bar,
    note_quotes,
    position_price,
    would_fetch,
)
from daemon.core.session import expires_by_close, flatten_from_ns, minutes_to, new_york_date
from daemon.core.state import Ask, Book, Leaver, Position
from strategies.kit.contract import Answer, Bar, Choice, Decision, Session, Spec, Strategy, Target, View
from strategies.kit.quantity import Quantity, whole_of
from strategies.kit.units import MINUTE_NS, SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Iterable


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
    denials = ask_gates(risk_view(draft), intent, draft.desk.gates).denials
    if limit < quote.ask or denials:
        draft.count_denials(denial.gate for denial in denials)
        draft.close_work(work)
        return
    submit(draft, work, intent, rules.entry_reprice_s)


def _drive_exit(draft: Draft, work: Work) -> None:
    rules = draft.trading.execution
    holding = draft.held(work.symbol)
    side = 1 if holding < 0 else -1  # short shares are bought back
    surplus = abs(holding) - work.goal
    order = draft.newest_attempt(work) if work.order_id else None
    if order is not None and _keeps_its_place(draft, work, order, surplus):
        return
    well, hanging = tend_exits(draft, work.symbol, side, surplus)
    if well:
        return
    if surplus <= 0:
        if not hanging:
            draft.close_work(work)
        return
    if not may_send(draft) or awaits_trading(draft, work.symbol) or held_up(draft, work.symbol, side):
        return
    if order is not None and order.status == REJECTED and worked_ns(draft, order) < reprice_ns(draft):
        return  # retried one re-price interval later
    # a short position is bought back at the market
    quote = draft.fresh(draft.quotes.get(work.symbol)) if side < 0 else None
    wide_price = _priced_while_wide(draft, quote, work) if side < 0 else None
    if resting(draft, work.symbol) and (_cannot_leave(draft, work, quote, wide_price, surplus) or lift(draft, work)):
        return  # the stop rests until the sale can leave
    leave = sellable(draft, work, side, surplus, [*hanging, *resting(draft, work.symbol)])
    quantity = leave.quantity
    if quantity <= 0 or _cannot_leave(draft, work, quote, wide_price, quantity):
        return
    price, contract = _exit_limit(quote, wide_price, work, draft), draft.contract_of(work.symbol)
    view = replace(risk_view(draft), orders=in_the_way(draft))
    for way in ways_out(draft, work, side, leave):
        limit = way.limit(price, side)
        intent = Intent(EXIT, contract, work.symbol, side, quantity, limit, closing=way.closing)
        if not ask_gates(view, intent, draft.desk.gates).denials:
            submit(draft, work, intent, rules.exit_reprice_s)
            return


def _keeps_its_place(draft: Draft, work: Work, order: Order, surplus: Quantity) -> bool:
    """Return True for a working sale at the price that the next one would have too, above every bid.

    Its walk is over and may not end at the market: another order would only lose its place in the queue.
    """
    quote = draft.fresh(draft.quotes.get(work.symbol))
    waits = order.side < 0 and order.working and order.known and not order.cancel_asked_ns
    if not waits or order.limit_price is None or (quote is not None and quote.bid >= order.limit_price):
        return False
    others = any((o.symbol, o.purpose) == (work.symbol, EXIT) and o is not order for o in draft.orders.values())
    if others or order.remaining != surplus or work.attempt + 1 < draft.trading.execution.exit_limit_attempts:
        return False
    return _exit_limit(quote, _priced_while_wide(draft, quote, work), work, draft) == order.limit_price


def _cannot_leave(
    draft: Draft, work: Work, quote: Quote | None, wide_price: Decimal | None, quantity: Quantity
) -> bool:
    """Return True for an exit without a price to leave at: there is no bid (an alarm), or a quote may still come."""
    if quote is not None and quote.bid <= 0:
        why = f"{work.symbol}: {quantity} contracts cannot be sold, nobody bids"
        draft.alarm("no_bid", why, once=True, about=work.symbol)
        if wide_price is None:
            return True
    return _quote_may_come(draft, work, quote)


def _quote_may_come(draft: Draft, work: Work, quote: Quote | None) -> bool:
    """Return True in the first seconds of an exit from an option without a usable quote.

    Usable: quoted since the daemon's start and the open, with a price that a later quote confirmed.
    """
    session, newest = draft.session.session, draft.quotes.get(work.symbol)
    if not guarded(draft) or session is None or draft.contract_of(work.symbol) is None:
        return False
    if waited_for_quote(draft, work):
        return False
    if quote is not None:
        return leaps(draft, quote)
    return newest is None or newest.quoted_ns < max(draft.broker.started_ns, session.open_ns)


def _priced_while_wide(draft: Draft, quote: Quote | None, work: Work) -> Decimal | None:
    """Return the price in USD that a sale asks for while the quote is wide or old; None where quote and mark decide.

    It is what the option would fetch where the price is the reason to leave, else the model's price. An old quote says
    nothing of how wide the next one is.
    """
    if not guarded(draft) or (quote is not None and not is_wide(quote, draft.trading.risk)):
        return None
    model_value = model_price(draft, work.symbol)
    fetch = would_fetch(draft, work.symbol)
    if work.reason in BY_PRICE and model_value is not None and fetch is not None:
        return fetch
    return model_value


def _may_reach_market(draft: Draft, quote: Quote | None, work: Work) -> bool:
    """Return False where a market order could sell far below the worth, and waiting costs no more than a night.

    A contract that expires today may wait until it has to be left before the close.
    """
    session, expiry = draft.session.session, option_terms(work.symbol)[2]
    must_leave = session is None or (
        expires_by_close(session, expiry)
        and draft.now_ns >= flatten_from_ns(session, expiry, draft.trading.execution, draft.desk.grid)
    )
    return (quote is None or quote.bid > 0) and (work.reason in BY_PRICE or must_leave)


def _is_last_attempt(draft: Draft) -> bool:
    """Return True where no later attempt can follow before the close; a tape continues at its next bar's end."""
    session = draft.session.session
    again_ns = reprice_ns(draft)
    if draft.identity.by_tape:
        again_ns = max(again_ns, draft.spec.bar_interval_s * SECOND_NS)
    return session is not None and draft.now_ns + again_ns >= session.close_ns


def _exit_limit(quote: Quote | None, wide_price: Decimal | None, work: Work, draft: Draft) -> Decimal | None:
    """Return the next attempt's limit: first the mid where configured, then below the bid, then None (market order).

    The limit is never above the confirmed mark (or the price paid, before there is one) and at most the collar below
    it, whatever the bid; the final market order ignores both. While the quote is wide or old, `wide_price` replaces the
    mark, and only an exit by price, or one that must leave on the contract's last day, ends at the market: without a
    fresh quote at once, as does every exit where `wide_price` is unknown too. The last attempt before the close goes
    there at once: an unfilled limit would be held overnight.
    """
    rules, attempt = draft.trading.execution, work.attempt + 1
    ends = quote is None or attempt >= rules.exit_limit_attempts or _is_last_attempt(draft)
    if ends and (wide_price is None or _may_reach_market(draft, quote, work)):
        return None
    reference, bid = measure(draft, work.symbol), Decimal(0) if quote is None else quote.bid
    if quote is not None and attempt == 0 and rules.exit_start == "mid":
        return _on_grid(mid(quote) if reference is None else reference, work.symbol, ROUND_CEILING)
    price = reference if wide_price is None else wide_price
    limit = max(bid * (1 - Decimal(str(rules.exit_slack))), CENT)
    if price and guarded(draft):
        limit = max(min(max(limit, price * (1 - Decimal(str(draft.trading.risk.price_collar)))), price), CENT)
    return _on_grid(limit, work.symbol, ROUND_CEILING)


_encode = msgspec.json.encode


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


class TargetOutcome(msgspec.Struct, frozen=True, gc=False):
    """The outcome of a target: its name, the gates' verdicts, the key of the work it started."""

    outcome: str
    verdicts: Verdicts | None = None
    work: str = ""


def _enter(draft: Draft, decision: int, target: Target, choice: Choice, logits: tuple[float, ...]) -> TargetOutcome:
    """Open the target's side with the candidate contract: an entry work, where the gates let it pass."""
    chosen = candidates(draft.chain, draft.session, draft.now_ns, draft.trading.contracts) if draft.chain else ()
    contract = next((contract for contract in chosen if contract.right == target.side), None)
    quote = draft.quotes.get(contract.symbol) if contract is not None else None
    if contract is None or quote is None or quote.ask <= 0 or quote.bid <= 0:
        problem = "no contract fits the limits" if contract is None else f"no two-sided quote for {contract.symbol}"
        return _denial_outcome(draft, Denial("no_quote", problem))
    bound = entry_bound(quote, draft.trading.risk.price_collar)
    limit = entry_limit(quote, draft.trading.execution.entry_slack, bound)
    equity = draft.book.equity * Decimal(str(draft.size_share))
    size = contracts_for(equity, limit, draft.trading.sizing) * min(target.percent, 100) // 100
    intent = Intent(ENTRY, contract, contract.symbol, +1, size, limit, choice.confidence, logits)
    verdicts = ask_gates(risk_view(draft), intent, draft.desk.gates)
    if verdicts.denials:
        draft.count_denials(denial.gate for denial in verdicts.denials)
        return TargetOutcome("denied", verdicts)
    goal = draft.held(contract.symbol) + size
    work = Work(f"{decision}.0", decision, ENTRY, "policy", contract.symbol, goal, -1, "", draft.now_ns, bound)
    draft.wanted = {**dict.fromkeys(draft.wanted, 0), contract.symbol: goal}  # one position at a time
    submit(draft, work, intent, draft.trading.execution.entry_reprice_s)
    return TargetOutcome("ordered", verdicts, work.key)


def _reduce(
    draft: Draft, position: Position, decision: int, target: Target, choice: Choice, logits: tuple[float, ...]
) -> TargetOutcome:
    """Sell down to what the target keeps; buy back a short (adopted) position whole.

    A trim during an exit under way is denied; a full exit takes it over.
    """
    keep = target.percent if target.side == position.right and position.quantity > 0 else 0
    goal = max(position.quantity - sold_by_trim(whole_of(position.quantity), keep), 0)
    side = -1 if position.quantity > 0 else 1
    under_way = draft.exit_of(position.symbol)
    if under_way is not None and keep:
        return _denial_outcome(draft, Denial("duplicate_intent", f"an exit of {position.symbol} is under way"))
    contract = draft.contracts.get(position.symbol)
    intent = Intent(
        EXIT, contract, position.symbol, side, abs(position.quantity - goal), None, choice.confidence, logits
    )
    verdicts = ask_gates(risk_view(draft), intent, draft.desk.gates)
    request_exit(draft, decision, position.symbol, goal, "policy")
    work = draft.exit_of(position.symbol)
    return TargetOutcome("exit", verdicts, work.key if work else "")


def _denial_outcome(draft: Draft, denial: Denial) -> TargetOutcome:
    draft.count_denials((denial.gate,))
    return TargetOutcome("denied", Verdicts({denial.gate: denial.reason}, (denial,)))


def on_contracts_listed(draft: Draft, event: ContractsListed) -> None:
    session = draft.session.session
    if session is None or event.session_date != session.date:
        return
    draft.chain = choose_expiry(event, session, draft.session.upcoming, draft.trading.contracts)
    draft.desk.holds.watch(draft)


def check_stops(draft: Draft, quotes: tuple[Quote, ...], bar_ns: int) -> None:
    """Leave an option at its stop or its target."""
    for quote in quotes:
        position = draft.book.positions.get(quote.symbol)
        if position is not None and position.right:
            exit_at_stop(draft, position, quote, bar_ns)


def option_symbols(draft: Draft) -> list[str]:
    """Return the options held, without those of earlier sessions, which have no buyer and end by the ledger."""
    date = "" if draft.session.session is None else draft.session.session.date
    return [symbol for symbol, it in draft.book.positions.items() if it.right and not _is_past(it, date)]


def _is_past(position: Position, date: str) -> bool:
    """Return whether the contract's last session was before this date; False for ""."""
    return "" < position.expiry < date


def flatten(draft: Draft, session: Session) -> None:
    """Leave every option position before the close, and shares from an exercise."""
    for symbol, position in tuple(draft.book.positions.items()):
        if not position.right:
            if draft.trading.broker.exercised_shares == "close":
                exit_by_rule(draft, symbol, "shares_from_exercise")
        elif not _is_past(position, session.date):
            exit_in_time(draft, position, session)


def split_exercise_shares(draft: Draft, line: Activity) -> None:
    """Book a split of shares from an exercise: their number changes, their cost and their worth stay.

    Where two lines report it, the old shares stay in the book until the second brings the new ones. Until a bar of the
    line's day the underlying's price is of the old shares, so the mark is adjusted.
    """
    position, basket, session = draft.book.positions.get(line.symbol), draft.basket, draft.session
    if position is None:
        return
    left = basket.left_by(line)
    others = tuple(it for it in basket.leavers if it not in left)
    new_quantity = (0 if left else position.quantity) + draft.counted(line.quantity)
    if new_quantity * position.quantity <= 0:
        leaver = Leaver(line.kind, line.symbol, position.quantity, draft.now_ns)
        draft.basket = replace(basket, leavers=(*others, leaver))
        return
    draft.basket = replace(basket, leavers=others)
    price = draft.marks.get(line.symbol, Decimal(repr(session.spot)))
    if price > 0 and new_york_date(session.last_bar_ns) < new_york_date(line.time_ns):
        draft.marks = {**draft.marks, line.symbol: price * position.quantity / new_quantity}
    new_position = replace(position, quantity=new_quantity)
    draft.put_book(replace(draft.book, positions={**draft.book.positions, line.symbol: new_position}))
    revalue(draft)


_PAPERS: Mapping[str, type[PaperBroker | QuotePaperBroker]] = {"replay": PaperBroker, "recorded": RecordedPaperBroker}
"""The paper brokers of replays by mode; every other mode without a real broker is on a live feed."""


class OneOption:
    """Hold one option position at a time. See `draft.Holds` for each member."""

    by_basket: ClassVar[bool] = False
    guards_replays: ClassVar[bool] = False
    marks_held_only: ClassVar[bool] = True
    multiplier: ClassVar[int] = OPTION_MULTIPLIER
    handlers: ClassVar[Mapping[type[Event], Handler]] = {ContractsListed: on_contracts_listed}
    quiet: ClassVar[frozenset[type[Event]]] = frozenset()

    __slots__ = ("_strategy",)

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = GuardedStrategy(strategy)

    # --- deciding -----------------------------------------------------------------------------------------------------

    def view(self, draft: Draft, now_ns: int) -> View:
        """Return the strategy's view at `now_ns`: side, return and age of the one option position."""
        session = draft.session.session
        if session is None:
            raise ValueError("a view needs a session; SessionScheduled precedes every bar")
        position = draft.holding
        if position is None:
            return View(now_ns, session)
        price = position_price(draft, position.symbol)
        gain = 0.0 if price is None or not position.cost else float(price * position.quantity / position.cost) - 1.0
        age = max(now_ns - position.opened_ns, 0) / MINUTE_NS
        return View(now_ns, session, position.right, gain, age)

    def act(self, draft: Draft, ask: Ask, answer: Answer, model: str) -> None:
        """Turn the strategy's decision into an entry, an exit or nothing, and record it."""
        decision = self._strategy.decide(draft, answer, self.view(draft, draft.now_ns), Decision)
        stats, actions = draft.stats, list(draft.stats.actions or (0,) * len(draft.spec.actions))
        actions[decision.resolved] += 1
        draft.stats = replace(stats, decisions=stats.decisions + 1, actions=tuple(actions))
        result = TargetOutcome("hold")
        position = draft.holding
        if not _is_held(decision.target, position):
            if position is None:
                result = _enter(draft, ask.decision, decision.target, decision.choice, answer.logits)
            else:
                result = _reduce(draft, position, ask.decision, decision.target, decision.choice, answer.logits)
        choice, names = decision.choice, draft.spec.actions
        draft.records.append(
            DecisionRow(
                decision=ask.decision,
                kind="policy",
                bar_ns=ask.bar_ns,
                time_ns=draft.now_ns,
                action=names[choice.action],
                resolved=names[decision.resolved],
                confidence=choice.confidence,
                probabilities=_encode(choice.probabilities).decode(),
                logits=_encode(answer.logits).decode(),
                target=_as_json(decision.target),
                gates=_encode(result.verdicts.by_gate).decode() if result.verdicts else None,
                work=result.work or None,
                outcome=result.outcome,
                model=model,
                row=ask.row,
            )
        )
        if answer.heads:
            draft.records.extend(head_rows(draft, ask.decision, answer))

    def preview_decision(self, draft: Draft, answer: Answer) -> ShownDecision:
        decision = self._strategy.decide(draft, answer, self.view(draft, draft.now_ns), Decision, shown=True)
        choice = decision.choice
        return ShownDecision.of(draft.spec.actions[choice.action], choice, decision.target)

    # --- bars and quotes ----------------------------------------------------------------------------------------------

    def watch(self, draft: Draft) -> None:
        """Keep candidates, held and worked contracts subscribed, and the descriptions of all ordered ones."""
        chosen = candidates(draft.chain, draft.session, draft.now_ns, draft.trading.contracts) if draft.chain else ()
        symbols = tuple([contract.symbol for contract in chosen])
        if draft.book.positions or draft.orders or draft.works:
            at_work = [order.symbol for order in draft.orders.values()] + [work.symbol for work in draft.works.values()]
            symbols = tuple(dict.fromkeys((*symbols, *option_symbols(draft), *at_work)))
        if symbols == draft.watched:
            return
        order_symbols = {order.symbol for order in draft.closed.values()}
        contracts = {**draft.contracts, **{c.symbol: c for c in chosen}}
        draft.contracts = {s: c for s, c in contracts.items() if s in symbols or s in order_symbols}
        draft.quotes = {s: q for s, q in draft.quotes.items() if s in symbols}
        draft.watched = symbols
        draft.effects.append(WatchContracts(symbols))

    def handle_quotes(self, draft: Draft, quotes: tuple[Quote, ...], bar_ns: int) -> None:
        if draft.book.positions:
            check_stops(draft, quotes, bar_ns)

    def note_quotes(self, draft: Draft, quotes: tuple[Quote, ...]) -> None:
        note_quotes(draft, quotes)

    def priced_by_bar(self, draft: Draft) -> None:
        shares = draft.marks.keys() & {*draft.spec.symbols}  # marks adjusted for a split, until a bar of its day
        if shares and new_york_date(draft.session.last_bar_ns) == new_york_date(draft.now_ns):
            draft.marks = {symbol: mark for symbol, mark in draft.marks.items() if symbol not in shares}
        if note_bar(draft):
            revalue(draft)
            check_stops(draft, tuple(draft.quotes[symbol] for symbol in draft.worths), 0)

    def implied_price(self, draft: Draft, bar: Bar, event: QuotesReceived) -> float | None:
        fresh = {
            quote.symbol: quote
            for quote in event.quotes
            if is_quote(quote, draft.now_ns) and quote.quoted_ns >= bar.start_ns
        }
        return next((price for symbol in fresh if (price := implied_spot(symbol, fresh)) is not None), None)

    def mark_bars(self, draft: Draft, bars: tuple[Bar, ...]) -> None:
        """Ignore bars: a bar of the underlying marks no option."""

    def guard(self, trading: Trading) -> QuoteGuard:
        rules = trading.risk
        width, leap = Decimal(str(rules.mark_width_max)), Decimal(str(rules.mark_leap_max))
        return QuoteGuard(width, leap, NARROW_USD, STEP_USD)

    def mark_book(self, draft: Draft, book: Book) -> Book:
        return mark_options(draft, book)

    # --- orders -------------------------------------------------------------------------------------------------------

    def drive(self, draft: Draft) -> None:
        """Advance every work: cancel old attempts, send the next one after the last ended, close finished works.

        An entry order whose work was given up (a halt, an exit) is cancelled, even after its state was unknown.
        """
        if not (draft.works or draft.orders):
            return
        for name, order in draft.orders.items():
            if order.purpose == ENTRY and order.work not in draft.works:
                draft.cancel(name)
        for work in tuple(draft.works.values()):
            if work.purpose == EXIT:
                _drive_exit(draft, work)
            else:
                _drive_entry(draft, work)

    def intent(self, side: int, purpose: str) -> str:
        if purpose != ENTRY:
            return "sell_to_close" if side < 0 else "buy_to_close"
        return "buy_to_open" if side > 0 else "sell_to_open"

    def exit_reprice_s(self, trading: Trading) -> int:
        return trading.execution.exit_reprice_s

    def spendable(self, funds: Funds) -> Decimal | None:
        return funds.options

    def beyond_limit(self, draft: Draft) -> int:
        total = sum(position.quantity for position in draft.book.positions.values() if position.right)
        return total - draft.trading.risk.position_contracts_max

    # --- ends ---------------------------------------------------------------------------------------------------------

    def note_work_ends(self, draft: Draft, works: tuple[Work, ...]) -> None:
        """Do nothing: an ended entry leaves nothing to note."""

    def session_over(self, draft: Draft) -> None:
        """Do nothing: options are flat by then, or were reported."""

    def risk_symbols(self, draft: Draft) -> list[str]:
        return option_symbols(draft)

    def leavable(self, draft: Draft) -> list[str]:
        shares = [symbol for symbol, position in draft.book.positions.items() if not position.right]  # of an exercise
        return [*option_symbols(draft), *shares]

    def flatten(self, draft: Draft, session: Session) -> None:
        flatten(draft, session)

    # --- the broker ---------------------------------------------------------------------------------------------------

    def split(self, draft: Draft, line: Activity, _: Decimal) -> None:
        split_exercise_shares(draft, line)

    def reorganise(self, _: Draft, __: Activity) -> bool:
        return False

    def note_positions(self, draft: Draft, positions: Iterable[BrokerPosition]) -> None:
        """Do nothing: contracts have no splits that the ledger reports late."""

    def paper(self, trading: Trading, spec: Spec, mode: str, *, by_bar: bool) -> PaperBroker | QuotePaperBroker:
        del by_bar  # contracts are filled at quotes
        return _PAPERS.get(mode, QuotePaperBroker)(trading, spec.symbols[0])


TIME_VALUE_MAX = 0.05  # of the underlying: one week at the money at a volatility of 90 %


def low_confidence(view: RiskView, intent: Intent) -> str | None:
    limit = view.limits.confidence_min
    return None if intent.confidence >= limit else f"confidence {intent.confidence:.4f} below {limit}"


def order_quantity(view: RiskView, intent: Intent) -> str | None:
    limit = view.limits.order_contracts_max
    if intent.quantity < 1:
        return f"quantity {intent.quantity}: the sizing rule allows less than one contract"
    return f"{intent.quantity} contracts, limit {limit} an order" if intent.quantity > limit else None


def order_notional(view: RiskView, intent: Intent) -> str | None:
    notional, limit = intent.notional, view.limits.premium_max_usd
    if notional is None:
        return "notional unknown: an entry needs a limit price"
    return f"notional {notional} USD, limit {limit}" if notional > limit else None


def max_position(view: RiskView, intent: Intent) -> str | None:
    held_count = sum(p.quantity for p in view.book.positions.values() if p.right)
    coming = sum(o.remaining for o in view.orders.values() if o.side > 0)
    total, limit = held_count + coming + intent.quantity, view.limits.position_contracts_max
    return f"position would be {total} contracts, limit {limit}" if total > limit else None


def gross_exposure(view: RiskView, intent: Intent) -> str | None:
    notional, limit = intent.notional, view.limits.gross_exposure_max_usd
    if notional is None:
        return "exposure unknown: an entry needs a limit price"
    total, since_ns = notional + _open_premium(view), view.now_ns - view.limits.quote_age_max_s * SECOND_NS
    for symbol, position in view.book.positions.items():
        quote = view.quotes.get(symbol)
        if quote is None or quote.quoted_ns < since_ns:
            return f"exposure unknown: no fresh mark for {symbol}"
        if position.right and not view.identity.by_tape and is_wide(quote, view.limits):
            return f"exposure unknown: {symbol} is quoted {quote.bid}/{quote.ask}, too wide for a price"
        total += (quote.bid + quote.ask) / 2 * abs(position.quantity) * position.multiplier
    return f"exposure would be {total} USD, limit {limit}" if total > limit else None


def buying_power(view: RiskView, intent: Intent) -> str | None:
    notional = intent.notional
    if notional is None:
        return "cost unknown: an entry needs a limit price"
    free = view.book.cash - _open_premium(view)
    if view.spendable is not None:
        free = min(free, view.spendable)
    return f"costs {notional} USD, buying power {free}" if notional > free else None


def _open_premium(view: RiskView) -> Decimal:
    """Return the premium that working buys may still spend."""
    return sum(
        ((o.limit_price or Decimal(0)) * o.remaining * OPTION_SHARES for o in view.orders.values() if o.side > 0),
        Decimal(0),
    )


def price_collar(view: RiskView, intent: Intent) -> str | None:
    if intent.limit_price is None:
        return "an entry needs a limit price"
    quote = view.quotes.get(intent.symbol)
    if quote is None or quote.ask <= 0:
        return f"no quote for {intent.symbol}"
    middle, collar = (quote.bid + quote.ask) / 2, Decimal(str(view.limits.price_collar))
    if abs(intent.limit_price - middle) > middle * collar:
        return f"limit {intent.limit_price} is further than {collar} from the mid {middle}"
    return None


def wide_spread(view: RiskView, intent: Intent) -> str | None:
    quote = view.quotes.get(intent.symbol)
    if quote is None or quote.bid <= 0 or quote.ask <= 0:
        return f"no two-sided quote for {intent.symbol}"
    spread = float((quote.ask - quote.bid) / ((quote.bid + quote.ask) / 2))
    limit = view.limits.spread_max
    return None if 0 <= spread <= limit else f"spread {spread:.4f} of the mid, limit {limit}"


def spot_unsupported(view: RiskView, intent: Intent) -> str | None:
    """Deny when the contract's quotes do not imply the bar's close by which the strike was chosen.

    When its counterpart is not quoted, the time value must be that of a contract near the money.
    """
    quote, contract, spot = view.quotes.get(intent.symbol), intent.contract, view.session.spot
    if quote is None or quote.bid <= 0 or contract is None:
        return None  # `wide_spread` and `open_interest` deny that
    if spot <= 0:
        return "the underlying's price is unknown"
    since_ns = view.now_ns - view.limits.quote_age_max_s * SECOND_NS
    fresh = {symbol: other for symbol, other in view.quotes.items() if other.quoted_ns >= since_ns}
    quote_spot, limit = implied_spot(intent.symbol, fresh), view.limits.spot_gap_max
    if quote_spot is not None:
        far = abs(quote_spot - spot) > limit * spot
        return f"the quotes imply {quote_spot:.2f}, the last bar closed at {spot}" if far else None
    middle = float(quote.bid + quote.ask) / 2
    value = middle - max(contract.right * (spot - float(contract.strike)), 0.0)
    if -limit * spot <= value <= TIME_VALUE_MAX * spot:
        return None
    return f"a mid of {middle} is no price of {intent.symbol} at {spot}"


def open_interest(view: RiskView, intent: Intent) -> str | None:
    if intent.contract is None:
        return "contract unknown"
    contracts, limit = intent.contract.open_interest, view.limits.open_interest_min
    return f"open interest {contracts}, at least {limit} wanted" if contracts < limit else None


def expires_today(view: RiskView, intent: Intent) -> str | None:
    session, limit = view.session.session, view.execution.expiry_day_no_entry_min
    if session is None or intent.contract is None:
        return "contract or session unknown"
    if intent.contract.expiry > session.date or minutes_to(session.close_ns, view.now_ns) > limit:
        return None
    return f"the contract expires today and {limit} minutes or less are left"


def duplicate_intent(view: RiskView, intent: Intent) -> str | None:
    for order in view.orders.values():
        beside = order.purpose in ("foreign", "protection") and intent.purpose == "exit"  # its quantity is left out
        if order.symbol == intent.symbol and order.side == intent.side and not beside:
            return f"order {order.client_order_id} already works on this side of {intent.symbol}"
        if intent.purpose == "entry" and order.purpose == "entry":
            return f"entry order {order.client_order_id} is already working"
    return None
