"""Every answer of the API equals what the journal says in plain SQL, and a wrong question is refused in words."""

from __future__ import annotations

import csv
import dataclasses
import http.client
import io
import json
import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from daemon.core.desks.registry import OPTION_GATES
from daemon.core.limits import Risk, Trading
from daemon.core.session import NEW_YORK
from daemon.core.state import Halt, Identity, Pause, RiskState, State
from daemon.dashboard.desks import FollowedDesk, Picture
from daemon.dashboard.newest import Newest, raised_of, read_on
from daemon.dashboard.pages.health import timings_of, troubles_of
from daemon.dashboard.pages.price import peaks_of
from daemon.dashboard.pages.risk import gates_now
from daemon.dashboard.views import Raised
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from strategies.option_scalper import SPEC
from tests.support.dashboards import Played, Served, serving
from tests.support.trades import prove_trades


def test_the_state_now_is_the_journals_last_word(served: Served, replay: Played) -> None:
    now = served.json("/api/now")
    last = replay.sql("SELECT * FROM decisions ORDER BY decision DESC LIMIT 1")[0]
    money = replay.sql("SELECT * FROM equity ORDER BY time_ns DESC LIMIT 1")[0]
    assert (now["decision"], now["action"], now["outcome"]) == (last["decision"], last["action"], last["outcome"])
    assert [share["value"] for share in now["probabilities"]] == json.loads(last["probabilities"])
    assert now["confidence"] == max(share["value"] for share in now["probabilities"])
    assert float(now["equity_usd"]) == pytest.approx(float(money["equity_usd"]), abs=0.005)
    assert now["seq"] == replay.sql("SELECT count(*) AS n FROM events WHERE seq IS NOT NULL")[0]["n"]
    assert now["model"] == "fixture"
    assert not now["running"]
    assert "the desk is stopped" in now["stale"]


def test_the_gates_now_are_all_of_the_desks_kind_and_a_closed_session_denies(served: Served) -> None:
    gates = {gate["name"]: gate for gate in served.json("/api/now")["gates"]}
    assert list(gates) == [gate.name for gate in OPTION_GATES]
    assert gates["halted"]["state"] == "passes"
    assert gates["outside_session"]["state"] == "denies"
    assert gates["wide_spread"]["state"] == gates["low_confidence"]["state"] == "unknown"


def test_a_gate_that_ends_by_itself_says_when(replay: Played) -> None:
    state = FollowedDesk("desk", replay.path).look().state
    assert state is not None
    session = state.session.session
    assert session is not None
    now = session.open_ns + 3600 * 10**9
    risk = replace(
        state.risk,
        last_loss_ns=now - 10 * 10**9,
        last_trade_ns=now - 400 * 10**9,
        pause=Pause("operator", now + 60 * 10**9),
        order_times=(now - 30 * 10**9, now - 20 * 10**9),
    )
    limits = Risk(orders_per_minute=2, no_trade_windows=("10:00-10:45",))  # an hour after the open it is 10:30
    state = replace(
        state,
        now_ns=now,
        risk=risk,
        session=replace(state.session, ended=False),
        trading=dataclasses.replace(state.trading, risk=limits),
    )
    denied = {gate.name: gate.ends for gate in gates_now(state) if gate.state == "denies" and gate.ends}
    assert denied == {
        "cooldown_loss": now / 1e9 - 10 + 300,  # the default's 300 s after a loss
        "paused": now / 1e9 + 60,
        "orders_per_minute": now / 1e9 - 30 + 60,
        "no_trade_window": now / 1e9 + 15 * 60,
    }


def test_the_bars_of_a_session_are_those_of_the_tape(served: Served, replay: Played) -> None:
    price = served.json("/api/price")
    assert len(price["sessions"]) == 5
    assert price["session"] == price["sessions"][-1]
    rows = [row.split(",") for row in replay.rows[-150:]]
    assert [bar[1:] for bar in price["bars"]] == [[float(value) for value in row[2:]] for row in rows]
    assert [bar[0] for bar in price["bars"]] == [int(row[1]) / 1e9 for row in rows]
    earlier = served.json(f"/api/price?session={price['sessions'][0]}")
    assert len(earlier["bars"]) == 86


