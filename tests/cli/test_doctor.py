"""`rltraderd --check` of a live desk: each line's ok, warn and FAIL, asked of the loopback Alpaca, with its exit code.

It sends GETs alone, opens no stream, writes nothing, and shows no key: looked at in every test.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace

from daemon.app.live import model_choice
from daemon.cli import daemon as cli
from daemon.config.load import load
from daemon.core.strategy_rules import desk_keys, rules_digest, with_rules
from daemon.engine.state_dir import open_state_dir
from daemon.host.account_lock import AccountLock, Holder
from daemon.host.ed25519 import keygen
from daemon.host.time.calendar import SessionCalendar
from daemon.journal.journal import FILE
from daemon.models import signature
from daemon.models.pointer import CURRENT, version_of_pointer
from daemon.tapes import BUNDLED_TAPE
from simulator.clock import SimClock
from simulator.prices.market import Market
from simulator.prices.tape import calendar_sessions, new_york_date, read_bars
from simulator.server import RunningServer, serving
from simulator.trading.account import Account
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET, Rules
from strategies.kit.manifest import MANIFEST_FILE, StatedClaim, decode, encode
from tests.support.desks.daily_stage import made_up, swapping
from tests.support.desks.live_desk import write_config
from tests.support.desks.online_day import HALF_DAY, SYMBOLS, tape
from tests.support.desks.stage import new_york_ns
from tests.support.models.online_models import NAME, put_momentum
from tests.support.outside.stream import redis_anywhere
from tests.support.paths import REPOSITORY

HOUR_NS = 3_600 * 10**9
DAY_NS = 24 * HOUR_NS
META = {"mode": "paper", "account": "paper", "strategy": "option_scalper", "feed": "sip", "desk": "paper-1"}
SUBJECTS = [
    "configuration",
    "strategy",
    "limits",
    "addresses",
    "model",
    "calendar",
    "state directory",
    "disk",
    "keys",
    "account",
    "options level",
    "shorting",
    "clock",
    "activity stream",
    "feed sip",
    "history",
    "options indicative",
    "capital",
]
Table = Mapping[str, Mapping[str, object]]


class Usage(NamedTuple):
    """What `shutil.disk_usage` tells, in bytes."""

    total: int
    used: int
    free: int


@pytest.fixture(scope="module")
def market() -> Market:
    """The last two sessions of the bundled tape, and the weeks after them."""
    bars = read_bars(BUNDLED_TAPE, "SPY")
    sessions = calendar_sessions(new_york_date(bars[-800].start_ns), new_york_date(bars[-1].start_ns))
    taped = [s for s in sessions if any(s.open_ns <= bar.start_ns < s.close_ns for bar in bars[-800:])][-2:]
    inside = [bar for bar in bars if taped[0].open_ns <= bar.start_ns < taped[-1].close_ns]
    return Market(inside, sessions=[s for s in sessions if s.open_ns >= taped[0].open_ns])


def morning(market: Market) -> int:
    """An hour after the open of the second session of the tape."""
    return market.sessions[1].open_ns + HOUR_NS


def contents_of(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """Modes and contents of all files; SQLite's index of a log that is being read belongs to no one."""
    files = [file for file in folder.rglob("*") if file.is_file() and not file.name.endswith("-shm")]
    contents = {file: (file.stat().st_mode, file.read_bytes()) for file in files}
    return {file: (mode, text) for file, (mode, text) in contents.items() if text or not file.name.endswith("-wal")}


@dataclass(slots=True)
class Desk:
    """A host to be examined. `check` gives verdict and text by subject."""

    server: RunningServer
    clock: SimClock
    folder: Path
    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch
    checks: dict[str, tuple[str, str]] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    more: list[str] = field(default_factory=list)

    @property
    def state_dir(self) -> Path:
        return self.folder / "state"

    def check(self, *tables: Table, code: int, dry_run: bool = False, secret: str = DEFAULT_SECRET) -> dict[str, Any]:
        """Examine the host; returns the JSON object of the last line."""
        path = write_config(self.folder / "config.toml", self.server, self.clock, self.state_dir, *tables)
        self.monkeypatch.setenv("APCA_API_KEY_ID", DEFAULT_KEY)
        self.monkeypatch.setenv("APCA_API_SECRET_KEY", secret)
        before = contents_of(self.folder)
        assert cli.main(["--check", "--config", str(path), *(["--dry-run"] if dry_run else [])]) == code
        assert contents_of(self.folder) == before
        output = self.capsys.readouterr()
        assert output.err == ""
        *lines, last = output.out.splitlines()
        self.more = [line.strip() for line in lines if line.startswith(" ")]  # what goes on with the line before
        lines = [line for line in lines if not line.startswith(" ")]
        for key in (DEFAULT_KEY, DEFAULT_SECRET, secret):
            assert key not in output.out
        width = max(len(line.partition("  ")[0]) for line in lines)
        rows = [(line[:width].strip(), line[width:].split(maxsplit=1)) for line in lines]
        self.order = [subject for subject, _ in rows]
        self.checks = {subject: (verdict, text) for subject, (verdict, text) in rows}
        assert len(self.checks) == len(rows)
        summary: dict[str, Any] = json.loads(last)
        assert summary["failed"] == [subject for subject, (verdict, _) in self.checks.items() if verdict == "FAIL"]
        assert summary["check"] == ("failed" if code else "ok")
        return summary

    def verdicts(self, verdict: str) -> list[str]:
        """Subjects with this verdict."""
        return [subject for subject, (result, _) in self.checks.items() if result == verdict]


