"""`rltraderctl`: look at a state directory and prove it; command its desk, running or stopped.

`verify`, `status`, `events` and `decisions` read only, also beside a running daemon. `pause`, `resume`, `halt`,
`flatten` and `reload` leave one journaled event with its reason. `panic` needs no state directory at all.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import msgspec
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from daemon.cli import control as ctl_control
from daemon.cli import drift as drift_command
from daemon.cli import heads as heads_command
from daemon.cli import models as models_command
from daemon.cli import remote, watch
from daemon.cli import report as report_command
from daemon.cli import shadow as shadow_command
from daemon.cli.explain import OUTCOMES, NotFound, decisions
from daemon.config.load import EXIT_CODE, ConfigError
from daemon.core.events import AnyEvent
from daemon.core.session import new_york_text
from daemon.engine.recovery import code_digest, libraries
from daemon.engine.segments import check_follows, parts_of, where_before
from daemon.engine.state_dir import enter
from daemon.engine.verify import verify
from daemon.host.own_files import StateDirError
from daemon.journal.journal import FILE
from daemon.journal.published import check_signed, compare
from daemon.journal.reader import JournalReader, unreadable
from daemon.journal.rows import JournalError, WriteFailed, base_of
from daemon.operator.control.client import ControlError
from strategies.registry import strategy as strategy_named

DIFFERENT = 1
NAMES = ("client_order_id", "order_id")
_KINDS = tuple(kind.__name__ for kind in get_args(AnyEvent))


def parser() -> argparse.ArgumentParser:
    """The command line of rltraderctl."""
    line = argparse.ArgumentParser(
        prog="rltraderctl", description="Look into a state directory and prove it; command its desk; panic."
    )
    commands = line.add_subparsers(dest="command", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.add_argument("--state-dir", type=Path, required=True, metavar="DIR", help="folder of the journal")
        return made

    verifying = command("verify", "replay the journal without weights and compare everything, event by event")
    verifying.add_argument("--file", type=Path, metavar="FILE", help="another journal file: a rotated or archived one")
    verifying.add_argument(
        "--against", metavar="FILE|ROW:HEAD", help="compare with heads that were published: a log, a day's report"
    )
    verifying.add_argument(
        "--public-key", type=Path, metavar="FILE", help="with --against FILE: refuse a head that this key did not sign"
    )
    command("rotate", "go on in a new file from the newest state; what was goes to the folder rotated (stopped desk)")
    watch.add_to(commands)
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
    for part in (report_command, shadow_command, drift_command, heads_command, models_command, ctl_control, remote):
        part.add_to(commands)
    return line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `rltraderctl`; returns 0, 1 when verify found a difference, 2 when something was asked that cannot be."""
    options = parser().parse_args(arguments)
    try:
        if getattr(options, "state_dir", None) is not None and options.command != "panic":  # which nothing may refuse
            enter(options.state_dir)
        code = COMMANDS[options.command](options, _console())
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ConfigError, ControlError, JournalError, StateDirError, WriteFailed, NotFound) as error:
        problem: Exception = error
    except OSError as error:  # a folder that this user may not enter
        problem = error
    except (sqlite3.DatabaseError, UnicodeError) as error:  # a page that nothing had to read before
        problem = unreadable(Path(getattr(options, "file", None) or getattr(options, "state_dir", None) or FILE), error)
    else:
        return code
    sys.stderr.write(f"rltraderctl: {problem}\n")
    return EXIT_CODE


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) not in range(1, 2**63):
        raise argparse.ArgumentTypeError(f"{text!r} is no count; expected 1 or more")
    return int(text)


def _console() -> Console:
    """Standard output: as wide as the terminal, wide enough for whole rows where there is none."""
    console = Console(highlight=False, markup=False)  # what the journal holds is shown as it is, brackets too
    return console if console.is_terminal else Console(highlight=False, markup=False, width=200)


