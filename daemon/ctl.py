"""`rltraderctl`: look at a state directory and prove it; halt or resume a stopped desk.

`verify`, `status`, `events` and `decisions` read only, also beside a running daemon. `halt` and `resume` write one
journaled event with its reason and need the daemon stopped. `panic` needs no state directory at all.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

import msgspec
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from daemon import desks
from daemon.config import DEFAULT_CONFIG, EXIT_CODE, ConfigError, credentials, load
from daemon.core.events import AnyEvent, HaltRequested, ResumeRequested
from daemon.core.session import new_york_text
from daemon.desks import ROOT
from daemon.explain import OUTCOMES, NotFound, decisions
from daemon.shell.journal import FILE, JournalError, JournalReader, WriteFailed
from daemon.shell.recovery import code_digest, first_trading, fresh_machine, identity_of, recover
from daemon.shell.state_dir import StateDirError, locked_by
from daemon.shell.verify import verify
from strategies.registry import strategy as strategy_named

DIFFERENT = 1
NAMES = ("client_order_id", "order_id")
_KINDS = tuple(kind.__name__ for kind in get_args(AnyEvent))


def parser() -> argparse.ArgumentParser:
    """The command line of rltraderctl."""
    line = argparse.ArgumentParser(
        prog="rltraderctl", description="Look into a state directory and prove it; halt, resume, panic."
    )
    commands = line.add_subparsers(dest="command", required=True)

    def command(name: str, text: str, *, required: bool = True) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.add_argument("--state-dir", type=Path, required=required, metavar="DIR", help="folder of the journal")
        return made

    command("verify", "replay the journal without weights and compare everything, event by event")
    status = command("status", "what the desk is, holds and has earned; without --state-dir all desks", required=False)
    status.add_argument(
        "--desks", type=Path, default=ROOT, metavar="DIR", help=f"parent of state dirs (default {ROOT})"
    )
    status.add_argument("--json", action="store_true", help="one JSON object a desk")
    events = command("events", "the events, newest last")
    events.add_argument("--after", type=int, default=None, metavar="SEQ", help="only events after this sequence")
    events.add_argument("--kind", metavar="NAME", help="only this kind, such as OrderFilled")
    events.add_argument("--limit", type=_count, default=20, metavar="N", help="at most N (default 20)")
    events.add_argument("--json", action="store_true", help="one JSON object a line, nothing cut")
    decisions = command("decisions", "the decisions, newest last; --bar explains one completely")
    decisions.add_argument(
        "--bar", metavar="TIME", help="the bar's start: ISO 8601 with zone, New York without one, or ns"
    )
    decisions.add_argument("--outcome", choices=OUTCOMES, metavar="NAME", help=f"only one of {', '.join(OUTCOMES)}")
    decisions.add_argument("--limit", type=_count, default=20, metavar="N", help="at most N (default 20)")
    for name, text in (("halt", "halt a stopped desk"), ("resume", "end a stopped desk's halt or pause")):
        operator = command(name, text)
        operator.add_argument("--reason", required=True, help="why; it is journaled")
        operator.add_argument("--who", default="operator", help="who says so; it is journaled")
    text = "cancel every order and close every position of the account, straight over REST, without daemon or journal"
    panic = commands.add_parser("panic", help=text, description=text)
    panic.add_argument("--config", type=Path, metavar="FILE", help="configuration (default: ./config.toml where it is)")
    panic.add_argument("--yes", action="store_true", help="do not ask on a terminal")
    return line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `rltraderctl`; returns 0, 1 when verify found a difference, 2 when something was asked that cannot be."""
    options = parser().parse_args(arguments)
    try:
        code = COMMANDS[options.command](options, _console())
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ConfigError, JournalError, StateDirError, WriteFailed, NotFound) as error:
        sys.stderr.write(f"rltraderctl: {error}\n")
        return EXIT_CODE
    return code


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) not in range(1, 2**63):
        raise argparse.ArgumentTypeError(f"{text!r} is no count; expected 1 or more")
    return int(text)


def _console() -> Console:
    """Standard output: as wide as the terminal, wide enough for whole rows where there is none."""
    console = Console(highlight=False, markup=False)  # what the journal holds is shown as it is, brackets too
    return console if console.is_terminal else Console(highlight=False, markup=False, width=200)


