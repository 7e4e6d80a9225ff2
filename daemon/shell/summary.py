"""The end of a run, for people and for machines: a table with a sparkline on a terminal, one JSON line always."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from daemon.core.state import State
from daemon.shell.latency import Latency

BLOCKS = "▁▂▃▄▅▆▇█"


class Summary(msgspec.Struct, frozen=True):
    """The last line on standard output. Counts are since the journal began, times of this run."""

    strategy: str
    model: str
    promoted: bool  # the model: without it no real money
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
) -> Summary:
    """The figures of a run that ended in `state`."""
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
    )


def sparkline(values: Sequence[float], width: int = 56) -> str:
    """The values as blocks, the last of each of `width` equal parts; flat or no values give one level.

    56 blocks fit the summary's table on a terminal of 80 columns.
    """
    if not values:
        return ""
    step = max(1.0, len(values) / width)
    picked = [values[min(len(values) - 1, int((i + 1) * step) - 1)] for i in range(min(width, len(values)))]
    low, high = min(picked), max(picked)
    if high == low:
        return BLOCKS[0] * len(picked)
    return "".join(BLOCKS[int((v - low) / (high - low) * (len(BLOCKS) - 1))] for v in picked)


def show(console: Console, summary: Summary, equity: Sequence[Decimal]) -> None:
    """The readable form: what was decided, ordered, denied and earned."""
    title = f"{summary.strategy} · {escape(summary.tape)}" + (" · SYNTHETIC bars" if summary.synthetic else "")
    table = Table(title=title, show_header=False, title_justify="left", title_style="bold")
    table.add_column(style="cyan")
    table.add_column()
    listed = ", ".join(f"{name} {count:,}" for name, count in summary.actions.items() if count)
    denied = ", ".join(f"{gate} {count:,}" for gate, count in sorted(summary.denials.items(), key=lambda d: -d[1]))
    table.add_row("model", summary.model + ("" if summary.promoted else " (not promoted: no real money)"))
    table.add_row("bars", f"{summary.bars:,} ({summary.bars_rejected:,} rejected)")
    table.add_row("decisions", f"{summary.decisions:,}: {listed}" if listed else "none")
    table.add_row("orders, fills", f"{summary.orders:,}, {summary.fills:,} ({summary.partial_fills:,} partial)")
    table.add_row("trades", f"{summary.trades:,}")
    table.add_row("denials by gate", denied or "none")
    table.add_row("realised P&L", f"{summary.realized_pnl_usd:+,.2f} USD after {summary.fees_usd:,.2f} USD of fees")
    table.add_row("equity", f"{summary.equity_usd:,.2f} USD, largest drawdown {summary.max_drawdown:.2%}")
    table.add_row("", sparkline([float(v) for v in equity]))
    if summary.halted:
        table.add_row("halted", f"[red]{summary.halted}[/red] (docs/OPERATIONS.md; ends with rltraderctl resume)")
    table.add_row(
        "speed",
        f"{summary.bars_per_s:,.0f} bars/s, decisions p50 {summary.decision_us_p50} µs, "
        f"p99 {summary.decision_us_p99} µs",
    )
    if summary.stopped_by:
        table.add_row("stopped", f"by {summary.stopped_by}: the same command goes on from here")
    table.add_row("journal", f"{summary.journal_events:,} events, state {summary.state_digest[:16]}")
    console.print(table)