@contextlib.contextmanager
def desk_at(
    market: Market,
    time_ns: int,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    **settings: Any,
) -> Iterator[Desk]:
    """A desk at this simulated time; `settings` are those of the server. At the end only GETs were sent."""
    for name in list(os.environ):
        if name.startswith(("RLTRADER_", "APCA_", "CREDENTIALS_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, 10**12))
    clock = SimClock.starting_now(time_ns, 1)
    with serving(market, clock, **settings) as server:
        yield Desk(server, clock, folder, capsys, monkeypatch)
        assert {request.method for request in server.server.requests} <= {"GET"}
        assert server.server.trade_stream.listeners(DEFAULT_KEY) == 0


@pytest.fixture
def desk(
    market: Market, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Desk]:
    with desk_at(market, morning(market), tmp_path, capsys, monkeypatch) as desk:
        yield desk


# --- a host that is ready -----------------------------------------------------------------------------------------


def test_a_host_that_is_ready_ends_with_0(desk: Desk, market: Market) -> None:
    desk.check(code=0)
    assert desk.order == SUBJECTS
    assert desk.verdicts("warn") == ["model", "shorting"]
    assert desk.checks["model"][1].endswith("hash and golden answers verified; it is not promoted")
    assert desk.checks["strategy"] == ("ok", "option_scalper")
    assert desk.checks["configuration"][1] == "desk paper-1, mode paper: orders go to the paper account"
    assert desk.checks["keys"][1] == "accepted for the paper account PA3LOOPBACK1"
    assert desk.checks["account"][1] == "ACTIVE, 10000.00 USD of cash, equity 10000.00 USD"
    assert desk.checks["addresses"][1].endswith("; simulated clock at 1 times real time")
    session = market.sessions[1]
    assert desk.checks["calendar"][1].startswith(
        f"session {session.date} (390 minutes) runs or comes next; known until "
    )
    assert desk.checks["state directory"] == ("ok", f"{desk.state_dir}: new")
    assert desk.checks["feed sip"] == ("ok", "a quote")
    # 390 of the first session, and the minutes of the second one's first hour: its last is known a second after its end
    assert desk.checks["history"][1] in ("449 bars of the last days", "450 bars of the last days")


def test_the_limits_in_force_are_shown_with_the_place_that_each_comes_from(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLTRADER_RISK__DRAWDOWN_MAX", "0.05")
    desk.check({"risk": {"daily_loss_max": 0.03}}, code=0)
    by_place = dict(part.split(": ", 1) for part in desk.checks["limits"][1].split("; "))
    assert "risk.daily_loss_max 0.03" in by_place[f"from {desk.folder / 'config.toml'}"]
    assert by_place["from environment RLTRADER_RISK__DRAWDOWN_MAX"] == "risk.drawdown_max 0.05"
    assert "sizing.max_contracts 10" in by_place["from default"]
    assert "risk.daily_loss_flatten true" in by_place["from default"]


def test_a_limit_in_another_unit_than_its_author_most_likely_meant_is_warned_of(desk: Desk) -> None:
    desk.check({"risk": {"daily_loss_max": 1, "quote_age_max_s": 90_000}, "sizing": {"take_profit": 50}}, code=0)
    verdict, text = desk.checks["odd limits"]
    assert verdict == "warn"
    assert "risk.daily_loss_max is 1.0, all of the account, so it never acts: a part, of which 0.01 is 1 %" in text
    assert "risk.quote_age_max_s is 90000, longer than a session of 23,400 s, so it denies nothing" in text  # 6.5 hours
    assert "sizing.take_profit is 50.0, a gain of so many times the price paid: a part, of which 0.05 is 5 %" in text
    assert desk.checks["limits"][0] == "ok"
    desk.check({"risk": {"daily_loss_max": 0.99, "quote_age_max_s": 23_400}, "sizing": {"take_profit": 4.9}}, code=0)
    assert "odd limits" not in desk.checks


def test_limits_with_which_a_desk_never_buys_are_warned_of(desk: Desk) -> None:
    desk.check({"risk": {"confidence_min": 1, "no_trade_windows": ["09:00-12:00", "12:00-15:30"]}}, code=0)
    verdict, text = desk.checks["entries"]
    assert verdict == "warn"
    assert "risk.confidence_min is 1.0: no policy is wholly sure" in text
    assert "risk.no_trade_windows = 09:00-12:00, 12:00-15:30: lower one, or shorten the windows" in text
    desk.check({"risk": {"no_trade_windows": ["09:00-12:00", "12:00-15:29"]}}, code=0)  # 15:29 is left
    assert "entries" not in desk.checks


def test_an_account_that_may_sell_short_is_warned_of_until_it_refuses(desk: Desk) -> None:
    desk.check(code=0)
    verdict, text = desk.checks["shorting"]
    assert (verdict, "no_shorting" in text) == ("warn", True)
    account = desk.server.server.account
    desk.server.call(lambda: account.configuration.update(no_shorting=True))
    desk.check(code=0)
    assert desk.checks["shorting"][0] == "ok"
    desk.server.faults.add("http_error", times=9, where={"path": "/v2/account/configurations"})
    desk.check(code=0)
    assert desk.checks["shorting"][0] == "warn"


def test_what_rests_at_the_broker_is_said_and_what_elects_an_option_s_stop_is_unknown(desk: Desk) -> None:
    rests: Table = {"protection": {"rest_at_broker": True, "options": "stop_limit"}}
    desk.check(rests, code=0)
    verdict, text = desk.checks["protection"]
    assert verdict == "warn"
    assert text.startswith("a stop_limit for the day rests 45% below the price paid; what elects an option's stop")
    desk.check(rests, code=0, dry_run=True)
    assert desk.checks["protection"][0] == "warn"
    desk.check(code=0)
    assert "protection" not in desk.checks


def test_a_dry_run_is_said_to_send_nothing(desk: Desk) -> None:
    desk.check(code=0, dry_run=True)
    assert (
        desk.checks["configuration"][1]
        == "desk paper-1, mode dry_run: orders are filled on paper here, nothing is sent"
    )


# --- the account --------------------------------------------------------------------------------------------------


def test_a_desk_that_holds_something_and_has_no_model_is_told_how_it_would_start(desk: Desk) -> None:
    desk.monkeypatch.setattr(model_choice, "state_if_held", lambda _: object())
    desk.check({"paths": {"models_dir": str(desk.folder / "nowhere")}}, code=0)
    verdict, text = desk.checks["model"]
    assert (verdict, text.startswith("it starts halted (no_model)"), "verified" in text) == ("warn", True, False)
    assert f"{desk.folder / 'nowhere'}" in text
    assert "correct paths.models_dir" in text


def test_wrong_keys_fail_and_are_not_shown(desk: Desk) -> None:
    desk.check(code=2, secret="wrong-secret-000000000000")
    verdict, text = desk.checks["keys"]
    assert (verdict, "127.0.0.1" in text, "401" in text) == ("FAIL", True, True)
    assert text.endswith("use the keys made for this environment")
    assert {"account", "options level", "clock"}.isdisjoint(desk.checks)


def test_an_address_that_the_environment_hides_is_named_and_is_the_cure_of_refused_keys(desk: Desk) -> None:
    other = desk.server.trading_url.replace("127.0.0.1", "localhost")
    desk.monkeypatch.setenv("RLTRADER_ALPACA__TRADING_URL", other)
    desk.check(code=2, secret="wrong-secret-000000000000")
    file = desk.folder / "config.toml"
    cure = f"RLTRADER_ALPACA__TRADING_URL hides the address in {file}: unset RLTRADER_ALPACA__TRADING_URL"
    verdict, text = desk.checks["addresses"]
    assert (verdict, text.endswith(f"; {cure}")) == ("warn", True)
    assert desk.checks["keys"][1].endswith(f": {cure}")


def test_a_service_that_cannot_be_reached_fails_with_the_rest_examined(desk: Desk) -> None:
    nowhere = dict.fromkeys(("trading_url", "data_url"), "http://127.0.0.1:9")
    desk.check({"alpaca": nowhere}, code=2)
    assert desk.verdicts("FAIL") == ["keys", "feed sip", "history", "options indicative"]
    assert desk.checks["keys"][1].startswith("the trading service cannot be asked (")
    assert desk.checks["history"][1].endswith("check network and address")
    assert desk.checks["state directory"][0] == "ok"


def test_a_service_in_trouble_is_told_from_keys_that_are_refused(desk: Desk) -> None:
    desk.server.faults.add("http_error", status=500, where={"path": "/v2/account"})
    desk.check(code=2)
    assert desk.verdicts("FAIL") == ["keys"]
    assert desk.checks["keys"][1] == "the trading service cannot be asked (HTTP 500): check network and address"


def test_another_account_than_the_configured_one_fails(desk: Desk) -> None:
    desk.check({"desk": {"account_number": "PA3LOOPBACK1"}}, code=0)
    desk.check({"desk": {"account_number": "PA3OTHER"}}, code=2)
    assert desk.verdicts("FAIL") == ["account number"]
    expected = "the keys open PA3LOOPBACK1, desk.account_number is PA3OTHER: give the right keys or number"
    assert desk.checks["account number"][1] == expected


def test_a_blocked_account_fails_with_its_reasons(desk: Desk) -> None:
    desk.server.call(setattr, desk.server.server.account, "blocked", True)
    desk.check(code=2)
    expected = "it may not trade: trading_blocked, account_blocked: see its page at the broker"
    assert desk.checks["account"] == ("FAIL", expected)


def test_the_stream_of_activities_is_replayed_and_its_ids_are_compared_with_the_ledger_s(desk: Desk) -> None:
    fee = {"activity_type": "FEE", "date": "2024-01-02", "net_amount": "-0.03", "status": "executed"}
    account, clock = desk.server.server.account, desk.server.server.clock
    for _ in range(2):
        desk.server.call(account.note, clock.now_ns() - HOUR_NS, fee)
    desk.check(code=0)
    text = "answers: 2 lines of the last week, 2 of them under the ledger's own ids"
    assert desk.checks["activity stream"] == ("ok", f"{text}; alpaca.activity_stream = true listens to it")
    desk.check({"alpaca": {"activity_stream": True}}, code=0)
    assert desk.checks["activity stream"] == ("ok", f"{text}; it is listened to")


@pytest.mark.parametrize(
    ("listens", "verdict", "cure"), [(False, "ok", ""), (True, "warn", ": set alpaca.activity_stream = false")]
)
def test_keys_that_the_stream_of_activities_does_not_answer_are_told(
    desk: Desk, listens: bool, verdict: str, cure: str
) -> None:
    desk.server.server.faults.add("activity_refused", times=9)
    desk.check({"alpaca": {"activity_stream": listens}}, code=0)
    text = "does not answer these keys (HTTP 404); the ledger is read every 60 s without it"
    assert desk.checks["activity stream"] == (verdict, text + cure)


def test_a_person_s_stop_of_all_trading_is_shown_by_the_name_of_its_setting(desk: Desk) -> None:
    desk.server.call(desk.server.server.account.configuration.update, {"suspend_trade": True})
    desk.check(code=2)
    assert desk.checks["account"][0] == "FAIL"
    assert "trade_suspended_by_user (the account's setting suspend_trade)" in desk.checks["account"][1]


@pytest.mark.parametrize(
    ("level", "dry_run", "verdict"),
    [(0, False, "FAIL"), (1, False, "FAIL"), (1, True, "warn"), (2, False, "ok"), (3, False, "ok")],
)
def test_calls_and_puts_need_options_level_2(
    market: Market,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    level: int,
    dry_run: bool,
    verdict: str,
) -> None:
    account = Account(DEFAULT_KEY, DEFAULT_SECRET, level=level)
    with desk_at(market, morning(market), tmp_path, capsys, monkeypatch, accounts=(account,)) as desk:
        desk.check(code=2 if verdict == "FAIL" else 0, dry_run=dry_run)
        assert desk.checks["options level"][0] == verdict
        cure = f"{level}: 2 is needed to buy calls and puts: apply for it at the broker"
        assert (desk.checks["options level"][1] == cure) == (level < 2)


# --- the clocks ---------------------------------------------------------------------------------------------------


def test_a_clock_that_goes_wrong_fails(desk: Desk) -> None:
    desk.check(code=0)
    assert desk.checks["clock"][0] == "ok"
    for skew_s, sign in ((3, "+"), (-3, "-")):
        desk.server.faults.add("clock_skew", skew_s=skew_s)
        desk.check({"alpaca": {"clock_skew_max_s": 1.0}}, code=2)
        assert desk.verdicts("FAIL") == ["clock"]
        assert desk.checks["clock"][1].startswith(sign)
        assert desk.checks["clock"][1].endswith("limit 1 s: mend time synchronisation (chrony)")


def test_a_broker_s_clock_that_is_not_told_is_a_warning(desk: Desk) -> None:
    desk.server.faults.add("http_error", where={"path": "/v2/clock"})
    desk.check(code=0)
    assert desk.checks["clock"] == ("warn", "the broker's clock cannot be asked: HTTP 500")


@pytest.mark.parametrize(("days", "verdict"), [(61, "ok"), (59, "warn"), (16, "warn"), (14, "FAIL")])
def test_a_calendar_near_its_end_is_told(
    market: Market,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    days: int,
    verdict: str,
) -> None:
    today = datetime.now(UTC).date().isoformat()
    last = SessionCalendar.to_horizon(today).sessions[-1]
    with desk_at(market, last.close_ns - days * DAY_NS - HOUR_NS, tmp_path, capsys, monkeypatch) as desk:
        desk.check(code=2 if verdict == "FAIL" else 0)
        assert desk.checks["calendar"][0] == verdict
        cure = "" if verdict == "ok" else ": update exchange_calendars"
        assert desk.checks["calendar"][1].endswith(f"known until {last.date}, {days} days{cure}")


# --- market data --------------------------------------------------------------------------------------------------


@pytest.fixture
def free(
    market: Market, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Desk]:
    """A desk whose account has the free data plan."""
    with desk_at(market, morning(market), tmp_path, capsys, monkeypatch, rules=Rules(free_plan=True)) as desk:
        yield desk


def test_auto_finds_out_what_the_account_has(desk: Desk) -> None:
    desk.check({"feed": {"name": "auto", "options": "auto"}}, code=0)
    assert desk.checks["feed"] == ("ok", 'feed.name = "sip", feed.options = "opra": by the account\'s data plan')
    assert (desk.checks["feed sip"][0], desk.checks["options opra"][0]) == ("ok", "ok")


def test_on_a_free_plan_auto_takes_the_free_feeds(free: Desk) -> None:
    free.check({"feed": {"name": "auto", "options": "auto"}}, code=0)
    assert free.checks["feed"] == ("ok", 'feed.name = "iex", feed.options = "indicative": by the account\'s data plan')
    assert (free.checks["feed iex"][0], free.checks["options indicative"][0]) == ("ok", "ok")
    assert "it was trained on feed sip, this desk uses iex" in free.checks["model"][1]


def test_on_a_free_plan_a_named_feed_fails_with_key_value_and_cure(free: Desk) -> None:
    free.check({"feed": {"name": "sip", "options": "opra"}}, code=2)
    assert free.verdicts("FAIL") == ["feed sip", "history"]
    assert free.checks["feed sip"][1].endswith(
        'feed.name = "sip" is not in the account\'s data plan: set it to "iex" (free) or "auto", or subscribe'
    )
    free.check({"feed": {"name": "iex", "options": "opra"}}, code=2)
    assert free.verdicts("FAIL") == ["options opra"]
    cure = 'set it to "indicative" (free) or "auto", or subscribe'
    assert free.checks["options opra"][1].endswith(f'feed.options = "opra" is not in the account\'s data plan: {cure}')


def test_auto_with_keys_that_are_refused_names_no_feed(desk: Desk) -> None:
    desk.check({"feed": {"name": "auto"}}, code=2, secret="wrong")
    assert desk.verdicts("FAIL") == ["feed", "keys"]
    assert desk.checks["feed"][1].startswith("feed is 'auto' and the broker refuses the keys for every feed")


def test_a_feed_that_the_plan_does_not_have_fails_with_the_broker_s_words(desk: Desk) -> None:
    desk.server.faults.add("insufficient_subscription", where={"stream": "rest"})
    desk.check(code=2)
    assert desk.verdicts("FAIL") == ["history"]
    assert desk.checks["history"][1] == (
        "403 - subscription does not permit querying recent SIP data: "
        'feed.name = "sip" is not in the account\'s data plan: set it to "iex" (free) or "auto", or subscribe'
    )
    desk.server.faults.clear()
    desk.check({"feed": {"name": "iex"}}, code=0)
    assert desk.checks["feed iex"][0] == "ok"
    assert "it was trained on feed sip, this desk uses iex" in desk.checks["model"][1]


def test_market_data_that_know_no_such_keys_blame_the_keys_and_not_the_plan(desk: Desk) -> None:
    desk.server.faults.add("http_error", status=401, where={"path": "/v2/stocks/*"})
    desk.check(code=2)
    assert desk.verdicts("FAIL") == ["feed sip"]
    text = desk.checks["feed sip"][1]
    assert (text.startswith("401"), text.endswith(": use the keys made for this environment")) == (True, True)


def test_option_quotes_that_are_refused_fail(desk: Desk) -> None:
    desk.server.faults.add("http_error", status=403, where={"path": "/v1beta1/options/*"})
    desk.check(code=2)
    assert desk.verdicts("FAIL") == ["options indicative"]
    assert desk.checks["options indicative"][1].endswith("is not in the account's data plan: look at the plan")


def test_before_any_quote_the_options_are_not_checked(
    market: Market, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with desk_at(market, market.sessions[0].open_ns - HOUR_NS, tmp_path, capsys, monkeypatch) as desk:
        desk.check(code=0)
    assert desk.checks["feed sip"] == ("ok", "no quote yet")
    assert desk.checks["options indicative"][0] == "warn"
    assert desk.checks["options indicative"][1].startswith("not checked, there is no quote of the underlying now")


# --- a daily desk -------------------------------------------------------------------------------------------------


def daily_desk(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, **scripted: Any
) -> contextlib.AbstractContextManager[Desk]:
    """A host whose desk is the switcher, at nine o'clock of 2024-07-03, and its table of the configuration."""
    days = made_up(**scripted)
    market = Market((), "SPY", sessions=days.sessions, days=days)
    account = Account(DEFAULT_KEY, DEFAULT_SECRET, level=0)
    return desk_at(market, new_york_ns("2024-07-03", "09:00"), folder, capsys, monkeypatch, accounts=(account,))


def test_a_daily_desk_needs_its_shares_and_no_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = swapping(tmp_path / "models")
    tables: Table = {"desk": {"strategy": "regime_switcher"}, "paths": {"models_dir": str(store)}}
    with daily_desk(tmp_path, capsys, monkeypatch) as desk:
        desk.check(tables, code=0)
    assert [subject for subject in desk.order if "options" in subject] == []
    assert desk.checks["feed sip"] == ("ok", "quotes of 3 of 3 symbols")
    assert desk.checks["history"] == ("ok", "daily bars of 3 of 3 symbols in the last days")


def test_a_share_without_bars_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = swapping(tmp_path / "models")
    tables: Table = {"desk": {"strategy": "regime_switcher"}, "paths": {"models_dir": str(store)}}
    with daily_desk(tmp_path, capsys, monkeypatch, delisted={"IWM": "2024-06-03"}) as desk:
        desk.check(tables, code=0)
    assert desk.checks["history"][0] == "warn"
    assert "none of IWM: halted, delisted or renamed" in desk.checks["history"][1]


def test_a_small_account_of_shares_is_told_what_it_holds_and_the_least_capital_for_whole_shares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = swapping(tmp_path / "models")
    tables: Table = {"desk": {"strategy": "regime_switcher"}, "paths": {"models_dir": str(store)}}
    small: Table = {"paper": {"cash_usd": 300}}
    with daily_desk(tmp_path, capsys, monkeypatch) as desk:
        desk.check(tables, code=0)
        assert desk.checks["capital"][0] == "ok"
        assert desk.checks["capital"][1].startswith("10,000.00 USD over 3 symbols, 3,333.33 USD each: ")
        desk.check(tables, small, {"basket": {"fractions": "auto"}}, code=0, dry_run=True)
        verdict, text = desk.checks["capital"]
        assert verdict == "ok"
        assert text == (
            "300.00 USD over 3 symbols, 100.00 USD each: fractions of shares, because an equal part pays for fewer "
            "than 20 shares of SPY at 500.00 USD"
        )
        desk.check(tables, small, {"basket": {"fractions": "off"}}, code=0, dry_run=True)
        verdict, text = desk.checks["capital"]
        assert verdict == "warn"
        assert text == (
            "300.00 USD over 3 symbols are 100.00 each, less than one share of SPY at 500.00 USD, QQQ at 400.00 USD, "
            'IWM at 200.00 USD: what is below one share is not held; 1,500 USD hold them (basket.fractions = "off"): '
            'set basket.fractions = "on", fewer desk.symbols, or add that capital'
        )


def test_an_address_at_which_nothing_answers_is_no_matter_of_keys_or_plan(desk: Desk) -> None:
    desk.check({"alpaca": {"trading_url": f"{desk.server.trading_url}/v3"}}, code=2)
    verdict, text = desk.checks["keys"]
    assert (verdict, "/v3 serves no account (404 " in text, "correct that address" in text) == ("FAIL", True, True)
    desk.check({"alpaca": {"data_url": f"{desk.server.data_url}/v3"}}, code=2)
    for subject in ("feed sip", "history"):
        assert "neither keys nor plan are in the way" in desk.checks[subject][1]
    tables: Table = {"alpaca": {name: f"{getattr(desk.server, name)}/v2" for name in ("trading_url", "data_url")}}
    desk.check(tables, code=0)  # as Alpaca's own pages show them


def test_a_limit_that_denies_an_equal_part_of_the_account_is_told_with_its_cure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """10,000 USD over three funds are 3,333.33 each; 300 USD are 100 each, in fractions."""
    store = swapping(tmp_path / "models")
    tables: Table = {"desk": {"strategy": "regime_switcher"}, "paths": {"models_dir": str(store)}}
    cases: tuple[tuple[dict[str, object], str], ...] = (
        (
            {"order_notional_max_usd": 3333},
            "order_notional_max_usd = 3333 denies a buy of 3,333.33 USD, whole: raise",
        ),
        (
            {"order_weight_max": 0.3},
            "order_weight_max = 0.3 denies a buy of 3,333.33 USD, whole: raise it to more than 0.333",
        ),
        ({"order_notional_max_usd": 3334, "order_weight_max": 0.34}, ""),
    )
    with daily_desk(tmp_path, capsys, monkeypatch) as desk:
        for basket, words in cases:
            desk.check(tables, {"basket": basket}, code=0)
            verdict, text = desk.checks["capital"]
            assert (verdict, words in text) == ("warn" if words else "ok", True)
        for least, verdict in ((101, "warn"), (100, "ok")):
            small: Table = {"paper": {"cash_usd": 300}, "basket": {"min_order_usd": least}}
            desk.check(tables, small, code=0, dry_run=True)
            assert desk.checks["capital"][0] == verdict
            told = "basket.min_order_usd = 101 leaves out a fraction that is worth 100.00 USD: lower it"
            assert (told in desk.checks["capital"][1]) == (verdict == "warn")


def test_a_small_account_of_options_is_told_which_entries_cost_too_much_and_what_fits_them(desk: Desk) -> None:
    desk.check(code=0)
    verdict, text = desk.checks["capital"]
    assert (verdict, text.endswith(": an entry pays for each")) == ("ok", True)
    dear = [float(ask) for ask in re.findall(r"(?:call|put) at ([\d.]+)", text)]
    assert len(dear) == 2
    cash = int(100 * 1.05 * max(dear) / 0.2)  # a fifth of it pays for 100 shares at 5 % above the ask, but for cents
    desk.check({"paper": {"cash_usd": cash}}, code=0, dry_run=True)
    verdict, text = desk.checks["capital"]
    assert (verdict, " of 2 entries cost more than one position may: " in text) == ("warn", True)
    assert "sizing.premium_fraction = 0.25 fits them" in text


def test_a_metrics_port_that_another_desk_of_the_host_has_is_told(desk: Desk) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        table = {"metrics": {"enabled": True, "port": other.getsockname()[1]}}
        desk.check(table, code=0)
        verdict, text = desk.checks["metrics"]
        assert (verdict, text.partition(":")[0]) == ("warn", f"metrics.port {table['metrics']['port']}")
        assert text.endswith("each desk needs its own")
    desk.check(table, code=0)
    assert desk.checks["metrics"][0] == "ok"


def test_keys_that_another_desk_of_the_host_uses_fail(desk: Desk, tmp_path: Path) -> None:
    desk.monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    other = AccountLock(tmp_path / "run", Holder("other", "/elsewhere", 4711), desk.server.trading_url)
    other.claim_key(DEFAULT_KEY)
    desk.check(code=2)
    assert desk.verdicts("FAIL") == ["account lock"]
    assert "other, state directory /elsewhere, process 4711" in desk.checks["account lock"][1]
    other.close()
    desk.check(code=0)


# --- the host -----------------------------------------------------------------------------------------------------


def test_a_model_that_is_not_there_fails_and_the_rest_is_examined(desk: Desk) -> None:
    desk.check({"policy": {"version": "v9"}}, code=2)
    assert desk.verdicts("FAIL") == ["model"]
    assert "v9" in desk.checks["model"][1]
    assert desk.checks["keys"][0] == "ok"


def test_a_first_model_that_a_new_desk_waits_for_fails_nothing(desk: Desk) -> None:
    """What the manual of such a desk says that it does, and the cure of a wrong path would mislead."""
    waiting: Table = {"policy": {"wait_for_first": True}, "paths": {"models_dir": str(desk.folder / "nowhere")}}
    desk.check(waiting, code=0)
    verdict, text = desk.checks["model"]
    assert (verdict, text.startswith("none yet; policy.wait_for_first = true")) == ("warn", True)


HOLDS_ELSEWHERE = "it holds with [basket] auction = false (this desk: true)"


@pytest.mark.parametrize(
    ("proven", "text"),
    [
        (True, f"no claim of risk is made: {HOLDS_ELSEWHERE}; to claim it, add"),
        (False, "a risk of 10 % is kept; it is not proven, and nobody watches it"),
    ],
)
def test_a_claim_about_risk_that_this_desk_does_not_keep_is_told(desk: Desk, proven: bool, text: str) -> None:
    store = shutil.copytree(REPOSITORY / "onnx_models" / "option_scalper", desk.folder / "store" / "option_scalper")
    path = store / version_of_pointer(store, CURRENT) / MANIFEST_FILE
    claim = StatedClaim(
        kind="risk",
        proven=proven,
        sentence="a risk of 10 % is kept",
        volatility_target=0.1,
        volatility_low=0.08,
        volatility_high=0.12,
        probability=0.9,
        drawdown_max=0.15,
        drawdown_probability=0.95,
    )
    usual = write_config(desk.folder / "usual.toml", desk.server, desk.clock, desk.state_dir)
    tested = with_rules(load(usual, {}).trading(), {"basket.auction": "False"})
    keys, rules = desk_keys("option_scalper", tested), {"digest": rules_digest(tested)}
    path.write_bytes(encode(replace(decode(path.read_bytes()), claim=claim, rules=rules, desk=keys)))
    desk.check({"paths": {"models_dir": str(desk.folder / "store")}}, code=0)
    verdict, message = desk.checks["claim"]
    assert verdict == "warn"
    assert message == text
    assert desk.more == (["[basket]", "auction = false"] if proven else [])


def test_a_model_that_is_not_promoted_fails_with_real_money(desk: Desk) -> None:
    desk.check({"desk": {"account": "live", "account_number": "PA3LOOPBACK1"}}, code=2)
    assert desk.verdicts("FAIL") == ["model"]
    assert desk.checks["model"][1].endswith("every entry would be denied; promote a model, or trade on paper")
    assert desk.checks["strategy"] == ("ok", "option_scalper")
    assert desk.checks["configuration"][1] == "desk paper-1, mode live: orders go to the live account"


def test_a_promotion_that_nobody_signed_is_told_with_real_money(desk: Desk) -> None:
    """A word in the manifest is all that a promotion is, and any editor writes it."""
    store = shutil.copytree(REPOSITORY / "onnx_models" / "option_scalper", desk.folder / "store" / "option_scalper")
    path = store / version_of_pointer(store, CURRENT) / MANIFEST_FILE
    path.write_bytes(encode(replace(decode(path.read_bytes()), promoted=True)))
    models = {"models_dir": str(desk.folder / "store")}
    real: Table = {"desk": {"account": "live", "account_number": "PA3LOOPBACK1"}, "paths": models}
    desk.check(real, code=0)
    verdict, text = desk.checks["model"]
    assert verdict == "warn"
    assert text.endswith("who can write the store can write that: set policy.public_key (rltraderctl models keygen)")
    public = keygen(desk.folder / "signing.pem")
    signature.sign(path.parent, path.read_bytes(), desk.folder / "signing.pem")
    desk.check(real, {"policy": {"public_key": public}}, code=0)
    assert desk.checks["model"][0] == "ok"


# --- the operator's side ------------------------------------------------------------------------------------------


def test_commands_without_a_key_that_signs_them_fail(desk: Desk) -> None:
    desk.check({"mqtt": {"enabled": True, "commands": True}}, code=2)
    assert desk.verdicts("FAIL") == ["mqtt"]
    assert "MQTT_COMMAND_KEYS" in desk.checks["mqtt"][1]


def test_a_broker_with_its_keys_is_told_by_their_names(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQTT_COMMAND_KEYS", f"ops-laptop:{'5a' * 32}")
    desk.check({"mqtt": {"enabled": True, "commands": True}}, code=0)
    assert desk.checks["mqtt"] == ("ok", "127.0.0.1:8883, commands signed by ops-laptop")


def test_a_broker_that_nobody_vouches_for_and_an_alarm_program_that_is_missing_are_warnings(desk: Desk) -> None:
    desk.check({"mqtt": {"enabled": True, "ca_file": "/no/ca.pem"}, "alarms": {"command": ["/no/notify"]}}, code=0)
    assert {"mqtt", "alarms"} <= set(desk.verdicts("warn"))
    assert "/no/ca.pem is no file" in desk.checks["mqtt"][1]
    assert "/no/notify cannot be run" in desk.checks["alarms"][1]


def test_a_guard_is_told_by_its_paths_and_what_keeps_it_deaf_is_named(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    guard: dict[str, object] = {"prefix": "guard", "act": "protect", "drop_dir": str(tmp_path)}
    desk.check({"guard": guard}, code=2)
    assert desk.verdicts("FAIL") == ["guard"]
    assert "GUARD_KEY" in desk.checks["guard"][1]
    monkeypatch.setenv("GUARD_KEY", "5a" * 32)
    desk.check({"guard": guard}, code=0)
    assert desk.checks["guard"][0] == "ok"
    assert f"heartbeat by {tmp_path}; on silence it tells, and protects" in desk.checks["guard"][1]
    desk.check({"guard": {**guard, "drop_dir": "/no/folder"}}, code=0)
    assert "/no/folder cannot be written" in desk.checks["guard"][1]
    desk.check({"guard": {"prefix": "guard"}, "mqtt": {"enabled": True}}, code=0)
    assert desk.checks["guard"][0] == "warn"
    assert "dies with it" in desk.checks["guard"][1]


def write_state_dir(path: Path, **meta: str) -> None:
    """A state directory as a daemon leaves it."""
    state_dir = open_state_dir(path, {**META, **meta}, "epoch")
    state_dir.journal.close()
    state_dir.close()


def test_a_state_directory_of_this_desk_is_resumed(desk: Desk) -> None:
    write_state_dir(desk.state_dir)
    desk.state_dir.chmod(0o750)
    desk.check(code=0)
    assert desk.checks["state directory"] == ("ok", f"{desk.state_dir}: resumes a journal")
    assert desk.checks["permissions"] == ("ok", "the state directory is closed to other users")


@pytest.mark.parametrize(
    ("meta", "problem"),
    [
        ({"mode": "dry_run"}, "made with mode dry_run, now paper is asked for"),
        ({"account": "live"}, "made with account live, now paper is asked for"),
        ({"feed": "iex"}, "made with feed iex, now sip is asked for"),
        ({"strategy": "other"}, "made with strategy other, now option_scalper is asked for"),
    ],
)
def test_a_state_directory_of_another_desk_fails(desk: Desk, meta: dict[str, str], problem: str) -> None:
    write_state_dir(desk.state_dir, **meta)
    desk.check(code=2)
    assert desk.verdicts("FAIL") == ["state directory"]
    assert f"{desk.state_dir}: this state directory was {problem}: use the" in desk.checks["state directory"][1]


def test_a_damaged_journal_fails(desk: Desk) -> None:
    desk.state_dir.mkdir()
    (desk.state_dir / FILE).write_text("no journal" * 100)
    desk.check(code=2)
    assert desk.verdicts("FAIL") == ["state directory"]
    assert "not a journal or damaged" in desk.checks["state directory"][1]


def test_a_state_directory_in_use_is_a_warning_that_names_the_process(desk: Desk) -> None:
    running = open_state_dir(desk.state_dir, META, "epoch")
    try:
        desk.check(code=0)
    finally:
        running.journal.close()
        running.close()
    expected = f"{desk.state_dir}: in use by process {os.getpid()}: a second daemon would be refused"
    assert desk.checks["state directory"] == ("warn", expected)


def test_a_place_that_can_be_no_state_directory_fails(desk: Desk) -> None:
    file = desk.folder / "file"
    file.write_text("")
    for place, problem in (
        (file, "is no folder"),
        (file / "x", "is no folder"),
        (desk.folder / ("x" * 300), "too long"),
    ):
        desk.check({"paths": {"state_dir": str(place)}}, code=2)
        assert desk.verdicts("FAIL") == ["state directory"]
        assert problem in desk.checks["state directory"][1]
        assert desk.checks["state directory"][1].endswith(": choose another")


def test_a_journal_that_every_user_can_read_is_a_warning(desk: Desk) -> None:
    write_state_dir(desk.state_dir)
    desk.state_dir.chmod(0o755)
    (desk.state_dir / FILE).chmod(0o644)
    desk.check(code=0)
    expected = f"state, {FILE}: open to every user: chmod -R o-rwx {desk.state_dir}"
    assert desk.checks["permissions"] == ("warn", expected)
    desk.state_dir.chmod(0o750)  # nobody else comes to the journal any more
    desk.check(code=0)
    assert desk.checks["permissions"][0] == "ok"


@pytest.mark.parametrize(("mib", "verdict"), [(5_000, "ok"), (4_999, "warn"), (500, "warn"), (499, "FAIL")])
def test_a_disk_with_little_room_is_told(desk: Desk, mib: int, verdict: str) -> None:
    desk.monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, mib << 20))
    desk.check(code=2 if verdict == "FAIL" else 0)
    cure = "" if verdict == "ok" else ": make room, 5,000 MiB are good for months"
    assert desk.checks["disk"] == (verdict, f"{mib:,} MiB free where the journal is{cure}")


# --- what it is not -----------------------------------------------------------------------------------------------


def test_without_keys_nothing_is_examined(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--check", "--state-dir", str(desk.state_dir)]) == 2
    assert "no broker keys: set APCA_API_KEY_ID and APCA_API_SECRET_KEY" in capsys.readouterr().err
    assert desk.server.server.requests == []


def test_the_check_of_a_replay_asks_no_server(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(desk.folder / "config.toml", desk.server, desk.clock, desk.state_dir)
    desk.monkeypatch.setenv("APCA_API_KEY_ID", DEFAULT_KEY)
    desk.monkeypatch.setenv("APCA_API_SECRET_KEY", DEFAULT_SECRET)
    arguments = ["--check", "--dry-run", "--bars", str(BUNDLED_TAPE), "--config", str(path)]
    assert cli.main(arguments) == 0
    output = capsys.readouterr().out
    assert json.loads(output.splitlines()[-1]) == {"check": "ok"}
    assert "replay (dry run)" in output
    assert desk.server.server.requests == []
    assert not desk.state_dir.exists()


# --- a desk of shares by the minute -------------------------------------------------------------------------------


def test_a_desk_of_shares_by_the_minute_needs_minute_bars_and_quotes_of_each_and_no_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = put_momentum(tmp_path / "models")
    symbols: dict[str, object] = {"strategy": NAME, "symbols": [*SYMBOLS, "IWM"]}
    tables: Table = {"desk": symbols, "paths": {"models_dir": str(store)}}
    account = Account(DEFAULT_KEY, DEFAULT_SECRET, level=0)
    begin_ns = new_york_ns(HALF_DAY, "09:00")
    with desk_at(tape().market(HALF_DAY), begin_ns, tmp_path, capsys, monkeypatch, accounts=(account,)) as desk:
        desk.check(tables, code=0)
        assert desk.checks["feed sip"] == ("ok", "quotes of 2 of 3 symbols")
        assert desk.checks["history"][0] == "warn"
        assert desk.checks["history"][1].startswith("minute bars of 2 of 3 symbols in the last days: none of IWM")
    assert [subject for subject in desk.order if "options" in subject] == []


def test_redis_of_served_answers_is_tried_as_the_daemon_would(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, nowhere = put_momentum(tmp_path / "models"), "unix:///nowhere/r.sock"
    shared: dict[str, Mapping[str, object]] = {
        "desk": {"strategy": NAME, "symbols": list(SYMBOLS)},
        "paths": {"models_dir": str(store)},
    }
    begin_ns = new_york_ns(HALF_DAY, "09:00")
    with desk_at(tape().market(HALF_DAY), begin_ns, tmp_path, capsys, monkeypatch) as desk, redis_anywhere() as redis:
        desk.check({**shared, "policy": {"answers": "served", "redis": nowhere}}, code=2)
        assert desk.checks["redis"][0] == "FAIL"
        assert desk.checks["redis"][1].startswith(f"policy.redis = {nowhere}: /nowhere/r.sock: ConnectionError: ")
        desk.check({**shared, "policy": {"redis": nowhere}}, code=0)
        assert desk.checks["redis"][0] == "warn"
        monkeypatch.setenv("REDIS_PASSWORD", redis.passwords["rltraderd"])
        desk.check({**shared, "policy": {"answers": "served", "redis": f"unix://{redis.socket}"}}, code=0)
        text = f"policy.redis = unix://{redis.socket}: {redis.socket}: user rltraderd may XADD, XREAD"
        assert desk.checks["redis"] == ("ok", text)
        assert desk.checks["redis keeps"][0] == "ok"
        monkeypatch.setenv("REDIS_PASSWORD", redis.passwords["rltrader-trainer"])
        desk.check({**shared, "policy": {"answers": "served", "redis": f"unix://{redis.socket}"}}, code=2)
        assert (
            "user rltraderd is refused with the password (from environment REDIS_PASSWORD)" in desk.checks["redis"][1]
        )
        assert redis.passwords["rltrader-trainer"] not in desk.checks["redis"][1]
