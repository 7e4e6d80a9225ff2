"""The folder of a run: settings, checkpoints, results. Each file appears whole or not at all.

run.json            settings, digest of the bars, versions; the same command finds its folder again by it
trials/<name>/      checkpoint.pt (goes on from here), best.pt (weights chosen so far), metrics.jsonl,
                    trial.json (there when the trial is done), tensorboard/
study.json, report.html, report.json
.lock               held by the process whose run it is
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import json
import platform
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import torch

from daemon.host.whole_files import write_whole
from daemon.library.run_files import (
    METRICS_FILE,
    PROGRESS_FILE,
    REPORT_FILE,
    REPORT_PAGE,
    RUN_FILE,
    STUDY_FILE,
    TAGS_FILE,
    TRAINING_LOCK,
    TRIALS_FOLDER,
)
from strategies.kit.own.load import OwnStrategy, changed_since_import, sources_of
from strategies.registry import STRATEGIES, entry, own
from training.desks.registry import kind
from training.export.weights import packed, unpacked
from training.sinks.sink import MetricsFile, TrialSinks
from training.study.study import Trial

RUNS = Path("runs")
"""The default parent folder of runs and studies."""
MADE_WITH = "made_with"
CHANGED = "{file} was changed, or a file that it imports, after the command began: give the same command again"
CHECKPOINT_FILE, BEST_FILE, TRIAL_FILE = "checkpoint.pt", "best.pt", "trial.json"
OURS = frozenset(
    {RUN_FILE, STUDY_FILE, TRIALS_FOLDER, TRAINING_LOCK, REPORT_PAGE, REPORT_FILE, PROGRESS_FILE, TAGS_FILE}
    | {"search.json", "study.log", "study.log.lock", "lock", "coefficients.json"}
)
"""All files that a run or a search writes into its folder; `--restart` removes only these."""


class RunFolderError(ValueError):
    """The folder belongs to another run, or a file in it is damaged; the text names the difference and the cure."""


def code_version(strategy: str = "") -> str:
    """Twelve digits of a digest over the code that a trial depends on: all of ours that `training.runs.tasks` imports.

    Code that only reads finished trials (report, promotion, commands) is left out, so a change there invalidates no
    trial. Code that trains only other strategies is left out, too; without a name all is included. Raises `ValueError`
    for an unknown name, and for a file of one's own that was changed since it was imported.
    """
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    if strategy:
        kind(strategy)
    names = [strategy] if strategy else list(STRATEGIES)
    shipped = [name for name in names if name in STRATEGIES]
    modules = ("training.runs.tasks", *(STRATEGIES[name] for name in shipped), *(_module(name) for name in shipped))
    for path in sorted(_imported_files(root, {path for module in modules for path in _files_of(root, module)})):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    own_strategy = own(strategy) if strategy else None
    for path in _of_own(own_strategy) if own_strategy is not None else ():
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def check_same_code(strategy: str, version: str) -> None:
    """Raise RunFolderError where a strategy of one's own has other files now than in the process of this version."""
    own_strategy = own(strategy)
    if own_strategy is not None and code_version(strategy) != version:
        raise RunFolderError(CHANGED.format(file=own_strategy.file))


def _of_own(own_strategy: OwnStrategy) -> tuple[Path, ...]:
    """The files that a strategy of one's own is trained by. Raises RunFolderError where they are not what runs."""
    module = own_strategy.entry.training.partition(":")[0].replace(".", "/")
    start = [path for path in (own_strategy.file, own_strategy.root / f"{module}.py") if path.is_file()]
    for path in filter(changed_since_import, start):
        raise RunFolderError(CHANGED.format(file=path))
    return sources_of(start, own_strategy.root)


def _module(strategy: str) -> str:
    """The module that the strategy is trained by."""
    return entry(strategy).training.partition(":")[0]


