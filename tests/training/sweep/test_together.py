"""Desks that differ in their rules, played together: each does to the last digit what it does by itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import pytest
import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn

from daemon.core.events import BarClosed, Event, SessionScheduled
from daemon.core.limits import Trading
from daemon.core.state import Book
from daemon.core.strategy_rules import TABLES
from strategies.option_scalper import OptionScalper
from tests.support.training.changed_rules import with_rule
from tests.support.training.made_up import MINUTE_NS, random_walk
from training.desks.scalper.data import desk_of
from training.evaluate.bars import MODELLED, BarDesk
from training.evaluate.machine import answering, remembering, started
from training.evaluate.together import Count, Differs, Limit, Mark, Together, alike, checked, common_rules
from training.studies.grid import LEFT_OUT

DATES = ("2024-05-24", "2024-05-28")  # the fifth session of the walk and the next
BEFORE = "2024-05-23"  # the session before them
USUAL: Mapping[str, Any] = {  # two closes give the volatility, and no limit ends the trading early
    "paper.volatility_sessions": 2,
    "risk.consecutive_losses_max": 3,
    "risk.cooldown_loss_s": 60,
    "risk.cooldown_trade_s": 60,
}
OTHER: Mapping[str, tuple[Any, ...]] = {  # where half and twice the default would show nothing
    "risk.confidence_min": (0.25, 0.35, 0.5),
    "risk.consecutive_losses_max": (1, 2),
    "risk.daily_loss_max": (0.02, 0.05),
    "risk.drawdown_max": (0.04, 0.08),
    "risk.orders_per_day": (3, 7),
    "risk.order_notional_max_usd": (Decimal(150), Decimal(600)),
    "risk.gross_exposure_max_usd": (Decimal(300), Decimal(900)),
    "risk.spread_max": (0.005, 0.02),
    "sizing.take_profit": (0.05, 0.1, 0.2),
    "sizing.stop_loss": (0.05, 0.1, 0.2),
    "sizing.max_contracts": (1, 2, 3),
    "sizing.premium_fraction": (0.01, 0.05),
    "sizing.trailing_stop": (0.05, 0.15),
    "sizing.time_stop_min": (2, 10),
    "execution.policy_valid_s": (1,),
    "contracts.strike": ("delta",),
    "paper.contracts_per_minute": (1, 2),
    "paper.strikes_each_side": (1, 3),
}


class Projection(nn.Module):
    """A policy that trades now and then: one layer of drawn weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(20 * 23, 6)

    def forward(self, observation: Tensor) -> Tensor:
        """Logits, float32 (n, 6)."""
        outputs: Tensor = self.layer(observation.flatten(1)) * 6.0
        return outputs


def usual() -> Trading:
    rules = Trading()
    for key, value in USUAL.items():
        rules = with_rule(key, value, rules)
    return rules


def swept_keys() -> dict[str, tuple[Any, ...]]:
    """Every key that a sweep may change and that an option desk has, with other values within its bounds."""
    keys: dict[str, tuple[Any, ...]] = {}
    for table in TABLES:
        if table == "basket":
            continue
        rules = getattr(Trading(), table)
        hints = get_type_hints(type(rules), include_extras=True)
        for field in dataclasses.fields(rules):
            key, usually = f"{table}.{field.name}", getattr(rules, field.name)
            if key in (*LEFT_OUT, "paper.volatility_sessions") or isinstance(usually, tuple):
                continue
            keys[key] = OTHER.get(key) or _other_values(usually, hints[field.name])
    return keys


def _other_values(usually: Any, hint: Any) -> tuple[Any, ...]:
    if isinstance(usually, bool):
        return (not usually,)
    if isinstance(usually, str):
        return tuple(value for value in get_args(hint) if value != usually)
    kind = type(usually)
    candidates = (usually * 2, kind(usually / 2)) if usually else (kind(1), kind(60))
    bounds = get_args(hint)[1:] if get_origin(hint) is not None else ()
    values = [value for value in candidates if value != usually and all(_within(value, bound) for bound in bounds)]
    return tuple(values[:1])


