"""The lifecycle beside a running engine: what makes it look, what it refuses and how often, and how it ends."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from daemon.core.events import CandidateRefused, Event, ReloadRequested
from daemon.host.ed25519 import keygen
from daemon.models.pointer import CANDIDATE, CURRENT, point
from daemon.models.signature import sign
from daemon.operator.submitter import Submitter
from strategies.kit.card import CARD_FILE
from strategies.kit.manifest import MANIFEST_FILE, POLICY_FILE, decode, encode
from tests.support.desks.desk_at_work import until
from tests.support.desks.desk_run import Desk
from tests.support.models.climbing import CARD, with_card
from tests.support.models.swaps import Running, alarms, damage, events, name, publish, running, scalper_desk

Play = Callable[[Running], Awaitable[None]]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Versions v0 (current) and v1."""
    folder = tmp_path / "store"
    publish(folder, "v0", 0)
    publish(folder, "v1", 1)
    name(folder, "v0")
    return folder


@pytest.fixture
def desk(tmp_path: Path, store: Path) -> Desk:
    return scalper_desk(tmp_path, store, bars=2)


def play_desk(desk: Desk, path: Path, play: Play, *, shadow: str = "", public_key: str = "") -> list[CandidateRefused]:
    """What was refused while the test played."""

    async def main() -> None:
        async with running(desk, path, shadow=shadow, public_key=public_key) as run:
            await play(run)
            await run.quiet()

    asyncio.run(main())
    refused: list[CandidateRefused] = events(path, "CandidateRefused")
    assert alarms(path).count("candidate_refused") == len(refused)
    return refused


def beside(run: Running) -> str:
    """The version that answers beside the live one, "" for none."""
    return run.models.shadow.version if run.models.shadow is not None else ""


def test_a_reload_makes_it_look_at_once_and_a_cancel_ends_it(desk: Desk, store: Path, tmp_path: Path) -> None:
    async def play(run: Running) -> None:
        task = asyncio.create_task(run.lifecycle.run())  # poll_s is 0: it looks when it begins, and when asked to
        await asyncio.sleep(0)
        name(store, "v1")
        result = await run.submitter.submit(lambda now_ns: ReloadRequested(now_ns, "new model", "test"))
        assert result.step.effects == ()
        await until(lambda: run.models.running.version == "v1")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    assert play_desk(desk, tmp_path / "state", play) == []


def test_what_was_refused_is_told_once_and_again_when_it_changed_or_a_person_asks(
    desk: Desk, store: Path, tmp_path: Path
) -> None:
    damage(store / "option_scalper" / "v1")

    async def play(run: Running) -> None:
        name(store, "v1")
        for _ in range(3):
            await run.lifecycle.look()
        name(store, "v0")
        await run.lifecycle.look()
        name(store, "v1")
        await run.lifecycle.look()
        await run.quiet()
        assert len(refusals) == 1
        await run.submitter.submit(lambda now_ns: ReloadRequested(now_ns, "once more", "test"))
        await run.lifecycle.look()
        await run.quiet()
        assert len(refusals) == 2
        damage(store / "option_scalper" / "v1")  # the same bit again: whole
        await run.lifecycle.look()
        assert run.models.running.version == "v1"

    refusals: list[CandidateRefused] = []

    async def count_refusals(run: Running) -> None:
        run.observers.append(lambda event, _: refusals.append(event) if isinstance(event, CandidateRefused) else None)
        await play(run)

    refused = play_desk(desk, tmp_path / "state", count_refusals)
    assert [event.version for event in refused] == ["v1", "v1"]
    assert all("policy digest" in event.reason for event in refused)


async def test_what_the_start_has_reported_raises_no_second_alarm_before_a_person_asks(
    desk: Desk, store: Path, tmp_path: Path
) -> None:
    damage(store / "option_scalper" / "v1")
    path = tmp_path / "state"
    async with running(desk, path, refused="policy digest") as run:
        name(store, "v1")
        await run.lifecycle.look()
        await run.quiet()
        assert (len(events(path, "CandidateRefused")), alarms(path)) == (1, [])
        await run.submitter.submit(lambda now_ns: ReloadRequested(now_ns, "once more", "test"))
        await run.lifecycle.look()
        await run.quiet()
    assert (len(events(path, "CandidateRefused")), alarms(path)) == (2, ["candidate_refused"])


