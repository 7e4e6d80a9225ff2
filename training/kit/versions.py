"""Versions of a model store: their policies, asked and tested; and policies of others, brought into the store."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from strategies.kit.contract import Float32Array, Spec, choose
from strategies.registry import add, strategy
from training.desks.kind import Span
from training.desks.registry import kind
from training.export.export import Exported, onnx_bytes, session_of
from training.export.shelf import Version, read_version
from training.kit.bars import bars_of
from training.kit.training import settings_of, shown
from training.runs.import_run import import_and_export, import_graph_and_export
from training.runs.record import Outcome
from training.studies.sweep import SweepRequest, make_ready
from training.study.study import SessionFigures, SessionResult


def load_version(models_dir: Path | str, name: str, version: str = "current") -> Version:
    """Return a version of a strategy in a model store: its `folder` and its `manifest`, with splits and figures.

    `version` "current" is the one that desks of the store use.

    Raises:
        ValueError: the store has no such version, or its graph is not the manifest's.

    >>> import training
    >>> version = training.load_version("onnx_models", "option_scalper", "2024-12-04-ef2af89f")
    >>> version.manifest.training.splits["test"]
    ('2024-11-06', '2024-12-04')
    """
    store = Path(models_dir)
    return read_version(store, name if (store / name).is_dir() else add(name), version)


class StoredPolicy:
    """The policy of a version, asked by onnxruntime on one thread of the CPU, as a desk asks it.

    `predict` has the form of Stable-Baselines3's, so that `evaluate_policy(policy, env)` takes it. Of a policy with a
    memory give the state back that it returned.

    >>> import training
    >>> policy = training.load_policy("onnx_models", "option_scalper", "2024-12-04-ef2af89f")
    >>> env = training.make_env("option_scalper")
    >>> observation, _ = env.reset(seed=1)
    >>> action, state = policy.predict(observation)
    >>> policy.spec.actions[action] in policy.spec.actions, state is None
    (True, True)
    >>> policy.answers(observation[None]).shape  # logits
    (1, 6)
    """

    def __init__(self, version: Version) -> None:
        self.version = version
        manifest = version.manifest
        self.spec: Spec = strategy(manifest.strategy, manifest.symbols or ()).spec
        self._session = session_of(version.policy)
        shapes = {node.name: tuple(node.shape[1:]) for node in self._session.get_inputs()}
        self._memory: tuple[int, ...] | None = shapes.get("hidden")

    def answers(self, observations: Float32Array) -> Float32Array:
        """Return logits, or actions within [-1, 1] of a continuous policy, float32 (n, actions).

        Observations are raw, float32 (n, *observation shape). A policy with a memory begins each at the zero state.
        """
        return self._answered(observations, None)[0]

    def predict(
        self,
        observation: npt.NDArray[Any],
        state: Any = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = True,
    ) -> tuple[Any, Any]:
        """Return the action that a desk takes, and the memory after it (None of a policy without one).

        Args:
            observation: raw, float32 (*observation shape); or n of them, (n, *observation shape), for n actions.
            state: the memory that the last call returned; None: the zero state.
            episode_start: (n,) bool, where an episode begins: there the memory is zero again.
            deterministic: a desk draws nothing, so False is refused.

        Raises:
            ValueError: an observation of another shape, or `deterministic` is False.
        """
        if not deterministic:
            raise ValueError("deterministic is False: a desk takes the likeliest action, expected True")
        values = np.asarray(observation, dtype=np.float32)
        alone = values.shape == self.spec.observation_shape
        batch = values[None] if alone else values
        if batch.shape[1:] != self.spec.observation_shape:
            raise ValueError(
                f"the observation has the shape {values.shape}, expected {self.spec.observation_shape}, or n of them"
            )
        if state is not None and episode_start is not None:
            state = np.where(np.reshape(episode_start, (-1, *(1,) * (state.ndim - 1))), np.float32(0.0), state)
        answers, memory = self._answered(batch, state)
        if self.spec.continuous:
            actions: Any = np.clip(answers, -1.0, 1.0)
        else:
            temperature = self.spec.temperature
            actions = np.array([choose(row, temperature).action for row in answers.tolist()], dtype=np.int64)
        return (actions[0] if alone else actions), memory

    def _answered(self, batch: Float32Array, state: Any) -> tuple[Float32Array, Any]:
        inputs = {"observation": batch}
        if self._memory is None:
            return self._session.run(None, inputs)[0], None
        inputs["hidden"] = np.zeros((len(batch), *self._memory), np.float32) if state is None else state
        answers, memory = self._session.run(None, inputs)[:2]
        return answers, memory


def load_policy(models_dir: Path | str, name: str, version: str = "current") -> StoredPolicy:
    """Return the policy of a version of a strategy in a model store; `version` "current" is the one in use.

    Raises:
        ValueError: the store has no such version, or its graph is not the manifest's.
    """
    return StoredPolicy(load_version(models_dir, name, version))


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A version's results on the sessions of a bars file, through the dry run.

    Attributes:
        version: its name.
        sessions: their results, in the order of time; amounts in USD after spread and fees.
        figures: over all of them; returns are fractions of the capital.
        denials: how often each gate denied.
    """

    version: str
    sessions: tuple[SessionResult, ...]
    figures: SessionFigures
    denials: dict[str, int]


