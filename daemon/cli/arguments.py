"""Shared parts of the `rltraderctl` commands: arguments, errors, tables, and the suggested next command."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from daemon.engine.desks_file import DESKS_HELP, desks_at
from daemon.host.printable import printable_lines
from daemon.host.version import in_this_shell
from daemon.host.whole_files import whole_text
from strategies.kit.quantity import to_json


class NotFound(Exception):
    """Nothing matches the request; the message names what was requested."""


def add_state_dir(command: argparse.ArgumentParser, *, desks: str = "") -> None:
    """Add `--state-dir`, the command's one state directory; with the help text `desks` also `--desks`."""
    text = "folder of the journal (default: paths.state_dir of ./config.toml and the environment)"
    group = command.add_mutually_exclusive_group()
    group.add_argument("--state-dir", type=Path, metavar="DIR", help=text)
    if desks:
        group.add_argument("--desks", type=Path, metavar="FILE|DIR", help=desks)
    add_own_strategy(command)


class _StateDirs(argparse.Action):
    """Store the first folder as `state_dir`, and all of them as `state_dirs`."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, _: str | None = None
    ) -> None:
        if values.resolve() in {path.resolve() for path in namespace.state_dirs}:
            parser.error(f"--state-dir {values} is given twice: a desk counts once")
        namespace.state_dirs = (*namespace.state_dirs, values)
        namespace.state_dir = namespace.state_dirs[0]


def add_state_dirs(command: argparse.ArgumentParser) -> None:
    """Add `--state-dir`, which may be repeated, or `--desks`: `state_dir` is the first, `state_dirs` has all."""
    text = "folder of a journal, may be repeated (default: paths.state_dir of ./config.toml and the environment)"
    group = command.add_mutually_exclusive_group()
    group.add_argument("--state-dir", type=Path, action=_StateDirs, metavar="DIR", help=text)
    group.add_argument("--desks", type=Path, metavar="FILE|DIR", help=DESKS_HELP)
    command.set_defaults(state_dirs=(), names=())
    add_own_strategy(command)


def take_desks(options: argparse.Namespace) -> None:
    """Store the desks of `--desks` in `state_dirs`, and their names in `names`. Raises StateDirError."""
    if getattr(options, "desks", None) is None or not hasattr(options, "state_dirs"):
        return
    desks = desks_at(options.desks)
    options.state_dirs = tuple(desk.state_dir for desk in desks)
    options.names = tuple(desk.name for desk in desks if desk.name)
    options.state_dir = options.state_dirs[0]


def a_date(text: str) -> str:
    """Read a date. Raises argparse.ArgumentTypeError."""
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no date; expected YYYY-MM-DD") from None


def check_span(since: str | None, until: str | None) -> None:
    """Raise NotFound if a span ends before it begins."""
    if since and until and since > until:
        raise NotFound(f"--from {since} is later than --to {until}: exchange them")


def write_file(path: Path, text: str, option: str, *, new_folder: bool) -> None:
    """Write a file whole or not at all. Raises NotFound with the option to use instead."""
    try:
        if new_folder:
            path.parent.mkdir(mode=0o750, exist_ok=True)
        whole_text(path, text)
    except OSError as error:
        raise NotFound(
            f"{path} cannot be written: {error.strerror or error}; name another place with {option} FILE"
        ) from error


def write_out(
    options: argparse.Namespace,
    console: Console,
    objects: Sequence[object],
    show: Callable[[], None],
    page: Callable[[], str],
) -> None:
    """Write the page of `--html`; then print one line of JSON per object with `--json`, or call `show` without it.

    Raises NotFound if the page cannot be written; then nothing is printed.
    """
    if options.html is not None:
        write_file(options.html, page(), "--html", new_folder=False)
    if options.json:
        for one in objects:
            sys.stdout.write(msgspec.json.encode(one, enc_hook=to_json).decode() + "\n")
        return
    show()
    if options.html is not None:
        console.print(f"page: {options.html}", soft_wrap=True, markup=False)


def add_own_strategy(command: argparse.ArgumentParser) -> None:
    """Add `--strategy`: the present path of the user's own strategy, if its file was moved."""
    text = "file of the desk's strategy of your own, if it was moved (default: the one that the journal remembers)"
    command.add_argument("--strategy", dest="own_strategy", metavar="FILE.py", help=text)


PLACES = ("state_dir", "models_dir", "strategy", "config", "desk", "key", "username")
"""Options that select a desk, store or route; the suggested next command repeats them."""


