"""The guard's watch in virtual time: what it does for each death, and that it does nothing else.

Times in the assertions are the rules' own: alarm after 45 s, acts after 300 s, a look each 30 s.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise, product
from typing import Literal

import pytest
from msgspec.structs import replace as with_fields

from daemon.brokers.api import AccountLook
from daemon.core.effects import SubmitOrder
from daemon.core.events import BrokerOrder
from daemon.guard.watch import Action, Alarm, Cancel, Close, Fence, Memory, Rest, Watch
from daemon.operator.heartbeat import Held
from strategies.kit.quantity import Quantity, exact
from tests.support.guarded_world import NAMES, RULES, SECOND, TURN_S, Broker, DeskHost, World

HOUR = 3600.0
LATEST = RULES.act_s + 2 * RULES.look_s + 10  # it acts by then: two looks, and the turns of this world


def dead(world: World) -> float:
    """The desk's host dies now; returns the time."""
    world.desk.runs = False
    return world.now_s


def dies(world: World) -> None:
    """The desk lives for a minute; then its host dies, and an hour passes."""
    world.run(60)
    dead(world)
    world.run(HOUR)


# --- deaths -----------------------------------------------------------------------------------------------------------


def test_a_dead_host_with_a_position_is_told_within_a_minute_and_its_missing_stop_rests_after_five() -> None:
    world = World()
    world.run(600)
    died_s = dead(world)
    world.run(HOUR)
    assert world.guard.alarms()[:2] == ["desk_silent", "guard_acts"]
    assert world.guard.when("desk_silent")[0] - died_s <= 60
    (rest,) = world.guard.acts()
    assert isinstance(rest, Rest)
    assert (rest.order.symbol, rest.order.side, rest.order.quantity, rest.order.stop_price) == (
        "SPY",
        -1,
        10,
        Decimal("55.00"),
    )
    assert RULES.act_s <= world.guard.done[1][0] - died_s <= LATEST
    assert world.broker.stops() == {"SPY": 10}


def test_a_stop_that_rests_already_is_left_alone() -> None:
    world = World()
    world.own("SPY", -1, 10, stop="55.00")
    dies(world)
    assert world.guard.acts() == []
    assert world.guard.alarms() == ["desk_silent"]
    assert "stops at rest: 1" in str(world.guard.done)


def test_of_a_position_that_a_stop_covers_in_part_the_rest_is_covered() -> None:
    world = World()
    world.own("SPY", -1, 7, stop="55.00")
    dies(world)
    assert world.broker.stops() == {"SPY": 10}


def test_entries_of_the_desk_are_cancelled_and_those_of_a_person_are_not() -> None:
    world = World()
    entry = world.own("QQQ", 1, 5)
    world.run(60)
    world.broker.orders["by-hand"] = replace_name(world, entry, "by-hand")
    dead(world)
    world.run(HOUR)
    assert [action.name for action in world.guard.acts() if isinstance(action, Cancel)] == [entry]
    assert world.broker.orders["by-hand"].status == "new"


def replace_name(world: World, name: str, other: str) -> BrokerOrder:
    """The order of this name as somebody else's."""
    return with_fields(world.broker.orders[name], client_order_id=other, order_id=f"id-{other}")


def test_what_an_entry_bought_after_the_last_heartbeat_is_told_as_unprotected() -> None:
    world = World(held=0)
    entry = world.own("SPY", 1, 10)
    world.run(60)
    dead(world)
    world.broker.fill(entry, 10)
    world.run(HOUR)
    assert "guard_unprotected" in world.guard.alarms()
    assert world.guard.acts() == []


def test_shares_added_after_the_last_heartbeat_are_covered_by_the_stop_that_is_known() -> None:
    world = World()
    entry = world.own("SPY", 1, 5)
    world.run(60)
    dead(world)
    world.broker.fill(entry, 3)
    world.run(HOUR)
    assert world.broker.stops() == {"SPY": 13}
    assert world.broker.orders[entry].status == "canceled"


@pytest.mark.parametrize("clock_s", [-20.0, -3.0, 0.0, 3.0, 20.0])
def test_what_was_traded_around_the_last_heartbeat_counts_once_whatever_the_desk_s_clock_says(clock_s: float) -> None:
    world = World()
    world.desk.clock_s = clock_s
    world.run(60)
    world.broker.fill(world.own("SPY", 1, 5), 5)
    world.desk.holds = {"SPY": Held(15, 0, Decimal("55.00"), None)}  # the next heartbeat has it
    world.run(10)
    world.broker.fill(world.own("SPY", -1, 4), 4)  # and none has this
    dead(world)
    world.run(HOUR)
    assert world.broker.stops() == {"SPY": 11}


def test_a_flat_account_of_a_dead_desk_is_fenced_and_a_person_s_lifting_it_is_final() -> None:
    world = World(held=0)
    dies(world)
    assert world.guard.acts() == [Fence(True)]
    assert world.broker.fenced
    world.broker.fenced = False
    world.run(HOUR)
    assert world.guard.acts() == [Fence(True)]


def test_a_fence_that_the_broker_did_not_take_is_asked_for_again() -> None:
    world = World(held=0)
    world.run(60)
    dead(world)
    world.guard.executes = False
    world.run(HOUR)
    world.guard.executes = True
    world.run(60)
    assert world.broker.fenced
    act_count = len(world.guard.acts())
    world.run(HOUR)
    assert len(world.guard.acts()) == act_count


def test_nothing_is_fenced_while_anything_is_held_and_its_own_fence_lifts_for_a_late_fill() -> None:
    world = World()
    dies(world)
    assert not any(isinstance(action, Fence) for action in world.guard.acts())
    other = World(held=0)
    dies(other)
    other.broker.positions = {"SPY": 5}  # the broker's late news
    other.run(120)
    assert [action for action in other.guard.acts() if isinstance(action, Fence)] == [Fence(True), Fence(False)]
    assert not other.broker.fenced


def test_after_its_stop_filled_the_account_is_flat_and_fenced() -> None:
    world = World()
    dies(world)
    (name,) = [order.client_order_id for order in world.broker.working(-1)]
    world.broker.fill(name, 10)
    world.run(120)
    assert world.broker.fenced


def test_alarm_alone_acts_not() -> None:
    world = World(replace(RULES, act="alarm"))
    world.run(60)
    dead(world)
    world.run(3 * HOUR)
    assert world.guard.acts() == []
    assert world.guard.alarms() == ["desk_silent"] * 3  # once an hour


def test_close_by_choice_closes_in_a_market_that_is_open_and_rests_stops_until_then() -> None:
    world = World(replace(RULES, act="close"))
    world.broker.is_open = False
    dies(world)
    assert world.broker.stops() == {"SPY": 10}
    assert Close() not in world.guard.acts()
    world.broker.is_open = True
    world.run(120)
    assert world.guard.acts().count(Close()) == 1
    assert world.broker.positions == {}
    assert world.broker.fenced


def test_close_is_asked_for_again_while_something_is_held_after_a_minute_then_two_up_to_ten() -> None:
    """A close is judged by two looks, and a stop that is missing by two more."""
    world = World(replace(RULES, act="close"))
    world.run(60)
    dead(world)
    world.broker.closes = False
    world.run(2 * HOUR)
    closes = [at_s for at_s, action in world.guard.done if action == Close()]
    waits = [later - sooner for sooner, later in pairwise(closes)]
    assert len(waits) > 8
    for wait, least in zip(waits, (60, 120, 240, 480, *[600] * len(waits)), strict=False):
        assert least <= wait <= least + 4 * RULES.look_s + 4 * TURN_S