def _imported_files(root: Path, start: AbstractSet[Path]) -> set[Path]:
    """`start` and the files under `root` that they import, and those that these import."""
    files, open_, searched = set(start), list(start), set[str]()
    while open_:
        names = set(_imports_of(open_.pop().read_bytes())) - searched
        searched |= names
        for name in names:
            new = _files_of(root, name) - files
            files |= new
            open_ += new
    return files


def _files_of(root: Path, module: str) -> set[Path]:
    """The file of a module, or of a package; none where it is not under `root`."""
    stem = root / module.replace(".", "/")
    return {path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.exists()}


_IMPORT = re.compile(rb"(?m)^[ \t]*((?:from[ \t]+[\w.]+[ \t]+import|import[ \t]+[\w.]+)[^\n(]*(?:\([^)]*\))?)")
"""An import as a formatted source has it: a line, or to the end of its bracket. A docstring may show one, too."""


@cache
def _imports_of(source: bytes) -> tuple[str, ...]:
    """The names that a module's source imports. Its imports alone are parsed, which takes a fiftieth of the time."""
    try:
        tree = ast.parse(b"\n".join(_IMPORT.findall(source)))
    except SyntaxError:  # one has a bracket within its bracket, or is prose
        tree = ast.parse(source)
    names: dict[str, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names |= dict.fromkeys([f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)])
        elif isinstance(node, ast.Import):
            names |= dict.fromkeys(alias.name for alias in node.names)
    return tuple(names)


def machine(device: str, processes: int) -> dict[str, str]:
    """Facts besides code and data on which the numbers may depend."""
    return {
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": device if device == "cpu" else torch.cuda.get_device_name(device),
        "processes": str(processes),
    }


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Make the folder and hold its lock.

    Raises:
        RunFolderError: another process is at work in it, or it is no run's folder.
    """
    _refuse_foreign(folder)
    folder.mkdir(parents=True, exist_ok=True)
    busy = f"another process is at work in {folder}: wait until it has ended, or use another --run-dir"
    with alone(folder / TRAINING_LOCK, busy):
        yield


@contextmanager
def alone(path: Path, busy: str = "") -> Iterator[None]:
    """Hold the lock file `path`. With `busy` "" it waits for another holder, else it raises RunFolderError(`busy`)."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError as error:
            raise RunFolderError(busy) from error
        yield


def open_run(folder: Path, identity: Mapping[str, Any], made_with: Mapping[str, str], *, restart: bool = False) -> None:
    """Make the folder, or go on in it when it was made for the same `identity` (JSON).

    `made_with` (versions, device) is kept with it as of the first start; another machine may go on.

    Raises:
        RunFolderError: it belongs to another run, or `restart` would remove what no run has written.
    """
    _refuse_foreign(folder)
    if restart:
        _clear(folder)
    settings = json.loads(json.dumps(identity))
    path = folder / RUN_FILE
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps({**settings, MADE_WITH: dict(made_with)}, indent=1).encode() + b"\n")
        return
    try:
        saved = json.loads(path.read_bytes())
        saved.pop(MADE_WITH, None)
        different = sorted(key for key in {*settings, *saved} if settings.get(key) != saved.get(key))
    except (ValueError, TypeError, AttributeError) as error:
        raise RunFolderError(f"{path} is damaged ({error}): use another --run-dir, or --restart") from error
    if different:
        key = different[0]
        raise RunFolderError(
            f"{folder} belongs to a run with {key} = {saved.get(key)!r}, this one has {settings.get(key)!r}: use "
            "another --run-dir, or --restart to throw the old run away"
        )


