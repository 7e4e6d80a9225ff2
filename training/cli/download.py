"""`train-and-export download`: Alpaca's recorded bars in one Parquet file that training, dry run and replay read.

The sequence of a download, and the command. Finished chunks (one symbol's month) are kept next to the output, so an
interrupted download resumes. Invariant: there is no file at --out before every bar was checked (`bars_check`).
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from daemon.host.time.calendar import CalendarError
from daemon.host.version import CommandLine
from daemon.tapes.files import TapeError
from rltrader import called
from training.data.alpaca_bars import KEY_VARIABLES, BarsDoor, Keys, Listen, PacingClock, pages_of
from training.data.bars_check import checked
from training.data.bars_parts import EXAMPLES, DownloadSummary, already, assemble, claim, store, stored, writing
from training.data.bars_request import (
    ADJUSTMENTS,
    DATA_URL,
    DATA_URL_VARIABLE,
    FEEDS,
    TIMEFRAMES,
    DownloadError,
    DownloadRequest,
    identity_of,
    periods_of,
    settled,
)
from training.evidence.wording import counted

USAGE_ERROR, INTERRUPTED = 2, 130
_KEY = re.compile(r"[!-~]{1,256}", re.ASCII)


def download(request: DownloadRequest, keys: Keys, listen: Listen, clock: PacingClock | None = None) -> DownloadSummary:
    """Fetch the missing chunks, check them, and put the file at `request.out`; `listen` gets the progress.

    A file of the same finished request is left as it is and its summary returned.

    Raises:
        DownloadError: Alpaca refused or was not reached, a bar is bad, or the file cannot be written; chunks that are
            finished are kept for the next time.
        CalendarError: the dates are malformed or beyond what the exchange calendar knows.
    """
    clock = clock or PacingClock()
    sessions, left_out = settled(request, clock.now_ns())
    identity = identity_of(request, clock.now_ns())
    if request.out.exists():
        summary = already(request, identity, left_out)
        listen(f"{request.out} is there already and of the same request: nothing was fetched")
        return summary
    if left_out:
        listen(f"left out, not over yet: {', '.join(left_out)}")
    periods = periods_of(request, sessions)
    with writing(request):
        claim(request, identity)
        door = BarsDoor(request, keys, listen, clock)
        for chunk in (chunk for period in periods for chunk in period):
            if stored(request, identity, chunk) is None:
                part = checked(request, chunk, pages_of(door, request, chunk))
                store(request, identity, chunk, part)
                got = f"{counted(part.start_ns.size, 'bar')} in {counted(part.pages, 'page')}"
                listen(f"{chunk.name.removesuffix('.parquet')}: {got}")
            else:
                listen(f"{chunk.name.removesuffix('.parquet')}: here already")
        summary = assemble(request, identity, periods, left_out)
        shutil.rmtree(request.parts)
    return summary


def summary_text(request: DownloadRequest, summary: DownloadSummary) -> str:
    """The summary as lines for a person."""
    hours = "regular and extended hours" if request.include_extended else "regular hours"
    bars = ", ".join(f"{count:,} bars of {symbol}" for symbol, count in summary.bars.items())
    calendar = f"{counted(summary.sessions, 'session')} in the calendar from"
    lines = [
        f"{request.out}: {bars}; {calendar} {summary.first_session} to {summary.last_session}",
        f"{request.timeframe}, feed {request.feed}, adjustment {request.adjustment}, {hours}",
        f"{counted(summary.pages, 'page')}; {summary.outside_hours:,} bars outside of these hours left out",
    ]
    if summary.left_out:
        lines.append(f"left out, not over yet: {', '.join(summary.left_out)}")
    for symbol, dates in summary.missing_sessions.items():
        examples = ", ".join(dates[:EXAMPLES]) + (", …" if len(dates) > EXAMPLES else "")
        lines.append(f"{symbol}: {counted(len(dates), 'missing session')}: {examples}")
    for symbol, count in summary.missing_bars.items():
        more = ", …" if count > EXAMPLES else ""
        lines.append(f"{symbol}: {counted(count, 'missing bar')}: {', '.join(summary.missing_examples[symbol])}{more}")
    if not summary.missing_sessions and not summary.missing_bars:
        lines.append("no session and no bar of regular hours is missing")
    return "\n".join(lines)


def warnings_of(request: DownloadRequest) -> tuple[str, ...]:
    """Return warnings about an allowed request."""
    lines = []
    if request.adjustment != "raw" and request.timeframe != "1Day":
        lines.append(
            f"--adjustment {request.adjustment}: strikes of options are on raw prices, so bars for a strategy that "
            "trades options must be raw"
        )
    if request.adjustment != "all" and request.timeframe == "1Day":
        lines.append(
            f"--adjustment {request.adjustment}: splits or dividends look like falls of the price, so a strategy that "
            "holds stocks over nights wants --adjustment all"
        )
    if request.feed == "iex":
        lines.append("--feed iex: one exchange's trades alone; volumes are small and minutes may be missing")
    return tuple(lines)


def keys_of(environment: Mapping[str, str]) -> Keys:
    """The keys of the environment, under the daemon's names. Raises DownloadError, without what it found."""
    key, secret = (environment.get(name, "").strip() for name in KEY_VARIABLES)
    if not key or not secret:
        raise DownloadError(
            f"no keys: set {' and '.join(KEY_VARIABLES)} in the environment, or take in a file of your own: "
            "rltrader data add SYMBOL --from-file FILE"
        )
    if not _KEY.fullmatch(key) or not _KEY.fullmatch(secret):
        raise DownloadError(f"{' or '.join(KEY_VARIABLES)} is no key: expected signs without a space: copy it again")
    return Keys(key, secret)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    defaults = {item.name: item.default for item in dataclasses.fields(DownloadRequest)}
    parser.add_argument("--symbols", required=True, help="stocks, with commas between them: SPY,QQQ")
    parser.add_argument("--start", required=True, help="first New York date, YYYY-MM-DD")
    parser.add_argument("--end", required=True, help="last New York date, included")
    parser.add_argument("--timeframe", choices=tuple(TIMEFRAMES), default="1Min", help="(%(default)s)")
    parser.add_argument("--out", required=True, type=Path, help="the file to write, such as bars.parquet")
    parser.add_argument("--feed", choices=FEEDS, default=defaults["feed"], help="(%(default)s)")
    parser.add_argument("--adjustment", choices=ADJUSTMENTS, default=defaults["adjustment"], help="(%(default)s)")
    parser.add_argument(
        "--include-extended", action="store_true", help="04:00 to 20:00 New York, not regular hours alone"
    )
    parser.add_argument(
        "--calls-per-minute", type=int, default=defaults["calls_per_minute"], help="Alpaca allows 200 (%(default)s)"
    )


