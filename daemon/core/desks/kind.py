"""A kind of desk on two axes: when it decides and what it holds. A desk composes one object of each.

The rest of the core calls these objects and never asks which kind it is. A new kind is a new object on one axis, or a
new pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple, Protocol

import msgspec

from daemon.core.draft import Draft
from daemon.core.events import Activity, BrokerPosition, Event, Funds, Quote, QuotesReceived
from daemon.core.limits import Trading
from daemon.core.orders import Work
from daemon.core.paper.paper import PaperBroker
from daemon.core.paper.quotes import QuotePaperBroker
from daemon.core.paper.shares import SharePaperBroker
from daemon.core.risk.marks import QuoteGuard
from daemon.core.risk.risk import Gate
from daemon.core.state import Ask, Book
from strategies.kit.contract import Answer, Bar, Choice, Leg, Session, Spec, View

Handler = Callable[[Draft, Any], None]
PaperMarket = PaperBroker | QuotePaperBroker | SharePaperBroker


class ShownDecision(NamedTuple):
    """A decision for display: the action's name, how the answer was read, and the target as JSON."""

    action: str
    choice: Choice | None
    target: bytes

    @classmethod
    def of(cls, action: str, choice: Choice | None, target: object) -> ShownDecision:
        """Encode the target."""
        return cls(action, choice, msgspec.json.encode(target))


class Decides(Protocol):
    """When a desk decides: which events bring bars, and which of them asks the policy."""

    @property
    def handlers(self) -> Mapping[type[Event], Handler]:
        """Handlers of these events; the common handlers cover all others."""

    @property
    def quiet(self) -> frozenset[type[Event]]:
        """Events after which orders do not move."""

    def fills_to_come(self, draft: Draft, /) -> bool:
        """Return True while a replay has still to report fills of the time under way: orders do not move."""

    def known(self, draft: Draft, /) -> Mapping[str, tuple[Bar, ...]]:
        """The adjusted bars that the strategy keeps, by symbol, oldest first; empty where it keeps none."""

    def newest(self, draft: Draft, /) -> Mapping[str, int]:
        """Start of the newest adjusted bar of each symbol, where bars arrive in whole sessions."""

    def waits_until_ns(self, draft: Draft, ask: Ask, /) -> int:
        """Time until which a basket denied by a passing cause may still begin."""

    def begin(self, draft: Draft, legs: tuple[Leg, ...], /) -> None:
        """Begin a new basket: handle the works of an earlier one."""

    @property
    def rebalances(self) -> bool:
        """True where a decision is about all that is held.

        Then its sales end with its buys, and many positions that close are no losses in a row. Otherwise each decision
        opens or leaves a position: cooldowns, stops and the loss of data count as for any position of a session.
        """


