"""A search through Ray Tune: the same trials, book and files as without it, on a cluster or on this machine.

Ray trains the trials and prunes them by successive halving (ASHA); suggestions and results stay in the search's own
book.
"""

from __future__ import annotations

import functools
import importlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from training.desks.trial import Diverged
from training.rl.dimensions import Plan
from training.rl.pool import Flag, Stopped, blamed_here
from training.rl.ray_cluster import LOCAL, connected
from training.studies.search.trials import (
    Search,
    TrialBook,
    TrialResult,
    TrialSetup,
    TrialTraining,
    make_ready,
    trainings_of,
)

if TYPE_CHECKING:
    import optuna

WORSE = 2  # reduction factor: of this many trials at the same stage ASHA continues the best
RETRIES = 1  # retries of a trial whose machine was lost


def search_through_ray(
    book: TrialBook,
    version: str,
    folder: Path,
    positions: Sequence[int],
    listen: Callable[[str | TrialResult], None],
    stop: Flag,
) -> None:
    """Train the trials that are left; each is closed in `book` as it ends.

    The bars and this package are read on every machine of a cluster from the paths they have here.

    Raises:
        Stopped: `stop` was set; what was under way is taken up by the next search.
        RuntimeError: Ray is not installed, no cluster answers, or a trial failed; the text names it.
    """
    asking = Asking(book, iter(positions), listen, stop)
    with connected(book.search.ray, book.search.run.processes):
        errors = _tune(importlib.import_module("ray.tune"), asking, version, folder, len(positions))
    if stop.is_set():
        raise Stopped(str(folder))
    if errors:
        last_line = str(errors[0]).strip().splitlines()[-1]
        raise RuntimeError(f"{len(errors)} trials failed in Ray ({last_line}): see {folder}; the same command goes on")


def _tune(tune: Any, asking: Asking, version: str, folder: Path, count: int) -> Sequence[BaseException]:
    """Let Ray Tune ask for `count` trials and train them; the errors of those that failed."""
    search = asking.book.search
    anywhere = replace(search, run=replace(search.run.anywhere(), run_folder=folder.absolute()))
    searcher, callback = _interfaces(tune, asking)
    pairs = len(search.pairs)
    asha = None
    if pairs > 1:
        asha = tune.schedulers.AsyncHyperBandScheduler(
            time_attr="trainings", metric="worth", mode="max", max_t=pairs, grace_period=1, reduction_factor=WORSE
        )
    resources = {"cpu": 1.0} | ({} if search.run.device == "cpu" else {"gpu": 1.0})
    tuner = tune.Tuner(
        tune.with_resources(functools.partial(train_in_ray, search=anywhere, version=version), resources),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=asha,
            num_samples=count,
            max_concurrent_trials=search.run.processes if search.ray == LOCAL else None,
            reuse_actors=True,  # torch and the bars are read once in each process
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            name="ray",
            storage_path=str(folder.resolve()),
            verbose=0,
            callbacks=[callback, tune.logger.JsonLoggerCallback()],  # the grid is read from its files
            failure_config=tune.FailureConfig(max_failures=RETRIES),
        ),
    )
    try:
        return list(tuner.fit().errors)
    except Exception:
        if asking.stop.is_set():
            return []
        raise


@blamed_here()
def train_in_ray(config: dict[str, Any], *, search: Search, version: str) -> None:
    """Train one trial in a process of Ray; each training is reported as it ends, as JSON in `training`."""
    tune: Any = importlib.import_module("ray.tune")
    ready = _ready(search, version)
    recipe = search.recipe(config["coefficients"])
    returns = list(config["returns"])
    never = threading.Event()
    for fold, seed in search.pairs[len(returns) :]:
        try:
            training = ready.train(recipe, fold, seed, never)
        except Diverged as error:
            tune.report({"worth": -1.0, "trainings": len(returns) + 1, "reason": f"diverged: {error}"})
            return
        returns.append(training.net_return)
        encoded = msgspec.json.encode(training).decode()
        tune.report({"worth": sum(returns) / len(returns), "trainings": len(returns), "training": encoded})


@functools.lru_cache(maxsize=1)
def _ready(search: Search, version: str) -> TrialSetup:
    """The inputs that this Ray process has read."""
    return make_ready(search, version)


class Asking:
    """Between Ray and the book: which of Ray's trials is which of ours. In the driver alone."""

    def __init__(
        self, book: TrialBook, positions: Iterator[int], listen: Callable[[str | TrialResult], None], stop: Flag
    ) -> None:
        self.book = book
        self.stop = stop
        self._positions = positions
        self._listen = listen
        self._open: dict[str, tuple[optuna.Trial, Plan]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles its callbacks to resume from; resuming uses the book instead, so copies are empty."""
        return {}

    def ask(self, name: str) -> dict[str, Any] | None:
        """What Ray's next trial is to train; None when there are enough."""
        position = next(self._positions, None)
        if position is None:
            return None
        trial, recipe = self.book.ask(position)
        self._open[name] = trial, recipe
        returns = [training.net_return for training in trainings_of(trial.user_attrs)]
        return {"coefficients": self.book.search.encoded(recipe), "returns": returns}

    def hear(self, name: str, result: dict[str, Any]) -> None:
        """Keep a reported training once: a trial restarted on another machine reports its first trainings again."""
        trial, _ = self._open[name]
        if result.get("training") and result["trainings"] == len(trainings_of(trial.user_attrs)) + 1:
            self.book.add(trial, msgspec.json.decode(result["training"], type=TrialTraining))

    def end(self, name: str, result: dict[str, Any] | None) -> None:
        """Close a trial that trained to its end, diverged or was given up; leave open what failed or was stopped."""
        if result is None:
            return
        self.hear(name, result)
        trial, recipe = self._open.pop(name)
        reason: str = result.get("reason", "")
        if not reason and len(trainings_of(trial.user_attrs)) < len(self.book.search.pairs):
            if self.stop.is_set():
                return
            reason = "pruned: in the worse half of those as far (ASHA)"
        self._listen(self.book.close(trial, recipe, reason))


def _interfaces(tune: Any, asking: Asking) -> tuple[Any, Any]:
    """What Ray Tune calls: a searcher, and a callback that ends everything once it shall stop.

    Both must be subclasses of Ray's, which may be missing here; they are made when they are needed.
    """
    searcher: Any = tune.search.Searcher

    def suggest(_: object, trial_id: str) -> Any:
        suggestion = asking.ask(trial_id)
        return searcher.FINISHED if suggestion is None else suggestion

    def on_trial_result(_: object, trial_id: str, result: dict[str, Any]) -> None:
        asking.hear(trial_id, result)

    def on_trial_complete(_: object, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        asking.end(trial_id, None if error else result)

    def nothing(_: object, _path: str) -> None:
        """Saves nothing: the book has all state."""

    def on_step_begin(_: object, **_info: Any) -> None:
        if asking.stop.is_set():
            raise Stopped("ray")

    calls = (suggest, on_trial_result, on_trial_complete)
    methods = {call.__name__: call for call in calls} | {"save": nothing, "restore": nothing}
    searcher_class: Any = type("Asked", (searcher,), methods)
    ending: Any = type("Ending", (tune.Callback,), {"on_step_begin": on_step_begin})
    return searcher_class(metric="worth", mode="max"), ending()
