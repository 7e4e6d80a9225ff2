"""Figures of a finished run, read from its journal."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from decimal import Decimal
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec
from msgspec import UnsetType

from daemon.app.replay_start import TapeReplay
from daemon.core.book import OPTION_MULTIPLIER
from daemon.core.draft import names_of
from daemon.core.events import BarClosed, ContractsListed, OrderFilled, SessionScheduled
from daemon.core.instruments.option_market import SessionMarket, expiries_from
from daemon.core.limits import Paper, Trading
from daemon.core.risk.claim import volatility
from daemon.core.session import new_york_text
from daemon.core.state import State
from daemon.core.strategy_rules import TABLES, trading_for
from daemon.journal.outcomes import WHY_NO_CHANGE, Baskets
from daemon.journal.reader import JournalReader
from daemon.models.store import is_passive
from daemon.operator.summary import QuotesUsed, daily_figures, sharpe_words
from daemon.tapes import bundled_tape
from daemon.tapes.bars import origin_of
from daemon.tapes.minutes import TapeCounts
from daemon.tapes.quotes.tape import QuotedTape
from daemon.tapes.zones import half_hours, hours_off, sessions_off
from strategies.kit.contract import Bar
from strategies.kit.plain import STATE_MOST, size_of
from strategies.kit.quantity import from_json
from strategies.kit.units import DAY_S

_EVENTS = msgspec.json.Decoder(SessionScheduled | ContractsListed | BarClosed | OrderFilled, dec_hook=from_json)
CURVE_POINTS = 600  # points of the summary's equity curve


def equity_curve(reader: JournalReader) -> list[Decimal]:
    """Return at most `CURVE_POINTS` equity values, evenly spaced over the rows, with the last one.

    They begin with the row before the first fill, like the result's sessions: nothing could be earned before.
    """
    began = "(SELECT coalesce(max(time_ns), 0) FROM equity WHERE time_ns < (SELECT min(time_ns) FROM fills))"
    rows = int(reader.query(f"SELECT count(*) AS rows FROM equity WHERE time_ns >= {began}")[0]["rows"])
    every = max(1, -(-rows // CURVE_POINTS))
    sample = reader.query(
        "SELECT equity_usd FROM (SELECT equity_usd, row_number() OVER (ORDER BY time_ns DESC) AS place, time_ns "
        f"FROM equity WHERE time_ns >= {began}) WHERE (place - 1) % ? = 0 ORDER BY time_ns",
        (every,),
    )
    return [Decimal(row["equity_usd"]) for row in sample]


def session_ends(reader: JournalReader) -> list[tuple[str, float]]:
    """Return date and equity in USD at each session's end, from the last end before the first decision."""
    first = reader.query("SELECT min(time_ns) AS first_ns FROM decisions")[0]["first_ns"]
    if first is None:
        return []
    ends = {
        new_york_text(row["time_ns"])[:10]: float(row["equity_usd"])
        for row in reader.query("SELECT time_ns, equity_usd FROM equity ORDER BY time_ns")
    }
    date, dates = new_york_text(first)[:10], sorted(ends)
    return [(date, ends[date]) for date in dates[max(bisect_left(dates, date) - 1, 0) :]]


def halt_date(state: State[Any]) -> str:
    """Return the New York date of the present halt, "" for none."""
    halt = state.risk.halt
    return new_york_text(halt.since_ns)[:10] if halt is not None else ""


class FillComparison(NamedTuple):
    """Fills compared with Black-Scholes prices of the same minutes; USD, without fees."""

    fills: int = 0  # fills with such a price
    paid_more: Decimal = Decimal(0)  # for what was bought
    received_less: Decimal = Decimal(0)  # for what was sold


def at_black_scholes(reader: JournalReader, paper: Paper) -> FillComparison:
    """Compare each fill with the option market's bid or ask at the close of the bar that ends then.

    A session without a volatility has no such price.
    """
    comparison, closes = FillComparison(), (0, 0.0)
    session: SessionScheduled | None = None
    market: SessionMarket | None = None
    for payload in reader.payloads("SessionScheduled", "ContractsListed", "BarClosed", "OrderFilled"):
        match _EVENTS.decode(payload):
            case SessionScheduled() as schedule_event:
                session, market = schedule_event, None
            case ContractsListed() as listing if session is not None and listing.volatility is not None:
                expiries = expiries_from(session.session, session.upcoming)
                market = SessionMarket(session.session, expiries, listing.volatility, 0)
            case BarClosed() as bar_event:
                closes = bar_event.time_ns, bar_event.bar.close
            case OrderFilled() as fill if market is not None and closes[0] == fill.filled_ns:
                cents = market.cents(fill.symbol, closes[1], fill.filled_ns, paper)
                if cents is not None:
                    comparison = _with(comparison, fill, cents)
    return comparison


