"""Lists the content of a folder of bars, and its faults. Read-only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from daemon.host.time.calendar import midnight_ns
from daemon.tapes.bar_folder import (
    BAR_LENGTHS,
    DAYS,
    SPLIT,
    Actions,
    Float64Array,
    Int64Array,
    Series,
    actions_of,
    all_series,
    content_digest,
    made_of,
    read_part,
    series_of,
)
from daemon.tapes.files import TapeError
from daemon.tapes.minutes import likely_split, new_york_days
from strategies.kit.contract import Session
from strategies.kit.units import SECOND_NS
from training.data.folder import MINUTES, is_made_of_minutes
from training.data.sessions import sessions_between


class FolderFault(msgspec.Struct, frozen=True):
    """A fault of a data folder."""

    symbol: str
    bars: str
    what: str  # its kind, in a word
    detail: str


class SeriesSummary(msgspec.Struct, frozen=True):
    """The bars of one symbol in one length. Dates are New York's."""

    symbol: str
    bars: str
    first: str
    last: str
    sessions: int
    rows: int
    holes: tuple[str, ...]  # sessions of the exchange between first and last without a bar
    missing_bars: int  # bars missing from the other sessions' regular hours
    feed: str
    source: str
    adjustment: str  # of the prices on disk
    synthetic: str
    fetched: str  # UTC, of the newest part
    made_of_minutes: bool
    bytes: int
    actions: int  # splits, dividends and spin-offs that are known
    actions_until: str  # "" where no actions are known


def series_in(folder: Path) -> list[SeriesSummary]:
    """Return what a folder holds. Raises TapeError, CalendarError."""
    return [_bars_held(folder, series) for series in all_series(folder) if series.sessions]


def _bars_held(folder: Path, series: Series) -> SeriesSummary:
    dates, parts, actions_known = series.sessions, series.parts.values(), actions_of(folder, series.symbol)
    sessions = sessions_between(dates[0], dates[-1])
    dates_present = set(dates)
    rows = sum(part.rows for part in parts)
    expected = sum(len(_grid(series, session)) for session in sessions if session.date in dates_present)
    home = folder / series.bars / series.symbol
    return SeriesSummary(
        symbol=series.symbol,
        bars=series.bars,
        first=dates[0],
        last=dates[-1],
        sessions=len(dates),
        rows=rows,
        holes=tuple(session.date for session in sessions if session.date not in dates_present),
        missing_bars=expected - rows,
        feed=series.feed,
        source=series.source,
        adjustment="raw",
        synthetic=series.synthetic,
        fetched=max(part.fetched for part in parts),
        made_of_minutes=is_made_of_minutes(series),
        bytes=sum(path.stat().st_size for path in home.iterdir()),
        actions=len(actions_known.actions) if actions_known else 0,
        actions_until=actions_known.last if actions_known else "",
    )


def _grid(series: Series, session: Session) -> range:
    """The starts of a session's bars, in nanoseconds UTC."""
    if series.bars == DAYS:
        return range(midnight_ns(session.date), midnight_ns(session.date) + 1)
    return range(session.open_ns, session.close_ns, BAR_LENGTHS[series.bars] * SECOND_NS)


def findings(folder: Path) -> Iterator[FolderFault]:
    """Yield the faults of a folder, symbol by symbol. Raises CalendarError."""
    for bars in BAR_LENGTHS:
        for home in sorted((folder / bars).glob("*")):
            try:
                series = series_of(folder, bars, home.name)
                actions = actions_of(folder, home.name)
                if series is None:
                    yield FolderFault(
                        home.name, bars, "index", f"{home}: no index: rltrader data add {home.name} --again makes one"
                    )
                    continue
                yield from _of_series(folder, series, actions)
            except TapeError as error:
                yield FolderFault(home.name, bars, "damaged", str(error))


