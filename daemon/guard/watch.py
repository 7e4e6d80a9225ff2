"""The guard's knowledge and its decisions: pure, without network and clock.

News comes in by methods, each with the guard's own monotonic time in seconds; `turn` returns the actions due now. The
rule: silence counts when every path is silent while the guard's own echo comes back on each of them. It acts on what
two looks at the account agree on, and only during the silence. It opens no position, and removes no stop but a second
one of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import count
from typing import Literal, NamedTuple

import msgspec
from msgspec import UNSET

from daemon.brokers.api import AccountLook
from daemon.core.effects import SubmitOrder
from daemon.core.events import BrokerOrder, BrokerPosition
from daemon.core.instruments.option_market import parse_occ, root_of
from daemon.core.orders import ENDED, guard_stem, is_desks
from daemon.core.session import new_york_date
from daemon.operator.heartbeat import FRESH_NS, FRESH_S, Heartbeat
from strategies.kit.quantity import Quantity, exact, whole_of
from strategies.kit.units import SECOND_NS

STALL_S = 20.0  # a longer pause between two turns means that this host slept and heard nothing
LOOK_S = 15.0  # longest duration of a look at the account
CLOCK_S = 5.0  # most that this host's clock may differ from the broker's
AGAIN_S = 3600.0  # an alarm with a lasting cause is repeated after this
STOPPED_AGAIN_S = 24 * 3600.0  # the same for the silence of a desk that a person stopped
CLOSE_AGAIN_S, CLOSE_AGAIN_MOST_S = 60.0, 600.0  # waits between calls to close everything, doubling
STOPS_MAX = 3  # stops of a symbol within the times below
TAKEN_S = 3600.0  # for stops that are cancelled: by a person, or by the broker as in a halt, which no news tells apart
REFUSED_S = 600.0  # the broker refuses them: it may be for a while only
FOR_EVER_NS = 2**62
UNPROTECTED = "guard_unprotected"
CANCELLED = "each is cancelled, by a person or the broker; it tries again within an hour"


@dataclass(frozen=True, slots=True)
class Rules:
    """`[guard]` as the watch needs it, and the names of the configured paths."""

    paths: tuple[str, ...]
    act: Literal["alarm", "protect", "close"]
    beat_s: float
    alarm_s: float
    act_s: float
    look_s: float
    fence: bool
    rate: float = 1.0  # of the market's time, a simulated one's, at least 1
    prefix: str = ""  # begins the names of the guard's orders where the desk does not say

    @property
    def echo_s(self) -> float:
        """How old the newest echo of a path may be."""
        return 3 * self.beat_s


class Alarm(NamedTuple):
    """An alarm to be raised."""

    name: str
    detail: str


class Cancel(NamedTuple):
    """Cancel an entry of the desk, by the broker's id."""

    order_id: str
    name: str


class Rest(NamedTuple):
    """Rest a stop."""

    order: SubmitOrder


class Close(NamedTuple):
    """Close everything that the account holds."""


class Fence(NamedTuple):
    """Have the broker refuse new orders of the account, or no longer."""

    on: bool


Action = Alarm | Cancel | Rest | Close | Fence


class Memory(msgspec.Struct, frozen=True):
    """State that outlives the guard's process: the signed heartbeat as it came, and whether the fence is this guard's.

    And for this silence: whether a fence was seen, which a person may have lifted since, whether it closed everything,
    and whether it told of the silence.
    """

    beat: Heartbeat | None = None
    fenced: bool = False
    fenced_once: bool = False
    closes: bool = False
    told: bool = False


NOTHING = Memory()


class _Part(NamedTuple):
    """The scope of one stop: whole shares or contracts, or the fraction of a share, which has a stop of its own."""

    symbol: str
    fraction: bool


class _Seen(NamedTuple):
    """A look, and when it was requested."""

    look: AccountLook
    asked_s: float