class Holds(Protocol):
    """What a desk holds: how it is seen, decided about, priced, ordered, counted and left."""

    @property
    def by_basket(self) -> bool:
        """True where the policy trades several symbols as one basket.

        Exits by a rule take over a sale, and the broker may split what is held.
        """

    @property
    def guards_replays(self) -> bool:
        """True where a replay's quotes may be wrong too: printed prices, not derived from bars."""

    @property
    def marks_held_only(self) -> bool:
        """True where a price is kept only while held; else all prices are kept, to count a basket with."""

    @property
    def multiplier(self) -> int:
        """Shares per unit of an order."""

    @property
    def handlers(self) -> Mapping[type[Event], Handler]:
        """Handlers of these events; the common handlers cover all others."""

    @property
    def quiet(self) -> frozenset[type[Event]]:
        """Events after which orders do not move, beyond those of every desk."""

    def view(self, draft: Draft, now_ns: int, /) -> View:
        """Return what the strategy may know at `now_ns`. Raises ValueError without a session."""

    def act(self, draft: Draft, ask: Ask, answer: Answer, model: str, /) -> None:
        """Let the strategy decide on the policy's answer, ask the gates, start works; one decision row."""

    def shown(self, draft: Draft, answer: Answer, /) -> ShownDecision:
        """Return what the strategy would decide on a candidate's answer. Nothing changes."""

    def watch(self, draft: Draft, /) -> None:
        """Keep subscribed what may be bought now."""

    def quoted(self, draft: Draft, quotes: tuple[Quote, ...], bar_ns: int, /) -> None:
        """Handle new quotes, after they marked the book; `bar_ns` is the start of the bar they close, 0 for none."""

    def note_quotes(self, draft: Draft, quotes: tuple[Quote, ...], /) -> None:
        """Take new quotes into what the positions would fetch, after they marked the book."""

    def priced_by_bar(self, draft: Draft, /) -> None:
        """Take a new bar into what the positions would fetch, and leave those that reached their stop by it."""

    def implied_price(self, draft: Draft, bar: Bar, event: QuotesReceived, /) -> float | None:
        """Return the price of the bar's symbol implied by quotes since the bar began; None where they imply none."""

    def mark_bars(self, draft: Draft, bars: tuple[Bar, ...], /) -> None:
        """Mark held positions at the closes of bars, where those are their prices."""

    def guard(self, trading: Trading, /) -> QuoteGuard:
        """Return the checks that a quote must pass at once."""

    def mark_book(self, draft: Draft, book: Book, /) -> Book:
        """Return the book with equity, peak and drawdown at the marks."""

    def drive(self, draft: Draft, /) -> None:
        """Advance every work."""

    def intent(self, side: int, purpose: str, /) -> str:
        """Return the intent that an order is sent with, "" where none is."""

    def exit_reprice_s(self, trading: Trading, /) -> int:
        """Seconds for which an exit order works before it is repriced."""

    def spendable(self, funds: Funds, /) -> Decimal | None:
        """Return USD that new buys may cost by the broker, None when unknown."""

    def beyond_limit(self, draft: Draft, /) -> int:
        """Return by how much all positions exceed the desk's limit; 0 or less within it, or without one."""

    def note_ended(self, draft: Draft, works: tuple[Work, ...], /) -> None:
        """Note works of the policy that were given up. The cancel of their orders was requested."""

    def session_over(self, draft: Draft, /) -> None:
        """Handle the session's end, after the book is marked."""

    def risked(self, draft: Draft, /) -> list[str]:
        """Return the symbols that the desk leaves when it leaves all."""

    def flatten(self, draft: Draft, session: Session, /) -> None:
        """Leave what must not be held at this time of the session."""

    def split(self, draft: Draft, line: Activity, /) -> None:
        """Book the ledger's line about a split."""

    def reorganise(self, draft: Draft, line: Activity, /) -> bool:
        """Book the ledger's line about new names, mergers or spin-offs; False where the desk books none."""

    def note_positions(self, draft: Draft, positions: Iterable[BrokerPosition], /) -> None:
        """Look for splits in the broker's positions."""

    def paper(self, trading: Trading, spec: Spec, mode: str, /, *, by_bar: bool) -> PaperMarket:
        """Return the paper broker of a replay, or of a dry run on a live feed; `by_bar` where bars fill its orders."""


PAPER_MODES = frozenset(("replay", "recorded", "dry_run"))


class DeskKind:
    """One desk: its strategy's spec, when it decides, what it holds, and the gates of both."""

    __slots__ = ("decides", "gates", "holds", "spec")

    def __init__(self, spec: Spec, decides: Decides, holds: Holds, gates: tuple[Gate, ...]) -> None:
        self.spec = spec
        self.decides = decides
        self.holds = holds
        self.gates = gates

    def paper(self, trading: Trading, mode: str) -> PaperMarket | None:
        """Return the desk's paper broker; None in a mode with a real broker."""
        if mode not in PAPER_MODES:
            return None
        return self.holds.paper(trading, self.spec, mode, by_bar=not self.decides.rebalances)
