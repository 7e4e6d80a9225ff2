"""One message for a closed trade and one for a basket, against the journal's own tables of moves, orders and equity."""

from __future__ import annotations

import re
import sqlite3
import subprocess
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.notify.news import FILLS, TRADES, NewsReader, Notification
from daemon.notify.trade_news import TradeNews
from tests.support.core import fractions_desk
from tests.support.desks.desk_at_work import at_work
from tests.support.desks.desk_run import Desk, command, environment, rltraderd, tape_rows, write_tape
from tests.support.paths import REPOSITORY
from tests.support.toy.registered import registered

LEFT = "SELECT count(*) FROM moves WHERE held = 0 AND opened_ns <> 0"
SUM = "SELECT realized_usd FROM moves WHERE opened_ns = ? AND symbol = ?"
MONEY = re.compile(r": ([+-][\d,]+\.\d\d) USD")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(write_tape(tmp_path_factory.mktemp("tape") / "tape.csv", tape_rows(2, 75)))


def rows(state: Path, sql: str, *values: object) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(state / FILE)) as db:
        return db.execute(sql, values).fetchall()


async def test_a_trade_is_told_once_when_it_is_closed_however_many_fills_it_had(desk: Desk, tmp_path: Path) -> None:
    state, messages = tmp_path / "state", list[Notification]()
    async with at_work(desk, state) as work:
        news = NewsReader(state, (TRADES, FILLS))
        for number, event in enumerate(desk.replay.source(0)):
            work.intake.put(event)
            if number % 20 == 0:
                await work.quiet()
                messages += news.read()
                trade_count = rows(state, LEFT)[0][0]
                assert sum(message.kind == TRADES for message in messages) == trade_count
        await work.quiet()
        messages += news.read()
    trades = [message for message in messages if message.kind == TRADES]
    fills = [message for message in messages if message.kind == FILLS]
    assert len(fills) > 2 * len(trades) > 4  # entries and exits fill in parts
    assert len(trades) == rows(state, LEFT)[0][0]
    keys = rows(state, "SELECT opened_ns, symbol FROM moves WHERE held = 0 AND opened_ns <> 0 ORDER BY seq, part")
    for message, key in zip(trades, keys, strict=True):
        realised = sum(Decimal(str(usd)) for (usd,) in rows(state, SUM, *key))
        money = MONEY.search(message.title)
        assert money is not None
        assert abs(Decimal(money[1].replace(",", "")) - realised) <= Decimal("0.005")
        assert re.match(r".+: SPY (call|put) \d+ of \d+ \w+: [+-][\d,.]+ USD \([+-]\d+\.\d\d %\)$", message.title)
        assert re.match(r"\d+ held for .+, .+\n\d{4}-", message.body)
    later = NewsReader(state, (TRADES,))
    assert list(later.read()) == []  # what was closed before is not told


async def test_fills_of_an_entry_are_one_message_once_none_came_for_a_while_and_none_without_leave(
    desk: Desk, tmp_path: Path
) -> None:
    state, now_s = tmp_path / "state", [0.0]
    async with at_work(desk, state) as work:
        with closing(JournalReader(state / FILE)) as reader:
            news = TradeNews(reader, None, entries=True, merge_s=30, now_s=lambda: now_s[0])
            silent = TradeNews(reader, None, now_s=lambda: now_s[0])
            partly = "SELECT count(*), max(held) FROM moves WHERE opened_ns = (SELECT min(opened_ns) FROM moves)"
            source = iter(desk.replay.source(0))
            while rows(state, partly)[0][0] < 2:  # the second fill of the first entry
                work.intake.put(next(source))
                await work.quiet()
                assert list(news.read(reader, moved=True)) == []
            now_s[0] = 29.9
            assert list(news.read(reader, moved=False)) == []
            now_s[0] = 60.0
            (entry,) = news.read(reader, moved=False)
            quantity = rows(state, partly)[0][1]
            assert re.match(rf"bought {quantity} SPY (call|put) ", entry.title)
            now_s[0] = 600.0
            assert list(news.read(reader, moved=True)) == []
            assert [message.what for message in silent.read(reader, moved=True)] == []


def test_a_daily_desk_tells_one_message_a_basket_with_its_orders_and_the_cash_after_it(tmp_path: Path) -> None:
    tape = REPOSITORY / "daemon" / "tapes" / "daily_synthetic_500.csv.gz"
    lines = ["--dry-run", "--strategy", "daily_rebalancer", "--bars", tape, "--state-dir", tmp_path / "state"]
    models = {"RLTRADER_PATHS__MODELS_DIR": str(REPOSITORY / "onnx_models"), "RLTRADER_POLICY__VERSION": "current"}
    result = rltraderd(*lines, cwd=tmp_path, env=environment(**models))
    assert result.returncode == 0, result.stderr[-2000:]
    state = tmp_path / "state"
    messages = [message for message in NewsReader(state, (TRADES,), 0).read() if message.what == "basket"]
    baskets = rows(state, "SELECT decision, time_ns FROM baskets ORDER BY decision")
    assert len(messages) == len(baskets) > 0
    for message, (decision, time_ns) in zip(messages, baskets, strict=True):
        orders = rows(state, "SELECT count(*) FROM orders WHERE work LIKE ?", f"{decision}.%")
        ((cash,),) = rows(state, "SELECT cash_usd FROM equity WHERE time_ns = ?", time_ns)
        assert message.title.endswith(f": basket of {orders[0][0]} orders")
        assert f"Cash after it {Decimal(str(cash)):,.2f} USD." in message.body


def test_the_cash_after_a_basket_has_its_fills_before_the_next_record_of_the_equity(tmp_path: Path) -> None:
    with registered(shelf=fractions_desk.__name__):
        journal = fractions_desk.played().write(tmp_path)
        with closing(sqlite3.connect(journal)) as db:
            db.execute(
                "DELETE FROM equity WHERE time_ns > (SELECT min(time_ns) FROM equity)"
            )  # as live, a record a bar
            db.commit()
        bodies = [message.body for message in NewsReader(tmp_path, (TRADES,), 0).read() if message.what == "basket"]
    assert "Cash after it 8,680.67 USD." in bodies[1]  # 8,441.65 at Monday's close + 40.02 + 234 - 35


@pytest.mark.parametrize("option", [("--merge-s", "0"), ("--merge-s", "601")])
def test_a_time_to_merge_is_in_bounds(option: tuple[str, str], tmp_path: Path) -> None:
    line = command("daemon.notify", "follow", "--state-dir", tmp_path, *option)
    result = subprocess.run(line, capture_output=True, text=True, check=False, env=environment(), cwd=tmp_path)
    assert result.returncode == 2
    assert "is no such number; expected 1 to 600" in result.stderr
