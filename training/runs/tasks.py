"""The tasks of a run's processes: train and test a trial, measure what it learned, compare it with baselines.

Every function takes what `training.runs.prepared` made, so that it works alike in this process and in a worker.
"""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.desks.kind import POLICY, FoldComparison, FoldResults
from training.desks.trial import News, Request, Trained
from training.export.ensemble import together
from training.rl.pool import Emit, Flag, Stopped
from training.rl.process_group import ProcessGroup, run_group
from training.runs.folder import TrialFolder
from training.runs.prepared import UNTRAINED, Prepared, prepare_same
from training.runs.settings import requests_of
from training.sinks.sink import Started, TrialSinks
from training.study.progress import phase, reported
from training.study.study import Fold, NetworkChange, OneAccount, PlayResult, SeedAgreement, Trial


def prior_one(prepared: Prepared, task: str, flag: Flag, emit: Emit) -> None:
    """Do or resume a task that comes before all trials."""
    work = prepared.task(requests_of(prepared.settings)[0], prepared.task_folder(task))
    control = CheckpointTimer(flag, prepared.settings.checkpoint_s)
    prepared.kind.procedure.prior(task, replace(work, control=control, listen=emit))


def train_one(prepared: Prepared, request: Request, flag: Flag, emit: Emit, group: ProcessGroup | None = None) -> Trial:
    """Train a trial and let its chosen checkpoint play the fold's test sessions; or read the finished result."""
    folder = _watched_folder(prepared, request, emit)
    group = group or ProcessGroup()
    finished = folder.finished()
    if finished is not None:
        if not group.rank:
            emit(finished)
        return finished
    if folder.outdated and not group.rank:
        emit(f"{request.name} begins anew: what is there was made by other code")
    control = CheckpointTimer(flag, prepared.settings.checkpoint_s)
    fold = prepared.folds[request.fold]
    task = replace(prepared.task(request, folder), control=control, listen=emit, group=group)
    with reported(request.name, emit):
        trained = prepared.kind.procedure.trial(task, fold)
    if group.rank:
        return _trial(request, trained, PlayResult(()))
    folder.save_weights(trained.weights)
    passive = _passive_validation(prepared, request, fold)
    lead = _validate_lead(prepared, trained, passive) if passive.sessions else None
    policy, tested = prepared.policy(request, trained.weights), prepared.span(fold.test, request.reward)
    with reported(request.name, emit), phase("test sessions"):  # no stop here: the training would be repeated
        trial = msgspec.structs.replace(
            _trial(request, trained, prepared.data.test(policy, tested)),
            lead=lead,
            passive=() if prepared.settings.averages else passive.sessions,  # else measured for the seeds' mean
        )
    trial = msgspec.structs.replace(trial, learnt=learnt_by(prepared, request, trained, fold, policy))
    folder.finish(trial)
    emit(trial)
    return trial


def _watched_folder(prepared: Prepared, request: Request, emit: Emit) -> TrialFolder:
    """The trial's folder, whose metrics the run's sinks receive."""
    folder, names = prepared.trial_folder(request), prepared.settings.sinks
    settings = prepared.settings.identity(prepared.data.info.sha256) if names else {}

    def opened(updates: int) -> TrialSinks:
        run = prepared.folder.absolute().name
        started = Started(run, request.name, folder.identity, folder.path, settings, updates)
        return TrialSinks(names, started, emit)

    folder.feed = opened if names else None
    return folder


def _passive_validation(prepared: Prepared, request: Request, fold: Fold) -> PlayResult:
    """The passive policy's result on the fold's validation sessions; empty without a passive policy."""
    passive = prepared.passive(request.network, fold.train)
    if passive is None:
        return PlayResult(())
    return PlayResult(prepared.data.evaluator(prepared.passive_span(fold.validate, request.reward), "cpu")(passive))


def _validate_lead(prepared: Prepared, trained: Trained, passive: PlayResult) -> float:
    """The trial's validation return less the larger of the passive policy's and 0."""
    theirs = prepared.data.figures(passive.sessions).net_return
    return prepared.data.figures(trained.validate).net_return - max(theirs, 0.0)


def refit_one(prepared: Prepared, request: Request, flag: Flag, emit: Emit) -> None:
    """Train on all sessions that have a decision, without validation; keep the last weights."""
    folder, every = _watched_folder(prepared, request, emit), Fold(tuple(prepared.data.days), (), ())
    if folder.finished() is not None:
        return
    control = CheckpointTimer(flag, prepared.settings.checkpoint_s)
    task = replace(prepared.task(request, folder), control=control, listen=emit)
    trained = prepared.kind.procedure.trial(task, every)
    folder.save_weights(trained.weights)
    folder.finish(_trial(request, trained, PlayResult(())))


