"""A kind of desk, on two axes: when it decides, and what it holds. A desk is one of each, composed for one strategy.

The rest of the core asks these objects and never which kind it is. A new kind is a new object on one axis, or another
pair of those there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple, Protocol

from daemon.core.draft import Draft
from daemon.core.events import Activity, BrokerPosition, Event, Funds, Quote, QuotesReceived
from daemon.core.limits import Trading
from daemon.core.orders import Work
from daemon.core.paper.paper import PaperBroker
from daemon.core.paper.quotes import QuotePaperBroker
from daemon.core.paper.shares import SharePaperBroker
from daemon.core.risk.marks import Guard
from daemon.core.risk.risk import Gate
from daemon.core.state import Ask, Book
from strategies.kit.contract import Answer, Bar, Choice, Session, Spec, View

Handler = Callable[[Draft, Any], None]
PaperMarket = PaperBroker | QuotePaperBroker | SharePaperBroker


class Shown(NamedTuple):
    """A decision as it is shown: the action's name, how the answer was read, and the target as JSON."""

    action: str
    choice: Choice | None
    target: bytes


class Decides(Protocol):
    """When a desk decides: which events bring bars, and which of them asks the policy."""

    @property
    def handlers(self) -> Mapping[type[Event], Handler]:
        """What these events do; for all others the common handlers hold."""

    @property
    def quiet(self) -> frozenset[type[Event]]:
        """Events after which orders do not move."""

    def known(self, draft: Draft, /) -> Mapping[str, tuple[Bar, ...]]:
        """The adjusted bars that the strategy keeps, by symbol, oldest first; empty where it keeps none."""

    def newest(self, draft: Draft, /) -> Mapping[str, int]:
        """Start of the newest adjusted bar of each symbol, where bars are told in whole sessions."""

    def waits_until_ns(self, draft: Draft, ask: Ask, /) -> int:
        """Until when a basket that a passing cause denies may still begin."""

    def begin(self, draft: Draft, /) -> None:
        """A new basket begins: what happens to works of an earlier one."""


class Holds(Protocol):
    """What a desk holds: how it is seen, decided about, priced, ordered, counted and left."""

    @property
    def by_basket(self) -> bool:
        """True where the policy trades several symbols as one: its sales end with its buys, exits by a rule take a
        sale over, and many closed positions are no losses in a row. The broker may split what is held.
        """

    @property
    def guards_replays(self) -> bool:
        """True where a replay's quotes may be wrong too: they are printed prices, not worked out from bars."""

    @property
    def marks_held_only(self) -> bool:
        """True where a price is kept only while it is held; else all prices are, to count a basket with."""

    @property
    def multiplier(self) -> int:
        """Shares that one unit of an order stands for."""

    @property
    def handlers(self) -> Mapping[type[Event], Handler]:
        """What these events do; for all others the common handlers hold."""

    @property
    def quiet(self) -> frozenset[type[Event]]:
        """Events after which orders do not move, beyond those of every desk."""

    def view(self, draft: Draft, now_ns: int, /) -> View:
        """What the strategy may know at `now_ns`. Raises ValueError without a session."""

    def act(self, draft: Draft, ask: Ask, answer: Answer, model: str, /) -> None:
        """Let the strategy decide on the policy's answer, ask the gates, start works; one decision row."""

    def shown(self, draft: Draft, answer: Answer, /) -> Shown:
        """What the strategy would decide on a candidate's answer. Nothing changes."""

    def watch(self, draft: Draft, /) -> None:
        """Keep subscribed what may be bought now."""

    def quoted(self, draft: Draft, quotes: tuple[Quote, ...], bar_ns: int, /) -> None:
        """Look at new quotes, after they marked the book; `bar_ns` is the start of the bar they close, 0 for none."""

    def implied_price(self, draft: Draft, bar: Bar, event: QuotesReceived, /) -> float | None:
        """The price of the bar's symbol that quotes since the bar began say; None where they say none."""

    def mark_bars(self, draft: Draft, bars: tuple[Bar, ...], /) -> None:
        """Take over the closes of bars as marks, where they are prices of what is held."""

    def guard(self, trading: Trading, /) -> Guard:
        """What is believed of a quote at once."""

    def mark_book(self, draft: Draft, book: Book, /) -> Book:
        """The book with equity, peak and drawdown at the marks."""

    def drive(self, draft: Draft, /) -> None:
        """Move every work on."""

    def intent(self, side: int, purpose: str, /) -> str:
        """The intent that an order is sent with, "" where none is."""

    def exit_reprice_s(self, trading: Trading, /) -> int:
        """Seconds for which an exit order works before it is priced anew."""

    def spendable(self, funds: Funds, /) -> Decimal | None:
        """USD that the broker lets new buys cost, None where it does not say."""

    def beyond_limit(self, draft: Draft, /) -> int:
        """By how much all that is held exceeds the limit of the desk; 0 or less within it, or without one."""

    def note_ended(self, draft: Draft, works: tuple[Work, ...], /) -> None:
        """Note works of the policy that were given up. Their orders were asked to be cancelled."""

    def session_over(self, draft: Draft, /) -> None:
        """The session is over and the book marked."""

    def risked(self, draft: Draft, /) -> list[str]:
        """The symbols that the desk leaves when it leaves all."""

    def flatten(self, draft: Draft, session: Session, /) -> None:
        """Leave what must not be held at this time of the session."""

    def split(self, draft: Draft, line: Activity, /) -> None:
        """Book the ledger's line about a split."""

    def reorganise(self, draft: Draft, line: Activity, /) -> bool:
        """Book the ledger's line about new names, mergers or spin-offs; False where the desk books none."""

    def note_positions(self, draft: Draft, positions: Iterable[BrokerPosition], /) -> None:
        """Look for splits in what the broker holds."""

    def paper(self, trading: Trading, spec: Spec, mode: str, /) -> PaperMarket:
        """The paper broker of a replay, or of a dry run on a live feed."""


PAPER_MODES = frozenset(("replay", "dry_run"))


class DeskKind:
    """One desk: its strategy's spec, when it decides, what it holds, and the gates of both."""

    __slots__ = ("decides", "gates", "holds", "spec")

    def __init__(self, spec: Spec, decides: Decides, holds: Holds, gates: tuple[Gate, ...]) -> None:
        self.spec = spec
        self.decides = decides
        self.holds = holds
        self.gates = gates

    def paper(self, trading: Trading, mode: str) -> PaperMarket | None:
        """The paper broker that suits the desk; None in a mode in which a real one is outside."""
        if mode not in PAPER_MODES:
            return None
        return self.holds.paper(trading, self.spec, mode)
