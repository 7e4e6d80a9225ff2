"""What must hold in every run: watched at each step of the desk, at each trade of the server, and at the run's end.

Each rule is a promise of docs/SAFETY.md. What is expected comes from the server's books, the market and the schedule.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

from msgspec import UnsetType

from daemon.alpaca_api.books import PositionChange
from daemon.core.broker.exits import BY_PRICE
from daemon.core.draft import EXIT, PROTECTION
from daemon.core.effects import RaiseAlarm, SubmitOrder
from daemon.core.events import BrokerReported, Event
from daemon.core.instruments.option_market import parse_occ, root_of
from daemon.core.moves import LEAVE
from daemon.core.records import MoveRow
from daemon.core.session import new_york_date
from daemon.core.step import Step
from daemon.operator.status import status_of
from daemon.operator.urgency import Urgency, urgency_of
from simulator.prices.corporate_actions import SpinOff
from strategies.kit.units import MINUTE_NS, SECOND_NS
from strategies.registry import strategy
from tests.chaos import verdict
from tests.support.desks.live_desk import Books
from tests.years.holders import Holders, fold
from tests.years.market import is_option

if TYPE_CHECKING:
    from tests.years.run import Run

BY_LOSS = frozenset(("daily_loss", "drawdown"))
RULES: dict[str, str] = {
    "new_risk": "an entry leaves while the desk is halted, paused, stood down, stopping or not reconciled",
    "short": "the desk's own sale makes a position negative",
    "owner": "the desk sells more of a symbol than it bought, or its book holds more",
    "gain": "the desk earns what is paid on others' shares",
    "cheap": "an option is sold far below its worth because its quotes are wide",
    "two_exits": "two exits of one symbol are under way: each cancels the other's orders",
    "not_left": "shares that must leave wait for a report that does not come",
    "expired": "the desk held a contract through its last close",
    "command": "a command that does nothing is taken as done",
    "unnamed": "what stays is not named in a later session, or by another cause",
    "refusals": "the same refusal is an alarm again and again",
    "order_ended": "an order that ended at the broker works in the book",
    "basket": "a basket that waited for a resume is not traded",
    "size": "an order is above a limit of its size, or the day has too many orders",
    "day_loss": "an entry leaves although the day's loss is beyond its limit",
    "loss_limit": "the day's loss is beyond its limit at the market's own prices, and the desk does not halt",
    "false_loss": "the desk halts for a loss that only half a split shows",
    "status": "the session's profit that is shown is not the one that was made",
    "resume": "a plain resume goes on after a halt for a loss in the same session",
    "wide": "quotes are far too wide for long while something is held, and nobody is told",
    "flood": "the same alarm again and again in one session",
    "stop": "a position stays although its price has been below its stop for a while, and the broker is willing",
    "time_stop": "a position stays after its time, and the broker is willing",
    "closed_by_hand": "what a person told the desk to close is still held, or is bought back in the same session",
    "uncovered": "shares of a desk that rests stops have none at the broker, or a stop has no shares behind it",
    "not_flat": "a position that must be left by the close is still there, although the broker was willing",
    "alarm": "a grave alarm did not reach the operator's program",
    "silent_halt": "a halt without its alarm",
    "no_start": "a desk that holds something does not start for want of a model or of a configuration",
    "ended": "the daemon ended by itself",
    "stuck": "the daemon does not move",
    "panic": "what a failed panic left is still there",
    "apart": "after all trouble book and broker do not agree",
    "fills": "a fill is not exactly once in the journal",
    "posts": "an order was accepted twice",
    "intent": "more was filled than a decision meant to hold",
    "replay": "the journal does not replay",
    "halt": "a halt that nothing in the schedule explains",
    "leak": "a key stands in a file",
}
"""Every rule by its name."""

ZERO = Decimal(0)
EXCUSED_NS = 15 * SECOND_NS  # a person's trade this shortly before: no report could have it
STOP_S = 240  # the price is below the stop for so long
STOPS = ("stop", "stop_limit")
UNCOVERED_S = 420  # without its stop for so long, whatever was tried
STOP_WIDE_S = 300  # the same while the stream's quotes are not to be trusted
FLOOD = 40  # alarms of one name in a session
LOSS_S = 600  # beyond the limit for so long
WIDE_S = 600  # quotes too wide for so long after they may blind
TOLD_S = 900  # within which a grave alarm reaches the program
PANIC_S = 1500
CLOSE_S = 900  # what a person closes has left
TIME_STOP_S = 360  # beyond its time: a bar, an exit that is priced again
ENDED_S = 900
REFUSALS = 3  # alarms of one refusal in a session: the first, the tenth, the hundredth
SETTLED_NS = 400 * SECOND_NS  # after its last trade a book is compared, or once a report came since
PAID = frozenset(("DIV", "SPIN", "CGD"))
HALF_CENT = Decimal("0.005")
CHEAP = Decimal("0.9")  # of the least that the rules allow


@dataclass(frozen=True, slots=True)
class Problem:
    """A rule that was broken, when (nanoseconds UTC) and how."""

    rule: str
    at_ns: int
    text: str


class Watch:
    """The rules that hold at every event. Made anew for each run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._state: Any = None
        self._last_status: tuple[Any, Any] = (None, None)  # state and cash that were compared last
        self._trades = self._alarm_count = 0
        self._missed_days = set[str]()
        self._symbols = frozenset(strategy(run.schedule.desk).spec.symbols)
        self._now = Holders({}, {})  # by the server's trades
        self._changed_ns = 0
        self._settled_ns = max(SETTLED_NS, (cast("int", run.tables["alpaca"]["report_every_s"]) + 60) * SECOND_NS)
        self._base: tuple[frozenset[object], Holders] = frozenset(), Holders({}, {})  # trades folded, who holds by them
        self._mark: tuple[int, int, int] = (0, 0, 0)
        self._at_close: dict[str, Holders] = {}  # by date
        self._due: dict[str, tuple[Decimal, Decimal]] = {}  # own and all, when something unannounced was paid
        self._ledger_lines: set[str] = set()  # lines of the ledger that were booked
        self._stale_orders: dict[str, int] = {}  # orders that ended at the server and work in the book, and since when
        self._refused: Counter[str] = Counter()
        self._below_ns: dict[str, int] = {}
        self._bare_ns: dict[str, int] = {}
        self._highs: dict[str, Decimal] = {}  # since the entry, when a sale was last sent
        self._elected: set[str] = set()  # what a resting stop sold of while everybody quoted wide
        self._stopped: set[str] = set()  # what a trailing stop may sell at the market, until it is bought again
        self._grave: list[tuple[int, str, str]] = []
        self._telling_ns = 0  # until then the program may have grave alarms to tell
        self._equity: tuple[str, Decimal] = ("", ZERO)
        self._lost_on = ""  # the session in which the desk halted for a loss that there was
        self._cash_at_open = ZERO
        self._lost_ns = self._wide_ns = 0
        self._raised: Counter[str] = Counter()  # alarms of this session, by name
        self._over = ""  # date of the newest session that has ended
        self._closing: dict[str, tuple[int, Decimal]] = {}  # told to close: since when, and what may be left
        self._closed_on: dict[str, str] = {}  # root -> the session in which it is not bought back

    # --- each step ----------------------------------------------------------------------------------------------------

    def stepped(self, event: Event, step: Step) -> None:
        """See one step of the desk."""
        before, after = self._state, step.state
        self._state = after
        run = self._run
        if before is None:
            before = after
        for effect in step.effects:
            if type(effect) is SubmitOrder:
                self._submitted(before, after, effect)
            elif type(effect) is RaiseAlarm:
                run.met[f"alarm {effect.name}"] += 1
                if effect.name == "broker_accepted":
                    self._accepted(after)
                self._raised[effect.name] += 1
                self._worded(effect)
                most = FLOOD + (run.persons if effect.name == "foreign_order" else 0)  # one for each order of theirs
                if self._raised[effect.name] == most:
                    run.problem("flood", f"{effect.name} was raised {FLOOD} times in this session")
                halt = after.risk.halt
                halts = halt is not None and (halt.reason, halt.detail) == (effect.name, effect.detail)
                if urgency_of(effect.name, halts=halts) is Urgency.GRAVE:
                    self._grave.append((run.now_ns(), effect.name, effect.detail))
                    each_ns = 60 * SECOND_NS // run.alarms_a_minute  # a run for each, at the rate of the settings
                    self._telling_ns = max(self._telling_ns, run.now_ns()) + each_ns
        if after.works is not before.works:
            exits = Counter(work.symbol for work in after.works.values() if work.purpose == EXIT)
            if twice := [symbol for symbol, count in exits.items() if count > 1]:
                run.problem("two_exits", f"{', '.join(twice)}: {[str(w) for w in after.works.values()][:4]}"[:400])
        halt = after.risk.halt
        if halt is not None and before.risk.halt is None:
            run.met[f"halt {halt.reason}"] += 1
            run.halted(halt.reason, halt.detail)
            if not any(type(effect) is RaiseAlarm for effect in step.effects):
                run.problem("silent_halt", f"halted by {halt.reason} without an alarm")
        for row in step.rows:
            if type(row) is MoveRow and row.step == LEAVE:
                run.met[f"left by {row.reason}"] += 1
        if type(event) is BrokerReported:
            self._gained(event, before, after)
        if after.stats.denials is not before.stats.denials:
            for name, count in after.stats.denials.items():
                if count > before.stats.denials.get(name, 0):
                    run.met[f"gate {name}"] += 1

    def _accepted(self, state: Any) -> None:
        """What is there is the desk's from now on, as far as its book takes it."""
        self._trade_rules()
        account = self._run.world.account
        total = {symbol: position.qty for symbol, position in account.positions.items()}
        self._now = Holders({it.symbol: Decimal(it.quantity) for it in state.book.positions.values()}, total)
        self._base = frozenset(map(_same_trade, account.trades)), self._now
        now_ns, actions = self._run.now_ns(), self._run.reorganised  # a later line may say that they are its own
        self._run.split |= {action.new for action, books_ns, line_ns in actions if books_ns <= now_ns < line_ns}
        self._at_close.clear()
        self._due.clear()

    def _worded(self, alarm: RaiseAlarm) -> None:
        """An alarm of a refusal, or of a basket that was missed."""
        run = self._run
        if alarm.name == "order_rejected":
            wording = re.sub(r"[0-9a-f]{6,}\S*|\d+", "#", alarm.detail.partition(": ")[2].partition(" (")[0])
            state, name = self._state, alarm.detail.partition(":")[0]
            order = state.closed.get(name) or state.orders.get(name)
            if order is not None:
                case = f"{order.symbol} {order.side} {wording}"
                self._refused[case] += 1
                if self._refused[case] == REFUSALS + 1:
                    run.problem("refusals", f"{REFUSALS + 1} alarms in a session: {alarm.detail[:200]}")

    def missed(self, detail: str) -> None:
        """The day has no basket: where the ledger owes the line of a split, the day's first alarm says so."""
        run, (day, _, why) = self._run, detail.partition(":")
        is_first = day not in self._missed_days
        self._missed_days.add(day)
        owed = [symbol for symbol, until_ns in run.split_owed.items() if run.now_ns() < until_ns]
        if any(run.own().get(symbol) for symbol in owed) and is_first and "split" not in why:
            run.problem("unnamed", f"the ledger owes the split of {owed}, and the alarm says: {detail[:200]}")

    def _gained(self, event: BrokerReported, before: Any, after: Any) -> None:
        """What lines about shares gave the desk is its own part of them."""
        run = self._run
        new = [line for line in event.activities if line.id not in self._ledger_lines]
        self._ledger_lines |= {line.id for line in new}
        if not new or run.adopts or before.book.positions != after.book.positions or not run.persons:
            return
        if any(line.kind not in PAID or line.amount <= 0 for line in new):
            return
        most = ZERO
        for line in new:
            closes = [date for date in self._at_close if line.ex_date and date < line.ex_date]
            if closes:
                holders = self._at_close[max(closes)]
                own, all_ = holders.own.get(line.symbol, ZERO), holders.total.get(line.symbol, ZERO)
            elif not line.ex_date and line.symbol in self._due:
                own, all_ = self._due[line.symbol]
            else:
                return
            if line.symbol in self._now.disturbed or all_ <= 0:
                return
            most += line.amount * own / all_
        gained = after.book.realized - before.book.realized
        if gained > most + Decimal("0.02"):
            lines = ", ".join(f"{line.kind} {line.symbol} {line.amount}" for line in new)
            run.problem("gain", f"{gained} USD of {lines} are booked as gain, {most:.2f} are the desk's")

    # --- what a person has beside -------------------------------------------------------------------------------------

    def own(self) -> dict[str, Decimal]:
        """What the desk has by the server's trades."""
        self._count()
        return {symbol: quantity for symbol, quantity in self._now.own.items() if quantity}

    def others(self, symbol: str) -> Decimal:
        """What others have of it, by the server's trades."""
        self._count()
        return self._now.total.get(symbol, ZERO) - self._now.own.get(symbol, ZERO)

    def pays(self, symbol: str) -> None:
        """Something is paid on who holds the symbol now."""
        self._count()
        self._due[symbol] = self._now.own.get(symbol, ZERO), self._now.total.get(symbol, ZERO)

    def raised(self, name: str) -> int:
        """How often this alarm was raised in this session."""
        return self._raised[name]

    def _count(self) -> None:
        """Fold the server's trades: orders of the desk, orders of others, and what came without an order."""
        run, account = self._run, self._run.world.account
        run.note_closings()
        mark = len(account.trades), account.past_positions[-1][0], len(run.closings)
        if mark == self._mark:
            return
        self._mark = mark
        folded, base = self._base
        newer = itertools.takewhile(lambda trade: _same_trade(trade) not in folded, reversed(account.trades))
        parents = {action.new: action.symbol for action, _, _ in run.reorganised if isinstance(action, SpinOff)}
        now = fold(base, [*newer][::-1], run.is_own, run.others_changes, run.unit, parents)
        if now.own != self._now.own:
            self._changed_ns = run.now_ns()
        self._now = now

    def _at_work(self, state: Any) -> list[Any]:
        """The book's orders at work, but for stops that rest at the server."""
        by_name = self._run.world.account.by_client_id
        return [it for name, it in state.orders.items() if name not in by_name or by_name[name].type not in STOPS]

    def _leaving(self, state: Any) -> set[str]:
        """Symbols of which a sale is at work."""
        return set() if state is None else {order.symbol for order in self._at_work(state) if order.side < 0}

    def _book_is_own(self) -> None:
        """After a while without news the book has no more than what is the desk's."""
        run, state = self._run, self._state
        calm = run.willing() and state.risk.reconciled and not self._at_work(state)
        if not calm or run.adopts or run.now_ns() - max(self._changed_ns, run.by_hand_ns) < self._settled_ns:
            return
        if not run.alive_since(self._changed_ns) and not run.alive_since(run.now_ns() - self._settled_ns):
            return
        for symbol, position in state.book.positions.items():
            there = run.world.account.quantity(symbol)
            is_known = symbol not in self._now.disturbed and there == self._now.total.get(symbol, ZERO)
            if is_known and position.quantity > self._now.own.get(symbol, ZERO) + run.unit and symbol not in run.split:
                text = f"{symbol}: the book holds {position.quantity}, {self._now.own.get(symbol, ZERO)} are the desk's"
                run.problem("owner", text)

    def began(self) -> None:
        """A new life: its state is what it recovers."""
        self._state = None

    def _submitted(self, before: Any, after: Any, effect: SubmitOrder) -> None:
        run, order = self._run, after.orders.get(effect.client_order_id)
        position = after.book.positions.get(effect.symbol)
        if position is not None:
            cost_price = position.cost / position.quantity  # USD a share, below which no highest price is
            self._highs[effect.symbol] = (
                cost_price if isinstance(position.high, UnsetType) else max(position.high, cost_price)
            )
        if effect.side < 0 and self._trailed(after, effect.symbol, after.now_ns):
            self._stopped.add(effect.symbol)
        if order is None or order.purpose != "entry" or effect.client_order_id in before.orders:
            return
        self._stopped.discard(effect.symbol)
        for cause, of in (
            ("halted", lambda state: state.risk.halt is not None),
            ("paused", lambda state: state.risk.pause is not None),
            ("not reconciled", lambda state: not state.risk.reconciled),
            ("stood down", lambda state: state.broker.stood_down),
            ("stopping", lambda state: bool(state.risk.stopping)),
        ):
            if of(before) and of(after):
                run.problem("new_risk", f"{effect.client_order_id} {effect.symbol} leaves while {cause}")
        session, root = after.session.session, root_of(effect.symbol)
        if session is not None and self._closed_on.get(root) == session.date:
            run.problem("closed_by_hand", f"{effect.client_order_id} buys {effect.symbol}, which a person closed today")
        self._size(after, effect)
        self._loss(after, effect)

    def _size(self, state: Any, effect: SubmitOrder) -> None:
        risk = state.trading.risk
        option = len(effect.symbol) > 6
        if option and effect.quantity > risk.order_contracts_max:
            self._run.problem("size", f"{effect.quantity} contracts, limit {risk.order_contracts_max}")
        session = state.session.session
        if session is not None and option:
            account = self._run.world.account
            epoch = f"{state.identity.epoch}-"
            today = sum(
                order.created_ns >= session.open_ns and order.client_order_id.startswith(epoch)
                for order in list(account.orders.values())[-300:]
                if not order.type.startswith("stop")  # a resting stop counts for no limit
            )
            if today >= risk.orders_per_day:
                self._run.problem("size", f"{today} orders before it today, limit {risk.orders_per_day}")

    def _loss(self, state: Any, effect: SubmitOrder) -> None:
        limit = state.trading.risk.daily_loss_max
        date, start = self._equity
        if limit >= 1 or start <= 0 or self._run.reset_limits or self._run.persons or self._run.money_moved:
            return
        now = self._run.equity()
        session = state.session.session
        if session is None or session.date != date or now is None:
            return
        if (start - now) / start > Decimal(str(limit)) + Decimal("0.004"):
            text = f"{effect.client_order_id} leaves at a loss of {start - now:.2f} of {start:.2f} USD today"
            self._run.problem("day_loss", text)

    def lost(self, detail: str) -> None:
        """The desk halted for the day's loss: is there one at the market's own prices, whatever a split still owes?"""
        run, (date, start), now = self._run, self._equity, self._run.equity()
        limit = Decimal(str(self._state.trading.risk.daily_loss_max))
        if now is None or start <= 0:
            return
        if (start - now) / start >= limit - Decimal("0.01"):
            self._lost_on = date
        elif run.splits and not (run.persons or run.money_moved or run.split):
            run.problem("false_loss", f"{start - now:.2f} of {start:.2f} USD are lost today, and it says: {detail}")

    # --- each look ----------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """See the server's books, and what should have happened by now."""
        self._trade_rules()
        self._alarms_told()
        for line in self._run.desk.alarms[self._alarm_count :]:
            if line.alarm == "basket_missed":
                self.missed(line.detail)
        self._alarm_count = len(self._run.desk.alarms)
        self._stops()
        self._times_end()
        self._closed_leave()
        self._orders_end()
        self._covered()
        run = self._run
        session = run.world.market.session_at(run.now_ns())
        if session is not None and session.date != self._equity[0]:
            equity = run.equity()
            if equity is not None:
                self._equity = session.date, equity
                account = run.world.account
                has_traded = bool(account.trades) and account.trades[-1].time_ns >= session.open_ns
                self._cash_at_open = ZERO if account.positions or has_traded else Decimal(account.cash)
        if session is None and self._equity[0] not in self._at_close:
            self._count()
            self._at_close[self._equity[0]] = self._now
        if session is None and self._equity[0] != self._over:
            self._over = self._equity[0]
            self._raised.clear()  # what is raised from now on is the next session's
            self._refused.clear()
        if self._state is not None and run.persons:
            self._book_is_own()
        if session is not None and self._state is not None:
            self._loss_is_met()
            self._wide_is_told()
            self._status_is_true(session.date)
        failed_ns = run.panic_failed_ns
        opened_ns = 0 if session is None else session.open_ns  # nothing leaves before an open
        begun_ns = max(failed_ns, run.calm_ns, opened_ns)
        if failed_ns and session is not None and run.now_ns() > begun_ns + PANIC_S * SECOND_NS and run.willing():
            run.panic_failed_ns = 0
            symbols = {symbol for symbol in run.own() if run.world.market.trading(symbol, run.now_ns())}
            if symbols and run.alive_since(failed_ns):
                run.problem("panic", f"{sorted(symbols)} are held {PANIC_S} s after a panic that failed")

    def _orders_end(self) -> None:
        """An order that ended at the server does not work in the book for long."""
        run, state, now_ns = self._run, self._state, self._run.now_ns()
        if state is None or not run.willing() or not state.orders:
            self._stale_orders.clear()
            return
        account = run.world.account
        stale = {
            n for n in state.orders if (it := account.by_client_id.get(n)) is not None and it.id not in account.working
        }
        self._stale_orders = {name: self._stale_orders.get(name, now_ns) for name in stale}
        for name, since_ns in self._stale_orders.items():
            if now_ns - since_ns > ENDED_S * SECOND_NS and run.alive_since(since_ns):
                run.problem("order_ended", f"{name} ended at the broker {ENDED_S} s ago and works in the book")

    def _undisturbed(self) -> bool:
        """Whether the account's money was the desk's alone so far, and nothing befell a company."""
        run, today = self._run, new_york_date(self._run.now_ns()).isoformat()
        befell = any(it.date <= today for it in run.plan.happenings)
        return not (run.persons or run.money_moved or run.split or befell)

    def _loss_is_met(self) -> None:
        run, state = self._run, self._state
        limit, (_, start), now_ns = state.trading.risk.daily_loss_max, self._equity, run.now_ns()
        equity = run.equity() if limit < 1 and start > 0 and self._undisturbed() else None
        equity = start if equity is None else equity
        beyond = start > 0 and (start - equity) / start > Decimal(str(limit)) + Decimal("0.01")
        if not beyond or state.risk.halt is not None or run.reset_limits or run.stands():
            self._lost_ns = 0
            return
        self._lost_ns = self._lost_ns or now_ns
        calm = run.calm_ns <= self._lost_ns or run.only_quotes()
        if now_ns - self._lost_ns > LOSS_S * SECOND_NS and calm and run.alive_since(self._lost_ns):
            run.problem("loss_limit", f"{start - equity:.2f} of {start:.2f} USD lost for {LOSS_S} s, limit {limit}")
            self._lost_ns = now_ns

    def _wide_is_told(self) -> None:
        run, now_ns = self._run, self._run.now_ns()
        waiting = run.faults.waiting()
        state = self._state
        wide = bool(waiting) and run.only_quotes() and any(it.right for it in state.book.positions.values())
        if not wide or run.stands():
            self._wide_ns = 0
            return
        self._wide_ns = self._wide_ns or now_ns
        limit_s = state.trading.broker.blind_min * 60 + WIDE_S
        if (
            now_ns - self._wide_ns > limit_s * SECOND_NS
            and run.alive_since(self._wide_ns)
            and not self._raised["blind"]
        ):
            run.problem("wide", f"quotes have been too wide for {limit_s} s, and there is no alarm blind")
            self._wide_ns = now_ns

    def _status_is_true(self, date: str) -> None:
        """Of a desk that began the session with cash alone and is flat: what is shown is what the cash gained."""
        run, state = self._run, self._state
        session = state.session.session
        flat = not (run.world.account.positions or state.book.positions or state.orders)
        if not (flat and self._cash_at_open and self._undisturbed() and state.risk.reconciled and run.willing()):
            return
        if session is None or session.date != date or run.cash_changed():
            return
        cash = run.world.account.cash
        if self._last_status[0] is state and self._last_status[1] == cash:
            return  # nothing changed since
        self._last_status = state, cash
        day_usd, profit_usd = status_of(state, "d").day_usd, Decimal(cash) - self._cash_at_open
        heard_ns = session.open_ns if state.broker.part_fills else state.broker.reported_ns
        newer = itertools.takewhile(lambda trade: trade.time_ns > heard_ns, reversed(run.world.account.trades))
        rounded = sum((abs(trade.rounding) for trade in newer), ZERO)  # what each was rounded by a calm report says
        shown_usd = Decimal(str(day_usd))
        if abs(shown_usd - profit_usd) > HALF_CENT + rounded:  # cash may have more decimals, what is shown has two
            run.problem("status", f"{day_usd} USD are shown for the session, {profit_usd} were made")

    def _trade_rules(self) -> None:
        run, account = self._run, self._run.world.account
        self._count()
        after_sale: dict[str, Decimal] = {}
        for trade in account.trades[self._trades :]:
            is_own = run.is_own(trade.order_id)
            if is_own:
                after_sale[trade.symbol] = self._now.own.get(trade.symbol, ZERO)
                self._cheap(trade)
            elif not trade.order_id and is_option(trade.symbol) and trade not in run.others_changes:
                self._lapsed(trade)
            position = account.positions.get(trade.symbol)
            late = trade.time_ns - run.by_hand_ns > EXCUSED_NS
            if is_own and trade.quantity < 0 and position is not None and position.qty < 0 and late:
                if trade.symbol not in run.short_by_hand:
                    run.problem("short", f"{trade.symbol}: {position.qty} after a sale of {-trade.quantity}")
            elif not is_own and position is not None and position.qty < 0:
                run.short_by_hand.add(trade.symbol)
        for symbol, quantity in after_sale.items():
            excused = symbol in run.split or run.adopts or symbol in self._now.disturbed
            if quantity < 0 and not excused:
                run.problem("owner", f"{symbol}: sold {-quantity} more than it bought")
        self._trades = len(account.trades)

    def _cheap(self, trade: PositionChange) -> None:
        """A sale far below the worth while everybody quotes wide, and the underlying stands still."""
        run, market = self._run, self._run.world.market
        contract = parse_occ(trade.symbol)
        wide = [it for it in market.widths if it.from_ns <= trade.time_ns < it.until_ns]
        state, fair = self._state, market.fair(trade.symbol, trade.time_ns)
        if not wide or contract is None or trade.quantity > 0 or state is None or fair is None:
            return
        session = market.session_at(trade.time_ns)
        if session is None or contract.expiry == session.date or run.leapt_ns or trade.symbol in self._stopped:
            return
        order = run.world.account.orders[trade.order_id]
        own = state.orders.get(order.client_order_id) or state.closed.get(order.client_order_id)
        if own is not None and own.purpose == PROTECTION:
            self._elected.add(trade.symbol)
        if own is not None and own.reason in BY_LOSS and trade.symbol in self._elected:
            return  # the broker's stop met the wide bid: that loss is made, and its limit leaves at any price
        if own is not None and own.reason in BY_PRICE and session.date == self._lost_on:
            return  # so it does where the day's loss is one at the market's own prices
        least = (fair[0] + fair[1]) / 2 * (1 - Decimal(str(state.trading.risk.price_collar))) * CHEAP
        if trade.price < least and order.created_ns > wide[0].from_ns + 60 * SECOND_NS:
            run.problem("cheap", f"{trade.symbol} is sold at {trade.price}, it is worth {sum(fair) / 2:.2f}")

    def _trailed(self, state: Any, symbol: str, time_ns: int) -> bool:
        """Whether even what others ask is below the trailing stop, which then sells at the market by its promise."""
        trails, quote = state.trading.sizing.trailing_stop, self._run.world.market.quote(symbol, time_ns)
        if not trails or quote is None:
            return False
        return bool(quote[1] <= self._highs.get(symbol, ZERO) * (1 - Decimal(str(trails))))

    def _lapsed(self, trade: PositionChange) -> None:
        """A contract ended at its close: the desk had none of it, where the broker was willing."""
        run = self._run
        calm = run.calm_ns < trade.time_ns - 25 * MINUTE_NS and run.alive_since(trade.time_ns - 25 * MINUTE_NS)
        quantity = sum(
            (it.quantity for it in run.world.account.trades if it.symbol == trade.symbol and run.is_own(it.order_id)),
            ZERO,
        )
        excused = run.persons or run.stands() or trade.symbol in kept_to_the_close(run)
        if quantity > 0 and calm and not excused:
            run.problem("expired", f"{quantity} {trade.symbol} were held through their last close")

    def _alarms_told(self) -> None:
        run = self._run
        if not self._grave:
            return
        alarms = {(line.alarm, line.detail) for line in run.desk.alarms}
        rest = []
        for at_ns, name, detail in self._grave:
            if (name, detail) in alarms:
                continue
            begun_ns = max(at_ns, self._telling_ns)
            if run.now_ns() - begun_ns > TOLD_S * SECOND_NS and run.alive_since(begun_ns):
                run.problem("alarm", f"{name} was raised {TOLD_S} s ago, and the program was not run")
            elif run.alive_since(at_ns):
                rest.append((at_ns, name, detail))
        self._grave = rest

    def _stops(self) -> None:
        """Option positions whose market price is below their stop, while nothing keeps the desk from knowing it."""
        run, state = self._run, self._state
        if state is None or run.stop_loss <= 0:
            return
        now_ns = run.now_ns()
        session = run.world.market.session_at(now_ns)
        for symbol, position in state.book.positions.items():
            there = run.world.account.quantity(symbol) > 0  # else others have sold it
            if session is None or not position.right or not position.quantity or not there:
                self._below_ns.pop(symbol, None)
                continue
            quote = run.world.market.fair(symbol, now_ns)
            cost_price = position.cost / position.quantity
            if (
                quote is None
                or quote[0] > cost_price * Decimal(str(1 - run.stop_loss)) * Decimal("0.9")
                or run.stands()
            ):
                self._below_ns.pop(symbol, None)
                continue
            since_ns = self._below_ns.setdefault(symbol, now_ns)
            calm = run.calm_ns <= since_ns
            limit_s = STOP_S if calm else STOP_WIDE_S
            late = now_ns - since_ns > limit_s * SECOND_NS and run.alive_since(since_ns)
            free = symbol not in self._leaving(state) and symbol not in kept_back(run)
            if late and (calm or run.only_quotes()) and free:
                text = f"{symbol}: paid {cost_price:.2f}, bid {quote[0]} for {limit_s} s, stop {run.stop_loss}"
                run.problem("stop", text)
                self._below_ns.pop(symbol, None)

    def _times_end(self) -> None:
        """Positions that are held beyond their time, while nothing keeps the desk from leaving them."""
        run, state, now_ns = self._run, self._state, self._run.now_ns()
        session = run.world.market.session_at(now_ns)
        if state is None or session is None or not run.time_stop_min or not run.willing() or run.stands():
            return
        for symbol, position in state.book.positions.items():
            due_ns = max(position.opened_ns, session.open_ns) + run.time_stop_min * MINUTE_NS
            late_ns = max(due_ns, run.calm_ns) + TIME_STOP_S * SECOND_NS
            there = run.world.account.quantity(symbol) > 0 and run.world.market.trading(symbol, now_ns)
            there = there and symbol not in kept_back(run)
            leaves = any(work.symbol == symbol for work in state.works.values())
            trickles = position.quantity < 1 and leaves  # its fills are ever smaller parts
            if there and not trickles and now_ns > late_ns and run.alive_since(late_ns - TIME_STOP_S * SECOND_NS):
                run.problem("time_stop", f"{symbol} is held {TIME_STOP_S} s beyond {run.time_stop_min} minutes")

    def closed(self, symbol: str, rest: Decimal) -> None:
        """An operator's command to close it was carried out; so much may be left."""
        self._closing[symbol] = self._run.now_ns(), rest
        session = None if self._state is None else self._state.session.session
        if session is not None and session.open_ns <= self._run.now_ns() < session.close_ns:
            self._closed_on[root_of(symbol)] = session.date

    def restored(self) -> None:
        """The journal is a copy from before: it may not know of a close that was told since."""
        self._closing.clear()
        self._closed_on.clear()

    def _closed_leave(self) -> None:
        """What a person closed leaves within its time, while nothing keeps it."""
        run, now_ns = self._run, self._run.now_ns()
        positions = self.own() if self._closing else {}
        for symbol, (since_ns, rest) in list(self._closing.items()):
            is_known = symbol not in self._now.disturbed and not run.moved(symbol)
            more = positions.get(symbol, ZERO) - rest
            if more <= 0 or run.persons or run.adopts or not is_known or self._is_told_to_stay(symbol, more):
                del self._closing[symbol]
                continue
            calm = run.world.market.trading(symbol, now_ns) and run.willing() and not run.stands()
            calm = calm and not (positions[symbol] < 1 and symbol in self._leaving(self._state))
            calm = calm and symbol not in kept_back(run)
            begun_ns = max(since_ns, run.calm_ns)
            if not calm:
                self._closing[symbol] = now_ns, rest
            elif now_ns - begun_ns > CLOSE_S * SECOND_NS and run.alive_since(begun_ns):
                run.problem(
                    "closed_by_hand", f"{positions[symbol]} {symbol} are held {CLOSE_S} s after a person closed it"
                )
                del self._closing[symbol]

    def _is_told_to_stay(self, symbol: str, quantity: Decimal) -> bool:
        """Whether the desk said that so little stays with what is kept: the broker takes no order of it."""
        state = self._state
        told = state is not None and state.basket.is_indivisible(symbol) and self._raised["exit_stuck"]
        return bool(told) and quantity < 1

    def _covered(self) -> None:
        """Shares that a stop should protect at the broker, and stops that protect nothing, while nothing keeps it."""
        run, state = self._run, self._state
        if state is None or isinstance(state.trading.protection, UnsetType):
            return
        account, now_ns = run.world.account, run.now_ns()
        stop_orders = [order for order in (account.orders[it] for it in account.working) if order.type in STOPS]
        names = f"{run.epoch()}-"
        stop_symbols = {
            it.symbol for it in stop_orders if it.client_order_id.startswith(names) or run.is_guards(it.client_order_id)
        }
        symbols = {symbol for symbol, position in state.book.positions.items() if position.quantity > 0}
        leaving = {work.symbol for work in state.works.values()}
        open_now = run.world.market.session_at(now_ns) is not None
        calm = open_now and run.willing() and not run.stands()
        apart = symbols ^ stop_symbols if calm else set()
        for symbol in self._bare_ns.keys() - apart:
            del self._bare_ns[symbol]
        for symbol in sorted(apart):
            is_gone = symbol in symbols and symbol not in account.positions  # somebody else sold it
            unsure = not run.world.market.trading(symbol, now_ns) or run.moved(symbol)
            unsure = unsure or (symbol in symbols and symbol not in self._symbols)  # a new name has no quotes here
            unsure = unsure or (self._raised["unprotected"] > 0 and symbol in bought_by_others(run))
            if symbol in leaving or is_gone or unsure:
                self._bare_ns.pop(symbol, None)
                continue
            since_ns = self._bare_ns.setdefault(symbol, now_ns)
            if now_ns - since_ns > UNCOVERED_S * SECOND_NS and run.alive_since(since_ns):
                problem = "no stop" if symbol in symbols else "a stop and no shares"
                run.problem("uncovered", f"{symbol}: {problem} for {UNCOVERED_S} s")
                self._bare_ns[symbol] = now_ns


