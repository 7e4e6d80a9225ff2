"""The tensor market on recorded quotes as an environment: on devices, and from a saved state."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from daemon.core.limits import Trading
from daemon.host.time.calendar import SessionCalendar
from daemon.tapes.quotes.tape import option_quotes
from strategies.option_scalper import SPEC
from tests.support.training.made_up import random_walk
from tests.support.training.option_quotes import troubled
from tests.support.training.scalper_markets import same_to_the_bit
from training.desks.scalper.history import History, read_history
from training.desks.scalper.recorded.data import quoted_days, session_quotes
from training.desks.scalper.recorded.market import QuoteTable, RecordedMarket, quote_table

TRADING, COUNT, STEPS = Trading(), 24, 420  # more than a session
Made = tuple[History, QuoteTable]


@pytest.fixture(scope="module")
def history_and_quotes(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Two sessions with quotes."""
    events = random_walk(23)
    history = read_history(events, SPEC, TRADING)
    path = tmp_path_factory.mktemp("quotes") / "quotes.parquet"
    quotes = option_quotes(troubled(path, events, [day.session.date for day in history.usable], missing=0.2), "SPY")
    quoted = quoted_days(quotes, history, SessionCalendar.load("2024-05-20", "2024-10-31"), TRADING)
    days = [(day, session_quotes(quoted[day.session.date], history, day, TRADING)) for day in history.usable]
    return history, quote_table(history, days, TRADING)


def market_of(history_and_quotes: Made) -> RecordedMarket:
    return RecordedMarket(
        history_and_quotes[0], history_and_quotes[1], history_and_quotes[0].usable, TRADING, count=COUNT, seed=1
    )


def actions() -> torch.Tensor:
    return torch.randint(0, 6, (STEPS, COUNT), generator=torch.Generator().manual_seed(1))


def test_masked_for_all_rows_or_done_for_a_few_a_step_is_the_same_to_the_bit(history_and_quotes: Made) -> None:
    few, every = market_of(history_and_quotes), market_of(history_and_quotes)
    every._looks = False  # as on a device
    assert same_to_the_bit(few, every, actions()) > COUNT


def test_a_market_that_was_saved_and_loaded_goes_on_with_its_orders(history_and_quotes: Made, tmp_path: Path) -> None:
    market, other = market_of(history_and_quotes), market_of(history_and_quotes)
    script = actions()
    steps = 0
    while steps < 40 or not bool((market.work.order > 0).any()):
        market.step(script[steps])
        steps += 1
    torch.save(market.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for index in range(steps, steps + 100):
        assert torch.equal(market.step(script[index]).rewards, other.step(script[index]).rewards)
    assert torch.equal(market.observe(), other.observe())
