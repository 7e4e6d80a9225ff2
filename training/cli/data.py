"""`rltrader data`: the folder of bars. Fetch or take in, update, list, check, make longer bars, remove.

The command alone; `training.data.folder` writes, `training.data.folder_check` reads. Training and dry run read by
`daemon.tapes.spans`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from daemon.host.time.calendar import NEW_YORK, CalendarError
from daemon.host.version import CommandLine
from daemon.tapes.bar_folder import BAR_LENGTHS, all_series, default_folder, series_of
from daemon.tapes.files import TapeError
from daemon.tapes.span_options import as_length
from strategies.kit.units import SECOND_NS
from training.cli.download import keys_of
from training.data.alpaca_bars import KEY_VARIABLES, BarsDoor, PacingClock
from training.data.bars_request import DATA_URL, DATA_URL_VARIABLE, FEEDS, DownloadError, DownloadRequest
from training.data.folder import (
    MINUTES,
    TIMEFRAMES,
    Writer,
    fetch,
    fetch_actions,
    is_made_of_minutes,
    resample,
    take_actions,
    take_file,
    update,
    writing,
)
from training.data.folder_check import SeriesSummary, findings, series_in

DONE, FAULTY, USAGE_ERROR, INTERRUPTED = 0, 1, 2, 130
_SHOWN = 3  # holes of a row


def parser() -> argparse.ArgumentParser:
    """The options of all commands."""
    line = CommandLine(
        prog="rltrader data",
        description="Bars that live in one folder, for dry run, training and research (docs/DATA.md).",
        epilog=f"Keys: {' and '.join(KEY_VARIABLES)} in the environment; {DATA_URL_VARIABLE} for another server.",
    )
    commands = line.add_subparsers(dest="command", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        options = commands.add_parser(name, help=text, description=f"{text}.")
        options.add_argument("--data-dir", type=Path, default=default_folder(), metavar="DIR", help="(%(default)s)")
        return options

    add = command("add", "fetch bars from Alpaca, or take in those of a file")
    add.add_argument("symbols", nargs="*", metavar="SYMBOL", help="stocks and ETFs; of a file: these alone")
    lengths = tuple(TIMEFRAMES)
    add.add_argument("--bars", type=as_length, choices=lengths, default=MINUTES, help="length of a bar (%(default)s)")
    add.add_argument("--from", dest="first_date", metavar="DATE", help="New York date, month or year: 2020, 2020-03-01")
    add.add_argument("--to", dest="last_date", metavar="DATE", help="last one, included (the newest that is over)")
    feed = "sip (usual) or iex, of all bars of a symbol; of a file: what it is called"
    add.add_argument("--feed", help=feed)
    add.add_argument("--from-file", type=Path, metavar="FILE", help="CSV, CSV.gz or Parquet of bars, prices as traded")
    actions = "CSV with symbol, ex_date, kind (split, dividend, spin_off) and value; alone, or with --from-file"
    add.add_argument("--actions", type=Path, metavar="FILE", help=actions)
    add.add_argument("--no-actions", action="store_true", help="do not ask Alpaca for splits and dividends")
    add.add_argument("--again", action="store_true", help="replace sessions that are there")
    _calls(add)
    newer = command("update", "fetch what is missing of all symbols, with splits and dividends, and make longer bars")
    newer.add_argument("--to", dest="last_date", metavar="DATE", help="last date, included (the newest that is over)")
    _calls(newer)
    list_options = command("list", "what there is: dates, holes, where it comes from")
    list_options.add_argument("--json", action="store_true", help="one JSON array with everything")
    longer = command("resample", "make longer bars of the minutes")
    longer.add_argument("lengths", nargs="+", type=as_length, choices=[name for name in lengths if name != MINUTES])
    longer.add_argument("--symbols", metavar="A,B,...", help="(all that have minutes)")
    checked = command("check", "what is wrong with the folder; exit code 1 where something is")
    checked.add_argument("--json", action="store_true", help="one JSON array of the faults")
    remove_options = command("remove", "remove a symbol's bars of one length")
    remove_options.add_argument("symbols", nargs="+", metavar="SYMBOL")
    remove_options.add_argument("--bars", type=as_length, choices=tuple(BAR_LENGTHS), required=True)
    return line


def _calls(command: argparse.ArgumentParser) -> None:
    usual = DownloadRequest.__dataclass_fields__["calls_per_minute"].default
    command.add_argument("--calls-per-minute", type=int, default=usual, help="Alpaca allows 200 (%(default)s)")


def main(arguments: Sequence[str] | None = None, clock: PacingClock | None = None) -> int:
    """`rltrader data …`; returns the exit code: 0, 1 `check` found faults, 2 the user erred, 130 Ctrl-C."""
    chosen = parser().parse_args(arguments)
    clock = clock or PacingClock()
    try:
        return _COMMANDS[chosen.command](chosen, clock)
    except (DownloadError, CalendarError, TapeError, ValueError) as error:
        _say(" ".join(str(error).split()))
    except OSError as error:
        file_text = f"{error.filename}: " if error.filename else ""
        _say(f"{file_text}{error.strerror or error}: what is finished is kept: mend it and give the same command again")
    except KeyboardInterrupt:
        _say("interrupted; what is finished is kept: give the same command again")
        return INTERRUPTED
    return USAGE_ERROR


def _say(text: str) -> None:
    sys.stderr.write(f"rltrader data: {text}\n")
    sys.stderr.flush()


def _add(chosen: argparse.Namespace, clock: PacingClock) -> int:
    symbols = tuple(dict.fromkeys(name.strip().upper() for words in chosen.symbols for name in words.split(",")))
    with writing(chosen.data_dir, clock) as writer:
        if chosen.from_file is not None:
            if chosen.first_date or chosen.last_date:
                raise DownloadError("--from-file takes all dates of the file: leave --from and --to out")
            count = take_file(
                writer, chosen.from_file, symbols, chosen.bars, chosen.feed or "", _say, again=chosen.again
            )
            if chosen.actions is not None:
                _say(f"{take_actions(writer, chosen.actions, symbols)} splits, dividends and spin-offs")
        elif chosen.actions is not None:
            count = take_actions(writer, chosen.actions, symbols)
        else:
            count = _fetch(writer, chosen, symbols)
    sys.stdout.write(f"{chosen.data_dir}: {count:,} new\n")
    return DONE


def _fetch(writer: Writer, chosen: argparse.Namespace, symbols: tuple[str, ...]) -> int:
    if not chosen.first_date:
        raise DownloadError("--from is missing: the first New York date, month or year, such as --from 2020")
    feed = chosen.feed or "sip"
    if feed not in FEEDS:
        raise DownloadError(f"--feed is {feed!r}: expected one of {', '.join(FEEDS)}")
    request = _request(chosen, writer, symbols, _begin(chosen.first_date), TIMEFRAMES[chosen.bars], feed)
    door = BarsDoor(request, keys_of(os.environ), _say, writer.clock)
    count = fetch(writer, request, door, _say, again=chosen.again)
    if not chosen.no_actions:
        fetch_actions(writer, symbols, request.end, door, _say)
    return count


def _request(
    chosen: argparse.Namespace, writer: Writer, symbols: tuple[str, ...], first: str, timeframe: str, feed: str
) -> DownloadRequest:
    today = datetime.fromtimestamp(writer.clock.now_ns() / SECOND_NS, UTC).astimezone(NEW_YORK).date().isoformat()
    return DownloadRequest(
        symbols=symbols,
        start=first,
        end=chosen.last_date or today,
        timeframe=timeframe,
        out=writer.folder / "bars.parquet",
        feed=feed,
        calls_per_minute=chosen.calls_per_minute,
        url=os.environ.get(DATA_URL_VARIABLE, "").strip() or DATA_URL,
    )


def _begin(text: str) -> str:
    """A year or a month as its first date."""
    return text + "-01-01"[3 * (text.count("-")) :] if text.count("-") < 2 else text


def _update(chosen: argparse.Namespace, clock: PacingClock) -> int:
    with writing(chosen.data_dir, clock) as writer:
        usual = _request(chosen, writer, ("SPY",), "2016-01-01", TIMEFRAMES[MINUTES], "sip")
        door = BarsDoor(usual, keys_of(os.environ), _say, clock)
        count = update(writer, usual, door, _say)
    sys.stdout.write(f"{chosen.data_dir}: {count:,} new bars\n")
    return DONE


def _resample(chosen: argparse.Namespace, clock: PacingClock) -> int:
    with writing(chosen.data_dir, clock) as writer:
        of_minutes = [series.symbol for series in all_series(chosen.data_dir) if series.bars == MINUTES]
        symbols = chosen.symbols.split(",") if chosen.symbols else of_minutes
        if not symbols:
            raise DownloadError(
                f"{chosen.data_dir}: there are no minutes: rltrader data add SPY --bars 1min --from 2020"
            )
        for bars in chosen.lengths:
            usual = [symbol for symbol in symbols if chosen.symbols or _may_make(chosen.data_dir, bars, symbol)]
            resample(writer, bars, usual, _say)
    return DONE


def _may_make(folder: Path, bars: str, symbol: str) -> bool:
    """Whether a symbol's longer bars may be made without asking by name: none were fetched."""
    series = series_of(folder, bars, symbol)
    if series is None or is_made_of_minutes(series):
        return True
    _say(f"{symbol}: its {bars} bars were fetched, and stay")
    return False


