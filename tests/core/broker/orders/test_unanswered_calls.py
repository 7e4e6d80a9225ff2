"""A close call whose answer was lost: the one order that it can have made is the desk's, whatever its name, and once.

The broker names the orders of its own calls. Shares and money are computed by hand: 198 shares at 100.00.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import msgspec
import pytest
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.effects import AnyEffect, LookUpOrder, SubmitOrder
from daemon.core.limits import Trading
from daemon.core.orders import ACCEPTED, EXPIRED, FILLED
from strategies.kit.quantity import Quantity
from tests.support.core.account import Account
from tests.support.core.daily_desk import DailyDesk
from tests.support.core.daily_live import with_shares
from tests.support.core.desk import HALF_DAY, SECOND, of
from tests.support.core.others import RULES

THEIRS = "8c1e6d1e-41f2-4a57-9a9e-6a0a3f2b1c0d"  # as the broker names an order of its own call
SENT_S = 71  # the call leaves five seconds after a flatten at 1:06


@dataclass(slots=True)
class Calling:
    """A desk of 198 AAA whose close call left at 1:11; nothing reports but what a test puts."""

    d: DailyDesk
    account: Account
    name: str

    def at(self, second: float) -> int:
        """This many seconds after the call was sent."""
        return self.d.at(0) + round((SENT_S + second) * SECOND)

    def lost(self, *, missing: bool = False) -> Calling:
        """The answer is lost; and later the broker knows no order of the call's name."""
        self.d.put(ev.OrderUnknown(self.at(8), self.name))
        if missing:
            self.d.put(ev.OrderMissing(self.at(12), self.name))
            assert self.d.order(self.name).status == EXPIRED
        return self

    def makes(self, name: str = THEIRS, second: float = 1, quantity: Quantity = 198, filled: Quantity = 198) -> str:
        """The broker has an order at the market, of its call or of a person."""
        self.account.take(SubmitOrder(name, "AAA", -1, quantity, None, "", 0), self.at(second))
        if filled:
            self.account.fill(name, filled, "101", self.at(second))
        return name

    def shown(self, name: str = THEIRS, second: float = 9) -> list[AnyEffect]:
        """The stream shows the order."""
        return self.d.put(self.account.found(name, self.at(second)))

    def reported(self, second: float = 20) -> list[AnyEffect]:
        return self.d.put(self.account.report(self.at(second)))

    @property
    def halted(self) -> list[str]:
        """What halts the desk but the flatten."""
        return [halt.reason for halt in self.d.state.risk.halts if halt.reason != "flatten"]


def calling(rule: str = "halt", person: int = 0, cash: str = "50000") -> Calling:
    """With `ignore` a person may hold AAA beside the desk."""
    account = Account(cash)
    d = with_shares(account, Trading(broker=RULES[rule]), AAA=198)
    d.prompt = None
    if person:
        account.by_hand("ann-0", "AAA", +1, person, d.at(0.5))
        account.fill("ann-0", person, "100", d.at(0.5))
    d.put(account.report(d.at(1)))
    d.put(ev.FlattenRequested(d.at(1.1), "x", "ann"))
    (call,) = of(d.tick(1.1, 5), SubmitOrder)
    assert (call.quantity, call.closing, d.state.now_ns) == (198, True, d.at(0) + SENT_S * SECOND)
    return Calling(d, account, call.client_order_id)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_the_order_of_a_call_whose_answer_was_lost_is_the_desk_s_by_the_stream(rule: str, missing: bool) -> None:
    c = calling(rule).lost(missing=missing)
    c.makes()
    effects = c.shown(second=13)
    assert of(effects, LookUpOrder) == [LookUpOrder(c.name, f"id-{THEIRS}")]
    assert (c.d.order(c.name).status, c.d.order(c.name).order_id) == (FILLED, f"id-{THEIRS}")
    c.reported()
    c.reported(40)
    assert (c.d.held, c.halted) == ({}, [])
    assert c.d.state.book.realized == 198  # a dollar a share
    assert c.d.state.book.cash == c.account.cash == Decimal(50198)
    assert (c.d.state.broker.foreign, c.d.state.broker.foreign_held) == ({}, {})
    assert c.d.state.risk.reconciled


@pytest.mark.parametrize("rule", RULES)
def test_it_is_the_desk_s_by_a_report_after_a_restart_between_call_and_report(rule: str) -> None:
    c = calling(rule)
    c.makes()
    c.d.put(ev.RunStarted(c.at(5), "live", "desk-1", "shelf", "e1", "c", "sip", c.d.state.trading))
    c.reported()
    assert (c.d.held, c.halted, c.d.order(c.name).status) == ({}, [], FILLED)
    assert (c.d.state.book.cash, c.d.state.risk.reconciled) == (Decimal(50198), True)


