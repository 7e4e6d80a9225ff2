"""`rltrader runs tag` and `rltrader runs delete`: the two commands that change a run's folder.

A deletion removes only files that runs write; one foreign file refuses the whole of it. The folder is held by its
descriptor and by the run's own lock from the check to the end, so that no process begins in it and no other folder
replaces it. Links are never followed, and never removed.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from daemon.engine.state_dir import LOCK_FILE, REPORTS, enter
from daemon.host.own_files import open_own, open_own_folder
from daemon.host.printable import printable
from daemon.host.whole_files import sync
from daemon.journal.journal import FILE
from daemon.journal.reader import ROTATED, ROTATING, JournalReader, reading
from daemon.journal.writer import BALLAST_FILE
from daemon.library.dry_run import MODES, meta_of
from daemon.library.library import LibraryError, chosen_run, kind_file, library_of
from daemon.library.listed import DRY_RUN, UNREADABLE
from daemon.library.run_files import RUN_FILE, TAG, TAGS_FILE, TAGS_MOST, TRAINING_LOCK, read_tags, write_tags
from daemon.reports.archive import ARCHIVE

YES = ("y", "yes")
_JOURNAL = rf"{re.escape(FILE)}(-wal|-shm|-journal)?"
_ROTATING = re.escape(str(Path(FILE).with_suffix(ROTATING)))
OF_DRY_RUN = re.compile(
    rf"{_JOURNAL}|{_ROTATING}(-wal|-shm|-journal)?|{LOCK_FILE}|{BALLAST_FILE}|{re.escape(TAGS_FILE)}|feed|\.[^/]+\.part"
    rf"|{REPORTS}/(\d{{4}}-\d\d-\d\d\.(html|json|csv|part))?|({ROTATED}|{ARCHIVE})/([0-9-]+\.(sqlite|part))?"
)
"""Paths of all files that a dry run writes, relative to the state directory; a folder ends with a slash."""
_RESULTS = "study|report|search|ablation|coefficients|progress|sweep|trials"
_TENSORBOARD = r"tensorboard/(events\.out\.tfevents\.[^/]+)?"
_OF_TRIAL = rf"checkpoint\.pt|best\.pt|trial\.json|metrics\.jsonl|\.lock|\.[^/]+\.part|{_TENSORBOARD}"
OF_TRAINING = re.compile(
    rf"{re.escape(RUN_FILE)}|{re.escape(TRAINING_LOCK)}|{re.escape(TAGS_FILE)}|({_RESULTS})\.json|(report|sweep)\.html"
    rf"|cells\.jsonl|study\.log(\.lock)?|lock|\.[^/]+\.part|trials/([^/]+/({_OF_TRIAL})?)?"
)
"""Paths of all files that a training, a search, an ablation or a sweep writes."""


def add_tag(command: argparse.ArgumentParser) -> None:
    """Add the options of `tag`."""
    command.add_argument("id", metavar="ID")
    command.add_argument("tags", nargs="+", metavar="TAG", help="a to z, digits, . _ -, at most 40 characters")
    command.add_argument("--remove", action="store_true", help="take these tags away")


def tag(options: argparse.Namespace, console: Console) -> int:
    """Tag a run. Returns 0. Raises LibraryError, ValueError, OSError."""
    run = chosen_run(library_of(options.places), options.id)
    if run.state == UNREADABLE:
        raise LibraryError(f"{run.id} cannot be read: {run.problem}")
    wrong = [name for name in options.tags if TAG.fullmatch(name) is None]
    if wrong:
        raise LibraryError(f"tag {wrong[0]!r}: expected a to z, digits, . _ -, at most 40 characters")
    folder = Path(run.folder)
    enter(folder)
    former_tags = set(read_tags(folder))
    tags = former_tags - set(options.tags) if options.remove else former_tags | set(options.tags)
    if len(tags) > TAGS_MOST:
        raise LibraryError(f"{run.id} would have {len(tags)} tags: expected at most {TAGS_MOST}")
    write_tags(folder, tuple(sorted(tags)))
    console.print(f"{printable(run.id)}: {' '.join(sorted(tags)) or 'no tags'}")
    return 0


def add_delete(command: argparse.ArgumentParser) -> None:
    """Add the options of `delete`."""
    command.add_argument("ids", nargs="+", metavar="ID", help="one run or several; each is asked for by itself")
    command.add_argument("--yes", action="store_true", help="do not ask")


def delete(options: argparse.Namespace, console: Console) -> int:
    """Delete runs, each after a question; returns 0, or 1 if one was kept. Raises as `removal`."""
    library = library_of(options.places)
    runs = [chosen_run(library, name) for name in options.ids]
    unreadable = next((run for run in runs if run.state == UNREADABLE), None)
    if unreadable is not None:
        raise LibraryError(f"{unreadable.id} cannot be read ({unreadable.problem}): look at it, and remove it by hand")
    if not options.yes and not sys.stdin.isatty():
        raise LibraryError("delete asks before it deletes, and there is no terminal: give --yes")
    kept = False
    for run in runs:
        folder = Path(run.folder)
        enter(folder)
        with removal(folder, run.kind) as run_files:
            files = sum(not is_folder for _, is_folder in run_files.entries)
            console.print(
                f"{printable(run.id)}: {run.kind} of {run.strategy}, {printable(run.data)}\n"
                f"{printable(run.folder)}: {files} files, {run_files.size / 2**20:,.1f} MiB"
            )
            if not options.yes and not _confirmed():
                console.print("kept")
                kept = True
                continue
            run_files.carry_out()
        console.print("deleted")
    return int(kept)


def _confirmed() -> bool:
    sys.stdout.write("Delete it for good? [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in YES


@dataclass(frozen=True, slots=True)
class Removal:
    """A locked folder of a run: the entries to remove, children before their folders, and their total bytes."""

    folder: Path
    descriptor: int
    entries: tuple[tuple[str, bool], ...]  # path within, and whether it is a folder
    size: int
    last: tuple[str, str]  # the file that marks the folder as a run's, and its lock: removed last

    def carry_out(self) -> None:
        """Remove all entries, then the folder if nothing new is in it. Raises LibraryError, OSError."""
        later = dict.fromkeys(self.last)
        for path, is_folder in self.entries:
            if path not in later:
                _remove(self.descriptor, path, is_folder=is_folder)
        paths = {path for path, _ in self.entries}
        for path in later:  # so that a removal that was killed can be repeated
            if path in paths:
                os.unlink(path, dir_fd=self.descriptor)
        remains = os.listdir(self.descriptor)  # noqa: PTH208  by its descriptor, not by a name
        if remains:
            raise LibraryError(
                f"{self.folder}: the run is deleted; {remains[0]} came into the folder meanwhile and stays"
            )
        self.folder.rmdir()
        sync(self.folder.parent)


@contextmanager
def removal(folder: Path, kind: str) -> Iterator[Removal]:
    """Lock a run's folder and yield its removal; until then only the lock's file may change.

    Raises:
        LibraryError: the run is running, belongs to a desk, holds foreign files, or its folder was replaced.
        OSError, JournalError: it cannot be read, or belongs to another user.
    """
    dry = kind == DRY_RUN
    identity, lock = (FILE, LOCK_FILE) if dry else (kind_file(folder), TRAINING_LOCK)
    name_pattern = OF_DRY_RUN if dry else OF_TRAINING
    with ExitStack() as stack:
        descriptor = open_own_folder(folder)
        stack.callback(os.close, descriptor)
        if Path(f"/proc/self/fd/{descriptor}").readlink() != folder:
            raise LibraryError(f"{folder} is reached by a link: name the folder itself")
        if dry:
            _check_mode(folder)
        elif not stat.S_ISREG(os.stat(identity, dir_fd=descriptor, follow_symlinks=False).st_mode):
            raise LibraryError(f"{folder / identity} is no plain file: remove the folder by hand")
        _entries(folder, descriptor, name_pattern)  # a folder that this refuses gets no lock's file either
        stack.callback(os.close, _lock(folder, descriptor, lock))
        if dry:
            _check_mode(folder)  # again, now that no process can change it
        entries, size = _entries(folder, descriptor, name_pattern)
        yield Removal(folder, descriptor, tuple(entries), size, (identity, lock))


def _lock(folder: Path, descriptor: int, name: str) -> int:
    """Return the descriptor of the run's lock, held while it is open."""
    lock = open_own(descriptor, name, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise LibraryError(f"{folder}: a process runs there: end it first; nothing was deleted") from None
    return lock


def _check_mode(folder: Path) -> None:
    """Raise LibraryError for the journal of a live desk."""
    with closing(JournalReader(folder / FILE)) as reader, reading(folder / FILE):
        mode = meta_of(reader).get("mode", "")
    if mode not in MODES:
        raise LibraryError(f"{folder}: is the journal of a desk in mode {mode!r}, no dry run: nothing was deleted")


def _entries(folder: Path, descriptor: int, name_pattern: re.Pattern[str]) -> tuple[list[tuple[str, bool]], int]:
    """Return all entries of the folder, children first, and its size. Raises LibraryError for a foreign entry."""
    entries: list[tuple[str, bool]] = []
    size = 0
    for place, folders, files, inner in os.fwalk(
        ".", topdown=False, follow_symlinks=False, dir_fd=descriptor, onerror=_raise
    ):
        for name in (*files, *folders):
            path = os.path.normpath(f"{place}/{name}")
            info = os.stat(name, dir_fd=inner, follow_symlinks=False)
            is_folder = stat.S_ISDIR(info.st_mode)
            if (
                not (is_folder or stat.S_ISREG(info.st_mode))
                or name_pattern.fullmatch(f"{path}/" if is_folder else path) is None
            ):
                raise LibraryError(f"{folder}: {path} in it is no run's: move it away first; nothing was deleted")
            if is_folder and os.fstat(descriptor).st_dev != info.st_dev:
                raise LibraryError(f"{folder}: {path} in it is another file system: nothing was deleted")
            entries.append((path, is_folder))
            size += 0 if is_folder else info.st_size
    return entries, size


def _remove(descriptor: int, path: str, *, is_folder: bool) -> None:
    """Remove one entry of the folder; its parent must still be a folder and no link."""
    parent, name = os.path.split(path)
    inner = descriptor
    try:
        for part in filter(None, parent.split("/")):
            deeper = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=inner)
            if inner != descriptor:
                os.close(inner)
            inner = deeper
        (os.rmdir if is_folder else os.unlink)(name, dir_fd=inner)
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            raise LibraryError(f"{path}: a file came into it meanwhile: what is left stays; look at it") from None
        raise
    finally:
        if inner != descriptor:
            os.close(inner)


def _raise(error: OSError) -> None:
    raise error