def test_each_fill_of_a_session_is_one_mark_with_its_decision(served: Served, replay: Played) -> None:
    marks = [mark for day in served.json("/api/price")["sessions"] for mark in _marks(served, day)]
    fills = replay.sql("SELECT * FROM fills JOIN orders USING (client_order_id) ORDER BY filled_ns, cumulative")
    assert fills
    assert [mark["time"] for mark in marks] == [fill["filled_ns"] / 1e9 for fill in fills]
    assert [mark["kind"] for mark in marks] == [fill["purpose"] for fill in fills]
    assert [mark["decision"] for mark in marks] == [int(fill["work"].split(".")[0]) for fill in fills]


def _marks(served: Served, session: str) -> list[dict[str, Any]]:
    marks: list[dict[str, Any]] = served.json(f"/api/price?session={session}")["marks"]
    return marks


def test_the_equity_has_each_recorded_point_and_its_drawdown(served: Served, replay: Played) -> None:
    course = served.json("/api/equity")
    everything = replay.sql("SELECT time_ns, equity_usd FROM equity ORDER BY time_ns")
    first_trade_ns = replay.sql("SELECT min(opened_ns) AS t FROM round_trips")[0]["t"]
    flat = sum(row["time_ns"] < first_trade_ns for row in everything)
    rows = everything[flat - 1 :]  # before the first trade nothing moves
    assert len({row["equity_usd"] for row in everything[:flat]}) == 1 < flat
    values, count = [float(row["equity_usd"]) for row in rows], len(rows)
    assert course["times"][:count] == [row["time_ns"] / 1e9 for row in rows]
    assert course["equity"][:count] == values
    now = served.json("/api/now")
    assert (course["times"][-1], course["equity"][-1]) == (now["time"], float(now["equity_usd"]))
    assert course["drawdown"][-1] == pytest.approx(now["drawdown"], abs=1e-6)
    top = values.index(max(values))
    expected = [1 - value / max(values[: place + 1]) for place, value in enumerate(values[:top])]
    assert course["drawdown"][:top] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("peak", "peaks"),
    [
        (0.0, [10.0, 12.0, 12.0, 12.0]),  # not known
        (12.0, [10.0, 12.0, 12.0, 12.0]),
        (13.0, [10.0, 13.0, 13.0, 13.0]),  # seen between two records
        (11.0, [10.0, 12.0, 9.0, 11.0]),  # a resume forgot what was before
    ],
)
def test_the_drawdown_is_from_the_peak_that_the_desk_counts(peak: float, peaks: list[float]) -> None:
    assert peaks_of([10.0, 12.0, 9.0, 11.0], peak) == peaks


def test_decisions_are_listed_newest_first_page_by_page(served: Served, replay: Played) -> None:
    rows = replay.sql("SELECT decision, outcome FROM decisions ORDER BY decision DESC")
    first = served.json("/api/decisions?limit=10")["lines"]
    assert [line["decision"] for line in first] == [row["decision"] for row in rows[:10]]
    second = served.json(f"/api/decisions?limit=10&before={first[-1]['decision']}")["lines"]
    assert [line["decision"] for line in second] == [row["decision"] for row in rows[10:20]]
    lines_with_orders = served.json("/api/decisions?limit=200&outcome=ordered")["lines"]
    assert [line["decision"] for line in lines_with_orders] == [
        r["decision"] for r in rows if r["outcome"] == "ordered"
    ]
    acted = served.json("/api/decisions?limit=200&outcome=acted")["lines"]
    assert [line["decision"] for line in acted] == [
        row["decision"] for row in rows if row["outcome"] in ("ordered", "exit")
    ][:200]


