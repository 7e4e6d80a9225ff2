"""Trained markets with a planted edge, and of noise: is an edge proven, and does training add a bias?

`python -m bench.planted.study [--strategy NAME …] [--short] [--markets N] [--processes N] [--into FILE]`,
`make bench-planted`. Each market is a made-up file (`bench.planted.markets`) and a whole run on it by the preset
that the shipped versions are made with (`--short`: by one with fewer steps, for a made-up rule that needs fewer): three
seeds (`forecast_ensemble`: one), the choice on validation, tests through the dry run, the criteria of promotion. An
edge is to be proven, as a claim of a lead is (`LEAD_PROOF`): the lower bound of the lead over the best baseline that
nothing trained is above 0 (one-sided, 99 %), no luck of so many trials, and not of a policy that hardly trades. Noise
is not, and the interval of its mean lead reaches down to 0 at least. Not judged are the criteria that no made-up
market can meet: data, seeds, length, recorded options. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from scipy.stats import t
from torch import Tensor

from bench.planted.markets import FORECAST, MARKETS, write
from bench.training.resumed import OtherStudy, resumed
from bench.training.train_work import apart, progress
from strategies.daily_rebalancer import INDICATORS
from strategies.online_dqn.state_vector import read_file
from training.cli.learn.command import MODEL, RULES
from training.desks.daily.networks.rebalancer import columns_of
from training.desks.forecast.plan import PRESETS as FORECAST_PRESETS
from training.desks.forecast.plan import ForecastPlan
from training.desks.online.kind import OnlinePlan
from training.desks.online.network import COLD_PRESETS
from training.evidence.criteria import LEAD_PROOF
from training.evidence.findings import Findings
from training.rl.dimensions import with_values
from training.rl.presets import Practice
from training.runs.prepared import prepare
from training.runs.run import train_and_export
from training.runs.settings import Settings, settings_for

SEEDS, SEEDS_OF = 3, {"forecast_ensemble": 1}
MARKETS_EACH, MARKETS_OF = 10, {"forecast_ensemble": 5}  # of each kind; a walk of `forecast_ensemble` is long
BF16 = "bf16"
SHIPPED, SHORT, QUICK = "shipped", "short", "quick"
NOT_OF_A_MARKET = frozenset({"data", "seeds", "length", "recorded options"})


def settings_of(market: str, folder: Path, *, presets: str) -> Settings:
    """How this market is trained: by the shipped versions' preset, or one of `SHORT` or `QUICK`."""
    bars, store = folder / "bars.csv", folder / "store"
    settings = (_SHIPPED if presets == SHIPPED else _SHORT)[market](bars, store)
    if presets == QUICK:
        settings = replace(settings, steps=min(settings.steps, 8192))
    seeds = {QUICK: 1, SHORT: SEEDS, SHIPPED: SEEDS_OF.get(market, SEEDS)}[presets]
    return replace(
        settings, seeds=tuple(range(1, seeds + 1)), processes=1, run_folder=folder / "run", checkpoint_s=3600.0,
        allow_unproven=True,
    )  # fmt: skip


def _shipped_rebalancer(bars: Path, store: Path) -> Settings:
    settings = settings_for("daily_rebalancer", bars, store, preset="shared")
    return _in_years(replace(settings, network="shared", practice=Practice(over_market=True)))


def _in_years(settings: Settings) -> Settings:
    """Eight years to train on, one to choose in, two for the test: a made-up market is shorter than its calendar."""
    return replace(settings, train_sessions=2000, validate_sessions=252, test_sessions=504, purge_sessions=5)


def _shipped_switcher(bars: Path, store: Path) -> Settings:
    return _in_years(settings_for("regime_switcher", bars, store, preset="steep"))


def _shipped_forecaster(bars: Path, store: Path) -> Settings:
    settings = settings_for("forecast_ensemble", bars, store)
    return replace(settings, plan=settings.plan.at(BF16), symbols=FORECAST, precision=BF16)


def _shipped_online(bars: Path, store: Path) -> Settings:
    return replace(settings_for("online_dqn", bars, store), config=_rules_beside(bars), symbols=("SPY",))


def _rules_beside(bars: Path) -> Path:
    """The configuration of a desk that may trade as often as the rule of `learned` pays."""
    rules = bars.with_name("config.toml")
    rules.write_text("\n".join(["[risk]", *(f"{key} = {json.dumps(value)}" for key, value in RULES.items()), ""]))
    return rules


def _scalper(bars: Path, store: Path) -> Settings:
    return replace(settings_for("option_scalper", bars, store), steps=300_000)


def _rebalancer(bars: Path, store: Path) -> Settings:
    settings = settings_for("daily_rebalancer", bars, store, preset="passive")
    return _in_years(replace(settings, practice=Practice(over_market=True)))


def _switcher(bars: Path, store: Path) -> Settings:
    settings = settings_for("regime_switcher", bars, store)
    changes = {"environments": 64, "batch": 512, "learning_rate": 2e-3, "entropy": 0.002}
    return _in_years(replace(settings, steps=500_000, plan=with_values(settings.plan, changes)))


