"""Training on recorded option quotes: equal quotes give equal weights, modelled sessions join, the files say so."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch

from daemon.core.events import BarClosed
from daemon.core.limits import Trading
from daemon.host.time.calendar import SessionCalendar
from daemon.tapes.files import digest_of
from daemon.tapes.quotes.tape import option_quotes
from strategies.option_scalper import SPEC
from strategies.registry import strategy
from tests.support.training.made_up import random_walk, write_csv
from tests.support.training.option_quotes import of_the_market, troubled
from tests.support.training.small_runs import small_settings
from tests.support.training.studies import hand_study
from training.data.quotes.source import QuoteSource
from training.desks.kind import FoldComparison
from training.desks.scalper.history import History, read_history
from training.desks.scalper.network import IDENTITY, build
from training.desks.scalper.recorded.data import QuotedData, load_quoted, quoted_days, session_quotes
from training.desks.scalper.recorded.market import QuoteTable, RecordedMarket, modelled, quote_table
from training.report.find import find
from training.report.report import page
from training.report.results import quoted_rows, result_rows
from training.rl.coefficients import Coefficients
from training.rl.ppo import Trainer, make_deterministic
from training.runs.ledger import Ledger
from training.runs.prepared import prepare
from training.runs.record import RunRecord

TRADING = Trading()
EVENTS = random_walk(26)
SMALL = Coefficients(environments=16, rollout_steps=32, batch=128, epochs=2)


def training_digest(history: History, table: QuoteTable) -> str:
    """The digest of the weights after a few updates."""
    make_deterministic()
    market = RecordedMarket(history, table, history.usable, TRADING, count=16, seed=3)
    trainer = Trainer(build("mlp", IDENTITY, 3), market, SMALL, total_steps=16 * 32 * 4, seed=3)
    for _ in range(4):
        trainer.update()
    digest = hashlib.sha256()
    for name, weight in trainer.network.state_dict().items():
        digest.update(name.encode() + weight.numpy().tobytes())
    assert int(market.account.orders.sum()) > 0
    return digest.hexdigest()


def test_recorded_quotes_that_the_option_market_made_train_the_weights_of_its_own_prices(tmp_path: Path) -> None:
    history = read_history(EVENTS, SPEC, TRADING)
    quotes = option_quotes(of_the_market(tmp_path / "quotes.parquet", history, TRADING), "SPY")
    quoted = quoted_days(quotes, history, SessionCalendar.load("2024-05-20", "2024-10-31"), TRADING)
    days = history.usable
    table = quote_table(history, [(day, modelled(history, day, TRADING)) for day in days], TRADING)
    from_file = quote_table(
        history, [(day, session_quotes(quoted[day.session.date], history, day, TRADING)) for day in days], TRADING
    )
    assert training_digest(history, table) == training_digest(history, from_file)
    dearer = replace(table, opens=table.opens + torch.tensor([0, 5]))
    assert training_digest(history, table) != training_digest(history, dearer)


def loaded(folder: Path, share: float) -> QuotedData:
    """Five sessions that can be traded, the last four with quotes."""
    history = read_history(EVENTS, SPEC, TRADING)
    bars = write_csv(folder / "bars.csv", [event.bar for event in EVENTS if isinstance(event, BarClosed)])
    dates = [day.session.date for day in history.usable[1:]]
    quotes = troubled(folder / "quotes.parquet", EVENTS, dates)
    return load_quoted(
        bars, strategy(SPEC.name), TRADING, QuoteSource(quotes, digest_of(quotes), synthetic_share=share)
    )


def test_modelled_sessions_are_drawn_by_their_share_and_only_up_to_the_last_that_trains(tmp_path: Path) -> None:
    data = loaded(tmp_path, 0.3)
    dates, first = tuple(data.days), min(day.first for day in data.copies.values())
    assert (len(dates), len(data.copies)) == (4, 5)

    def copies(since: str, until: str) -> list[int]:
        """Which of the modelled sessions the environments begin on; their share is about the stated one."""
        trained_on = [date for date in dates if date <= until]
        row = data.training_market(trained_on, since, TRADING, count=4000, seed=1).row
        mask = row >= first
        assert float(mask.double().mean()) == pytest.approx(0.3, abs=0.03)  # four deviations
        return sorted(set(((row[mask] - first) // 390).tolist()))

    assert copies("", dates[3]) == [0, 1, 2, 3, 4]
    assert copies("", dates[0]) == [0, 1]
    assert copies(dates[1], dates[2]) == [2, 3]


def test_other_quotes_than_those_the_run_began_with_are_refused(tmp_path: Path) -> None:
    loaded(tmp_path, 0.0)
    source = QuoteSource(tmp_path / "quotes.parquet", "0" * 64)
    with pytest.raises(ValueError, match=r"changed while the run was at work.*expected 000000000000"):
        load_quoted(tmp_path / "bars.csv", strategy(SPEC.name), TRADING, source)


def test_the_settings_of_manifest_and_report_name_the_quotes_their_coverage_and_the_share(tmp_path: Path) -> None:
    quotes = loaded(tmp_path, 0.0).quotes.file.path
    source = QuoteSource(quotes, digest_of(quotes), synthetic_share=0.25)
    settings = replace(small_settings(tmp_path), bars=tmp_path / "bars.csv", quotes=source, train_sessions=1)
    settings = replace(settings, validate_sessions=1, test_sessions=1, purge_sessions=0)
    assert "--option-quotes quotes.parquet --synthetic-share 0.25" in settings.command()
    prepared = prepare((settings, tmp_path, "0123456"))
    identity, ledger = settings.identity(prepared.data.info.sha256), Ledger(tmp_path / "ledger")
    record = RunRecord(prepared, identity, "0" * 64, "run", ledger)
    trial = hand_study().trials[0]
    study = record.study((trial,), (0,), (FoldComparison({}, (), {}),), means=(), account=(), extra={})
    assert study.settings["option_quotes"] == {
        "file": "quotes.parquet", "sha256": source.sha256, "synthetic_share": 0.25,
    }  # fmt: skip
    coverage = study.settings["option_quote_coverage"]
    assert (coverage["sessions"], coverage["sessions_of_the_bars"], coverage["synthetic"]) == (4, 5, "")
    minutes = coverage["contract_minutes"]
    assert sum(minutes.values()) == 4 * 2 * 389  # a call and a put nearest the money at each close but the last
    assert 0.04 < minutes["missing"] / sum(minutes.values()) < 0.08
    hand_made = hand_study()
    quote_settings = {name: value for name, value in study.settings.items() if name.startswith("option_quote")}
    hand_made = msgspec.structs.replace(hand_made, settings={**hand_made.settings, **quote_settings})
    findings = find(hand_made)
    modelled_line = msgspec.structs.replace(findings.baselines[0], name="Black-Scholes prices")
    findings = msgspec.structs.replace(findings, scenarios=(*findings.scenarios, modelled_line))
    report = page(hand_made, findings)
    assert "The file has quotes of 4 of 5 sessions of the bars, and of 9" in report
    assert quoted_rows(findings) == [row[:3] for row in result_rows(findings)]  # the first baseline's figures stand in
    assert "Recorded quotes next to Black" not in page(hand_study(), find(hand_study()))
    for words in (source.sha256, "4 of 5 sessions", "25.0\N{NO-BREAK SPACE}% of the training episodes"):
        assert words in report