class Watch:
    """One guard of one desk. `memory` is that of an earlier run of the guard."""

    def __init__(self, rules: Rules, began_s: float, memory: Memory = NOTHING) -> None:
        self._rules, beat = rules, memory.beat
        self.beat, self.fenced, self._was_fenced, self._closes = beat, memory.fenced, memory.fenced_once, memory.closes
        self._lives = {} if beat is None else {beat.life: beat.counter}  # life -> its newest heartbeat's counter
        self._began_s = self._turned_s = self._awake_s = began_s
        self._heard_s: float | None = None  # when the desk was last heard; None until then
        self._heard_count = 0  # fresh heartbeats since this guard began
        self._late_s = began_s - rules.act_s - rules.alarm_s  # when a late, wrongly timed or unreadable one last came
        self._echo_s = dict.fromkeys(rules.paths, began_s - 2 * rules.echo_s)  # time of the newest echo
        self._up_s = dict.fromkeys(rules.paths, began_s)  # since when each path carries the echo
        self._looks: list[_Seen] = []  # the newest two
        self._problem = "the account was not looked at yet"
        self._alarm_times: dict[str, float] = {}  # open alarm -> when it was last raised
        if memory.told:  # told again when due, and over once the desk is heard
            self._alarm_times["desk_silent"] = began_s - STOPPED_AGAIN_S
        self._settled_s = began_s  # when the last judged look was requested
        self._acted_s = began_s  # time of the last action or answer
        self._closed_s = began_s  # time of the last request to close everything
        self._close_again_s = 0.0  # wait before the next one; 0: none yet in this silence
        self._fenced_s = began_s  # time of the last request for the fence
        self._stop_times = defaultdict[_Part, list[float]](list)  # times of stops sent in this silence
        self._refusals: dict[_Part, str] = {}  # the broker's refusal of its last stop
        self._sent: dict[str, _Part] = {}  # stops sent in this silence, by name: the broker may reject one it took
        self.state = "began"

    # --- news -------------------------------------------------------------------------------------------------------

    def take_beat(self, beat: Heartbeat, now_s: float, clock_ns: int) -> None:
        """Take a genuine heartbeat; `clock_ns` is the time by the broker's clock. An older one is ignored.

        A new one of an earlier life counts: the later life was a second desk of this name, and the first still lives. A
        late one does not show what is held: it was delayed, or the desk's clock was set back.
        """
        last_beat = self.beat
        age_s = (clock_ns - beat.time_ns) / SECOND_NS
        fresh = abs(age_s) <= FRESH_S * self._rules.rate
        if beat.counter <= self._lives.get(beat.life, 0):
            return
        self._lives[beat.life] = beat.counter
        if fresh or last_beat is None or beat.life >= last_beat.life:
            self.beat = beat
        if fresh:
            self._heard_count += 1
            self._heard_s, self._was_fenced, self._closes, self._close_again_s = now_s, False, False, 0.0
            self._unprotected_alarms({}, now_s)
            self._stop_times.clear()
            self._refusals.clear()
            self._sent.clear()
        else:
            self._late_s = now_s

    def take_unread(self, life: int, counter: int, now_s: float) -> None:
        """Take a genuine heartbeat of another release, which only shows that the desk lives."""
        if counter > self._lives.get(life, 0):
            self._lives[life] = counter
            self._late_s = now_s

    def take_echo(self, path: str, now_s: float) -> None:
        """Take the guard's own message, which came back on the path."""
        if now_s - self._echo_s[path] > self._rules.echo_s:
            self._up_s[path] = now_s
        self._echo_s[path] = now_s

    def take_look(self, look: AccountLook, asked_s: float) -> None:
        """Take a look at the account, requested at `asked_s`."""
        self._looks = [*self._looks[-1:], _Seen(look, asked_s)]
        self._problem = ""
        for order in look.orders:
            if order.status == "rejected" and order.client_order_id in self._sent:
                self._refusals[self._sent.pop(order.client_order_id)] = "the broker took it and rejected it"

    def note_no_look(self, problem: str) -> None:
        """Note that the account could not be read."""
        self._problem = problem

    def note_refusal(self, stop: SubmitOrder, words: str) -> None:
        """Note that the broker refused a stop."""
        self._refusals[_part_of(stop.symbol, stop.quantity)] = words

    def carried_out(self, now_s: float) -> None:
        """Note that an action was answered: only looks from now on show its effect."""
        self._acted_s = now_s

    @property
    def known_ns(self) -> int:
        """When the desk last knew the account: a start tells what it held before it has looked. 0: nothing is known."""
        return 0 if self.beat is None else min(self.beat.known_ns or self.beat.time_ns, self.beat.time_ns)

    @property
    def memory(self) -> Memory:
        """The state that this guard's next run needs."""
        return Memory(self.beat, self.fenced, self._was_fenced, self._closes, "desk_silent" in self._alarm_times)

    # --- what follows -----------------------------------------------------------------------------------------------

    def silent_s(self, now_s: float) -> float:
        """Return seconds since the last of these: the desk was heard, this host woke up, a path came back."""
        return now_s - max(self._heard_s or self._began_s, self._awake_s, *self._up_s.values())

    def still_wants(self, action: Action, now_s: float) -> bool:
        """Return whether a waiting action is still due: not if the desk was heard meanwhile."""
        lifts = isinstance(action, Fence) and not action.on
        return lifts or (self.silent_s(now_s) >= self._rules.alarm_s and not self.blind(now_s))

    @property
    def is_heard(self) -> bool:
        """Whether the desk was heard twice since this guard began: what it left in a folder is heard once."""
        return self._heard_count > 1

    def blind(self, now_s: float) -> list[str]:
        """Return the paths that do not bring the guard's own message back."""
        return [path for path in self._rules.paths if now_s - self._echo_s[path] > self._rules.echo_s]

    def account_findings(self) -> list[tuple[bool, str]]:
        """Return findings on account and clock by the newest look, each as (right, words)."""
        if not self._looks:
            return [(False, f"account: {self._problem}")]
        look, beat = self._looks[-1].look, self.beat
        right = beat is None or self._is_its_own(look)
        other = "" if right or beat is None else f", and the desk trades {beat.account}: use that account's keys"
        ahead = f"clock: the broker's is {look.ahead_s:+.1f} s ahead of this host's"
        fence_words = " It is fenced: it takes no new order" if look.fenced else ""
        holdings = _positions_text(look.positions) or "nothing"
        account = f"account {look.number}{other}: holds {holdings}, {len(_open(look))} orders work.{fence_words}"
        return [(right, account), (abs(look.ahead_s) <= CLOCK_S, ahead)]

    def turn(self, now_s: float) -> list[Action]:
        """Return the actions due now."""
        rules, beat = self._rules, self.beat
        if now_s - self._turned_s > STALL_S:
            self._awake_s = now_s
        self._turned_s = now_s
        blind = self.blind(now_s)
        look, silent_s = self._fresh_look(now_s), self.silent_s(now_s)
        actions = [*self._of_paths(blind, now_s), *self._of_account(look, now_s)]
        if beat is None:
            self.state = "unheard"
            detail = "no heartbeat came since this guard began: it knows of no position, and protects nothing"
            return actions + self._case("guard_unheard", silent_s >= rules.alarm_s and not blind, detail, now_s)
        actions += self._case("guard_unheard", False, "", now_s)
        actions += self._own_fence(look)
        if silent_s < rules.alarm_s or blind:
            self.state = "blind" if blind else "hears"
            heard = self._heard_s is not None and now_s - self._heard_s < rules.alarm_s
            if heard and self._alarm_times.pop("desk_silent", None) is not None:
                actions.append(Alarm("desk_heard", f"life {beat.life}, heartbeat {beat.counter}"))
            return actions
        self.state = "silent"
        exposure = self._exposure(look)
        if exposure or not beat.leaving:
            cause = "it was stopped by hand" if beat.leaving else f"silent on {' and '.join(rules.paths)}"
            detail = f"{cause} for {silent_s:.0f} s: {exposure or 'flat'}"
            actions += self._case("desk_silent", True, detail, now_s, self._silence_again_s)
        if look is not None and self._may_act(look, silent_s, now_s):
            acts = self._act(look, now_s)
            actions += acts
            if not all(isinstance(action, Alarm) for action in acts):
                self._acted_s = now_s
        return actions

    def _case(self, name: str, is_so: bool, detail: str, now_s: float, again_s: float = AGAIN_S) -> list[Action]:
        """Return the alarm if its cause is new or has lasted `again_s`; forget it when the cause is over."""
        if not is_so:
            self._alarm_times.pop(name, None)
        elif now_s - self._alarm_times.get(name, -again_s) >= again_s:
            self._alarm_times[name] = now_s
            return [Alarm(name, detail)]
        return []

    @property
    def _silence_again_s(self) -> float:
        return STOPPED_AGAIN_S if self.beat is not None and self.beat.leaving else AGAIN_S

    def _unprotected_alarms(self, bare: Mapping[str, str], now_s: float) -> list[Action]:
        """Return the alarm on holdings without a stop: at once for a new symbol, else as that of the silence."""
        again_s = self._silence_again_s
        keys = [f"{UNPROTECTED} {symbol}" for symbol in bare]
        self._alarm_times = {
            key: at for key, at in self._alarm_times.items() if not key.startswith(UNPROTECTED) or key in keys
        }
        if all(now_s - self._alarm_times.get(key, -again_s) < again_s for key in keys):
            return []
        self._alarm_times |= dict.fromkeys(keys, now_s)
        return [Alarm(UNPROTECTED, "; ".join(f"{symbol}: {why}" for symbol, why in bare.items()))]

    def _of_paths(self, blind: list[str], now_s: float) -> list[Action]:
        since_s = max((max(self._echo_s[path], self._began_s) for path in blind), default=now_s)
        deaf = bool(blind) and now_s - since_s >= self._rules.alarm_s
        blind_text = (
            f"its own message does not come back on {' and '.join(blind)}: it cannot tell a silence, and acts not"
        )
        late, ordered = now_s - self._late_s < self._rules.alarm_s, now_s - self._ordered_s() < self._rules.act_s
        why = "heartbeats come late, of a wrong clock, or of another release: it is no silence, and no sign of life"
        why = why if late else "the desk sends orders and no heartbeat: it lives, and it is left alone"
        return [
            *self._case("guard_blind", deaf, blind_text, now_s),
            *self._case("guard_doubts", late or ordered, why, now_s),
        ]

    def _of_account(self, look: AccountLook | None, now_s: float) -> list[Action]:
        """Return alarms on the account and the clock."""
        wait_s = now_s - max(self._looks[-1].asked_s if self._looks else self._began_s, self._awake_s)
        lost = look is None and wait_s > 2 * self._rules.look_s + self._rules.alarm_s
        actions = self._case("guard_account", lost, f"the account cannot be looked at: {self._why_no_look}", now_s)
        if look is not None:
            ahead = f"the broker's clock is {look.ahead_s:+.1f} s ahead of this host's"
            actions += self._case("guard_clock", abs(look.ahead_s) > CLOCK_S, ahead, now_s)
            expected = self.beat.account if self.beat is not None else ""
            other = f"these keys open account {look.number}, and the desk's is {expected}: it acts not"
            actions += self._case("guard_keys", bool(expected) and not self._is_its_own(look), other, now_s)
        return actions

    @property
    def _why_no_look(self) -> str:
        return self._problem or "the broker still owes an answer"

    def _is_its_own(self, look: AccountLook) -> bool:
        """Return whether the account is the desk's, or that behind its gateway."""
        return self.beat is not None and (self.beat.account == look.number or self._is_shared(look))

    def _is_shared(self, look: AccountLook) -> bool:
        """Return whether the desk has a sub-account: the guard leaves others' holdings and purchases alone.

        It then neither fences the account nor closes everything, which would hit the others.
        """
        return self.beat is not None and bool(look.number) and self.beat.account.startswith(f"{look.number}-")

    def _fresh_look(self, now_s: float) -> AccountLook | None:
        fresh_s = now_s - 2 * self._rules.look_s - LOOK_S
        return self._looks[-1].look if self._looks and self._looks[-1].asked_s >= fresh_s else None

    def _may_act(self, look: AccountLook, silent_s: float, now_s: float) -> bool:
        """Return whether to act on this look: the second one since the silence and the last action, and no doubt."""
        rules, beat = self._rules, self.beat
        assert beat is not None
        since_s = now_s - silent_s + rules.alarm_s
        first_s = self._looks[0].asked_s
        twice = len(self._looks) == 2 and first_s >= since_s and first_s > self._acted_s
        due = rules.act != "alarm" and silent_s >= rules.act_s and self._looks[-1].asked_s > self._settled_s
        doubt = now_s - max(self._late_s, self._ordered_s()) < rules.act_s or not self._is_its_own(look)
        return due and twice and not doubt

    def _ordered_s(self) -> float:
        """Return when the desk last sent an order in its silence, by the account: then only its heartbeat is cut off.

        An order sent just after the last heartbeat proves nothing.
        """
        rules, beat = self._rules, self.beat
        if beat is None or not self._looks:
            return self._began_s - rules.act_s
        look, asked_s = self._looks[-1]
        own_times_ns = [o.submitted_ns for o in look.orders if o.client_order_id.startswith(beat.names)]
        newest_ns, second_ns = max(own_times_ns, default=0), SECOND_NS * rules.rate
        unheard = newest_ns - beat.time_ns > rules.alarm_s * second_ns
        return asked_s - (look.broker_ns - newest_ns) / second_ns if unheard else self._began_s - rules.act_s

    def _own_fence(self, look: AccountLook | None) -> list[Action]:
        """Lift the guard's own fence where something is held after all, or others trade: exits must be possible."""
        if look is None or not self.fenced:
            return []
        if not look.fenced:  # the broker did not set it, or a person lifted it
            self.fenced = self._looks[-1].asked_s < self._fenced_s + LOOK_S
        elif (look.positions or self._is_shared(look)) and self._looks[-1].asked_s > self._settled_s:
            self._settled_s = self._looks[-1].asked_s
            holdings = f"the account holds {_positions_text(look.positions)}"
            detail = f"it lifts its fence: {holdings if look.positions else 'others trade in the account by now'}"
            return [Alarm("guard_acts", detail), Fence(False)]
        return []

    # --- acting -----------------------------------------------------------------------------------------------------

    def _act(self, look: AccountLook, now_s: float) -> list[Action]:
        """Cancel entries, rest missing stops or close everything; fence a flat account."""
        rules, beat, former = self._rules, self.beat, self._looks[0].look
        assert beat is not None
        self._settled_s = self._looks[-1].asked_s
        entries = [order for order in _open(look) if order.side > 0 and order.client_order_id.startswith(beat.names)]
        former_ids = {order.order_id for order in self._surplus(former)}
        over = [order for order in self._surplus(look) if order.order_id in former_ids]
        actions: list[Action] = [Cancel(order.order_id, order.client_order_id) for order in (*entries, *over)]
        self._was_fenced = self._was_fenced or look.fenced
        shared = self._is_shared(look)
        if shared and not any(self._desk_holdings(look).values()) and not entries:
            self.state = "silent"
            return actions
        if not (shared or look.positions or former.positions or entries):
            if rules.fence and not look.fenced and not beat.leaving and not self._was_fenced:
                self.fenced = True
                self._fenced_s = now_s
                detail = "the account is flat: it takes no new order until a person resumes the desk"
                actions += [Alarm("guard_acts", detail), Fence(True)]
            self.state = "fenced" if look.fenced or self.fenced else "silent"
            return actions
        positions = look.positions and former.positions
        may_close = rules.act == "close" and not shared and not beat.leaving
        closing = may_close and bool(positions) and look.market_open and self._may_hold(look)
        again = self._close_again_s > 0
        stops, bare = self._missing(look, former, now_s) if again or not closing else ([], {})
        if closing and not stops and now_s - self._closed_s >= self._close_again_s:
            self._close_again_s = min(2 * self._close_again_s, CLOSE_AGAIN_MOST_S) if again else CLOSE_AGAIN_S
            self._closed_s, self._closes = now_s, True
            self._stop_times.clear()  # the call cancels the stops
            detail = f"it closes everything{' again' if again else ''}: {_positions_text(look.positions)}"
            actions += [Alarm("guard_acts", detail), Close()]
            self.state = "closing"
            return actions
        actions += [Rest(stop) for stop in stops]
        action_texts = [f"cancels {order.client_order_id}" for order in (*entries, *over)]
        action_texts += [f"rests a stop of {stop.quantity} {stop.symbol} at {stop.stop_price}" for stop in stops]
        if action_texts:
            actions.append(Alarm("guard_acts", "; ".join(f"it {action_text}" for action_text in action_texts)))
        actions += self._unprotected_alarms(bare, now_s)
        self.state = "closing" if closing else "unprotected" if bare else "protected"
        return actions

    def _missing(
        self, look: AccountLook, former: AccountLook, now_s: float
    ) -> tuple[list[SubmitOrder], dict[str, str]]:
        """Return the known stops that both looks lack, and why others are not rested: symbol -> reason."""
        beat, stops, bare = self.beat, [], dict[str, str]()
        assert beat is not None
        account_now, account_former, shared = _account_holdings(look), _account_holdings(former), self._is_shared(look)
        parts, former_parts, former_bare = self._parts(look), self._parts(former), self._bare_quantities(former)
        used_names = {order.client_order_id for order in look.orders}
        for symbol, bare_quantity in self._bare_quantities(look).items():
            hold = beat.holds.get(symbol)
            missing = min(bare_quantity, former_bare.get(symbol, 0))
            has, had = account_now.get(symbol, 0), account_former.get(symbol, 0)
            holding, others = parts[symbol]
            sales = min(self._call_sales(look, symbol, holding), missing) if shared else 0
            missing -= sales
            expected, formerly_expected = holding - sales + others, exact(sum(former_parts.get(symbol, (0, 0))))
            if type(holding) is int:  # a fraction, as from a reinvested dividend, is not the desk's
                counts = (has, had, missing, expected, formerly_expected)
                has, had, missing, expected, formerly_expected = map(whole_of, counts)
            if sales and has > expected:
                bare[symbol] = f"{sales} were sold by a call that names no owner: they may be its own, or another's"
            if missing <= 0 or (not has and (self._closes or not account_now)):
                continue  # covered, or closed
            left_over = self._closes and 0 < has < expected and had == has  # by the guard's own call
            differs = has != expected and not left_over and not (shared and has > expected)
            differed = had != formerly_expected and not left_over and not shared
            if hold is None or hold.stop is None:
                bare[symbol] = f"{missing} are without a stop, and the desk told none"
            elif (
                differs != differed and not shared and (differed or f"{UNPROTECTED} {symbol}" not in self._alarm_times)
            ):
                continue  # by one look alone: an order filled while it was read
            elif differs:
                why = "a split" if parse_occ(symbol) is None else "its end, an exercise that leaves shares"
                bare[symbol] = f"the account has {has}, expected are {expected}: {why}, another name, or a person"
            elif look.changed is None:
                bare[symbol] = "whether a corporate action changed what its price means is not known"
            elif root_of(symbol) in look.changed:
                bare[symbol] = "a corporate action may have changed what its price means"
            elif parse_occ(symbol) is not None and not look.market_open:
                bare[symbol] = "a stop of an option is for the day, and the market is closed"
            else:
                for quantity in filter(None, (whole_of(missing), missing - whole_of(missing))):
                    part = _part_of(symbol, quantity)
                    if not self._may_rest(part, now_s):
                        why = self._refusals.get(part, CANCELLED)
                        bare[symbol] = f"of {quantity} no stop stays: {why}"
                        continue
                    times = self._stop_times[part]
                    stem = f"{guard_stem(self._prefix, symbol)}{beat.life}-{beat.counter}-"
                    names = (f"{stem}{number}{'f' * part.fraction}" for number in count(len(times)))
                    times.append(now_s)
                    self._refusals.pop(part, None)
                    name = next(name for name in names if name not in used_names)
                    self._sent[name] = part
                    stops.append(_stop(name, symbol, quantity, hold.stop, hold.limit))
        return stops, bare

    def _surplus(self, look: AccountLook) -> list[BrokerOrder]:
        """Return the guard's redundant stops, the newest first, where others cover all that the desk holds.

        Two guards may rest one at the same moment. Where others hold the symbol too, the broker accepts both.
        """
        over, names = list[BrokerOrder](), self._names()
        sales = [o for o in _open(look) if o.side < 0 and o.client_order_id.startswith(names)]
        for symbol, (holding, _) in self._parts(look).items():
            own_sales = [order for order in sales if order.symbol == symbol]
            beyond = exact(sum(map(_rest_of, own_sales), -holding))
            for stop in sorted(own_sales, key=lambda order: (order.submitted_ns, order.client_order_id), reverse=True):
                if self._is_guards(stop) and _rest_of(stop) <= beyond:
                    beyond -= _rest_of(stop)
                    over.append(stop)
        return over

    def _names(self) -> tuple[str, str]:
        """Return the prefixes of the desk's order names and of its guards'."""
        assert self.beat is not None
        return self.beat.names, f"{self._prefix}-"

    @property
    def _prefix(self) -> str:
        assert self.beat is not None
        return self.beat.prefix or self._rules.prefix

    def _is_guards(self, order: BrokerOrder) -> bool:
        return order.client_order_id.startswith(self._names()[1])

    def _may_rest(self, part: _Part, now_s: float) -> bool:
        """Return whether to try another stop: not while three were lately refused or cancelled."""
        within_s = REFUSED_S if part in self._refusals else TAKEN_S
        return sum(now_s - at_s < within_s for at_s in self._stop_times[part]) < STOPS_MAX

    def _bare_quantities(self, look: AccountLook) -> dict[str, Quantity]:
        """Return the desk's quantity of each symbol that no order sells; others' sales count for their shares first."""
        parts, shared, names = self._parts(look), self._is_shared(look), self._names()
        bare, foreign = ({symbol: part[number] for symbol, part in parts.items()} for number in (0, 1))
        for order in _open(look):
            if order.side >= 0 or order.symbol not in bare:
                continue
            if order.client_order_id.startswith(names):
                bare[order.symbol] -= _rest_of(order)
            elif not shared:
                rest = exact(foreign[order.symbol] - _rest_of(order))
                bare[order.symbol] += min(rest, 0)
                foreign[order.symbol] = max(rest, 0)
        for position in look.positions:
            if position.symbol in bare and position.available is not None:
                bare[position.symbol] = min(bare[position.symbol], exact(position.available))
        return bare

    def _parts(self, look: AccountLook) -> dict[str, tuple[Quantity, Quantity]]:
        """Return the desk's quantity of each symbol, and others'. What others sell is theirs first.

        Their orders count only where they explain what the account has: the heartbeat may include the first of them.
        """
        parts, account, shared = dict[str, tuple[Quantity, Quantity]](), _account_holdings(look), self._is_shared(look)
        assert self.beat is not None
        for symbol, quantity in self._desk_holdings(look).items():
            others = self.beat.holds[symbol].others if symbol in self.beat.holds else 0
            parts[symbol] = (quantity, others)
            orders = [] if shared else self._orders_of_others(look, symbol)
            early = sum(order.submitted_ns <= self.beat.time_ns + FRESH_NS for order in orders)
            for known_count in range(min(early + 1, len(orders))):
                left, theirs = quantity, others
                for order in orders[known_count:]:
                    theirs += order.side * exact(order.filled)
                    left, theirs = left + min(theirs, 0), max(theirs, 0)
                has = account.get(symbol, 0)
                if type(quantity) is int:  # a fraction, as from a reinvested dividend, is not the desk's
                    has, left, theirs = whole_of(has), whole_of(left), whole_of(theirs)
                if has == left + theirs != quantity + others:
                    parts[symbol] = (left, theirs)
                    break
        return parts

    def _orders_of_others(self, look: AccountLook, symbol: str) -> list[BrokerOrder]:
        """Return the orders of the symbol that neither desk nor guard sent, the oldest first."""
        orders = [o for o in look.orders if o.symbol == symbol and not o.client_order_id.startswith(self._names())]
        return sorted(orders, key=lambda order: order.submitted_ns)

    def _desk_holdings(self, look: AccountLook) -> Mapping[str, Quantity]:
        """Return the desk's quantity of each symbol: by its last heartbeat, and its orders' fills since.

        The heartbeat includes all earlier fills of its own orders, so the two clocks need not agree; those of its
        guard's only as far as the desk knew the account.
        """
        beat = self.beat
        assert beat is not None
        holdings: dict[str, Quantity] = defaultdict(int, {symbol: one.quantity for symbol, one in beat.holds.items()})
        own_ns = beat.time_ns - FRESH_NS
        guards_ns = min(beat.known_ns or own_ns, own_ns)
        for order in look.orders:
            name, filled_in_beat = order.client_order_id, beat.orders.get(order.client_order_id)
            since_ns = guards_ns if self._is_guards(order) else own_ns
            ours = name.startswith(self._names())
            if filled_in_beat is not None or (ours and order.submitted_ns > since_ns):
                holdings[order.symbol] += order.side * (exact(order.filled) - (filled_in_beat or 0))
        return holdings

    def _may_hold(self, look: AccountLook) -> bool:
        """Return whether the desk may hold something: not what others sold, nor a contract that ended without shares.

        What is gone without either may be there under another name.
        """
        account, today = _account_holdings(look), new_york_date(look.broker_ns).isoformat()
        for symbol, (quantity, _) in self._parts(look).items():
            contract = parse_occ(symbol)
            ended = contract is not None and contract.expiry <= today and contract.root not in account
            there = account.get(symbol, 0) if type(quantity) is not int else whole_of(account.get(symbol, 0))
            if quantity > 0 and (there or not ended):
                return True
        return False

    def _call_sales(self, look: AccountLook, symbol: str, holding: Quantity) -> Quantity:
        """Return how much of this desk's `holding` the broker's close call may have sold without news of it.

        The broker names such an order: of several sub-accounts it may be any's that held enough. It is at the market
        or, beyond a person's order, with a limit: one with a limit from before the silence was no such call.
        """
        assert self.beat is not None
        total, since_ns = exact(0), self.known_ns - FRESH_NS
        for order in look.orders:
            named = is_desks(order.client_order_id) or order.client_order_id.startswith(self._names())
            is_call = order.stop_price is UNSET and (order.limit_price is None or order.submitted_ns > since_ns)
            if order.symbol == symbol and order.side < 0 and not named and is_call:
                count = exact(order.filled if order.status in ENDED else order.quantity)
                total += count if count <= holding else 0
        return exact(total)

    def _exposure(self, look: AccountLook | None) -> str:
        """Return the desk's risk in words; "" for none."""
        beat = self.beat
        assert beat is not None
        if look is None:
            holdings = ", ".join(f"{one.quantity} {symbol}" for symbol, one in beat.holds.items()) or "nothing"
            return f"by its last heartbeat it held {holdings}; the account cannot be looked at: {self._why_no_look}"
        of_desk, of_account, shared = self._desk_holdings(look), _account_holdings(look), self._is_shared(look)
        visible = {
            symbol: count if not shared else of_desk[symbol]
            for symbol, count in of_account.items()
            if of_desk.get(symbol)
        }
        holdings = ", ".join(f"{count} {symbol}" for symbol, count in visible.items())
        missing = ", ".join(
            f"{count} {symbol}" for symbol, count in of_desk.items() if count > 0 and symbol not in of_account
        )
        working = [o.client_order_id for o in _open(look) if o.side > 0 and o.client_order_id.startswith(beat.names)]
        names = self._names() if shared else ""
        sales = [o for o in _open(look) if o.side < 0 and o.client_order_id.startswith(names)]
        stops = [order for order in sales if isinstance(order.stop_price, Decimal)]
        parts = [f"holds {holdings}"] if holdings else []
        parts += [f"stops at rest: {len(stops)}"] if holdings else []
        others = "" if shared else f", but {_positions_text(look.positions)}"  # shared: the siblings' too
        parts += [f"has not {missing}, which the desk held{others}"] if missing and of_account else []
        parts += [f"{', '.join(working)} can still buy"] if working else []
        return "; ".join(parts)


def _open(look: AccountLook) -> list[BrokerOrder]:
    return [order for order in look.orders if order.status not in ENDED]


def _rest_of(order: BrokerOrder) -> Quantity:
    """Return the quantity that an order may still fill; 0 for an order in USD."""
    return max(exact(order.quantity - order.filled), 0)


def _account_holdings(look: AccountLook) -> dict[str, Quantity]:
    """Return the account's shares and contracts."""
    return {position.symbol: exact(position.quantity) for position in look.positions}


def _part_of(symbol: str, quantity: Quantity) -> _Part:
    return _Part(symbol, type(quantity) is not int)


def _positions_text(positions: Iterable[BrokerPosition]) -> str:
    return ", ".join(f"{position.quantity} {position.symbol}" for position in positions)


def _stop(name: str, symbol: str, quantity: Quantity, price: Decimal, limit: Decimal | None) -> SubmitOrder:
    return SubmitOrder(
        client_order_id=name,
        symbol=symbol,
        side=-1,
        quantity=quantity,
        limit_price=limit,
        intent="" if parse_occ(symbol) is None else "sell_to_close",
        valid_until_ns=FOR_EVER_NS,
        stop_price=price,
    )
