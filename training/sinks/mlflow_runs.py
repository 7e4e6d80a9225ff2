"""The sink `mlflow`: a run of MLflow for each trial, in one experiment.

Server and experiment are those of the environment: `MLFLOW_TRACKING_URI`, `MLFLOW_EXPERIMENT_NAME` (`rltrader`).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from training.sinks.sink import Sink, Started

KEY = "rltrader.key"
PARAM_LENGTH = 500  # characters of a setting


class MlflowSink(Sink):
    """A trial that goes on continues its run, which has the trial's key as a tag."""

    def __init__(self, started: Started) -> None:
        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "rltrader")
        existing = self._client.get_experiment_by_name(name)
        experiment = existing.experiment_id if existing is not None else self._client.create_experiment(name)
        runs = self._client.search_runs([experiment], f"tags.`{KEY}` = '{started.key}'", max_results=1)
        if runs:
            self._run: str = runs[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            return
        tags = {KEY: started.key, "rltrader.run": started.run}
        self._run = self._client.create_run(
            experiment, run_name=f"{started.run} {started.trial}", tags=tags
        ).info.run_id
        params = [Param(name, json.dumps(value)[:PARAM_LENGTH]) for name, value in started.settings.items()]
        self._client.log_batch(self._run, params=params)

    def on_update(self, update: int, figures: Mapping[str, float]) -> None:
        """See `Sink`."""
        now_ms = int(time.time() * 1000)
        metrics = [Metric(name, value, now_ms, update) for name, value in figures.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def on_look(self, update: int, figures: Mapping[str, float]) -> None:
        """See `Sink`."""
        self.on_update(update, {name: value for name, value in figures.items() if name != "steps"})

    def close(self) -> None:
        """See `Sink`."""
        self._client.set_terminated(self._run, "FINISHED")
