"""`rltraderctl try-protection` at the loopback Alpaca: what it asks and learns, and that it leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.brokers.alpaca import trial
from daemon.cli.ctl import main
from daemon.host.account_lock import AccountLock, Holder
from simulator.clock import SimClock
from simulator.prices.market import Market
from simulator.server import RunningServer, serving
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET, Rules
from strategies.kit.contract import Bar
from tests.support.alpaca.rest_desk import MINUTE_NS, OPEN_NS, SESSIONS
from tests.support.desks.live_desk import write_config

HOUR_NS = 3_600 * 10**9
SETTLED = "settled for paper: "


def market() -> Market:
    """An hour of SPY at 545.00, with contracts whose sides are ten cents apart."""
    bars = [Bar("SPY", OPEN_NS + m * MINUTE_NS, 545.0, 545.0, 545.0, 545.0, 1000.0) for m in range(60)]
    return Market(bars, sessions=SESSIONS, half_spread_min_usd=0.05)


class Host:
    """A host with keys of the paper account. `tries` runs the command and returns what it printed."""

    def __init__(
        self, server: RunningServer, clock: SimClock, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.server, self.clock, self.folder, self.capsys = server, clock, folder, capsys

    def tries(self, code: int, *tables: Any, yes: bool = True) -> tuple[str, dict[str, str]]:
        path = write_config(self.folder / "config.toml", self.server, self.clock, self.folder / "state", *tables)
        assert main(["try-protection", "--config", str(path), *(["--yes"] if yes else [])]) == code
        output = self.capsys.readouterr()
        for key in (DEFAULT_KEY, DEFAULT_SECRET):
            assert key not in output.out + output.err
        lines = [line.removeprefix(SETTLED) for line in output.out.splitlines() if line.startswith(SETTLED)]
        return output.out + output.err, dict(line.split(": ", 1) for line in lines)

    def sent(self) -> int:
        return sum(request.method != "GET" for request in self.server.server.requests)

    def left(self) -> tuple[Any, Any, bool]:
        account = self.server.server.account
        return self.server.call(
            lambda: (dict(account.positions), list(account.working), bool(account.configuration["suspend_trade"]))
        )


Opener = Callable[..., contextlib.AbstractContextManager[Host]]


@pytest.fixture
def open_host(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Opener:
    for name in list(os.environ):
        if name.startswith(("RLTRADER_", "APCA_", "CREDENTIALS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("APCA_API_KEY_ID", DEFAULT_KEY)
    monkeypatch.setenv("APCA_API_SECRET_KEY", DEFAULT_SECRET)
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "locks"))
    (tmp_path / "locks").mkdir()
    monkeypatch.setattr(trial, "WAIT_S", 3.0)
    monkeypatch.setattr(trial, "WATCH_S", 2.0)
    monkeypatch.setattr(trial, "POLL_S", 0.05)

    @contextlib.contextmanager
    def opening(*, hours: float = 0.1, rules: Rules | None = None) -> Iterator[Host]:
        clock = SimClock.starting_now(OPEN_NS + int(hours * HOUR_NS), 10)
        with serving(market(), clock, rules=rules) as server:  # prices that stand still
            yield Host(server, clock, tmp_path, capsys)

    return opening


def test_each_question_has_its_answer_and_the_account_is_flat_again(open_host: Opener) -> None:
    with open_host(rules=Rules(stop_elects="bid", cash_rounding="fill")) as host:
        output, settled = host.tries(0)
        assert host.left() == ({}, [], False)
    assert settled["a buy beside the stop"] == "refused"  # the server refuses wash trades, as Alpaca documents
    assert settled["a second sale of what the stop covers"] == "refused"
    assert settled["the close call while a stop holds the share"].startswith("refused: 403")
    assert settled["PATCH of a stop"] == "another id, the old one is replaced after it"
    assert settled["a buy while suspended"] == "refused"
    assert settled["a resting stop while suspended"] == "new"
    assert settled["SPY is fractionable"] == "True"
    assert settled["a buy of 0.000000001 of a share"].startswith("filled at 545.01")
    # 0.123456789 at 545.01 is 67.28518457289 USD
    assert settled["the cash of a fraction"].startswith("rounded to cents: 67.29 USD for 0.123456789 SPY in 1 fills")
    assert settled["a stop of a fraction, day"] == "taken"
    assert settled["a stop of a fraction, gtc"] == settled["a fraction for the auction"] == "refused"
    assert settled["the close call of 0.000000001 of a share"] == "taken"
    assert settled["what the close call of a fraction leaves"] == "nothing"
    assert settled["a stop of the contract, gtc"] == "refused"
    assert settled["a stop of the contract, day"] == settled["a stop_limit of the contract, day"] == "new"
    assert settled["what elects an option's stop"].startswith("the bid elected it")
    assert "settled for live money: nothing" in output


def test_a_stop_of_an_option_that_only_a_trade_elects_is_told_from_one_of_the_bid(open_host: Opener) -> None:
    with open_host(rules=Rules(stop_elects="print")) as host:
        _, settled = host.tries(0)
        assert host.left() == ({}, [], False)
    assert settled["what elects an option's stop"].startswith("the bid did not elect it within 2 s (it is new after ")


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"desk": {"account": "live", "account_number": "9LIVE"}}, "this buys and sells, on paper alone"),
        ({"desk": {"account_number": "PA9OTHER"}}, "these keys open account PA3LOOPBACK1, and desk.account_number"),
    ],
)
def test_live_money_and_another_account_are_refused(open_host: Opener, tables: dict[str, Any], words: str) -> None:
    with open_host() as host:
        output, _ = host.tries(2, tables)
        assert (words in output, host.sent()) == (True, 0)


def test_an_account_that_holds_something_is_left_alone(open_host: Opener) -> None:
    with open_host() as host:
        host.server.call(
            lambda: host.server.server.by_hand(
                "place", symbol="SPY", qty="3", side="buy", time_in_force="day", type="market"
            )
        )
        before = host.left()
        output, _ = host.tries(2)
        assert ("the account is not flat" in output, host.sent(), host.left()[1:]) == (True, 0, before[1:])


def test_a_closed_market_a_desk_at_work_and_no_terminal_are_refused(open_host: Opener, tmp_path: Path) -> None:
    with open_host(hours=-2.0) as host:
        assert "the market is closed" in host.tries(2)[0]
        assert "--yes starts it" in host.tries(2, yes=False)[0]
        lock = AccountLock(tmp_path / "locks", Holder("paper-1", "/state", 7), host.server.trading_url)
        lock.claim_key(DEFAULT_KEY)
        assert "paper-1" in host.tries(2)[0]
        lock.close()
        assert host.sent() == 0


def test_what_it_bought_is_sold_though_the_broker_stops_to_answer_in_between(open_host: Opener) -> None:
    with open_host() as host:
        host.server.server.faults.add(
            "http_error", times=1, after=1, status=503, where={"path": "/v2/orders", "method": "POST"}
        )
        output, _ = host.tries(0)
        assert "the trial ends here" in output
        assert host.left() == ({}, [], False)