def _with(comparison: FillComparison, fill: OrderFilled, cents: tuple[int, int]) -> FillComparison:
    bid, ask = (Decimal(side) / 100 for side in cents)
    if fill.side > 0:
        more = (fill.price - ask) * fill.quantity * OPTION_MULTIPLIER
        return comparison._replace(fills=comparison.fills + 1, paid_more=comparison.paid_more + more)
    less = (bid - fill.price) * fill.quantity * OPTION_MULTIPLIER
    return comparison._replace(fills=comparison.fills + 1, received_less=comparison.received_less + less)


def quotes_used(replay: TapeReplay, tape: object, market: Any, reader: JournalReader) -> QuotesUsed | None:
    """Return a replay's use of recorded option quotes, None without any; `market` is its paper broker's state."""
    if replay.quotes is None or not isinstance(tape, QuotedTape):
        return None
    counts, file = tape.quote_counts, replay.quotes.file
    comparison = at_black_scholes(reader, replay.settings.paper)
    return QuotesUsed(
        file=file.path.name,
        synthetic=file.synthetic,
        sessions=counts.sessions,
        sessions_quoted=counts.with_quotes,
        first_date=counts.first_date,
        last_date=counts.last_date,
        asked=counts.quotes.total(),
        recorded=counts.quotes["recorded"],
        standing=counts.quotes["standing"],
        missing=counts.quotes["missing"],
        faulty_rows=counts.faulty,
        fills_recorded=market.fills_recorded,
        fills_modelled=market.fills_modelled,
        fills_compared=comparison.fills,
        paid_more_usd=float(comparison.paid_more),
        received_less_usd=float(comparison.received_less),
    )


IMPLIED = "option quotes"  # begins the source text of bars by `convert --from implied-bars`
LARGE_STATE = 2**16  # bytes, beyond eight times the bars that a spec asks for: nothing of a history is so large
FAR_APART = 0.25  # part of the equity: a larger distance is not from rounding to shares
ANOTHER = "It is the strategy's passive one: RLTRADER_POLICY__VERSION=VERSION runs another (rltraderctl models list)."


def remarks(
    replay: TapeReplay,
    counts: TapeCounts,
    state: State[Any],
    bars_run: int,
    baskets: Baskets,
    ends: Sequence[tuple[str, float]] = (),
    quote_use: QuotesUsed | None = None,
    nights: int = 0,
) -> tuple[str, ...]:
    """Return one sentence, with its cure, for each fact that the figures of an ended replay would hide.

    `ends` are the equity at each session's end, see `session_ends`; `nights` the trades held overnight by a desk that
    should be flat before the close.
    """
    departures = () if quote_use is None else _of_quotes(replay, quote_use)
    remarks_of_nights = () if not nights else (_over_night(nights, state.stats.trades),)
    return (
        *_remarks(replay, counts, state, bars_run, baskets),
        *remarks_of_nights,
        *_of_halt(state, ends),
        *_of_claim(state, ends),
        *departures,
    )


def _of_halt(state: State[Any], ends: Sequence[tuple[str, float]]) -> Iterator[str]:
    """Yield since when the desk was halted, and the figures up to then."""
    halt, date = state.risk.halt, halt_date(state)
    sessions = sum(day > date for day, _ in ends[1:])
    if halt is None or not sessions:
        return
    alive = [end for end in ends if end[0] <= date]
    figures = daily_figures(alive)
    return_text = f"{100 * (alive[-1][1] / alive[0][1] - 1):+.2f} %" if alive and alive[0][1] > 0 else "nothing known"
    yield (
        f"Halted by {halt.reason} on {date} ({halt.detail}): the last {sessions:,} of {len(ends) - 1:,} sessions, up "
        f"to {ends[-1][0]}, took no new risk, and the figures include them. Up to that day the account made "
        f"{return_text}, {100 * figures.annual_return:+.2f} % a year{sharpe_words(figures)}. docs/OPERATIONS.md has "
        "the halt."
    )