def _forecaster(bars: Path, store: Path) -> Settings:
    settings = settings_for("forecast_ensemble", bars, store, preset="smoke")
    plan = FORECAST_PRESETS["smoke"].plan
    assert isinstance(plan, ForecastPlan)
    recipe = msgspec.structs.replace(plan.forecaster.recipe, epochs=8, stride=3)
    forecaster = msgspec.structs.replace(plan.forecaster, first_year=2018, recipe=recipe)
    settings = replace(settings, plan=replace(plan, forecaster=forecaster, sessions=None, looks=8))
    return replace(settings, steps=60_000, symbols=FORECAST)


def _online(bars: Path, store: Path) -> Settings:
    config = msgspec.structs.replace(read_file(MODEL), symbols=("SPY",))
    settings = settings_for("online_dqn", bars, store)
    plan = OnlinePlan(cold=COLD_PRESETS["quick"], looks=8)
    return replace(
        settings, steps=200_000, plan=plan, config=_rules_beside(bars), model_config=config.text,
        model_config_file="model.yaml", symbols=("SPY",),
    )  # fmt: skip


ACROSS = {"daily_rebalancer/leaders": 1.0, "daily_rebalancer/reversal": -1.0, "daily_rebalancer/pairs": -1.0}
"""Markets with an edge across stocks: which way a stock goes that is above its 20 days' mean more than the others."""
STEEP = 20.0  # a stock that is 5 % above the others' mean gets a whole unit
_SHIPPED: dict[str, Callable[[Path, Path], Settings]] = {
    "option_scalper": _scalper,
    "daily_rebalancer": _shipped_rebalancer,
    **dict.fromkeys(ACROSS, _shipped_rebalancer),
    "regime_switcher": _shipped_switcher,
    "forecast_ensemble": _shipped_forecaster,
    "online_dqn": _shipped_online,
}
_SHORT: dict[str, Callable[[Path, Path], Settings]] = {
    "option_scalper": _scalper,
    "daily_rebalancer": _rebalancer,
    **dict.fromkeys(ACROSS, _shipped_rebalancer),
    "regime_switcher": _switcher,
    "forecast_ensemble": _forecaster,
    "online_dqn": _online,
}


def rule_lead(market: str, settings: Settings) -> float | None:
    """What the known rule earns more than buy and hold in a session of the test, as a part of the account before it.

    It answers with orders of the strategy: buy for one unit at most, or sell a part. None where no rule is known.
    """
    if market not in ACROSS:
        return None
    task = prepare((settings, Path(), ""))
    span = task.span(task.folds[-1].test)

    def rule(observations: Tensor) -> Tensor:
        at = columns_of(observations)
        averages = observations[:, at.indicators][:, INDICATORS.index("sma20") :: len(INDICATORS)]
        above = observations[:, at.closes] / averages - 1.0
        return (ACROSS[market] * STEEP * (above - above.mean(dim=1, keepdim=True))).clamp(-1.0, 1.0)

    data: Any = task.data
    result = data.evaluator(span, "cpu")(rule)
    _, passive_sessions = data.held(data.desk(span))
    leads = [
        session.pnl_usd / session.capital_usd - passive.pnl_usd / passive.capital_usd
        for session, passive in zip(result, passive_sessions, strict=True)
    ]
    return float(np.mean(leads))


def trained(market: str, kind: str, seed: int, presets: str, device: str = "cpu") -> dict[str, Any]:
    """Train one market on this device, and return what its report says."""
    began, core = time.perf_counter(), sum(os.times()[:4])
    with tempfile.TemporaryDirectory() as home, Path(os.devnull).open("w", encoding="utf-8") as nothing:
        folder = Path(home)
        write(market, folder / "bars.csv", seed, edge=kind == "edge")
        settings = replace(settings_of(market, folder, presets=presets), device=device)
        with redirect_stderr(nothing):
            findings = train_and_export(settings, lambda _: None).findings
            rule = rule_lead(market, settings)
    core_s = sum(os.times()[:4]) - core  # of this process and of those that it waited for
    seconds = {"seconds": round(time.perf_counter() - began, 1), "core_s": round(core_s, 1)}
    return {
        **figures(findings),
        "rule": rule,
        "preset": settings.preset or f"{settings.base or next(iter(settings.kind.presets))}, changed",
        **({} if device == "cpu" else {"device": device}),
        **seconds,
    }


def figures(findings: Findings) -> dict[str, Any]:
    """What of a report the verdict rests on, and the lead over the best baseline that is no part of the policy."""
    learnt, lead = findings.learnt, findings.lead
    failed = [
        criterion.name
        for criterion in findings.criteria
        if not criterion.passes and criterion.name not in NOT_OF_A_MARKET
    ]
    return {
        "lead": None if lead is None else lead.mean,
        "low": None if lead is None else lead.low,
        "net": findings.policy.figures.net_return,
        "trades": findings.policy.figures.trades,
        "best": None if lead is None else lead.baseline,
        "validated": float(np.mean([run.validate_return for run in findings.runs])),
        "kl": None if learnt is None else learnt.kl,
        "gradient_steps": None if learnt is None else learnt.gradient_steps,
        "failed": failed,
    }