def test_what_the_broker_refuses_to_close_has_its_stop_until_the_next_try() -> None:
    world = World(replace(RULES, act="close"))
    stop = world.own("SPY", -1, 10, stop="55.00")
    world.run(60)
    dead(world)
    world.broker.closes = False  # the call took the desk's stop away, and sold nothing
    bare_s = 0.0
    while world.now_s < 1060 + 4 * HOUR:
        world.run(TURN_S)
        bare_s += TURN_S * (world.broker.stops().get("SPY", 0) == 0)
    assert world.broker.orders[stop].status == "canceled"
    assert world.guard.acts().count(Close()) > 20
    assert bare_s / (4 * HOUR) < 0.2
    assert "guard_unprotected" not in world.guard.alarms()
    world.broker.closes = True
    world.run(700)
    assert (world.broker.positions, world.broker.working(-1), world.broker.fenced) == ({}, [], True)


def test_of_a_flat_desk_s_dead_host_a_person_s_shares_are_not_closed() -> None:
    world = World(replace(RULES, act="close"), others=5)
    world.broker.positions |= {"VOO": 500}
    stop = world.own("SPY", -1, 10, stop="55.00")
    world.run(60)
    dead(world)
    world.broker.fill(stop, 10)  # the desk's part was sold at the broker
    world.run(HOUR)
    assert world.guard.acts() == []
    assert world.broker.positions == {"SPY": 5, "VOO": 500}


@pytest.mark.parametrize("fraction", ["0", "0.37"])  # as from a reinvested dividend
def test_what_a_person_holds_is_not_closed_once_a_person_sold_what_the_dead_desk_held(fraction: str) -> None:
    world = World(replace(RULES, act="close"))
    world.broker.positions = {"SPY": exact(10 + Decimal(fraction)), "VOO": 500}
    world.run(60)
    dead(world)
    world.run(120)
    assert world.broker.put(SubmitOrder("by-hand", "SPY", -1, 10, None, "", 0), world.now_ns)
    world.broker.fill("by-hand", 10)
    world.run(HOUR)
    assert world.guard.acts() == []
    assert world.broker.positions["VOO"] == 500


@pytest.mark.parametrize(("sold", "closes"), [(10, False), (9, True)])
def test_what_a_person_bought_after_selling_all_of_the_dead_desk_s_shares_is_not_closed(
    sold: int, closes: bool
) -> None:
    world = World(replace(RULES, act="close"))
    world.run(60)
    dead(world)
    world.run(120)
    for name, side, quantity in (("sale", -1, sold), ("purchase", 1, 5)):
        assert world.broker.put(SubmitOrder(name, "SPY", side, quantity, None, "", 0), world.now_ns)
        world.broker.fill(name, quantity)
    world.run(HOUR)
    assert (Close() in world.guard.acts()) is closes
    assert (world.broker.positions, world.broker.stops()) == ({} if closes else {"SPY": 5}, {})


@pytest.mark.parametrize(
    ("contract", "left", "closes"),
    [
        ("SPY270115C00500000", {"VOO": 500}, False),  # it ended worthless on the day of the death
        ("SPY270115C00500000", {"VOO": 500, "SPY": 300}, True),  # it was exercised
        ("SPY270119C00500000", {"VOO": 500}, True),  # it has days to go, and is there under another name
    ],
)
def test_what_a_person_holds_is_closed_where_a_contract_of_the_dead_desk_may_be_there_and_else_not(
    contract: str, left: dict[str, Quantity], closes: bool
) -> None:
    """The world begins on Friday, the 15th of January 2027."""
    world = World(replace(RULES, act="close"), held=0)
    world.desk.holds = {contract: Held(3, 0, Decimal("1.10"), None)}
    world.broker.positions = {contract: 3, "VOO": 500}
    world.run(60)
    dead(world)
    world.run(120)
    world.broker.positions = dict(left)
    world.run(HOUR)
    assert (Close() in world.guard.acts()) is closes


def test_a_desk_that_a_person_stopped_is_protected_and_neither_closed_nor_fenced() -> None:
    world = World(replace(RULES, act="close"))
    world.desk.leaving = True
    dies(world)
    assert world.broker.stops() == {"SPY": 10}
    assert {type(action) for action in world.guard.acts()} == {Rest}
    flat = World(held=0)
    flat.desk.leaving = True
    dies(flat)
    assert (flat.guard.acts(), flat.guard.alarms()) == ([], [])


@pytest.mark.parametrize(("stopped", "times"), [(True, 2), (False, 30)])
def test_the_silence_of_a_desk_that_a_person_stopped_is_told_each_day_and_a_death_each_hour(
    stopped: bool, times: int
) -> None:
    world = World()
    world.desk.holds, world.desk.leaving = {"SPY": Held(10, 0, None, None)}, stopped
    world.run(60)
    dead(world)
    world.run(30 * HOUR)
    assert [len(world.guard.when(name)) for name in ("desk_silent", "guard_unprotected")] == [times, times]


# --- what is in doubt -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shares", [20, 5, 11], ids=["a split of 2 to 1", "a split of 1 to 2", "a person bought one"])
def test_another_quantity_than_expected_gets_no_stop_but_an_alarm(shares: int) -> None:
    world = World()
    world.run(60)
    dead(world)
    world.broker.positions = {"SPY": shares}
    world.run(HOUR)
    assert world.guard.acts() == []
    assert "guard_unprotected" in world.guard.alarms()


@pytest.mark.parametrize(
    ("others", "trades", "covered"),
    [(0, (5,), 10), (0, (-4,), 6), (5, (-8,), 7), (0, (-3, 10), 7), (0, (8, -5), 10)],
)
@pytest.mark.parametrize("wait_s", [10, 600])  # between a person's trades: the guard has acted after the longer one
def test_what_a_person_traded_since_is_no_split_and_the_desk_s_rest_keeps_its_stop(
    others: int, trades: tuple[int, ...], covered: int, wait_s: int
) -> None:
    """What a person sells is the person's own first."""
    world = World(others=others)
    world.run(60)
    dead(world)
    world.run(120)
    for number, quantity in enumerate(trades):
        order = SubmitOrder(f"by-hand-{number}", "SPY", 1 if quantity > 0 else -1, abs(quantity), None, "", 0)
        assert world.broker.put(order, world.now_ns)
        world.broker.fill(order.client_order_id, abs(quantity))
        world.run(wait_s)
    world.run(HOUR)
    assert world.broker.stops() == {"SPY": covered}


def test_an_announced_corporate_action_gets_no_stop_at_an_old_price() -> None:
    world = World()
    world.run(60)
    dead(world)
    world.broker.changed = frozenset(("SPY",))
    world.run(HOUR)
    assert world.guard.acts() == []
    assert "guard_unprotected" in world.guard.alarms()


def test_a_contract_gets_no_stop_at_an_old_price_where_its_underlying_changed() -> None:
    """A split of SPY halves the price of its contracts, and lists them under other strikes later."""
    world = World(held=0)
    call = "SPY270115C00500000"
    world.desk.holds, world.broker.positions = {call: Held(3, 0, Decimal("1.10"), None)}, {call: 3}
    world.broker.changed = frozenset(("SPY",))
    dies(world)
    assert world.guard.acts() == []
    assert f"{call}: a corporate action" in details_of(world, "guard_unprotected")[0]


def test_of_a_person_s_shares_in_the_same_account_none_is_covered() -> None:
    world = World(others=30)
    dies(world)
    assert world.broker.stops() == {"SPY": 10}


def test_a_person_s_own_sale_of_the_desk_s_shares_leaves_the_stop_to_what_is_free() -> None:
    world = World()
    world.run(60)
    dead(world)
    world.broker.orders["by-hand"] = replace_name(world, world.own("SPY", -1, 10), "by-hand")
    del world.broker.orders[f"{NAMES}0-2-0"]
    world.run(HOUR)
    assert world.guard.acts() == []


