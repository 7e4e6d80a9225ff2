"""Performance figures as texts: rows of names and values for a terminal and for a page."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

from daemon.journal.trades import Totals
from daemon.page_kit.svg import MINUS
from daemon.reports.performance.figures import Drawdown, Performance, Period
from daemon.reports.tables import NOT_OF_A_TRADE, duration_words, gain, realised_words, unrealised_rest
from daemon.reports.words import NONE, money, number, plural

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
FEW = 60  # sessions below which a ratio is mostly chance
FEWEST = 20  # sessions below which no ratio is shown


def share(value: float | None, digits: int = 2, *, sign: bool = True) -> str:
    """Return a fraction as a percentage with its sign, a dash if unknown."""
    if value is None:
        return NONE
    text = f"{100 * value + 0.0:{'+' if sign else ''}.{digits}f} %"  # + 0.0: no minus before a zero
    return text.replace("-", MINUS)


def ratio(value: float | None, digits: int = 2) -> str:
    """Return a number, a dash if unknown."""
    return NONE if value is None else number(Decimal(repr(value)), digits)


def usd(value: float) -> str:
    """Return USD with two decimals."""
    return money(Decimal(repr(round(value, 2))))


def span_words(figures: Performance) -> str:
    """Return the dates and the number of sessions of the span, in a sentence."""
    if not figures.sessions:
        return "No session with a recorded equity lies in this span."
    text = f"{figures.first} to {figures.last}, {_session_count_words(figures)}."
    if figures.sessions < FEW:
        note = "" if figures.sharpe_error is None else ": see the error of the Sharpe ratio"
        text += (
            f" With fewer than {FEWEST} sessions a ratio says nothing, so none is shown."
            if figures.sessions < FEWEST
            else f" So few sessions tell little{note}."
        )
    return text


def _session_count_words(figures: Performance) -> str:
    """Return the number of sessions, and of how many, if those before the first trade are left out."""
    if not figures.warm_up:
        return plural(figures.sessions, "session")
    return f"{figures.sessions:,} of {figures.sessions + figures.warm_up:,} sessions (from the first trade on)"


def result_words(figures: Performance) -> str:
    """Return the account's result over at least one session, next to its benchmarks."""
    comparisons = "".join(f"; {one.name} {share(one.share)}" for one in figures.compared)
    count = _session_count_words(figures)
    return f"{usd(figures.start_usd)} → {usd(figures.end_usd)} USD, {share(figures.share)} in {count}{comparisons}"


def verdict(name: str, figures: Performance) -> str:
    """Return the result in one sentence, next to its benchmarks."""
    if not figures.sessions:
        return f"{name}: {span_words(figures)}"
    comparisons = "; ".join(f"{one.name} {share(one.share)}" for one in figures.compared)
    amount = money(Decimal(repr(round(figures.pnl_usd, 2))), sign=True)
    return f"{name}: {amount} USD, {share(figures.share)}{f' ({comparisons})' if comparisons else ''}."


def rows(figures: Performance) -> list[tuple[str, str]]:
    """Return the names and values of all single figures."""
    trades, best, worst = figures.trades, figures.best, figures.worst
    drawdown = f"{share(-figures.max_drawdown, sign=False)}\nat day ends"
    if figures.marked_drawdown is not None:
        drawdown += f", {share(-figures.marked_drawdown, sign=False)} within days"
    sharpe = _of_days(figures, figures.sharpe)
    if sharpe != NONE and figures.sharpe_error is not None:
        sharpe += f"\n± {ratio(figures.sharpe_error)}"
    of = f"\nof {plural(trades.trades, 'closed trade')}" if trades.trades else ""
    lines = [
        ("P&L", f"{gain(figures.pnl_usd)} USD"),
        ("Return", share(figures.share)),
        ("Return a year", share(figures.annual)),
        ("Equity", f"{usd(figures.start_usd)} → {usd(figures.end_usd)}"),
        ("Volatility a year", share(figures.volatility, sign=False)),
        ("Sharpe", sharpe),
        ("Sortino", _of_days(figures, figures.sortino)),
        ("Largest drawdown", drawdown),
        ("Days won", share(figures.days_won, 1, sign=False)),
        ("Best day", f"{share(best.share)}\n{best.name}" if best else NONE),
        ("Worst day", f"{share(worst.share)}\n{worst.name}" if worst else NONE),
        ("Closed trades", f"{trades.trades:,}\n{gain(trades.pnl_usd)} USD after {usd(trades.fees_usd)} USD of fees"),
        *([("Still open", _still_open(trades)), ("Realised", _realised_words(trades))] if trades.open else []),
        *([("Not in a trade", f"{gain(trades.other_usd)} USD\n{NOT_OF_A_TRADE}")] if trades.other_usd else []),
        ("Win rate", share(trades.win_rate, 1, sign=False) + of),
        ("Profit factor", ratio(trades.profit_factor) + of),
        ("Expectancy", NONE if trades.expectancy_usd is None else f"{gain(trades.expectancy_usd)} USD{of}"),
        ("Average holding", duration_words(trades.held_s)),
        ("Time in the market", share(figures.in_market, 1, sign=False)),
        ("Equity at work while held", share(figures.at_work, 1, sign=False)),
    ]
    if figures.transfers_usd:
        lines.insert(3, ("Transfers", f"{usd(figures.transfers_usd)} USD"))
    return lines


