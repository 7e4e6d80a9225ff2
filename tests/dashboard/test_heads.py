"""A desk whose symbols are rows: its decision as a page and on the command line, and what its inputs contributed."""

from __future__ import annotations

import argparse
import io
import json
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from daemon.cli.journal.explain import run
from daemon.dashboard.desks import FollowedDesk, Picture
from daemon.dashboard.pages.decisions import decision_page, decision_row
from daemon.dashboard.pages.history import DecisionHistory, Lookup
from daemon.dashboard.pages.now import shares_of
from daemon.dashboard.pages.occlusion import Runner, chosen_output, contribution
from daemon.dashboard.pages.price import price_page
from daemon.dashboard.pages.risk import gates_now
from daemon.dashboard.views import DecisionPage
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.models.store import load
from daemon.reports.decision import heads_at
from strategies.registry import strategy
from tests.support.desks.desk_run import Desk
from tests.support.models.daily_models import write_days
from tests.support.models.row_models import VERSION, expected, put_row_model
from tests.support.toy.crowd import HISTORY_BARS
from tests.support.toy.registered import registered

SYMBOLS = ("AAA", "CCC", "ZZZ")
DECISION = 9


@pytest.fixture(scope="module", autouse=True)
def _toy() -> Iterator[None]:
    with registered(toy_crowd="tests.support.toy.crowd"):
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return put_row_model(tmp_path_factory.mktemp("store"), strategy("toy_crowd"))


