"""How `forecast_ensemble` is trained: a forecaster for each year, then agents that learn on its forecasts.

What its reference claims stands first; every figure set against a claim is of this study.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import nn

from daemon.core.limits import Trading
from strategies.forecast_ensemble import SPEC
from strategies.forecast_ensemble.features import COUNT
from training.desks.forecast import graph
from training.desks.forecast.agents import AgentsTrial, first_agents
from training.desks.forecast.baselines import BASELINES, PARTS, PLAYERS
from training.desks.forecast.graph import Policy, made_weights, passive_of, policy_of
from training.desks.forecast.market import BONUS
from training.desks.forecast.plan import PRESETS, WALK, ForecastPlan, folds_of, search_folds
from training.desks.forecast.task_data import ForecastTaskData, load
from training.desks.kind import (
    OWN_FOLDS,
    Done,
    FoldResults,
    Keeper,
    Passive,
    Procedure,
    Sources,
    Span,
    Start,
    Task,
    TrainingKind,
)
from training.desks.trial import RLLIB, Control, Listener, News, Request, Trained
from training.evidence.findings import Claim, Findings, StrategyClaims
from training.evidence.wording import UNKNOWN, number, share
from training.export.reference import each_column
from training.forecast.findings import KEY, Forecast, find, read
from training.forecast.folds import FoldForecasts, Forecasts, YearFold, assemble, by_years
from training.forecast.network import FeatureScaling, Forecaster, ForecastNet, Frozen
from training.forecast.scores import Skill
from training.forecast.stage import finish_fold, train_member
from training.forecast.trainer import Epoch, FittedWeights, MemberProgress
from training.study.folds import Cut
from training.study.study import Fold, Study

DECISION_MS = "decision_ms"  # key in a study's `extra`: milliseconds of an answer, by number of symbols


def _accuracy(_: Findings, study: Study) -> str:
    findings = read(study.extra)
    if findings is None or findings.scores is None:
        return UNKNOWN
    accuracy, base = findings.scores.after.accuracy, findings.scores.after.base_rate
    return (
        f"{share(accuracy.estimate)} ({share(accuracy.low)} to {share(accuracy.high)}); always the commonest class: "
        f"{share(base.estimate)}{_sides(findings.skill)}"
    )


def _sides(skill: Skill | None) -> str:
    """The skill in direction alone (BUY against SELL), as text."""
    if skill is None:
        return ""
    sides = skill.sides
    return f"; BUY against SELL, AUC {number(sides.estimate, 3)} ({number(sides.low, 3)} to {number(sides.high, 3)})"


def _milliseconds(_: Findings, study: Study) -> str:
    durations = study.extra.get(DECISION_MS, {})
    texts = [f"{number(ms, 1)} ms for {rows} symbol{'s' * (rows != '1')}" for rows, ms in durations.items()]
    return f"{', '.join(texts)}, on a CPU without indicators" if texts else UNKNOWN


def _parameters(_: Findings, study: Study) -> str:
    findings = read(study.extra)
    return UNKNOWN if findings is None else f"{findings.parameters:,}"


REFERENCE = StrategyClaims(
    claims=(
        Claim("accuracy on three classes", "43 %", _accuracy),
        Claim("a decision", "below 50 ms on a GPU", _milliseconds),
        Claim("parameters of the forecaster", "19,843", _parameters),
    ),
    differs=(
        (
            "The reference does not state how its classes are cut, of which symbols and years its accuracy is, or how "
            "often the commonest class came. Ours is out of sample, over all symbols of the file in the tested years; "
            "beside it stands what always naming the commonest class would have had, without which it says nothing."
        ),
        (
            "Classes are cut by triple barriers here. Other widths or another horizon make the same forecasts look "
            "better or worse, as they change how often HOLD comes."
        ),
        (
            "The time is the median of the whole graph (forecaster and both agents) in torch on one thread, while the "
            "run was at work. The reference names neither its GPU nor what its time covers."
        ),
        "The LSTM of 256 that the reference describes has more than 19,843 parameters by itself.",
    ),
    survivorship=(
        "The default universe is the 20 stocks with a full history from 2010 and the highest dollar volume of 2019: "
        "until the end of 2019 nobody could have known them, and who failed or was bought is missing. Every long "
        "position in them looks better than it was, the baselines' too: what the policy is worth shows against equal "
        "weight and buy and hold of the same symbols, not against SPY."
    ),
)


DECISIONS = 30  # answers that are timed
MEMBER_TASK, YEAR_TASK = "forecaster-{year}-{member}", "forecast-{year}"


def joined(data: ForecastTaskData, years: Sequence[Mapping[str, Any]]) -> Forecasts:
    """The out-of-sample forecasts of these years, joined. Raises LeakError."""
    days, symbols = data.panel.valid.shape
    folds = [
        FoldForecasts(
            year["year"],
            year["known_until"],
            year["rows"].numpy(),
            year["probabilities"].numpy(),
            year["confidence"].numpy(),
            year["variance"].numpy(),
        )
        for year in years
    ]
    return assemble(days, symbols, folds)


def forecast_of(year: Mapping[str, Any]) -> Forecast:
    """The forecasts of this year's task, for the report."""
    return Forecast(
        year["year"],
        year["rows"].numpy(),
        year["probabilities"].numpy(),
        year["confidence"].numpy(),
        float(year["forecaster"]["temperature"]),
        year["purged"],
        year["gradient_steps"],
        year["converged"],
        year["variance"].numpy(),
    )


