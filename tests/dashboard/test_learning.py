"""The page of learning: its API against plain SQL and the store's files, and the page in a real browser."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, expect

from daemon.experience.learning import LEARNING_FILE, LearningFile
from daemon.models.ladder.cards import HoldReasons, write_holds
from strategies.kit.card import CARD_FILE
from tests.support.browser import (
    CONTRAST,
    LIMIT_MS,
    PHONE,
    SMALL,
    WIDE,
    JournalRows,
    Watched,
    chromium,
    dashboard,
    picture,
)
from tests.support.dashboards import Played, Served, serving
from tests.support.models.climbing import CARD, EPSILON, ONLINE, climb_online, online_desk, online_store
from tests.support.ports import free_port

SESSIONS = 5
NS = 10**9


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A desk whose challenger climbed to a canary, its store, and what its trainer wrote."""
    folder = tmp_path_factory.mktemp("learning")
    store = online_store(folder / "store")
    stood = climb_online(online_desk(folder, store, SESSIONS - 2), folder / "state", store, SESSIONS)
    assert stood[-1].startswith("v2 canary")
    journal = JournalRows(folder / "state")
    meta = {row["key"]: row["value"] for row in journal.rows("SELECT key, value FROM meta")}
    file, stream = LearningFile(store / ONLINE.spec.name), f"rltrader:{meta['desk']}:{meta['epoch']}:experience"
    for part in range(1, 6):
        file.write(
            now_ns=time.time_ns() - (6 - part) * 60 * NS,
            stream=stream,
            row=100 * part,
            transitions=40 * part,
            updates=10 * part,
            waiting=3,
            pending=7,
            replay=40 * part,
            replay_most=1000,
            figures={"loss": 1.0 / part, "error": 0.5 / part, "Q mean": 0.01 * part},
            rewards={"gain": -0.25},
            version="v2",
        )
    return folder


@pytest.fixture(scope="module")
def journal(home: Path) -> JournalRows:
    return JournalRows(home / "state")


@pytest.fixture(scope="module")
def learning_dashboard(home: Path) -> Iterator[Served]:
    with serving(home / "state", models_dir=home / "store") as dashboard:
        yield dashboard


def transition(dashboard: Served, number: int) -> Any:
    return dashboard.computed(f"/api/transition/{number}")


# --- the API ----------------------------------------------------------------------------------------------------------


def test_a_desk_that_does_not_learn_has_no_such_page_and_says_so(served: Served, replay: Played) -> None:
    assert served.json("/api/now")["learns"] is False
    page = served.json("/api/learning")
    assert (page["learns"], page["rungs"], page["trainer"]) == (False, [], None)
    number = replay.sql("SELECT max(decision) AS n FROM decisions")[0]["n"]
    status, _, body = served.ask(f"/api/transition/{number}")
    assert (status, "learns nothing" in body.decode()) == (404, True)


def test_what_the_trainer_wrote_is_shown_with_its_age_and_the_lag_of_the_journal(
    learning_dashboard: Served, journal: JournalRows
) -> None:
    assert learning_dashboard.json("/api/now")["learns"] is True
    trainer = learning_dashboard.json("/api/learning")["trainer"]
    last = journal.row("SELECT max(id) AS n FROM events")["n"]
    assert (trainer["row"], trainer["behind"], trainer["ours"]) == (500, last - 500, True)
    assert (trainer["waiting"], trainer["pending"]) == (3, 7)
    assert (trainer["replay"], trainer["replay_most"], trainer["updates"]) == (200, 1000, 50)
    assert dict(trainer["figures"]) == {"loss": 0.2, "error": 0.1, "Q mean": 0.05}
    assert [point["figures"]["loss"] for point in trainer["course"]] == [1.0, 0.5, 0.333333, 0.25, 0.2]
    assert 60 <= trainer["age_s"] < 3600