@pytest.mark.parametrize(("person_shares", "rests"), [(40, 10), (25, 10), (44, 6), (50, 0)])
def test_a_person_s_sale_of_a_person_s_own_shares_covers_none_of_the_desk_s(person_shares: int, rests: int) -> None:
    world = World(others=40)
    sale = SubmitOrder("by-hand", "SPY", -1, person_shares, None, "", 0, stop_price=Decimal(40))
    assert world.broker.put(sale, world.now_ns)
    dies(world)
    assert world.broker.stops() == {"SPY": person_shares + rests}


def test_a_stop_that_is_cancelled_each_time_rests_three_times_an_hour_and_stays_once_nobody_cancels_it() -> None:
    """Alpaca's word for it is `canceled` by whoever it was: it has ended a stop itself in a halt of the exchange."""
    world = World()
    world.run(60)
    dead(world)
    for hours in (1, 2):
        for _ in range(120):
            world.run(30)
            for order in world.broker.working(-1):
                world.broker.end(order.client_order_id)
        assert len(world.guard.acts()) == 3 * hours
    assert "guard_unprotected" in world.guard.alarms()
    world.run(HOUR)
    assert world.broker.stops() == {"SPY": 10}
    names = [action.order.client_order_id for action in world.guard.acts() if isinstance(action, Rest)]
    assert len(names) == len(set(names)) == 7


def test_a_refused_stop_is_told_with_the_broker_s_words() -> None:
    world = World()
    world.broker.refuses = True
    world.run(60)
    dead(world)
    world.run(RULES.act_s + 600)
    assert len(world.guard.acts()) == 3
    assert "insufficient qty" in str(world.guard.done)


def test_keys_of_another_account_act_not() -> None:
    world = World()
    world.broker.number = "PA2"
    dies(world)
    assert world.guard.acts() == []
    assert "guard_keys" in world.guard.alarms()


def test_an_option_s_stop_waits_for_the_open_market() -> None:
    world = World(held=0)
    call = "SPY270115C00500000"
    world.desk.holds, world.broker.positions = {call: Held(3, 0, Decimal("1.10"), Decimal("0.55"))}, {call: 3}
    world.broker.is_open = False
    dies(world)
    assert world.guard.acts() == []
    world.broker.is_open = True
    world.run(120)
    (rest,) = world.guard.acts()
    assert isinstance(rest, Rest)
    assert (rest.order.limit_price, rest.order.intent) == (Decimal("0.55"), "sell_to_close")


def test_of_a_contract_that_is_gone_the_alarm_says_that_an_exercise_may_have_left_shares() -> None:
    world = World(held=0)
    world.desk.holds = {"SPY270115C00500000": Held(3, 0, Decimal("1.10"), Decimal("0.55"))}
    world.broker.positions = {"SPY": 300}
    dies(world)
    assert world.guard.acts() == []
    alarms = [action for _, action in world.guard.done if isinstance(action, Alarm)]
    (why,) = [alarm.detail for alarm in alarms if alarm.name == "guard_unprotected"]
    assert "the account has 0, expected are 3: its end, an exercise that leaves shares" in why


# --- silence that is none ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", RULES.paths)
def test_one_dead_path_is_no_silence_of_the_desk(path: str) -> None:
    world = World()
    world.run(60)
    world.cut(path)
    world.run(HOUR)
    assert world.guard.acts() == []
    assert set(world.guard.alarms()) == {"guard_blind"}


@pytest.mark.parametrize("path", RULES.paths)
def test_a_host_that_dies_with_a_path_cannot_be_told_from_a_dead_path(path: str) -> None:
    world = World()
    world.run(60)
    world.cut(path)
    dead(world)
    world.run(HOUR)
    assert world.guard.acts() == []
    assert "guard_blind" in world.guard.alarms()


def test_a_desk_that_one_path_carries_lives() -> None:
    world = World()
    world.run(60)
    world.desk.carries = {"folder"}
    world.run(HOUR)
    assert (world.guard.acts(), world.guard.alarms()) == ([], [])


def test_a_path_that_comes_back_gives_the_desk_its_whole_time_again() -> None:
    world = World()
    world.run(60)
    world.cut("MQTT")
    world.desk.carries = set()
    world.run(HOUR)
    for guard in world.guards:
        guard.echoes.add("MQTT")
    back_s = world.now_s
    world.run(RULES.act_s - 20)
    assert world.guard.acts() == []
    world.run(120)
    assert len(world.guard.acts()) == 1
    assert world.guard.when("guard_acts")[0] - back_s >= RULES.act_s


def test_the_guard_s_own_network_gone_is_no_reason_to_act_nor_is_the_broker_s() -> None:
    world = World()
    world.run(60)
    world.guard.echoes.clear()
    world.guard.sees_broker = False
    world.run(HOUR)
    assert world.guard.acts() == []
    other = World()
    other.run(60)
    other.broker.up = False
    dead(other)
    other.run(HOUR)
    assert other.guard.acts() == []
    assert {"desk_silent", "guard_account"} <= set(other.guard.alarms())
    other.broker.up = True
    other.run(120)
    assert other.broker.stops() == {"SPY": 10}


def test_of_a_dead_desk_whose_account_cannot_be_read_the_grave_alarm_names_what_it_held_and_why() -> None:
    world = World()
    world.run(60)
    world.broker.up = False  # as where the keys were revoked
    dead(world)
    world.run(2 * HOUR)
    words = "by its last heartbeat it held 10 SPY; the account cannot be looked at: no answer"
    assert details_of(world, "desk_silent")[-1].endswith(words)


def test_a_guard_that_slept_hears_before_it_acts() -> None:
    world = World()
    world.run(60)
    world.guard.runs = False
    world.run(3 * HOUR)
    world.guard.runs = True
    world.run(HOUR)
    assert world.guard.acts() == []
    asleep = World()
    asleep.run(60)
    asleep.guard.runs = False
    dead(asleep)
    asleep.run(3 * HOUR)
    asleep.guard.runs = True
    woke_s = asleep.now_s
    asleep.run(HOUR)
    assert asleep.guard.when("guard_acts")[0] - woke_s >= RULES.act_s


def test_heartbeats_that_were_held_up_or_bear_a_wrong_time_are_neither_life_nor_death() -> None:
    world = World()
    world.run(60)
    world.desk.clock_s = -1800.0
    world.run(HOUR)
    assert world.guard.acts() == []
    assert "guard_doubts" in world.guard.alarms()


@pytest.mark.parametrize("day_s", [-86_400.0, 86_400.0])
def test_a_desk_that_starts_again_with_a_clock_of_another_day_is_left_alone(day_s: float) -> None:
    world = World(replace(RULES, act="close"))
    world.run(60)
    world.desk.clock_s = day_s
    world.desk.restart(world.now_ns + round(day_s) * SECOND)
    world.run(HOUR)
    assert world.guard.acts() == []
    assert "guard_doubts" in world.guard.alarms()


def test_heartbeats_of_another_release_are_no_silence_and_one_that_is_sent_again_is_none() -> None:
    world = World(replace(RULES, act="close"))
    world.run(60)
    life = world.desk.life + 1
    dead(world)  # for the guard: nothing that it hears can be read
    for counter in range(1, 61):
        world.guard.watch.take_unread(life, counter, world.now_s)
        world.run(60)
    assert world.guard.acts() == []
    assert "guard_doubts" in world.guard.alarms()
    for _ in range(60):
        world.guard.watch.take_unread(life, 60, world.now_s)
        world.run(60)
    assert Close() in world.guard.acts()