def evaluate_version(
    models_dir: Path | str,
    name: str,
    bars: Path | str | None = None,
    version: str = "current",
    *,
    first: str = "",
    last: str = "",
    config: Path | str | None = None,
) -> Evaluation:
    """Let a version of a model store trade the sessions of a bars file in the dry run: the real core, gates and orders.

    Reports get their figures in the same way: for a desk that is flat at the close each session has its own account;
    for a daily desk one account goes through all. Nothing is written, and the ledger does not count it: sessions that
    you look at often are no test any more.

    Args:
        bars: CSV, CSV.gz or Parquet file; None: `bundled_bars`, which are made up.
        first, last: New York days, both included; "" of both: the version's test sessions where it is the file that it
            was trained on, else all sessions after its last one.
        config: a desk's `config.toml`, whose sizes, limits, gates and costs apply; None: the strategy's defaults.

    Raises:
        ValueError: there is no such version, or no session between these days; the text names what there is.
        TapeError, HistoryError: the file cannot be read, or is too short.

    >>> import training
    >>> done = training.evaluate_version(
    ...     "onnx_models", "option_scalper", version="2024-12-04-ef2af89f", first="2024-12-02", last="2024-12-03"
    ... )
    >>> [session.date for session in done.sessions], done.figures.sessions
    (['2024-12-02', '2024-12-03'], 2)
    """
    name = add(name)
    path = bars_of(name, bars)
    rules = None if config is None else Path(config)
    ready = make_ready(SweepRequest(name, path, Path(models_dir), (), version, rules, first, last))
    result = ready.data.test(Exported(ready.version.policy).eval(), Span(ready.dates, ready.variant, ready.trading))
    return Evaluation(
        ready.version.manifest.version, result.sessions, ready.data.figures(result.sessions), dict(result.denials)
    )


def export_policy(
    policy: Any, name: str, bars: Path | str, models_dir: Path | str, *, verbose: bool = False, **settings: Any
) -> Outcome:
    """Bring a policy that was trained elsewhere into a model store, tested and reported like one trained here.

    Args:
        policy: one of these, for raw observations, float32 (batch, *observation shape):
            a torch module that answers with logits, float32 (batch, actions), or actions within [-1, 1];
            a PPO model of Stable-Baselines3, or the zip that its `save` wrote;
            the file of an ONNX graph of any library, with one input and one output.
        name: the strategy, or `path/to/file.py` of one of yours.
        bars: CSV, CSV.gz or Parquet file; its last sessions are the test.
        models_dir: the model store. The version is written, and no desk uses it yet: `rltraderctl models activate`.
        verbose: progress on standard error.
        settings: fields of `Settings`, such as `config`, `run_folder`, `feed`.

    Returns:
        The version's folder as `version`, the `run_folder`, and the `findings` of its report.

    Raises:
        ValueError: the strategy takes no policies of others, the policy does not fit, or a setting is unknown.
        ExportError: it cannot be exported, or onnxruntime answers otherwise.
        TapeError, HistoryError, RunFolderError, LedgerError, OSError: as `train`.
    """
    run_settings = settings_of(name, bars, models_dir, None, {"processes": 1, **settings})
    if not kind(run_settings.strategy).imports:
        raise ValueError(f"{run_settings.strategy} takes no policy that was trained elsewhere: call training.train")
    with shown(run_settings, None, verbose=verbose) as listen, tempfile.TemporaryDirectory() as folder:
        file = _file_of(policy, strategy(run_settings.strategy).spec, Path(folder))
        if file.suffix == ".zip":
            return import_and_export(run_settings, file, None, None, listen)
        return import_graph_and_export(run_settings, file, listen)


def _file_of(policy: Any, spec: Spec, folder: Path) -> Path:
    """The policy as a file: of an ONNX graph, or a zip of Stable-Baselines3. Raises ValueError for anything else."""
    if isinstance(policy, str | Path):
        if not Path(policy).is_file():
            raise ValueError(f"{policy}: no such file; expected a zip of Stable-Baselines3, or an ONNX file")
        return Path(policy)
    if isinstance(policy, nn.Module):
        file, observations = folder / "policy.onnx", np.zeros((2, *spec.observation_shape), np.float32)
        _check_answers(policy.eval(), observations, spec)
        file.write_bytes(onnx_bytes(policy, observations, spec))
        return file
    if hasattr(policy, "save") and hasattr(policy, "policy"):
        file = folder / "model.zip"
        policy.save(file)
        return file
    raise ValueError(
        f"the policy is a {type(policy).__name__}: expected a torch module, a PPO model of Stable-Baselines3, or the "
        "path of a zip of theirs or of an ONNX file"
    )


@torch.no_grad()
def _check_answers(policy: nn.Module, observations: Float32Array, spec: Spec) -> None:
    """Run a module before tracing, whose errors are unclear. Raises ValueError where its answers do not fit."""
    expected = (len(observations), len(spec.actions))
    try:
        answers = policy(torch.from_numpy(observations))
    except Exception as error:  # whatever a module of others raises
        raise ValueError(
            f"the policy takes no observations of {spec.name}, float32 {observations.shape}: {error}"
        ) from error
    if not isinstance(answers, torch.Tensor) or tuple(answers.shape) != expected:
        answer_text = tuple(answers.shape) if isinstance(answers, torch.Tensor) else type(answers).__name__
        raise ValueError(
            f"the policy answers {answer_text} to two observations of {spec.name}, expected a tensor {expected}"
        )
