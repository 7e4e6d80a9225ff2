"""Names of the files in a training's folder, its progress, and the tags of any run.

The training writes its progress, `rltrader runs tag` the tags; both are small files within the run's folder, so that
they move with it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeVar

import msgspec

from daemon.host.whole_files import write_whole

RUN_FILE = "run.json"  # a training's settings; it identifies the run's folder
STUDY_FILE = "study.json"
REPORT_FILE, REPORT_PAGE = "report.json", "report.html"
TRIALS_FOLDER, METRICS_FILE = "trials", "metrics.jsonl"  # a folder for each trial, with a line for each update
TRAINING_LOCK = ".lock"
PROGRESS_FILE = "progress.json"
TAGS_FILE = "tags.json"
GRID_FILES = SWEEP_FILE, RULE_FILE = "sweep.json", "trials.json"  # of a sweep; of a rule's sweep and search
BYTES_MOST = 2**29  # of a file of results

TAG = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")
TAGS_MOST = 20
SMALL_MOST = 2**16  # bytes of the files of progress and tags


T = TypeVar("T")


def read_whole(path: Path, kind: type[T]) -> T:
    """Return a JSON file of results as `kind`. Raises ValueError for one that is too large or damaged, OSError."""
    if path.stat().st_size > BYTES_MOST:
        raise ValueError(f"{path} is larger than {BYTES_MOST:,} bytes: expected a file of a training")
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from error


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Progress of a run: `done` of `total` pieces of a stage. Times are seconds since 1970 UTC."""

    stage: str = ""
    done: float = 0.0
    total: float = 0.0  # 0: unknown
    unit: str = ""
    began_s: float = 0.0  # of the newest start
    written_s: float = 0.0
    ended_s: float = 0.0  # 0: not ended yet
    process: int = 0
    version: str = ""  # exported at the end

    @property
    def share(self) -> float | None:
        """The part that is done, 0 to 1; None if unknown."""
        return min(self.done / self.total, 1.0) if self.total > 0 else None


def write_progress(folder: Path, progress: Progress) -> None:
    """Write a training's progress into its folder. Raises OSError."""
    write_whole(folder / PROGRESS_FILE, msgspec.json.encode(progress) + b"\n")


def read_progress(folder: Path) -> Progress | None:
    """Return a training's progress, None if there is none or it is unreadable."""
    try:
        return msgspec.json.decode(_small(folder / PROGRESS_FILE), type=Progress)
    except (OSError, ValueError, msgspec.DecodeError):
        return None


def write_tags(folder: Path, tags: tuple[str, ...]) -> None:
    """Write a run's tags into its folder; without tags the file is deleted. Raises OSError."""
    if tags:
        write_whole(folder / TAGS_FILE, msgspec.json.encode(sorted(tags)) + b"\n")
    else:
        (folder / TAGS_FILE).unlink(missing_ok=True)


def read_tags(folder: Path) -> tuple[str, ...]:
    """Return a run's tags, () without any. Raises ValueError for a file that holds no tags, OSError."""
    try:
        tags = msgspec.json.decode(_small(folder / TAGS_FILE), type=tuple[str, ...])
    except FileNotFoundError:
        return ()
    except (ValueError, msgspec.DecodeError) as error:
        raise ValueError(f"{TAGS_FILE} is damaged ({error}): remove it, and tag the run again") from error
    if len(tags) > TAGS_MOST or any(TAG.fullmatch(tag) is None for tag in tags):
        raise ValueError(f"{TAGS_FILE} holds no tags: remove it, and tag the run again")
    return tags


def _small(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(SMALL_MOST + 1)
    if len(data) > SMALL_MOST:
        raise ValueError(f"{path} is larger than {SMALL_MOST:,} bytes")
    return data
