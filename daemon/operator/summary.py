"""Summarise a run: a table with a sparkline on a terminal, and always one line of JSON."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from daemon.core.state import State
from daemon.core.strategy_rules import rules_digest
from daemon.host.latency import Latency
from daemon.page_kit.svg import MINUS

SESSIONS_A_YEAR = 252
BLOCKS = "▁▂▃▄▅▆▇█"
_EXPORTED = {"passive": "passive, no lead proven; ", "unproven": "learned, no lead proven; "}


class Daily(msgspec.Struct, frozen=True):
    """A daily desk's result, from the first session with a decision on."""

    sessions: int
    first: str  # New York dates of the first and the last of these sessions, "" where there is none
    last: str
    annual_return: float  # compounded, 252 sessions a year
    sharpe: float | None  # mean / deviation of the sessions' returns x sqrt(252), no interest; None where nothing moved
    halted: int = 0  # sessions at the end, after that of the halt that still lasts


class QuotesUsed(msgspec.Struct, frozen=True):
    """Recorded option quotes of a replay, and what it filled at. `asked` is contracts times minutes."""

    file: str
    synthetic: str  # what generated the quotes, "" for recorded ones
    sessions: int  # sessions of the tape
    sessions_quoted: int  # of these, sessions with quotes on file
    first_date: str  # New York dates of the first and the last of these, "" where there is none
    last_date: str
    asked: int  # requests of this run, for contracts watched, held or ordered
    recorded: int
    standing: int  # times the last quote still counted: the source omits minutes without a new one
    missing: int
    faulty_rows: int  # faulty rows of the file, left out
    fills_recorded: int  # since the journal began
    fills_modelled: int  # at Black-Scholes prices, because the minute had no quote
    fills_compared: int  # fills compared with the Black-Scholes price of the same minute
    paid_more_usd: float  # for purchases, more than at these prices
    received_less_usd: float  # for sales, less than at these prices


class Summary(msgspec.Struct, frozen=True):
    """The last line on standard output. Counts are since the journal began, times of this run."""

    strategy: str
    model: str
    promoted: bool  # whether the model is promoted, without which it trades no real money
    mode: str
    tape: str
    synthetic: bool
    bars: int
    bars_rejected: int
    decisions: int
    actions: dict[str, int]
    orders: int
    fills: int
    partial_fills: int
    trades: int
    denials: dict[str, int]
    realized_pnl_usd: float
    fees_usd: float
    equity_usd: float
    max_drawdown: float
    halted: str
    wall_s: float
    bars_per_s: float
    decision_us_p50: int
    decision_us_p99: int
    decision_us_p999: int
    journal_events: int
    state_digest: str
    stopped_by: str
    daily: Daily | None = None  # for daily desks only
    remarks: tuple[str, ...] = ()  # facts that the figures hide, each with its cure
    option_quotes: QuotesUsed | None = None  # for a replay with recorded quotes only
    exported: str = ""  # a model without a proven lead: "passive" or "unproven"; "" for others
    claim: str = ""  # the model's claim, or why this desk makes no claim about risk with it; "" without a claim
    rules: str = ""  # digest of the final sizes, limits, gates and costs, as in a manifest
    trades_over_night: int = 0  # trades held overnight on a desk that should be flat before the close
    entries_wanted: int = 0  # entries of an option desk with a quoted contract, ordered or denied
    entries_unaffordable: int = 0  # of these, entries for which the account was too small for one contract


def daily_figures(closes: Sequence[tuple[str, float]], halted_on: str = "") -> Daily:
    """Return the figures of sessions (New York date, equity in USD at the end); the first is before any decision.

    `halted_on` is the New York date of the halt that stands at the end, "" for none.
    """
    returns = [close / close_before - 1.0 for (_, close_before), (_, close) in pairwise(closes)]
    if not returns:
        return Daily(0, "", "", 0.0, None)
    growth = closes[-1][1] / closes[0][1]
    annual = growth ** (SESSIONS_A_YEAR / len(returns)) - 1.0 if growth > 0 else -1.0
    deviation = stdev(returns) if len(returns) > 1 else 0.0
    sharpe = round(fmean(returns) / deviation * SESSIONS_A_YEAR**0.5, 4) if deviation > 1e-12 else None
    halted_sessions = sum(date > halted_on for date, _ in closes[1:]) if halted_on else 0
    return Daily(len(returns), closes[1][0], closes[-1][0], round(annual, 6), sharpe, halted_sessions)