def _remove(chosen: argparse.Namespace, clock: PacingClock) -> int:
    with writing(chosen.data_dir, clock) as writer:
        for symbol in chosen.symbols:
            writer.remove(symbol, chosen.bars)
            _say(f"{symbol}: its {chosen.bars} bars are gone")
    return DONE


def _list(chosen: argparse.Namespace, clock: PacingClock) -> int:
    del clock
    rows = series_in(chosen.data_dir)
    if chosen.json:
        sys.stdout.write(msgspec.json.encode(rows).decode() + "\n")
        return DONE
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=160)
    console.print(_table(rows) if rows else f"{chosen.data_dir}: no bars: begin with rltrader data add SPY --from 2020")
    console.print(f"{chosen.data_dir}: {sum(row.bytes for row in rows) / 1e6:,.1f} MB")
    return DONE


def _table(rows: Sequence[SeriesSummary]) -> Table:
    table = Table(
        "symbol", "bars", "dates", "sessions", "holes", "bars missing", "from", "splits, dividends", "fetched", "MB"
    )
    for row in rows:
        holes = f"{len(row.holes)}: {', '.join(row.holes[:_SHOWN])}{', …' if len(row.holes) > _SHOWN else ''}"
        note = " (made of 1min)" if row.made_of_minutes else ""
        mark = " SYNTHETIC" if row.synthetic else ""
        table.add_row(
            row.symbol,
            row.bars + note,
            f"{row.first} to {row.last}",
            f"{row.sessions:,}",
            holes if row.holes else "none",
            f"{row.missing_bars:,}" if row.missing_bars else "none",
            f"{row.feed}, {row.source}, {row.adjustment}{mark}",
            f"{row.actions}, until {row.actions_until}" if row.actions_until else "unknown",
            row.fetched[:10],
            f"{row.bytes / 1e6:,.1f}",
        )
    return table


def _check(chosen: argparse.Namespace, clock: PacingClock) -> int:
    del clock
    if not chosen.data_dir.is_dir():
        raise DownloadError(f"{chosen.data_dir}: no such folder of bars: begin with rltrader data add SPY --from 2020")
    faults = list(findings(chosen.data_dir))
    if chosen.json:
        sys.stdout.write(msgspec.json.encode(faults).decode() + "\n")
    else:
        for finding in faults:
            sys.stdout.write(f"{finding.symbol} {finding.bars} {finding.what}: {finding.detail}\n")
        sys.stdout.write(f"{chosen.data_dir}: {len(faults) or 'no'} {'fault' if len(faults) < 2 else 'faults'}\n")
    return FAULTY if faults else DONE


_COMMANDS: dict[str, Callable[[argparse.Namespace, Any], int]] = {
    "add": _add,
    "update": _update,
    "list": _list,
    "resample": _resample,
    "check": _check,
    "remove": _remove,
}