@pytest.mark.parametrize(
    ("pointer", "check"),
    [("../../../etc", "version name"), ("v9", "missing file"), ("", "version name"), ("v\x00", "version name")],
)
def test_a_pointer_to_nothing_or_out_of_the_store_is_refused(
    desk: Desk, store: Path, tmp_path: Path, pointer: str, check: str
) -> None:
    async def play(run: Running) -> None:
        (store / "option_scalper" / CURRENT).write_text(pointer)
        await run.lifecycle.look()
        await run.lifecycle.look()
        assert run.models.running.version == "v0"

    (refused,) = play_desk(desk, tmp_path / "state", play)
    assert check in refused.reason or "missing version" in refused.reason
    assert refused.reason.isprintable()


def test_without_a_candidate_there_is_none_and_nothing_is_told(desk: Desk, store: Path, tmp_path: Path) -> None:
    async def play(run: Running) -> None:
        await run.lifecycle.prepare()
        assert beside(run) == ""
        name(store, "v1", CANDIDATE)
        await run.lifecycle.prepare()
        assert beside(run) == "v1"
        name(store, "", CANDIDATE)
        await run.lifecycle.look()
        assert beside(run) == ""

    assert play_desk(desk, tmp_path / "state", play, shadow=CANDIDATE) == []


def test_the_live_version_is_not_asked_twice_and_takes_its_place_back_when_it_no_longer_is(
    desk: Desk, store: Path, tmp_path: Path
) -> None:
    async def play(run: Running) -> None:
        await run.lifecycle.look()
        assert beside(run) == ""
        name(store, "v1")
        await run.lifecycle.look()
        assert (run.models.running.version, beside(run)) == ("v1", "v0")

    assert play_desk(desk, tmp_path / "state", play, shadow="v0") == []


def test_a_candidate_that_was_switched_off_stays_off_until_it_changes(desk: Desk, store: Path, tmp_path: Path) -> None:
    async def play(run: Running) -> None:
        await run.lifecycle.look()
        run.models.drop_candidate()
        run.models.on_shadow_off("v1", "switched off")
        await run.lifecycle.look()
        assert beside(run) == ""

    (refused,) = play_desk(desk, tmp_path / "state", play, shadow="v1")
    assert (refused.version, refused.reason) == ("v1", "switched off")


def test_a_shadow_that_is_named_and_is_not_there_is_told(desk: Desk, store: Path, tmp_path: Path) -> None:
    async def play(run: Running) -> None:
        await run.lifecycle.look()
        assert beside(run) == ""

    (refused,) = play_desk(desk, tmp_path / "state", play, shadow="v9")
    assert refused.version == "v9"


def test_with_a_public_key_only_a_signed_version_answers(desk: Desk, store: Path, tmp_path: Path) -> None:
    public, folder = keygen(tmp_path / "key.pem"), store / "option_scalper" / "v1"

    async def play(run: Running) -> None:
        name(store, "v1")
        await run.lifecycle.look()
        assert run.models.running.version == "v0"
        sign(folder, (folder / MANIFEST_FILE).read_bytes(), tmp_path / "key.pem")
        await run.lifecycle.look()
        assert run.models.running.version == "v1"

    (refused,) = play_desk(desk, tmp_path / "state", play, public_key=public)
    assert refused.reason.startswith("model refused, signature")
    assert len(base64.b64decode(public)) == 32


def test_a_version_that_was_replaced_under_its_name_counts_as_new(tmp_path: Path, store: Path) -> None:
    desk = scalper_desk(tmp_path, store, bars=2)
    folder = store / "option_scalper" / "v0"

    async def play(run: Running) -> None:
        manifest = decode((folder / MANIFEST_FILE).read_bytes())
        (folder / MANIFEST_FILE).write_bytes(encode(msgspec.structs.replace(manifest, promoted=True)))
        await run.lifecycle.look()
        assert run.models.running.manifest.promoted

    assert play_desk(desk, tmp_path / "state", play) == []
    (event,) = events(tmp_path / "state", "ModelPromoted")
    assert (event.previous, event.version, event.promoted) == ("v0", "v0", True)


