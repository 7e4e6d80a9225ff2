"""A running desk whose model proves a claim about risk: real engine, store, trial and lifecycle, on a daily tape.

The claim is about a drawdown of a thousandth, which a desk that holds shares soon breaks.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from daemon.core.events import ClaimJudged
from daemon.core.state import ClaimState
from daemon.core.strategy_rules import DIGEST, desk_keys, rules_digest, trading_for, with_rules
from daemon.models import claim_watch
from daemon.models.claim_watch import ClaimWatch
from daemon.models.ladder.cards import HOLDS_FILE, HoldReasons, write_holds
from daemon.models.pointer import CURRENT, pointer_text
from daemon.models.store import claim_words, how_to_claim, stated_claim
from strategies import regime_switcher
from strategies.kit.manifest import MANIFEST_FILE, StatedClaim, decode, encode
from strategies.registry import strategy as registered
from tests.support.desks.desk_run import Crash, Desk, rltraderctl, settings, verified
from tests.support.models.climbing import watched_desk
from tests.support.models.daily_models import VERSION, put_models, write_days
from tests.support.models.swaps import Running, alarms, events, name, running

SWITCHER = "regime_switcher"
SESSIONS = 275
CLAIM = StatedClaim(
    kind="risk",
    proven=True,
    sentence="a risk of 10 % is kept",
    volatility_target=0.10,
    volatility_low=0.08,
    volatility_high=0.12,
    window_sessions=60,
    probability=0.9,
    drawdown_max=0.001,
    drawdown_probability=0.95,
)


def publish(store: Path, version: str, claim: StatedClaim | None = None, *, passive: bool = False) -> None:
    """The fixture's policy as another version of the store."""
    shelf = store / SWITCHER
    folder = shutil.copytree(shelf / VERSION, shelf / version)
    manifest = decode((folder / MANIFEST_FILE).read_bytes())
    metrics = {**manifest.metrics, "exported": "passive"} if passive else manifest.metrics
    tested = settings(Path("unused"), desk__strategy=SWITCHER, basket__volatility_target=0.1).trading()
    rules = {**manifest.rules, DIGEST: rules_digest(tested)}
    desk = desk_keys(SWITCHER, tested)
    other = msgspec.structs.replace(manifest, version=version, claim=claim, metrics=metrics, rules=rules, desk=desk)
    (folder / MANIFEST_FILE).write_bytes(encode(other))


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which `v1` was current before `v2`, which states the claim, and a tape."""
    folder = tmp_path_factory.mktemp("warm")
    store = put_models(folder / "store")
    publish(store, "v1")
    publish(store, "v2", CLAIM)
    for version in ("v1", "v2"):
        name(store, version, strategy=SWITCHER)
    write_days(folder / "tape.csv", regime_switcher.SYMBOLS, SESSIONS)
    return folder


@dataclass
class Watched:
    """A running desk with its watch, fed session by session."""

    run: Running
    watch: ClaimWatch

    async def settle(self) -> None:
        """Let verdicts, store and model follow one another until nothing moves."""
        await self.run.settle(self.watch.look, self.run.lifecycle.look)

    async def session(self) -> None:
        """Feed to the end of the running or next session, and let all follow."""
        await self.run.feed_session()
        await self.settle()

    @property
    def claim(self) -> ClaimState | None:
        state = self.run.submitter.state.claim
        return state if isinstance(state, ClaimState) else None


class Mortal(ClaimWatch):
    """The watch, killed at boundary number `dies_at` (0: never)."""

    dies_at = 0
    passed: tuple[str, ...] = ()

    async def _judge(self, *more: Any) -> None:
        self._at("before the verdict is journaled")
        await super()._judge(*more)
        self._at("before the pointer follows")

    async def _align(self) -> None:
        before = pointer_text(self._desk.shelf, CURRENT)
        await super()._align()
        if pointer_text(self._desk.shelf, CURRENT) != before:
            self._at("before the desk follows the pointer")

    def _at(self, boundary: str) -> None:
        self.passed = (*self.passed, boundary)
        if len(self.passed) == self.dies_at:
            raise Crash


def run_desk(
    folder: Path,
    play: Callable[[Watched], Awaitable[None]],
    consequence: str = "no_new_risk",
    dies_at: int = 0,
    target: float = CLAIM.volatility_target,
) -> tuple[str, ...]:
    """Start the desk on what is in the folder and play; returns the boundaries that its watch passed."""
    store = folder / "store"
    desk = Desk(
        folder / "tape.csv",
        desk__strategy=SWITCHER,
        paths__models_dir=store,
        policy__version=CURRENT,
        basket__volatility_target=target,
    )
    watches: list[Mortal] = []

    async def start() -> None:
        async with running(desk, folder / "state") as run:
            watch = Mortal(
                watched_desk(run, store, registered(SWITCHER)),
                consequence,
                desk.replay.settings.trading(),
            )
            watch.dies_at = dies_at
            watches.append(watch)
            run.observers.append(watch.observe)
            live_desk = Watched(run, watch)
            await live_desk.settle()
            await play(live_desk)

    try:
        asyncio.run(start())
    except Crash:
        assert dies_at
    return watches[0].passed


async def until_broken(live_desk: Watched) -> None:
    """Feed until the claim is broken, and all follows."""
    while live_desk.run.fed < len(live_desk.run.tape):
        if live_desk.claim is not None and live_desk.claim.broken:
            return
        await live_desk.session()
    raise AssertionError("the claim was kept")


def verdicts(folder: Path) -> list[ClaimJudged]:
    return events(folder / "state", "ClaimJudged")


def test_a_broken_claim_takes_no_new_risk_and_moves_no_pointer(warm: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(warm, tmp_path / "desk")

    async def play(live_desk: Watched) -> None:
        await until_broken(live_desk)
        assert live_desk.run.models.running.version == "v2"
        await live_desk.session()

    run_desk(folder, play)
    (verdict,) = verdicts(folder)
    assert (verdict.version, verdict.verdict, verdict.consequence, verdict.former) == (
        "v2", "drawdown", "no_new_risk", "",
    )  # fmt: skip
    assert verdict.drawdown > 0.001
    assert alarms(folder / "state").count("claim_broken") == 1
    assert pointer_text(folder / "store" / SWITCHER, CURRENT) == "v2"
    assert verified(folder / "state").difference == ""


def test_a_broken_claim_survives_a_start_and_a_rotation(warm: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(warm, tmp_path / "desk")
    run_desk(folder, until_broken)
    first_verdicts = verdicts(folder)
    assert rltraderctl("rotate", "--state-dir", folder / "state", cwd=tmp_path).returncode == 0

    async def later(live_desk: Watched) -> None:
        assert live_desk.claim is not None
        assert [*live_desk.claim.broken] == ["v2"]
        await live_desk.session()

    run_desk(folder, later)
    assert [verdict for verdict in verdicts(folder) if verdict not in first_verdicts] == []  # it was said before
    assert alarms(folder / "state").count("claim_broken") <= 1
    assert verified(folder / "state").difference == ""


def test_the_former_version_answers_again_and_the_broken_one_stays_in_the_store(warm: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(warm, tmp_path / "desk")

    async def play(live_desk: Watched) -> None:
        await until_broken(live_desk)
        assert live_desk.run.models.running.version == "v1"
        assert live_desk.claim is not None
        assert (live_desk.claim.version, [*live_desk.claim.broken]) == ("", ["v2"])

    run_desk(folder, play, "former_version")
    assert [verdict.former for verdict in verdicts(folder)] == ["v1"]
    assert pointer_text(folder / "store" / SWITCHER, CURRENT) == "v1"
    assert (folder / "store" / SWITCHER / "v2" / MANIFEST_FILE).exists()
    assert [event.version for event in events(folder / "state", "ModelPromoted")] == ["v1"]
    assert verified(folder / "state").difference == ""


def test_without_a_former_version_the_passive_policy_answers_and_without_one_nothing_is_bought(
    warm: Path, tmp_path: Path
) -> None:
    for passive, expected in ((True, "idle"), (False, "")):
        folder = shutil.copytree(warm, tmp_path / f"{passive}")
        shelf = folder / "store" / SWITCHER
        (shelf / "promotions.jsonl").unlink()
        if passive:
            publish(folder / "store", "idle", passive=True)
        run_desk(folder, until_broken, "former_version")
        assert [verdict.former for verdict in verdicts(folder)] == [expected]
        assert pointer_text(shelf, CURRENT) == (expected or "v2")


def test_with_real_money_a_former_version_that_is_promoted_under_other_rules_is_not_gone_back_to(
    warm: Path, tmp_path: Path
) -> None:
    """The lifecycle refuses such a version on a live account: the pointer would name one that never answers."""
    store = put_models(tmp_path / "store")
    shutil.copy(warm / "tape.csv", tmp_path)
    publish(store, "v1", CLAIM)
    publish(store, "v2", CLAIM)
    publish(store, "idle", passive=True)
    for version, rules in (("v1", {DIGEST: "others"}), ("v2", {}), ("idle", {})):
        path = store / SWITCHER / version / MANIFEST_FILE
        manifest = decode(path.read_bytes())
        path.write_bytes(encode(msgspec.structs.replace(manifest, promoted=True, rules={**manifest.rules, **rules})))
    for version in ("v1", "v2"):
        name(store, version, strategy=SWITCHER)

    async def play(live_desk: Watched) -> None:
        state = live_desk.run.engine.machine.state
        identity = msgspec.structs.replace(state.identity, account="live")
        live_desk.run.engine.machine.state = msgspec.structs.replace(state, identity=identity)
        await until_broken(live_desk)
        assert live_desk.run.models.running.version == "idle"

    run_desk(tmp_path, play, "former_version")
    assert [verdict.former for verdict in verdicts(tmp_path)] == ["idle"]
    assert pointer_text(store / SWITCHER, CURRENT) == "idle"


def test_a_former_version_that_no_check_passes_is_not_gone_back_to(warm: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(warm, tmp_path / "desk")
    policy = folder / "store" / SWITCHER / "v1" / "policy.onnx"
    policy.write_bytes(policy.read_bytes()[:-1])
    run_desk(folder, until_broken, "former_version")
    assert [verdict.former for verdict in verdicts(folder)] == [""]
    assert pointer_text(folder / "store" / SWITCHER, CURRENT) == "v2"


@pytest.mark.parametrize("why", ["a person holds it back", "it cannot be read who is held back", "the store is away"])
def test_whatever_keeps_the_former_version_back_the_broken_one_takes_no_new_risk(
    warm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    folder = shutil.copytree(warm, tmp_path / "desk")
    shelf = folder / "store" / SWITCHER
    if why == "a person holds it back":
        write_holds(shelf, HoldReasons(held={"v1": "it loses (by ann)"}))
    elif why == "the store is away":
        monkeypatch.setattr(claim_watch, "former_version", stale)
    else:
        (shelf / HOLDS_FILE).write_text("{")

    async def play(live_desk: Watched) -> None:
        await until_broken(live_desk)
        assert live_desk.claim is not None
        assert [*live_desk.claim.broken] == ["v2"]

    run_desk(folder, play, "former_version")
    assert [verdict.former for verdict in verdicts(folder)] == [""]
    assert pointer_text(shelf, CURRENT) == "v2"


def stale(_: Path) -> str:
    raise OSError(116, "Stale file handle")


def test_a_kill_at_any_boundary_leads_to_the_same_verdict_and_pointer(warm: Path, tmp_path: Path) -> None:
    undisturbed = shutil.copytree(warm, tmp_path / "undisturbed")
    boundaries = run_desk(undisturbed, until_broken, "former_version")
    assert boundaries == (
        "before the verdict is journaled", "before the pointer follows", "before the desk follows the pointer",
    )  # fmt: skip
    for number, boundary in enumerate(boundaries, 1):
        folder = shutil.copytree(warm, tmp_path / f"{number}")
        assert run_desk(folder, until_broken, "former_version", number)[-1] == boundary

        async def goes_on(live_desk: Watched) -> None:
            await until_broken(live_desk)
            assert live_desk.run.models.running.version == "v1"

        run_desk(folder, goes_on, "former_version")
        assert [(v.verdict, v.former, v.drawdown) for v in verdicts(folder)] == [
            (v.verdict, v.former, v.drawdown) for v in verdicts(undisturbed)
        ], boundary
        assert pointer_text(folder / "store" / SWITCHER, CURRENT) == "v1", boundary
        assert alarms(folder / "state").count("claim_broken") == 1, boundary
        assert verified(folder / "state").difference == "", boundary


def test_under_other_rules_the_claim_does_not_hold_and_nobody_watches_it(warm: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(warm, tmp_path / "desk")

    async def play(live_desk: Watched) -> None:
        while live_desk.run.fed < len(live_desk.run.tape):
            await live_desk.session()
        assert live_desk.claim is None

    run_desk(folder, play, target=0.0)
    assert verdicts(folder) == []


@pytest.mark.parametrize(
    ("target", "symbols", "why"),
    [
        (0.1, ("AAA", "BBB"), ""),
        (0.0, ("AAA", "BBB"), "it holds with [basket] volatility_target = 0.1 (this desk: 0)"),
        (0.12, ("AAA", "BBB"), "it holds with [basket] volatility_target = 0.1 (this desk: 0.12)"),
        (
            0.1,
            ("AAA", "CCC"),
            "it holds for the symbols of its tests (AAA, BBB); this desk has AAA, CCC",
        ),
    ],
)
def test_a_claim_holds_for_the_rules_and_symbols_that_it_is_about(
    warm: Path, target: float, symbols: tuple[str, ...], why: str
) -> None:
    manifest = decode((warm / "store" / SWITCHER / "v2" / MANIFEST_FILE).read_bytes())
    manifest = msgspec.structs.replace(manifest, symbols=("AAA", "BBB"))
    rules = settings(Path("unused"), desk__strategy=SWITCHER, basket__volatility_target=target).trading()
    claim, text = stated_claim(manifest, rules, symbols)
    assert (claim is UNSET) == bool(why)
    assert text == (f"no claim of risk is made: {why}" if why else "")
    assert claim_words(manifest, rules, symbols) == (text or CLAIM.sentence)
    assert how_to_claim(manifest, rules, symbols) == (("[basket]", "volatility_target = 0.1") if target != 0.1 else ())


@pytest.mark.parametrize(
    "claim",
    [
        None,
        msgspec.structs.replace(CLAIM, proven=False),
        StatedClaim(kind="lead", proven=True, sentence="a lead of 5 % a year"),
    ],
)
def test_what_is_not_proven_or_no_risk_promises_nothing(warm: Path, claim: StatedClaim | None) -> None:
    manifest = decode((warm / "store" / SWITCHER / "v2" / MANIFEST_FILE).read_bytes())
    rules = with_rules(trading_for(SWITCHER), {"basket.volatility_target": "0.1"})
    assert stated_claim(msgspec.structs.replace(manifest, claim=claim), rules, ()) == (UNSET, "")
