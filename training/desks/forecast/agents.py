"""One trial of the agents: SAC and TD3 on out-of-sample forecasts, then the weights of both on the validation year.

Each agent is evaluated on the validation sessions at intervals; the weights with the best net return are kept, the
earliest on a tie. Invariant: with our own engine a trial that was stopped or killed ends in the same bytes (CPU).
"""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Union

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from daemon.core.limits import Trading
from training.data.daily_table import DailyTable
from training.desks.forecast.graph import AGENT_WIDTH, MEMBERS, Ensemble, RowScaling, choose_weights
from training.desks.forecast.market import ForecastMarket, Outlook, weight_max
from training.desks.forecast.plan import ForecastPlan
from training.desks.forecast.play import CONFIDENCE, Rule, play, rows_of, threshold_rule, wish_of
from training.desks.forecast.task_data import ForecastTaskData
from training.desks.kind import Keeper
from training.desks.trial import RLLIB, Control, Diverged, Listener, News, Request
from training.evidence.dead import saturation_of, variation_of, why_dead
from training.rl.coefficients import NotFiniteError
from training.rl.off_policy.learner import EXPLAINED, Actor
from training.rl.off_policy.presets import build
from training.rl.off_policy.trainer import OffPolicyTrainer
from training.rl.pool import Stopped
from training.rl.presets import PASSIVE
from training.study.study import Fold, SessionResult, ValidationCheck

if TYPE_CHECKING:
    from training.rl.rllib.engine import RllibSac

LIFT = 1.5  # bias before tanh: an action of about 0.9
SCALING_STEPS = 64  # sessions that accounts trade at random, for the scaling


Make = Callable[[int, int], ForecastMarket]
"""(rows, seed) -> the accounts."""
AnyTrainer = Union[OffPolicyTrainer, "RllibSac"]