def test_decisions_are_listed_from_the_end_of_a_day_on(served: Served, replay: Played) -> None:
    rows = replay.sql("SELECT decision, time_ns FROM decisions ORDER BY decision DESC")
    days = [datetime.fromtimestamp(row["time_ns"] / 1e9, NEW_YORK).date().isoformat() for row in rows]
    day = min(days)
    assert day < max(days)
    newest = next(row["decision"] for row, of_day in zip(rows, days, strict=True) if of_day == day)
    assert served.json(f"/api/decisions?limit=1&day={day}")["lines"][0]["decision"] == newest
    assert served.json("/api/decisions?day=1999-01-04")["lines"] == []


def test_a_decision_has_its_orders_and_their_fills(served: Served, replay: Played) -> None:
    row = replay.sql("SELECT * FROM decisions WHERE outcome = 'ordered' ORDER BY decision LIMIT 1")[0]
    page = served.json(f"/api/decision/{row['decision']}")
    orders = replay.sql("SELECT * FROM orders WHERE work = ? ORDER BY submitted_ns", row["work"])
    assert [order["client_order_id"] for order in page["orders"]] == [order["client_order_id"] for order in orders]
    fills = replay.sql(
        "SELECT * FROM fills WHERE client_order_id = ? ORDER BY cumulative", orders[0]["client_order_id"]
    )
    assert page["orders"][0]["fills"] == [
        [fill["filled_ns"] / 1e9, fill["quantity"], float(fill["price"]), float(fill["fees_usd"])] for fill in fills
    ]
    assert page["logits"] == json.loads(row["logits"])
    assert {gate["name"]: gate["state"] == "denies" for gate in page["gates"]} == {
        name: bool(reason) for name, reason in json.loads(row["gates"]).items()
    }
    assert page["next"] > row["decision"]


def test_the_models_are_those_of_the_store_and_the_running_one_is_marked(served: Served) -> None:
    page = served.json("/api/models")
    assert [(line["version"], line["running"]) for line in page["versions"]] == [("fixture", True)]
    assert page["store"] == "onnx_models/option_scalper"
    assert not page["live"]
    assert [line["verdict"] for line in page["versions"]] == ["a fixture of the tests: every action by the clock"]


def test_denials_are_counted_by_gate(served: Served, replay: Played) -> None:
    expected: Counter[str] = Counter()
    for row in replay.sql("SELECT gates FROM decisions WHERE outcome = 'denied'"):
        expected.update(name for name, reason in json.loads(row["gates"]).items() if reason)
    assert dict(served.json("/api/risk")["denials"]) == dict(expected)


def test_health_counts_the_newest_session_by_kind(served: Served, replay: Played) -> None:
    page = served.json("/api/health")
    ends = replay.sql("SELECT max(id) AS id FROM events WHERE kind = 'SessionScheduled'")[0]["id"]
    rows = replay.sql("SELECT kind, count(*) AS n FROM events WHERE id >= ? GROUP BY kind", ends)
    assert dict(page["kinds"]) == {row["kind"]: row["n"] for row in rows}
    assert page["code"] == page["own_code"]
    assert page["events"] == replay.sql("SELECT max(seq) AS n FROM events")[0]["n"]
    assert page["troubles"] == []
    raised = replay.sql("SELECT effects FROM events WHERE effects LIKE '%\"RaiseAlarm\"%'")
    assert page["alarms"] == sum(row["effects"].count('"RaiseAlarm"') for row in raised)


