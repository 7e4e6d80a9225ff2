"""Whether an agent of `forecast_ensemble` ends at the bounds: `python -m bench.training.saturation --bars FILE`.

It trains on accounts of the 20 stocks, 2015 to 2019, with the forecasts of the shipped forecaster, which learned from
these years: nothing here is a result. Prints a line of JSON: how large what is squashed is, how many answers are beyond
0.99, and what the critic explains, for accounts that trade at random in the year from June 2020 on. `--set` changes a
coefficient of the preset `walk`: `--set saturation=0`.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from daemon.models.shipped import USUAL
from strategies.forecast_ensemble import ACCOUNT, SPEC
from strategies.kit.manifest import POLICY_FILE
from training.desks.forecast.graph import AGENT_WIDTH, COLUMNS, RowScaling
from training.desks.forecast.market import ForecastMarket, Outlook, weight_max
from training.desks.forecast.plan import ForecastPlan
from training.desks.forecast.play import rows_of
from training.desks.forecast.task_data import ForecastTaskData
from training.export.export import session_of
from training.forecast.trainer import answers
from training.rl.off_policy.learner import EXPLAINED
from training.rl.off_policy.presets import build
from training.rl.off_policy.trainer import OffPolicyTrainer
from training.runs.prepared import prepare
from training.runs.settings import settings_for

LEARNS, LOOKED_AT = ("2015-02-01", "2019-12-31"), ("2020-06-01", "2021-05-31")
LAST = 5  # updates that the critic's figure is the mean of


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bars", type=Path, required=True)
    parser.add_argument("--agent", choices=("sac", "td3"), default="td3")
    parser.add_argument("--steps", type=int, default=300_000)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    changes = {key: json.loads(value) for key, value in (change.split("=", 1) for change in options.set)}
    data = prepare((settings_for(SPEC.name, options.bars, Path()), Path(), "")).data
    assert isinstance(data, ForecastTaskData)
    outlook, plan = _outlook(data), ForecastPlan()

    def market(span: tuple[str, str], rows: int, seed: int) -> ForecastMarket:
        days = [day for day, date in enumerate(data.table.dates) if span[0] <= date <= span[1]]
        return ForecastMarket(
            data.table, outlook, days[0], days[-1], data.trading,
            count=max(1, rows // plan.portfolio), portfolio=plan.portfolio, seed=seed, episode=plan.episode,
        )  # fmt: skip

    c = replace(plan.coefficients(options.agent), **changes)
    accounts = market(LEARNS, c.environments, 1000)
    c = replace(c, environments=accounts.rows)
    scaling = RowScaling.of(rows_of(market(LEARNS, 1024, 1), 64, 1), weight_max(data.trading))
    agent = build(options.agent, AGENT_WIDTH, c, seed=1001, precision="bf16", scaling=scaling)
    trainer, explained = OffPolicyTrainer(agent, accounts, c, total_steps=options.steps, seed=1001), []
    while not trainer.done:
        explained.append(trainer.update().figures.get(EXPLAINED, 0.0))
    observations = rows_of(market(LOOKED_AT, 16, 5), 150, 5)
    with torch.no_grad():
        squashed = agent.actor.mean(agent.actor.prepare(observations))
    figures = {
        "agent": options.agent,
        "changes": changes,
        "steps": trainer.steps,
        "size": round(float(squashed.abs().mean()), 2),
        "beyond_0.99": round(float((squashed.tanh().abs() > 0.99).float().mean()), 3),
        "explained_variance": round(float(np.mean(explained[-LAST:])), 3),
    }
    sys.stdout.write(json.dumps(figures) + "\n")


def _outlook(data: ForecastTaskData) -> Outlook:
    """The forecasts of the shipped forecaster for the sessions that are asked about."""
    shelf = USUAL / SPEC.name
    session = session_of((shelf / (shelf / "current").read_text().strip() / POLICY_FILE).read_bytes())
    dates, valid = data.table.dates, data.panel.valid[np.ix_(data.days_at, data.places)]
    is_asked = np.array([LEARNS[0][:4] <= date[:4] <= LOOKED_AT[1][:4] for date in dates])
    rows = np.argwhere(valid & is_asked[:, None])

    def forecast(sequences: torch.Tensor) -> torch.Tensor:
        observation = torch.cat([sequences.flatten(1), torch.zeros(len(sequences), len(ACCOUNT))], dim=1)
        return torch.from_numpy(session.run(["probabilities"], {"observation": observation.numpy()})[0])

    windows = data.material.windows
    places = windows.places(np.stack([data.days_at[rows[:, 0]], data.places[rows[:, 1]]], axis=1))
    probabilities = np.full((*valid.shape, 3), np.nan, dtype=np.float32)
    probabilities[tuple(rows.T)] = answers(forecast, windows, places).numpy()
    features = data.panel.features[np.ix_(data.days_at, data.places, np.array(COLUMNS))]
    return Outlook(probabilities, probabilities.max(axis=2), features)


if __name__ == "__main__":
    main()