def test_without_a_trainer_or_with_a_broken_file_the_page_says_why(home: Path, tmp_path: Path) -> None:
    with serving(home / "state", models_dir=tmp_path) as empty:
        page = empty.json("/api/learning")
        assert page["trainer"] is None
        assert "no trainer seen" in page["missing"]
        shelf = tmp_path / ONLINE.spec.name
        shelf.mkdir()
        (shelf / LEARNING_FILE).write_text("{")
        (shelf / "holds.json").write_text("{")
        page = empty.json("/api/learning")
        assert LEARNING_FILE in page["missing"]
        assert str(tmp_path) not in json.dumps(page)
        assert "holds.json cannot be read" in page["frozen"]
        (shelf / "holds.json").unlink()
        write_holds(shelf, HoldReasons(frozen="a quiet week", held={"v9": "not this one"}))
        LearningFile(shelf).write(now_ns=time.time_ns(), stream="rltrader:another:1:experience", row=9)
        page = empty.json("/api/learning")
        assert (page["frozen"], page["held"]) == ("a quiet week", [["v9", "not this one"]])
        assert (page["trainer"]["ours"], page["trainer"]["behind"], page["trainer"]["waiting"]) == (False, 0, None)


def test_the_share_of_explored_choices_is_that_of_the_journal(learning_dashboard: Served, journal: JournalRows) -> None:
    rows = journal.rows("SELECT * FROM choices")
    page = learning_dashboard.json("/api/learning")
    assert sum(line["choices"] for line in page["explored"]) == len(rows)
    explored = sum(row["drawn"] != row["greedy"] for row in rows)
    assert sum(line["explored"] for line in page["explored"]) == explored > 0
    assert page["exploration"].startswith(f"epsilon: {EPSILON:g} of")
    # two actions are allowed at a time: the other one has half of epsilon
    chances = [line["chance"] for line in page["explored"]]
    assert chances == pytest.approx([EPSILON / 2] * len(chances), abs=EPSILON / 4)
    assert [line["session"] for line in page["explored"]] == sorted(
        (s["session"] for s in page["explored"]), reverse=True
    )


def test_each_version_stands_where_the_journal_put_it_with_its_card(
    learning_dashboard: Served, journal: JournalRows
) -> None:
    rungs = {rung["version"]: rung for rung in learning_dashboard.json("/api/learning")["rungs"]}
    moves = [
        json.loads(row["payload"]) for row in journal.rows("SELECT payload FROM events WHERE kind = 'LadderMoved'")
    ]
    assert set(rungs) == {"v2"}
    challenger = rungs["v2"]
    assert (challenger["step"], challenger["running"], challenger["parent"]) == (moves[-1]["to_step"], True, "v1")
    assert [(step["to_step"], step["reason"]) for step in challenger["steps"]] == [
        (move["to_step"], move["reason"]) for move in reversed(moves)
    ]
    assert challenger["steps"][0]["figures"] == moves[-1]["figures"]
    lead = CARD.leads["dr"]
    assert challenger["card"]["leads"] == [
        {"estimator": "dr", "estimate": lead.estimate, "low": lead.low, "high": lead.high}
    ]
    assert (challenger["card"]["sessions"], challenger["card"]["effective"]) == (CARD.sessions, CARD.effective)


def test_a_card_that_was_changed_is_not_shown(home: Path, learning_dashboard: Served) -> None:
    path = home / "store" / ONLINE.spec.name / "v2" / CARD_FILE
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"900.0", b"990.0"))
    try:
        rung = next(rung for rung in learning_dashboard.json("/api/learning")["rungs"] if rung["version"] == "v2")
    finally:
        path.write_bytes(whole)
    assert (rung["card"], "file digest" in rung["problem"]) == (None, True)