def _of_days(figures: Performance, figure: float | None) -> str:
    """Return a ratio of daily returns, a dash for too few days."""
    return ratio(figure) if figures.sessions >= FEWEST else NONE


def _still_open(trades: Totals) -> str:
    """Return the number of open trades and their unrealised and realised profit."""
    open_text = f"{gain(trades.open_usd)} USD\n" if trades.open_usd is not None else "not priced\n"
    rest = unrealised_rest(trades.open_usd, trades.open_realized_usd)
    parts = f"realised {gain(trades.open_realized_usd)}, unrealised {gain(rest)}"
    return f"{open_text}{plural(trades.open, 'trade')}, at the newest price: {parts}"


def _realised_words(trades: Totals) -> str:
    """Return the realised profit: of closed trades, and of the parts sold of open ones."""
    return f"{realised_words(trades)}\nclosed trades (flat again) and parts sold of open ones"


def compared_rows(figures: Performance) -> list[tuple[str, str, str, str]]:
    """Return name, return, largest drawdown and Sharpe ratio of the desk and of its benchmarks."""
    desk = (
        "this account",
        share(figures.share),
        share(-figures.max_drawdown, sign=False),
        _of_days(figures, figures.sharpe),
    )
    return [
        desk,
        *(
            (one.name, share(one.share), share(-one.max_drawdown, sign=False), _of_days(figures, one.sharpe))
            for one in figures.compared
        ),
    ]


def period_row(period: Period) -> tuple[str, str, str, str]:
    """Return name, P&L, return and sessions."""
    return period.name, gain(period.pnl_usd), share(period.share), f"{period.sessions:,}"


def drawdown_row(fall: Drawdown) -> tuple[str, str, str, str, str, str]:
    """Return depth, start, trough, end, length and sessions to the trough."""
    end = fall.end or "not recovered"
    return share(-fall.depth, sign=False), fall.start, fall.trough, end, f"{fall.length:,}", f"{fall.to_trough:,}"


def calendar(figures: Performance) -> list[tuple[str, tuple[Period | None, ...], Period]]:
    """Return each year with its twelve months (None without a session) and its sum, the newest first."""
    months = {month.name: month for month in figures.months}
    years = []
    for year in reversed(figures.years):
        of_year = tuple(months.get(f"{year.name}-{month:02}") for month in range(1, 13))
        years.append((year.name, of_year, year))
    return years


def heat(value: float, largest: float) -> str:
    """Return the style of a cell: gain or loss, from 1 (faint) to 4 (as large as the largest)."""
    if abs(value) < 5e-7 or largest <= 0:
        return "even"
    step = min(4, 1 + int(3.999 * abs(value) / largest))
    return f"{'gain' if value > 0 else 'loss'}{step}"


def day_words(name: str) -> str:
    """Return a date in short form: 2024-12-03 is "3 Dec 24"."""
    day = date.fromisoformat(name)
    return f"{day.day} {MONTHS[day.month - 1]} {day:%y}"
