"""Training of the strategies' policies: environments, walk-forward studies, reports, export to ONNX.

What a researcher may import is in `__all__`, and is kept from release to release; all else may change. A name is
imported when it is first used: `import training` alone loads no torch.

>>> import training
>>> env = training.make_env("option_scalper")  # the market that our own PPO trains on, for any library
>>> observation, info = env.reset(seed=1)
>>> env.action_space.contains(env.action_space.sample())
True
>>> policy = training.load_policy("onnx_models", "option_scalper", "2024-12-04-ef2af89f")  # of a model store
>>> action, _ = policy.predict(observation)
>>> training.load_report(policy.version.folder).strategy
'option_scalper'
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daemon.tapes.files import TapeError
    from strategies.golden import golden_observations
    from training.desks.kind import TrainingKind
    from training.desks.own.environment import Outcome
    from training.desks.own.kind import own_kind
    from training.evidence.findings import Findings
    from training.evidence.overfitting import backtest_overfitting, deflated_sharpe
    from training.export.shelf import ExportError
    from training.kit.bars import Bars, add_strategy, bundled_bars, load_bars, strategy_names
    from training.kit.environments import folds, make_env, make_vec
    from training.kit.results import compare_runs, load_ledger, load_metrics, load_report, load_study
    from training.kit.training import train
    from training.kit.versions import (
        Evaluation,
        StoredPolicy,
        evaluate_version,
        export_policy,
        load_policy,
        load_version,
    )
    from training.rl.pool import Stopped
    from training.runs.folder import RunFolderError
    from training.runs.ledger import LedgerError
    from training.runs.settings import Settings
    from training.sinks.sink import Sink, Started
    from training.study.folds import HistoryError
    from training.study.study import Fold, Study

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before anything imports onnxruntime

__all__ = [
    "Bars",
    "Evaluation",
    "ExportError",
    "Findings",
    "Fold",
    "HistoryError",
    "LedgerError",
    "Outcome",
    "RunFolderError",
    "Settings",
    "Sink",
    "Started",
    "Stopped",
    "StoredPolicy",
    "Study",
    "TapeError",
    "TrainingKind",
    "add_strategy",
    "backtest_overfitting",
    "bundled_bars",
    "compare_runs",
    "deflated_sharpe",
    "evaluate_version",
    "export_policy",
    "folds",
    "golden_observations",
    "load_bars",
    "load_ledger",
    "load_metrics",
    "load_policy",
    "load_report",
    "load_study",
    "load_version",
    "make_env",
    "make_vec",
    "own_kind",
    "strategy_names",
    "train",
]

_HOME = {
    "Bars": "training.kit.bars",
    "Evaluation": "training.kit.versions",
    "ExportError": "training.export.shelf",
    "Findings": "training.evidence.findings",
    "Fold": "training.study.study",
    "HistoryError": "training.study.folds",
    "LedgerError": "training.runs.ledger",
    "Outcome": "training.desks.own.environment",
    "RunFolderError": "training.runs.folder",
    "Settings": "training.runs.settings",
    "Sink": "training.sinks.sink",
    "Started": "training.sinks.sink",
    "Stopped": "training.rl.pool",
    "StoredPolicy": "training.kit.versions",
    "Study": "training.study.study",
    "TapeError": "daemon.tapes.files",
    "TrainingKind": "training.desks.kind",
    "add_strategy": "training.kit.bars",
    "backtest_overfitting": "training.evidence.overfitting",
    "bundled_bars": "training.kit.bars",
    "compare_runs": "training.kit.results",
    "deflated_sharpe": "training.evidence.overfitting",
    "evaluate_version": "training.kit.versions",
    "export_policy": "training.kit.versions",
    "folds": "training.kit.environments",
    "golden_observations": "strategies.golden",
    "load_bars": "training.kit.bars",
    "load_ledger": "training.kit.results",
    "load_metrics": "training.kit.results",
    "load_policy": "training.kit.versions",
    "load_report": "training.kit.results",
    "load_study": "training.kit.results",
    "load_version": "training.kit.versions",
    "make_env": "training.kit.environments",
    "make_vec": "training.kit.environments",
    "own_kind": "training.desks.own.kind",
    "strategy_names": "training.kit.bars",
    "train": "training.kit.training",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
