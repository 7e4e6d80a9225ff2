"""Watch the store's pointers, verify new versions off the trading loop, and activate them by one journaled event.

Nothing here makes an order or touches the live policy: a version is verified, staged and announced. Invariant: a
version that fails a check changes nothing but the journal, which records it once; one version is verified at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

from msgspec import UNSET

from daemon.core.events import CandidateRefused, Event, ModelPromoted, ReloadRequested
from daemon.core.limits import Trading
from daemon.core.step import Step
from daemon.core.strategy_rules import promoted_under
from daemon.engine.engine import IntakeFull
from daemon.host.printable import printable
from daemon.models.pointer import CANDIDATE, CURRENT
from daemon.models.runtime import Models, OnnxPolicy, Provider
from daemon.models.store import (
    LoadedModel,
    ModelError,
    Sight,
    check_promoted,
    check_rules,
    load,
    other_values,
    sight,
    stated_claim,
)
from daemon.models.trial import TrialProcess
from daemon.operator.submitter import Submitter
from daemon.pacing import look_again
from strategies.kit.contract import AnyStrategy
from strategies.registry import configured

REASON_MOST = 1000  # characters; some errors contain a graph's names
_FAILURES: tuple[type[Exception], ...] = (Exception,)

Role = Literal["live", "shadow"]


class WriteLog(Protocol):
    """Writes one declared event of the log."""

    def __call__(self, name: str, /, **fields: object) -> None: ...


@dataclass(frozen=True, slots=True)
class _Missing:
    """The store names no version there, with the reason."""

    version: str
    problem: str


class Lifecycle:
    """Run `run` on the event loop; `observe` must see every step.

    `version` and `shadow` are the configured ones: a version's name, or `current` and `candidate` for the store's
    pointers; `shadow` "" for none. With `poll_s` 0 only `ReloadRequested` starts a check.
    """

    def __init__(
        self,
        models_dir: Path,
        strategy: AnyStrategy,
        version: str,
        shadow: str,
        *,
        poll_s: float,
        public_key: str,
        provider: Provider,
        threads: int,
        trading: Trading,
        submitter: Submitter,
        models: Models,
        log: WriteLog,
        refused: str = "",
    ) -> None:
        """`refused` is why the start found no model, "" where it found one: it is reported once more on request."""
        self._models_dir, self._strategy = models_dir, strategy
        self._versions: dict[Role, str] = {"live": version, "shadow": shadow}
        self._configured_shadow = shadow
        self._judged_digest = ""  # required digest of the climbing version's manifest, "" for any
        self._poll_s = poll_s
        self._open = partial(OnnxPolicy.open, strategy=strategy, provider=provider, threads=threads)
        self._public_key, self._trading = public_key, trading
        self._submitter, self._models, self._log, self._known_refusal = submitter, models, log, refused
        self._outcomes: dict[Role, tuple[Sight | _Missing, str] | None] = {"live": None, "shadow": None}
        self._refusals: set[tuple[Role, Sight | _Missing]] = set()
        self._wake = asyncio.Event()
        models.on_shadow_off = self._shadow_off

    async def prepare(self) -> None:
        """Load the candidate before the engine starts, so that a replay asks it from the first bar."""
        while await self._settle("shadow"):
            pass

    async def run(self) -> None:
        """Check now, then each `poll_s` seconds and on every reload request, until cancelled."""
        await look_again(self.look, self._wake, self._poll_s)

    def observe(self, event: Event, _: Step) -> None:
        """Check now on a reload request, including versions refused before."""
        if type(event) is ReloadRequested:
            self._refusals.clear()
            self._known_refusal = ""
            self._outcomes = {"live": None, "shadow": None}
            self._wake.set()

    @property
    def pinned(self) -> str:
        """The version in `policy.version`, whatever `current` is; "" where it follows `current`."""
        return "" if self._versions["live"] == CURRENT else self._versions["live"]

    def wake(self) -> None:
        """Check the store now."""
        self._wake.set()

    def climb(self, version: str, judged_digest: str = "") -> None:
        """Let this version answer in shadow, replacing the configured one; "" restores that.

        `judged_digest` is the digest that its manifest must have, "" for any.
        """
        candidate, self._judged_digest = version or self._configured_shadow, judged_digest if version else ""
        if candidate != self._versions["shadow"]:
            self._versions["shadow"], self._outcomes["shadow"] = candidate, None
            if not candidate:
                self._models.drop_candidate()
            self._wake.set()

    async def look(self) -> None:
        """Check the store until each named version runs or was refused."""
        while await self._settle("live") or await self._settle("shadow"):
            pass

    async def _settle(self, role: Role) -> bool:
        """Follow one name; True when the store changed meanwhile and must be checked again."""
        if not self._versions[role]:
            return False
        sight = await asyncio.to_thread(self._sight, role)
        now = (sight, self._models.running.version)
        if self._outcomes[role] == now:
            return False
        if self._nothing_to_do(role, sight):
            self._outcomes[role] = now
            return False
        try:
            if isinstance(sight, _Missing):
                raise ModelError("pointer", sight.problem)
            policy, model = await self._verify(role, sight.version)
        except _FAILURES as error:
            if await asyncio.to_thread(self._sight, role) != sight:
                return True
            self._outcomes[role] = now
            self._refuse(role, sight, error)
            return False
        if await asyncio.to_thread(self._sight, role) != sight:
            return True  # the newest name counts
        self._outcomes[role] = now
        if role == "shadow":
            self._models.set_candidate(policy, model)
            self._log("candidate_ready", version=model.version)
        else:
            await self._activate(policy, model)
        return False

    def _nothing_to_do(self, role: Role, sight: Sight | _Missing) -> bool:
        """Return whether the named version runs already, was refused before, or is not needed."""
        running = self._models.running
        if role == "shadow" and isinstance(sight, _Missing) and not sight.version:  # no candidate
            self._models.drop_candidate()
            return True
        if isinstance(sight, Sight):
            if role == "shadow" and sight.version == running.version:
                self._models.drop_candidate()
                return True
            candidate = self._models.shadow
            model = running if role == "live" else candidate
            if model is not None and (model.version, model.manifest_digest) == (sight.version, sight.manifest_digest):
                return True
        return (role, sight) in self._refusals

    def _sight(self, role: Role) -> Sight | _Missing:
        version, shelf = self._versions[role], self._models_dir / self._strategy.spec.name
        try:
            return sight(self._models_dir, self._strategy.spec.name, version)
        except ModelError as error:
            # no candidate was named yet
            none = role == "shadow" and version == CANDIDATE and not (shelf / version).exists()
            return _Missing("" if none else version, str(error))

    # --- checks -------------------------------------------------------------------------------------------------------

    async def _verify(self, role: Role, version: str) -> tuple[OnnxPolicy, LoadedModel]:
        """Return the version's policy after all checks. Raises ModelError."""
        trial = TrialProcess()
        try:
            model = await asyncio.to_thread(self._load, version, self._judged_digest if role == "shadow" else "")
            if role == "live" and self._submitter.state.identity.account == "live":
                check_promoted(model, self._models.running, self._strategy, self._trading)
            spec = self._strategy.spec
            await asyncio.to_thread(trial.run, model, configured(spec), spec.config)
            return await asyncio.to_thread(self._open, model), model
        finally:
            trial.kill()  # ends its thread if this was cancelled

    def _load(self, version: str, judged_digest: str) -> LoadedModel:
        model = load(self._models_dir, self._strategy, version, self._public_key, judged_digest)
        check_rules(model, self._strategy, self._trading)
        return model

    # --- results ------------------------------------------------------------------------------------------------------

    async def _activate(self, policy: OnnxPolicy, model: LoadedModel) -> None:
        """Stage it and submit the event; return when it was stepped."""
        self._models.stage(policy, model)
        previous, manifest = self._models.running.version, model.manifest
        symbols = configured(self._strategy.spec)
        claim, why = stated_claim(manifest, self._trading, symbols)
        if why:
            self._log("model_warning", version=model.version, reason=why)
        is_promoted = promoted_under(manifest, self._trading, symbols)
        await self._submitter.submit(
            lambda now_ns: ModelPromoted(
                now_ns, model.version, model.digest, is_promoted, manifest.training.feed, previous, claim
            ),
            # without a deadline: staging another one now would leave this event without a policy
            deadline_s=None,
        )
        if values := await asyncio.to_thread(other_values, manifest, self._strategy.spec):
            self._log("model_warning", version=model.version, reason=values)

    def _refuse(self, role: Role, sight: Sight | _Missing, error: Exception) -> None:
        self._refusals.add((role, sight))
        text = str(error) if isinstance(error, ModelError) else f"{type(error).__name__}: {error}"
        is_known = role == "live" and bool(self._known_refusal) and self._known_refusal in text
        self.report_refused(sight.version, text, is_known=is_known)

    def _shadow_off(self, version: str, reason: str) -> None:
        outcome = self._outcomes["shadow"]
        if outcome is not None:
            self._refusals.add(("shadow", outcome[0]))
        with contextlib.suppress(IntakeFull):  # a full intake also stops trading, which ends the process
            self.report_refused(version, reason)

    def report_refused(self, version: str, reason: str, *, is_known: bool = False) -> None:
        """Journal that a version is refused; it raises an alarm, unless the start did so for this reason."""
        text = printable(" ".join(reason.split()), REASON_MOST)
        self._submitter.put(lambda at_ns: CandidateRefused(at_ns, version, text, is_known or UNSET))


@dataclass(frozen=True, slots=True)
class WatchedDesk:
    """A running desk for the watchers of its model: the store, their poll interval, and the desk's parts."""

    models_dir: Path
    strategy: AnyStrategy
    poll_s: float
    public_key: str
    submitter: Submitter
    models: Models
    lifecycle: Lifecycle
    log: WriteLog

    @property
    def shelf(self) -> Path:
        """The folder of the strategy's versions."""
        return self.models_dir / self.strategy.spec.name
