"""The trainer's start: a cold start in an empty folder, else its checkpoint.

The folder holds the checkpoint, two replays on disk (the cold start's, which does not change, and that of experience),
and `cold.json` with the settings of all of them. A killed cold start begins anew, and ends in the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import isfinite
from pathlib import Path

import msgspec
import numpy as np
import torch

from daemon.core.limits import Trading
from daemon.host.whole_files import write_whole
from daemon.tapes.bars import origin_of
from strategies.kit.contract import Float32Array
from strategies.kit.manifest import Training
from strategies.online_dqn.model_config import ModelConfig
from training.desks.kind import Span
from training.desks.online.cold_start import REPLAY_FILE, cold_replay, cold_start, dates_apart, returns_apart
from training.desks.online.data import OnlineData, OnlineTaskData, load
from training.desks.online.export import PROBES, training_of
from training.desks.online.history import digest_of_files
from training.desks.online.network import COLD_PRESETS, network_of
from training.evidence.statistics import Series
from training.export.reference import Watched
from training.online.labels import HeadLabels
from training.online.trainer import CHECKPOINT, most_between
from training.rl.dqn.coefficients import DqnCoefficients
from training.rl.dqn.dqn import Dqn
from training.rl.dqn.networks import QNetwork
from training.rl.dqn.online import OnlineLearner
from training.rl.dqn.replay import DiskReplay
from training.rl.kernels import use_fast_float32
from training.rl.ppo import make_deterministic

COLD_FILE, REPLAY = "cold.json", "experience.replay"


class OtherFolder(ValueError):
    """The folder was made with other settings."""


class TrainerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of a trainer's folder, which never change."""

    symbols: tuple[str, ...]
    model_config: str  # SHA-256 of its canonical text
    preset: str
    seed: int
    replay_rows: int
    checkpoint_every: int
    reward: dict[str, float] | None = None  # weights of the reward's terms; None in a folder of an earlier release


class ColdRecord(msgspec.Struct, frozen=True):
    """The content of `cold.json`."""

    plan: TrainerSettings
    training: Training
    figures: dict[str, float]