def test_the_newest_choice_shows_its_values_probabilities_and_heads(
    learning_dashboard: Served, journal: JournalRows
) -> None:
    page = learning_dashboard.json("/api/learning")
    row = journal.row("SELECT * FROM choices ORDER BY decision DESC LIMIT 1")
    answer = journal.row("SELECT answer, heads FROM heads WHERE decision = ?", row["decision"])
    choice = page["weights"]["choices"][0]
    assert page["decision"] == row["decision"]
    assert list(choice["values"].values()) == json.loads(answer["answer"])
    assert list(choice["behaviour"].values()) == json.loads(row["behaviour"])
    heads = json.loads(answer["heads"])
    names = [column["name"] for column in page["weights"]["columns"]]
    by_name = dict(zip(names, page["weights"]["lines"][0]["heads"], strict=True))
    assert {name: values[0] for name, values in by_name.items()} == pytest.approx(heads)


def test_a_transition_is_what_the_journal_says_of_the_decision_and_of_the_next(
    learning_dashboard: Served, journal: JournalRows
) -> None:
    decisions = journal.rows("SELECT * FROM decisions WHERE kind = 'policy' ORDER BY decision")
    fills = journal.rows("SELECT * FROM fills ORDER BY filled_ns")
    width = len(ONLINE.spec.features)
    followed = [
        (now, then)
        for now, then in pairwise(decisions)
        if then["bar_ns"] - now["bar_ns"] == 60 * NS and now["row"] and then["row"]
    ]
    buy = next(pair for pair in followed if pair[0]["action"] == "BUY" and pair[0]["outcome"] == "ordered")
    for now, then in (followed[-1], followed[0], buy):
        page = transition(learning_dashboard, now["decision"])
        (row,) = page["rows"]
        before = np.frombuffer(now["row"], dtype="<f4").astype(float)[-width:]
        after = np.frombuffer(then["row"], dtype="<f4").astype(float)[-width:]
        assert [cell["feature"] for cell in row["state"]] == list(ONLINE.spec.features)
        assert [cell["before"] for cell in row["state"]] == before.tolist()
        assert [cell["after"] for cell in row["state"]] == after.tolist()
        assert (row["action"], page["outcome"]) == (now["action"], now["outcome"])
        assert row["learned"] == (now["action"] if now["outcome"] in ("ordered", "hold") else "HOLD")
        assert (page["next"], page["bars"], page["terminal"]) == (then["decision"], 1, False)
    page = transition(learning_dashboard, buy[0]["decision"])
    (row,) = page["rows"]
    fill = next(fill for fill in fills if fill["filled_ns"] > buy[0]["time_ns"])
    assert (row["shares"], row["next_shares"]) == (0, fill["quantity"])
    spent = fill["quantity"] * float(fill["price"]) + float(fill["fees_usd"])
    assert row["gain"] == pytest.approx(fill["quantity"] * row["next_mark"] - spent)
    assert row["reward"] == pytest.approx(row["gain"] / page["equity"])


def test_a_denied_choice_is_the_same_on_both_pages_and_the_trainer_learns_it_as_a_hold(tmp_path: Path) -> None:
    store = online_store(tmp_path / "store")
    desk = online_desk(tmp_path, store, 1, 30, risk__no_entry_before_close_min=375, exploration__kind="none")
    assert desk.run(tmp_path / "state").failure is None
    journal = JournalRows(tmp_path / "state")
    denied = journal.row(
        "SELECT * FROM decisions WHERE outcome = 'denied' AND kind = 'policy' ORDER BY decision LIMIT 1"
    )
    choice = journal.row("SELECT * FROM choices WHERE decision = ?", denied["decision"])
    with serving(tmp_path / "state", models_dir=store) as dashboard:
        page = transition(dashboard, denied["decision"])
        decision = dashboard.json(f"/api/decision/{denied['decision']}")
    (row,) = page["rows"]
    assert row["action"] == decision["line"]["action"] == choice["drawn"] != "HOLD"
    assert (row["greedy"], row["learned"]) == (choice["greedy"], "HOLD")
    assert [share for _, share in row["probabilities"]] == json.loads(choice["behaviour"])
    assert page["why"] == decision["line"]["why"]
    assert decision["line"]["why"][0].startswith("Denied: near close, ")


