"""Bars on disk: a folder of finished chunks, from which a download resumes, and the file made of them.

Invariant: every file appears by one rename after it was flushed, so a crash leaves the old one or the new one; --out
appears after it was read back.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet

from daemon.host.whole_files import write_whole
from daemon.tapes.files import PRICES, TapeFile
from training.data.bars_check import CheckedChunk, Tally
from training.data.bars_request import Chunk, DownloadError, DownloadRequest, differences, utc

EXAMPLES = 5
METADATA_KEY = b"download"  # of the file's Parquet metadata: JSON with the request and the summary
SCHEMA = pa.schema(
    [("symbol", pa.string()), ("timestamp", pa.timestamp("ns", "UTC")), *((name, pa.float64()) for name in PRICES)]
)


class DownloadSummary(msgspec.Struct, frozen=True):
    """What the file holds and lacks. Counts are complete; lists of examples have at most `EXAMPLES` entries."""

    bars: dict[str, int]  # by symbol
    sessions: int  # the exchange's finished sessions between the two dates
    first_session: str
    last_session: str
    pages: int  # pages of Alpaca's answers, earlier runs included
    outside_hours: int  # bars that were left out
    missing_sessions: dict[str, tuple[str, ...]]  # by symbol: all sessions without a bar
    missing_bars: dict[str, int]  # by symbol: bars missing from the regular hours of the other sessions
    missing_examples: dict[str, tuple[str, ...]]  # by symbol: the first of them, in UTC
    left_out: tuple[str, ...]  # sessions that are still running or to come


def already(request: DownloadRequest, identity: Mapping[str, Any], left_out: tuple[str, ...]) -> DownloadSummary:
    """The summary of a finished file of the same request. A different file at --out is an error and stays."""
    difference = "another file stands there"
    with contextlib.suppress(pa.ArrowException, OSError, msgspec.DecodeError, KeyError, TypeError):
        metadata = pa.parquet.read_schema(request.out).metadata or {}
        saved = msgspec.json.decode(metadata[METADATA_KEY])
        summary = msgspec.convert(saved["summary"], DownloadSummary)
        difference = differences(saved["request"] | {"as_of": ""}, {**identity, "as_of": ""})
        if not difference and summary.left_out == left_out:
            return summary
        difference = difference or f"it left out {', '.join(summary.left_out)}, which can be had now"
    raise DownloadError(f"--out {request.out} exists already ({difference}): move it away or choose another name")


@contextlib.contextmanager
def writing(request: DownloadRequest) -> Iterator[None]:
    """Turn errors of the file system into DownloadError."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).splitlines()[0]
        raise DownloadError(
            f"{request.out} cannot be written ({reason}): nothing was put there, finished parts are in "
            f"{request.parts}; make room or choose another --out, then give the command again"
        ) from error


def claim(request: DownloadRequest, identity: Mapping[str, Any]) -> None:
    """Claim the folder of parts for this request. Raises DownloadError when it holds parts of another request."""
    file = request.parts / "request.json"
    if any(request.parts.glob("*-*.parquet")):
        try:
            claimed = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
        except (FileNotFoundError, msgspec.DecodeError):
            claimed = {}
        if different := differences(claimed, identity):
            raise DownloadError(
                f"{request.parts} holds parts of another download ({different}): finish that one, "
                "remove the folder, or choose another --out"
            )
        return
    request.parts.mkdir(exist_ok=True)
    write_whole(file, msgspec.json.encode(identity))


def store(request: DownloadRequest, identity: Mapping[str, Any], chunk: Chunk, part: CheckedChunk) -> None:
    """Keep a finished chunk."""
    metadata = msgspec.json.encode(
        {"request": identity, "part": chunk.name, "pages": part.pages, "outside": part.outside}
    )
    table = _table([(chunk.symbol, part)]).replace_schema_metadata({METADATA_KEY: metadata})
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(table, sink, compression="zstd", write_page_checksum=True)
    write_whole(request.parts / chunk.name, sink.getvalue().to_pybytes())