def test_the_newest_name_wins_when_it_changes_while_a_version_is_verified(
    desk: Desk, store: Path, tmp_path: Path
) -> None:
    publish(store, "v2", 2)

    async def play(run: Running) -> None:
        name(store, "v1")
        looking = asyncio.create_task(run.lifecycle.look())
        await asyncio.sleep(0.1)  # in its trial
        name(store, "v2")
        await looking
        assert run.models.running.version == "v2"

    assert play_desk(desk, tmp_path / "state", play) == []
    assert [event.version for event in events(tmp_path / "state", "ModelPromoted")][-1] == "v2"


def test_a_version_that_vanishes_is_refused_and_the_running_one_goes_on(
    desk: Desk, store: Path, tmp_path: Path
) -> None:
    async def play(run: Running) -> None:
        name(store, "v1")
        (store / "option_scalper" / "v1" / POLICY_FILE).unlink()
        await run.lifecycle.look()
        assert run.models.running.version == "v0"

    (refused,) = play_desk(desk, tmp_path / "state", play)
    assert "missing file" in refused.reason


def test_a_version_answers_once_the_last_file_that_its_manifest_names_is_there(
    desk: Desk, store: Path, tmp_path: Path
) -> None:
    card = with_card(store, CARD) / CARD_FILE
    data = card.read_bytes()

    async def play(run: Running) -> None:
        card.unlink()
        name(store, "v2")
        await run.lifecycle.look()
        assert run.models.running.version == "v0"
        card.write_bytes(data)
        await run.lifecycle.look()
        assert run.models.running.version == "v2"

    (refused,) = play_desk(desk, tmp_path / "state", play)
    assert "missing file" in refused.reason


def test_with_real_money_no_unpromoted_version_takes_a_promoted_ones_place(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    publish(folder, "good", 0, promoted=True)
    publish(folder, "bad", 1)
    publish(folder, "better", 2, promoted=True)
    point(folder / "option_scalper", CURRENT, "good", author="test", why="test", now_ns=0)
    desk = scalper_desk(tmp_path, folder, bars=2)

    async def play(run: Running) -> None:
        state = run.engine.machine.state
        identity = msgspec.structs.replace(state.identity, account="live")
        run.engine.machine.state = msgspec.structs.replace(state, identity=identity)
        name(folder, "bad")
        await run.lifecycle.look()
        assert run.models.running.version == "good"
        name(folder, "better")
        await run.lifecycle.look()
        assert run.models.running.version == "better"

    (refused,) = play_desk(desk, tmp_path / "state", play)
    assert (refused.version, refused.reason.split(":")[0]) == ("bad", "model refused, not promoted")


def test_a_version_that_waits_for_a_busy_engine_answers_before_the_one_that_was_named_after_it(
    desk: Desk, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine stands still (its disk does) for longer than a command waits, and the pointer moves on meanwhile."""
    publish(store, "v2", 2)
    monkeypatch.setattr(Submitter.submit, "__defaults__", (0.05,))
    queue: list[Event] = []

    async def play(run: Running) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(run.submitter, "_put", queue.append)
            name(store, "v1")
            looking = asyncio.create_task(run.lifecycle.look())
            await until(lambda: len(queue) == 1)
            name(store, "v2")
            await asyncio.wait([looking], timeout=0.2)
            patch.setattr(run.submitter, "_put", run.intake.put)
            if looking.done():
                await run.lifecycle.look()
        run.intake.put(queue[0])
        async with asyncio.timeout(180):
            await run.quiet()
            await looking
            await run.lifecycle.look()
        assert run.models.running.version == "v2"

    assert play_desk(desk, tmp_path / "state", play) == []
    assert [event.version for event in events(tmp_path / "state", "ModelPromoted")] == ["v1", "v2"]
