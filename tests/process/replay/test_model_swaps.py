"""Models swapped under a running desk: no bar is missed, each answer is that of the version in force, proof holds.

The real engine on a tape, with the parts of the live wiring: intake, submitter, models, lifecycle. Nothing is timed.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from pydantic import SecretStr

from daemon.app.live.prepare import Live, prepare_live
from daemon.config.load import Credentials, DeskSettings, load
from daemon.core.events import (
    Event,
    ModelPromoted,
    ModelVerified,
)
from daemon.engine.state_dir import open_state_dir
from daemon.journal.journal import FILE
from daemon.journal.rows import CommitBatch, HashChain
from daemon.models.pointer import CANDIDATE, CURRENT
from daemon.models.store import ModelError
from daemon.models.store import load as loaded
from strategies import regime_switcher
from strategies.golden import golden_observations
from strategies.kit.manifest import Golden
from strategies.registry import strategy as registered
from tests.support.desks.desk_run import Desk, read_models, table, verified
from tests.support.models.daily_models import put_models, write_days
from tests.support.models.swaps import (
    KIND,
    MODEL,
    SCALPER,
    Running,
    alarms,
    damage,
    events,
    name,
    publish,
    publish_malicious,
    running,
    scalper_desk,
)
from tests.support.models.tiny_models import graph, manifest_of, put

# --- the session with ten swaps -----------------------------------------------------------------------------------


def test_ten_swaps_in_a_session_miss_no_bar_and_two_broken_versions_change_nothing(tmp_path: Path) -> None:
    store = tmp_path / "store"
    for number in range(9):
        publish(store, f"v{number}", number)
    damage(publish(store, "damaged", 50))
    publish_malicious(store, "malicious", "an endless Loop")
    name(store, "v0")
    swaps = ["v1", "v2", "v3", "damaged", "v4", "v5", "malicious", "v6", "v7", "v8"]
    desk = scalper_desk(tmp_path, store)
    versions: list[str] = []

    async def play() -> int:
        async with running(desk, tmp_path / "state") as run:
            await run.feed_to_last_session(40)
            part = (len(run.tape) - run.fed) // (len(swaps) + 1)
            for version in swaps:
                name(store, version)
                await run.lifecycle.look()
                await run.quiet()
                versions.append(run.models.running.version)
                await run.lifecycle.look()  # a second look at what is refused logs nothing more
                await run.feed(part)
            await run.feed()
            return run.engine.machine.state.stats.bars

    bars = asyncio.run(play())
    assert versions == ["v1", "v2", "v3", "v3", "v4", "v5", "v5", "v6", "v7", "v8"]
    assert bars == len((tmp_path / "tape.csv").read_text().splitlines()) - 1
    story = events(tmp_path / "state", "ModelVerified", "ModelPromoted", "PolicyAnswered", "CandidateRefused")
    version, answers, refused = "", [], []
    for event in story:
        match type(event).__name__:
            case "PolicyAnswered":
                assert event.model == version
                answers.append(event.model)
            case "CandidateRefused":
                refused.append((event.version, event.reason.split(":")[0]))
            case _:
                version = event.version
    assert list(dict.fromkeys(answers)) == ["v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8"]
    rows = [row for row in table(tmp_path / "state", "decisions") if row[KIND] == "policy"]
    assert [row[MODEL] for row in rows] == answers
    assert refused == [("damaged", "model refused, policy digest"), ("malicious", "model refused, graph operator")]
    assert alarms(tmp_path / "state").count("candidate_refused") == 2
    assert verified(tmp_path / "state").difference == ""


def test_a_swap_is_told_once_and_what_already_runs_is_left_alone(tmp_path: Path) -> None:
    store = tmp_path / "store"
    for number in range(2):
        publish(store, f"v{number}", number)
    name(store, "v0")
    desk = scalper_desk(tmp_path, store, bars=30)

    async def play() -> None:
        async with running(desk, tmp_path / "state") as run:
            await run.lifecycle.look()
            name(store, "v1")
            await run.lifecycle.look()
            await run.lifecycle.look()
            name(store, "v0")
            await run.lifecycle.look()

    asyncio.run(play())
    swaps = [(event.previous, event.version) for event in events(tmp_path / "state", "ModelPromoted")]
    assert swaps == [("v0", "v1"), ("v1", "v0")]


# --- beside -------------------------------------------------------------------------------------------------------


def test_a_candidate_beside_changes_no_decision_no_order_no_fill_and_no_cent(tmp_path: Path) -> None:
    store = tmp_path / "store"
    publish(store, "live", 1)
    publish(store, "shadow", 2)
    name(store, "live")
    name(store, "shadow", CANDIDATE)
    desk = scalper_desk(tmp_path, store)

    async def play(path: Path, shadow: str) -> Running:
        async with running(desk, path, shadow=shadow) as run:
            await run.lifecycle.look()
            await run.feed()
            return run

    alone = asyncio.run(play(tmp_path / "alone", ""))
    with_shadow = asyncio.run(play(tmp_path / "both", CANDIDATE))
    assert with_shadow.models.shadow is not None
    assert [fields for event, fields in with_shadow.log if event == "candidate_ready"] == [{"version": "shadow"}]
    assert read_models(tmp_path / "both") == read_models(tmp_path / "alone")
    assert with_shadow.engine.machine.state.book == alone.engine.machine.state.book
    assert with_shadow.engine.machine.state.stats.fills > 0
    answers = events(tmp_path / "both", "ShadowAnswered")
    live = events(tmp_path / "both", "PolicyAnswered")
    assert [event.decision for event in answers] == [event.decision for event in live]
    assert {event.model for event in answers} == {"shadow"}
    assert len(table(tmp_path / "both", "shadows")) == len(answers)
    assert verified(tmp_path / "both").difference == ""


def test_a_candidate_that_is_promoted_answers_once_and_no_longer_beside(tmp_path: Path) -> None:
    store = tmp_path / "store"
    publish(store, "live", 1)
    publish(store, "next", 2)
    name(store, "live")
    name(store, "next", CANDIDATE)
    desk = scalper_desk(tmp_path, store, bars=60)

    async def play() -> None:
        async with running(desk, tmp_path / "state", shadow=CANDIDATE) as run:
            await run.lifecycle.look()
            await run.feed_to_last_session(40)
            name(store, "next")
            await run.lifecycle.look()
            assert run.models.shadow is None
            await run.feed()

    asyncio.run(play())
    story = events(tmp_path / "state", "ModelPromoted", "ShadowAnswered", "PolicyAnswered")
    swapped = next(place for place, event in enumerate(story) if type(event).__name__ == "ModelPromoted")
    after = {(type(event).__name__, event.model) for event in story[swapped + 1 :]}
    assert after == {("PolicyAnswered", "next")}
    assert {type(event).__name__ for event in story[:swapped]} == {"ShadowAnswered", "PolicyAnswered"}


# --- a policy with a memory ---------------------------------------------------------------------------------------


def test_a_swap_begins_a_new_memory_and_a_candidate_keeps_its_own(tmp_path: Path) -> None:
    store = put_models(tmp_path / "store")
    for version, seed in (("second", 11), ("beside", 12)):
        publish_walker(store, version, seed)
    name(store, "fixture", strategy="regime_switcher")
    name(store, "beside", CANDIDATE, "regime_switcher")
    tape = write_days(tmp_path / "etf.csv", regime_switcher.SYMBOLS, 268)
    desk = Desk(tape, desk__strategy="regime_switcher", paths__models_dir=store, policy__version=CURRENT)

    async def play() -> Running:
        async with running(desk, tmp_path / "state", shadow=CANDIDATE) as run:
            await run.lifecycle.look()
            memories = 0
            while memories < 8:
                await run.feed(10)
                memories = len(run.asked.memories)
            name(store, "second", strategy="regime_switcher")
            await run.lifecycle.look()
            await run.feed()
            return run

    run = asyncio.run(play())
    answers = events(tmp_path / "state", "PolicyAnswered")
    shadow_answers = events(tmp_path / "state", "ShadowAnswered")
    first = next(place for place, event in enumerate(answers) if event.model == "second")
    assert 8 <= first < len(answers) - 3
    memories = list(run.asked.memories.values())
    hidden_states = [event.hidden for event in answers]
    assert [memory for place, memory in enumerate(memories) if place not in (0, first)] == [
        hidden for place, hidden in enumerate(hidden_states[:-1]) if place != first - 1
    ]
    assert memories[0] == memories[first] == b""
    assert len(shadow_answers) == len(answers)
    assert run.engine.machine.state.shadow.hidden == shadow_answers[-1].hidden != hidden_states[-1]
    assert verified(tmp_path / "state").difference == ""


# --- a start whose pointer is wrong -------------------------------------------------------------------------------


def live_settings(store: Path, folder: Path, **values: object) -> DeskSettings:
    """A desk on the live feed that follows `current`; nothing is at its addresses."""
    nowhere = {f"alpaca.{key}": "http://127.0.0.1:9" for key in ("trading_url", "data_url")} | {
        f"alpaca.{key}": "ws://127.0.0.1:9" for key in ("stream_url", "trade_stream_url", "option_stream_url")
    }
    return load(None, {"paths.state_dir": folder, "paths.models_dir": store, **nowhere, **values})


def record(folder: Path, live: Live, *story: Event) -> None:
    """Make the desk's journal, with these events of its last run."""
    state_dir = open_state_dir(folder, live.meta(), "epoch00001")
    batch, chain = CommitBatch(), HashChain(1, state_dir.journal.reader().chain_head())
    batch.entries.extend(chain.entry(None, event, "[]") for event in story)
    state_dir.journal.commit(batch)
    state_dir.journal.close()
    state_dir.close()


