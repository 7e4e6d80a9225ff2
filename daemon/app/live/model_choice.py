"""Choose the model that a live desk starts with: the configured one, the last that answered, its champion, or none.

None is for a desk with a position or a working order: exits by a rule need no model, and the desk must be watched. It
starts halted, asks no model, and takes one as soon as the store has one and a person resumes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import UNSET

from daemon.config.load import ConfigError, DeskSettings
from daemon.config.strategy import strategy_of
from daemon.core.draft import wording
from daemon.core.events import ModelPromoted, ModelVerified
from daemon.core.state import LadderState, State
from daemon.engine.recover import recovered_desk
from daemon.engine.state_dir import enter, peek, standing
from daemon.experience.learning import LearningWatch
from daemon.host.own_files import StateDirError
from daemon.host.passing import MayPass, retry_while_busy
from daemon.host.service import Service
from daemon.journal.reader import JournalReader, reading
from daemon.journal.rows import STRATEGY_SPEC, JournalError, decode_event
from daemon.models.ladder.cards import holds_of
from daemon.models.ladder.rules import CANARY, falls
from daemon.models.pointer import CURRENT, ModelError, foreign, point
from daemon.models.runtime import NO_MODEL, NoPolicy, OnnxPolicy
from daemon.models.store import LoadedModel, check_rules, load, versions
from daemon.models.trial import try_model
from daemon.operator.alarm_command import detail_of, tell_now
from daemon.operator.log import Log
from strategies.kit.contract import AnyStrategy, Spec
from strategies.kit.manifest import MANIFEST_FILE, Golden, Manifest, Training
from strategies.kit.own.stand_in import StandIn, spec_of
from strategies.registry import configured, typed

T = TypeVar("T")


def choose_model(
    settings: DeskSettings, strategy: AnyStrategy, *, dry_run: bool
) -> tuple[LoadedModel, OnnxPolicy | NoPolicy, str]:
    """Return the model, its policy, and why the configured one was refused (or "").

    A desk with a position or a working order gets `no_model` if none can be loaded. Raises ModelError for others.
    """
    try:
        return _choose(settings, strategy, dry_run=dry_run)
    except ModelError as error:
        if dry_run or state_if_held(settings) is None:
            raise
        return no_model(settings, strategy), NoPolicy(strategy.spec.rows, str(error)), str(error)


def no_model(settings: DeskSettings, strategy: AnyStrategy) -> LoadedModel:
    """Return a stand-in for a model that cannot be loaded: without a digest, a policy or a promotion."""
    spec, nowhere = strategy.spec, settings.paths.models_dir / strategy.spec.name / NO_MODEL
    training = Training("", "", "", synthetic=False, sessions=0, first_session="", last_session="", splits={})
    actions = () if spec.continuous else spec.actions
    made_of = (spec.name, NO_MODEL, "", "", spec.observation_shape, actions)
    return LoadedModel(
        NO_MODEL, nowhere, Manifest(0, *made_of, Golden((), ()), training, {}, {}, promoted=False), "", b""
    )


def state_if_held(settings: DeskSettings) -> State[Any] | None:
    """Return the desk's state where its journal has a position or an order of its own; else None.

    Raises MayPass when it cannot be read at the moment.
    """
    state = _of_journal(settings, lambda reader: recovered_desk(reader, settings.trading()).machine.state)
    return state if state is not None and state.exposed else None


def _of_journal(settings: DeskSettings, read: Callable[[JournalReader], T]) -> T | None:
    """Return what `read` finds in this desk's journal; None without one, or where a start is not possible on it.

    Raises MayPass when it cannot be read at the moment.
    """
    path, desk = settings.paths.state_dir, settings.desk

    def attempt() -> T | None:
        meta = peek(path)
        if meta is None or (meta.get("mode"), meta.get("strategy")) != (desk.account, desk.strategy):
            return None
        with closing(JournalReader(standing(path))) as reader, reading(reader.path):
            return read(reader)

    try:
        return retry_while_busy(attempt)
    except MayPass:
        raise
    except (StateDirError, JournalError, OSError, msgspec.DecodeError):
        return None


def check_still_held(settings: DeskSettings) -> None:
    """Raise ConfigError where an own file was edited so that its desk would ignore its positions."""
    place = settings.paths.state_dir
    try:
        enter(place)
        text = (peek(place) or {}).get(STRATEGY_SPEC)
        if not text:
            return
        former, spec = spec_of(text), strategy_of(settings).spec
    except (StateDirError, JournalError, OSError, ValueError):
        return  # a start reports that itself
    if former.name != spec.name or (former.kind == spec.kind and _symbols_of(former) <= _symbols_of(spec)):
        return
    state = state_if_held(settings)
    if state is None:
        return
    symbols_held = {*state.book.positions, *(order.symbol for order in state.orders.values())}
    symbols_left = (
        symbols_held
        if former.kind != spec.kind or former.chained
        else symbols_held & _symbols_of(former) - _symbols_of(spec)
    )
    if symbols_left:
        description = f"decides at each {spec.decides} and holds {spec.holds} of {', '.join(spec.symbols)}"
        was = f"at each {former.decides}, {former.holds} of {', '.join(former.symbols)}"
        raise ConfigError(
            f"{typed(spec.name)} {description}, and the desk holds {', '.join(sorted(symbols_left))} "
            f"by its former spec ({was}): put the file back, or sell that first"
        )


def _symbols_of(spec: Spec) -> set[str]:
    return set(spec.symbols[:1] if spec.chained else spec.symbols)


def _choose(settings: DeskSettings, strategy: AnyStrategy, *, dry_run: bool) -> tuple[LoadedModel, OnnxPolicy, str]:
    last = None if dry_run or isinstance(strategy, StandIn) else _answered_last(settings)
    try:
        return *_verify(settings, strategy, settings.policy.version, last), ""
    except ModelError as error:
        if last is None:
            raise
        with contextlib.suppress(ModelError):
            model, policy = _verify(settings, strategy, last.version, last)
            if model.digest == last.digest:  # otherwise another policy of the same name
                return model, policy, str(error)
        if (champion := _champion_of(settings, last.version)) is None:
            raise
        try:
            return *_verify(settings, strategy, champion.champion, last, champion.champion_manifest), str(error)
        except ModelError as none:
            raise ModelError(error.check, f"{error.text}; nor its champion {champion.champion}: {none}") from error


class _LastAnswer(NamedTuple):
    """The version that answered last, from the journal."""

    version: str
    digest: str


def _verify(
    settings: DeskSettings, strategy: AnyStrategy, version: str, last: _LastAnswer | None, judged_digest: str = ""
) -> tuple[LoadedModel, OnnxPolicy]:
    """Load a version after all checks; `judged_digest` is its manifest's, "" for any. Raises ModelError.

    A version that is new to this journal is tried in a child process first, unless the desk is fresh and trades on
    paper: then no position can be left unwatched.
    """
    chosen = settings.policy
    model = load(settings.paths.models_dir, strategy, version, chosen.public_key, judged_digest)
    check_rules(model, strategy, settings.trading())
    if (last is not None or settings.desk.account == "live") and (model.version, model.digest) != last:
        try_model(model, symbols=configured(strategy.spec), config=strategy.spec.config)
    return model, OnnxPolicy.open(model, strategy, chosen.provider, chosen.threads)


def _answered_last(settings: DeskSettings) -> _LastAnswer | None:
    """Return the version that answered last, from the desk's journal, as `_of_journal`."""

    def newest(reader: JournalReader) -> _LastAnswer | None:
        payload = reader.newest_of(ModelVerified.__name__, ModelPromoted.__name__)
        event = decode_event(payload) if payload else None
        return _LastAnswer(event.version, event.digest) if isinstance(event, ModelVerified | ModelPromoted) else None

    return _of_journal(settings, newest)