def test_of_a_desk_that_does_not_say_the_guard_s_stops_bear_its_own_prefix() -> None:
    world = World(replace(RULES, prefix="guard"))
    world.desk.prefix = ""
    world.run(60)
    dead(world)
    world.run(HOUR)
    names = {action.order.client_order_id for action in world.guard.acts() if isinstance(action, Rest)}
    assert names
    assert all(name.startswith("guard-") for name in names)
    assert len(names) == len(world.broker.stops())  # it knows its own again: none is rested twice


def test_messages_that_are_sent_again_are_no_life() -> None:
    world = World()
    world.run(60)
    old = world.desk.beat(world.now_ns, world.broker)
    world.run(60)
    died_s = dead(world)
    for _ in range(80):
        world.run(10)
        world.guard.watch.take_beat(old, world.now_s, world.now_ns)
    assert len(world.guard.acts()) == 1
    assert world.guard.when("desk_silent")[0] - died_s <= 60


def test_an_earlier_life_s_message_is_none_of_this_one() -> None:
    world = World()
    world.run(60)
    old = world.desk.beat(world.now_ns, world.broker)
    world.desk.restart(world.now_ns)
    world.run(600)
    dead(world)
    for _ in range(80):
        world.run(10)
        world.guard.watch.take_beat(old, world.now_s, world.now_ns)
    assert len(world.guard.acts()) == 1


def test_a_second_desk_of_the_same_name_that_is_gone_again_shuts_out_none_that_lives() -> None:
    world = World(replace(RULES, act="close"))
    world.run(60)
    second = DeskHost(holds=world.desk.holds, life=world.now_ns)
    for _ in range(12):
        world.run(10)
        world.guard.watch.take_beat(second.beat(world.now_ns, world.broker), world.now_s, world.now_ns)
    world.run(HOUR)
    assert (world.guard.acts(), world.guard.alarms()) == ([], [])
    dies(world)
    assert world.guard.acts() == [Close(), Fence(True)]


def test_a_desk_that_sends_orders_lives_though_nobody_hears_it() -> None:
    world = World(replace(RULES, act="close"))
    world.run(60)
    dead(world)  # for the guard: its heartbeat is cut, and it trades on
    for _ in range(30):
        world.broker.end(world.own("QQQ", 1, 5))
        world.run(120)
    assert world.guard.acts() == []
    assert {"desk_silent", "guard_doubts"} == set(world.guard.alarms())
    ordered_s = world.now_s - 120
    world.run(RULES.act_s)
    (closed_s,) = [at_s for at_s, action in world.guard.done if action == Close()]
    assert RULES.act_s <= closed_s - ordered_s <= LATEST


def test_what_a_guard_or_a_person_orders_is_no_life_of_the_desk() -> None:
    world = World()
    world.run(60)
    died_s = dead(world)
    for number in range(30):
        order = replace_name(world, world.own("QQQ", 1, 5), f"by-hand-{number}")
        world.broker.orders = {"by-hand": order}
        world.run(20)
    assert world.guard.when("guard_acts")[0] - died_s <= LATEST


# --- what is new since the last act, and what two looks agree on ------------------------------------------------------


def test_a_look_that_was_asked_for_before_its_stop_was_sent_brings_no_second_stop() -> None:
    """With a person's shares in the account the broker would take it, and sell what is theirs."""
    world = World(others=30)
    world.run(60)
    dead(world)
    before, asked_s = world.broker.look(world.now_ns), 0.0
    while not world.guard.acts():
        before, asked_s = world.broker.look(world.now_ns), world.now_s + 1
        world.run(5)
    world.guard.watch.take_look(before, asked_s)  # its answer comes after the stop was sent
    world.run(HOUR)
    assert world.broker.stops() == {"SPY": 10}
    assert len(world.guard.acts()) == 1


def test_an_answer_that_takes_long_to_a_stop_brings_no_second_one() -> None:
    world = World(others=30)
    world.run(60)
    dead(world)
    world.guard.executes = False
    while not world.guard.acts():
        world.run(5)
    (rest,) = world.guard.acts()
    assert isinstance(rest, Rest)
    world.broker.put(rest.order, world.now_ns)
    world.guard.watch.carried_out(world.now_s + 40)
    world.guard.executes = True
    world.run(HOUR)
    assert world.broker.stops() == {"SPY": 10}


def test_a_broker_that_owes_an_answer_is_told_as_that() -> None:
    watch, alarms = Watch(RULES, 0.0), list[Action]()
    watch.take_look(Broker().look(0), 0.0)
    for turn in range(40):
        for path in RULES.paths:
            watch.take_echo(path, turn * TURN_S)
        alarms += watch.turn(turn * TURN_S)
    words = "the account cannot be looked at: the broker still owes an answer"
    assert [alarm for alarm in alarms if isinstance(alarm, Alarm) and alarm.name == "guard_account"] == [
        Alarm("guard_account", words)
    ]


def test_a_stop_that_is_missing_at_one_look_alone_is_no_missing_stop() -> None:
    """A person sells by hand, or a desk that lives and cannot be heard: the stop goes, and the sale follows."""
    world = World()
    name = world.own("SPY", -1, 10, stop="55.00")
    dies(world)
    while round(world.now_s / 5) % 6 != 5:  # a moment before a look
        world.run(5)
    world.broker.end(name)
    world.run(5)
    world.own("SPY", -1, 10)
    world.run(HOUR)
    assert world.guard.acts() == []


def test_what_a_person_buys_between_any_two_looks_keeps_no_stop_of_the_desk_away() -> None:
    world = World()
    world.run(60)
    died_s = dead(world)
    for number in range(20):
        name = f"by-hand-{number}"
        assert world.broker.put(SubmitOrder(name, "SPY", 1, 1, None, "", 0), world.now_ns)
        world.broker.fill(name, 1)
        world.run(RULES.look_s)
    assert world.broker.stops() == {"SPY": 10}
    assert world.guard.alarms() == ["desk_silent", "guard_acts"]
    assert world.guard.when("guard_acts")[0] - died_s <= LATEST


@pytest.mark.parametrize("shares", [9, 11])
def test_an_order_that_fills_while_a_look_reads_is_no_split(monkeypatch: pytest.MonkeyPatch, shares: int) -> None:
    """The look's positions have what its orders do not show yet; the next look has both."""
    world, look = World(), Broker.look
    times_ns: list[int] = []

    def torn(broker: Broker, now_ns: int) -> AccountLook:
        times_ns.append(now_ns)
        whole = look(broker, now_ns)
        one = with_fields(whole.positions[0], quantity=Decimal(shares), available=Decimal(shares))
        return replace(whole, positions=(one,)) if len(times_ns) % 3 == 0 else whole

    monkeypatch.setattr(Broker, "look", torn)
    world.run(60)
    died_s = dead(world)
    world.run(LATEST + 3 * RULES.look_s)
    assert world.broker.stops() == {"SPY": 10}
    assert world.guard.alarms() == ["desk_silent", "guard_acts"]
    assert world.guard.when("guard_acts")[0] - died_s <= LATEST + 2 * RULES.look_s


def unseeing(sold: int, bought: int, act: Literal["protect", "close"] = "protect") -> World:
    """Ten shares of a dead desk: its guard's stop sells some, a person buys some, and it starts for ten seconds.

    Before it has looked at the account it dies again.
    """
    world = World(replace(RULES, act=act))
    world.broker.is_open = act == "protect"
    world.run(60)
    dead(world)
    died_ns = world.now_ns
    world.run(HOUR)
    (stop,) = world.broker.working(-1)
    world.broker.fill(stop.client_order_id, sold)
    if bought:
        assert world.broker.put(SubmitOrder("by-hand", "SPY", 1, bought, None, "", 0), world.now_ns)
        world.broker.fill("by-hand", bought)
    world.broker.end(stop.client_order_id, "filled" if sold == 10 else "canceled")
    world.run(10)
    world.desk.restart_unseeing(world.now_ns, died_ns)
    world.run(10)
    dead(world)
    world.broker.is_open = True
    world.run(HOUR)
    return world