@dataclass(frozen=True, slots=True)
class SeedGroup:
    """Requests of one fold that differ in their seed, with their finished trials."""

    requests: tuple[Request, ...]
    trials: tuple[Trial, ...]

    @property
    def name(self) -> str:
        """The name of its folder."""
        first = self.requests[0]
        return f"fold{first.fold + 1}-{first.reward}-mean"


def mean_one(prepared: Prepared, group: SeedGroup, flag: Flag, emit: Emit) -> Trial:
    """Let the mean of a fold's seeds play its validation and test sessions, or read the finished result."""
    folder, first = prepared.task_folder(group.name), group.requests[0]
    finished = folder.finished()
    if finished is not None:
        return finished
    _check_stop(flag, group.name)
    weights = [prepared.trial_folder(request).weights() for request in group.requests]
    policy, fold = prepared.mean_policy(group.requests, weights), prepared.folds[first.fold]
    passive = prepared.passive(first.network, fold.train)
    validated, tested = (prepared.span(dates, first.reward) for dates in (fold.validate, fold.test))
    beside = prepared.passive_span(fold.validate, first.reward)
    with reported(group.name, emit), phase("the mean of the seeds"):
        validate = prepared.data.evaluator(validated, "cpu")(policy)
        passive_sessions = () if passive is None else prepared.data.evaluator(beside, "cpu")(passive)
        test = prepared.data.test(policy, tested)
    mean = Trial(
        fold=first.fold,
        seed=first.seed,
        reward=first.reward,
        steps=sum(trial.steps for trial in group.trials),
        seconds=0.0,
        chosen_steps=max(trial.chosen_steps for trial in group.trials),
        stopped="",
        curve=(),
        validate=validate,
        test=test,
        learnt=learnt_together(prepared, group.requests, group.trials, weights, policy),
        members=len(group.requests),
        agreement=agreement_of(prepared, group.requests, weights) if len(weights) > 1 else None,
        passive=passive_sessions,
    )
    folder.save_weights({})
    folder.finish(mean)
    return mean


class CheckpointTimer:
    """A trial's `Control`: a checkpoint at intervals of wall-clock time, and the stop flag."""

    def __init__(self, flag: Flag, every_s: float) -> None:
        self._flag = flag
        self._every_s = every_s
        self._last = time.monotonic()

    def stop(self) -> bool:
        """See `training.desks.trial.Control`."""
        return self._flag.is_set()

    def checkpoint_due(self) -> bool:
        """See `training.desks.trial.Control`."""
        now = time.monotonic()
        due = now - self._last >= self._every_s
        self._last = now if due else self._last
        return due


@dataclass(frozen=True, slots=True)
class FoldChoice:
    """A fold's chosen policy, from raw observations to answers, and its result on the fold's test sessions."""

    fold: int
    seed: int
    reward: str  # or variant
    network: str  # "" where it was trained elsewhere
    policy: nn.Module
    played: PlayResult


def compare(prepared: Prepared, chosen: FoldChoice, flag: Flag, emit: Emit) -> FoldComparison:
    """The baselines, the random traders and the scenarios of one fold. Raises `Stopped` when `flag` is set."""

    name = f"fold {chosen.fold + 1}"
    check_stop = functools.partial(_check_stop, flag, name)
    check_stop()
    tested = prepared.span(prepared.folds[chosen.fold].test, chosen.reward)
    with reported(name, emit, check_stop):
        result = prepared.kind.procedure.compare(
            chosen.policy, chosen.played, prepared.data, tested, chosen.seed, check_stop
        )
    train = prepared.folds[chosen.fold].train
    untrained = prepared.untrained(chosen.network, chosen.seed, train) if chosen.network else None
    if untrained is not None:
        result.baselines[UNTRAINED] = prepared.data.test(untrained, tested)
    emit(f"compared {name}")
    return result


def _check_stop(flag: Flag, name: str) -> None:
    """Raises `Stopped` when `flag` is set."""
    if flag.is_set():
        raise Stopped(name)


@dataclass(frozen=True, slots=True)
class Player:
    """A player of a procedure, and the chosen policy of each fold."""

    name: str
    policies: Sequence[nn.Module]
    seed: int

    @property
    def task(self) -> str:
        """The name of its folder."""
        return f"account-{self.name.replace(' ', '-')}"


