"""How long an answer of each shipped model takes on a provider, next to the CPU's: `python -m bench.bench_answers`.

`--provider cuda` needs the extra gpu and a card; without it the CPU answers alone. Asked are the golden observations,
in turn, by the daemon's own runtime with one thread; the difference is the largest of any answer or next memory. The
last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from daemon.core.effects import AskPolicy
from daemon.core.events import PolicyAnswered
from daemon.models.runtime import OnnxPolicy, Provider
from daemon.models.store import load, versions
from strategies.golden import GOLDEN_SYMBOLS, golden_observations
from strategies.kit.contract import AnyStrategy, Observation
from strategies.registry import names, strategy

MODELS = Path(__file__).resolve().parents[1] / "onnx_models"


def answered(policy: OnnxPolicy, observations: list[Observation]) -> tuple[np.ndarray[Any, Any], dict[str, float]]:
    """All answers in a row, float64 (n,), and the p50 and p99 of their microseconds."""
    took, answers = [], []
    for number, observation in enumerate(observations):
        question = AskPolicy(number, number + 1, observation)
        began = time.perf_counter()
        answer = policy.answer(question, number)
        took.append(time.perf_counter() - began)
        assert isinstance(answer, PolicyAnswered), answer
        answers.append(np.array([*answer.logits, *np.frombuffer(answer.hidden, "<f4")], dtype=np.float64))
    p50, p99 = np.percentile(np.array(took[len(took) // 10 :]) * 1e6, [50, 99]).tolist()
    return np.concatenate(answers), {"p50_us": round(p50, 1), "p99_us": round(p99, 1)}


def compared(asks: AnyStrategy, version: str, provider: Provider, answers: int) -> dict[str, Any]:
    """Figures of one model on the CPU and on `provider`."""
    model = load(MODELS, asks, version)
    if asks.spec.rows_are_symbols:
        asks = strategy(asks.spec.name, GOLDEN_SYMBOLS)
    observations = list(islice(cycle(golden_observations(asks)), answers))
    cpu, took = answered(OnnxPolicy.open(model, asks, "cpu"), observations)
    if provider == "cpu":
        return {"cpu": took}
    provider_answers, elsewhere = answered(OnnxPolicy.open(model, asks, provider), observations)
    return {"cpu": took, provider: elsewhere, "difference": float(np.abs(cpu - provider_answers).max())}


def main() -> None:
    """Ask every shipped model."""
    line = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    line.add_argument("--provider", choices=["cpu", "cuda"], default="cpu")
    line.add_argument("--answers", type=int, default=2000)
    options = line.parse_args()
    figures = {}
    for name in names():
        for version in versions(MODELS, name):
            figures[f"{name} {version}"] = model_figures = compared(
                strategy(name), version, options.provider, options.answers
            )
            print(f"{name + ' ' + version:56}{json.dumps(model_figures)}", flush=True)
    print(json.dumps({"bench": "answers", **figures}))


if __name__ == "__main__":
    main()