def test_health_says_what_to_look_at_since_when_and_what_to_do() -> None:
    state: State[None] = State(
        None,
        Identity("paper", "paper", "option_scalper", "e", "sip"),
        Trading(),
        now_ns=9_000_000_000,
        risk=RiskState(halt=Halt("daily_loss", "equity 90 of 100", 5_000_000_000), pause=Pause("operator", 0)),
    )
    picture = Picture("d", {"mode": "paper"}, state, problem="", newest=Newest(code="abc"))
    assert [(line.what, line.since) for line in troubles_of(picture, "def")] == [
        ("no daemon runs on this desk", 9.0),
        ("halted: daily loss (equity 90 of 100)", 5.0),
        ("paused: operator", 0.0),
        ("this dashboard has other code than the daemon, so it cannot follow its states", 0.0),
    ]
    running = replace(picture, process="7", state=replace(state, risk=RiskState()))
    (line,) = troubles_of(running, "abc")
    assert line.what.startswith("book and broker are not compared yet")
    assert list(troubles_of(replace(running, meta={"mode": "replay"}), "abc")) == []


def test_a_live_desk_tells_what_its_day_raised_and_recorded_data_what_the_whole_run_did() -> None:
    noon_ns = 1_732_294_800 * 10**9  # 22 November 2024, 12:00 in New York
    identity = Identity("paper", "paper", "option_scalper", "e", "sip")
    state: State[None] = State(None, identity, Trading(), now_ns=noon_ns, seq=9)
    noon_s = noon_ns / 1e9
    before = Raised("daily_loss", "equity 70 of 100", 3, noon_s - 15 * 3600, noon_s - 13 * 3600)
    today = Raised("daily_loss", "equity 90 of 100", 2, noon_s - 11 * 3600, noon_s - 3600)
    newest = Newest(raised=(today, before))
    assert raised_of(newest, state, "paper") == ((today,), (before,))
    assert raised_of(newest, None, "paper") == ((), (Raised("daily_loss", today.detail, 5, before.first, today.time),))
    whole = Raised("daily_loss", "equity 90 of 100", 5, before.first, today.time)
    assert raised_of(newest, state, "replay") == ((whole,), ())


def test_one_alarm_raised_again_and_again_is_one_line_with_a_count_for_each_day(replay: Played, tmp_path: Path) -> None:
    copy = tmp_path / "journal.sqlite"
    shutil.copyfile(replay.path / "journal.sqlite", copy)
    with closing(sqlite3.connect(copy)) as db:
        rows = db.execute("SELECT id, time_ns FROM events WHERE kind = 'BarClosed' ORDER BY id").fetchall()
        one, other = rows[:20], rows[-2:]
        for (row, _), loss in zip((*one, *other), range(22), strict=True):
            alarm = {"type": "RaiseAlarm", "name": "blind", "detail": f"no bar for {loss + 60} s"}
            db.execute("UPDATE events SET effects = ? WHERE id = ?", (json.dumps([alarm]), row))
        db.execute(
            "UPDATE events SET effects = '[]' WHERE effects LIKE '%RaiseAlarm%' AND effects NOT LIKE '%no bar for%'"
        )
        db.commit()
    with closing(JournalReader(copy)) as reader:
        newest = read_on(reader, Newest())
    lines = [(alarm.name, alarm.detail, alarm.count) for alarm in newest.raised]
    assert lines == [("blind", "no bar for 81 s", 2), ("blind", "no bar for 79 s", 20)]
    assert [(alarm.first, alarm.time) for alarm in newest.raised] == [
        (other[0][1] / 1e9, other[1][1] / 1e9),
        (one[0][1] / 1e9, one[-1][1] / 1e9),
    ]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/decision/999999", 404),
        ("/api/decision/-1", 400),
        ("/api/decision/x", 400),
        ("/api/decisions?limit=1000000", 400),
        ("/api/decisions?outcome=won", 400),
        ("/api/trades?result=won", 400),
        ("/api/trades?side=buy", 400),
        ("/api/trades?sort=size", 400),
        ("/api/trades?from=2024-13-01", 400),
        ("/api/trades.csv?to=yesterday", 400),
        ("/api/price?session=1999-01-01", 404),
        ("/api/price?session=../x", 400),
        ("/api/price?symbol=TSLA", 404),
        ("/api/now?desk=nobody", 404),
        ("/api/nothing", 404),
    ],
)
def test_a_wrong_question_is_refused_with_words_and_without_paths(
    served: Served, replay: Played, path: str, status: int
) -> None:
    code, headers, body = served.ask(path)
    assert (code, headers["content-type"]) == (status, "application/json")
    assert list(json.loads(body)) == ["error"]
    assert str(replay.path.parent) not in body.decode()