def run(chosen: argparse.Namespace) -> int:
    """Run the parsed command; returns the exit code: 0, 2 with one line on standard error, 130 after Ctrl-C."""
    try:
        request = DownloadRequest(
            symbols=tuple(symbol.strip().upper() for symbol in chosen.symbols.split(",") if symbol.strip()),
            start=chosen.start,
            end=chosen.end,
            timeframe=chosen.timeframe,
            out=chosen.out,
            feed=chosen.feed,
            adjustment=chosen.adjustment,
            include_extended=chosen.include_extended,
            calls_per_minute=chosen.calls_per_minute,
            url=os.environ.get(DATA_URL_VARIABLE, "").strip() or DATA_URL,
        )
        for warning in warnings_of(request):
            _say(f"warning: {warning}")
        summary = download(request, keys_of(os.environ), _say)
    except (DownloadError, CalendarError, TapeError) as error:
        _say(str(error))
        return USAGE_ERROR
    except KeyboardInterrupt:
        _say("interrupted; what is finished is kept: give the same command again")
        return INTERRUPTED
    sys.stdout.write(f"{summary_text(request, summary)}\n")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """`train-and-export download …`; returns the exit code."""
    parser = CommandLine(
        prog=f"{called('train-and-export')} download",
        description=(__doc__ or "").partition("\n")[0],
        epilog=f"Keys: {' and '.join(KEY_VARIABLES)} in the environment; {DATA_URL_VARIABLE} for another server.",
    )
    add_arguments(parser)
    return run(parser.parse_args(arguments))


def _say(text: str) -> None:
    sys.stderr.write(f"download: {text}\n")
    sys.stderr.flush()
