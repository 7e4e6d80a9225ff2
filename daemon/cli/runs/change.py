"""`rltrader runs tag` and `rltrader runs delete`: the two commands that change a run's folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from daemon.cli.runs.removal import removal
from daemon.engine.state_dir import enter
from daemon.host.printable import printable
from daemon.library.library import LibraryError, chosen_run, library_of
from daemon.library.listed import UNREADABLE
from daemon.library.run_files import TAG, TAGS_MOST, read_tags, write_tags

YES = ("y", "yes")


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