def test_the_stream_tells_the_state_at_once(served: Served) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=120)) as connection:
        connection.request("GET", "/api/stream")
        answer = connection.getresponse()
        assert answer.getheader("content-type") == "text/event-stream; charset=utf-8"
        lines = [answer.readline().decode().strip() for _ in range(4)]
    assert lines[0].startswith("retry: ")
    assert lines[2] == "event: now"
    state, current = json.loads(lines[3].removeprefix("data: ")), served.json("/api/now")
    assert {**state, "read_at": 0} == {**current, "read_at": 0}


def test_a_desk_whose_journal_cannot_be_read_hides_no_other(replay: Played, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "journal.sqlite").write_bytes(b"no database at all, but long enough to be looked at" * 100)
    with serving(tmp_path / "missing", damaged, replay.path) as dashboard:
        lines = dashboard.json("/api/desks")
        assert [bool(line["problem"]) for line in lines] == [True, True, False]
        assert dashboard.json(f"/api/now?desk={lines[2]['name']}")["decision"] > 0
        assert dashboard.json("/api/now")["stale"]
        assert dashboard.ask("/api/equity")[0] == 503


def test_trades_are_those_that_the_fills_give_with_their_sums(served: Served, replay: Played) -> None:
    proven = prove_trades(replay.path)
    assert len(proven) > 2
    page = served.json("/api/trades?limit=200")
    assert [(line["symbol"], line["quantity"], line["held"]) for line in page["trades"]] == [
        (trade.contract, trade.quantity, trade.held) for trade in proven
    ]
    assert all(line["realised_usd"] == line["pnl_usd"] for line in page["trades"] if line["left"])
    closed_trades = [line for line in page["trades"] if line["left"]]
    sums = page["totals"]
    assert (sums["trades"], sums["wins"]) == (len(closed_trades), sum(line["pnl_usd"] > 0 for line in closed_trades))
    money = replay.sql("SELECT realized_usd FROM equity ORDER BY time_ns DESC LIMIT 1")[0]
    if len(closed_trades) == len(page["trades"]):
        assert sums["pnl_usd"] == pytest.approx(float(money["realized_usd"]), abs=0.005)
    line = closed_trades[0]
    why = replay.sql("SELECT resolved, confidence FROM decisions WHERE decision = ?", line["entry_decision"])[0]
    assert (line["why_entered"], line["confidence"]) == (why["resolved"], why["confidence"])
    assert [column["heading"] for column in page["columns"]] == ["Fees"]
    fees = replay.sql("SELECT total(fees_usd) AS usd FROM round_trips")[0]["usd"]
    assert sum(float(line["more"]["fees_usd"]) for line in page["trades"]) == pytest.approx(
        fees, abs=0.005 * len(proven)
    )


def test_the_desk_s_own_rows_are_those_of_its_status(served: Served, replay: Played) -> None:
    count = replay.sql("SELECT count(*) AS n FROM decisions WHERE kind = 'policy'")[0]["n"]
    assert served.json("/api/now")["rows"] == [["decisions", f"{count:,}"]]


