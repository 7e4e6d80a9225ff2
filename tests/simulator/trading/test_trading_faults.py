"""The script of faults on the trading REST, met by the unchanged alpaca-py `TradingClient`.

Expected values: the documentation, and arithmetic by hand on `trading_tape.py` (a share costs 500.01, brings 500.00).
"""

from __future__ import annotations

import contextlib
import re
import warnings
from typing import Any

import pytest
import requests

from simulator.faults import KINDS, Faults
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET
from strategies.kit.units import SECOND_NS
from tests.support.paths import REPOSITORY
from tests.support.simulator.trading_tape import (
    CALL,
    MINUTE_NS,
    OPEN_NS,
    Impatient,
    broker,
    buy,
    buy_limit,
    found,
    held,
    refused,
    submitted,
)

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "websockets.legacy", DeprecationWarning)
    from alpaca.common.exceptions import APIError
    from alpaca.trading import models
    from alpaca.trading.client import TradingClient
    from alpaca.trading.enums import OrderStatus


def test_the_rate_limit_is_two_hundred_a_simulated_minute_and_every_reply_tells_it() -> None:
    with broker() as (server, _):
        keys = {"APCA-API-KEY-ID": DEFAULT_KEY, "APCA-API-SECRET-KEY": DEFAULT_SECRET}
        with requests.Session() as session:
            replies = [session.get(server.trading_url + "/v2/clock", headers=keys, timeout=60) for _ in range(201)]
            assert [reply.status_code for reply in replies] == [200] * 200 + [429]
            assert [replies[index].headers["X-Ratelimit-Remaining"] for index in (0, 199, 200)] == ["199", "0", "0"]
            assert replies[0].headers["X-Ratelimit-Limit"] == "200"
            assert int(replies[0].headers["X-Ratelimit-Reset"]) == (OPEN_NS + 11 * MINUTE_NS) // SECOND_NS
            server.jump_to(OPEN_NS + 11 * MINUTE_NS)
            assert session.get(server.trading_url + "/v2/clock", headers=keys, timeout=60).status_code == 200


@pytest.mark.parametrize(
    ("kind", "parameters", "raised"),
    [
        ("http_error", {"status": 500, "moment": "after"}, APIError),
        ("http_error", {"status": 503, "moment": "after", "body": "empty"}, APIError),
        ("http_html", {"moment": "after"}, APIError),
        ("http_reset", {}, requests.ConnectionError),
        ("http_empty_body", {}, TypeError),  # alpaca-py has no answer to an empty one
        ("malformed_json", {}, requests.JSONDecodeError),
    ],
)
def test_a_reply_that_fails_after_the_order_was_accepted_leaves_the_order_alive(
    kind: str, parameters: dict[str, Any], raised: type[Exception]
) -> None:
    faults = Faults()
    faults.add(kind, where={"method": "POST"}, **parameters)
    with broker(faults=faults) as (_, client):
        with pytest.raises(raised):
            client.submit_order(buy(CALL, 1, client_order_id="desk-1"))
        order = client.get_order_by_client_id("desk-1")
        assert isinstance(order, models.Order)
        assert order.status == OrderStatus.FILLED
        assert faults.met == {kind: 1}
        assert not faults.met_exposed[kind]  # nothing was open when it began


def test_an_error_before_the_order_was_accepted_leaves_nothing() -> None:
    faults = Faults()
    faults.add("http_error", status=502, where={"method": "POST"})
    with broker(faults=faults) as (server, client):
        with pytest.raises(APIError):
            client.submit_order(buy(CALL, 1, client_order_id="desk-1"))
        with refused(404, 40410000, "order not found for desk-1"):
            client.get_order_by_client_id("desk-1")
        assert [(row.method, row.status) for row in server.server.requests] == [("POST", 502), ("GET", 404)]


def test_a_reply_that_never_comes_runs_into_the_clients_timeout_and_the_order_lives() -> None:
    faults = Faults()
    faults.add("http_hang", where={"path": "/v2/orders"}, seconds=20)
    with broker(faults=faults) as (_, client):
        client._session.mount("http://", Impatient())
        with pytest.raises(requests.ReadTimeout):
            client.submit_order(buy(CALL, 1, client_order_id="desk-1"))
        assert client.get_order_by_client_id("desk-1") is not None


def test_a_status_of_tomorrow_breaks_alpaca_pys_list_and_raw_data_reads_it() -> None:
    faults = Faults()
    faults.add("http_unknown_enum", times=2, where={"method": "GET"})
    with broker(faults=faults) as (server, client):
        submitted(client, buy_limit("SPY", 1, 400.0))
        with pytest.raises(ValueError, match="status_of_tomorrow"):
            client.get_orders()
        raw = TradingClient(DEFAULT_KEY, DEFAULT_SECRET, url_override=server.trading_url, raw_data=True)
        with contextlib.closing(raw._session):
            orders: Any = raw.get_orders()
        assert [order["status"] for order in orders] == ["status_of_tomorrow"]


def test_a_stale_read_does_not_yet_know_the_order() -> None:
    faults = Faults()
    with broker(faults=faults) as (_, client):
        order = submitted(client, buy(CALL, 1))
        faults.add("stale_read", age_s=5, times=2)
        with refused(404, 40410000, "order not found"):
            client.get_order_by_id(order.id)
        assert client.get_all_positions() == []
        assert held(client, CALL).qty == "1"
        assert faults.met_exposed["stale_read"] == 2