def remember_places(options: argparse.Namespace) -> None:
    """Store which of `PLACES` the command line has, before defaults replace the others."""
    options.places = {name: getattr(options, name) for name in PLACES if getattr(options, name, None) is not None}


def lead_on(
    options: argparse.Namespace, *words: str, about: tuple[str, ...] = ("state_dir",), program: str = "rltraderctl"
) -> None:
    """Set the suggested next command, which `rltraderctl` prints at the end, with the options in `about`."""
    places: dict[str, object] = getattr(options, "places", {})
    more = [part for name in about if name in places for part in (f"--{name.replace('_', '-')}", str(places[name]))]
    options.next_command = " ".join([in_this_shell(program), *map(_quote, words), *map(shlex.quote, more)])


def _quote(word: str) -> str:
    """Quote a word for the shell, except one in capitals, which is a placeholder."""
    return word if word.startswith("--") or word.isupper() else shlex.quote(word)


def add_own(text: str) -> None:
    """Register the strategy file of the option. Raises NotFound."""
    from strategies.registry import add

    try:
        add(text)
    except ValueError as error:
        raise NotFound(f"--strategy: {error}") from error


FOLD = 16  # columns of a terminal: least width of a folded cell, so that a sentence stays readable
WORD = 24  # longer words, such as paths, are broken


class JournalConsole(Console):
    """Standard output for texts from a journal: brackets stay as they are, control characters become escapes.

    As wide as the terminal, else wide enough for whole rows.
    """

    def __init__(self, wide: int) -> None:
        super().__init__(highlight=False, markup=False)
        if not self.is_terminal:
            self.width = wide

    def render_str(self, text: str, **options: Any) -> Text:
        """Return the text with control characters escaped."""
        return super().render_str(printable_lines(text), **options)

    def on_broken_pipe(self) -> None:
        """Raise BrokenPipeError for the command to handle; Rich would exit with code 1."""
        raise BrokenPipeError


def print_table(console: Console, table: Table, *least: str) -> None:
    """Print a table without cutting cells; a narrow terminal omits the columns of `least` that do not fit.

    They are omitted in this order, and a line below names them. Cells are text; a column with `no_wrap` is as wide as
    its longest cell.
    """
    names_dropped: list[str] = []
    while len(names_dropped) < len(least) and _width([_least(column) for column in table.columns]) > console.width:
        names_dropped.append(least[len(names_dropped)])
        table.columns = [column for column in table.columns if column.header != names_dropped[-1]]
    _share_out(table, console.width)
    console.print(table)
    if names_dropped:
        console.print(
            f"no room for: {', '.join(names_dropped)}; a wider terminal, or a file or pipe, has them", soft_wrap=True
        )


def _share_out(table: Table, width: int) -> None:
    """Give each column its least width, and share the rest, smallest demand first."""
    width_left = width - _width([_least(column) for column in table.columns])
    if width_left < 0:  # too narrow even so: cells are cut
        return
    groups = {
        index: max(map(cell_len, (str(column.header), *_lines(column)))) - _least(column)
        for index, column in enumerate(table.columns)
    }
    for column in table.columns:
        column.overflow = "fold"
    for index, more in sorted(groups.items(), key=lambda item: item[1]):
        table.columns[index].width = _least(table.columns[index]) + min(more, width_left)
        width_left -= min(more, width_left)


def _width(widths: list[int]) -> int:
    """Return the width of a table with columns of these widths, including borders and padding."""
    return sum(widths) + 3 * len(widths) + 1


def _least(column: Column) -> int:
    """Return a column's least width: its longest cell; if it wraps, half of that or `FOLD`, and its longest word."""
    lines = _lines(column)
    longest = max(map(cell_len, ("", *lines)))
    words = max(map(cell_len, ("", *str(column.header).split(), *(word for line in lines for word in line.split()))))
    return max(longest, words) if column.no_wrap else max(min((longest + 1) // 2, FOLD), min(words, WORD))


def _lines(column: Column) -> list[str]:
    cells = (cell.plain if isinstance(cell, Text) else str(cell) for cell in column.cells)
    return [line for cell in cells for line in cell.split("\n")]


def add_limit(command: argparse.ArgumentParser) -> None:
    """Add `--limit`: the most rows to print."""
    command.add_argument("--limit", type=count, default=20, metavar="N", help="at most N (default 20)")


def count(text: str) -> int:
    """Read a whole number above 0. Raises argparse.ArgumentTypeError."""
    if not text.isdecimal() or int(text) not in range(1, 2**63):
        raise argparse.ArgumentTypeError(f"{text!r} is no count; expected 1 or more")
    return int(text)
