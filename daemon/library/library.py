"""All runs of some folders: an index built at each look from the runs' files.

A moved run is found at its new place, a deleted one not at all; an unreadable one is listed with the reason. Links are
not followed: their targets may belong to others.
"""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import msgspec

from daemon.engine.state_dir import LOCK_FILE
from daemon.host.own_files import StateDirError
from daemon.host.printable import printable
from daemon.host.state_place import configured_state_dir
from daemon.journal.journal import FILE
from daemon.journal.rows import JournalError
from daemon.library import dry_run, grid_run, training_run
from daemon.library.listed import DRY_RUN, RUNNING, STUDY, TRAINING, UNREADABLE, Course, ListedRun
from daemon.library.run_files import GRID_FILES, PROGRESS_FILE, REPORT_FILE, RUN_FILE, STUDY_FILE, TAGS_FILE, read_tags

RUNS = Path("runs")


class Reader(NamedTuple):
    """Reads runs of one kind of file; both functions raise JournalError, ValueError, OSError."""

    kind: str  # shown for an unreadable run
    run: Callable[[Path, str], ListedRun | None]  # from the file and its name; None for a desk's
    parameters: Callable[[Path], dict[str, str]]  # all settings by dotted key


READERS = {
    RUN_FILE: Reader(TRAINING, training_run.read_training, training_run.read_parameters),
    FILE: Reader(DRY_RUN, dry_run.read_dry_run, dry_run.read_parameters),
    **dict.fromkeys(GRID_FILES, Reader(STUDY, grid_run.read_grid, grid_run.read_parameters)),
}
"""Readers by the file that identifies a run's folder; the first one found counts."""
WATCHED = (*READERS, f"{FILE}-wal", LOCK_FILE, STUDY_FILE, REPORT_FILE, PROGRESS_FILE, TAGS_FILE)
DEPTH = 3  # levels below a folder of runs
FOLDERS_MOST, RUNS_MOST = 20_000, 1000
PLACES_HELP = "a folder with runs, up to three levels deep; may be given repeatedly (./runs and paths.state_dir)"


class LibraryError(Exception):
    """There is no such run, or several of that name; the text names them."""


class Library(msgspec.Struct, frozen=True):
    """The runs, by folder, and remarks on the search: folders that could not be read, links, limits."""

    runs: tuple[ListedRun, ...]
    remarks: tuple[str, ...] = ()


def usual_places() -> list[Path]:
    """Return the folders searched without an option. Raises StateDirError."""
    return [RUNS, configured_state_dir()]


Looked = dict[Path, tuple[tuple[object, ...], ListedRun]]
"""Cache within one process: folder -> times and sizes of its files at the last look, and the run."""


def library_of(places: Sequence[Path], looks: Looked | None = None) -> Library:
    """Return all runs in and below these folders; one that does not exist has none.

    With `looks` a folder with unchanged files is not read again, unless its run was running.
    """
    remarks: list[str] = []
    kinds: dict[Path, str] = {}
    for place in places:
        for folder, kind in _folders(place, remarks):
            kinds.setdefault(folder.resolve(), kind)
    if len(kinds) > RUNS_MOST:
        remarks.append(
            f"{len(kinds):,} runs are there: the first {RUNS_MOST:,} by folder are listed; name fewer folders"
        )
    folders = sorted(kinds)[:RUNS_MOST]
    names = names_of(folders)
    looks = {} if looks is None else looks
    runs = [_run_of(folder, kinds[folder], name, looks) for folder, name in zip(folders, names, strict=True)]
    for old_folder in looks.keys() - set(folders):
        del looks[old_folder]
    return Library(tuple(run for run in runs if run is not None), tuple(remarks))


def _run_of(folder: Path, kind: str, name: str, looks: Looked) -> ListedRun | None:
    """Return the run from the cache if its files are unchanged, else read it again."""
    stamps = tuple(_stamp(folder / file) for file in WATCHED)
    stamps_before, run = looks.get(folder, ((), None))
    if run is None or stamps_before != stamps:
        run = _read(folder / kind, name)
        looks.pop(folder, None)
    if run is not None and run.state not in (RUNNING, UNREADABLE):
        looks[folder] = stamps, run
    return None if run is None else msgspec.structs.replace(run, id=name)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        info = path.lstat()
    except OSError:
        return None
    return info.st_mtime_ns, info.st_size, info.st_ino


def names_of(folders: Sequence[Path]) -> list[str]:
    """Return a name for each folder: as many of its last parts as distinguish it from all others."""
    often = Counter(folder.parts[-count:] for folder in folders for count in range(1, len(folder.parts) + 1))
    names = []
    for folder in folders:
        endings = (folder.parts[-count:] for count in range(1, len(folder.parts)))
        ending = next((ending for ending in endings if often[ending] == 1), folder.parts)
        names.append("/".join(ending).replace("//", "/"))
    return names