def _champion_of(settings: DeskSettings, version: str) -> LadderState | None:
    """Return the climb of the canary that answered last, to be replaced by its champion; None if it is no canary."""
    state = _of_journal(settings, lambda reader: recovered_desk(reader, settings.trading()).machine.state)
    ladder = UNSET if state is None else state.ladder
    if ladder is UNSET or ladder.version != version:
        return None
    return ladder if ladder.step in CANARY or falls(ladder) else None


WHO, WHY = "rltraderd", "the first version"
WANTED = "policy.wait_for_first = true: the desk waits for its first model, and trades nothing"
LOOK_S = 5.0  # between two checks; systemd's watchdog is fed at each


def wait_for_first(
    settings: DeskSettings,
    log: Log,
    service: Service,
    pause: Callable[[float], None] = time.sleep,
    steady: Callable[[], float] = time.monotonic,
) -> None:
    """Return once there is a model to start with; at once unless `policy.wait_for_first` is set.

    A desk with a journal does not wait: its model is missing while positions may be open, and a person has to look.
    Causes that keep the first model away raise alarms: a failing trainer, or a refused version.

    Raises:
        ConfigError: the settings name no strategy.
    """
    if not waits(settings):
        return
    strategy, problem_told, alarms = strategy_of(settings), "", _Alarms(settings, log)
    shelf = settings.paths.models_dir / strategy.spec.name
    trainer = LearningWatch(shelf, alarms.of_trainer, desk=settings.desk.name, wanted=WANTED, steady=steady)
    while (problem := _look(settings, strategy, shelf, log, alarms)) is not None:
        if problem != problem_told:
            log("no_model", reason=problem)
            service.ready()
            service.status(f"no model: {problem}")
            problem_told = problem
        service.watchdog()
        trainer.look(trainer.read())
        pause(LOOK_S)


