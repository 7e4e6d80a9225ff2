"""A desk that holds one option position: buys calls or puts, and is flat before the close."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, ClassVar

from daemon.core.book import OPTION_MULTIPLIER
from daemon.core.desks.guarded import GuardedStrategy
from daemon.core.desks.options.decide import act
from daemon.core.desks.options.execution import drive
from daemon.core.desks.options.position import (
    check_stops,
    flatten,
    on_contracts_listed,
    option_symbols,
    split_exercised,
    view_at,
    watch,
)
from daemon.core.draft import EXIT, Draft, Handler, ShownDecision
from daemon.core.events import Activity, BrokerPosition, ContractsListed, Event, Funds, Quote, QuotesReceived
from daemon.core.instruments.contracts import implied_spot
from daemon.core.instruments.quotes import QuoteGuard, is_quote, option_guard
from daemon.core.limits import Trading
from daemon.core.orders import Work
from daemon.core.paper.paper import PaperBroker
from daemon.core.paper.quotes import QuotePaperBroker
from daemon.core.paper.recorded import RecordedPaperBroker
from daemon.core.risk.guards import revalue
from daemon.core.risk.marks import mark_options
from daemon.core.risk.worth import note_bar, note_quotes
from daemon.core.state import Ask, Book
from strategies.kit.contract import Answer, Bar, Decision, Session, Spec, Strategy, View

if TYPE_CHECKING:
    from collections.abc import Iterable

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
        return view_at(draft, now_ns)

    def act(self, draft: Draft, ask: Ask, answer: Answer, model: str) -> None:
        decision = self._strategy.decide(draft, answer, view_at(draft, draft.now_ns), Decision)
        act(draft, ask, decision, answer, model)

    def shown(self, draft: Draft, answer: Answer) -> ShownDecision:
        decision = self._strategy.shown(draft, answer, view_at(draft, draft.now_ns), Decision)
        choice = decision.choice
        return ShownDecision.of(draft.spec.actions[choice.action], choice, decision.target)

    # --- bars and quotes ----------------------------------------------------------------------------------------------

    def watch(self, draft: Draft) -> None:
        watch(draft)

    def quoted(self, draft: Draft, quotes: tuple[Quote, ...], bar_ns: int) -> None:
        if draft.book.positions:
            check_stops(draft, quotes, bar_ns)

    def note_quotes(self, draft: Draft, quotes: tuple[Quote, ...]) -> None:
        note_quotes(draft, quotes)

    def priced_by_bar(self, draft: Draft) -> None:
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
        return option_guard(trading.risk)

    def mark_book(self, draft: Draft, book: Book) -> Book:
        return mark_options(draft, book)

    # --- orders -------------------------------------------------------------------------------------------------------

    def drive(self, draft: Draft) -> None:
        if draft.orders or draft.works:
            drive(draft)

    def intent(self, side: int, purpose: str) -> str:
        if purpose == EXIT:
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

    def note_ended(self, draft: Draft, works: tuple[Work, ...]) -> None:
        """Do nothing: an ended entry leaves nothing to note."""

    def session_over(self, draft: Draft) -> None:
        """Do nothing: options are flat by then, or were reported."""

    def risked(self, draft: Draft) -> list[str]:
        return option_symbols(draft)

    def flatten(self, draft: Draft, session: Session) -> None:
        flatten(draft, session)

    # --- the broker ---------------------------------------------------------------------------------------------------

    def split(self, draft: Draft, line: Activity) -> None:
        split_exercised(draft, line)

    def reorganise(self, _: Draft, __: Activity) -> bool:
        return False

    def note_positions(self, draft: Draft, positions: Iterable[BrokerPosition]) -> None:
        """Do nothing: contracts have no splits that the ledger reports late."""

    def paper(self, trading: Trading, spec: Spec, mode: str, *, by_bar: bool) -> PaperBroker | QuotePaperBroker:
        del by_bar  # contracts are filled at quotes
        return _PAPERS.get(mode, QuotePaperBroker)(trading, spec.symbols[0])