@torch.no_grad()
def milliseconds(policy: nn.Module, symbols: int) -> float:
    """The median of the graph's answers to so many symbols."""
    rows, times = torch.zeros(symbols, graph.SEQUENCE + 6), []
    for _ in range(DECISIONS):
        began = time.perf_counter()
        policy(rows)
        times.append(time.perf_counter() - began)
    return round(1000.0 * statistics.median(times), 3)


def forecaster_of(plan: ForecastPlan, year: Mapping[str, Any]) -> Forecaster:
    """The forecaster that this year's task ended with."""
    sizes = plan.forecast.sizes
    nets = [ForecastNet(sizes, Frozen(FeatureScaling.none(sizes.features)), 0) for _ in range(plan.members)]
    forecaster = Forecaster(nets, plan.forecast.confidence, year["risk_columns"])
    forecaster.load_state_dict(year["forecaster"])
    return forecaster.eval()


def member_task(
    task: str,
    plan: ForecastPlan,
    fold: YearFold,
    member: int,
    data: ForecastTaskData,
    keeper: Keeper,
    control: Control,
    listen: Listener,
) -> dict[str, Any]:
    """Train one network of a year, or resume it."""

    steps = 1

    def tell(_year: int, _member: int, progress: MemberProgress) -> None:
        nonlocal steps
        steps = max(progress.batches, 1)
        listen(News(task, progress.batches, progress.total))

    fitted = train_member(data.material, plan.forecast, fold, member, folder=keeper.path, pause=control.stop, tell=tell)
    listen(News(task, steps, steps))  # it may have stopped early
    curve = msgspec.json.encode(fitted.curve).decode()
    return {"weights": fitted.weights, "curve": curve, "known_until": fitted.known_until} | {
        "steps": steps,
        "gradient_steps": fitted.gradient_steps,
        "converged": fitted.converged(plan.forecast.recipe),
    }


def year_task(
    plan: ForecastPlan, fold: YearFold, data: ForecastTaskData, done: Callable[[str], Mapping[str, Any]]
) -> dict[str, Any]:
    """Average and calibrate the members of a year, and forecast it."""
    weights_kept = [done(MEMBER_TASK.format(year=fold.year, member=number)) for number in range(1, plan.members + 1)]
    members = [
        FittedWeights(
            member["weights"], msgspec.json.decode(member["curve"], type=tuple[Epoch, ...]), member["known_until"]
        )
        for member in weights_kept
    ]
    result = finish_fold(data.material, plan.forecast, fold, members)
    forecasts = result.forecasts
    return {
        "year": fold.year,
        "known_until": forecasts.known_until,
        "rows": torch.from_numpy(np.ascontiguousarray(forecasts.rows)),
        "probabilities": torch.from_numpy(forecasts.probabilities),
        "confidence": torch.from_numpy(forecasts.confidence),
        "variance": torch.from_numpy(forecasts.variance),
        "forecaster": result.forecaster.cpu().state_dict(),
        "risk_columns": result.forecaster.known.columns.tolist(),
        "validated": msgspec.json.encode(result.validated).decode(),
        "tested": msgspec.json.encode(result.tested).decode(),
        "purged": result.purged,
        "gradient_steps": min(member["gradient_steps"] for member in weights_kept),
        "converged": all(member["converged"] for member in weights_kept),
    }


ALPHA_IS = "given, not chosen: no action changes the bonus, so no choice depends on alpha"


MEMBERS, FORECASTS = "forecaster folds", "forecasts"
FEW_FORECASTER_STEPS = (
    200  # Adam moves a weight by at most its rate a step: 200 x 0.001; the LSTM's begin within 1/16 of 0
)


