"""Each verdict of the campaign finds the fault that it is for, in books by hand: a check that never finds is none."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from daemon.alpaca_api.books import PositionChange
from daemon.alpaca_api.wire import stamp
from daemon.core.limits import Trading
from daemon.core.state import Halt, Identity
from daemon.engine.recover import fresh_machine
from simulator.prices.market import Market
from simulator.server import LoggedRequest
from simulator.trading.account import Account
from simulator.trading.orders import AlpacaOrder
from strategies.kit.contract import Bar, Session
from strategies.registry import strategy
from tests.chaos import verdict
from tests.support.desks.live_desk import Books

SYMBOL = "SPY241122C00480000"
OPEN_NS = 1_732_199_400_000_000_000  # 2024-11-21 09:30 New York
SECOND_NS = 1_000_000_000
LIMITS = {
    "order_contracts_max": Decimal(10),
    "position_contracts_max": Decimal(10),
    "orders_per_minute": Decimal(6),
    "orders_per_day": Decimal(100),
    "order_notional_max_usd": Decimal(25000),
    "gross_exposure_max_usd": Decimal(25000),
}


def market() -> Market:
    """One minute of SPY at 480 USD; the contract expires in the second session, at about 2 USD a share."""
    bar = Bar("SPY", OPEN_NS, 480.0, 480.0, 480.0, 480.0, 100)
    opens = {"2024-11-21": OPEN_NS, "2024-11-22": OPEN_NS + 86_400 * SECOND_NS}
    return Market([bar], sessions=[Session(day, ns, ns + 23_400 * SECOND_NS) for day, ns in opens.items()])


class Scene:
    """One account, and the journal's rows about it."""

    def __init__(self) -> None:
        self.account = Account("key", "secret")
        self.rows: dict[str, dict[str, Any]] = {}
        self.fills: list[dict[str, Any]] = []
        self.halt: Halt | None = None

    def order(self, name: str, quantity: int, second: int, *, side: str = "buy", price: str = "2.00") -> AlpacaOrder:
        """An order that reached the server, and its row in the journal."""
        at_ns = OPEN_NS + second * SECOND_NS
        order = AlpacaOrder(
            self.account.new_id(), f"e1-scalper-{name}", SYMBOL, side, "limit", "day", Decimal(quantity), None, at_ns,
            limit_price=Decimal(price), status="new",
        )  # fmt: skip
        order.past.append((at_ns, order.shown()))
        self.account.add(order)
        decision, leg, _ = name.split("-")
        self.rows[order.client_order_id] = {
            "client_order_id": order.client_order_id,
            "work": f"{decision}.{leg}",
            "purpose": "entry" if side == "buy" else "exit",
            "quantity": quantity,
            "submitted_ns": at_ns,
        }
        return order

    def fill(self, order: AlpacaOrder, quantity: int, second: int, *, journaled: int = 1) -> None:
        """An execution at the order's limit, and `journaled` rows about it."""
        at_ns, price = OPEN_NS + second * SECOND_NS, order.limit_price or Decimal(0)
        self.account.trade(PositionChange(SYMBOL, Decimal(quantity) * order.sign, price, at_ns, order.id, "x"))
        order.filled_qty += quantity
        order.cost += quantity * price
        order.status = "filled" if order.filled_qty == order.qty else "partially_filled"
        order.past.append((at_ns, order.shown()))
        row = {"client_order_id": order.client_order_id, "correction": 0, "cumulative": int(order.filled_qty)}
        self.fills += [{**row, "quantity": quantity, "price": str(price)}] * journaled

    def books(self) -> Books:
        identity = Identity("paper", "paper", "option_scalper", "e1", "sip")
        state = fresh_machine(strategy("option_scalper"), identity, Trading()).state
        risk = msgspec.structs.replace(state.risk, halt=self.halt)
        return Books(msgspec.structs.replace(state, risk=risk), self.fills, self.rows)


def limits_found(scene: Scene, **changes: int) -> list[str]:
    limits = {**LIMITS, **{name: Decimal(value) for name, value in changes.items()}}
    return verdict.limits_exceeded(scene.books(), scene.account, market(), limits, 90)


def test_fills_that_are_journaled_once_are_right_and_missing_or_doubled_ones_are_told() -> None:
    for journaled, fills in ((1, 0), (0, 1), (2, 1)):
        scene = Scene()
        scene.fill(scene.order("1-0-0", 2, 60), 2, 61, journaled=journaled)
        assert len(verdict.fills_apart(scene.books(), scene.account, whole=True)) == fills