def _within(value: Any, bound: Any) -> bool:
    match bound:
        case Ge():
            return bool(value >= bound.ge)
        case Gt():
            return bool(value > bound.gt)
        case Le():
            return bool(value <= bound.le)
        case Lt():
            return bool(value < bound.lt)
    return True


def shortened(events: list[Event]) -> list[Event]:
    """Whole sessions before those played, as far as the features reach; else beginnings and ends."""
    short_events, session = list[Event](), None
    for event in events:
        if isinstance(event, SessionScheduled):
            session = event.session
        elif isinstance(event, BarClosed) and session is not None and session.date != BEFORE:
            minute = (event.bar.start_ns - session.open_ns) // MINUTE_NS
            if (120 if session.date in DATES else 0) <= minute < 390 - 45:
                continue
        short_events.append(event)
    return short_events


@pytest.fixture(scope="module")
def desk() -> BarDesk:
    return desk_of(shortened(random_walk(6, seed=5)), OptionScalper())


def test_each_key_of_a_sweep_gives_together_what_it_gives_alone(desk: BarDesk) -> None:
    """One value after the other of each key, all in one pass, next to as many dry runs."""
    rules = {"as configured": usual()}
    for key, values in swept_keys().items():
        rules |= {f"{key} {value}": with_rule(key, value, usual()) for value in values}
    policy = Projection().eval()
    assert desk.together(list(rules.values()))
    results = dict(zip(rules, desk.relay_each(policy, DATES, list(rules.values())), strict=True))
    for name, trading in rules.items():
        (alone,) = desk.relay([policy], [DATES], trading)
        assert results[name] == alone, name
    configured = results["as configured"]
    assert sum(session.trades for session in configured.sessions) > 10
    other = {name.split()[0] for name, result in results.items() if result != configured}
    assert len(other) > 25, sorted(other)


def test_combinations_give_together_what_they_give_alone(desk: BarDesk) -> None:
    """Desks part and join again, and the sizes of later trades follow from what earlier ones earned."""
    rules = [
        with_rule(
            "sizing.stop_loss", stop, with_rule("risk.confidence_min", least, with_rule("paper.taf_usd", fee, usual()))
        )
        for stop in (0.05, 0.15, 0.3)
        for least in (0.3, 0.4, 0.6)
        for fee in (Decimal("0.00279"), Decimal("0.5"))
    ]
    policy = Projection().eval()
    results = desk.relay_each(policy, DATES, rules)
    assert [desk.relay([policy], [DATES], trading)[0] for trading in rules] == results
    assert len({repr(result) for result in results}) > 12


def test_desks_with_the_same_rules_take_one_s_steps_and_part_where_a_rule_is_asked_for(desk: BarDesk) -> None:
    steps = [desks_of(desk, [usual()] * count).steps for count in (1, 5)]
    assert steps[0] == steps[1]
    unmet = [with_rule("risk.orders_per_day", most, usual()) for most in (100, 200, 300, 400)]
    assert desks_of(desk, unmet).steps == steps[0]
    never = [with_rule("sizing.take_profit", most, usual()) for most in (50.0, 60.0, 70.0, 80.0)]
    one, parted = desks_of(desk, never[:1]), desks_of(desk, never)
    assert one.steps < parted.steps < one.steps * 2
    assert len(parted.groups) == 1


def test_no_desk_is_left_with_a_mark(desk: BarDesk) -> None:
    rules = [with_rule("sizing.stop_loss", stop, usual()) for stop in (0.05, 0.1, 0.2, 0.3)]
    desks = desks_of(desk, rules)
    assert [member.state.trading for member in desks.members] == rules
    for member in desks.members:
        walk(member.state)
        walk(member.group.market_state_of(member))
    states = [member.state for member in desks.members]
    assert len({str(state.book.cash) for state in states}) > 2
    assert [state.book.cash for state in states] == [
        member.group.market_state_of(member).cash for member in desks.members
    ]


def walk(value: Any) -> None:
    """Raise for what stands for several values, however deep it is in what a state holds."""
    assert type(value) not in (Mark, Count, Limit)
    if isinstance(value, msgspec.Struct):
        for part in msgspec.structs.astuple(value):
            walk(part)
    elif isinstance(value, tuple | dict):
        for part in value.items() if isinstance(value, dict) else value:
            walk(part)