@pytest.mark.parametrize(("sold", "bought"), [(0, 0), (4, 0), (0, 5), (4, 5)])
def test_a_start_that_dies_before_it_has_looked_takes_no_stop_away(sold: int, bought: int) -> None:
    world = unseeing(sold, bought)
    assert world.broker.stops() == {"SPY": 10 - sold}
    assert "guard_unprotected" not in world.guard.alarms()


def test_a_start_that_has_not_looked_has_nothing_of_a_person_closed() -> None:
    world = unseeing(10, 5, "close")
    assert world.broker.positions == {"SPY": 5}


@pytest.mark.parametrize("known", [0, 1, 2])
def test_of_what_a_person_traded_around_the_last_heartbeat_it_may_have_some(known: int) -> None:
    world = World(others=5)
    world.run(60)
    for number in range(2):
        name = f"by-hand-{number}"
        assert world.broker.put(SubmitOrder(name, "SPY", 1, 3, None, "", 0), world.now_ns)
        world.broker.fill(name, 3)
    world.desk.holds = {"SPY": Held(10, 5 + 3 * known, Decimal("55.00"), None)}
    world.run(10)
    dead(world)
    world.run(HOUR)
    assert world.broker.stops() == {"SPY": 10}


def test_what_was_bought_since_the_former_look_is_not_closed_at_once() -> None:
    world = World(replace(RULES, act="close", fence=False), held=0)
    world.desk.holds = {"SPY": Held(10, 0, Decimal("55.00"), None)}
    dies(world)
    world.broker.positions = {"SPY": 10}
    bought_s = world.now_s
    world.run(120)
    (closed_s,) = [at_s for at_s, action in world.guard.done if action == Close()]
    assert closed_s - bought_s > 30


# --- fractions, expiries, renamings, days -----------------------------------------------------------------------------


def test_a_fraction_from_a_reinvested_dividend_keeps_no_stop_away() -> None:
    world = World()
    world.broker.positions = {"SPY": exact("10.37")}
    dies(world)
    assert [action.order.quantity for action in world.guard.acts() if isinstance(action, Rest)] == [10]
    assert world.guard.alarms() == ["desk_silent", "guard_acts"]


def rests(world: World) -> list[tuple[str, str]]:
    """Names and quantities of the stops that the guard rested."""
    return [(a.order.client_order_id, str(a.order.quantity)) for a in world.guard.acts() if isinstance(a, Rest)]


def test_a_desk_s_fraction_has_a_stop_of_its_own() -> None:
    world = World(held=exact("10.370000001"))
    dies(world)
    (whole, count), (fraction, part) = rests(world)
    assert (count, part) == ("10", "0.370000001")
    assert fraction == f"{whole}f"
    assert world.broker.stops() == {"SPY": exact("10.370000001")}
    world.run(HOUR)
    assert len(rests(world)) == 2
    assert "guard_unprotected" not in world.guard.alarms()


@pytest.mark.parametrize(("held", "others"), [("14.4", "3.6"), ("14.4", "3"), ("14", "3.6")])
def test_what_a_person_holds_beside_it_takes_no_fraction_of_the_desk_s_away(held: str, others: str) -> None:
    world = World(held=exact(held), others=exact(others))
    dies(world)
    assert sum(Decimal(quantity) for _, quantity in rests(world)) == Decimal(held)
    assert "guard_unprotected" not in world.guard.alarms()


def test_less_than_a_share_has_the_fraction_s_stop_alone() -> None:
    world = World(held=exact("0.000000001"))
    dies(world)
    assert [count for _, count in rests(world)] == ["0.000000001"]


def test_a_fraction_s_stop_is_for_the_day_and_rested_again_on_each() -> None:
    world = World(held=exact("2.5"))
    dies(world)
    for day in range(5):
        for order in world.broker.working(-1):
            if order.quantity % 1:
                world.broker.end(order.client_order_id, "expired")
        world.run(24 * HOUR)
        assert world.broker.stops() == {"SPY": exact("2.5")}, day


def test_a_broker_that_refuses_a_fraction_s_stop_has_the_whole_one_all_the_same() -> None:
    world = World(held=exact("10.5"))
    take = world.broker.put

    def put(order: SubmitOrder, at_ns: int) -> bool:
        return type(order.quantity) is int and take(order, at_ns)

    world.broker.put = put  # type: ignore[method-assign]
    dies(world)
    world.run(HOUR)
    assert world.broker.stops() == {"SPY": 10}
    assert "SPY: of 0.5 no stop stays: insufficient qty" in str([a for _, a in world.guard.done])


def test_what_a_desk_s_orders_filled_since_counts_to_the_last_place() -> None:
    world = World(held=exact("1.5"))
    name = world.own("SPY", 1, exact("0.25"))
    world.run(60)
    dead(world)
    world.broker.fill(name, exact("0.125"))
    world.run(HOUR)
    assert [count for _, count in rests(world)] == ["1", "0.625"]


@pytest.mark.parametrize("there", ["10.37", "10.369999999", "10"])
def test_a_fraction_that_is_not_what_a_desk_of_fractions_held_is_told(there: str) -> None:
    world = World(held=exact("10.370000001"))
    world.run(60)
    dead(world)
    world.broker.positions = {"SPY": exact(there)}
    world.run(HOUR)
    assert rests(world) == []
    assert "guard_unprotected" in world.guard.alarms()


def test_a_position_that_is_there_under_another_name_is_told_and_is_not_flat() -> None:
    world = World()
    world.run(60)
    dead(world)
    world.broker.positions = {"XSPY": 10}
    world.run(HOUR)
    actions = [action for _, action in world.guard.done]
    assert world.guard.acts() == []
    assert "10 SPY" in str(actions[0])
    assert "guard_unprotected" in world.guard.alarms()


def test_an_option_s_stop_is_rested_again_each_day_of_a_long_silence() -> None:
    world = World(held=0)
    call = "SPY280121C00500000"
    world.desk.holds, world.broker.positions = {call: Held(3, 0, Decimal("1.10"), None)}, {call: 3}
    dies(world)
    for day in range(6):
        for order in world.broker.working(-1):
            world.broker.end(order.client_order_id, "expired")
        world.broker.is_open = False
        world.run(17 * HOUR)
        world.broker.is_open = True
        world.run(7 * HOUR)
        assert world.broker.stops() == {call: 3}, day


def test_a_broker_that_refuses_for_a_while_is_asked_again_later() -> None:
    world = World()
    world.broker.refuses = True
    dies(world)
    world.broker.refuses = False
    world.run(2 * HOUR)
    assert world.broker.stops() == {"SPY": 10}


def test_a_stop_that_the_broker_takes_and_rejects_in_a_halt_rests_once_the_share_trades() -> None:
    world = World()
    dies(world)
    for _ in range(80):  # forty minutes of a halt by the exchange
        for order in world.broker.working(-1):
            world.broker.end(order.client_order_id, "rejected")
        world.run(30)
    assert len(world.guard.acts()) <= 3 * 5  # three within ten minutes
    assert "rejected it" in str(world.guard.done)
    world.run(HOUR)
    assert world.broker.stops() == {"SPY": 10}