KEYS = Credentials(api_key_id=SecretStr("a-key-id"), api_secret_key=SecretStr("a-secret-key"))


@pytest.fixture
def crooked(tmp_path: Path) -> Path:
    """A store whose `current` names a damaged version; v0 and v1 are whole."""
    store = tmp_path / "store"
    publish(store, "v0", 0)
    publish(store, "v1", 1)
    publish(store, "broken", 2)
    name(store, "v0")
    return store


def test_a_desk_with_a_journal_starts_with_what_answered_last_when_current_is_broken(
    crooked: Path, tmp_path: Path
) -> None:
    settings = live_settings(crooked, tmp_path / "state")
    live = prepare_live(settings, KEYS, dry_run=False)
    assert (live.model.version, live.refused) == ("v0", "")
    other = loaded(crooked, SCALPER, "v1")
    start = ModelVerified(0, "v0", live.model.digest, promoted=False, feed="sip")
    swapped = ModelPromoted(1, "v1", other.digest, promoted=False, feed="sip", previous="v0")
    record(tmp_path / "state", live, start, swapped)
    assert prepare_live(settings, KEYS, dry_run=False).model.version == "v0"  # what current names comes first
    name(crooked, "broken")
    damage(crooked / "option_scalper" / "broken")
    again = prepare_live(settings, KEYS, dry_run=False)
    assert again.model.version == "v1"
    assert again.refused.startswith("model refused, policy digest")
    with pytest.raises(ModelError, match="policy digest"):
        prepare_live(settings, KEYS, dry_run=True)
    damage(crooked / "option_scalper" / "v1")
    with pytest.raises(ModelError, match="broken"):
        prepare_live(settings, KEYS, dry_run=False)