def _verify(options: argparse.Namespace, console: Console) -> int:
    path = options.file or options.state_dir / FILE
    if options.public_key is not None:
        if options.against is None:
            raise NotFound("--public-key without --against: name the file of signed heads too")
        check_signed(options.against, options.public_key)
    total = JournalReader(path).query("SELECT count(*) AS n FROM events")[0]["n"]
    screen = Console(stderr=True)
    with Progress(console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("verify", total=total)
        report = verify(path, code_digest(), strategy_named, lambda done: bar.update(task, completed=done))
    if report.before:
        console.print(f"rows up to {report.before:,} are in the file before this one (folder rotated): verify that too")
    for code, rows in report.other_code.items():
        by = "other code" if code != code_digest() else "this code before its first snapshot"
        console.print(f"{rows:,} rows were written by {by} ({code}): their hashes were checked, not stepped again")
    for versions, rows in report.other_libraries.items():
        console.print(
            f"{rows:,} rows were written with other libraries ({versions}; here {libraries()}) and come to something "
            f"else with these: their hashes were checked; verify them with those versions",
        )
    if report.difference:
        console.print(f"DIFFERENT: {report.difference}")
        return DIFFERENT
    newest = options.file is None
    if options.against is not None and not _against(path, options.against, console, newest=newest):
        return DIFFERENT
    if newest:
        for old, new in pairwise(parts_of(path)):
            check_follows(old, new)
    word = "identical" if not (report.other_code or report.other_libraries or report.before) else "no difference found"
    console.print(
        f"{word}: {report.events:,} events, {report.stepped:,} stepped again, {report.digests:,} state digests, "
        f"{report.snapshots} snapshots, {report.read_model_rows:,} read-model rows",
    )
    return 0


def _against(path: Path, published: str, console: Console, *, newest: bool) -> bool:
    """Compare with published heads; False where one differs."""
    found = compare(path, published, newest=newest)
    if found.difference:
        console.print(f"DIFFERENT: {found.difference}")
        return False
    more = f", {found.elsewhere} are of other files of this journal: verify those too" if found.elsewhere else ""
    console.print(f"published heads: {found.agree} agree{more}")
    return True


def _rotate(options: argparse.Namespace, console: Console) -> int:
    from daemon.app.offline import rotate_offline

    try:
        made = rotate_offline(options.state_dir)
    except OSError as error:
        raise StateDirError(f"{options.state_dir}: cannot be rotated: {error}; the journal is as it was") from error
    console.print(f"rotated at event row {made.row:,}, chain head {made.head}")
    console.print(f"what was, {made.before >> 20} MiB: {made.old}; the journal has {made.after >> 20} MiB")
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
    rows = _matching(options, " AND ".join(where), values)
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


def _matching(options: argparse.Namespace, where: str, values: list[Any]) -> list[sqlite3.Row]:
    """The events asked for, oldest first, out of all files of the journal that are still there."""
    forward = options.after is not None
    parts, found = parts_of(options.state_dir / FILE), dict[int, sqlite3.Row]()
    for path in parts if forward else reversed(parts):
        with closing(JournalReader(path)) as reader:
            if forward and path == parts[0] and (before := base_of(reader.meta())) and options.after < before.seq:
                sys.stderr.write(f"rltraderctl: {path}: it begins after event {before.seq:,}{where_before(reader)}\n")
            rows = reader.query(
                f"SELECT id, seq, time_ns, kind, payload, effects FROM events WHERE {where} "
                f"ORDER BY id {'ASC' if forward else 'DESC'} LIMIT ?",
                (*values, options.limit),
            )
        found |= {row["id"]: row for row in rows}  # a file begins with the row that the one before ends with
        if len(found) >= options.limit:
            break
    ids = sorted(found)
    return [found[row] for row in (ids[: options.limit] if forward else ids[-options.limit :])]


def _reader(options: argparse.Namespace) -> JournalReader:
    return JournalReader(options.state_dir / FILE)


def _short(payload: dict[str, Any]) -> str:
    """A payload on one line; names are long and last, so that figures are seen."""
    shown = {key: value for key, value in payload.items() if key not in NAMES}
    text = msgspec.json.encode(shown | {key: payload[key] for key in NAMES if key in payload}).decode()
    return text if len(text) <= 120 else text[:117] + "..."


COMMANDS: dict[str, Callable[[argparse.Namespace, Console], int]] = {
    "verify": _verify,
    "rotate": _rotate,
    "status": watch.run,
    "events": _events,
    "decisions": lambda options, console: decisions(_reader(options), options, console),
    "report": report_command.run,
    "shadow": shadow_command.run,
    "drift": drift_command.run,
    "heads": heads_command.run,
    "models": models_command.run,
    **dict.fromkeys(ctl_control.COMMANDS, ctl_control.run),
    "remote": remote.run,
    "panic": ctl_control.panic,
}


if __name__ == "__main__":
    sys.exit(main())