class WalkByYears(Procedure[ForecastTaskData, ForecastPlan]):
    """See `training.desks.kind.Procedure`."""

    players = PLAYERS

    def lacks(self) -> Mapping[str, str]:
        """See `Procedure`."""
        return OWN_FOLDS | {"option_quotes": "it trades no options"}

    def load(self, path: Path, trading: Trading, sources: Sources, plan: ForecastPlan, /) -> ForecastTaskData:
        """See `Procedure`."""
        return load(path, trading, sources, plan)

    def folds(self, dates: Sequence[str], plan: ForecastPlan, _: Cut, /) -> tuple[Fold, ...]:
        """See `Procedure`."""
        return folds_of(dates, plan)

    def search_folds(
        self, dates: Sequence[str], plan: ForecastPlan, _: Sequence[Fold], count: int, /
    ) -> tuple[Fold, ...]:
        """See `Procedure`: the years before the first tested one, as if each were tested: for validation."""
        return search_folds(dates, plan, count)

    def stages(self, plan: ForecastPlan, /) -> Mapping[str, Sequence[str]]:
        """See `Procedure`."""
        members = [MEMBER_TASK.format(year=y, member=m) for y in plan.years for m in range(1, plan.members + 1)]
        return {MEMBERS: members, FORECASTS: [YEAR_TASK.format(year=year) for year in plan.years]}

    def needed(self, plan: ForecastPlan, fold: Fold, /) -> Sequence[str]:
        """See `Procedure`: the forecasts up to the validation year."""
        last = int(fold.validate[-1][:4])
        tasks = (task for stage in self.stages(plan).values() for task in stage)
        return [task for task in tasks if int(task.split("-")[1]) <= last]

    def prior(self, name: str, task: Task[ForecastTaskData, ForecastPlan], /) -> None:
        """See `Procedure`."""
        checkpoint = task.keeper.checkpoint()
        if checkpoint is not None:
            task.listen(News(name, checkpoint["steps"], checkpoint["steps"], began=checkpoint["steps"]))
            return
        plan, data = task.plan, task.data
        kind, year, *member = name.split("-")
        fold = {fold.year: fold for fold in by_years(data.panel.dates, plan.years[0], plan.last_test)}[int(year)]
        if kind == "forecaster":
            number = int(member[0]) - 1
            task.keeper.save(member_task(name, plan, fold, number, data, task.keeper, task.control, task.listen))
        else:
            task.keeper.save(year_task(plan, fold, data, task.done) | {"steps": 1})
            task.listen(News(name, 1, 1))

    def concerns(self, _: Request, plan: ForecastPlan, done: Done, /) -> Sequence[str]:
        """See `Procedure`: forecasters that hardly moved from their first weights."""
        few = {year: done(YEAR_TASK.format(year=year))["gradient_steps"] for year in plan.years}
        few = {year: steps for year, steps in few.items() if steps < FEW_FORECASTER_STEPS}
        if not few:
            return ()
        years = ", ".join(f"{year}: {steps:,}" for year, steps in few.items())
        least = f"below {FEW_FORECASTER_STEPS:,}"
        words = (
            f"few gradient steps of forecasters to their chosen epoch ({least}): {years}; they may forecast little "
            "more than how often each class comes; more epochs, smaller batches, a smaller stride or more symbols help"
        )
        return (words,)

    def trial(self, task: Task[ForecastTaskData, ForecastPlan], fold: Fold, /) -> Trained:
        """See `Procedure`."""
        plan, data, done = task.plan, task.data, task.done
        last = int(fold.validate[-1][:4])
        forecasts = joined(data, [done(YEAR_TASK.format(year=year)) for year in range(plan.years[0], last + 1)])
        work = AgentsTrial(task.request, data, data.outlook(forecasts, plan.risk_target), fold, task.keeper, plan)
        work.run(task.control, task.listen)
        chosen = work.choose()
        weights: dict[str, Any] = {}
        if fold.test:
            year = done(YEAR_TASK.format(year=int(fold.test[0][:4])))
            policy = Policy(forecaster_of(plan, year), chosen.agents, chosen.threshold, plan.risk_target)
            policy.dead, policy.saturated = chosen.dead, chosen.saturated
            weights = made_weights(policy)
        return Trained(
            weights=weights,
            validate=chosen.validate,
            chosen_steps=chosen.chosen_steps,
            steps=chosen.steps,
            seconds=work.seconds,
            stopped="",
            curve=chosen.curve,
            gradient_steps=chosen.gradient_steps,
        )

    def start(
        self, task: Task[ForecastTaskData, ForecastPlan], _: Fold, policy: nn.Module, __: Mapping[str, Any], /
    ) -> Start | None:
        """See `Procedure`: the agents as they are drawn, on the forecasts of the trained policy.

        Their actions explore by TD3's noise. RLlib draws the weights of its SAC itself.
        """
        if task.request.engine == RLLIB:
            return None
        trained = of_agents(policy)
        agents = first_agents(task.plan, task.request, trained.agents)
        untrained = Policy(trained.forecaster, agents, risk_target=trained.risk_target).eval()
        return Start(untrained, torch.tensor(task.plan.td3.exploration))

    def play(
        self,
        player: str,
        policies: Sequence[nn.Module],
        data: ForecastTaskData,
        spans: Sequence[Span],
        seed: int,
        check_stop: Callable[[], None],
        /,
    ) -> FoldResults:
        """See `Procedure`."""
        return data.account(policies, spans, seed, check_stop).play(player)

    def for_report(
        self,
        plan: ForecastPlan,
        policies: Sequence[nn.Module],
        data: ForecastTaskData,
        _: Sequence[Fold],
        done: Done,
        /,
    ) -> dict[str, Any]:
        """See `Procedure`: how good the forecasts of all years were, and how long a decision takes."""
        paper = data.trading.paper
        cost = float(2 * paper.share_cost_rate + paper.share_wait_rate)
        of_folds = list(map(of_agents, policies))
        net = of_folds[-1].forecaster
        facts = {
            "parameters": sum(parameter.numel() for parameter in net.members[0].parameters()),
            "members": len(net.members),
            "confidence": net.confidence,
        }
        years = [forecast_of(done(YEAR_TASK.format(year=year))) for year in plan.years]
        findings = find(data.material, data.panel.bars, years, plan.tests, cost, facts)
        sizes = {str(count): milliseconds(of_folds[-1], count) for count in (1, len(data.table.symbols))}
        chosen = [
            _shares(agents) | {"threshold": float(agents.threshold), "dead": agents.dead, "saturated": agents.saturated}
            for agents in of_folds
        ]
        return {KEY: msgspec.to_builtins(findings), DECISION_MS: sizes, "chosen": chosen}

    def figures(self, plan: ForecastPlan, policy: nn.Module, done: Done, /) -> Mapping[str, Any]:
        """See `Procedure`: what validation chose, and how good each year's forecasts were, calibrated or not."""
        agents, years = of_agents(policy), {year: done(YEAR_TASK.format(year=year)) for year in plan.years}
        return {
            "chosen": {
                "alpha": plan.alpha,
                "alpha_is": ALPHA_IS,
                "bonus": BONUS,
                "shares": _shares(agents),
                "dead": agents.dead,
                "saturated": agents.saturated,
                "threshold": float(agents.threshold),
            },
            "forecaster": {
                str(year): {name: figures_of_year[name] for name in ("purged", "gradient_steps", "converged")}
                | {name: msgspec.json.decode(figures_of_year[name]) for name in ("validated", "tested")}
                for year, figures_of_year in years.items()
            },
        }