def summarise(
    state: State[Any],
    actions: Sequence[str],
    *,
    meta: dict[str, str],
    wall_s: float,
    bars_run: int,
    latency: Latency,
    state_digest: str,
    stopped_by: str,
    daily: Daily | None = None,
    remarks: tuple[str, ...] = (),
    option_quotes: QuotesUsed | None = None,
    export_path: str = "",
    claim: str = "",
    trades_over_night: int = 0,
    entries_wanted: int = 0,
    entries_unaffordable: int = 0,
) -> Summary:
    """Return the figures of a run that ended in `state`; `actions` are empty for a continuous policy."""
    stats, book = state.stats, state.book
    counts = stats.actions or (0,) * len(actions)
    return Summary(
        strategy=state.identity.strategy,
        model=state.model.version if state.model else "",
        promoted=bool(state.model and state.model.promoted),
        mode=state.identity.mode,
        tape=meta.get("tape", ""),
        synthetic=bool(meta.get("synthetic")),
        bars=stats.bars,
        bars_rejected=stats.bars_rejected,
        decisions=stats.decisions,
        actions=dict(zip(actions, counts, strict=True)),
        orders=stats.orders,
        fills=stats.fills,
        partial_fills=stats.partial_fills,
        trades=stats.trades,
        denials=dict(sorted(stats.denials.items())),
        realized_pnl_usd=float(book.realized),
        fees_usd=float(book.fees),
        equity_usd=float(book.equity),
        max_drawdown=round(book.max_drawdown, 6),
        halted=state.risk.halt.reason if state.risk.halt else "",
        wall_s=round(wall_s, 3),
        bars_per_s=round(bars_run / wall_s, 1) if wall_s > 0 else 0.0,
        decision_us_p50=latency.percentile(0.50),
        decision_us_p99=latency.percentile(0.99),
        decision_us_p999=latency.percentile(0.999),
        journal_events=state.seq,
        state_digest=state_digest,
        stopped_by=stopped_by,
        daily=daily,
        remarks=remarks,
        option_quotes=option_quotes,
        exported=export_path,
        claim=claim,
        rules=rules_digest(state.trading),
        trades_over_night=trades_over_night,
        entries_wanted=entries_wanted,
        entries_unaffordable=entries_unaffordable,
    )


def _sessions_text(daily: Daily) -> str:
    """Describe the sessions with decisions."""
    if not daily.sessions:
        return "none decided for"
    halted_text = f", the last {daily.halted:,} of them halted" if daily.halted else ""
    return f"{daily.sessions:,} with decisions, {daily.first} to {daily.last}{halted_text}"


def _quotes_text(quote_use: QuotesUsed) -> str:
    """Describe the recorded quotes and the fills."""
    fills = f"{quote_use.fills_recorded:,} fills at recorded quotes, {quote_use.fills_modelled:,} at Black-Scholes"
    part = (quote_use.recorded + quote_use.standing) / quote_use.asked if quote_use.asked else 0.0
    cover = f"{part:.1%} of {quote_use.asked:,} asked ({quote_use.standing:,} standing)".replace("%", " %")
    made_up = ", SYNTHETIC" if quote_use.synthetic else ""
    sessions = f"{quote_use.sessions_quoted:,} of {quote_use.sessions:,} sessions{_span(quote_use)}"
    return f"{escape(quote_use.file)}{made_up}: {sessions}, {cover}; {fills}{_comparison_text(quote_use)}"


def _comparison_text(quote_use: QuotesUsed) -> str:
    if not quote_use.fills_compared:
        return ""
    paid_text = f"{quote_use.paid_more_usd:+,.2f} USD paid"
    received_text = f"{-quote_use.received_less_usd:+,.2f} USD received"
    return f"; {quote_use.fills_compared:,} next to Black-Scholes at the same minutes: {paid_text}, {received_text}"


def _span(quote_use: QuotesUsed) -> str:
    return f", {quote_use.first_date} to {quote_use.last_date}" if quote_use.first_date else ""


def sparkline(values: Sequence[float], width: int = 56) -> str:
    """Draw the values as blocks, the last of each of `width` equal parts; flat values give one level.

    56 blocks fit the summary's table on a terminal of 80 columns.
    """
    if not values:
        return ""
    step = max(1.0, len(values) / width)
    samples = [values[min(len(values) - 1, int((i + 1) * step) - 1)] for i in range(min(width, len(values)))]
    low, high = min(samples), max(samples)
    if high == low:
        return BLOCKS[0] * len(samples)
    return "".join(BLOCKS[int((v - low) / (high - low) * (len(BLOCKS) - 1))] for v in samples)


