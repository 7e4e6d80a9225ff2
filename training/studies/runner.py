"""Runs the cells of a study: its folder, processes or Ray, lines of the ledger, a result file.

Used by search, sweep and ablation. A stopped study is resumed by requesting it again; the study itself keeps finished
cells.
"""

from __future__ import annotations

import contextlib
import operator
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from daemon.host.whole_files import write_whole
from daemon.library.run_files import TRAINING_LOCK, Progress, write_progress
from training.rl.pool import Flag, Work, work_through
from training.rl.ray_cluster import connected
from training.rl.ray_pool import ClusterPool
from training.runs.folder import RunFolderError, alone, machine, open_run
from training.runs.ledger import LedgerLine, utc_now
from training.runs.settings import Settings

R = TypeVar("R")
T = TypeVar("T")
Listen = Callable[[Any], None]


def study_name(what: str, strategy: str, digest: str) -> str:
    """The name of a study in the ledger, and of its folder."""
    return f"{what}-{strategy}-{digest[:8]}"


@contextmanager
def locked(folder: Path, what: str, option: str) -> Iterator[None]:
    """Make the folder; no other process works in it while this lasts.

    Args:
        what: the study, for the error.
        option: the option with which the user can name another folder.

    Raises:
        RunFolderError: another process is at work in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder / TRAINING_LOCK, f"{folder} is in use by another {what}: wait for it, or use {option}"):
        yield


def opened(
    folder: Path, identity: Mapping[str, Any], run: Settings, version: str, option: str, *, restart: bool = False
) -> None:
    """Open the folder as `training.runs.folder.open_run` does; errors name `option`."""
    try:
        made_with = {"code": version, **machine(run.device, run.processes)}
        open_run(folder, identity, made_with, restart=restart)
    except RunFolderError as error:
        raise RunFolderError(str(error).replace("--run-dir", option)) from error
    began_s = time.time()
    write_progress(folder, Progress(began_s=began_s, written_s=began_s, process=os.getpid()))


@dataclass(frozen=True, slots=True)
class Cells(Generic[R, T]):
    """The work of a study: its function, how processes prepare for it, and the number of processes."""

    work: Work[T]  # of a cell
    ready: R  # in this process
    again: Callable[[], R]  # makes it in another one
    processes: int
    ray: str = ""  # "local", "auto", an address; "" is this machine's processes without Ray

    def through(self, cells: Sequence[Any], listen: Listen, stop: Flag) -> list[T]:
        """Do the cells; `listen` gets what they emit. Raises `Stopped`, and what the work raises."""
        if self.ray and cells:
            with contextlib.ExitStack() as stack:
                ray = stack.enter_context(connected(self.ray, self.processes))
                pool = ClusterPool(ray, "cpu", operator.call, self.again)
                return pool.work_through(self.work, cells, flag=stop, emit=listen)
        single = self.processes == 1 or len(cells) <= 1
        return work_through(
            self.work,
            cells,
            prepare=(lambda setup: setup) if single else operator.call,
            argument=self.ready if single else self.again,
            processes=self.processes,
            flag=stop,
            emit=listen,
        )


def trial_line(
    study: str, strategy: str, data_sha256: str, span: tuple[str, str], *, sharpe: float, digest: str, note: str
) -> LedgerLine:
    """A line of the ledger: a trial of a study on the sessions of `span`, both ends included."""
    return LedgerLine(
        kind="trial",
        utc=utc_now(),
        strategy=strategy,
        data_sha256=data_sha256,
        first=span[0],
        last=span[1],
        study=study,
        sharpe=sharpe,
        settings_sha256=digest,
        note=note,
    )


def write_result(path: Path, result: msgspec.Struct | Mapping[str, Any]) -> None:
    """Write a study's result, or fields by their names, as JSON: whole or not at all. Raises `OSError`."""
    write_whole(path, msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
