"""Which feed a desk with `feed = "auto"` uses: found out once, kept, and never a lesser one later."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from daemon.app.live.feed_choice import FeedChoice, FeedUnknown, choose_feed, keep_feed
from daemon.brokers.api import BrokerError
from daemon.config.kept_feed import FILE
from daemon.config.load import ConfigError, Credentials, DeskSettings, load
from daemon.engine.state_dir import open_state_dir
from daemon.host.time.clock import Clock
from daemon.tapes import BUNDLED_TAPE
from simulator.clock import SimClock
from simulator.prices.market import Market
from simulator.prices.tape import calendar_sessions, new_york_date, read_bars
from simulator.server import serving
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET, Rules

KEYS = Credentials(api_key_id=SecretStr(DEFAULT_KEY), api_secret_key=SecretStr(DEFAULT_SECRET))
WRONG = Credentials(api_key_id=SecretStr(DEFAULT_KEY), api_secret_key=SecretStr("wrong"))
META = {"mode": "paper", "account": "paper", "strategy": "option_scalper", "feed": "sip", "desk": "paper-1"}
NOWHERE = "http://127.0.0.1:9"  # the discard port, where nothing listens


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The market data of a loopback Alpaca whose account has the free plan: the end of the bundled tape."""
    bars = read_bars(BUNDLED_TAPE, "SPY")[-800:]
    market = Market(bars, sessions=calendar_sessions(new_york_date(bars[0].start_ns), new_york_date(bars[-1].start_ns)))
    with serving(market, SimClock.starting_now(bars[-60].start_ns, 1), rules=Rules(free_plan=True)) as server:
        yield server.data_url


def settings(folder: Path, data_url: str, **feed: str) -> DeskSettings:
    values: dict[str, Any] = {"paths.state_dir": folder / "state", "alpaca.data_url": data_url}
    return load(None, values | {f"feed.{name}": value for name, value in feed.items()})


def choose(desk_settings: DeskSettings, keys: Credentials = KEYS) -> FeedChoice:
    return asyncio.run(choose_feed(desk_settings, keys, Clock.real()))


def feeds(choice: FeedChoice) -> tuple[str, str]:
    return choice.settings.feed.name, choice.settings.feed.options


def journal(folder: Path) -> None:
    """A journal of this desk, made on SIP."""
    state_dir = open_state_dir(folder / "state", META, "0123456789")
    state_dir.journal.close()
    state_dir.close()


def test_the_default_is_auto_and_a_named_feed_asks_nobody(tmp_path: Path) -> None:
    assert (load(None, {}).feed.name, load(None, {}).feed.options) == ("auto", "auto")
    choice = choose(settings(tmp_path, NOWHERE, name="iex", options="opra"))
    assert (feeds(choice), choice.how) == (("iex", "opra"), "")


def test_what_the_plan_allows_is_kept_and_not_asked_for_again(address: str, tmp_path: Path) -> None:
    first = choose(settings(tmp_path, address))
    assert (feeds(first), first.how) == (("iex", "indicative"), "by the account's data plan")
    (tmp_path / "state").mkdir()
    keep_feed(tmp_path / "state", first)
    assert (tmp_path / "state" / FILE).read_text() == "iex indicative\n"
    assert feeds(choose(settings(tmp_path, NOWHERE))) == ("iex", "indicative")
    assert feeds(choose(settings(tmp_path, NOWHERE, name="sip"))) == ("sip", "indicative")  # what is named is in force


def test_a_journal_stays_on_its_feed_though_the_plan_allows_less(address: str, tmp_path: Path) -> None:
    journal(tmp_path)
    assert feeds(choose(settings(tmp_path, address))) == ("sip", "indicative")


def test_an_outage_stops_no_desk_with_a_journal_and_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(
        FeedUnknown, match=r"feed is 'auto' and the account's data plan cannot be asked .* set feed.name"
    ):
        choose(settings(tmp_path, NOWHERE))
    journal(tmp_path)
    choice = choose(settings(tmp_path, NOWHERE))
    assert feeds(choice) == ("sip", "opra")
    keep_feed(tmp_path / "state", choice)
    assert not (tmp_path / "state" / FILE).exists()


def test_refused_keys_are_the_operators_to_mend(address: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="refuses the keys for every feed") as refused:
        choose(settings(tmp_path, address), WRONG)
    assert isinstance(refused.value.__cause__, BrokerError)
    assert "wrong" not in str(refused.value)


def test_a_kept_choice_that_cannot_be_read_is_asked_for_again(address: str, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / FILE).write_text("gold\n")
    assert feeds(choose(settings(tmp_path, address))) == ("iex", "indicative")