def test_what_a_person_holds_beside_it_stays_the_person_s_and_nothing_more_is_sold() -> None:
    c = calling("ignore", person=300).lost(missing=True)
    halts = c.halted
    c.makes()
    effects = c.reported() + c.d.tick(2) + c.d.tick(4)
    assert of(effects, SubmitOrder) == []
    assert (c.d.held, c.d.state.broker.foreign_held, c.halted) == ({}, {"AAA": 300}, halts)


def test_nothing_is_booked_twice_whoever_repeats_it_under_either_name() -> None:
    c = calling().lost()
    c.makes()
    c.shown()
    c.shown(second=10)
    own_report = replace(c.account.orders[THEIRS], client_order_id=c.name)
    c.d.put(ev.OrderFound(c.at(11), own_report))
    fill = replace(c.account.fills[-1], client_order_id=c.name)
    c.d.put(replace(c.account.report(c.at(20)), fills=(fill,)))
    c.d.put(replace(c.account.report(c.at(40)), fills=(fill,)))
    assert (c.d.state.book.cash, c.halted, c.d.order(c.name).executions) == (Decimal(50198), [], (198,))


def test_the_next_day_s_report_does_not_take_it_for_a_person_s() -> None:
    c = calling().lost(missing=True)
    c.makes()
    c.shown(second=13)
    c.reported()
    c.d.end(AAA=100.0, BBB=100.0, CCC=100.0)
    c.d.begin(HALF_DAY)
    c.d.put(c.account.report(c.d.at(-20)))
    assert (c.halted, c.d.state.book.cash, c.d.held) == ([], Decimal(50198), {})


def test_an_order_that_works_still_after_it_was_given_up_keeps_other_sales_back_until_it_fills() -> None:
    c = calling().lost(missing=True)
    c.makes(filled=0)
    effects = c.shown(second=13) + c.reported() + c.d.tick(1.5)
    assert (of(effects, SubmitOrder), c.d.order(c.name).status, c.halted) == ([], ACCEPTED, [])
    assert [name for name in c.d.state.closed if name == c.name] == []
    c.account.fill(THEIRS, 198, "101", c.at(30))
    c.shown(second=30)
    assert (c.d.held, c.d.order(c.name).status, c.d.state.book.cash) == ({}, FILLED, Decimal(50198))


@pytest.mark.parametrize("rule", RULES)
def test_where_two_orders_could_be_it_none_is_now_or_when_one_of_them_comes_alone(rule: str) -> None:
    c = calling(rule, cash="90000").lost(missing=True)
    c.account.positions["AAA"] = (396, Decimal(100))  # bought beside, unseen
    names = c.makes(), c.makes("ann-1", 2)
    c.reported()
    assert (c.d.order(c.name).order_id, "foreign_order" in c.halted) == ("", True)
    for name in names:
        c.shown(name, 30)
        assert c.d.order(c.name).order_id == ""


def test_a_second_order_like_it_is_another_s() -> None:
    c = calling().lost()
    c.makes()
    c.shown()
    c.makes("ann-1", 2)
    c.shown("ann-1", 10)
    assert (c.halted, c.d.state.book.cash) == (["foreign_order"], Decimal(50198))


OTHERS = {
    "one that was there before the call": {"submitted_ns": -11},
    "one that came more than a minute after it": {"submitted_ns": 61},
    "another quantity": {"quantity": Decimal(197), "filled": Decimal(197)},
    "a purchase": {"side": 1},
    "a limit": {"limit_price": Decimal(90)},
    "a stop": {"stop_price": Decimal(90)},
    "another share": {"symbol": "BBB"},
    "one of another journal's desk": {"client_order_id": "e0-shelf-4-1-0"},
    "one that is over and filled nothing": {"status": "canceled", "filled": Decimal(0), "average_price": None},
}


@pytest.mark.parametrize("changes", OTHERS.values(), ids=OTHERS)
def test_any_other_order_is_not_taken_for_the_call_s(changes: dict[str, object]) -> None:
    c = calling().lost(missing=True)
    c.makes()
    if "submitted_ns" in changes:
        changes = {"submitted_ns": c.at(int(str(changes["submitted_ns"])))}
    c.d.put(ev.OrderFound(c.at(65), replace(c.account.orders[THEIRS], **changes)))
    assert (c.d.order(c.name).order_id, c.d.held) == ("", {"AAA": 198})


@pytest.mark.parametrize("second", [-9, 59])
def test_the_clocks_may_differ_by_ten_seconds_and_the_call_may_take_a_minute(second: int) -> None:
    c = calling().lost(missing=True)
    c.makes(second=second)
    c.shown(second=65)
    assert (c.d.held, c.halted) == ({}, [])