def close_leaves_four() -> World:
    """The desk's host died, and its guard closed; the broker's own orders sold six, and the market shut."""
    world = World(replace(RULES, act="close"))
    world.run(60)
    dead(world)
    world.guard.executes = False
    world.run(600)
    assert Close() in world.guard.acts()
    world.broker.positions = {"SPY": 4}
    world.broker.is_open, world.guard.executes = False, True
    return world


def test_what_a_close_left_over_is_covered_when_the_market_shuts() -> None:
    world = close_leaves_four()
    world.run(HOUR)
    assert world.broker.stops() == {"SPY": 4}


@pytest.mark.parametrize(("shares", "covered"), [("3.37", 3), ("0.37", 0)])
def test_a_fraction_beside_a_desk_of_whole_shares_that_a_close_left_over_is_not_its_own(
    shares: str, covered: int
) -> None:
    world = close_leaves_four()
    world.broker.positions = {"SPY": exact(shares)}
    world.run(HOUR)
    assert world.broker.stops().get("SPY", 0) == covered
    assert "guard_unprotected" not in world.guard.alarms()


def test_what_its_close_sold_is_no_renaming_and_what_is_stuck_is_covered_at_the_end() -> None:
    world = World(replace(RULES, act="close"))
    world.desk.holds = {**world.desk.holds, "QQQ": Held(5, 0, Decimal("40.00"), None)}
    world.broker.positions = {"SPY": 10, "QQQ": 5}
    world.run(60)
    dead(world)
    world.guard.executes = False
    world.run(600)
    world.broker.positions = {"QQQ": 5}  # trading in it is halted
    world.broker.is_open, world.guard.executes = False, True
    world.run(HOUR)
    assert "guard_unprotected" not in world.guard.alarms()
    assert world.broker.stops() == {"QQQ": 5}
    world.broker.is_open = True
    world.run(300)
    assert world.broker.positions == {}
    assert "guard_unprotected" not in world.guard.alarms()


def test_a_second_death_within_the_hour_tells_what_is_unprotected_again() -> None:
    world = World()
    world.desk.holds = {"SPY": Held(10, 0, None, None)}
    world.run(60)
    dead(world)
    world.run(900)
    world.desk.restart(world.now_ns)
    world.run(300)
    dead(world)
    world.run(900)
    assert len(world.guard.when("guard_unprotected")) == 2


def details_of(world: World, name: str) -> list[str]:
    """What the alarms of this name said."""
    return [action.detail for _, action in world.guard.done if isinstance(action, Alarm) and action.name == name]


def test_a_symbol_that_is_left_unprotected_later_is_told_at_once() -> None:
    world = World()
    world.desk.holds = {"SPY": Held(10, 0, None, None), "QQQ": Held(5, 0, Decimal("30.00"), None)}
    world.broker.positions["QQQ"] = 5
    stop = world.own("QQQ", -1, 5, stop="30.00")
    world.run(60)
    dead(world)
    world.run(RULES.act_s + 600)
    (first,) = details_of(world, "guard_unprotected")
    assert first.startswith("SPY: ")
    world.broker.end(stop)
    world.broker.positions["QQQ"] = 3  # somebody sold two
    world.run(2 * RULES.look_s + 10)
    _, second = details_of(world, "guard_unprotected")
    assert "QQQ: the account has 3" in second
    world.run(1800)
    assert world.guard.alarms().count("guard_unprotected") == 2


def test_where_corporate_actions_are_not_known_entries_are_cancelled_and_no_stop_is_rested() -> None:
    world = World()
    entry = world.own("QQQ", 1, 5)
    world.broker.changed = None
    dies(world)
    assert [type(action) for action in world.guard.acts()] == [Cancel]
    assert world.broker.orders[entry].status == "canceled"
    assert "guard_unprotected" in world.guard.alarms()


def test_a_person_s_sale_for_dollars_makes_nothing_bare() -> None:
    world = World(others=30)
    world.run(60)
    dead(world)
    name = world.own("SPY", -1, 10)
    order = with_fields(replace_name(world, name, "by-hand"), quantity=Decimal(0), filled=Decimal(5))
    world.broker.orders = {"by-hand": order}
    world.run(HOUR)
    assert sum(action.order.quantity for action in world.guard.acts() if isinstance(action, Rest)) <= 10


# --- guards that come and go ------------------------------------------------------------------------------------------


def test_a_guard_that_begins_after_the_death_protects_by_what_it_kept_and_without_that_only_tells() -> None:
    world = World()
    world.run(60)
    beat = world.guard.watch.beat
    dead(world)
    world.guard.watch = Watch(RULES, world.now_s, Memory(beat))
    world.run(HOUR)
    assert world.broker.stops() == {"SPY": 10}
    other = World()
    dead(other)
    other.run(HOUR)
    assert (other.guard.acts(), other.guard.alarms()) == ([], ["guard_unheard"])


def test_a_guard_that_restarts_after_it_acted_does_not_act_twice() -> None:
    world = World()
    dies(world)
    world.begins_again(world.guard)
    world.run(HOUR)
    assert len(world.guard.acts()) == 1
    assert world.broker.stops() == {"SPY": 10}


def entries_and_missing_stops(world: World) -> None:
    """The host dies while two entries work, of which one is filling, and two stops are missing; one share is halved."""
    half = exact("10.5")
    world.desk.holds = {
        "SPY": Held(half, 0, Decimal("55.00"), None),
        "QQQ": Held(5, 3, Decimal("40.00"), None),
        "IWM": Held(4, 0, Decimal("20.00"), None),
    }
    world.broker.positions = {"SPY": half, "QQQ": 8, "IWM": 4}
    world.own("IWM", -1, 4, stop="20.00")
    filling = world.own("SPY", 1, 2)
    world.own("QQQ", 1, 5)
    world.run(200)
    dead(world)
    world.broker.fill(filling, 1)
    world.run(HOUR)


def the_market_opens(world: World) -> None:
    world.broker.is_open = False
    entries_and_missing_stops(world)
    world.broker.is_open = True
    world.run(HOUR)


def a_bust_after_the_fence(world: World) -> None:
    """The desk's stop sold all when its host died; an hour later that sale is taken back."""
    stop = world.own("SPY", -1, 10, stop="55.00")
    world.run(200)
    dead(world)
    world.broker.fill(stop, 10)
    world.run(HOUR)
    assert world.broker.fenced
    world.broker.positions = {"SPY": 10}
    world.broker.orders[stop] = with_fields(world.broker.orders[stop], filled=Decimal(0), status="canceled")
    world.run(HOUR)


@pytest.mark.parametrize(
    ("act", "story", "requests", "end"),
    [
        ("protect", entries_and_missing_stops, 5, ({"SPY": exact("11.5"), "QQQ": 5, "IWM": 4}, False)),
        ("close", entries_and_missing_stops, 5, ({}, True)),
        ("close", the_market_opens, 8, ({}, True)),
        ("protect", a_bust_after_the_fence, 3, ({"SPY": 10}, False)),
    ],
)
def test_a_guard_that_is_killed_before_or_after_any_request_leaves_what_one_does_that_is_not(
    act: Literal["protect", "close"],
    story: Callable[[World], None],
    requests: int,
    end: tuple[dict[str, Quantity], bool],
) -> None:
    """The end is what its stops sell, and whether the account is fenced; a close is a cancel of all and a close."""
    for kill in (None, *product(range(requests), (False, True))):
        world = World(replace(RULES, act=act))
        world.kill = kill
        story(world)
        result = ({symbol: count for symbol, count in world.broker.stops().items() if count}, world.broker.fenced)
        assert (result, world.broker.working(1)) == (end, []), kill
        assert (act == "close") == (world.broker.positions == {}), kill
        assert world.guard.refused == 0, kill  # no stop a second time
        assert world.requests - requests in ({0} if kill is None else {0, 1, 2}), kill  # a close may begin again


