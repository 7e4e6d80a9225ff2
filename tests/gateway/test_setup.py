"""What a person begins with: the files that `init` and `desk` write, and what they say."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
import socket
import stat
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from daemon.brokers.api import BrokerError
from daemon.config.kept_feed import kept_feed
from daemon.config.load import KEYS, ConfigError, Credentials, load
from daemon.config.tables import DeskSettings
from daemon.gateway import command
from daemon.gateway.books import Ledgers, SubAccount
from daemon.gateway.command import ask, check, closing_text, main, serve_until_signal, show, with_feeds
from daemon.gateway.config import (
    AccountLimits,
    GatewaySettings,
    GatewayTable,
    client_keys,
    key_files,
    limits_in_cents,
    load_gateway,
    load_or_last,
    make_keys,
    usable_keys,
)
from daemon.gateway.journal import read_books
from daemon.gateway.server import CONTROL_SOCKET
from daemon.gateway.setup import SetupRequest, desk_file, init, parse_sub, shared_symbols
from daemon.gateway.upstream import Upstream
from daemon.host.account_lock import AccountLock, Holder
from daemon.host.passing import MayPass
from daemon.host.service import Service
from daemon.host.time.clock import Clock, LeapWatch
from daemon.journal.journal import FILE
from daemon.journal.reader import ROTATING
from daemon.journal.rows import JournalBusy, JournalError, WriteFailed
from simulator.server import AlpacaServer
from simulator.trading.account import Account
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET
from strategies.kit.units import HOUR_NS, SECOND_NS
from tests.support.gateway_stage import OPEN_NS, gateway_on, keys_of, market, table
from tests.support.gateway_stage import broker as stage_broker
from tests.support.log import LogRecorder
from tests.support.paths import REPOSITORY
from tests.support.simulator.lone_loop import clock_of_loop
from tests.support.simulator.trade_listeners import until

NEWCOMER = '[sub_account.third]\ncapital = "90000"\n\n[sub_account.scalper]'
SUBS = ("scalper:10000:options:SPY", "rebalancer:50000:shares")


def broker(cash: str = "100000") -> AlpacaServer:
    """The loopback Alpaca with one account."""
    account = Account(DEFAULT_KEY, DEFAULT_SECRET, cash=Decimal(cash), margin=1)
    return AlpacaServer(market(), clock_of_loop(OPEN_NS), accounts=[account])


def order(folder: Path, url: str, *subs: str) -> SetupRequest:
    """What a person asks for."""
    return SetupRequest(
        folder / "gateway.toml", subs, live=False, url=url, port=8433, state_dir=str(folder / "gateway")
    )


async def test_init_writes_a_file_that_loads_and_keys_that_their_owner_alone_reads(tmp_path: Path) -> None:
    async with broker() as alpaca:
        output = await init(order(tmp_path, alpaca.trading_url, *SUBS), keys_of(alpaca))
    settings = load_gateway(tmp_path / "gateway.toml")
    table = settings.sub_accounts["scalper"]
    assert table.capital == 10000
    assert (list(table.kinds), list(table.symbols)) == (["options"], ["SPY"])
    assert settings.upstream.alpaca.trading_url == alpaca.trading_url
    pairs = client_keys(settings)
    assert pairs.keys() == {"scalper", "rebalancer"}
    for file in (tmp_path / "gateway" / "keys").glob("*/*"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = (tmp_path / "gateway.toml").read_text() + output
    assert not any(pair.key in text or pair.secret in text for pair in pairs.values())
    assert "100000.00 USD, holds nothing" in output
    assert "desk rebalancer --strategy NAME > rebalancer.toml" in output


async def test_capital_that_the_account_does_not_have_is_refused_with_the_figures(tmp_path: Path) -> None:
    async with broker("55000") as alpaca:
        with pytest.raises(ConfigError, match=r"55000\.00 USD in cash, and the capital of all is 60000"):
            await init(order(tmp_path, alpaca.trading_url, *SUBS), keys_of(alpaca))
    assert not (tmp_path / "gateway.toml").exists()


async def test_capital_is_no_cash_that_a_persons_order_or_short_position_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = Account(DEFAULT_KEY, DEFAULT_SECRET, cash=Decimal(100000), margin=2)
    async with AlpacaServer(market("QQQ"), clock_of_loop(OPEN_NS + HOUR_NS), accounts=[account]) as alpaca:
        alpaca.by_hand("place", symbol="SPY", qty="20", side="sell")
        await until(lambda: "SPY" in alpaca.account.positions)  # 10,000 USD came in, which buy it back
        kept = {"symbol": "QQQ", "qty": "100", "type": "limit", "limit_price": "490", "time_in_force": "gtc"}
        alpaca.by_hand("place", side="buy", **kept)
        words = r"110000\.00 USD in cash, 51000\.00 of it free of orders and short positions, and the capital of all is"
        with pytest.raises(ConfigError, match=f"{words} 60000 "):
            await init(order(tmp_path, alpaca.trading_url, *SUBS), keys_of(alpaca))
        assert not (tmp_path / "gateway.toml").exists()
        async with gateway_on(alpaca, tmp_path / "g", table("a", "40000")) as s:
            settings, books = s.gateway.settings, s.books
            await s.settled()
            kept_words = r"main has 10999\.90 USD that no order"  # the middle is 500.005
            with pytest.raises(ValueError, match=kept_words):
                await s.gateway.transfer("main", "a", Decimal(11001), "", Decimal(0), "test", "more")
            new = dataclasses.replace(settings, sub_accounts={**settings.sub_accounts, "b": table("b", "11001")})
            with pytest.raises(ConfigError, match=kept_words):
                command.newcomers(new, books, OPEN_NS)
        monkeypatch.setattr("daemon.gateway.command.clock_of", lambda _: Clock.real(alpaca.clock.now_ns))
        tables = {"a": table("a", "51001")}
        findings = await check(dataclasses.replace(settings, sub_accounts=tables), keys_of(alpaca), Ledgers(), "")
        assert any(not right and re.search(f"{words} 51001 ", text) for right, text in findings)


async def test_an_account_that_owes_cash_serves_sub_accounts_without_capital(tmp_path: Path) -> None:
    async with broker("-500") as alpaca:
        await init(order(tmp_path, alpaca.trading_url, "scalper:0"), keys_of(alpaca))
    assert load_gateway(tmp_path / "gateway.toml").sub_accounts["scalper"].capital == 0


@pytest.mark.parametrize("capital", ["10000.005", "0.001"])
async def test_capital_with_parts_of_a_cent_is_refused_wherever_it_is_given(tmp_path: Path, capital: str) -> None:
    words = rf"capital is {re.escape(capital)}: expected USD in whole cents"
    async with broker() as alpaca:
        with pytest.raises(ConfigError, match=f"^--sub scalper:{re.escape(capital)}: {words}"):
            await init(order(tmp_path, alpaca.trading_url, f"scalper:{capital}"), keys_of(alpaca))
        file = await at(alpaca, tmp_path)
        replace_line(file, "capital = 10000 ", f"capital = {capital} ")
        settings, journal = (
            load_gateway(file),
            Ledgers(accounts={"rebalancer": SubAccount("rebalancer", "1-rebalancer")}),
        )
        for books in (Ledgers(), journal):
            with pytest.raises(ConfigError, match=f"sub_account.scalper.{words}"):
                command.newcomers(settings, books, OPEN_NS)
        findings = await check(settings, keys_of(alpaca), Ledgers(), "paper")
        assert any(not right and "expected USD in whole cents" in text for right, text in findings)
    began = Ledgers(accounts={name: SubAccount(name, name) for name in ("scalper", "rebalancer")})
    assert command.newcomers(settings, began, OPEN_NS) == []  # it began with that long ago: its exits are not shut


async def test_symbols_that_the_broker_does_not_know_are_named_before_a_desk_is_denied_them(tmp_path: Path) -> None:
    async with broker() as alpaca:
        with pytest.raises(ConfigError) as refused:
            await init(
                order(tmp_path, alpaca.trading_url, "one:500:shares:SPY,SPYY", "two:500:options:QQQQ"), keys_of(alpaca)
            )
        assert str(refused.value).splitlines() == [
            "sub_account.one.symbols has SPYY, which the broker does not know: correct it",
            "sub_account.two.symbols has QQQQ, which the broker does not know: correct it",
        ]
        assert not (tmp_path / "gateway.toml").exists()
        file = await at(alpaca, tmp_path)
        replace_line(file, 'symbols = ["SPY"]', 'symbols = ["SPYY"]')
        findings = await check(load_gateway(file), keys_of(alpaca), Ledgers(), "paper")
        wrong = [text for right, text in findings if not right]
        assert wrong == ["sub_account.scalper.symbols has SPYY, which the broker does not know: correct it"]


async def test_a_sub_account_that_is_given_twice_is_named_before_anything_is_written(tmp_path: Path) -> None:
    async with broker() as alpaca:
        with pytest.raises(ConfigError, match=r"^--sub scalper: is given 2 times: give each sub-account another name"):
            await init(order(tmp_path, alpaca.trading_url, *SUBS, "scalper:5"), keys_of(alpaca))
    assert not (tmp_path / "gateway.toml").exists()


async def test_keys_that_the_broker_refuses_are_named_with_the_cure_and_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    async with broker() as alpaca:
        await init(order(tmp_path, alpaca.trading_url, *SUBS), keys_of(alpaca))
        file = tmp_path / "gateway.toml"
        monkeypatch.setenv("APCA_API_KEY_ID", DEFAULT_KEY)
        monkeypatch.setenv("APCA_API_SECRET_KEY", "ofanother")
        ways = (
            ["--config", str(file), "--check"],
            ["--config", str(tmp_path / "b.toml"), "init", "--url", alpaca.trading_url],
        )
        for arguments in ways:
            assert await asyncio.to_thread(main, arguments) == 1
            text = "".join(capsys.readouterr())
            assert "the broker refuses the account's keys (401" in text
            assert "correct APCA_API_KEY_ID and APCA_API_SECRET_KEY" in text
            assert "ofanother" not in text
            assert DEFAULT_KEY not in text


async def test_the_environment_of_a_simulator_is_written_into_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with broker() as alpaca:
        for name in ("trading_url", "data_url", "stream_url", "trade_stream_url", "option_stream_url"):
            monkeypatch.setenv(f"RLTRADER_ALPACA__{name.upper()}", getattr(alpaca, name))
        monkeypatch.setenv("RLTRADER_CLOCK__SIM_START", "2025-06-02T09:30:00-04:00")
        monkeypatch.setenv("RLTRADER_CLOCK__ANCHOR_UNIX_S", "1795655820.5")
        monkeypatch.setenv("RLTRADER_CLOCK__RATE", "60.0")
        await init(order(tmp_path, "", *SUBS), keys_of(alpaca))
        clock = tomllib.loads((tmp_path / "gateway.toml").read_text())["clock"]
        assert clock == {"anchor_unix_s": 1795655820.5, "sim_start": "2025-06-02T09:30:00-04:00", "rate": 60.0}


async def test_the_file_of_a_desk_has_the_gateway_s_addresses_and_its_clock_and_no_key(tmp_path: Path) -> None:
    async with broker() as alpaca:
        await init(order(tmp_path, alpaca.trading_url, *SUBS), keys_of(alpaca))
    settings = load_gateway(tmp_path / "gateway.toml")
    with pytest.raises(ConfigError, match=r"^--strategy option_scalpr: expected one of option_scalper, .*path/to/file"):
        desk_file(settings, "scalper", "option_scalpr")
    assert 'strategy = "mine/cross.py"' in desk_file(settings, "scalper", "mine/cross.py")
    text = desk_file(settings, "scalper", "option_scalper")
    (tmp_path / "scalper.toml").write_text(text)
    desk = load(tmp_path / "scalper.toml", {}, {})
    assert (desk.desk.name, desk.desk.strategy, desk.desk.account) == ("scalper", "option_scalper", "paper")
    assert desk.desk.account_number == f"{settings.gateway.account_number}-scalper"
    assert desk.alpaca.trading_url == "http://127.0.0.1:8433"
    assert desk.alpaca.stream_url == "ws://127.0.0.1:8433/v2/{feed}"
    assert desk.alpaca.trade_stream_url == "ws://127.0.0.1:8433/stream"
    pairs = client_keys(settings).values()
    assert not any(pair.key in text or pair.secret in text for pair in pairs)
    assert DEFAULT_SECRET not in text


@pytest.mark.parametrize("when", ["at its start", "while it runs"])
async def test_keys_of_another_account_end_it_with_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))  # of the locks
    async with broker() as alpaca:
        await init(order(tmp_path, alpaca.trading_url, *SUBS), keys_of(alpaca))
        text = (tmp_path / "gateway.toml").read_text()
        (tmp_path / "gateway.toml").write_text(text.replace("port = 8433", "port = 0"))
        settings, clock = load_gateway(tmp_path / "gateway.toml"), Clock.real(alpaca.clock.now_ns)
        folder = Path(settings.gateway.state_dir)

        running = asyncio.create_task(serve_until_signal(settings, keys_of(alpaca), clock, folder))
        await until(lambda: alpaca.trade_stream.listeners(DEFAULT_KEY) == 1)
        if when == "at its start":
            running.cancel()
            await asyncio.wait({running})
        alpaca.account.account_number = "PA0000OTHER"
        if when == "at its start":
            running = asyncio.create_task(serve_until_signal(settings, keys_of(alpaca), clock, folder))
        else:
            alpaca.trade_stream.cut(hold_s=0)
        expected = "the keys open account PA0000OTHER, and the journal is of account PA3LOOPBACK1"
        with pytest.raises(ConfigError, match=expected):
            await asyncio.wait_for(running, 30)


def test_sub_accounts_that_may_meet_are_named() -> None:
    texts = ("a:1:shares:SPY,QQQ", "b:1:shares:QQQ", "c:1:options:QQQ", "d:1:shares", "e:1:shares")
    found = [words.partition(":")[0] for words in shared_symbols(map(parse_sub, texts))]
    assert [words for words in found if " and e " not in words or words.startswith("d ")] == [
        "a and b may both trade QQQ",
        "a and d may both trade QQQ, SPY",
        "b and d may both trade QQQ",
        "d and e may both trade any symbol",
    ]


async def test_a_check_beside_open_positions_compares_the_file_with_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage_broker() as alpaca:
        async with gateway_on(alpaca, tmp_path) as s:
            await s.place("b", 2)
            alpaca.by_hand("place", symbol="SPY", qty="100", side="buy")  # 50,000 USD, which are no longer in cash
            await s.until(lambda: bool(s.held("b")) and bool(s.held("main")))
            await s.place("b", 1, type="limit", limit_price="400", client_order_id="rests")
            settings = s.gateway.settings
        monkeypatch.setattr("daemon.gateway.command.clock_of", lambda _: Clock.real(alpaca.clock.now_ns))
        tables = {"a": table("a", "60000"), "c": table("c", "1000")}
        settings = dataclasses.replace(settings, account=AccountLimits(day_loss_max=Decimal("0.02")))
        books = read_books(tmp_path / FILE)
        findings = await check(dataclasses.replace(settings, sub_accounts=tables), keys_of(alpaca), books, "paper")
        words = [words for right, words in findings if right]
        cash = alpaca.account.cash
        assert words[:2] == [
            f"paper account {books.number}: {cash} USD, holds 102 SPY",
            "c begins with 1000 USD of main's",
        ]
        assert words[2].startswith("sub_account.a.capital is 60000, and it began with 20000: ")
        assert words[3].startswith("b is not in the file, holds 2 SPY, 18999.98 USD and has 1 orders: ")  # of 500.01
        assert "panic b" in words[3]
        assert words[4] == "purchase rests would be cancelled: b is not in the file"
        assert [words for right, words in findings if not right and "day_loss_max is 0.02" in words]


def test_a_sub_account_that_left_the_file_with_cash_alone_is_named() -> None:
    cash, less = Decimal("12000.50"), Decimal("0.0025")  # what a fraction's fill left, and no command moves
    books = Ledgers(accounts={"a": SubAccount("a", "1-a", cash=cash), "b": SubAccount("b", "1-b", cash=less)})
    desk = DeskSettings.model_validate({"desk": {"name": "gateway"}})
    settings = GatewaySettings(GatewayTable(state_dir="none"), AccountLimits(), {}, desk)
    (words,) = command.unlike_file(settings, books)
    assert words.startswith("a is not in the file, holds 12000.50 USD and has 0 orders: ")
    assert ("transfer a main" in words, "panic" in words) == (True, False)
    renamed = dataclasses.replace(settings, sub_accounts={"c": table("c", "12000")})
    with pytest.raises(ConfigError, match=r"ask for 12000 .* lower their capital, or .* transfer a main"):
        command.newcomers(renamed, books, 0)


async def test_a_new_journal_over_what_a_desk_holds_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with stage_broker() as alpaca:
        async with gateway_on(alpaca, tmp_path) as s:
            await s.place("b", 2, client_order_id="e0-online_dqn-1-0-0")
            await s.until(lambda: bool(s.held("b")))
            settings = s.gateway.settings
        monkeypatch.setattr("daemon.gateway.command.clock_of", lambda _: Clock.real(alpaca.clock.now_ns))
        alpaca.account.configuration["suspend_trade"] = True
        findings = await check(settings, keys_of(alpaca), Ledgers(), "")
        messages = [words for _, words in findings]
        blocked = "may not trade: trade_suspended_by_user (the account's setting suspend_trade)"
        assert (False, f"account {alpaca.account.account_number} {blocked}") in findings
        (message,) = (words for words in messages if "no desk can sell it" in words)
        assert message.startswith("SPY, of which a desk has orders, is main's in this new journal")
        assert "gateway.state_dir" in message


def test_a_limit_that_is_meant_as_a_part_is_named_by_the_check(tmp_path: Path) -> None:
    account = "[account]\nday_loss_max = 0.02\ngross_exposure_max = 0\n"
    (tmp_path / "gateway.toml").write_text(f"{account}[sub_account.a]\norder_max = 0.5\nexposure_max = 1\n")
    assert limits_in_cents(load_gateway(tmp_path / "gateway.toml")) == [
        "account.day_loss_max is 0.02: these are USD, no part of the account: write the amount, or 0 for none",
        "sub_account.a.order_max is 0.5: these are USD, no part of the account: write the amount, or 0 for none",
    ]


def test_a_sub_account_in_other_words_is_refused_with_an_example() -> None:
    for text in ("scalper", "scalper:much", "scalper:1:futures", "Scalper:1"):
        with pytest.raises(ConfigError, match="such as scalper:10000:options:SPY"):
            parse_sub(text)


def test_a_name_that_no_sub_account_may_have_is_refused_by_words_that_say_which_may(tmp_path: Path) -> None:
    which = "1 to 30 small letters, digits, '_' and '-', with a letter or a digit first"
    with pytest.raises(ConfigError, match=rf'^--sub A_B:1: name is "A_B": expected {which}; expected NAME:CAPITAL'):
        parse_sub("A_B:1")
    for text, message in (
        ('["sub_account"."A B"]', f'name is "A B": expected {which}: correct it'),
        ('[sub_account.a]\nsymbols = ["spy"]', "expected a symbol in capital letters, such as SPY or BRK.B"),
        ('[sub_account.a]\nguard_prefix = "a b"', "expected at most 40 letters, digits, '.', '_' and '-'"),
        ('[gateway]\naccount_number = "PA 1"\n[sub_account.a]', "expected the account's number, such as PA3ABCDEFGHI"),
    ):
        (tmp_path / "gateway.toml").write_text(text)
        with pytest.raises(ConfigError, match=re.escape(message)) as caught:
            load_gateway(tmp_path / "gateway.toml")
        assert "pattern" not in str(caught.value)


def test_a_status_in_words_has_a_line_for_each_and_counts_what_is_too_long() -> None:
    positions = {f"S{number}": "1" for number in range(7)}
    row = {"name": "a", "cash": "1.00", "equity": "8.00", "open_orders": 2, "positions": positions, "suspended": False}
    status = {
        "accounts": [row],
        "sum": {"cash": "1.00", "equity": "8.00", "positions": positions},
        "broker": {"cash": "1.00", "equity": "8.00", "positions": {"S0": "0", "S1": "1"}},
        "differences": ["S0 1 in the sub-accounts, 0 at the broker"],
        "doubts": ["S0 1 in the sub-accounts, 0 at the broker"],
        "halt": None,
        "away": "",
    }
    lines = show(status).splitlines()
    assert lines[1].split("  ")[-1] == "1 S0, 1 S1, 1 S2, 1 S3, 1 S4, 2 more"
    assert lines[3].endswith("  1 S1")
    assert lines[4] == "DIFFERENCE: S0 1 in the sub-accounts, 0 at the broker"
    assert lines[5].startswith("no new risk until they agree; `rltrader-gateway accept`")


def test_a_status_in_words_is_in_cents_and_says_how_old_the_broker_s_figures_are() -> None:
    row = {"name": "b", "cash": "19000.00000686063", "equity": "19998.33510585543", "open_orders": 0, "positions": {}}
    status = {
        "accounts": [row | {"suspended": False}],
        "sum": {"cash": "19000.00000686063", "equity": "19998.33510585543", "positions": {"SPY": "1"}},
        "broker": {"cash": "20000.00", "equity": "", "positions": {"SPY": "0"}},
        "differences": [], "doubts": [], "halt": None, "away": "", "reported_ns": 1_733_239_320_000_000_000,
    }  # fmt: skip
    lines = show(status).splitlines()
    assert lines[1].split() == ["b", "19000.00", "19998.34", "0"]
    assert lines[3].split() == ["broker", "20000.00"]
    assert lines[4].startswith("the broker's figures are those of 10:22:00, before the newest fills")
    status["broker"] = status["sum"]
    assert len(show(status).splitlines()) == 5


@pytest.mark.parametrize(
    ("reason", "ends"), [("operator", "`rltrader-gateway resume` ends it"), ("day_loss", "the New York day ends it")]
)
def test_a_status_in_words_says_what_ends_a_halt_and_a_fence(reason: str, ends: str) -> None:
    row = {"name": "a", "cash": "1.00", "equity": "8.00", "open_orders": 2, "positions": {}, "suspended": True}
    halt = {"reason": reason, "detail": "news (by anna)"}
    lines = show(
        {"accounts": [row], "sum": row, "broker": row, "differences": [], "doubts": [], "halt": halt, "away": ""}
    ).splitlines()
    assert f"HALT: {reason}: news (by anna); {ends}" in lines
    assert "FENCED: a takes no new risk until `rltrader-gateway lift a`" in lines


def test_a_limit_in_the_environment_is_refused_because_it_would_count_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gateway.toml").write_text("[sub_account.a]\ncapital = 5\n")
    for name in ("RLTRADER_ACCOUNT__DAY_LOSS_MAX", "RLTRADER_SUB_ACCOUNT__A__ORDER_MAX", "RLTRADER_GATEWAY__PORT"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "500")
            with pytest.raises(ConfigError, match=f"{name} .* counts for nothing: write it into .*gateway.toml"):
                load_gateway(tmp_path / "gateway.toml")


def test_a_panic_in_words_says_what_could_not_be_closed() -> None:
    rows = [
        {"symbol": "SPY", "status": 200, "body": {"side": "sell", "qty": "3"}},
        {"symbol": "QQQ", "status": 503, "body": {"message": "no report came"}},
    ]
    assert closing_text(rows) == "SPY: sell 3 is on its way\nQQQ: NOT CLOSED: no report came\n"
    assert closing_text([]) == "it holds nothing\n"


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks in a folder of the test, and the account's keys."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    for name, value in zip(KEYS, (DEFAULT_KEY, DEFAULT_SECRET), strict=True):
        monkeypatch.setenv(name, value)


@contextlib.asynccontextmanager
async def serving(
    alpaca: AlpacaServer, settings: GatewaySettings, clock: Clock | None = None
) -> AsyncIterator[dict[str, Any]]:
    """The program by these settings; yields its status."""
    clock, folder = clock or Clock.real(alpaca.clock.now_ns), Path(settings.gateway.state_dir)
    running = asyncio.create_task(serve_until_signal(settings, keys_of(alpaca), clock, folder))
    try:
        await until(lambda: running.done() or alpaca.trade_stream.listeners(DEFAULT_KEY) == 1)
        if running.done():
            await running
        status = {"ready": False}
        while not status["ready"]:
            await asyncio.sleep(0.1)
            status = await asyncio.to_thread(ask, settings, "GET", "/status")
        yield status
    finally:
        running.cancel()
        await asyncio.wait({running})


async def at(alpaca: AlpacaServer, folder: Path) -> Path:
    """The file of a gateway that ran once at this broker, at any port."""
    await init(order(folder, alpaca.trading_url, *SUBS), keys_of(alpaca))
    file = replace_line(folder / "gateway.toml", "port = 8433", "port = 0")
    async with serving(alpaca, load_gateway(file)):
        pass
    return file


@pytest_asyncio.fixture
async def config_file(tmp_path: Path) -> Path:
    """The file of a gateway that ran once; its broker is away now."""
    async with broker() as alpaca:
        return await at(alpaca, tmp_path)


def start_outcome(file: Path) -> tuple[int, str]:
    """The exit code of a start, and its last line."""
    start = [sys.executable, "-m", "daemon.gateway", "--config", str(file)]
    process = subprocess.run(start, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120)
    return process.returncode, (process.stderr or process.stdout).splitlines()[-1]


def replace_line(file: Path, old: str, new: str) -> Path:
    """The file with another line."""
    file.write_text(file.read_text().replace(old, new, 1))
    return file


async def test_metrics_whose_port_another_one_has_end_no_gateway_and_come_once_it_is_free(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.operator.side_thread.PAUSE_MOST_S", 0.1)
    async with broker() as alpaca:
        file = await at(alpaca, tmp_path)
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            file.write_text(file.read_text() + f"\n[metrics]\nenabled = true\nport = {port}\n")
            settings = load_gateway(file)
            async with serving(alpaca, settings) as status:
                assert status["ready"]
                assert f"metrics.port {port}: Address already in use" in capsys.readouterr().err
                findings = await check(
                    settings,
                    keys_of(alpaca),
                    read_books(Path(settings.gateway.state_dir) / FILE),
                    settings.gateway.account,
                )
                assert any(not right and f"metrics.port {port}: " in words for right, words in findings), findings
                other.close()

                def scraped() -> bytes:
                    with socket.create_connection(("127.0.0.1", port), 5) as client:
                        client.sendall(b"GET /metrics HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
                        return b"".join(iter(lambda: client.recv(65536), b""))

                answer = b""
                while b'rltrader_gateway_ready{desk="gateway"} 1.0' not in answer:
                    await asyncio.sleep(0.1)
                    with contextlib.suppress(OSError):
                        answer = await asyncio.to_thread(scraped)


async def test_a_broker_that_cannot_be_asked_for_the_plan_ends_no_start_but_the_first(config_file: Path) -> None:
    settings = load_gateway(config_file)
    folder = Path(settings.gateway.state_dir)
    assert settings.upstream.feed.name == "auto"
    assert kept_feed(folder) == ("sip", "opra")
    upstream, log = Upstream(settings.upstream, Credentials(), Clock.real(), LogRecorder()), LogRecorder()
    try:
        feed = (await with_feeds(settings, upstream, folder, log)).upstream.feed
        assert (feed.name, feed.options) == ("sip", "opra")
        assert "as at the last start; the account's data plan cannot be asked" in str(log.of("feed_chosen")[0]["how"])
        (folder / "feed").unlink()
        with pytest.raises(BrokerError):
            await with_feeds(settings, upstream, folder, log)
    finally:
        await upstream.close()
    code, line = await asyncio.to_thread(start_outcome, config_file)
    assert (code, "Connect" in line) == (1, True), line


async def test_a_port_that_is_still_in_use_ends_a_start_with_exit_code_1(config_file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        code, line = await asyncio.to_thread(start_outcome, replace_line(config_file, "port = 0", f"port = {port}"))
        expected = f"gateway.port {port}: Address already in use: end what has it, or choose another"
        assert (code, expected in line) == (1, True), line


async def test_a_mistake_of_a_person_ends_a_start_with_exit_code_2(config_file: Path) -> None:
    code, line = await asyncio.to_thread(start_outcome, replace_line(config_file, "port = 0", "ports = 0"))
    assert (code, "ports" in line) == (2, True), line


async def test_a_disk_that_does_not_answer_ends_it_with_words(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hangs() -> None:
        await asyncio.sleep(1000)

    gateway: Any = SimpleNamespace(journal=SimpleNamespace(beat=hangs), books=Ledgers(), away=str)
    with pytest.raises(TimeoutError, match="the journal's disk did not answer for 45 s"):
        await command._feed(Service(), gateway)
    for error, code in (
        (TimeoutError("the disk"), 1), (JournalBusy("locked"), 1), (WriteFailed("full"), 1), (JournalError("old"), 2),
    ):  # fmt: skip

        def fails(_: object, *, error: Exception = error) -> int:
            raise error

        monkeypatch.setattr(command, "_run_command", fails)
        assert command.main(["verify"]) == code


MISTAKES = {
    "a key that is unknown": ("port = 0", "ports = 0", "gateway.ports"),
    "no TOML": ("[account]", "[account", "is not valid TOML"),
    "capital that main does not have": ("[sub_account.scalper]", NEWCOMER, "new sub-accounts ask for 90000"),
    "a live account": ('account = "paper"', 'account = "live"\naccount_number = "PA3LOOPBACK1"', "of a paper account"),
    "another account": ("port = 0", 'port = 0\naccount_number = "PA0OTHER"', "gateway.account_number is PA0OTHER"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_a_mistake_in_the_file_keeps_no_desk_that_holds_something_from_its_exits(
    tmp_path: Path, mistake: str
) -> None:
    old, new, words = MISTAKES[mistake]
    async with broker() as alpaca:
        file = await at(alpaca, tmp_path)
        file.write_text("\n".join(line for line in file.read_text().splitlines() if "account_number" not in line))
        right = file.read_text()
        replace_line(file, old, new)
        with pytest.raises(ConfigError, match=words):  # nobody holds anything
            command._fitting(load_or_last(file), file)
        alpaca.by_hand("place", symbol="SPY", qty="3", side="buy")
        async with serving(alpaca, load_or_last(tmp_path / "gateway" / "last_start.toml")) as status:
            assert status["halt"] is None
            settings = load_gateway(tmp_path / "gateway" / "last_start.toml")
            await until(lambda: alpaca.account.quantity("SPY") == 3)
            move = {"source": "main", "target": "rebalancer", "cash": "0", "symbol": "SPY", "quantity": "3"}
            await asyncio.to_thread(ask, settings, "POST", "/transfer", {**move, "by": "anna", "why": ""})
        journal = tmp_path / "gateway" / FILE
        killed = journal.rename(journal.with_suffix(ROTATING))  # a rotation that was killed before its last step
        assert words in command._fitting(load_or_last(file), file).mistake
        killed.rename(journal)
        for _ in range(2):
            settings = command._fitting(load_or_last(file), file)
            assert words in settings.mistake
            async with serving(alpaca, settings) as status:
                assert status["halt"]["reason"] == "configuration"
                assert words in status["halt"]["detail"]
        wrong = file.read_text()
        file.write_text(f"{right}\n[nonsense]\n")
        async with serving(alpaca, command._fitting(load_or_last(file), file)) as status:
            assert "[nonsense] is no table of a gateway" in status["halt"]["detail"]  # what is to be mended now
            assert words not in status["halt"]["detail"]
        file.write_text(wrong)
        async with serving(alpaca, settings):
            back = {**move, "source": "rebalancer", "target": "main", "by": "anna", "why": ""}
            await asyncio.to_thread(ask, settings, "POST", "/transfer", back)
        with pytest.raises(ConfigError, match=words):
            command._fitting(load_or_last(file), file)
        file.write_text(right)
        async with serving(alpaca, load_or_last(file)) as status:
            assert status["halt"]["reason"] == "configuration"  # until a person resumes


async def test_a_mistake_in_the_environment_keeps_no_desk_that_holds_something_from_its_exits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with broker() as alpaca:
        file = await at(alpaca, tmp_path)
        start = ["--config", str(file)]
        alpaca.by_hand("place", symbol="SPY", qty="3", side="buy")
        async with serving(alpaca, load_gateway(file)):
            await until(lambda: alpaca.account.quantity("SPY") == 3)
            with monkeypatch.context() as patch:
                patch.delenv(KEYS[0])
                assert await asyncio.to_thread(command.main, start) == 2  # nobody holds anything
            move = {"source": "main", "target": "rebalancer", "cash": "0", "symbol": "SPY", "quantity": "3"}
            await asyncio.to_thread(ask, load_gateway(file), "POST", "/transfer", {**move, "by": "anna", "why": ""})
        for name in ("RLTRADER_ACCOUNT__DAY_LOSS_MAX", "RLTRADER_ALPACA__TRADING_UR", "RLTRADER_ALARM__COMMAND"):
            with monkeypatch.context() as patch:
                patch.setenv(name, "500")
                assert name in command._fitting(load_or_last(file), file).mistake
        monkeypatch.delenv(KEYS[0])
        assert await asyncio.to_thread(command.main, start) == 1  # and systemd tries again
        assert await asyncio.to_thread(command.main, [*start, "--check"]) == 2
        assert "the account's keys are missing" in capsys.readouterr().err


async def test_an_account_that_another_desk_took_meanwhile_is_tried_again_while_a_desk_holds_something(
    tmp_path: Path,
) -> None:
    async with broker() as alpaca:
        file = await at(alpaca, tmp_path)
        alpaca.by_hand("place", symbol="SPY", qty="3", side="buy")
        async with serving(alpaca, load_gateway(file)):
            await until(lambda: alpaca.account.quantity("SPY") == 3)
            assert (await asyncio.to_thread(start_outcome, file))[0] == 2  # no desk holds anything
            move = {"source": "main", "target": "rebalancer", "cash": "0", "symbol": "SPY", "quantity": "3"}
            await asyncio.to_thread(ask, load_gateway(file), "POST", "/transfer", {**move, "by": "anna", "why": ""})
        direct = AccountLock(tmp_path, Holder("direct", "/elsewhere", 4711), alpaca.trading_url)
        direct.claim_key(alpaca.account.key)
        code, line = await asyncio.to_thread(start_outcome, file)
        assert (code, "direct, state directory /elsewhere, process 4711" in line) == (1, True), line
        direct.close()


async def test_a_guards_prefix_goes_to_no_other_sub_account_at_once(tmp_path: Path) -> None:
    async with broker() as alpaca:
        file = await at(alpaca, tmp_path)
        head, rest = file.read_text().split("[sub_account.rebalancer]")
        file.write_text(
            head + "[sub_account.rebalancer]" + rest.replace('guard_prefix = ""', 'guard_prefix = "desk"', 1)
        )
        settings, books = load_gateway(file), Ledgers(guards=[("desk-", "scalper")])
        with pytest.raises(ConfigError, match="guard_prefix is 'desk', which scalper had"):
            command._refuse_unlike(settings, books)
        command._refuse_unlike(settings, Ledgers(guards=[("desk-", "rebalancer")]))
        command._refuse_unlike(settings, Ledgers())  # nobody has had it since the last start
        former_account = SubAccount("left", "1-left")
        books = Ledgers(guards=[("desk-", "left")], accounts={"left": former_account})
        command._refuse_unlike(settings, books)
        former_account.change("SPY", Decimal(1), Decimal(500))  # its guard may still sell that
        with pytest.raises(ConfigError, match="guard_prefix is 'desk', which left had"):
            command._refuse_unlike(settings, books)


@pytest.mark.parametrize(("capital", "cash"), [("20000", "0.00"), ("10000", "10000.00")])
async def test_capital_that_was_withdrawn_meanwhile_is_not_given_from_anothers_cash(
    tmp_path: Path, capital: str, cash: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with broker() as alpaca:
        file = await at(alpaca, tmp_path)  # `main` has 40,000
        alpaca.faults.add("transfer", amount="-30000")
        await until(lambda: alpaca.account.cash == 70000)
        replace_line(file, "[sub_account.scalper]", NEWCOMER.replace("90000", capital))
        settings = load_gateway(file)
        make_keys(settings, "third")
        async with serving(alpaca, settings) as status:
            assert {row["name"]: row["cash"] for row in status["accounts"]}["third"] == cash
        words = f"sub_account.third.capital is {capital}, and it began with 0"
        assert (words in capsys.readouterr().err) == (cash == "0.00")


async def test_a_mistake_beside_a_folder_that_moved_is_found_there(tmp_path: Path) -> None:
    async with broker() as alpaca:
        file = await at(alpaca, tmp_path)
    (tmp_path / "gateway").rename(tmp_path / "moved")
    replace_line(file, f'state_dir = "{tmp_path}/gateway"', f'state_dir = "{tmp_path}/moved"')
    settings = load_or_last(replace_line(file, "port = 0", "ports = 0"))
    assert ("ports" in settings.mistake, settings.gateway.state_dir) == (True, f"{tmp_path}/moved")


async def test_a_key_that_cannot_be_used_keeps_out_its_own_desk_alone(tmp_path: Path) -> None:
    async with broker() as alpaca:
        file = await at(alpaca, tmp_path)
        settings = load_gateway(file)
        secret = key_files(settings, "scalper")[1]
        secret.chmod(0o644)
        async with serving(alpaca, settings) as status:
            assert [row["name"] for row in status["accounts"]] == ["main", "rebalancer", "scalper"]
        with pytest.raises(ConfigError, match="others may read it"):
            client_keys(settings)
        keys, problems = usable_keys(settings)
        assert (list(keys), len(problems)) == (["rebalancer"], 1)
        secret.chmod(0o600)
        for target, source in zip(key_files(settings, "scalper"), key_files(settings, "rebalancer"), strict=True):
            target.write_text(source.read_text())
        assert usable_keys(settings)[0] == {}
        with pytest.raises(ConfigError, match="two sub-accounts have one key, scalper and rebalancer"):
            async with serving(alpaca, settings):
                pass


async def test_no_new_key_stands_beside_an_old_secret(tmp_path: Path) -> None:
    async with broker() as alpaca:
        await init(order(tmp_path, alpaca.trading_url, "scalper:10000"), keys_of(alpaca))
    settings = load_gateway(tmp_path / "gateway.toml")
    key, secret = key_files(settings, "scalper")
    old_secret = secret.read_text()
    key.unlink()
    with pytest.raises(ConfigError, match=f"has keys already: {secret.name}: remove it first, then .* keys scalper"):
        make_keys(settings, "scalper")
    assert (key.exists(), secret.read_text()) == (False, old_secret)
    key.mkdir()  # as one that cannot be read: `keys` alone makes none in its place
    (problem,) = usable_keys(settings)[1]
    assert "or remove it and its fellow: `rltrader-gateway keys scalper` makes them anew" in str(problem)


@pytest.mark.host_time  # the operator asks from another thread, and the gateway waits for a report
async def test_without_any_key_that_can_be_used_a_person_still_closes_what_a_desk_holds(tmp_path: Path) -> None:
    async with broker() as alpaca:
        file = await at(alpaca, tmp_path)
        settings = load_gateway(file)
        alpaca.by_hand("place", symbol="SPY", qty="3", side="buy")
        async with serving(alpaca, settings):
            await until(lambda: alpaca.account.quantity("SPY") == 3)
            move = {"source": "main", "target": "scalper", "cash": "0", "symbol": "SPY", "quantity": "3"}
            await asyncio.to_thread(ask, settings, "POST", "/transfer", {**move, "by": "anna", "why": ""})
        for name in ("scalper", "rebalancer"):
            key_files(settings, name)[0].unlink()
        async with serving(alpaca, settings):
            rows = await asyncio.to_thread(ask, settings, "POST", "/panic", {"account": "scalper", "by": "anna"})
            assert [row["status"] for row in rows] == [200]


async def test_commands_reach_a_gateway_whose_file_has_a_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with broker() as alpaca:
        file = await at(alpaca, tmp_path)
        async with serving(alpaca, load_gateway(file)):
            replace_line(file, "port = 0", "ports = 0")
            halt = ["--config", str(file), "halt", "--why", "look", "--who", "anna"]
            assert await asyncio.to_thread(command.main, halt) == 0
            assert "by the file of the last start" in capsys.readouterr().err
            assert await asyncio.to_thread(command.main, ["--config", str(file), "--check"]) == 2
            move = ["--config", str(file), "transfer", "main", "scalper", "--cash", "1,000"]
            assert await asyncio.to_thread(command.main, move) == 2
            assert "cash and quantity are numbers" in capsys.readouterr().err
            for figure, wrong in (("1,000", "1,000: expected what the broker has"), ("1000", "they differ in nothing")):
                word = ["--config", str(file), "accept", "cash", figure, "--why", "no line"]
                assert await asyncio.to_thread(command.main, word) == 2
                assert wrong in capsys.readouterr().err
            monkeypatch.chdir(tmp_path)  # where a file that is gone would be looked for
            assert await asyncio.to_thread(command.main, ["--config", "gatway.toml", "resume"]) == 2
            status = await asyncio.to_thread(
                ask, load_gateway(tmp_path / "gateway" / "last_start.toml"), "GET", "/status"
            )
            assert status["halt"] == {"reason": "operator", "detail": "look (by anna)"}


async def test_a_command_that_was_taken_and_not_answered_is_not_called_undone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(_: object) -> None:
        raise PermissionError(13, "Permission denied")

    toml = f'[gateway]\nstate_dir = "{tmp_path}"\n[sub_account.a]\ncapital = 5\n'
    (tmp_path / "gateway.toml").write_text(toml)
    config = ["--config", str(tmp_path / "gateway.toml")]
    line = [*config, "transfer", "main", "a", "--cash", "5"]
    assert await asyncio.to_thread(command.main, line) == 2
    assert "no gateway answers there" in capsys.readouterr().err

    async def takes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b'"cash": "5"' if cash else b"\r\n\r\n")
        writer.close()

    cash = True

    async with await asyncio.start_unix_server(takes, tmp_path / CONTROL_SOCKET):
        assert await asyncio.to_thread(command.main, line) == 1
        assert "the command may still be carried out" in capsys.readouterr().err
        cash = False
        assert await asyncio.to_thread(command.main, [*config, "panic", "a"]) == 1
        assert "it hangs, rltraderctl panic with the account's own keys closes all" in capsys.readouterr().err
        assert await asyncio.to_thread(command.main, [*config, "status"]) == 1
        err = capsys.readouterr().err
        assert "start it again" in err
        assert "carried out" not in err
    monkeypatch.setattr(command._Local, "connect", forbidden)
    assert await asyncio.to_thread(command.main, line) == 2
    assert "run it as the gateway's user or as root" in capsys.readouterr().err


@pytest.mark.parametrize("wrong_h", [-8, 8])
async def test_a_host_s_clock_that_is_hours_off_is_not_the_gateway_s(tmp_path: Path, wrong_h: int) -> None:
    """At its start; and once the host's clock was set right, or another one leaps."""
    off_h = [wrong_h]
    async with broker() as alpaca:
        file, right = await at(alpaca, tmp_path), alpaca.clock.now_ns
        clock = Clock.real(lambda: right() + off_h[-1] * HOUR_NS, right, LeapWatch())
        async with serving(alpaca, load_gateway(file), clock):
            for then_h in (wrong_h, 0, 20):
                off_h.append(then_h)
                await asyncio.sleep(5)
                assert abs(clock.now_ns() - right()) < SECOND_NS