def accounts(
    span: tuple[DailyTable, Outlook, int, int, Trading],
    rows: int,
    seed: int,
    *,
    portfolio: int,
    alpha: float,
    episode: int,
    device: str,
) -> ForecastMarket:
    """A market of about `rows` rows: each account has `portfolio` of them."""
    count = max(1, rows // portfolio)
    return ForecastMarket(
        *span, count=count, portfolio=portfolio, seed=seed, alpha=alpha, episode=episode, device=device
    )


@dataclass(frozen=True, slots=True)
class AgentsResult:
    """The result of a trial of the agents."""

    agents: Ensemble
    threshold: float  # of the forecaster alone
    validate: tuple[SessionResult, ...]
    curve: tuple[ValidationCheck, ...]
    steps: int  # transitions of all agents
    chosen_steps: int
    gradient_steps: int  # gradient steps of both agents until their chosen checkpoints
    dead: dict[str, str]  # why an agent counts as dead, by its name
    saturated: dict[str, float]  # share of an agent's wishes that are at a bound


class AgentsTrial:
    """The agents of a trial, one after the other: SAC, then TD3."""

    def __init__(
        self, request: Request, data: ForecastTaskData, outlook: Outlook, fold: Fold, keeper: Keeper, plan: ForecastPlan
    ) -> None:
        self._request, self._data, self._outlook, self._fold = request, data, outlook, fold
        self._keeper, self.plan = keeper, plan
        self.each = -(-request.steps // len(MEMBERS))
        checkpoint = keeper.checkpoint() or {}
        self.finished: list[dict[str, Any]] = checkpoint.get("finished", [])
        self.seconds = float(checkpoint.get("seconds", 0.0))
        self._lines = int(checkpoint.get("lines", 0))
        self._open = checkpoint.get("open")

    @property
    def steps(self) -> int:
        """Transitions of the agents that are done."""
        return sum(int(agent["steps"]) for agent in self.finished)

    def run(self, control: Control, listen: Listener) -> None:
        """Train what is left. Raises `Stopped` after a checkpoint, `Diverged` for a loss that is not finite."""
        began, earlier = time.monotonic(), self.seconds
        steps_before = self.steps + (int(self._open["steps"]) if self._open else 0)
        with self._keeper.metrics(self._lines) as journal:
            while len(self.finished) < len(MEMBERS):
                with contextlib.closing(_AgentRun(self, MEMBERS[len(self.finished)])) as course:
                    whole = self._lines  # lines of the metrics up to the finished agents
                    while not course.trainer.done:
                        line, point = course.update()
                        journal.write(line)
                        self._lines += 1
                        self.seconds = earlier + time.monotonic() - began
                        total = course.whole * len(MEMBERS)
                        steps = self.steps + course.trainer.steps
                        listen(News(self._request.name, steps, total, point, course.without == 0, steps_before))
                        if control.stop() or control.checkpoint_due():
                            self._save(course.state_dict(), whole)
                            if control.stop():
                                raise Stopped(self._request.name)
                    self.finished.append(course.result())
                self._open = None
                self._save(None, self._lines)

    def market(self, seed: int, environments: int) -> ForecastMarket:
        """The accounts that an agent learns on."""
        return self._maker(self._request.device)(environments, seed)

    def _maker(self, device: str) -> Make:
        """A factory of markets (rows, seed), for this process or one of RLlib's."""
        data, plan = self._data, self.plan
        first, last = data.table.span(self._fold.train)
        size = min(plan.portfolio, len(data.table.symbols))
        span = (data.table, self._outlook, first, last, data.trading)
        return functools.partial(accounts, span, portfolio=size, alpha=plan.alpha, episode=plan.episode, device=device)

    def course_parts(self, name: str) -> tuple[AnyTrainer, ForecastMarket | None, dict[str, Any] | None]:
        """One agent's trainer, resumed from its checkpoint if any, and its market if that is in this process."""
        request, c = self._request, self.plan.coefficients(name)
        seed = seed_of(request, len(self.finished))
        if request.engine == RLLIB and name == "sac":
            if request.begins == PASSIVE:
                raise ValueError("RLlib draws the weights of its SAC itself: leave --preset passive or --engine out")
            from training.rl.rllib.engine import RllibSac

            make, runners = self._maker("cpu"), request.runners
            engine = RllibSac(make, c, scaling=self._scaling(), total_steps=self.each, seed=seed, runners=runners)
            return engine, None, None
        market = self.market(seed, c.environments)
        c = replace(c, environments=market.rows)
        agent = build(
            name, AGENT_WIDTH, c, seed=seed, precision=request.precision, scaling=self._scaling(),
            device=request.device, begins=lift_of(request),
        )  # fmt: skip
        trainer = OffPolicyTrainer(agent, market, c, total_steps=self.each, seed=seed)
        return trainer, market, self._open

    def look(self, agent: nn.Module) -> tuple[SessionResult, ...]:
        """The result of an actor or an ensemble on the validation sessions."""
        return self._play(wish_of(agent))

    def _play(self, wish: Rule) -> tuple[SessionResult, ...]:
        data = self._data
        return play(wish, data.table, self._outlook, self._fold.validate, data.trading, sized=True)

    def wishes(self, agent: nn.Module) -> torch.Tensor:
        """An actor's wishes on the validation sessions for the tradable symbols, on its own account's path, (n,)."""
        rule, wishes = wish_of(agent), []

        def noted(rows: torch.Tensor) -> torch.Tensor:
            wish = rule(rows)
            wishes.append(wish[rows[:, CONFIDENCE] > 0.0])
            return wish

        self._play(noted)
        return torch.cat(wishes)

    def _alone(self, least: float) -> float:
        """The net return of the forecaster alone on the validation sessions with this threshold."""
        data, rule = self._data, threshold_rule(least, weight_max(self._data.trading))
        return self.net(play(rule, data.table, self._outlook, self._fold.validate, data.trading))

    def net(self, results: Sequence[SessionResult]) -> float:
        """Their net return."""
        return self._data.figures(results).net_return

    def _scaling(self) -> RowScaling:
        """Frozen from accounts that trade at random on the training sessions; the same for all agents."""
        rows = rows_of(self.market(self._request.seed, 1024), SCALING_STEPS, self._request.seed)
        return RowScaling.of(rows, weight_max(self._data.trading))

    def _save(self, under_way: dict[str, Any] | None, whole: int) -> None:
        """Save the finished agents and the current one; without the current one's state it would begin anew."""
        lines = whole if under_way is None else self._lines
        self._keeper.save({"finished": self.finished, "open": under_way, "lines": lines, "seconds": self.seconds})

    def choose(self) -> AgentsResult:
        """Choose the weights of SAC and TD3, and the threshold of the forecaster alone, on the validation sessions."""
        actors = [self._actor(name, agent["weights"]) for name, agent in zip(MEMBERS, self.finished, strict=True)]
        wishes = [self.wishes(actor).numpy() for actor in actors]
        dead = self._dead(wishes)
        saturated = {name: saturation_of(wish) for name, wish in zip(MEMBERS, wishes, strict=True)}
        shares, _ = choose_weights(
            lambda shares: self.net(self.look(Ensemble(actors, shares))),
            len(MEMBERS),
            dead=[name in dead for name in MEMBERS],
        )
        agents = Ensemble(actors, shares)
        threshold = max(self.plan.least, key=self._alone)
        points = [
            point
            for agent in self.finished
            for point in msgspec.json.decode(agent["curve"], type=list[ValidationCheck])
        ]
        chosen_steps = sum(int(agent["best_steps"]) for agent in self.finished)
        gradients = sum(int(agent["gradient_steps"]) for agent in self.finished)
        return AgentsResult(
            agents, threshold, self.look(agents), tuple(points), self.steps, chosen_steps, gradients, dead, saturated
        )

    def _dead(self, wishes: Sequence[NDArray[np.float32]]) -> dict[str, str]:
        """Reasons why agents count as dead, by name: constant wishes on their own path, or a useless critic."""
        reasons = {}
        for name, wish, agent in zip(MEMBERS, wishes, self.finished, strict=True):
            curve = msgspec.json.decode(agent["curve"], type=list[ValidationCheck])
            explained_values = [point.figures[EXPLAINED] for point in curve if EXPLAINED in point.figures]
            explained = explained_values[-1] if explained_values else None
            if words := why_dead(variation_of(wish[:, None]), explained):
                reasons[name] = words
        return reasons

    def _actor(self, name: str, weights: dict[str, Any]) -> Actor:
        c = self.plan.coefficients(name)
        empty = RowScaling(torch.zeros(AGENT_WIDTH), torch.ones(AGENT_WIDTH))
        actor = Actor(AGENT_WIDTH, c.actor_widths, seed=0, spread=name == "sac", normalised=c.normalised, scaling=empty)
        actor.load_state_dict(weights)
        return actor.eval()

    def diverged(self, error: NotFiniteError, name: str, steps: int) -> Diverged:
        """The same error with where it happened."""
        return Diverged(f"{self._request.name}, {name}, stopped after step {steps:,}: {error}")


def seed_of(request: Request, place: int) -> int:
    """The seed of an agent by its place among `MEMBERS`."""
    return 1000 * request.seed + place


def lift_of(request: Request) -> float:
    """The offset of an actor's first mean actions: large where it begins at the passive policy."""
    return LIFT if request.begins == PASSIVE else 0.0


def first_agents(plan: ForecastPlan, request: Request, trained: Ensemble) -> Ensemble:
    """The agents as initialised, with equal shares in the ensemble and the scaling of the trained ones."""
    actors: list[Actor] = []
    for place, (name, member) in enumerate(zip(MEMBERS, trained.members, strict=True)):
        c = plan.coefficients(name)
        assert isinstance(member, Actor)
        actors.append(
            Actor(
                AGENT_WIDTH,
                c.actor_widths,
                seed=seed_of(request, place),
                spread=name == "sac",
                normalised=c.normalised,
                scaling=member.scaling,
            )
        )
        actors[-1].lift(lift_of(request))
    return Ensemble(actors)


class _AgentRun:
    """One agent under way."""

    def __init__(self, work: AgentsTrial, name: str) -> None:
        self._work, self._name = work, name
        self.trainer, self._market, state = work.course_parts(name)
        self._every = max(1, self.trainer.total_updates // work.plan.looks)
        self._weights: dict[str, Any] = {}
        self._best_steps, self._earned, self.without = 0, float("-inf"), 0
        self._gradient_steps = 0  # until the chosen checkpoint
        self._curve: list[ValidationCheck] = []
        self._told: list[dict[str, float]] = []  # of each update since the last look
        if state is not None and isinstance(self.trainer, OffPolicyTrainer):
            self.trainer.load_state_dict(state["trainer"])
            self._weights, self._best_steps, self._earned = state["weights"], state["best_steps"], state["earned"]
            self._gradient_steps = state["gradient_steps"]
            self._curve = msgspec.json.decode(state["curve"], type=list[ValidationCheck])
            self._told, self.without = [dict(told_row) for told_row in state["told"]], state["without"]
        self._terms()

    def close(self) -> None:
        """End the processes of another engine."""
        if not isinstance(self.trainer, OffPolicyTrainer):
            self.trainer.close()

    def _terms(self) -> dict[str, float]:
        """The means of the reward's terms since the last call; empty with RLlib, in whose processes they are."""
        if self._market is None:
            return {}
        return dict(zip(("gain", "cost", "bonus"), self._market.take_terms(), strict=True))

    @property
    def whole(self) -> int:
        """All transitions of the agent's training."""
        return self.trainer.total_updates * (self.trainer.steps // self.trainer.updates)

    def update(self) -> tuple[dict[str, Any], ValidationCheck | None]:
        """Run one update. Returns its figures, and the validation check where one was due, else None."""
        trainer = self.trainer
        try:
            progress = trainer.update()
        except NotFiniteError as error:
            raise self._work.diverged(error, self._name, trainer.steps) from error
        figures = {"reward": progress.reward} | self._terms() | progress.figures
        self._told.append(figures)
        line: dict[str, Any] = {
            "agent": self._name, "alpha": self._work.plan.alpha, "steps": progress.steps,
            "update_to_data": progress.update_to_data, **figures,
        }  # fmt: skip
        looked = trainer.updates % self._every == 0 or trainer.done
        point = self._look(progress.update_to_data) if looked else None
        if point is not None:
            line |= {"validate_return": point.validate_return, "validate_trades": point.validate_trades}
        return line, point

    def _look(self, update_to_data: float) -> ValidationCheck:
        actor = self.trainer.agent.actor
        on_cpu = actor if next(actor.parameters()).device.type == "cpu" else copy.deepcopy(actor).cpu()
        results = self._work.look(on_cpu)
        earned = self._work.net(results)
        figures = _means(self._told)
        point = ValidationCheck(
            steps=self.trainer.steps,
            reward=figures.pop("reward"),
            entropy=figures.pop("entropy", 0.0),
            kl=0.0,
            clip_fraction=0.0,
            explained_variance=figures.get(EXPLAINED, 0.0),
            validate_return=earned,
            validate_trades=sum(result.trades for result in results),
            agent=self._name,
            figures=figures | {"update_to_data": update_to_data},
        )
        self._told.clear()
        self._curve.append(point)
        self.without += 1
        if earned > self._earned:
            self._weights = copy.deepcopy(on_cpu.state_dict())
            self._best_steps, self._earned, self.without = self.trainer.steps, earned, 0
            self._gradient_steps = self.trainer.gradient_steps
        return point

    def _kept(self) -> dict[str, Any]:
        return {
            "weights": self._weights,
            "best_steps": self._best_steps,
            "earned": self._earned,
            "gradient_steps": self._gradient_steps,
            "curve": msgspec.json.encode(self._curve).decode(),
        }

    def state_dict(self) -> dict[str, Any] | None:
        """All that the next updates depend on; None where the engine cannot save its state."""
        trainer = self.trainer
        if not isinstance(trainer, OffPolicyTrainer):
            return None
        state = {"trainer": trainer.state_dict(), "told": self._told, "without": self.without}
        return self._kept() | state | {"steps": trainer.steps}

    def result(self) -> dict[str, Any]:
        """The trained agent as stored with the trial."""
        return self._kept() | {"name": self._name, "steps": self.trainer.steps}


def _means(lines: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure over the lines that have it: before an agent learns there is no loss."""
    names = dict.fromkeys(name for line in lines for name in line)
    of = {name: [line[name] for line in lines if name in line] for name in names}
    return {name: math.fsum(values) / len(values) for name, values in of.items()}