@pytest.mark.parametrize("restart_s", [10, 30, 600])  # of the guard, before the desk is back
def test_a_guard_that_restarted_in_the_silence_tells_that_the_desk_is_heard(restart_s: int) -> None:
    world = World()
    world.run(60)
    dead(world)
    world.run(HOUR)
    world.begins_again(world.guard)
    world.run(restart_s)
    told = world.guard.alarms().count("desk_silent")
    assert told == (2 if restart_s == 600 else 1)
    world.desk.restart(world.now_ns)
    world.run(120)
    assert world.guard.alarms().count("desk_heard") == 1
    world.begins_again(world.guard)
    world.run(HOUR)
    assert world.guard.alarms().count("desk_heard") == 1
    assert world.guard.alarms().count("desk_silent") == told


def test_a_guard_that_restarts_leaves_a_desk_alone_that_sends_orders_unheard() -> None:
    world = World(replace(RULES, act="close"))
    world.run(60)
    dead(world)  # for the guard: its heartbeat is cut, and it trades on
    for _ in range(10):
        world.broker.end(world.own("QQQ", 1, 5))
        world.run(120)
        world.begins_again(world.guard)
        world.broker.end(world.own("QQQ", 1, 5))
        world.run(240)
    assert world.guard.acts() == []
    assert "guard_doubts" in world.guard.alarms()
    world.run(HOUR)
    assert Close() in world.guard.acts()


def test_a_fence_that_a_person_lifted_stays_lifted_after_the_guard_s_restart() -> None:
    world = World(held=0)
    dies(world)
    world.broker.fenced = False
    world.run(60)
    world.begins_again(world.guard)
    world.run(HOUR)
    assert world.guard.acts() == [Fence(True)]
    world.desk.restart(world.now_ns)
    world.run(300)
    dies(world)  # another silence
    assert world.broker.fenced


def test_what_a_close_left_over_is_covered_by_a_guard_that_restarted() -> None:
    world = close_leaves_four()
    world.begins_again(world.guard)
    world.run(HOUR)
    assert world.broker.stops() == {"SPY": 4}


@pytest.mark.parametrize("stop_count", [1, 2])
def test_a_guard_that_restarted_gives_a_stop_a_name_that_none_of_its_earlier_ones_has(stop_count: int) -> None:
    world = World()
    dies(world)
    for _ in range(stop_count):
        (stop,) = world.broker.working(-1)
        world.broker.end(stop.client_order_id)  # somebody takes it away
        world.begins_again(world.guard)
        world.run(RULES.act_s + 2 * RULES.look_s)
        assert world.broker.stops() == {"SPY": 10}
    assert len(world.guard.acts()) == stop_count + 1  # the broker refused none


def test_two_guards_rest_one_stop_together() -> None:
    world = World(guards=2)
    dies(world)
    assert world.broker.stops() == {"SPY": 10}
    assert len(world.broker.orders) == 1
    flat = World(held=0, guards=2)
    dies(flat)
    assert flat.broker.fenced


@pytest.mark.parametrize("shared", [True, False])
def test_of_two_stops_that_two_guards_rest_at_one_moment_the_later_one_ends(shared: bool) -> None:
    """The last heartbeat reached one guard alone, so that they name their stops otherwise."""
    world = World(guards=2, others=20)
    if shared:
        world.desk.account = "PA1-scalper"
    world.run(60)
    last = world.desk.beat(world.now_ns, world.broker)
    dead(world)
    world.guard.watch.take_beat(last, world.now_s, world.now_ns)
    world.at_once = True
    world.run(HOUR)
    assert world.broker.stops() == {"SPY": 10}
    assert [type(action) for guard in world.guards for action in guard.acts()] == [Rest, Cancel] * 2


def test_of_two_stops_for_what_a_person_left_of_the_desk_s_shares_the_later_one_ends() -> None:
    """A person sells seven of the desk's eleven and buys six: the broker takes both stops of four."""
    world = World(held=11, guards=2)
    world.at_once = True
    world.run(60)
    world.guard.watch.take_beat(world.desk.beat(world.now_ns, world.broker), world.now_s, world.now_ns)
    dead(world)
    for name, side, quantity in (("sells", -1, 7), ("buys", 1, 6)):
        world.run(60)
        assert world.broker.put(SubmitOrder(name, "SPY", side, quantity, None, "", 0), world.now_ns)
        world.broker.fill(name, quantity)
    world.run(LATEST + 300)
    names = [action.order.client_order_id for guard in world.guards for action in guard.acts() if type(action) is Rest]
    assert len(names) == 2
    assert world.broker.stops() == {"SPY": 4}


def test_a_person_s_sale_beside_its_stop_takes_no_stop_away() -> None:
    world = World(others=10)
    dies(world)
    by_hand = SubmitOrder("by-hand", "SPY", -1, 10, Decimal(90), "", 2**62)
    assert world.broker.put(by_hand, world.now_ns)
    world.run(HOUR)
    assert [type(action) for action in world.guard.acts()] == [Rest]


def test_a_desk_that_returns_is_told_and_the_guard_begins_anew() -> None:
    world = World()
    dies(world)
    world.desk.restart(world.now_ns)
    world.run(HOUR)
    assert world.guard.alarms() == ["desk_silent", "guard_acts", "desk_heard"]
    for order in world.broker.working(-1):
        world.broker.end(order.client_order_id)  # the desk takes it away for its sale
    world.run(HOUR)
    assert len(world.guard.acts()) == 1
    dead(world)
    world.run(HOUR)
    assert len(world.guard.acts()) == 2


# --- a thousand hours -------------------------------------------------------------------------------------------------


def test_a_thousand_hours_of_healthy_desks_with_ordinary_hiccups_bring_no_action() -> None:
    hours = 0
    for seed in range(20):
        chance, world = random.Random(seed), World(guards=2)
        for _ in range(50):
            hours += 1
            _hiccup(world, chance)
            world.run(HOUR)
            _calm(world)
        assert all(guard.acts() == [] for guard in world.guards), seed
    assert hours == 1000


def _hiccup(world: World, chance: random.Random) -> None:
    """One thing goes wrong for a while, and is mended before the hour is over."""
    lasts = chance.choice((15, 60, 240, 1800))
    path = chance.choice(RULES.paths)
    match chance.randrange(9):
        case 0:
            world.cut(path)  # the MQTT broker or the folder is gone, for everybody
        case 1:
            world.desk.carries.discard(path)  # the desk's way to it alone
        case 2:
            world.guards[0].echoes.clear()  # the guard's network
            world.guards[0].sees_broker = False
        case 3:
            world.broker.up = False
        case 4:
            world.guards[1].runs = False
        case 5:
            world.desk.runs = False  # an upgrade, a restart of the host: back within the time
            world.run(min(lasts, 240))
            world.desk.restart(world.now_ns)
        case 6:
            world.desk.clock_s = chance.choice((-20.0, 20.0))
        case 7:
            world.own("QQQ", 1, 5)
        case _:
            return
    world.run(lasts)


def _calm(world: World) -> None:
    for path in RULES.paths:
        world.mend(path)
    world.broker.up, world.desk.clock_s = True, 0.0
    for guard in world.guards:
        guard.sees_broker = guard.runs = True


def test_each_death_in_an_hour_of_trouble_before_it_is_acted_on_in_time_once_the_paths_are_whole() -> None:
    for seed in range(30):
        chance, world = random.Random(1000 + seed), World(guards=2)
        for _ in range(5):
            _hiccup(world, chance)
            _calm(world)
            world.run(60)
        died_s = dead(world)
        world.run(HOUR)
        assert world.guard.when("desk_silent"), seed
        acted = [at_s for at_s, action in world.guard.done if isinstance(action, Rest)]
        assert acted, seed
        assert acted[0] - died_s <= LATEST + 60, seed


