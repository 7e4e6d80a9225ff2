"""`desks.toml`: the desks of a host by name, each with its configuration file or its state directory.

Relative paths count from the file's folder. Every problem is a line that names key, value and cure.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import msgspec

from daemon.host.own_files import StateDirError
from daemon.host.state_place import STATE_DIR, WHOLE_PATH
from daemon.host.whole_files import read_problem, toml_problem
from daemon.journal.journal import FILE
from daemon.journal.reader import ROTATING

TABLE = "desk"
DESKS_HELP = "the desks of this desks.toml, or all that have a journal in this folder or one level below it"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")
_EXPECTED = {
    "name": 'a name such as "scalper-1": a to z, digits, . _ -, at most 40 characters',
    "config": 'the desk\'s configuration file, such as "scalper-1.toml"',
    "state_dir": 'the folder of the desk\'s journal, such as "/var/lib/rltrader/scalper-1"',
    "credentials": "a folder with the files APCA_API_KEY_ID and APCA_API_SECRET_KEY",
}


class DesksFileError(StateDirError):
    """The start file is wrong: one line for each problem, with key, value and cure."""


class NamedDesk(msgspec.Struct, frozen=True):
    """A desk of the file. Without `config` it can be shown, not started; without `credentials` it uses the environment.

    `name` "": the desk of a folder, named by its journal.
    """

    name: str
    state_dir: Path
    config: Path | None = None
    credentials: Path | None = None


class ReadableDesks(msgspec.Struct):
    """The desks read so far, and the problems so far."""

    desks: list[NamedDesk] = []
    problems: list[str] = []


def read_desks(path: Path) -> tuple[NamedDesk, ...]:
    """Return the desks of the file in its order.

    Left out, `config` is NAME.toml and `credentials` is credentials/NAME, where they exist. Raises DesksFileError:
    unreadable, an unknown key, a bad value, or two desks of one name or state directory.
    """
    tables = _tables(path)
    readable = ReadableDesks()
    for number, table in enumerate(tables, 1):
        _add(readable, path, number, table)
    if not readable.problems:
        readable.problems += [f"{path}: {problem}" for problem in shared_possessions(readable.desks, _possessions)]
    if readable.problems:
        raise DesksFileError("\n".join(readable.problems))
    return tuple(readable.desks)


def desks_at(place: Path) -> tuple[NamedDesk, ...]:
    """Return the desks of a start file; for a folder those with a journal in it or one level below, by path, unnamed.

    This is what every `--desks` option names. Raises StateDirError: unreadable, or no desk there.
    """
    if place.is_file():
        return read_desks(place)
    try:
        names = (FILE, str(Path(FILE).with_suffix(ROTATING)))
        folders = {path.parent for name in names for pattern in (name, f"*/{name}") for path in place.glob(pattern)}
    except OSError as error:
        raise StateDirError(
            f"{place}: cannot be read: {error.strerror}: run it as root or as the desks' user"
        ) from error
    if not folders:
        raise StateDirError(
            f"{place}: no desk has a journal here: name one with --state-dir, or their parent folder with --desks"
        )
    return tuple(NamedDesk("", path) for path in sorted(folders))


def _tables(path: Path) -> list[Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DesksFileError(f"{path}: {read_problem(error)}: check the path given with --desks") from error
    except tomllib.TOMLDecodeError as error:
        raise DesksFileError(f"{path}: {toml_problem(error)}") from error
    for key in content:
        if key != TABLE:
            raise DesksFileError(f"{path}: {key} is unknown: expected [[{TABLE}]] tables alone: correct or remove it")
    tables = content.get(TABLE)
    if not isinstance(tables, list) or not tables:
        raise DesksFileError(
            f"{path}: {TABLE} is {tables!r}: expected one table [[{TABLE}]] or more, each with a name: add them"
        )
    return tables


def _add(readable: ReadableDesks, path: Path, number: int, table: Any) -> None:
    """Add the table's desk, or its problems."""
    where = f"{path}: {TABLE}[{number}]"
    if not isinstance(table, dict):
        readable.problems.append(f"{where} is {table!r}: expected a table: write [[{TABLE}]]")
        return
    problems = list(_wrong(where, table))
    if "name" not in table:
        problems.append(f"{where}.name is missing: expected {_EXPECTED['name']}: add it")
    if problems:
        readable.problems += problems
        return
    name, folder = table["name"], path.parent
    config = folder / table.get("config", f"{name}.toml")
    keys = folder / table.get("credentials", f"credentials/{name}")
    if "config" in table and not _exists(config):
        readable.problems.append(
            f"{where}.config is {table['config']!r}: no such file: expected {_EXPECTED['config']}: correct it"
        )
        return
    if "credentials" in table and not _exists(keys):
        expected = _EXPECTED["credentials"]
        readable.problems.append(
            f"{where}.credentials is {table['credentials']!r}: no such folder: expected {expected}: correct it"
        )
        return
    config_file = config if _exists(config) else None
    if "state_dir" in table:
        state_dir = folder / table["state_dir"]
    elif config_file is not None:
        state_dir = folder / str(text_of(tables_of(config_file), "paths.state_dir") or STATE_DIR)
    else:
        readable.problems.append(
            f"{where} ({name!r}) has neither config nor state_dir, and there is no {config}: expected one of them: "
            "add it"
        )
        return
    readable.desks.append(NamedDesk(name, state_dir, config_file, keys if _exists(keys) else None))


def _wrong(where: str, table: Mapping[str, object]) -> Iterator[str]:
    for key, value in table.items():
        if key not in _EXPECTED:
            nearest = get_close_matches(key, list(_EXPECTED), n=1, cutoff=0.0)[0]
            yield f"{where}.{key} is unknown: did you mean {nearest}? Correct or remove it"
        elif not isinstance(value, str) or not value or (key == "name" and NAME.fullmatch(value) is None):
            yield f"{where}.{key} is {value!r}: expected {_EXPECTED[key]}: correct it"
        elif value.startswith("~"):
            yield f"{where}.{key} is {value!r}: expected {WHOLE_PATH}: correct it"


def shared_possessions(
    desks: Sequence[NamedDesk], possessions: Callable[[NamedDesk], Iterable[tuple[str, str, str]]]
) -> Iterator[str]:
    """Yield what two desks share of `possessions` that each desk must have alone: the thing, its key, the cure."""
    first_owners: dict[tuple[str, str], NamedDesk] = {}
    for desk in desks:
        for label, key, cure in possessions(desk):
            other = first_owners.setdefault((label, key), desk)
            if other is not desk:
                yield f"{desk.name!r} and {other.name!r} have one {label}: expected one for each: {cure}"


def _possessions(desk: NamedDesk) -> Iterator[tuple[str, str, str]]:
    yield f"name {desk.name!r}", "", "name one of them otherwise"
    yield f"state directory {desk.state_dir.resolve()}", "", "give one of them another state_dir"


def tables_of(path: Path) -> Mapping[str, Any]:
    """Return the tables of a desk's configuration, empty if unreadable: the daemon reports that."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return {}


def text_of(tables: Mapping[str, Any], key: str) -> str:
    """Return the text of a dotted key, "" where there is none."""
    section, _, word = key.partition(".")
    table = tables.get(section)
    value = table.get(word) if isinstance(table, dict) else None
    return value if isinstance(value, str) else ""


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a folder that this user may not enter
        return False
