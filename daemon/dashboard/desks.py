"""A desk in the dashboard: it follows the journal and publishes a frozen picture after each look.

Nothing is ever written. The journal is opened read-only for one look and closed again, so that a stopping daemon finds
it unused. The picture reports a journal that cannot be read or followed; other desks are not affected.
"""

from __future__ import annotations

import argparse
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from daemon.core.state import State
from daemon.dashboard.bar_history import BarHistory
from daemon.dashboard.newest import Lines, Newest, entered_of, newest_decision, newest_lines, raised_of, read_on
from daemon.engine.desks_file import DESKS_HELP, desks_at
from daemon.engine.follow import Follower
from daemon.engine.recover import code_digest
from daemon.engine.state_dir import process_of
from daemon.host.state_place import configured_state_dir
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.journal.rows import JournalError, strategy_of
from daemon.operator.fleet import Fleet, distinct, fleet_of, folder_names
from daemon.operator.status import DeskStatus, status_of, unreadable_desk
from strategies.kit.contract import Spec
from strategies.kit.quantity import Quantity
from strategies.registry import add

DESKS_MOST = 32
ROWS_AT_ONCE = 2000
LOOK_S = 1.0  # longest time of one look before it is published; the next one continues
_BUGS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError)
_TROUBLE = (JournalError, sqlite3.Error, OSError, ValueError, KeyError)


class Picture(msgspec.Struct, frozen=True):
    """Result of the last look. `state` None: the journal could not be followed yet."""

    desk: str
    meta: dict[str, str] = {}
    state: State[Any] | None = None
    problem: str = "not looked at yet"  # why the journal cannot be read or followed
    readable: bool = False  # the read models can be queried, followed or not
    caught_up: bool = False
    last_id: int = 0
    process: str = ""  # process id of the running daemon, "" for none
    read_at: float = 0.0
    look_ms: float = 0.0
    generation: int = 0
    decision: dict[str, Any] | None = None  # newest row of `decisions`, with its outcome for display as `shown`
    lines: Lines = ()  # the newest decision, and the newest one with orders
    newest: Newest = Newest()
    entered: dict[str, Quantity] = {}  # quantity entered in total in each open trade, by symbol

    @property
    def spec(self) -> Spec | None:
        """The strategy's spec, None for an unknown journal or an unknown strategy."""
        try:
            return strategy_of(self.meta).spec
        except (KeyError, ValueError):
            return None


class FollowedDesk:
    """One state directory. `look` is called by one thread at a time; `picture` may be read by any."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path
        self.file = path / FILE
        self.picture = Picture(name)
        self._follower = Follower(path)
        self.bars = BarHistory(self.file)
        self._looking = threading.Lock()

    @contextmanager
    def reader(self) -> Iterator[JournalReader]:
        """Yield a reader of the journal for one look. Raises JournalError, sqlite3.Error, OSError."""
        with closing(JournalReader(self.file)) as reader:
            yield reader

    def look(self) -> Picture:
        """Step over the journal's new rows and renew the picture. Never raises for a bad journal."""
        with self._looking:
            self.picture = self._look()
            return self.picture

    def _look(self) -> Picture:
        began = time.perf_counter()
        follower, former = self._follower, self.picture
        deadline = began + LOOK_S
        try:
            while follower.advance(ROWS_AT_ONCE) and not follower.caught_up and time.perf_counter() < deadline:
                pass
            problem = follower.problem
        except _BUGS as error:  # a bug in the step, or damage that looks like one: the other desks continue
            problem = f"cannot be followed beyond event row {follower.last_id}: {type(error).__name__}"
        caught_up = follower.caught_up
        follower.close()  # the journal is not kept open between two looks
        decision, newest, readable, error_text = None, Newest(), False, ""
        entry_quantities: dict[str, Quantity] = {}
        lines: Lines = ()
        same = follower.generation == former.generation
        try:
            with self.reader() as reader:
                meta = reader.meta()
                decision = newest_decision(reader, follower.state)
                lines = newest_lines(reader, follower.state, decision, former.lines if same else ())
                entry_quantities = entered_of(reader, follower.state)
                newest, readable = read_on(reader, former.newest if same else Newest()), True
        except _TROUBLE as error:
            meta, decision, newest = follower.meta, former.decision if same else None, former.newest
            lines = former.lines if same else ()
            error_text = str(error) if isinstance(error, JournalError) else f"{type(error).__name__}: {error}"
        return Picture(
            desk=self.name,
            meta=meta,
            state=follower.state,
            problem=problem or error_text,
            readable=readable,
            caught_up=caught_up,
            last_id=follower.last_id,
            process=process_of(self.path),
            read_at=time.time(),
            look_ms=(time.perf_counter() - began) * 1e3,
            generation=follower.generation,
            decision=decision,
            lines=lines,
            newest=newest,
            entered=entry_quantities,
        )