@pytest.fixture(scope="module")
def state_dir(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A replay of three configured symbols."""
    home = tmp_path_factory.mktemp("home")
    tape = write_days(home / "days.csv", SYMBOLS, 25)
    options = {"desk__strategy": "toy_crowd", "paths__models_dir": models, "policy__version": VERSION}
    assert Desk(tape, **options, desk__symbols=SYMBOLS).run(home / "state").failure is None
    return home / "state"


def row_of(state_dir: Path, number: int = DECISION) -> sqlite3.Row:
    with closing(JournalReader(state_dir / FILE)) as reader:
        return decision_row(Picture(""), reader, number)


def newest(state_dir: Path) -> np.ndarray:
    """Return, range, weight and flag of each symbol, as journaled with the decision."""
    return np.frombuffer(row_of(state_dir)["row"], dtype="<f4").reshape(len(SYMBOLS), 4).astype(float)


@pytest.fixture(scope="module")
def page(state_dir: Path, models: Path) -> DecisionPage:
    """The decision's page, with what its inputs contributed."""
    desk, spec = FollowedDesk("crowd", state_dir), strategy("toy_crowd", SYMBOLS).spec
    picture = desk.look()
    while not picture.caught_up:
        picture = desk.look()
    with ThreadPoolExecutor(1) as pool, desk.reader() as reader:
        lookup, history = Lookup(pending=True), DecisionHistory(desk, pool)
        until = time.monotonic() + 120
        while lookup.pending and time.monotonic() < until:
            lookup = history.find(DECISION)
        assert lookup.observation is not None, lookup.missing
        row = decision_row(picture, reader, DECISION)
        logits = tuple(json.loads(row["logits"]))
        runner = Runner(load(models, strategy("toy_crowd"), VERSION), spec)
        explained = contribution(runner, spec, lookup.observation, logits, chosen_output(spec, row["action"], logits))
        assert picture.state is not None
        assert {gate.state for gate in gates_now(picture.state)} <= {"passes", "denies", "unknown"}
        assert len(price_page(picture, reader, "", "ZZZ").bars) == HISTORY_BARS
        return decision_page(picture, reader, row, lookup, explained, "")


def test_a_page_shows_by_symbol_what_was_said_and_what_the_answer_took_from_each_wish(
    page: DecisionPage, state_dir: Path
) -> None:
    heads, inputs = page.heads, np.zeros((3, 8))
    assert heads is not None
    assert [(c.name, c.wish) for c in heads.columns] == [
        ("probabilities", False), ("confidence", False), ("bold", True), ("final", False),
    ]  # fmt: skip
    inputs[:, 4:6] = newest(state_dir)[:, :2]
    numpy = expected(inputs)
    goals = {leg["symbol"]: leg["goal"] for leg in json.loads(row_of(state_dir)["target"])}
    assert tuple(line.symbol for line in heads.lines) == SYMBOLS
    for place, line in enumerate(heads.lines):
        assert line.heads[0] == pytest.approx(numpy["probabilities"][place], abs=1e-6)
        assert line.taken[2] == pytest.approx(numpy["bold"][place] - numpy["final"][place], abs=1e-6)
        assert (line.taken[0], line.taken[1], line.taken[3]) == (None, None, None)
        assert (line.before != line.after) == (line.symbol in goals)


def test_what_was_seen_and_what_it_contributed_stand_under_feature_and_symbol(
    page: DecisionPage, state_dir: Path
) -> None:
    answers = json.loads(row_of(state_dir)["logits"])
    values = dict(zip(page.features, page.rows[0], strict=True))
    for place, symbol in enumerate(SYMBOLS):
        for column, feature in enumerate(("return", "range", "weight", "tradable")):
            assert values[f"{feature} {symbol}"] == newest(state_dir)[place, column]
    largest = SYMBOLS[int(np.abs(answers).argmax())]
    assert page.contribution is not None
    assert page.contribution.of == largest
    parts = dict(zip(page.features, page.contribution.features, strict=True))
    assert parts[f"return {largest}"] == pytest.approx(answers[SYMBOLS.index(largest)], abs=1e-6)  # without: tanh(0)
    assert all(part == 0.0 for name, part in parts.items() if not name.endswith(largest))
    assert page.features[0].endswith(largest)
    assert [share.action for share in page.probabilities] == list(SYMBOLS)


def test_the_command_line_shows_the_heads_the_wishes_and_the_weights(state_dir: Path) -> None:
    out = io.StringIO()
    row = row_of(state_dir)
    options = argparse.Namespace(bar=str(row["bar_ns"]), state_dir=state_dir)
    assert run(options, Console(file=out, width=200)) == 0
    text = out.getvalue()
    assert "probabilities" in text
    assert "taken from bold" in text
    assert "weight before" in text
    answer = json.loads(row["logits"])[1]
    assert sum(f"{answer:+.4f}" in line for line in text.splitlines() if "CCC" in line) >= 1


def test_journals_without_the_table_and_policies_without_heads_show_none(state_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / FILE
    with closing(sqlite3.connect(state_dir / FILE)) as there, closing(sqlite3.connect(copy)) as here:
        there.backup(here)
        here.execute("DROP TABLE heads")
        here.commit()
    with closing(JournalReader(copy)) as reader:
        assert heads_at(reader, DECISION, strategy("toy_crowd", SYMBOLS).spec) is None
        assert heads_at(reader, DECISION, strategy("regime_switcher").spec) is None
    assert shares_of({}, strategy("toy_crowd").spec) == ()


def test_a_passive_policys_wishes_are_its_own_answer_and_nothing_is_taken_from_them(
    state_dir: Path, tmp_path: Path
) -> None:
    """The passive policy of `forecast_ensemble` answers 1 whatever its confidence: no agent was asked."""
    copy, heads = tmp_path / FILE, {"probabilities": [0.4, 0.3, 0.3], "confidence": 0.4, "final": 1.0}
    with closing(sqlite3.connect(state_dir / FILE)) as there, closing(sqlite3.connect(copy)) as here:
        there.backup(here)
        assert here.execute("SELECT DISTINCT model FROM decisions").fetchall() == [(VERSION,)]  # a version by its name
        for place, symbol in enumerate(SYMBOLS):  # another wish for each symbol
            wishes = {"sac": 1.0 - place / 10, "td3": 1.0 - place / 5}
            values = (json.dumps(heads | wishes), symbol)
            here.execute("UPDATE heads SET answer = '1.0', heads = ? WHERE symbol = ?", values)
        here.commit()
        spec = strategy("forecast_ensemble", SYMBOLS).spec
        for model, reduction in (("2022-12-30-passive-e01d1b73", 0.0), ("2022-12-30-ad3a14cb", 0.2)):
            here.execute("UPDATE decisions SET model = ?", (model,))
            here.commit()
            with closing(JournalReader(copy)) as reader:
                table = heads_at(reader, DECISION, spec)
            assert table is not None
            by_name = {column.name: place for place, column in enumerate(table.columns)}
            for wish in ("sac", "td3"):
                assert table.lines[0].taken[by_name[wish]] == pytest.approx(reduction)
                meant = table.columns[by_name[wish]].meaning
                assert meant.startswith("not asked: the passive policy's own answer") == (reduction == 0.0)
            assert "not asked" not in table.columns[by_name["confidence"]].meaning


def test_of_a_wish_that_is_always_the_same_the_page_says_so_and_takes_nothing(state_dir: Path, tmp_path: Path) -> None:
    """TD3 says 1 for each symbol and day: nothing that confidence does is a judgement about it."""
    copy, spec = tmp_path / FILE, strategy("forecast_ensemble", SYMBOLS).spec
    with closing(sqlite3.connect(state_dir / FILE)) as there, closing(sqlite3.connect(copy)) as here:
        there.backup(here)
        for place, symbol in enumerate(SYMBOLS):
            heads = {"probabilities": [0.4, 0.3, 0.3], "confidence": 0.4, "sac": place / 4, "td3": 0.9999, "final": 0.5}
            here.execute("UPDATE heads SET answer = '0.5', heads = ? WHERE symbol = ?", (json.dumps(heads), symbol))
        here.commit()
    with closing(JournalReader(copy)) as reader:
        (first,) = reader.query("SELECT min(decision) AS decision FROM heads")
        for decision, constant in ((DECISION, ["td3"]), (first["decision"], [])):  # of one decision nobody can tell
            table = heads_at(reader, decision, spec)
            assert table is not None
            assert [column.name for column in table.columns if column.constant] == constant
    with closing(JournalReader(copy)) as reader:
        table = heads_at(reader, DECISION, spec)
    assert table is not None
    td3 = [column.name for column in table.columns].index("td3")
    assert table.columns[td3].meaning.startswith("+1.000 for every symbol in the last 9 decisions: it looks at nothing")
    assert [line.taken[td3] for line in table.lines] == [None] * len(SYMBOLS)
    assert [line.taken[td3 - 1] for line in table.lines] == pytest.approx([place / 4 * 0.2 for place in range(3)])