def studied(keys: Sequence[str], *, presets: str, processes: int, device: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The markets of these keys, so many at once, each in a process of its own."""
    for first in range(0, len(keys), processes):
        together = keys[first : first + processes]
        for key in together:
            progress(key)
        waiting = [apart(trained, *_parts(key), presets, device) for key in together]
        yield from zip(together, (result() for result in waiting), strict=True)


def _parts(key: str) -> tuple[str, str, int]:
    strategy, kind, seed = key.split()
    return strategy, kind, int(seed)


def _is_proven(market_figures: dict[str, Any]) -> bool:
    return not any(criterion.name in market_figures["failed"] for criterion in LEAD_PROOF)


def verdict(parts: dict[str, dict[str, Any]], strategy: str) -> dict[str, Any]:
    """What all markets of a strategy say."""
    edges, noise = ([parts[key] for key in parts if key.split()[:2] == [strategy, kind]] for kind in ("edge", "noise"))
    leads = np.array([part["lead"] or 0.0 for part in noise])
    few = len(leads) < 2  # of one market there is no interval
    spread = 0.0 if few else float(leads.std(ddof=1) / np.sqrt(len(leads)) * t.ppf(0.975, len(leads) - 1))
    return {
        "edges": len(edges),
        "edges_proven": sum(map(_is_proven, edges)),
        "edges_passed": sum(not part["failed"] for part in edges),
        "noise": len(noise),
        "noise_proven": sum(map(_is_proven, noise)),
        "noise_passed": sum(not part["failed"] for part in noise),
        "noise_lead": [round(float(leads.mean() + side * spread), 6) for side in (-1, 0, 1)],
        "preset": "/".join(sorted({part["preset"] for part in (*edges, *noise)})),
        "biased": bool(leads.mean() - spread > 0.0) and not few,
        "core_s": round(sum(part["core_s"] for part in (*edges, *noise)), 1),
    }


def table(verdicts: dict[str, dict[str, Any]]) -> Iterable[str]:
    """The verdicts as lines of Markdown."""
    yield (
        "| strategy | preset | edges proven | edges that pass | noise proven | noise that passes | "
        "lead on noise, a session | core-seconds |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for name, judgement in verdicts.items():
        low, mean, high = (f"{value * 100:+.3f} %" for value in judgement["noise_lead"])
        spread = f" ({low} to {high})" if judgement["noise"] > 1 else ""
        yield (
            f"| `{name}` | {judgement['preset']} | {judgement['edges_proven']} of {judgement['edges']} | "
            f"{judgement['edges_passed']} | "
            f"{judgement['noise_proven']} of {judgement['noise']} | {judgement['noise_passed']} | {mean}{spread} | "
            f"{judgement['core_s']:,.0f} |"
        )


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Train what is missing of the study; print the table, and all figures as one line of JSON."""
    line = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    line.add_argument("--strategy", action="append", choices=list(MARKETS), help="several times (all)")
    line.add_argument("--markets", type=int, help=f"of each kind and strategy ({MARKETS_EACH}; forecast_ensemble: 5)")
    line.add_argument("--processes", type=int, default=2, help="(%(default)s)")
    line.add_argument("--device", default="cpu", help="that trains: cpu, cuda (%(default)s)")
    line.add_argument(
        "--into", type=Path, metavar="FILE", help="keeps each market as it is done; goes on there (--short: FILE-short)"
    )
    how = line.add_mutually_exclusive_group()
    how.add_argument("--short", dest="presets", action="store_const", const=SHORT, help="with fewer steps")
    how.add_argument(
        "--quick", dest="presets", action="store_const", const=QUICK, help="a smoke run: figures mean nothing"
    )
    line.set_defaults(presets=SHIPPED)
    options = line.parse_args(arguments)
    names = options.strategy or list(MARKETS)
    keys = [
        f"{name} {kind} {seed}"
        for name in names
        for seed in range(options.markets or MARKETS_OF.get(name, MARKETS_EACH))
        for kind in ("edge", "noise")
    ]
    plan = {"study": "planted", "presets": options.presets}
    into = options.into
    if into is not None and options.presets != SHIPPED:
        into = into.with_name(f"{into.name}-{options.presets}")
    work = partial(studied, presets=options.presets, processes=options.processes, device=options.device)
    try:
        parts = dict(resumed(into, plan, keys, work))
    except OtherStudy as error:
        sys.exit(str(error))
    verdicts = {name: verdict(parts, name) for name in names}
    print(*table(verdicts), sep="\n", flush=True)
    figures = {**plan, "markets": parts, "verdicts": verdicts}
    print(json.dumps(figures), flush=True)
    return figures


if __name__ == "__main__":
    main()