def _of_claim(state: State[Any], ends: Sequence[tuple[str, float]]) -> Iterator[str]:
    """Yield what exceeded the risk that the model claims for this desk, since a replay judges no claim."""
    claim = None if isinstance(state.claim, UnsetType) else state.claim.claim
    if claim is None:
        return
    equity, window = [end for _, end in ends], claim.window_sessions
    returns = [close / close_before - 1.0 for close_before, close in pairwise(equity)]
    stretches = [volatility(tuple(returns[i : i + window])) for i in range(0, len(returns) - window + 1, window)]
    above = sum(stretch > claim.high for stretch in stretches)
    falls = [1.0 - close / max(equity[max(i - claim.drawdown_sessions, 0) : i + 1]) for i, close in enumerate(equity)]
    deepest = max(falls, default=0.0)
    if not above and deepest <= claim.drawdown_max:
        return
    yield (
        f"Beyond the risk that the model claims: {above:,} of {len(stretches):,} stretches of {window} sessions are "
        f"above a volatility of {100 * claim.high:.1f} %, the highest {100 * max(stretches, default=0.0):.1f} % "
        f"(stated: from {100 * claim.low:.1f} % up to that with a probability of {claim.probability:.2f}); the deepest "
        f"drawdown is {100 * deepest:.1f} %, of at most {100 * claim.drawdown_max:.1f} % stated. Live each "
        "of these breaks the claim (docs/MODELS.md); a replay goes on."
    )


def _over_night(nights: int, trades: int) -> str:
    return (
        f"{nights:,} of {trades:,} trades were held over night, although the desk is flat before the close: no bar "
        "followed in which the exit could fill. rltraderctl trades names them; a tape with every bar has none."
    )


def _of_quotes(replay: TapeReplay, quote_use: QuotesUsed) -> Iterator[str]:
    """Yield how the fills differ from fills at recorded quotes of the desk's own market."""
    underlying, quotes = replay.strategy.spec.symbols[0], replay.quotes
    if quote_use.synthetic:
        yield f"The option quotes are made up ({quote_use.synthetic}): the result says nothing about a market."
    if quotes is not None and quotes.root != underlying:
        yield (
            f"The contracts are of {quotes.root}, the bars were taken as {underlying}'s: {quotes.root} settles as if "
            f"exercised into {OPTION_MULTIPLIER} shares of {underlying}."
        )
    yield from _departures(replay)
    if quote_use.sessions_quoted < quote_use.sessions:
        yield (
            f"{quote_use.sessions - quote_use.sessions_quoted:,} of {quote_use.sessions:,} sessions have no option "
            f"quote on file: nothing was traded there. Convert their quotes too."
        )
    if quote_use.fills_modelled:
        fills = quote_use.fills_recorded + quote_use.fills_modelled
        yield (
            f"{quote_use.fills_modelled:,} of {fills:,} fills are at Black-Scholes prices, because the minute had no "
            f"quote of the contract: a file with every minute fills them at the market's."
        )


def _departures(replay: TapeReplay) -> Iterator[str]:
    """Yield how desk, bars or volatility differ from a live desk with the strategy's rules."""
    quotes, spec = replay.quotes, replay.strategy.spec
    rules, usual = _rules(replay.settings.trading()), _rules(trading_for(spec.name))
    other = [f"{key} {value} (the strategy's: {usual[key]})" for key, value in rules.items() if value != usual[key]]
    if other:
        yield f"The desk has other rules than the strategy's: {', '.join(other)}."
    made_of = origin_of(replay.tape)
    if made_of.startswith(IMPLIED):
        yield (f"The bars of {spec.symbols[0]} are made of {made_of}: nothing is known within a minute, and no volume.")
    if quotes is not None:
        source = f"the closes of {quotes.closes_name}" if quotes.closes is not None else "the closes of the bars"
        paper = replay.settings.paper
        yield (
            f"Where a minute has no quote, the volatility is that of {source}: {paper.volatility_sessions} returns "
            f"before the session, times {paper.volatility_premium}; without all of them nothing is filled there."
        )


def _rules(trading: Trading) -> dict[str, object]:
    """Return the rules that affect a result, by dotted key."""
    return {f"{table}.{key}": value for table in TABLES for key, value in asdict(getattr(trading, table)).items()}


