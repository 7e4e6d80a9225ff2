"""What a run is asked for, and the folds and trials that follow from it. Pure.

Invariant: two runs with the same `identity` give the same weights (CPU).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from training.data import Data
from training.folds import expanding, single
from training.ppo import Coefficients
from training.study import Fold
from training.trial import Request

PROCESSES = 2


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run is asked for. All but `out`, `run_folder`, `processes` of many trials and the checkpoints' interval
    decides what comes out, and so belongs to the run's identity."""

    strategy: str
    bars: Path
    out: Path
    steps: int = 2_000_000  # of each trial
    seeds: tuple[int, ...] = (1,)
    rewards: tuple[str, ...] = ("potential",)  # the first is the headline's, the others are the ablation
    network: str = "mlp"
    precision: str = "float32"
    device: str = "cpu"
    feed: str = "sip"  # whose bars the file holds; the manifest says it
    folds: int = 1  # 1: 60/20/20
    train_sessions: int | None = None  # of the first fold
    validate_sessions: int = 10
    test_sessions: int = 20
    patience: int = 0
    coefficients: Coefficients = field(default_factory=Coefficients)
    processes: int = PROCESSES
    checkpoint_s: float = 300.0
    run_folder: Path | None = None
    restart: bool = False

    def identity(self, bars_sha256: str) -> dict[str, Any]:
        """What decides the result, as JSON."""
        kept = asdict(self)
        for name in ("out", "checkpoint_s", "run_folder", "restart", "processes"):
            del kept[name]
        trials = self.folds * len(self.seeds) * len(self.rewards)
        found = {
            **kept,
            "bars": self.bars.name,
            "bars_sha256": bars_sha256,
            "processes_a_trial": self.processes if trials == 1 else 1,
        }
        normal: dict[str, Any] = json.loads(json.dumps(found))
        return normal

    def command(self) -> str:
        """The command line that repeats the run, with the options that are not the defaults; files by their names."""
        default = Settings("", Path(), Path())
        options = {
            "steps": self.steps if self.steps != default.steps else None,
            "seed": self.seeds[0] if self.seeds[0] != default.seeds[0] else None,
            "seeds": len(self.seeds) if len(self.seeds) > 1 else None,
            "reward": self.rewards[0] if self.rewards[0] != default.rewards[0] else None,
            "ablation": "" if len(self.rewards) > 1 else None,
            "coefficients": "coefficients.json" if self.coefficients != default.coefficients else None,
        }
        for name in (
            "network", "precision", "device", "feed", "folds", "train_sessions", "validate_sessions", "test_sessions",
            "patience",
        ):  # fmt: skip
            value = getattr(self, name)
            options[name] = value if value != getattr(default, name) else None
        if len(self.seeds) * len(self.rewards) * self.folds == 1 and self.processes != PROCESSES:
            options["processes"] = self.processes
        given = " ".join(
            f"--{name.replace('_', '-')} {value}".rstrip() for name, value in options.items() if value is not None
        )
        return f"train-and-export --strategy {self.strategy} --bars {self.bars.name} --out onnx_models {given}".rstrip()


def folds_of(settings: Settings, data: Data) -> tuple[Fold, ...]:
    """The folds that were asked for. Raises HistoryError when the sessions do not suffice."""
    dates = tuple(data.days)
    if settings.folds == 1 and settings.train_sessions is None:
        return single(dates)
    return expanding(
        dates,
        settings.folds,
        train=settings.train_sessions,
        validate=settings.validate_sessions,
        test=settings.test_sessions,
    )


def requests_of(settings: Settings) -> list[Request]:
    """Every trial of the run: folds, rewards, seeds."""
    return [
        Request(
            fold, seed, reward, settings.network, settings.steps, settings.precision, settings.device,
            settings.patience, settings.coefficients,
        )
        for fold in range(settings.folds)
        for reward in settings.rewards
        for seed in settings.seeds
    ]  # fmt: skip