def play_one(prepared: Prepared, player: Player, flag: Flag, emit: Emit) -> FoldResults:
    """Let one player go through the tests of all folds, or read the finished result. Raises `Stopped`."""

    check_stop = functools.partial(_check_stop, flag, player.task)
    procedure, folder = prepared.kind.procedure, prepared.task_folder(player.task)
    checkpoint = folder.checkpoint()
    if checkpoint is not None:
        emit(News(player.task, 1, 1, began=1))
        return msgspec.json.decode(checkpoint["played"], type=FoldResults)
    check_stop()
    spans = [prepared.span(fold.test) for fold in prepared.folds]
    with reported(player.task, emit, check_stop), phase(player.name):
        result = procedure.play(player.name, player.policies, prepared.data, spans, player.seed, check_stop)
    folder.save({"played": msgspec.json.encode(result).decode()})
    emit(News(player.task, 1, 1))
    return result


@dataclass(frozen=True, slots=True)
class Relay:
    """The chosen policy of each fold, for the account that goes through all tests."""

    policies: Sequence[nn.Module]
    reward: str  # or variant


def relay_one(prepared: Prepared, relay: Relay, flag: Flag, emit: Emit) -> OneAccount:
    """Let the policies go through all tests on one account, or read the finished result. Raises `Stopped`."""
    task = "one-account-mean" if prepared.settings.averages else "one-account"  # `--ensemble` begins no other run
    folder, check_stop = prepared.task_folder(task), functools.partial(_check_stop, flag, task)
    checkpoint = folder.checkpoint()
    if checkpoint is not None:
        return msgspec.json.decode(checkpoint["played"], type=OneAccount)
    check_stop()
    spans = [prepared.span(fold.test, relay.reward) for fold in prepared.folds]
    with reported(task, emit, check_stop), phase("one account through all tests"):
        result = prepared.data.relay(relay.policies, spans)
    folder.save({"played": msgspec.json.encode(result).decode()})
    return result


def by_fold(played: Mapping[str, FoldResults], baselines: Collection[str]) -> list[FoldComparison]:
    """All players' results, fold by fold; players that could not play are left out."""
    compared = []
    for fold in range(len(played[POLICY].folds)):
        results = {name: player.folds[fold] for name, player in played.items() if player.folds and name != POLICY}
        draws = [player.random_pnl_usd[fold] for player in played.values() if player.random_pnl_usd]
        compared.append(
            FoldComparison(
                {name: result for name, result in results.items() if name in baselines},
                draws[0] if draws else (),
                {name: result for name, result in results.items() if name not in baselines},
            )
        )
    return compared


def run_member(group: ProcessGroup, prepare: Callable[[], Prepared], request: Request) -> None:
    """Train as a further member of a group: it reports nothing, and rank 0 decides when to stop."""
    train_one(prepare(), request, threading.Event(), lambda _: None, group)


def train_group(prepared: Prepared, request: Request, flag: Flag, emit: Emit) -> Trial:
    """Train one trial with all processes of the run, which share its environments."""
    settings, folder, version = prepared.settings, prepared.folder, prepared.version
    again = functools.partial(prepare_same, (settings, folder, version), prepared.data.info.sha256)

    def first(group: ProcessGroup) -> Trial:
        return train_one(prepared, request, flag, emit, group)

    return run_group(settings.processes, first, run_member, again, request)


def _trial(request: Request, trained: Trained, test: PlayResult) -> Trial:
    return Trial(
        fold=request.fold,
        seed=request.seed,
        reward=request.reward,
        steps=trained.steps,
        seconds=round(trained.seconds, 3),
        chosen_steps=trained.chosen_steps,
        stopped=trained.stopped,
        curve=trained.curve,
        validate=trained.validate,
        test=test,
        score=trained.score,
    )


OBSERVATIONS = 256
SHUFFLES = 200
TINY = 1e-12  # answers with smaller deviations count as constant
FEWEST_VALUES = 2  # of answers that have a deviation


def learnt_by(
    prepared: Prepared, request: Request, trained: Trained, fold: Fold, policy: nn.Module
) -> NetworkChange | None:
    """How far the chosen checkpoint is from its start; None where another engine drew the initial weights."""
    start = prepared.kind.procedure.start(prepared.task(request), fold, policy, trained.weights)
    if start is None:
        return None
    kl, size, variation = compared(prepared, fold, request.seed, start.policy, policy, start.deviations)
    last_explained = {point.agent: point.explained_variance for point in trained.curve}  # of the critics of each agent
    explained = math.fsum(last_explained.values()) / len(last_explained) if last_explained else 0.0
    return NetworkChange(trained.gradient_steps, kl, size, variation, explained)