@pytest.mark.parametrize("wrong_h", [-8, 8])
async def test_a_start_that_the_broker_s_clock_did_not_answer_reports_nothing_before_it_does(
    tmp_path: Path, wrong_h: int
) -> None:
    """Time that was ahead goes back slowly: the process ends, and the next start goes on by the right one at once."""
    async with broker() as alpaca:
        file, right = await at(alpaca, tmp_path), alpaca.clock.now_ns
        settings = load_gateway(file)
        clock = Clock.real(lambda: right() + wrong_h * HOUR_NS, right, LeapWatch())
        alpaca.faults.add("http_error", where={"path": "/v2/clock"}, times=1000, status=503)
        folder = Path(settings.gateway.state_dir)
        running = asyncio.create_task(serve_until_signal(settings, keys_of(alpaca), clock, folder))
        await until(lambda: running.done() or alpaca.trade_stream.listeners(DEFAULT_KEY) == 1)
        await asyncio.sleep(5)
        assert not (await asyncio.to_thread(ask, settings, "GET", "/status"))["ready"]
        alpaca.faults.clear()
        if wrong_h > 0:
            with pytest.raises(MayPass, match="28800 s ahead of the broker's"):
                await running
            clock = Clock.real(lambda: right() + wrong_h * HOUR_NS, right, LeapWatch())
        else:
            await asyncio.sleep(60)
            assert (await asyncio.to_thread(ask, settings, "GET", "/status"))["ready"]
            assert abs(clock.now_ns() - right()) < SECOND_NS
            running.cancel()
            await asyncio.wait({running})
        async with serving(alpaca, settings, clock):
            assert abs(clock.now_ns() - right()) < SECOND_NS