def of_agents(policy: nn.Module) -> Policy:
    """The policy as one of forecaster and agents. Raises TypeError for any other."""
    if not isinstance(policy, Policy):
        raise TypeError(f"the policy is a {type(policy).__name__}: expected one of forecaster and agents")
    return policy


def _shares(policy: Policy) -> dict[str, float]:
    """The weight of each agent in a policy."""
    return dict(zip(graph.MEMBERS, policy.state_dict()["agents.weights"].tolist(), strict=True))


def _policy(_network: str, _seed: int, weights: Mapping[str, Any]) -> nn.Module:
    return policy_of(weights)


def _rules(span: Span) -> dict[str, str]:
    """The rules that the agents were trained with: weight of an action of 1, and the band without trades."""
    return {f"basket.{key}": str(getattr(span.trading.basket, key)) for key in ("weight_max", "band")}


KIND = TrainingKind(
    strategy=SPEC.name,
    networks=("cnn_lstm",),
    variants=("bonus",),
    presets=PRESETS,
    baselines=BASELINES,
    parts=PARTS,
    procedure=WalkByYears(),
    policy=_policy,
    inputs=each_column(SPEC, range(COUNT)),
    walk=WALK,
    unusable=f"that warm the desk up ({SPEC.history_bars})",
    compounds=True,
    reference=REFERENCE,
    rules=_rules,
    passive=Passive("holds as much of each stock as one may weigh, whatever is forecast", of=passive_of),
)