def stored(request: DownloadRequest, identity: Mapping[str, Any], chunk: Chunk) -> CheckedChunk | None:
    """A finished part; None where there is none, or one that is damaged or another request's."""
    path = request.parts / chunk.name
    if not path.exists():
        return None
    try:
        table = pa.parquet.read_table(path, page_checksum_verification=True)
        metadata = msgspec.json.decode((table.schema.metadata or {})[METADATA_KEY], type=dict[str, Any])
        if metadata["request"] != identity or metadata["part"] != chunk.name:
            return None
        starts = table.column("timestamp").cast(pa.int64()).to_numpy()
        prices = np.stack([table.column(name).to_numpy() for name in PRICES])
        return CheckedChunk(starts, prices, int(metadata["pages"]), int(metadata["outside"]))
    except (pa.ArrowException, OSError, LookupError, ValueError):
        return None


def _table(parts: Sequence[tuple[str, CheckedChunk]]) -> Any:
    """The bars of one period, by start, then in the request's order of symbols."""
    starts = np.concatenate([part.start_ns for _, part in parts])
    order = np.argsort(starts, kind="stable")
    names = np.repeat([symbol for symbol, _ in parts], [part.start_ns.size for _, part in parts])[order]
    prices = np.concatenate([part.prices for _, part in parts], axis=1)[:, order]
    columns = [pa.array(names.tolist(), pa.string()), pa.array(starts[order]).cast(SCHEMA.field("timestamp").type)]
    return pa.table([*columns, *(pa.array(column) for column in prices)], schema=SCHEMA)


def assemble(
    request: DownloadRequest, identity: Mapping[str, Any], periods: list[list[Chunk]], left_out: tuple[str, ...]
) -> DownloadSummary:
    """Join all parts to one file: written beside --out, read back, renamed. One period's bars are in memory at a time.

    Raises DownloadError for a symbol without a bar, a damaged part, or a file that reads back otherwise.
    """
    tally = Tally()
    for chunk in (chunk for period in periods for chunk in period):
        tally.add(request, chunk, _whole(request, identity, chunk))
    summary = _summary(request, tally, periods, left_out)
    schema = SCHEMA.with_metadata(
        {
            "source": "Alpaca /v2/stocks/bars",
            "feed": request.feed,
            "adjustment": request.adjustment,
            "timeframe": request.timeframe,
            "hours": "extended" if request.include_extended else "regular",
            METADATA_KEY: msgspec.json.encode({"request": identity, "summary": summary}),
        }
    )
    whole = request.parts / "whole.parquet"
    with whole.open("wb") as file:
        with pa.parquet.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer:
            for period in periods:
                parts = [(chunk.symbol, _whole(request, identity, chunk)) for chunk in period]
                writer.write_table(_table(parts).cast(schema))
        file.flush()
        os.fsync(file.fileno())
    read_back = sum(rows.start_ns.size for rows in TapeFile(whole, request.symbols).batches())
    if read_back != tally.bars.total():
        raise DownloadError(f"{whole} reads as {read_back} bars, {tally.bars.total()} were written: check the disk")
    whole.replace(request.out)
    return summary


def _whole(request: DownloadRequest, identity: Mapping[str, Any], chunk: Chunk) -> CheckedChunk:
    part = stored(request, identity, chunk)
    if part is None:
        raise DownloadError(f"{request.parts / chunk.name} is damaged: give the same command again")
    return part


def _summary(
    request: DownloadRequest, tally: Tally, periods: list[list[Chunk]], left_out: tuple[str, ...]
) -> DownloadSummary:
    if empty := [symbol for symbol in request.symbols if not tally.bars[symbol]]:
        raise DownloadError(
            f"no bar of {', '.join(empty)} from {request.start} to {request.end} on feed {request.feed}: check the "
            f"symbol and the dates (Alpaca's history begins in 2016), and remove {request.parts} before another attempt"
        )
    return DownloadSummary(
        bars=dict(tally.bars),
        sessions=sum(len(period[0].sessions) for period in periods),
        first_session=periods[0][0].sessions[0].date,
        last_session=periods[-1][0].sessions[-1].date,
        pages=tally.pages,
        outside_hours=tally.outside,
        missing_sessions={symbol: tuple(dates) for symbol, dates in tally.missing_sessions.items()},
        missing_bars={symbol: len(starts) for symbol, starts in tally.missing.items()},
        missing_examples={s: tuple(utc(start) for start in starts[:EXAMPLES]) for s, starts in tally.missing.items()},
        left_out=left_out,
    )