def test_the_performance_of_a_range_ends_with_the_newest_day(served: Served, replay: Played) -> None:
    everything, newest = (served.json(f"/api/performance?range={name}") for name in ("ALL", "1D"))
    rows = replay.sql("SELECT time_ns, equity_usd FROM equity ORDER BY time_ns")
    weeks = everything["figures"]["weeks"]
    assert sum(week["pnl_usd"] for week in weeks) == pytest.approx(everything["figures"]["pnl_usd"], abs=0.01)
    assert {datetime.fromisoformat(week["name"]).weekday() for week in weeks} == {0}
    assert everything["figures"]["end_usd"] == newest["figures"]["end_usd"] == float(rows[-1]["equity_usd"])
    day = datetime.fromtimestamp(rows[-1]["time_ns"] / 1e9, NEW_YORK).date().isoformat()
    assert [one["name"] for one in newest["figures"]["days"]] == [day] == [everything["figures"]["last"]]
    of_day = [row for row in rows if datetime.fromtimestamp(row["time_ns"] / 1e9, NEW_YORK).date().isoformat() == day]
    assert len(newest["figures"]["lines"][0]["times"]) == len(of_day) + 1
    assert served.json("/api/performance?benchmark=SPY")["figures"]["compared"][1]["name"] == "SPY"
    for wrong, expected in (("range=2W", "expected one of 1D, 1W"), ("benchmark=QQQ", "expected one of SPY")):
        status, _, body = served.ask(f"/api/performance?{wrong}")
        assert (status, expected in body.decode()) == (400, True)


def test_trades_are_filtered_sorted_and_shown_a_page_at_a_time(served: Served) -> None:
    everything = served.json("/api/trades?limit=200&sort=pnl")["trades"]
    gains = [line["pnl_usd"] for line in everything]
    assert gains == sorted(gains, reverse=True)
    assert served.json("/api/trades?sort=pnl&offset=1&limit=1")["trades"] == everything[1:2]
    won = served.json("/api/trades?result=win&sort=pnl&limit=200")["trades"]
    assert won == [line for line in everything if line["left"] and line["pnl_usd"] > 0]
    assert served.json("/api/trades?side=short")["trades"] == served.json("/api/trades?symbol=QQQ")["trades"] == []
    day = datetime.fromtimestamp(everything[0]["left"], NEW_YORK).date().isoformat()
    of_day = served.json(f"/api/trades?from={day}&to={day}&sort=pnl&limit=200")["trades"]
    assert everything[0] in of_day
    assert all(datetime.fromtimestamp(line["left"], NEW_YORK).date().isoformat() == day for line in of_day)


def test_all_trades_that_match_are_a_file_of_csv(served: Served) -> None:
    status, headers, body = served.ask("/api/trades.csv?limit=1&result=loss")
    lines = list(csv.DictReader(io.StringIO(body.decode())))
    assert (status, headers["content-type"].split(";")[0]) == (200, "text/csv")
    assert headers["content-disposition"] == 'attachment; filename="trades.csv"'
    assert len(lines) == served.json("/api/trades?result=loss")["totals"]["losses"] > 1
    assert all(Decimal(line["pnl_usd"]) < 0 and line["left_utc"] for line in lines)


def test_a_decision_s_price_is_that_around_it_and_its_trades_are_those_it_moved(served: Served, replay: Played) -> None:
    move = replay.sql("SELECT decision, opened_ns, symbol FROM moves WHERE step = 'leave' ORDER BY decision LIMIT 1")[0]
    row = replay.sql("SELECT bar_ns FROM decisions WHERE decision = ?", move["decision"])[0]
    page = served.json(f"/api/around/{move['decision']}")
    begin, end = row["bar_ns"] - 60 * 60 * 10**9, row["bar_ns"] + 61 * 60 * 10**9
    rows = [line.split(",") for line in replay.rows]
    bars = [[int(line[1]) / 1e9, *map(float, line[2:])] for line in rows if begin <= int(line[1]) < end]
    assert len(bars) > 60
    assert page["bars"] == bars
    trade = replay.sql("SELECT * FROM trades WHERE opened_ns = ? AND symbol = ?", move["opened_ns"], move["symbol"])[0]
    (page_line,) = [line for line in page["trades"] if line["symbol"] == trade["symbol"]]
    assert (page_line["pnl_usd"], page_line["exit_decision"]) == (trade["pnl_usd"], move["decision"])
    fills = replay.sql("SELECT filled_ns FROM fills WHERE filled_ns BETWEEN ? AND ? ORDER BY filled_ns", begin, end - 1)
    assert [mark["time"] for mark in page["marks"]] == [fill["filled_ns"] / 1e9 for fill in fills]
    hold = replay.sql("SELECT decision FROM decisions WHERE outcome = 'hold' LIMIT 1")[0]["decision"]
    assert served.json(f"/api/around/{hold}")["trades"] == []
    assert served.ask(f"/api/around/{hold}?symbol=XYZ")[0] == 404


