"""`rltraderctl events`: the events of a journal, newest last."""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
from contextlib import closing
from difflib import get_close_matches
from typing import Any, get_args

import msgspec
from rich.console import Console
from rich.table import Table

from daemon.cli.arguments import NotFound, add_limit, add_state_dir, lead_on
from daemon.core.events import AnyEvent
from daemon.core.session import new_york_text
from daemon.engine.state_dir import former_rows_text, parts_of
from daemon.host.printable import printable
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.journal.rows import base_of
from strategies.kit.quantity import to_json

NAMES = ("client_order_id", "order_id")
DAMAGED_MOST = 100_000  # characters
_KINDS = tuple(kind.__name__ for kind in get_args(AnyEvent))


class EventLine(msgspec.Struct, frozen=True):
    """One event of `events --json`. `seq` is None for a start-up event.

    `effects` are the step's, or an object with the mark of an event that was not carried out. What is damaged is an
    object with its text, `damaged`.
    """

    seq: int | None
    event: dict[str, Any]
    effects: list[dict[str, Any]] | dict[str, Any]


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `events`."""
    command.set_defaults(run=run)
    add_state_dir(command)
    command.add_argument("--after", type=int, default=None, metavar="SEQ", help="only events after this sequence")
    command.add_argument("--kind", metavar="NAME", help="only this kind, such as OrderFilled")
    add_limit(command)
    command.add_argument("--json", action="store_true", help="one JSON object a line, nothing cut")


def run(options: argparse.Namespace, console: Console) -> int:
    """Print the requested events; returns 0. Raises NotFound, JournalError."""
    where, values = ["1 = 1"], []
    if options.kind:
        if options.kind not in _KINDS:
            near = get_close_matches(options.kind, _KINDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(_KINDS)}"
            raise NotFound(f"--kind {options.kind!r} is no kind of event: {hint}")
        where.append("kind = ?")
        values.append(options.kind)
    if options.after is not None:
        where.append("seq > ?")
        values.append(options.after)
    rows = _matching(options, " AND ".join(where), values)
    if not rows:
        raise NotFound(f"no event in {options.state_dir} matches")
    if options.json:
        for row in rows:
            line = EventLine(row["seq"], _load(row["payload"]), _load(row["effects"]))
            sys.stdout.write(json.dumps(msgspec.to_builtins(line, enc_hook=to_json)) + "\n")
        return 0
    table = Table("seq", "New York time", "event", "what", "effects")
    for row in rows:
        payload = {k: v for k, v in _load(row["payload"]).items() if k not in ("type", "time_ns")}
        effects = _load(row["effects"])
        marks = effects.items() if isinstance(effects, dict) else ()
        names = ", ".join([f"{mark}: {text}" for mark, text in marks] or [effect["type"] for effect in effects])
        seq = "start-up" if row["seq"] is None else f"{row['seq']:,}"
        table.add_row(seq, new_york_text(row["time_ns"]), row["kind"], _short(payload), names)
    console.print(table)
    lead_on(options, "decisions")
    return 0


def _load(text: str) -> Any:
    """Return a row's JSON; of a damaged one, its text."""
    try:
        return json.loads(text)
    except ValueError:
        return {"damaged": printable(text, DAMAGED_MOST)}


def _matching(options: argparse.Namespace, where: str, values: list[Any]) -> list[sqlite3.Row]:
    """Return the requested events, oldest first, from all files of the journal that exist."""
    forward = options.after is not None
    parts, matches = parts_of(options.state_dir / FILE), dict[int, sqlite3.Row]()
    for path in parts if forward else reversed(parts):
        with closing(JournalReader(path)) as reader:
            if forward and path == parts[0] and (base := base_of(reader.meta())) and options.after < base.seq:
                sys.stderr.write(f"rltraderctl: {path}: it begins after event {base.seq:,}{former_rows_text(reader)}\n")
            rows = reader.query(
                f"SELECT id, seq, time_ns, kind, payload, effects FROM events WHERE {where} "
                f"ORDER BY id {'ASC' if forward else 'DESC'} LIMIT ?",
                (*values, options.limit),
            )
        matches |= {row["id"]: row for row in rows}  # a file repeats the last row of the one before
        if len(matches) >= options.limit:
            break
    ids = sorted(matches)
    return [matches[row] for row in (ids[: options.limit] if forward else ids[-options.limit :])]


def _short(payload: dict[str, Any]) -> str:
    """Return a payload on one line, names last: they are long and would hide figures."""
    fields = {key: value for key, value in payload.items() if key not in NAMES}
    text = msgspec.json.encode(fields | {key: payload[key] for key in NAMES if key in payload}).decode()
    return text if len(text) <= 120 else text[:117] + "..."