def _duration(us: int) -> str:
    return f"{us:,} µs" if us < 1000 else f"{us / 1000:,.1f} ms"


def _usd(value: float) -> str:
    return f"{value:+,.2f}".replace("-", MINUS)


def sharpe_words(figures: Daily) -> str:
    """Return ", Sharpe ratio …", or "" where all returns are equal."""
    return "" if figures.sharpe is None else f", Sharpe ratio {figures.sharpe:.2f}"


def _part(share: float) -> str:
    return f"{100 * share:+.2f} %".replace("-", MINUS)


def show(
    console: Console, summary: Summary, equity: Sequence[Decimal], result: str = "", open_usd: float | None = None
) -> None:
    """Print the summary as a table; the title says where a replay had ended before.

    `result` is the account's outcome in words; `open_usd` the profit of open positions at their last prices.
    """
    title = f"{summary.strategy} · {escape(summary.tape)}" + (" · SYNTHETIC bars" if summary.synthetic else "")
    if summary.bars and not summary.bars_per_s:
        title += " · figures of an EARLIER run"
    table = Table(title=title, show_header=False, title_justify="left", title_style="bold")
    table.add_column(style="cyan")
    table.add_column()
    actions_text = ", ".join(f"{name} {count:,}" for name, count in summary.actions.items() if count)
    denials_text = ", ".join(
        f"{gate} {count:,}" for gate, count in sorted(summary.denials.items(), key=lambda d: -d[1])
    )
    unproven = _EXPORTED.get(summary.exported, "")
    if result:
        table.add_row("[bold]result[/bold]", f"[bold]{escape(result)}[/bold]")
    table.add_row("model", summary.model + ("" if summary.promoted else f" ({unproven}not promoted: no real money)"))
    if summary.claim:
        table.add_row("claim", escape(summary.claim))
    if summary.daily is not None:
        table.add_row("sessions", _sessions_text(summary.daily))
    table.add_row("bars", f"{summary.bars:,} ({summary.bars_rejected:,} rejected)")
    decisions_text = f"{summary.decisions:,}" if summary.decisions else "none"
    table.add_row("decisions", f"{decisions_text}: {actions_text}" if actions_text else decisions_text)
    table.add_row("orders, fills", f"{summary.orders:,}, {summary.fills:,} ({summary.partial_fills:,} partial)")
    flat = "" if open_usd is None else " (a trade is closed when flat; what is held is still open)"
    table.add_row("trades", f"{summary.trades:,} closed by the desk{flat}")
    if summary.option_quotes is not None:
        table.add_row("option quotes", _quotes_text(summary.option_quotes))
    table.add_row("denials by gate", f"{denials_text} (docs/GATES.md)" if denials_text else "none")
    still = "" if open_usd is None else f", with the parts sold of open trades; what is still held {_usd(open_usd)} USD"
    table.add_row(
        "realised P&L", f"{_usd(summary.realized_pnl_usd)} USD after {summary.fees_usd:,.2f} USD of fees{still}"
    )
    fell = f"{_part(-summary.max_drawdown)} of the highest equity so far" if summary.max_drawdown else "none"
    table.add_row("equity", f"{summary.equity_usd:,.2f} USD, largest drawdown {fell}")
    if summary.daily is not None:
        figures = summary.daily
        table.add_row("", f"{_part(figures.annual_return)} a year{sharpe_words(figures)}".replace("-", MINUS))
    table.add_row("", sparkline([float(v) for v in equity]))
    if summary.halted:
        table.add_row("halted", f"[red]{summary.halted}[/red] (docs/OPERATIONS.md; ends with rltraderctl resume)")
    if summary.bars_per_s:
        table.add_row(
            "speed",
            f"{summary.bars_per_s:,.0f} bars/s, decisions p50 {_duration(summary.decision_us_p50)}, "
            f"p99 {_duration(summary.decision_us_p99)}",
        )
    if summary.stopped_by:
        table.add_row("stopped", f"by {summary.stopped_by}: the same command goes on from here")
    table.add_row("journal", f"{summary.journal_events:,} events, state {summary.state_digest[:16]}")
    console.print(table)
    for remark in summary.remarks:
        console.print(f"[yellow]![/yellow] {escape(remark)}", highlight=False)