def test_a_cancellation_may_lose_be_refused_later_or_never_come() -> None:
    faults = Faults()
    with broker(faults=faults) as (server, client):
        lost_order, stuck, working = (submitted(client, buy_limit(CALL, 1, 0.01 + number / 100)) for number in range(3))
        faults.add("cancel_loses")
        client.cancel_order_by_id(lost_order.id)
        assert found(client, lost_order).status == OrderStatus.FILLED
        faults.add("cancel_stuck")
        client.cancel_order_by_id(stuck.id)
        faults.add("cancel_rejected")
        client.cancel_order_by_id(working.id)
        assert found(client, working).status == OrderStatus.NEW
        server.jump_to(OPEN_NS + 100 * MINUTE_NS)
        assert found(client, stuck).status == OrderStatus.PENDING_CANCEL


def test_a_cancelled_order_may_fill_all_the_same() -> None:
    faults = Faults()
    with broker(faults=faults) as (_, client):
        order = submitted(client, buy_limit(CALL, 2, 0.01))
        faults.add("cancel_overtaken", delay_s=0)
        client.cancel_order_by_id(order.id)
        order_after = found(client, order)
        assert (order_after.status, order_after.filled_qty, held(client, CALL).qty) == (OrderStatus.FILLED, "2", "2")
        assert order_after.canceled_at is not None


def test_a_documented_refusal_can_be_scripted_by_name() -> None:
    faults = Faults()
    faults.add("order_refused", reason="pattern_day_trader")
    faults.add("order_refused", status=403, code=40319999, message="for a reason of tomorrow")
    with broker(faults=faults) as (_, client):
        with refused(403, 40310100, "trade denied due to pattern day trading protection"):
            client.submit_order(buy(CALL, 1))
        with refused(403, 40319999, "for a reason of tomorrow"):
            client.submit_order(buy(CALL, 1))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v2/orders?limit=501", "limit must be between 1 and 500"),
        ("/v2/orders?status=some", "invalid status"),
        ("/v2/orders?after=yesterday", "invalid time yesterday"),
        ("/v2/account/activities?page_size=101", "page_size must be between 1 and 100"),
        (
            "/v2/account/activities?activity_types=FILL&category=trade_activity",
            "only one of activity_types or category",
        ),
    ],
)
def test_a_query_that_makes_no_sense_is_refused(path: str, words: str) -> None:
    keys = {"APCA-API-KEY-ID": DEFAULT_KEY, "APCA-API-SECRET-KEY": DEFAULT_SECRET}
    with broker() as (server, client):
        submitted(client, buy_limit("SPY", 1, 400.0))
        reply = requests.get(server.trading_url + path, headers=keys, timeout=60)
        assert reply.status_code == 422
        assert words in reply.json()["message"]


def test_an_unknown_endpoint_and_a_body_that_is_no_object_are_told_apart() -> None:
    keys = {"APCA-API-KEY-ID": DEFAULT_KEY, "APCA-API-SECRET-KEY": DEFAULT_SECRET}
    with broker() as (server, _):
        nowhere = requests.get(server.trading_url + "/v2/nowhere", headers=keys, timeout=60)
        assert (nowhere.status_code, nowhere.json()["code"]) == (404, 40410000)
        for body in ("[1]", "{"):
            reply = requests.post(server.trading_url + "/v2/orders", data=body, headers=keys, timeout=60)
            assert (reply.status_code, reply.json()["code"]) == (422, 40010001)


@pytest.mark.parametrize(
    ("kind", "parameters", "status"),
    [
        ("http_429", {"retry_after_s": 7}, 429),
        ("auth_failed", {}, 401),
        ("auth_failed", {"status": 403}, 403),
        ("http_slow", {"seconds": 0.01}, 200),
        ("http_unknown_field", {}, 200),
    ],
)
def test_faults_of_plain_http_have_their_status(kind: str, parameters: dict[str, Any], status: int) -> None:
    keys = {"APCA-API-KEY-ID": DEFAULT_KEY, "APCA-API-SECRET-KEY": DEFAULT_SECRET}
    faults = Faults()
    faults.add(kind, **parameters)
    with broker(faults=faults) as (server, _):
        reply = requests.get(server.trading_url + "/v2/account", headers=keys, timeout=60)
        assert reply.status_code == status
        assert reply.headers.get("Retry-After") == ("7" if kind == "http_429" else None)
        assert ("field_of_tomorrow" in reply.json()) == (kind == "http_unknown_field")
        assert requests.get(server.trading_url + "/v2/account", headers=keys, timeout=60).status_code == 200


def test_the_same_seed_gives_the_same_fault_at_the_same_opportunities() -> None:
    def hits(seed: int) -> list[bool]:
        faults = Faults(seed)
        faults.add("update_lost", chance=0.3, until_ns=10)
        return [faults.take("update_lost") is not None for _ in range(50)]

    assert hits(7) == hits(7)
    assert hits(7) != hits(8)
    assert 0 < sum(hits(7)) < 50


def test_the_readme_has_a_line_for_each_fault_and_for_no_other() -> None:
    readme = (REPOSITORY / "simulator" / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", readme, re.MULTILINE))
    assert rows == KINDS


def test_an_unknown_kind_of_fault_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="found 'earthquake'"):
        Faults().add("earthquake")