def _verify(options: argparse.Namespace, console: Console) -> int:
    path = options.state_dir / FILE
    total = _reader(options).query("SELECT count(*) AS n FROM events")[0]["n"]
    screen = Console(stderr=True)
    with Progress(console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("verify", total=total)
        report = verify(path, code_digest(), strategy_named, lambda done: bar.update(task, completed=done))
    for code, rows in report.other_code.items():
        console.print(
            f"{rows:,} rows were written by other code ({code}): their hashes were checked, "
            f"they were not stepped again",
        )
    if report.difference:
        console.print(f"DIFFERENT: {report.difference}")
        return DIFFERENT
    word = "identical" if not report.other_code else "no difference found"
    console.print(
        f"{word}: {report.events:,} events, {report.stepped:,} stepped again, {report.digests:,} state digests, "
        f"{report.snapshots} snapshots, {report.read_model_rows:,} read-model rows",
    )
    return 0


def _status(options: argparse.Namespace, console: Console) -> int:
    if options.state_dir is None:
        return desks.show(options.desks, console, as_json=options.json)
    if options.json:
        return desks.show_one(options.state_dir)
    reader = _reader(options)
    meta = reader.meta()
    machine = fresh_machine(strategy_named(meta["strategy"]), *_identity_and_rules(reader, meta))
    recover(reader, machine, code_digest())
    state = machine.state
    holder = locked_by(options.state_dir)
    table = Table(show_header=False, title=f"{meta.get('desk', '')} · {meta['strategy']}", title_justify="left")
    table.add_column(style="cyan")
    table.add_column()
    table.add_row("daemon", f"runs as process {holder}" if holder else "not running")
    tape = f", tape {meta['tape']}" + (" (synthetic)" if meta.get("synthetic") else "") if meta.get("tape") else ""
    table.add_row("mode", f"{meta['mode']}, account {meta['account']}{tape}")
    table.add_row("last event", f"{state.seq:,} at {new_york_text(state.now_ns)}" if state.seq else "none")
    halt, pause = state.risk.halt, state.risk.pause
    table.add_row(
        "halt",
        Text.assemble((halt.reason, "red"), f": {halt.detail}, since {new_york_text(halt.since_ns)}") if halt else "no",
    )
    if pause is not None and (not pause.until_ns or state.now_ns < pause.until_ns):
        table.add_row("pause", pause.reason + (f", until {new_york_text(pause.until_ns)}" if pause.until_ns else ""))
    table.add_row("reconciled", "yes" if state.risk.reconciled else "no")
    table.add_row(
        "model", state.model.version + ("" if state.model.promoted else " (not promoted)") if state.model else "none"
    )
    book = state.book
    table.add_row(
        "equity",
        f"{book.equity:,.2f} USD, cash {book.cash:,.2f}, realised {book.realized:+,.2f}, fees {book.fees:,.2f}",
    )
    for position in sorted(book.positions.values(), key=lambda held: held.symbol):
        average, mark = position.cost / position.quantity, state.marks.get(position.symbol)
        now = "" if mark is None else f", now {mark:.4f}"
        table.add_row(
            "position",
            f"{position.quantity} {position.symbol} at {average:.4f}{now}, since {new_york_text(position.opened_ns)}",
        )
    if state.basket.date:
        given_up = ", ".join(f"{shares:+,} {symbol}" for symbol, shares in state.basket.given_up.items())
        table.add_row("last basket", f"due {state.basket.date}, given up: {given_up or 'nothing'}")
    for order in state.orders.values():
        if order.working:
            limit = "market" if order.limit_price is None else order.limit_price
            table.add_row(
                "order",
                f"{order.client_order_id}: {order.side:+d} x {order.quantity} {order.symbol} at {limit}, "
                f"{order.status}",
            )
    stats = state.stats
    table.add_row("bars", f"{stats.bars:,} ({stats.bars_rejected:,} rejected)")
    table.add_row("decisions", f"{stats.decisions:,}")
    table.add_row("orders, fills", f"{stats.orders:,}, {stats.fills:,} ({stats.partial_fills:,} partial)")
    table.add_row("trades", f"{stats.trades:,}, {stats.wins:,} won")
    denials = ", ".join(f"{gate} {count:,}" for gate, count in sorted(stats.denials.items(), key=lambda d: -d[1]))
    table.add_row("denials", denials or "none")
    console.print(table)
    return 0


def _events(options: argparse.Namespace, console: Console) -> int:
    where, values = ["1 = 1"], []
    if options.kind:
        if options.kind not in _KINDS:
            nearest = get_close_matches(options.kind, _KINDS, n=1, cutoff=0.0)[0]
            raise NotFound(f"--kind {options.kind!r} is no kind of event: did you mean {nearest}?")
        where.append("kind = ?")
        values.append(options.kind)
    if options.after is not None:
        where.append("seq > ?")
        values.append(options.after)
    order = "ASC" if options.after is not None else "DESC"
    rows = _reader(options).query(
        f"SELECT id, seq, time_ns, kind, payload, effects FROM events WHERE {' AND '.join(where)} "
        f"ORDER BY id {order} LIMIT ?",
        (*values, options.limit),
    )
    rows = rows if order == "ASC" else rows[::-1]
    if not rows:
        raise NotFound(f"no event in {options.state_dir} matches")
    if options.json:
        for row in rows:
            told = {"seq": row["seq"], "event": json.loads(row["payload"]), "effects": json.loads(row["effects"])}
            sys.stdout.write(json.dumps(told) + "\n")
        return 0
    table = Table("seq", "New York time", "event", "what", "effects")
    for row in rows:
        payload = {k: v for k, v in json.loads(row["payload"]).items() if k not in ("type", "time_ns")}
        effects = json.loads(row["effects"])
        marks = effects.items() if isinstance(effects, dict) else ()
        names = ", ".join([f"{mark}: {what}" for mark, what in marks] or [effect["type"] for effect in effects])
        seq = "start-up" if row["seq"] is None else f"{row['seq']:,}"
        table.add_row(seq, new_york_text(row["time_ns"]), row["kind"], _short(payload), names)
    console.print(table)
    return 0


def _halt(options: argparse.Namespace, console: Console) -> int:
    return _command(options, console, lambda now: HaltRequested(now, "operator", options.reason, options.who))


def _resume(options: argparse.Namespace, console: Console) -> int:
    return _command(options, console, lambda now: ResumeRequested(now, options.reason, options.who))


def _panic(options: argparse.Namespace, _console: Console) -> int:
    config = options.config or (DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else None)
    settings, keys = load(config, {}), credentials()
    if not keys.complete:
        raise ConfigError("no broker keys: set APCA_API_KEY_ID and APCA_API_SECRET_KEY in the environment")
    from daemon.rescue import rescue, say

    say(f"the {settings.desk.account} account at {settings.address('trading_url')}: cancel all, close all")
    if not options.yes and not _confirmed():
        raise NotFound("nothing was touched")
    return rescue(settings, keys)


def _confirmed() -> bool:
    """A person at a terminal says so; without one nobody can be asked."""
    if sys.stdin is None or not sys.stdin.isatty():
        return True
    try:
        return input("type PANIC to go on: ") == "PANIC"
    except (EOFError, KeyboardInterrupt):
        return False


def _command(options: argparse.Namespace, console: Console, event: Callable[[int], Any]) -> int:
    from daemon.wiring import command_offline

    if not options.reason.strip():
        raise NotFound(f"--reason is empty: a {options.command} states why")
    state = command_offline(options.state_dir, event)
    halt = state.risk.halt
    console.print(
        f"journaled as event {state.seq:,}; " + (f"halted: {halt.reason}: {halt.detail}" if halt else "not halted"),
    )
    return 0


def _identity_and_rules(reader: JournalReader, meta: dict[str, str]) -> tuple[Any, Any]:
    return identity_of(meta), first_trading(reader)


def _reader(options: argparse.Namespace) -> JournalReader:
    return JournalReader(options.state_dir / FILE)


def _short(payload: dict[str, Any]) -> str:
    """A payload on one line; names are long and last, so that figures are seen."""
    shown = {key: value for key, value in payload.items() if key not in NAMES}
    text = msgspec.json.encode(shown | {key: payload[key] for key in NAMES if key in payload}).decode()
    return text if len(text) <= 120 else text[:117] + "..."


COMMANDS: dict[str, Callable[[argparse.Namespace, Console], int]] = {
    "verify": _verify,
    "status": _status,
    "events": _events,
    "decisions": lambda options, console: decisions(_reader(options), options, console),
    "halt": _halt,
    "resume": _resume,
    "panic": _panic,
}


if __name__ == "__main__":
    sys.exit(main())