def waits(settings: DeskSettings) -> bool:
    """Whether a start would wait where the store has no first model yet."""
    return settings.policy.wait_for_first and not standing(settings.paths.state_dir).exists()


class _Alarms:
    """The alarms of a desk that waits for its first model: each is logged, and `alarms.command` runs for it."""

    def __init__(self, settings: DeskSettings, log: Log) -> None:
        self._settings, self._log = settings, log
        self._refusals_told = set[str]()

    def of_trainer(self, name: str, **fields: object) -> None:
        self._raise(name, detail_of(fields))

    def refused(self, problem: str) -> None:
        """Report once why a version cannot be the first."""
        if wording(problem) not in self._refusals_told:
            self._refusals_told.add(wording(problem))
            self._raise("model_refused", problem)

    def _raise(self, alarm: str, detail: str) -> None:
        self._log("alarm", alarm=alarm, detail=detail)
        tell_now(self._settings.alarms, self._settings.desk.name, alarm, detail, self._log, halted=False)


def _look(settings: DeskSettings, strategy: AnyStrategy, shelf: Path, log: Log, alarms: _Alarms) -> str | None:
    """Return why there is no model yet; None where one is named, or has just been."""
    chosen = settings.policy.version
    if (shelf / chosen).exists() and not (chosen == CURRENT and foreign(shelf / chosen)):
        return None
    if chosen != CURRENT:
        return f"{shelf} has no version {chosen} yet"
    problem = f"{shelf} has no version yet: its trainer makes the first one"
    for version in _oldest_first(settings, strategy.spec.name):
        try:
            if (why := holds_of(shelf).held.get(version)) is not None:
                problem = f"held back, {version}: {why}: release it, or activate it"
                continue
            model = load(settings.paths.models_dir, strategy, version, settings.policy.public_key)
            check_rules(model, strategy, settings.trading())
            judged_digest = model.manifest_digest
            point(shelf, CURRENT, version, author=WHO, why=WHY, now_ns=time.time_ns(), judged_digest=judged_digest)
        except (ModelError, OSError) as error:
            problem = str(error)
            alarms.refused(problem)
            continue
        log("first_model", version=version)
        return None
    return problem


def _oldest_first(settings: DeskSettings, strategy: str) -> list[str]:
    shelf, version_times = settings.paths.models_dir / strategy, []
    for version in versions(settings.paths.models_dir, strategy):
        with contextlib.suppress(OSError):
            version_times.append(((shelf / version / MANIFEST_FILE).stat().st_mtime_ns, version))
    return [version for _, version in sorted(version_times)]