def _remarks(
    replay: TapeReplay, counts: TapeCounts, state: State[Any], bars_run: int, baskets: Baskets
) -> Iterator[str]:
    stats = state.stats
    if stats.bars and not bars_run:
        yield (
            f"Nothing was replayed: {replay.settings.paths.state_dir} holds this replay to its end. The figures "
            f"are of that run and of its rules. Pass another --state-dir for a new one."
        )
        return
    if replay.tape == bundled_tape(replay.strategy.spec):
        yield (
            "The bundled bars are made up: the result says nothing about a market. --bars FILE replays yours; with "
            "broker keys and without --bars, --dry-run is on the live feed."
        )
    if replay.info.resorted:
        yield f"{replay.tape.name} was not in order of time: its rows were sorted."
    yield from _left_out(replay, counts)
    yield from (one for one in counts.of_bars if one != counts.absent or stats.decisions)  # else `_no_trade` says it
    if baskets.apart > FAR_APART:
        yield (
            f"The weights held were {100 * baskets.apart:.0f} % of the equity from those wanted, mean of all baskets: "
            "weights that sum to more than 1, or whole shares in a small account (rltraderctl decisions --bar TIME)."
        )
    if baskets.unsent:
        yield (
            f"{baskets.unsent:,} of {baskets.ordered:,} ordered baskets sent no order: {WHY_NO_CHANGE}; "
            f"rltraderctl decisions names them."
        )
    without_quote, session_count = stats.denials.get("no_quote", 0), state.trading.paper.volatility_sessions
    if without_quote and stats.fills and replay.quotes is None:
        yield (
            f"{without_quote:,} wanted entries were denied by no_quote: no contract that fits had a quote. The "
            f"replay's option market quotes from session {session_count + 2} on: its volatility needs "
            f"{session_count} returns before it."
        )
    if stats.bars and not stats.fills and (stats.denials or not baskets.unsent):
        yield _no_trade(replay, state)
    size, spec = size_of(state.strategy), replay.strategy.spec
    if size > LARGE_STATE + 8 * size_of(Bar("", 0, 0.0, 0.0, 0.0, 0.0, 0.0)) * spec.history_bars * len(spec.symbols):
        yield (
            f"The strategy's state has {size / 2**20:.1f} MiB after {stats.bars:,} bars: does it grow with each bar? "
            f"Each snapshot and each start carries it, and at {STATE_MOST >> 20} MiB its desk asks it no more. Keep "
            "the newest rows alone, as kit.KeptBars does."
        )


def _left_out(replay: TapeReplay, counts: TapeCounts) -> Iterator[str]:
    """Yield why rows of minutes lie outside of the sessions: all or some days' times are hours off."""
    if replay.info.interval_s >= DAY_S or not counts.outside_hours:
        return
    left_out = counts.left_out
    half = half_hours(replay.tape, replay.strategy.spec.symbols)
    hours = hours_off(half, replay.calendar) if counts.mostly_left_out else 0
    if hours:
        yield f"{left_out} {_shift_text(hours)} most would lie inside: write the times with their real zone."
    elif off := sessions_off(half, replay.calendar):
        yield (
            f"{left_out} {_shift_text(off.hours)} {off.sessions:,} of {replay.info.dates:,} sessions would lie inside "
            f"whole, from {off.first} to {off.last}: their times miss a change to or from summer time. "
            "Write them with their real zone."
        )


def _shift_text(hours: int) -> str:
    return f"{abs(hours)} hour{'s' * (abs(hours) != 1)} {'later' if hours > 0 else 'earlier'}"


def _no_trade(replay: TapeReplay, state: State[Any]) -> str:
    """Return why there was no trade at all."""
    stats, spec = state.stats, replay.strategy.spec
    if not stats.decisions and replay.absent:
        return f"No decision was made: the tape has no bars of {names_of(replay.absent)}. Pass one that has them."
    if not stats.decisions:
        return (
            f"No decision was made: {spec.name} looks back on {spec.history_bars:,} bars of a symbol, and the tape has "
            f"{stats.bars:,} bars in all. Pass a longer tape."
        )
    if not stats.denials:
        verdict = f"No trade: in none of {stats.decisions:,} decisions did the policy want to change its position."
        return f"{verdict} {ANOTHER}" if is_passive(replay.model.manifest) else verdict
    denial_counts = sorted(stats.denials.items(), key=lambda denial: -denial[1])
    session_count = state.trading.paper.volatility_sessions + 1
    if denial_counts[0][0] == "no_quote" and replay.quotes is None and replay.info.dates <= session_count:
        return (
            f"No trade: the replay's option market quotes after {session_count} sessions, and the tape has "
            f"{replay.info.dates}. Pass a longer tape."
        )
    gates = ", ".join(f"{gate} {count:,}" for gate, count in denial_counts)
    return (
        f"No trade: the policy's wishes were denied by {gates}; docs/GATES.md explains each gate, and rltraderctl "
        f"decisions lists them."
    )