def test_a_malicious_current_is_tried_in_a_child_before_a_desk_with_a_journal_takes_it(
    crooked: Path, tmp_path: Path
) -> None:
    settings = live_settings(crooked, tmp_path / "state")
    live = prepare_live(settings, KEYS, dry_run=False)
    record(tmp_path / "state", live, ModelVerified(0, "v0", live.model.digest, promoted=False, feed="sip"))
    publish_malicious(crooked, "malicious", "an endless Loop")
    name(crooked, "malicious")
    again = prepare_live(settings, KEYS, dry_run=False)
    assert again.model.version == "v0"
    assert "graph operator" in again.refused


def test_another_policy_under_the_name_that_answered_last_is_not_taken_for_it(crooked: Path, tmp_path: Path) -> None:
    settings = live_settings(crooked, tmp_path / "state")
    live = prepare_live(settings, KEYS, dry_run=False)
    record(tmp_path / "state", live, ModelVerified(0, "v0", "0" * 64, promoted=False, feed="sip"))
    name(crooked, "broken")
    damage(crooked / "option_scalper" / "broken")
    with pytest.raises(ModelError, match="policy digest"):
        prepare_live(settings, KEYS, dry_run=False)


@pytest.mark.parametrize("journal", [b"", b"no database"])
def test_a_fresh_desk_refuses_a_broken_current(crooked: Path, tmp_path: Path, journal: bytes) -> None:
    damage(crooked / "option_scalper" / "v0")
    if journal:
        (tmp_path / "state").mkdir()
        (tmp_path / "state" / FILE).write_bytes(journal)
    with pytest.raises(ModelError, match="policy digest"):
        prepare_live(live_settings(crooked, tmp_path / "state"), KEYS, dry_run=False)


def publish_walker(store: Path, version: str, seed: int) -> None:
    """A random network with a memory for the switcher: tanh(hidden / 2 + observation A) B."""
    onnx = pytest.importorskip("onnx", reason="graphs are built with onnx")
    draw = np.random.default_rng(seed)
    width, memory, actions = regime_switcher.WIDTH, regime_switcher.HIDDEN, len(regime_switcher.REGIMES)
    node = onnx.helper.make_node
    data = graph(
        [
            node("Mul", ["hidden", "half"], ["kept"]),
            node("MatMul", ["observation", "a"], ["seen"]),
            node("Add", ["kept", "seen"], ["both"]),
            node("Tanh", ["both"], ["next_hidden"]),
            node("MatMul", ["next_hidden", "b"], ["logits"]),
        ],
        {"observation": ("batch", width), "hidden": ("batch", memory)},
        {"logits": ("batch", actions), "next_hidden": ("batch", memory)},
        {
            "a": draw.standard_normal((width, memory)).astype(np.float32),
            "b": draw.standard_normal((memory, actions)).astype(np.float32),
            "half": np.array(0.5, np.float32),
        },
    )
    switcher = registered("regime_switcher")
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    hidden, logits, memories = np.zeros((1, memory), np.float32), [], []
    observations = golden_observations(switcher)
    for observation in observations:
        answer, hidden = session.run(None, {"observation": observation.array()[None], "hidden": hidden})
        logits.append(tuple(answer[0].tolist()))
        memories.append(hidden.tobytes())
    golden = Golden(tuple(item.data for item in observations), tuple(logits), tuple(memories))
    put(store, manifest_of(switcher, data, (), version=version, promoted=False, golden=golden), data, current=False)