def test_a_call_that_was_answered_or_refused_takes_no_order() -> None:
    c = calling()
    c.d.put(ev.OrderRejected(c.at(1), c.name, "403 no"))
    c.makes()
    c.shown()
    assert (c.d.held, c.halted) == ({"AAA": 198}, ["foreign_order"])


def test_an_order_that_is_shown_while_the_answer_is_still_awaited_is_not_the_call_s() -> None:
    c = calling()
    c.makes(second=-8)
    c.reported(1)
    assert (c.d.order(c.name).order_id, c.d.held, c.halted) == ("", {"AAA": 198}, [])
    c.d.put(ev.OrderAccepted(c.at(2), c.name, "id-another"))
    c.reported(3)
    assert (c.d.order(c.name).order_id, c.d.held, c.halted) == ("id-another", {"AAA": 198}, ["foreign_order"])


@pytest.mark.parametrize(("rule", "person"), [("halt", 0), ("adopt", 0), ("ignore", 0), ("ignore", 300)])
def test_the_order_of_a_call_that_reports_show_before_its_answer_is_lost_is_not_sold_again(
    rule: str, person: int
) -> None:
    """Its fill has a report asked for at once: it comes seconds before the call is given up."""
    c = calling(rule, person)
    c.makes()
    for second in (2, 5):
        c.reported(second)
    sent = c.lost().reported(9)
    c.shown(second=10)
    for second in (20, 30, 40):
        sent += c.reported(second)
    assert (of(sent, SubmitOrder), c.d.held) == ([], {})
    assert c.halted == (["foreign_order"] if person else [])  # the person's purchase, of before the call
    assert c.d.state.broker.foreign_held == ({"AAA": person} if person else {})
    assert c.d.state.book.realized == 198
    assert (c.d.state.book.cash, c.d.state.risk.reconciled) == (c.account.cash, True)


def test_an_order_in_a_report_that_was_asked_for_before_the_call_is_not_the_call_s() -> None:
    c = calling().lost()
    c.makes(second=-8)
    c.d.put(replace(c.account.report(c.at(-1)), time_ns=c.at(9)))
    assert (c.d.order(c.name).order_id, c.halted) == ("", ["foreign_order"])


def test_an_order_that_was_judged_as_somebody_s_before_the_call_stays_somebody_s() -> None:
    account = Account("50000")
    d = with_shares(account, AAA=198)
    d.prompt = None
    d.put(account.report(d.at(1)))
    c = Calling(d, account, "")
    c.makes("ann-1", second=-8)
    c.shown("ann-1", second=-7)
    d.put(ev.FlattenRequested(c.at(-5), "x", "ann"))
    (call,) = of(d.tick(1.1, 5), SubmitOrder)
    c.name = call.client_order_id
    c.lost(missing=True)
    c.shown("ann-1", second=13)
    assert (call.closing, d.order(c.name).order_id, d.held) == (True, "", {"AAA": 198})
    account.positions["AAA"] = (198, Decimal(100))  # the person's were others
    c.makes()
    c.reported()
    assert (d.order(c.name).order_id, d.held) == (f"id-{THEIRS}", {})


def test_where_the_desk_holds_less_by_now_the_order_is_not_the_call_s() -> None:
    c = calling("ignore").lost(missing=True)
    position = c.d.state.book.positions["AAA"]
    positions = {"AAA": replace(position, quantity=100, cost=Decimal(10000))}
    c.d.state = replace(c.d.state, book=replace(c.d.state.book, positions=positions))
    c.makes()
    c.shown(second=13)
    assert c.d.order(c.name).order_id == ""


def test_of_two_unanswered_calls_the_newer_one_has_the_order() -> None:
    c = calling().lost(missing=True)
    effects = c.d.tick(1.5) + c.d.tick(1.5, 5)
    (again,) = of(effects, SubmitOrder)
    assert (again.closing, again.client_order_id != c.name) == (True, True)
    c.d.put(ev.OrderUnknown(c.at(30), again.client_order_id))
    c.makes(second=25)
    c.shown(second=31)
    assert (c.d.order(again.client_order_id).status, c.d.order(c.name).status) == (FILLED, EXPIRED)
    assert (c.d.held, c.halted) == ({}, [])


def test_a_look_up_of_an_order_under_its_own_name_is_written_as_before() -> None:
    assert msgspec.json.encode(LookUpOrder("e1-shelf-1-0-0")) == (
        b'{"type":"LookUpOrder","client_order_id":"e1-shelf-1-0-0"}'
    )