def _refuse_foreign(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file: choose an empty folder with --run-dir")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    names -= {path.name for path in folder.glob(f".{RUN_FILE}.*.part")}  # of a run that was killed at its first write
    if RUN_FILE not in names and names - {TRAINING_LOCK}:
        raise RunFolderError(f"{folder} holds files but no {RUN_FILE}: choose an empty folder with --run-dir")


def _clear(folder: Path) -> None:
    """Remove the files of runs and searches except the lock; if there is any other file, remove nothing."""
    entries = {path.name: path for path in folder.iterdir()} if folder.exists() else {}
    for name in sorted(entries):
        if name not in OURS and not name.endswith(".part"):
            raise RunFolderError(
                f"--restart would throw {folder} away, but {name} in it is no run's: move it, or use another --run-dir"
            )
    entries.pop(TRAINING_LOCK, None)
    for name in sorted(entries, key=lambda name: name == RUN_FILE):  # last, so that a killed restart can be repeated
        if entries[name].is_dir() and not entries[name].is_symlink():
            shutil.rmtree(entries[name])
        else:
            entries[name].unlink()


class _Finished(msgspec.Struct, frozen=True):
    """The content of trial.json."""

    identity: str
    trial: Trial


class TrialFolder:
    """The files of one trial. A checkpoint or result is used only if it was made with the same `identity`."""

    def __init__(self, folder: Path, identity: str) -> None:
        self.path = folder
        self.feed: Callable[[int], TrialSinks] | None = (
            None  # opens the sinks of a trial that has already done this number of updates
        )
        self._identity = identity
        folder.mkdir(parents=True, exist_ok=True)

    def finished(self) -> Trial | None:
        """The trial's result when it is done; None as well when it was made by other code or settings.

        Raises:
            RunFolderError: the file is damaged.
        """
        path = self.path / TRIAL_FILE
        if not path.exists() or not (self.path / BEST_FILE).exists():
            return None
        try:
            result = msgspec.json.decode(path.read_bytes(), type=_Finished)
        except msgspec.DecodeError as error:
            raise RunFolderError(f"{path} is damaged ({error}): remove it, and the trial begins anew") from error
        return result.trial if result.identity == self._identity else None

    def finish(self, trial: Trial) -> None:
        """Keep the result; the checkpoint is not needed any more."""
        result = _Finished(self._identity, trial)
        write_whole(self.path / TRIAL_FILE, msgspec.json.format(msgspec.json.encode(result), indent=0) + b"\n")
        (self.path / CHECKPOINT_FILE).unlink(missing_ok=True)

    def save(self, checkpoint: Mapping[str, Any]) -> None:
        """Replace the checkpoint: tensors and plain values only.

        Raises:
            OSError: it cannot be written; the one before it stays.
        """
        write_whole(self.path / CHECKPOINT_FILE, packed({"identity": self._identity, **checkpoint}))

    @property
    def outdated(self) -> bool:
        """Whether it holds work of other code or settings, so that the trial begins anew."""
        if self.finished() is not None:
            return False
        has_work = (self.path / TRIAL_FILE).exists() or (self.path / CHECKPOINT_FILE).exists()
        return has_work and self.checkpoint() is None

    def checkpoint(self) -> dict[str, Any] | None:
        """The checkpoint to go on from; None without one, or with one of other code or settings.

        Raises:
            RunFolderError: the file is damaged.
        """
        path = self.path / CHECKPOINT_FILE
        if not path.exists():
            return None
        checkpoint = _unpack(path)
        return checkpoint if checkpoint.pop("identity", None) == self._identity else None

    def save_weights(self, weights: Mapping[str, Any]) -> None:
        """Keep the chosen weights."""
        write_whole(self.path / BEST_FILE, packed(weights))

    def weights(self) -> dict[str, Any]:
        """The chosen weights."""
        return _unpack(self.path / BEST_FILE)

    @property
    def identity(self) -> str:
        """The digest of code and settings of its work."""
        return self._identity

    def metrics(self, keep: int) -> MetricsFile:
        """The metrics file after its first `keep` lines, with the trial's sinks."""
        return MetricsFile(self.path / METRICS_FILE, keep, self.feed(keep) if self.feed is not None else None)


def _unpack(path: Path) -> dict[str, Any]:
    try:
        return unpacked(path.read_bytes())
    except ValueError as error:
        raise RunFolderError(f"{path} is damaged: remove it, and the trial begins anew") from error
