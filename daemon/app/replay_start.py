"""Check a recorded tape and the desk that will replay it. Nothing is written."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from msgspec import UNSET, UnsetType

from daemon.app.desk import CheckedDesk
from daemon.config.load import ConfigError, DeskSettings
from daemon.config.strategy import strategy_of
from daemon.core.desks.bars import MINUTE_WAIT_NS
from daemon.core.desks.shares.sizes import sells_after_open
from daemon.core.limits import AUTO, Basket
from daemon.core.step import Machine
from daemon.core.strategy_rules import TABLES, changes_nothing
from daemon.host.time.calendar import CalendarError, SessionCalendar
from daemon.journal.rows import TAPE_DATES
from daemon.models.runtime import OnnxPolicy
from daemon.models.store import check_rules, load
from daemon.tapes.days import DailyTapeSource, check_rule, scan_daily
from daemon.tapes.minutes import TapeInfo, TapeSource, scan
from daemon.tapes.quotes.tape import OptionQuotes, QuotedTape, option_quotes
from daemon.tapes.span_options import QuoteChoice
from strategies.kit.contract import Spec
from strategies.registry import configured

REPLAY, RECORDED_QUOTES = "replay", "recorded"  # modes: with the paper broker's option market, with recorded quotes
PAPER_ACCOUNT = "paper"


@dataclass(slots=True)
class TapeReplay(CheckedDesk):
    """A checked tape and its desk."""

    tape: Path
    info: TapeInfo
    quotes: OptionQuotes | None = None

    def meta(self) -> dict[str, str]:
        """The journal's meta rows, without the epoch."""
        values = self.identity(REPLAY if self.quotes is None else RECORDED_QUOTES, PAPER_ACCOUNT) | {
            "tape": self.tape.name,
            "tape_sha256": self.info.sha256,
            "synthetic": self.info.synthetic,
            TAPE_DATES: f"{self.info.first_date} {self.info.last_date}",
        }
        if self.quotes is not None:
            values |= {
                "option_quotes": self.quotes.file.path.name,
                "option_quotes_sha256": self.quotes.sha256,
                "option_quotes_synthetic": self.quotes.file.synthetic,
            }
        return values

    def source(self, skip: int = 0, machine: Machine | None = None) -> TapeSource | DailyTapeSource | QuotedTape:
        """Return the tape's feed events after the first `skip`, which are in the journal.

        The recorded quotes among them are those that the desk of `machine` uses then.
        """
        return _SOURCES[self.strategy.spec.decides](self, skip, machine)

    @property
    def absent(self) -> tuple[str, ...]:
        """Return the desk's symbols without a row on the tape."""
        return tuple(symbol for symbol in self.strategy.spec.symbols if not self.info.rows_by_symbol.get(symbol))

    @property
    def bars(self) -> int:
        """Return about how many bars the desk will see, for its progress bar."""
        spec = self.strategy.spec
        if self.info.interval_s < spec.bar_interval_s:
            return self.info.dates * len(spec.symbols)
        rows = sum(self.info.rows_by_symbol.get(symbol, 0) for symbol in spec.symbols)
        return rows * (self.info.part_s or spec.bar_interval_s) // spec.bar_interval_s

    def epoch(self) -> str:
        """Return an epoch derived from tape, configuration and strategy: two replays give the same order ids."""
        spec = self.strategy.spec
        name = "|".join((spec.name, *configured(spec), *([spec.config] if spec.config else ())))
        quotes = "" if self.quotes is None else f"{self.quotes.sha256}|{self.quotes.root}|{self.quotes.closes_name}|"
        trading = self.settings.trading()
        if not isinstance(trading.protection, UnsetType) and trading.protection.rest_at_broker == AUTO:
            trading = replace(trading, protection=UNSET)  # a replay rests no stop
        rules = msgspec.to_builtins(trading)
        for table in TABLES:
            for key in changes_nothing(getattr(trading, table)):
                rules[table].pop(key, None)
        seed = f"{self.info.sha256}|{name}|{quotes}".encode() + msgspec.json.encode(rules)
        return hashlib.sha256(seed).hexdigest()[:10]


def _of_days(replay: TapeReplay, skip: int, _: Machine | None) -> DailyTapeSource:
    trading, info = replay.settings.trading(), replay.info
    parts = sells_after_open(trading, info.dearest, len(info.symbols))
    return DailyTapeSource(replay.tape, info, replay.calendar, trading.basket, skip, parts=parts)


def _of_bars(replay: TapeReplay, skip: int, machine: Machine | None) -> TapeSource | QuotedTape:
    trading = replay.settings.trading()
    if replay.quotes is not None and machine is not None:
        bars = TapeSource(replay.tape, replay.info, replay.calendar, parts=False)
        symbol = replay.strategy.spec.symbols[0]
        return QuotedTape(bars, replay.quotes, replay.calendar, trading, symbol, lambda: machine.market_state, skip)
    tick_ns = MINUTE_WAIT_NS if len(replay.strategy.spec.symbols) > 1 else 0
    return TapeSource(replay.tape, replay.info, replay.calendar, skip, tick_ns=tick_ns)


_SOURCES = {"bar": _of_bars, "session": _of_days}


def _scan_bars(tape: Path, spec: Spec, _: Basket) -> TapeInfo:
    return scan(tape, spec.symbols, spec.bar_interval_s, spec.bar_anchor)


def _scan_days(tape: Path, spec: Spec, rules: Basket) -> TapeInfo:
    info = scan_daily(tape, spec.symbols)
    check_rule(tape, info, rules)
    return info


_SCANS = {"bar": _scan_bars, "session": _scan_days}


def prepare_replay(settings: DeskSettings, tape: Path, chosen: QuoteChoice | None = None) -> TapeReplay:
    """Check tape, quotes and model; nothing is written. Raises TapeError, CalendarError, ModelError, ConfigError."""
    strategy = strategy_of(settings)
    spec = strategy.spec
    if chosen is not None and not spec.chained:
        raise ConfigError(f"--option-quotes {chosen.path}: {spec.name} trades no options: leave it out")
    info = _SCANS[spec.decides](tape, spec, settings.trading().basket)
    try:
        calendar = SessionCalendar.load(info.first_date, info.last_date)
    except CalendarError as error:
        raise CalendarError(f"{tape} has bars from {info.first_date} to {info.last_date}: {error}") from error
    model = load(settings.paths.models_dir, strategy, settings.policy.version, settings.policy.public_key)
    check_rules(model, strategy, settings.trading())
    policy = OnnxPolicy.open(model, strategy, settings.policy.provider, settings.policy.threads)
    quotes = None
    if chosen is not None:
        quotes = option_quotes(chosen.path, spec.symbols[0], chosen.root, chosen.closes)
    return TapeReplay(settings, strategy, calendar, model, policy, tape, info, quotes)
