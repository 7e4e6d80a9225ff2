"""`train-and-export calibrate`: what recorded option quotes say of the constants of the option market, as a file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from daemon.core.limits import Paper
from daemon.host.time.calendar import CalendarError
from daemon.host.version import CommandLine
from daemon.tapes.files import TapeError
from daemon.tapes.quotes.calibration_file import Calibration, Estimate, write_calibration
from daemon.tapes.quotes.reader import QuoteFile
from daemon.tapes.quotes.tape import closes_in
from rltrader import called
from training.analysis.calibrate import DAYS, MONEYNESS, NEAR, PARTS, WHOLE, calibrate
from training.cli.main import COMMANDS, DONE, wrong
from training.evidence.wording import UNKNOWN, counted


def main(arguments: Sequence[str]) -> int:
    """`train-and-export calibrate …`; returns the exit code: 0, or 2 with one line on standard error."""
    options = CommandLine(prog=f"{called('train-and-export')} calibrate", description=COMMANDS["calibrate"])
    options.add_argument("--quotes", required=True, type=Path, metavar="FILE", help="option quotes (docs/DATA.md)")
    options.add_argument(
        "--closes", type=Path, metavar="FILE", help="bars of the underlying, 20 sessions before included"
    )
    options.add_argument("--symbol", default="", help="whose bars of --closes (those of the contracts' root)")
    options.add_argument("--out", type=Path, metavar="FILE", help="the file to write, such as calibration.json")
    options.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    chosen = options.parse_args(arguments)
    console = Console(highlight=False, markup=False)
    progress = Console(stderr=True)
    try:
        closes = {} if chosen.closes is None else closes_in(chosen.closes, chosen.symbol or underlying(chosen.quotes))
        if chosen.out is not None and chosen.out.exists() and chosen.out.samefile(chosen.quotes):
            return wrong(TapeError(f"--out {chosen.out} is the file of quotes: choose another name"))
        with progress.status("reading") as status:
            result = calibrate(chosen.quotes, closes, chosen.closes.name if chosen.closes else "", status.update)
        if chosen.out is not None:
            result = write_calibration(chosen.out, result)
    except (TapeError, CalendarError, OSError) as error:
        return wrong(error)
    if chosen.json:
        sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
    else:
        show(result, console if console.is_terminal else Console(highlight=False, markup=False, width=160))
        if chosen.out is not None:
            sys.stdout.write(f"{chosen.out}: digest {result.digest[:16]}\n")
    return DONE


def underlying(quotes: Path) -> str:
    """Return the root of the contracts in the file's first session. Raises TapeError where there are several."""
    first = next(QuoteFile(quotes).sessions(), None)
    roots = sorted(set() if first is None else set(first.contracts.roots) - {""})
    if len(roots) != 1:
        roots_text = ", ".join(roots) or "none"
        raise TapeError(
            f"{quotes}: contracts of {roots_text}; expected one root: name the underlying's bars by --symbol"
        )
    return roots[0]


def show(result: Calibration, console: Console) -> None:
    """Print the fitted constants next to the present ones, then the cells they come from."""
    paper = Paper()
    made_up = f" · SYNTHETIC: {result.synthetic}" if result.synthetic else ""
    console.print(
        f"{result.quotes}: {counted(result.rows, 'usable quote')} of {counted(result.sessions, 'session')}, "
        f"{result.first_date} to {result.last_date}, of {', '.join(result.roots)}; interval {result.interval}{made_up}"
    )
    table = Table("constant", "assumed", "these quotes", "what it is")
    rows = (
        ("half_spread", paper.half_spread, result.fitted.half_spread, "of the mid, 1 to 5 days, strikes within 0.5 %"),
        (
            "half_spread_min_usd",
            paper.half_spread_min_usd,
            result.fitted.half_spread_min_usd,
            "USD, mids below 0.20 USD",
        ),
        (
            "volatility_premium",
            paper.volatility_premium,
            result.fitted.volatility_premium,
            "implied over realised, 1 to 5 days",
        ),
    )
    for name, assumed, fitted, what in rows:
        table.add_row(name, f"{assumed:g}", UNKNOWN if fitted is None else f"{fitted:.4g}", what)
    console.print(table)
    console.print(_spreads(result))
    console.print(_parts(result))
    console.print(_terms(result))


def _spreads(result: Calibration) -> Table:
    cells = {(cell.days, cell.moneyness): cell for cell in result.spreads if cell.part == WHOLE}
    names = [name for _, name in MONEYNESS]
    title = "half-spread of the mid: these quotes / assumed for the same mids; by distance of the strike"
    table = Table("trading days", *names, title=title)
    for _, days in DAYS:
        row = [cells.get((days, name)) for name in names]
        if any(row):
            table.add_row(days, *("" if c is None else f"{c.share.median:.2%} / {c.assumed.median:.2%}" for c in row))
    return table


def _parts(result: Calibration) -> Table:
    cells = {(cell.days, cell.part): cell for cell in result.spreads if cell.moneyness == NEAR}
    names = [name for _, name in PARTS]
    table = Table("trading days", *names, title="half-spread of strikes within 0.5 %, by part of the session")
    for _, days in DAYS:
        row = [cells.get((days, name)) for name in names]
        if any(row):
            table.add_row(days, *("" if cell is None else _share(cell.share) for cell in row))
    return table


def _terms(result: Calibration) -> Table:
    title = "volatility at the money (assumed: one for all days, premium x realised, no skew)"
    table = Table("trading days", "implied", "premium over realised", "skew for 1 % of strike", "sessions", title=title)
    for term in result.terms:
        premium = UNKNOWN if term.premium is None else f"{term.premium.median:.2f}"
        skew = UNKNOWN if term.skew is None else f"{term.skew.median / 100:+.3%}"
        table.add_row(term.days, f"{term.implied.median:.2%}", premium, skew, f"{term.implied.sessions}")
    return table


def _share(estimate: Estimate) -> str:
    return f"{estimate.median:.2%} ({estimate.low:.2%} to {estimate.high:.2%})"