# --- a desk of a sub-account ------------------------------------------------------------------------------------------


def shared(**other_shares: int) -> World:
    """A desk that trades through a gateway; the account holds its 10 SPY, and what others have."""
    world = World()
    world.desk.account = "PA1-scalper"
    for symbol, quantity in other_shares.items():
        world.broker.positions[symbol] = world.broker.positions.get(symbol, 0) + quantity
    return world


def test_a_sub_accounts_missing_stop_rests_whatever_the_others_hold() -> None:
    world = shared(SPY=7, QQQ=3)
    dies(world)
    (rest,) = world.guard.acts()
    assert isinstance(rest, Rest)
    assert (rest.order.symbol, rest.order.quantity) == ("SPY", 10)


def test_a_siblings_stop_covers_nothing_of_this_desk() -> None:
    world = shared(SPY=7)
    sibling = SubmitOrder("e9-other-1-0-1", "SPY", -1, 7, None, "", 2**62, stop_price=Decimal(40))
    assert world.broker.put(sibling, world.now_ns)
    dies(world)
    (rest,) = world.guard.acts()
    assert isinstance(rest, Rest)
    assert rest.order.quantity == 10
    alarm = next(a for _, a in world.guard.done if isinstance(a, Alarm) and a.name == "desk_silent")
    assert alarm.detail.endswith(": holds 10 SPY; stops at rest: 0")  # of 17 in the account, with the sibling's stop


@pytest.mark.parametrize(
    ("account", "words"),
    [("PA1-scalper", "has not 10 SPY, which the desk held"), ("PA1", "has not 10 SPY, which the desk held, but 3 QQQ")],
)
def test_what_a_desk_has_not_any_more_is_told_without_what_its_siblings_hold(account: str, words: str) -> None:
    world = World()
    world.desk.account = account
    world.run(60)
    dead(world)
    world.broker.positions = {"QQQ": 3}
    world.run(HOUR)
    details = [a.detail for _, a in world.guard.done if isinstance(a, Alarm) and a.name == "desk_silent"]
    assert details
    assert all(detail.endswith(f" s: {words}") for detail in details)


def test_a_flat_sub_account_fences_nobody_and_nothing_of_others_is_closed() -> None:
    for act in ("protect", "close"):
        world = World(replace(RULES, act=act))
        world.desk.account = "PA1-scalper"
        world.desk.holds = {}
        world.broker.positions = {"QQQ": 3}
        dies(world)
        assert world.guard.acts() == []
        world = World(replace(RULES, act=act))
        world.desk.account = "PA1-scalper"
        world.broker.positions["QQQ"] = 3
        dies(world)
        assert {type(act) for act in world.guard.acts()} == {Rest}


@pytest.mark.parametrize("act", ["protect", "close"])
def test_a_sub_account_that_was_sold_by_the_gateways_call_fences_nobody(act: Literal["protect", "close"]) -> None:
    world = World(replace(RULES, act=act))
    world.desk.account = "PA1-scalper"
    dies(world)
    call = SubmitOrder("0f3c9a52-77aa-4c6e-9d0e-5a1b2c3d4e5f", "SPY", -1, 10, None, "", 0)
    (stop,) = world.broker.working(-1)
    world.broker.end(stop.client_order_id)  # as a person's panic of this sub-account does, whose holding was all
    assert world.broker.put(call, world.now_ns)
    world.broker.fill(call.client_order_id, 10)
    acts = world.guard.acts()
    world.run(HOUR)
    assert (world.broker.positions, world.guard.acts(), world.broker.fenced) == ({}, acts, False)


def test_a_fence_from_when_the_desk_had_the_account_alone_is_lifted() -> None:
    world = World(held=0)
    dies(world)
    assert world.guard.acts() == [Fence(True)]
    world.desk.account = "PA1-scalper"  # it trades through a gateway from now on
    world.desk.runs = True
    world.run(60)
    assert world.guard.acts() == [Fence(True), Fence(False)]
    lifts = [a.detail for _, a in world.guard.done if isinstance(a, Alarm) and "lifts" in a.detail]
    assert lifts == ["it lifts its fence: others trade in the account by now"]


def test_fewer_than_the_desk_holds_is_a_doubt_with_sub_accounts_too() -> None:
    world = shared()
    world.run(60)
    dead(world)
    world.broker.positions["SPY"] = 6
    world.run(HOUR)
    assert world.guard.acts() == []
    assert "guard_unprotected" in world.guard.alarms()


def test_its_orders_bear_the_name_that_the_desk_expects_whatever_its_own_file_says() -> None:
    world = World()
    world.desk.prefix = "watchman"
    world.run(60)
    world.desk.runs = False
    world.run(600)
    assert [order.client_order_id.split("-")[0] for order in world.broker.working(-1)] == ["watchman"]
    world.run(3600)
    assert world.broker.stops() == {"SPY": 10}  # it knows its own again, and rests no second one


@pytest.mark.parametrize(
    ("sale_quantity", "rests"),
    [
        pytest.param(10, [], id="all that the desk held, or a sibling"),
        pytest.param(4, [6], id="a part"),
        pytest.param(11, [10], id="more than the desk held: another's"),
    ],
)
def test_a_sale_that_bears_no_desks_name_may_be_its_own_by_the_close_call(sale_quantity: int, rests: list[int]) -> None:
    """The broker names the order of that call; the gateway alone knows whose it was."""
    world = shared(SPY=17)
    world.run(60)
    call = SubmitOrder("0f3c9a52-77aa-4c6e-9d0e-5a1b2c3d4e5f", "SPY", -1, sale_quantity, None, "", 0)
    assert world.broker.put(call, world.now_ns)
    world.broker.fill(call.client_order_id, sale_quantity)
    dead(world)
    world.run(HOUR)
    assert [act.order.quantity for act in world.guard.acts() if isinstance(act, Rest)] == rests
    assert ("guard_unprotected" in world.guard.alarms()) is (sale_quantity <= 10)


def test_a_persons_sale_that_rests_since_before_the_last_heartbeat_is_no_close_call() -> None:
    world = shared(SPY=7)
    profit = SubmitOrder("7d1c9a52-77aa-4c6e-9d0e-5a1b2c3d4e5f", "SPY", -1, 7, Decimal(600), "", 0)
    assert world.broker.put(profit, world.now_ns)
    world.run(600)
    dead(world)
    world.run(HOUR)
    assert [act.order.quantity for act in world.guard.acts() if isinstance(act, Rest)] == [10]
    assert "guard_unprotected" not in world.guard.alarms()


def test_a_sale_at_the_market_that_waits_for_the_open_may_be_its_own_by_the_close_call() -> None:
    world = shared(SPY=17)
    call = SubmitOrder("7d1c9a52-77aa-4c6e-9d0e-5a1b2c3d4e5f", "SPY", -1, 10, None, "", 0)
    assert world.broker.put(call, world.now_ns)
    world.run(600)
    dead(world)
    world.run(HOUR)
    assert world.guard.acts() == []
    assert "guard_unprotected" in world.guard.alarms()


def test_a_siblings_own_sale_leaves_this_desk_its_whole_stop() -> None:
    world = shared(SPY=17)
    world.run(60)
    sale = SubmitOrder("0123456789-option_scalper-1-2-0", "SPY", -1, 7, None, "", 0)
    assert world.broker.put(sale, world.now_ns)
    world.broker.fill(sale.client_order_id, 7)
    dead(world)
    world.run(HOUR)
    assert world.broker.stops() == {"SPY": 10}
    assert "guard_unprotected" not in world.guard.alarms()