class OwnCode:
    """Digests of this process's code, by strategy, each computed once."""

    def __init__(self) -> None:
        self._digests: dict[str, str] = {}

    def digest(self, strategy: str) -> str:
        """Return the digest of this process's code for a strategy, "" if that cannot be imported."""
        if strategy not in self._digests:
            try:
                self._digests[strategy] = code_digest(strategy)
            except ValueError:
                return ""
        return self._digests[strategy]


def name_desks(paths: list[Path]) -> dict[str, FollowedDesk]:
    """Name the desks of these state directories by their journals; equal names get the strategy added.

    Desks with equal names even so, and folders without a journal, get their folder's name. Names are fixed here; a
    journal that appears later changes none.
    """
    names = distinct([_names(path) for path in paths])
    return {name: FollowedDesk(name, path) for name, path in zip(names, paths, strict=True)}


def _names(path: Path) -> tuple[str, ...]:
    """Return the desk's name, a longer one, and its folder's; the first two are "" without a readable journal."""
    try:
        with closing(JournalReader(path / FILE)) as reader:
            meta = reader.meta()
    except (JournalError, sqlite3.Error, OSError, ValueError, KeyError):
        meta = {}
    name = meta.get("desk", "")
    longer = f"{name} {meta.get('strategy', '').replace('_', ' ')}".strip()
    return name, longer, *folder_names(path)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for desks, models and the user's own strategies."""
    options_group = parser.add_mutually_exclusive_group()
    one = "a desk; may be given repeatedly (paths.state_dir of ./config.toml and the environment)"
    options_group.add_argument("--state-dir", type=Path, action="append", metavar="DIR", help=one)
    options_group.add_argument("--desks", type=Path, metavar="FILE|DIR", help=DESKS_HELP)
    parser.add_argument(
        "--models-dir", type=Path, default=Path("onnx_models"), metavar="DIR", help="the model store (%(default)s)"
    )
    help_text = "file of a strategy of your own, if the journals do not know where it is; may be given repeatedly"
    parser.add_argument("--strategy", action="append", default=[], metavar="FILE.py", help=help_text)


def chosen_desks(options: argparse.Namespace) -> dict[str, FollowedDesk]:
    """Return the desks of `add_options` by name, their strategies registered.

    Raises:
        ValueError: too many desks, a desk given twice, or a file without a strategy.
        StateDirError: no state directory is named anywhere, or one is unusable.
    """
    for place in options.strategy:
        add(place)
    place = options.desks
    if place is not None and place.is_file():
        desks = {desk.name: FollowedDesk(desk.name, desk.state_dir) for desk in desks_at(place)}
    elif place is not None:
        desks = name_desks([desk.state_dir for desk in desks_at(place)])
    else:
        state_dirs = options.state_dir or [configured_state_dir()]
        if len({state_dir.resolve() for state_dir in state_dirs}) < len(state_dirs):
            raise ValueError(f"--state-dir {', '.join(map(str, state_dirs))}: one is given twice: a desk counts once")
        desks = name_desks(state_dirs)
    if len(desks) > DESKS_MOST:
        raise ValueError(f"{len(desks)} desks, expected at most {DESKS_MOST}: name fewer by --state-dir")
    return desks


def fleet_page(pictures: Sequence[Picture], now_s: float) -> Fleet:
    """`GET /api/fleet`. `now_s` is this host's clock. Pure."""
    return fleet_of([(picture.desk, _status(picture)) for picture in pictures], now_s)


def _status(picture: Picture) -> DeskStatus:
    state = picture.state
    if state is None:
        return unreadable_desk("", picture.problem or "its journal is still being read")
    status = status_of(state, picture.desk)
    alarms, _ = raised_of(picture.newest, state, status.mode)
    return replace(
        status,
        process=picture.process,
        problem=picture.problem,
        alarms=sum(alarm.count for alarm in alarms),
        alarm=alarms[0].name if alarms else "",
    )