def _same_trade(trade: PositionChange) -> object:
    """Return what stays the same of a trade whose fill is corrected; a busted one is gone from its place."""
    return trade.order_id, trade.symbol, trade.time_ns


def kept_back(run: Run) -> set[str]:
    """Symbols whose shares an order holds that the broker does not cancel."""
    account = run.world.account
    orders = [account.orders[it] for it in account.working]
    return {order.symbol for order in orders if order.status == "pending_cancel"}


def bought_by_others(run: Run) -> set[str]:
    """Symbols of which others' buys work: the broker refuses each sale of the desk as a wash trade."""
    account = run.world.account
    orders = [account.orders[it] for it in account.working]
    return {it.symbol for it in orders if it.side == "buy" and not it.client_order_id.startswith(f"{run.epoch()}-")}


def kept_to_the_close(run: Run) -> set[str]:
    """Symbols that an order held whose cancel never came, until it ended with the last session."""
    since_ns = run.now_ns() - 30 * MINUTE_NS
    orders = run.world.account.orders.values()
    return {order.symbol for order in orders if order.cancel_requested_ns and order.expired_ns > since_ns}


def at_the_close(run: Run) -> None:
    """A desk by the bar holds nothing of its own after the close, where the broker was willing."""
    if run.calm_ns > run.now_ns() - 25 * MINUTE_NS or not run.alive_since(run.now_ns() - 25 * MINUTE_NS):
        return
    stuck = kept_back(run) | kept_to_the_close(run)
    positions = {symbol: quantity for symbol, quantity in run.own().items() if symbol not in stuck}
    if positions and not run.stands() and not run.persons:
        run.problem("not_flat", f"{positions} after the close")


def in_the_end(run: Run, books: Books) -> None:
    """What server and journal say of each other."""
    account, requests = run.world.account, run.world.server.requests
    rows: Mapping[str, list[str]] = {
        "fills": verdict.fills_apart(books, account, whole=False),
        "posts": verdict.posts_apart(requests, account),
        "intent": [] if run.persons or run.split else verdict.intents_exceeded(books, account),
    }
    for rule, texts in rows.items():
        for text in texts:
            run.problem(rule, text)
