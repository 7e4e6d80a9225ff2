"""The ladder of a desk that learns, on its own journal: what each step does to the orders, read by plain SQL."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.core.events import LadderMoved
from tests.support.desks.desk_run import records, verified
from tests.support.models.climbing import climb_online, online_desk, online_store
from tests.support.models.swaps import events

SESSIONS = 9


@pytest.fixture(scope="module")
def climbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("online")
    store = online_store(folder / "store")
    desk = online_desk(folder, store, SESSIONS - 2)
    return folder / "state", climb_online(desk, folder / "state", store, SESSIONS)


def test_a_challenger_of_a_desk_that_explores_climbs_to_the_champion(climbed: tuple[Path, list[str]]) -> None:
    state, stood = climbed
    first = stood.index("v2 canary_10")
    steps = ["canary_10", "canary_25", "canary_50", "canary_100", "champion", "champion"]
    assert stood[first : first + 6] == [f"v2 {step}" for step in steps]
    moves: list[LadderMoved] = events(state, "LadderMoved")
    passed = next(move for move in moves if move.to_step == "canary_10")
    answers = [event for event in events(state, "ShadowAnswered") if event.model == "v2"]
    assert (passed.figures["answered"], passed.figures["failed"]) == (float(len(answers)), 0.0)
    assert passed.figures["pnl"] == passed.figures["champion_pnl"]  # the same signs of every value: the same actions
    assert verified(state).difference == ""


def test_each_canary_buys_its_part_of_the_size(climbed: tuple[Path, list[str]]) -> None:
    state, _ = climbed
    begins = {move.to_step: move.time_ns for move in events(state, "LadderMoved") if move.to_step != move.from_step}
    orders = [order for order in records(state, "orders", "submitted_ns") if order["side"] > 0]
    prices = {fill["client_order_id"]: float(fill["price"]) for fill in records(state, "fills", "filled_ns")}
    spent: dict[str, list[float]] = {}
    for order in orders:
        step = max((name for name in begins if begins[name] <= order["submitted_ns"]), key=begins.__getitem__)
        spent.setdefault(step, []).append(order["quantity"] * prices[order["client_order_id"]])
    whole = spent["shadow"][0]
    for step, share in (("canary_10", 0.1), ("canary_25", 0.25), ("canary_50", 0.5), ("canary_100", 1.0)):
        assert spent[step]
        for value in spent[step]:
            assert value / whole == pytest.approx(share, rel=0.08), step  # whole shares: the tenth buys some twenty