def learnt_together(
    prepared: Prepared,
    requests: Sequence[Request],
    trials: Sequence[Trial],
    weights: Sequence[Mapping[str, Any]],
    policy: nn.Module,
) -> NetworkChange | None:
    """How far the mean of trials is from the mean of their starts; steps are those of the trial with the fewest."""
    fold, learnt = prepared.folds[requests[0].fold], [trial.learnt for trial in trials]
    changes = [change for change in learnt if change is not None]
    if len(changes) < len(learnt):
        return None
    procedure = prepared.kind.procedure
    starts_or_none = [
        procedure.start(prepared.task(request), fold, policy, trained)
        for request, trained in zip(requests, weights, strict=True)
    ]
    starts = [start for start in starts_or_none if start is not None]
    start = together([start.policy for start in starts], prepared.machine.spec.recurrent_shape)
    explored = [start.deviations for start in starts if start.deviations is not None]
    deviations = torch.stack(explored).mean(dim=0) if explored else None
    kl, size, variation = compared(prepared, fold, requests[0].seed, start, policy, deviations)
    steps = min(change.gradient_steps for change in changes)
    explained = math.fsum(change.explained_variance for change in changes) / len(changes)
    return NetworkChange(steps, kl, size, variation, explained)


def agreement_of(
    prepared: Prepared, requests: Sequence[Request], weights: Sequence[Mapping[str, Any]]
) -> SeedAgreement:
    """Whether the seeds of a fold answer its observations in the same way."""
    first = requests[0]
    observations = torch.from_numpy(prepared.data.probes(prepared.folds[first.fold], OBSERVATIONS, first.seed))
    answers = [
        _answers(prepared.policy(request, member_weights), observations, prepared)
        for request, member_weights in zip(requests, weights, strict=True)
    ]
    if not prepared.machine.spec.continuous:
        answers = [logits.softmax(dim=1) for logits in answers]
    return agreement([member.double().numpy() for member in answers], first.seed)


def agreement(answers: Sequence[NDArray[np.float64]], seed: int) -> SeedAgreement:
    """The mean correlation, over pairs of seeds, of their answers' deviations from the mean.

    The chance level comes from a permutation test that shuffles the second seed's observations (Good 2005).

    Args:
        answers: for each of at least two seeds (n, actions), to the same observations; constant ones agree with none.
        seed: of the shuffling.
    """
    random, apart = np.random.default_rng(seed), []
    for member in answers:
        deviations = member - member.mean(axis=0)
        apart.append(deviations / max(float(np.linalg.norm(deviations)), TINY))
    pairs = list(combinations(range(len(apart)), 2))

    def mean(shuffled: bool) -> float:
        order = [random.permutation(len(member)) if shuffled else slice(None) for member in apart]
        return math.fsum(float((apart[a] * apart[b][order[b]]).sum()) for a, b in pairs) / len(pairs)

    by_chance = [mean(shuffled=True) for _ in range(SHUFFLES)]
    return SeedAgreement(mean(shuffled=False), float(np.quantile(by_chance, 0.95)))


def compared(
    prepared: Prepared, fold: Fold, seed: int, start: nn.Module, policy: nn.Module, deviations: Tensor | None
) -> tuple[float, float, float]:
    """`moved` over observations of a fold that are drawn by a seed."""
    observations = torch.from_numpy(prepared.data.probes(fold, OBSERVATIONS, seed))
    return moved(_answers(start, observations, prepared), _answers(policy, observations, prepared), deviations)


def moved(before: Tensor, after: Tensor, deviations: Tensor | None) -> tuple[float, float, float]:
    """KL divergence of the answers from those before (nats), their size, and their variation over the observations.

    Args:
        before: float32 (n, actions), logits, or means of actions.
        after: the same of the policy itself.
        deviations: (actions,), or one for all, of the actions that are drawn in training; None for logits.
    """
    if deviations is not None:
        kl = ((after - before) / deviations).square().sum(dim=1).mean() / 2.0
        answers, size = after, after.abs().mean()
    else:
        now, then = after.log_softmax(dim=1), before.log_softmax(dim=1)
        kl = (now.exp() * (now - then)).sum(dim=1).mean()
        answers, size = now.exp(), now.exp().max(dim=1).values.mean()
    spread = answers.std(dim=0).mean() if len(answers) >= FEWEST_VALUES else torch.zeros(())
    return float(kl), float(size), float(spread)


@torch.no_grad()
def _answers(policy: nn.Module, observations: Tensor, prepared: Prepared) -> Tensor:
    hidden = prepared.machine.spec.recurrent_shape
    result = policy(observations, torch.zeros(len(observations), *hidden)) if hidden else policy(observations)
    answers: Tensor = result[0] if isinstance(result, tuple) else result
    return answers.float().reshape(len(observations), -1)  # one action, where each symbol is a row