def _of_series(folder: Path, series: Series, actions: Actions | None) -> Iterator[FolderFault]:
    def finding(what: str, detail: str) -> FolderFault:
        return FolderFault(series.symbol, series.bars, what, detail)

    parts_read: list[tuple[Int64Array, Float64Array]] = []
    for period, part in series.parts.items():
        try:
            starts, prices = read_part(folder, series, part)
        except TapeError as error:
            yield finding("damaged", str(error))
            continue
        index_entry = part.rows, part.sessions, part.content
        if (
            starts.size,
            tuple(map(str, np.unique(new_york_days(starts)))),
            content_digest(starts, prices),
        ) != index_entry:
            yield finding("index", f"{period}: rows or sessions of {part.file} are not those of the index")
        if part.made_of:
            minutes = series_of(folder, MINUTES, series.symbol)
            if minutes is None or made_of(minutes.parts, period) != part.made_of:
                yield finding("made_of", f"{period}: the minutes changed since: rltrader data resample {series.bars}")
        parts_read.append((starts, prices))
    if not parts_read or not series.sessions:
        return
    starts = np.concatenate([rows[0] for rows in parts_read])
    prices = np.concatenate([rows[1] for rows in parts_read], axis=1)
    dates = series.sessions
    sessions = sessions_between(dates[0], dates[-1])
    for what, mask in _wrong(series, starts, prices, sessions):
        if mask.any():
            first = np.datetime64(int(starts[np.argmax(mask)]), "ns").astype("datetime64[s]")
            yield finding(what, f"{int(mask.sum()):,} bars, the first of {first}Z")
    lacking = [session.date for session in sessions if session.date not in set(dates)]
    if lacking:
        more = ", …" if len(lacking) > 5 else ""
        detail = f"{len(lacking)} sessions without a bar: {', '.join(lacking[:5])}{more}"
        command = f"rltrader data add {series.symbol} --bars {series.bars} --from {lacking[0]} --data-dir {folder}"
        yield finding("hole", f"{detail}: {command}")
    for what, detail in _jumps(starts, prices, actions):
        yield finding(what, detail)


def _wrong(
    series: Series, starts: Int64Array, prices: Float64Array, sessions: list[Session]
) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    opened, high, low, close, volume = prices
    steps = np.diff(starts, prepend=starts[0] - 1)
    yield "duplicate", steps == 0
    yield "order", steps < 0
    yield "not_finite", np.any(~np.isfinite(prices), axis=0)
    yield "price", np.any(prices[:4] <= 0.0, axis=0)
    yield "extremes", np.any([high < low, np.minimum(opened, close) < low, np.maximum(opened, close) > high], axis=0)
    yield "volume", volume < 0.0
    grid = np.concatenate([np.array(_grid(series, session), dtype=np.int64) for session in sessions])
    yield "off_session", ~np.isin(starts, grid)


def _jumps(starts: Int64Array, prices: Float64Array, actions: Actions | None) -> Iterator[tuple[str, str]]:
    """Nights in which the price moved like an unknown split, or did not move by a known one."""
    days = new_york_days(starts)
    first = np.flatnonzero(np.append(True, days[1:] != days[:-1]))
    splits = {a.ex_date: a.value for a in actions.actions if a.kind == SPLIT} if actions is not None else {}
    for place in first[1:].tolist():
        close_before, open_after, day = float(prices[3, place - 1]), float(prices[0, place]), str(days[place])
        if not (close_before > 0.0 and open_after > 0.0):
            continue
        ratio, shares = close_before / open_after, splits.get(day)
        likely = likely_split(close_before, open_after)
        if shares is None and likely is not None:
            yield (
                "split",
                f"{day}: from {close_before:g} to {open_after:g}, as by a split {likely:g} for 1 that nobody knows of",
            )
        elif shares is not None and abs(shares - 1.0) > 0.2 and abs(ratio - 1.0) < abs(ratio - shares):
            yield (
                "split",
                f"{day}: a split {shares:g} for 1, yet {close_before:g} and then {open_after:g}: adjusted prices?",
            )