def test_the_speeds_of_a_live_desk_follow_from_its_journal_s_times(replay: Played, tmp_path: Path) -> None:
    shutil.copyfile(replay.path / FILE, tmp_path / FILE)
    later = {"BarClosed": 1.5, "OrderAccepted": 2.0}  # seconds that the host knew these events later
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        for kind, seconds in later.items():
            db.execute("UPDATE events SET time_ns = time_ns + ? WHERE kind = ?", (int(seconds * 1e9), kind))
        db.execute("UPDATE decisions SET time_ns = time_ns + 500000000")
        db.execute("UPDATE orders SET submitted_ns = submitted_ns + 750000000")
        again = "(SELECT max(id) FROM events) + 1, seq, time_ns + 1800000000000, kind, payload, effects, hash"
        newest = "kind = 'OrderAccepted' ORDER BY id DESC LIMIT 1"
        db.execute(f"INSERT INTO events SELECT {again} FROM events WHERE {newest}")  # at the open, half an hour later
        db.commit()
    with closing(JournalReader(tmp_path / FILE)) as reader:
        lines = timings_of(reader, SPEC, "paper")
        assert timings_of(reader, SPEC, "replay") == ()
    assert {line.name: (line.median_s, line.worst_s) for line in lines} == {
        "feed lag": (1.5, 1.5),
        "bar to decision": (0.5, 0.5),
        "bar to order": (0.75, 0.75),
        "broker round trip": (1.25, 1.25),
    }


def test_bars_that_came_together_long_after_they_were_over_are_no_lag_of_the_feed(
    replay: Played, tmp_path: Path
) -> None:
    shutil.copyfile(replay.path / FILE, tmp_path / FILE)
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        newest = "SELECT id FROM events WHERE kind = 'BarClosed' ORDER BY id DESC LIMIT 5"
        (last,) = db.execute("SELECT max(time_ns) FROM events WHERE kind = 'BarClosed'").fetchone()
        db.execute(f"UPDATE events SET time_ns = ? WHERE id IN ({newest})", (last + 3600 * 10**9,))
        db.commit()
    with closing(JournalReader(tmp_path / FILE)) as reader:
        (lag,) = [line for line in timings_of(reader, SPEC, "paper") if line.name == "feed lag"]
    assert (lag.count, lag.worst_s) == (195, 0.0)  # of the newest 200, which a replay has at their ends


def test_the_fleet_is_each_desk_s_own_word(served: Served, replay: Played) -> None:
    money = replay.sql("SELECT equity_usd FROM equity ORDER BY time_ns DESC LIMIT 1")[0]["equity_usd"]
    fleet = served.json("/api/fleet")
    (line,) = fleet["desks"]
    assert (line["equity_usd"], line["money"], line["running"]) == (float(money), "recorded data", False)
    assert [total["equity_usd"] for total in fleet["totals"]] == [float(money)]
    assert line["alarms"] == served.json("/api/health")["alarms"]  # of recorded data those of the whole run


def test_a_spark_is_the_equity_at_times_of_even_distance(served: Served, replay: Played) -> None:
    rows = replay.sql("SELECT time_ns, equity_usd FROM equity ORDER BY time_ns")
    (values,) = served.json("/api/sparks").values()
    first, last = rows[0]["time_ns"], rows[-1]["time_ns"]
    times = [first + (last - first) * point // 39 for point in range(40)]
    assert values == [float([row["equity_usd"] for row in rows if row["time_ns"] <= time][-1]) for time in times]