def test_the_newest_complete_transition_comes_first_and_the_open_one_is_not_there_yet(
    learning_dashboard: Served, journal: JournalRows
) -> None:
    decisions = journal.rows("SELECT decision FROM decisions WHERE kind = 'policy' ORDER BY decision DESC LIMIT 2")
    page = transition(learning_dashboard, 0)
    assert (page["decision"], page["next"]) == (decisions[1]["decision"], decisions[0]["decision"])
    last = transition(learning_dashboard, decisions[0]["decision"])
    assert (last["terminal"], last["next"]) == (True, 0)  # the session's end followed
    assert all(cell["after"] is None for cell in last["rows"][0]["state"])
    for number in (10**9, "x", -1):
        status, _, _ = learning_dashboard.ask(f"/api/transition/{number}")
        assert status in (400, 404)


# --- the page ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(home: Path, replay: Played) -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def tab(home: Path, browser: Browser) -> Iterator[Watched]:
    with dashboard(free_port(), home / "state", models_dir=home / "store") as address:
        context = browser.new_context(viewport={"width": WIDE[0], "height": WIDE[1]}, reduced_motion="reduce")
        tab = Watched(context.new_page(), address)
        tab.page.set_default_timeout(LIMIT_MS)
        yield tab
        assert tab.troubles == []
        context.close()


def test_the_page_is_linked_and_shows_trainer_ladder_lineage_and_transitions(
    tab: Watched, journal: JournalRows
) -> None:
    page = tab.open("now", "#answer [data-action]")
    page.get_by_role("link", name="Learning").click()
    page.wait_for_selector("#transitions [data-feature]")
    assert page.locator('[data-figure="Pending"]').first.text_content() == "7 entriesread, and in no checkpoint yet"
    assert page.locator("#course .chart").get_attribute("data-points") == "5"
    assert page.locator("#ladder tr[data-version=v2]").get_attribute("data-step") == newest_step(journal)
    assert page.locator("#lineage [data-version=v1] [data-version=v2]").count() == 1
    explored = page.locator("#explored [data-explored]")
    assert int(explored.get_attribute("data-choices") or 0) == journal.row("SELECT count(*) AS n FROM choices")["n"]
    assert page.locator("#weights table").count() >= 2
    assert page.locator("#levels").text_content()
    first = page.locator('#transitions [data-figure="Decision"]').text_content()
    page.get_by_role("button", name="Earlier").click()
    expect(page.locator('#transitions [data-figure="Decision"]')).not_to_have_text(first or "", timeout=LIMIT_MS)
    page.wait_for_selector("#transitions [data-feature]")


def newest_step(journal: JournalRows) -> str:
    row = journal.row("SELECT payload FROM events WHERE kind = 'LadderMoved' ORDER BY id DESC LIMIT 1")
    step: str = json.loads(row["payload"])["to_step"]
    return step


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_the_page_fits_is_legible_and_can_be_touched(tab: Watched, tmp_path: Path, size: tuple[int, int]) -> None:
    page = tab.open("learning", "#transitions [data-feature]")
    page.set_viewport_size({"width": size[0], "height": size[1]})
    assert tab.overflow() <= 0
    assert page.evaluate(SMALL) == []
    for colours in ("light", "dark"):
        page.emulate_media(color_scheme="light" if colours == "light" else "dark")
        assert page.evaluate(CONTRAST) == [], colours
    page.emulate_media(color_scheme="light")
    for summary in page.locator("#ladder summary").all():
        if summary.is_visible():
            summary.click()
    picture(page, f"learning-{size[0]}", tmp_path)
    assert page.locator("th:not([scope])").count() == 0
    assert tab.overflow() <= 0


def test_a_desk_that_does_not_learn_is_not_linked(replay: Played, browser: Browser) -> None:
    with dashboard(free_port(), replay.path) as address:
        tab = Watched(browser.new_page(), address)
        page = tab.open("learning", "main .about")
        expect(page.locator("main .about")).to_contain_text("nothing to show", timeout=LIMIT_MS)
        assert page.get_by_role("link", name="Learning").count() == 0
        assert page.locator("main section:visible").count() == 0
        assert tab.troubles == []