def chosen_run(library: Library, name: str, *, by_folder: bool = True) -> ListedRun:
    """Return the run of this name; `by_folder` also that of this folder, or its end. Raises LibraryError."""
    matches = [run for run in library.runs if name == run.id]
    if not matches and by_folder:
        ending = tuple(part for part in name.strip("/").split("/") if part)
        place, folder_matches = str(Path(name).resolve()), [run for run in library.runs if _ends(run, ending)]
        matches = [run for run in library.runs if place == run.folder] or folder_matches
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise LibraryError(
            f"{name} names {len(matches)} runs: {', '.join(run.folder for run in matches)}: name one by its folder"
        )
    near = get_close_matches(name, [run.id for run in library.runs], 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise LibraryError(f"no run is called {name!r}{hint}: `rltrader runs` lists all")


def _ends(run: ListedRun, ending: tuple[str, ...]) -> bool:
    return bool(ending) and Path(run.folder).parts[-len(ending) :] == ending


def look_again(run: ListedRun) -> ListedRun:
    """Return the run with its folder read again. Raises LibraryError if it is gone."""
    run_now = _read(_file_of(run), run.id)
    if run_now is None:
        raise _absence_error(run)
    return run_now


def kind_file(folder: Path) -> str:
    """Return the file that identifies a folder as a run's, "" if there is none."""
    return next((name for name in READERS if (folder / name).exists()), "")


def course(run: ListedRun) -> Course:
    """Return the run's equity and drawdown; empty if it has none.

    Raises LibraryError if it is gone, JournalError, ValueError, OSError.
    """
    if run.state == UNREADABLE or run.kind not in (DRY_RUN, TRAINING):
        return Course((), (), ())
    file = _file_of(run)
    return dry_run.read_course(file) if run.kind == DRY_RUN else training_run.read_course(file)


def parameters(run: ListedRun) -> dict[str, str]:
    """Return all settings of a run by dotted key. Raises as `course`."""
    if run.state == UNREADABLE:
        return {}
    file = _file_of(run)
    return READERS[file.name].parameters(file)


def _file_of(run: ListedRun) -> Path:
    """Return the file that identifies the run's folder. Raises LibraryError if it is gone."""
    folder = Path(run.folder)
    kind = kind_file(folder)
    if not kind:
        raise _absence_error(run)
    return folder / kind


def _absence_error(run: ListedRun) -> LibraryError:
    return LibraryError(f"{run.folder} holds this run no more")


def _folders(place: Path, remarks: list[str]) -> Iterator[tuple[Path, str]]:
    """Yield the folders of runs in and below a place, each with the file that identifies it."""
    waiting, folder_count = [(place, 0)], 0
    while waiting:
        folder, depth = waiting.pop()
        folder_count += 1
        if folder_count > FOLDERS_MOST:
            remarks.append(f"{place}: more than {FOLDERS_MOST:,} folders: the others are not looked at; name fewer")
            return
        try:
            with os.scandir(folder) as entries:
                inner = {entry.name: entry for entry in entries}
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            remarks.append(f"{printable(str(folder))}: cannot be read: {error.strerror}")
            continue
        kind = next((name for name in READERS if name in inner), "")
        if kind and not _is_text(folder):
            remarks.append(f"{printable(str(folder))}: its name is no text: rename it, and its run is listed")
        elif kind:
            yield folder, kind
        if kind in (RUN_FILE, *GRID_FILES) or depth == DEPTH:
            continue  # a training's trials are no runs of their own
        for name, entry in sorted(inner.items(), reverse=True):
            if entry.is_symlink():
                if entry.is_dir():
                    remarks.append(f"{printable(entry.path)}: is a link, which is not followed: name its folder")
            elif entry.is_dir(follow_symlinks=False) and not name.startswith("."):
                waiting.append((Path(entry.path), depth + 1))


def _is_text(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _read(file: Path, name: str) -> ListedRun | None:
    """Return the run of such a file, None for a desk's; an unreadable one has the reason."""
    folder, reader = file.parent, READERS[file.name]
    try:
        run = reader.run(file, name)
        msgspec.json.encode(run)  # what is no text is no run's
    except _TROUBLE as error:
        return ListedRun(id=name, kind=reader.kind, folder=str(folder), state=UNREADABLE, problem=_words(error))
    if run is None:
        return None
    try:
        return msgspec.structs.replace(run, tags=read_tags(folder))
    except (OSError, ValueError) as error:
        return msgspec.structs.replace(run, problem=_words(error))


_TROUBLE = (
    JournalError, StateDirError, sqlite3.Error, OSError, ValueError, LookupError, TypeError, ArithmeticError,
    RecursionError,
)  # fmt: skip


def _words(error: Exception) -> str:
    return printable(" ".join(str(error).split()) or type(error).__name__)