def test_a_correction_counts_in_the_row_of_an_order_of_its_day_and_not_of_a_day_before() -> None:
    for days, apart in ((0, 1), (1, 0)):
        scene = Scene()
        order = scene.order("1-0-0", 2, 60)
        scene.fill(order, 2, 61)
        order.filled_ns = OPEN_NS + 61 * SECOND_NS
        scene.rows[order.client_order_id] |= {"filled": "2", "cost": "4.00"}
        old, at_ns = scene.account.trades[0], OPEN_NS + (days * 86_400 + 120) * SECOND_NS
        scene.account.amend(old, replace(old, price=old.price + Decimal("0.50")))
        row = {"status": "correct", "order_id": order.id, "transaction_time": stamp(at_ns)}
        scene.account.note(at_ns, {"activity_type": "FILL", **row}, amends=old.execution_id)
        assert len(verdict.fills_apart(scene.books(), scene.account, whole=True)) == apart


def test_cash_and_positions_that_differ_are_told() -> None:
    scene = Scene()
    assert "cash" in verdict.disagreements(scene.books(), scene.account)[0]  # 10,000 USD against an empty book
    scene.fill(scene.order("1-0-0", 2, 60), 2, 61)
    assert "positions" in verdict.disagreements(scene.books(), scene.account)[1]


def test_a_second_accepted_post_of_one_name_is_told_and_a_refused_one_is_not() -> None:
    scene = Scene()
    name = scene.order("1-0-0", 2, 60).client_order_id
    posts = [
        LoggedRequest(OPEN_NS + 61 * SECOND_NS, "POST", "/v2/orders", json.dumps({"client_order_id": name}), status, "")
        for status in (200, 422, 200)
    ]
    assert verdict.posts_apart(posts[:2], scene.account) == []
    assert verdict.posts_apart(posts, scene.account) == [f"{name}: 2 accepted POSTs"]


def test_a_second_attempt_beside_a_live_one_exceeds_the_decisions_intent() -> None:
    scene = Scene()
    scene.fill(scene.order("1-0-0", 4, 60), 3, 61)
    assert verdict.intents_exceeded(scene.books(), scene.account) == []
    scene.order("1-0-1", 1, 120)  # the first one still may fill its last contract
    assert len(verdict.intents_exceeded(scene.books(), scene.account)) == 1


def test_an_order_that_no_journal_knows_is_told() -> None:
    scene = Scene()
    scene.rows.pop(scene.order("1-0-0", 1, 60).client_order_id)
    assert "not in the journal" in verdict.intents_exceeded(scene.books(), scene.account)[0]


def test_a_sale_of_more_than_was_held_is_told() -> None:
    scene = Scene()
    scene.fill(scene.order("1-0-0", 2, 60), 2, 61)
    assert verdict.oversold(scene.account) == []
    scene.fill(scene.order("2-1-0", 3, 120, side="sell"), 3, 121)
    assert len(verdict.oversold(scene.account)) == 1


def test_an_entry_decided_after_the_halt_is_told_and_an_exit_is_not() -> None:
    scene = Scene()
    scene.halt = Halt("operator", "", OPEN_NS + 100 * SECOND_NS)
    scene.order("1-0-0", 1, 60)
    scene.order("2-1-0", 1, 120, side="sell")
    assert verdict.entered_while_halted(scene.books(), scene.account) == []
    scene.order("3-0-0", 1, 120)
    assert len(verdict.entered_while_halted(scene.books(), scene.account)) == 1


def test_every_limit_that_an_order_goes_above_is_told() -> None:
    scene = Scene()
    scene.fill(scene.order("1-0-0", 4, 30), 4, 31)  # 800 USD
    scene.order("2-0-0", 5, 50)  # 1,000 USD more
    assert limits_found(scene) == []
    for name, largest in (
        ("order_contracts_max", 4),
        ("order_notional_max_usd", 999),
        ("position_contracts_max", 3),
        ("orders_per_minute", 1),
        ("orders_per_day", 1),
        ("gross_exposure_max_usd", 1000),
    ):
        assert limits_found(scene, **{name: largest}), name


def test_a_person_s_shares_are_no_exposure_of_the_desk() -> None:
    scene = Scene()
    scene.account.trade(
        PositionChange("SPY", Decimal(6), Decimal(480), OPEN_NS + 10 * SECOND_NS, "by hand", "x")
    )  # 2,880 USD
    scene.order("1-0-0", 5, 50)  # 1,000 USD
    assert limits_found(scene, gross_exposure_max_usd=1000) == []
    assert limits_found(scene, gross_exposure_max_usd=999)


def test_a_planted_secret_is_found_in_any_file_and_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "journal.sqlite-wal").write_bytes(b"\x00\xffsecret-planted\x00")
    (tmp_path / "log").write_text("nothing")
    leaks = verdict.leaks(tmp_path, ("key-planted", "secret-planted"))
    assert leaks == ["journal.sqlite-wal holds planted secret 1"]