class Apart:
    """The recorded bars, whose last sessions are held out. They are read on first use, maybe days after the start.

    `check` gets the digest of what was read, and raises for other bars than the cold start's; without one they may be
    any.
    """

    def __init__(
        self,
        bars: Sequence[Path],
        config: ModelConfig,
        trading: Trading,
        preset: str,
        check: Callable[[str], None] | None = None,
    ) -> None:
        self._bars, self._config, self._trading, self._preset = bars, config, trading, preset
        self._check = check
        self._data: OnlineData | None = None

    @property
    def data(self) -> OnlineData:
        """The bars made ready. Raises OtherFolder, and what `load` raises."""
        if self._data is None:
            data = load(self._bars, self._config, self._config.symbols, self._trading)
            if self._check is not None:
                self._check(data.bars.sha256)
            self._data = data
        return self._data

    def probes(self) -> Float32Array:
        """Return real observations on which an exported network must agree with this one."""
        return self.data.probes(tuple(self.data.days), PROBES, 0)

    def watched(self, network: QNetwork) -> Watched:
        """Return a network's observations and answers on the sessions of the cold start's training."""
        data = self.data
        apart = frozenset(dates_apart(data, COLD_PRESETS[self._preset]))
        dates = [date for date in data.days if date not in apart]
        return OnlineTaskData(data).watch(network, Span(dates, "", self._trading))

    def returns(self, network: QNetwork) -> Series:
        """Return the network's returns in the held-out sessions, as parts of the capital."""
        return np.array(returns_apart(network, self.data, COLD_PRESETS[self._preset]), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class ReadyLearner:
    """A learner, ready to load its checkpoint or to take experience."""

    learner: OnlineLearner
    network: QNetwork  # the learner's
    coefficients: DqnCoefficients
    replay: DiskReplay
    training: Training
    figures: dict[str, float]  # of the cold start
    apart: Apart
    fresh: bool  # True: the cold start was made by this call


def begin(
    folder: Path,
    bars: Sequence[Path],
    config: ModelConfig,
    trading: Trading,
    plan: TrainerSettings,
    *,
    feed: str,
    threads: int,
    report: Callable[[Mapping[str, float]], None],
) -> ReadyLearner:
    """Make the cold start in an empty folder, or open what is there.

    Args:
        trading: the rules of the market that plays the recorded bars.
        feed: of the recorded bars.
        report: gets the figures of every update of the cold start, and may raise to stop.

    Raises:
        OtherFolder: the folder was made with other settings or bars; the text names the first that differs.
        OSError: it cannot be read or written.
    """
    torch.set_num_threads(threads)
    make_deterministic()
    use_fast_float32()  # other matrix products give other weights
    preset, saved = COLD_PRESETS[plan.preset], _read_folder(folder, plan)
    c, fresh = preset.online, saved is None
    check = None if saved is None else partial(_refuse_other_bars, folder, saved.training, bars)
    apart = Apart(bars, config, trading, plan.preset, check)
    if check is not None:
        check(digest_of_files(bars))
    if saved is None:
        for name in (REPLAY_FILE, REPLAY):
            (folder / name).unlink(missing_ok=True)
        data = apart.data
        started = cold_start(data, preset=preset, seed=plan.seed, threads=threads, folder=folder, report=report)
        figures = {name: value for name, value in started.figures.items() if isfinite(value)}  # JSON has no others
        saved = ColdRecord(plan, training_of(data, started.dates, feed, origin_of(*bars)), figures)
        write_whole(folder / COLD_FILE, msgspec.json.format(msgspec.json.encode(saved), indent=1) + b"\n")
        network, cold = started.network, started.replay
    else:
        network = network_of(config, preset, plan.seed)
        with _opening():
            cold = cold_replay(network, preset, folder)
    lanes, heads = len(config.symbols), len(network.heads)
    spare = most_between(plan.checkpoint_every, HeadLabels(config), lanes)
    path, rows = folder / REPLAY, plan.replay_rows
    with _opening():
        replay = DiskReplay(path, rows, network.inputs, spare=spare, heads=heads, priority=c.priority)
    learner = OnlineLearner(Dqn(network, c), c, cold, fresh=replay, lanes=lanes, seed=plan.seed)
    return ReadyLearner(learner, network, c, replay, saved.training, saved.figures, apart, fresh)


def _refuse_other_bars(folder: Path, training: Training, bars: Sequence[Path], now: str) -> None:
    """Raise OtherFolder for bars other than the cold start's: their held-out sessions may have been trained on."""
    if now != training.file_sha256:
        names = ", ".join(map(str, bars))
        raise OtherFolder(
            f"{folder} was made with bars of SHA-256 {training.file_sha256} ({training.file}), --bars {names} has "
            f"{now}: give the former ones, or begin anew with another --own-dir"
        )


@contextmanager
def _opening() -> Iterator[None]:
    """Turn a replay's file of another size into OtherFolder."""
    try:
        yield
    except ValueError as error:
        raise OtherFolder(str(error)) from None


def made_in(folder: Path) -> ColdRecord:
    """Return what a folder was made with. Raises OtherFolder where that cannot be read."""
    try:
        return msgspec.json.decode((folder / COLD_FILE).read_bytes(), type=ColdRecord)
    except (FileNotFoundError, ValueError) as error:
        raise OtherFolder(
            f"{folder / COLD_FILE} cannot be read ({error}): restore it, or begin anew with an empty --own-dir"
        ) from None


def _read_folder(folder: Path, plan: TrainerSettings) -> ColdRecord | None:
    """Return what the folder was made with; None where its cold start is not whole."""
    if not (folder / CHECKPOINT).exists():
        return None
    saved = made_in(folder)
    for name in TrainerSettings.__struct_fields__:
        saved_value, value = getattr(saved.plan, name), getattr(plan, name)
        if saved_value != value and (saved_value is not None or name != "reward"):
            raise OtherFolder(
                f"{folder} was made with {name} = {saved_value!r}, now {value!r}: give the former value, or begin anew "
                "with another --own-dir"
            )
    for name in (REPLAY_FILE, REPLAY):
        if not (folder / name).exists():  # a new file would have zeros for that many transitions
            raise OtherFolder(
                f"{folder / name} is missing, and {CHECKPOINT} counts on its transitions: restore it, or begin anew "
                "with an empty --own-dir"
            )
    return saved
