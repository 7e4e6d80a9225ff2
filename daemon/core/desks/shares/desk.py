"""A desk that holds whole shares by baskets: long or flat in each symbol, overnight where its spec says so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import ClassVar

from daemon.core.broker.exits import exit_at_stop, exit_in_time
from daemon.core.broker.funds import is_cash_account
from daemon.core.broker.on_broker import HAPPENED
from daemon.core.desks.guarded import GuardedStrategy
from daemon.core.desks.shares.choices import chosen
from daemon.core.desks.shares.corporate_actions import end_waits, note_positions, reorganise, split_shares
from daemon.core.desks.shares.orders import drive_shares, note_ended
from daemon.core.desks.shares.prices import (
    mark_bars,
    on_prices_printed,
    on_share_quotes,
    price_since,
    record_traded,
    share_view,
    sized_view,
)
from daemon.core.desks.shares.rebalance import ask_again, rebalance
from daemon.core.draft import Draft, Handler, ShownDecision
from daemon.core.events import (
    Activity,
    BrokerPosition,
    Event,
    Funds,
    OrderFilled,
    PricesPrinted,
    Quote,
    QuotesReceived,
)
from daemon.core.instruments.quotes import QuoteGuard, share_guard
from daemon.core.limits import Trading
from daemon.core.orders import Work
from daemon.core.paper.shares import SharePaperBroker
from daemon.core.risk.marks import mark_shares
from daemon.core.state import Ask, Book
from strategies.kit.contract import Answer, Bar, DailyStrategy, Rebalance, Session, ShareStrategy, Spec, View


class Shares:
    """Hold whole shares of the spec's symbols. See `draft.Holds` for each member."""

    by_basket: ClassVar[bool] = True
    guards_replays: ClassVar[bool] = True
    marks_held_only: ClassVar[bool] = False
    multiplier: ClassVar[int] = 1
    handlers: ClassVar[Mapping[type[Event], Handler]] = {
        PricesPrinted: on_prices_printed,
        QuotesReceived: on_share_quotes,
    }
    quiet: ClassVar[frozenset[type[Event]]] = frozenset((OrderFilled, *HAPPENED))
    """One print fills many orders; the next requests need the news of all of them."""

    __slots__ = ("_by_row", "_strategy")

    def __init__(self, strategy: DailyStrategy | ShareStrategy) -> None:
        self._strategy = GuardedStrategy(strategy)
        self._by_row = strategy.spec.by_row

    # --- deciding -----------------------------------------------------------------------------------------------------

    def view(self, draft: Draft, now_ns: int) -> View:
        return share_view(draft, now_ns)

    def act(self, draft: Draft, ask: Ask, answer: Answer, model: str) -> None:
        view = sized_view(draft, draft.now_ns)
        if self._by_row:
            answer = chosen(draft, ask, self._strategy.options(draft, answer, view), answer)
        decided = self._strategy.decide(draft, answer, view, Rebalance)
        rebalance(draft, ask, decided, answer, model)

    def shown(self, draft: Draft, answer: Answer) -> ShownDecision:
        decided = self._strategy.shown(draft, answer, share_view(draft, draft.now_ns), Rebalance)
        return ShownDecision.of(decided.name, decided.choice, decided.basket.legs)

    # --- bars and quotes ----------------------------------------------------------------------------------------------

    def watch(self, draft: Draft) -> None:
        """Do nothing: shares are quoted by the spec's symbols, whatever the price."""

    def quoted(self, draft: Draft, quotes: tuple[Quote, ...], bar_ns: int) -> None:
        record_traded(draft)
        for quote in quotes:
            position = draft.book.positions.get(quote.symbol)
            if position is not None:
                exit_at_stop(draft, position, quote, bar_ns)

    def note_quotes(self, draft: Draft, quotes: tuple[Quote, ...]) -> None:
        """Do nothing: shares fetch their price, which each bar says."""

    def priced_by_bar(self, draft: Draft) -> None:
        """Do nothing: the quotes that close a bar mark shares at its price."""

    def implied_price(self, draft: Draft, bar: Bar, event: QuotesReceived) -> float | None:
        return price_since(event.quotes, bar, draft.now_ns, self.guard(draft.trading))

    def mark_bars(self, draft: Draft, bars: tuple[Bar, ...]) -> None:
        mark_bars(draft, bars)

    def guard(self, trading: Trading) -> QuoteGuard:
        return share_guard(trading.basket)

    def mark_book(self, draft: Draft, book: Book) -> Book:
        return mark_shares(draft, book)

    # --- orders -------------------------------------------------------------------------------------------------------

    def drive(self, draft: Draft) -> None:
        ask_again(draft)
        if draft.orders or draft.works:
            drive_shares(draft)

    def intent(self, _: int, __: str) -> str:
        return ""

    def exit_reprice_s(self, trading: Trading) -> int:
        return trading.basket.reprice_s

    def spendable(self, funds: Funds) -> Decimal | None:
        figure = funds.buying_power
        if is_cash_account(funds) and funds.non_marginable is not None:
            figure = funds.non_marginable if figure is None else min(figure, funds.non_marginable)
        return figure

    def beyond_limit(self, _: Draft) -> int:
        return 0

    # --- ends ---------------------------------------------------------------------------------------------------------

    def note_ended(self, draft: Draft, works: tuple[Work, ...]) -> None:
        note_ended(draft, works)

    def session_over(self, draft: Draft) -> None:
        end_waits(draft)

    def risked(self, draft: Draft) -> list[str]:
        symbols = draft.spec.symbols
        return [s for s, position in draft.book.positions.items() if position.quantity > 0 and s in symbols]

    def flatten(self, draft: Draft, session: Session) -> None:
        if not draft.spec.overnight:
            for symbol in self.risked(draft):
                exit_in_time(draft, draft.book.positions[symbol], session)

    # --- the broker ---------------------------------------------------------------------------------------------------

    def split(self, draft: Draft, line: Activity) -> None:
        split_shares(draft, line)

    def reorganise(self, draft: Draft, line: Activity) -> bool:
        reorganise(draft, line)
        return True

    def note_positions(self, draft: Draft, positions: Iterable[BrokerPosition]) -> None:
        note_positions(draft, positions)

    def paper(self, trading: Trading, spec: Spec, mode: str, *, by_bar: bool) -> SharePaperBroker:
        return SharePaperBroker(trading, spec.symbols, live=mode == "dry_run", by_bar=by_bar)