def desks_of(desk: BarDesk, rules: list[Trading]) -> Together:
    """The desks after the sessions that warm them up and two more, all with one policy."""
    spec = desk.strategy.spec
    events, _ = desk.events(DATES[0], rules[0])
    machines = [started(desk.strategy, trading, MODELLED.broker(trading, spec)) for trading in rules]
    desks = Together(machines[0].core, lambda trading: MODELLED.broker(trading, spec), machines, rules)
    desks.run(events, remembering(answering(Projection().eval(), spec)))
    return desks


def test_what_differs_is_passed_on_and_never_read() -> None:
    mark, count = Mark("book.cash"), Count("seq")
    for use in (bool, len, str, hash, float, int, repr, iter, lambda value: value == 1, lambda value: value.items()):
        for value in (mark, count):
            with pytest.raises(Differs):
                use(value)
    for use in (lambda value: value < 1, lambda value: 1 - value, lambda value: f"{value}", lambda value: value["a"]):
        for value in (mark, count):
            with pytest.raises(Differs):
                use(value)
    book = checked(Book)(cash=mark, fees=Decimal(1))
    other_book = msgspec.structs.replace(book, fees=book.fees + 1)
    assert other_book.fees == 2
    with pytest.raises(Differs, match=r"book\.cash"):
        assert other_book.cash
    assert count + 2 + 1 == Count("seq", 3)
    assert count + 1 != Count("seq", 3)
    with pytest.raises(Differs):
        assert Count("decision", 1) == count + 1


def test_a_limit_answers_where_all_of_its_values_would() -> None:
    limit = Limit("rules.risk.drawdown_max", (0.2, 0.3))
    assert (limit > 0.1, limit <= 0.1, Decimal("0.4") >= limit, min(0.05, limit)) == (True, False, True, 0.05)
    for use in (
        lambda value: value <= 0.2,
        lambda value: value < 0.25,
        lambda value: value * 2,
        lambda value: f"{value}",
    ):
        with pytest.raises(Differs):
            use(limit)
    for use in (bool, float, hash, str, lambda value: value == 0.1, lambda value: 1 - value):
        with pytest.raises(Differs):
            use(limit)


def test_a_rule_is_read_where_it_is_the_same_and_differs_where_it_is_not() -> None:
    rules = common_rules([usual(), with_rule("sizing.stop_loss", 0.1, usual())])
    assert (rules.sizing.take_profit, rules.risk) == (0.5, usual().risk)
    for read in (lambda sizing: sizing.stop_loss, dataclasses.asdict, hash):
        with pytest.raises(Differs, match=r"rules\.sizing\.stop_loss"):
            read(rules.sizing)
    rules = common_rules([usual(), with_rule("risk.order_notional_max_usd", Decimal(1), usual())])
    with pytest.raises(Differs, match=r"rules\.risk\.order_notional_max_usd"):
        assert rules.risk.premium_max_usd  # the first is above half of the exposure, the second is not


def test_values_stand_in_for_each_other_only_where_they_are_written_alike() -> None:
    assert alike({"a": (1, Decimal("1.0"))}, {"a": (1, Decimal("1.0"))})
    for one, other in (
        (Decimal("1.0"), Decimal("1.00")),
        (0.0, -0.0),
        (1, True),
        (1, 1.0),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ((1,), (1, 2)),
        (Book(cash=Decimal(1)), Book(cash=Decimal("1.0"))),
        (object(), object()),
    ):
        assert not alike(one, other)


def test_what_cannot_be_shown_equal_is_played_alone(desk: BarDesk) -> None:
    """Rules that warm up for other times, or of tables that are not read key by key; quotes of a tape."""
    assert not desk.together([usual(), with_rule("paper.volatility_sessions", 3, usual())])
    assert not desk.together([usual(), with_rule("broker.blind_min", 9, usual())])
    venue: Any = object()
    assert not dataclasses.replace(desk, venue=venue).together([usual(), usual()])