async def test_a_user_without_a_name_closes_what_a_desk_holds(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", nobody)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    way_out = "rltrader-gateway starts it; without it, rltraderctl panic with the account's own keys"
    with pytest.raises(ConfigError, match=f"no gateway answers there .*{way_out}"):  # it comes as far as the socket
        command._run_command(command._options(["--config", str(config_file), "panic", "scalper"]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[gateway]\nprt = 1\n", "gateway.prt is unknown: did you mean port? Correct or remove it"),
        ("[gateway]\nport = true\n", "gateway.port is true: expected a value of its own, not true or false"),
        ('[gateway]\nstate_dir = ""\n', 'gateway.state_dir is "": expected text that should have at least 1 character'),
        ('[gateway]\nstate_dir = "~/g"\n', 'gateway.state_dir is "~/g": expected a whole path'),
        ("[account]\nday_loss_max = nan\n", "account.day_loss_max is NaN: expected a finite number"),
        (
            "[sub_account.a]\ncapital = -1\n",
            "sub_account.a.capital is -1: expected at least 0: correct it",
        ),
        ("[sub_account]\na = 3\n", "sub_account.a is 3: expected a table: write [sub_account.a]"),
        (
            '[[sub_account]]\nname = "a"\n',
            "sub_account is no table of tables: expected [sub_account.NAME], once for each",
        ),
    ],
)
def test_a_mistake_in_the_file_is_named_with_key_value_and_cure(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "gateway.toml").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_gateway(tmp_path / "gateway.toml")
