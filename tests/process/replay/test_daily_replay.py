"""Daily desks through the whole daemon: replay, crashes in the middle of a basket, proof, and what the tools show.

Bars and policies are made up (`tests.support.models.daily_models`). The small desk of three symbols plays the rules
that say *never*.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.cli import ctl
from daemon.core import events as ev
from daemon.core.desks.registry import desk_of
from daemon.core.effects import AskPolicy
from daemon.core.limits import Basket, Paper, Trading
from daemon.core.paper.state import broker_snapshot
from daemon.core.step import Core, Machine, Step
from daemon.host.time.calendar import SessionCalendar, midnight_ns
from daemon.tapes.days import DailyTapeSource, scan_daily
from strategies import daily_rebalancer, regime_switcher
from strategies.kit.quantity import Quantity
from tests.support.core.daily_desk import IDENTITY, SYMBOLS, Shelf
from tests.support.desks.desk_run import (
    Crash,
    Desk,
    chained,
    command,
    environment,
    log_of,
    read_models,
    rltraderctl,
    rltraderd,
    summary_of,
    table,
    verified,
)
from tests.support.examples import examples
from tests.support.models.daily_models import HEADER, VERSION, put_models, put_switcher, write_days
from tests.support.trades import prove_trades

MINUTE = 60 * 10**9
SEED = 20261120
CRASHES = 40
BOUNDARIES = ("before step", "after step", "before commit", "after commit")


@dataclass(frozen=True, slots=True)
class Stage:
    """A model store and one tape for each desk."""

    folder: Path
    models: Path
    switcher: Path
    rebalancer: Path

    def environment(self, **extra: str) -> dict[str, str]:
        variables = environment(RLTRADER_PATHS__MODELS_DIR=str(self.models), RLTRADER_POLICY__VERSION=VERSION, **extra)
        return {name: value for name, value in variables.items() if name != "RLTRADER_PAPER__CASH_USD"}

    def run(self, strategy: str, tape: Path, state_dir: Path) -> subprocess.CompletedProcess[str]:
        arguments = ("--dry-run", "--strategy", strategy, "--bars", tape, "--state-dir", state_dir)
        return rltraderd(*arguments, cwd=self.folder, env=self.environment())


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    folder = tmp_path_factory.mktemp("daily")
    return Stage(
        folder,
        put_models(folder / "models"),
        write_days(folder / "etf.csv", regime_switcher.SYMBOLS, 275),
        write_days(folder / "stocks.csv", daily_rebalancer.SYMBOLS, 406),
    )


# --- end to end ---------------------------------------------------------------------------------------------------


def test_the_switcher_runs_end_to_end_and_the_tools_prove_and_show_it(stage: Stage, tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    finished = stage.run("regime_switcher", stage.switcher, state_dir)
    assert finished.returncode == 0, finished.stderr
    summary = summary_of(finished)
    assert (summary["bars"], summary["decisions"], summary["halted"]) == (3 * 275, 275 - 252, "")
    assert sum(summary["actions"].values()) == summary["decisions"]
    assert summary["orders"] == summary["fills"] == len(table(state_dir, "fills")) > 20
    assert summary["daily"]["sessions"] == summary["decisions"]
    dated = [line["date"] for line in log_of(finished.stderr) if "date" in line]
    assert summary["daily"]["last"] == dated[-1]
    growth = (summary["equity_usd"] / 100_000) ** (252 / summary["decisions"]) - 1
    assert summary["daily"]["annual_return"] == pytest.approx(growth, abs=1e-6)
    names = Counter(line["event"] for line in log_of(finished.stderr))
    assert names["basket_decided"] == summary["decisions"] >= names["basket_traded"] > 0
    assert names["order_submitted"] == names["order_filled"] == 0

    proven = rltraderctl("verify", "--state-dir", state_dir, cwd=tmp_path)
    assert (proven.returncode, proven.stdout.split(":")[0]) == (0, "identical")
    output = rltraderctl("status", "--state-dir", state_dir, cwd=tmp_path).stdout
    assert "last basket" in output
    assert f"due {summary['daily']['last']}, given up: nothing" in output
    listed = rltraderctl("decisions", "--limit", "1", "--state-dir", state_dir, cwd=tmp_path).stdout
    (bar,) = [part for part in listed.split() if part.startswith("2021-")]
    explained = rltraderctl("decisions", "--bar", bar, "--state-dir", state_dir, cwd=tmp_path).stdout
    for part in ("drawdown", "probability", "stale_history", "fees USD", f"regime_switcher-{summary['decisions']}-"):
        assert part in explained, part


def test_the_switcher_of_other_funds_runs_end_to_end_and_its_journal_is_bound_to_them(tmp_path: Path) -> None:
    funds = ("SPY", "QQQ", "IWM", "TLT", "GLD")
    tape = write_days(tmp_path / "funds.csv", ("AAA", *funds), 275)
    stage = Stage(tmp_path, put_switcher(tmp_path / "models", funds), tape, tape)
    variables = stage.environment(RLTRADER_DESK__SYMBOLS=",".join(funds))
    arguments = ("--dry-run", "--strategy", "regime_switcher", "--bars", tape, "--state-dir", tmp_path / "state")
    finished = rltraderd(*arguments, cwd=tmp_path, env=variables)
    assert finished.returncode == 0, finished.stderr
    summary = summary_of(finished)
    assert (summary["bars"], summary["decisions"], summary["halted"]) == (5 * 275, 275 - 252, "")
    assert set(summary["actions"]) <= {name for name, _ in regime_switcher.regimes_of(funds)}
    assert {row[3] for row in table(tmp_path / "state", "fills")} >= {"TLT", "GLD"}
    proven = rltraderctl("verify", "--state-dir", tmp_path / "state", cwd=tmp_path)
    assert (proven.returncode, proven.stdout.split(":")[0]) == (0, "identical")
    listed = rltraderctl("decisions", "--limit", "1", "--state-dir", tmp_path / "state", cwd=tmp_path).stdout
    (bar,) = [part for part in listed.split() if part.startswith("2021-")]
    explained = rltraderctl("decisions", "--bar", bar, "--state-dir", tmp_path / "state", cwd=tmp_path).stdout
    for part in ("│ GLD", "│ TLT", "weight CASH", "INVERSE_VOLATILITY", "NO_SPY"):
        assert part in explained, explained
    other = rltraderd(*arguments[:-1], tmp_path / "other", cwd=tmp_path, env=stage.environment())
    assert other.returncode == 2
    assert f"was made for {', '.join(funds)}, desk.symbols is the strategy's own symbols" in other.stderr
    again = rltraderd(*arguments, cwd=tmp_path, env=stage.environment())
    assert (again.returncode, "set desk.symbols to" in again.stderr) == (2, True)


def test_cost_is_counted_once_and_every_cent_is_in_the_fills(stage: Stage, tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    summary = summary_of(stage.run("regime_switcher", stage.switcher, state_dir))
    fills = table(state_dir, "fills")
    amounts = [Decimal(row[6]) * row[5] for row in fills]  # price x quantity
    costs = sum((amount * Decimal("0.001")).quantize(Decimal("0.000001")) for amount in amounts)
    assert float(costs) == summary["fees_usd"]
    cash = Decimal(100_000) - sum(row[4] * amount for row, amount in zip(fills, amounts, strict=True)) - costs
    assert Decimal(table(state_dir, "equity")[-1][2]) == cash
    prove_trades(state_dir)


def test_a_file_sorted_by_time_comes_to_the_state_of_one_sorted_by_symbol(stage: Stage, tmp_path: Path) -> None:
    lines = stage.switcher.read_text().splitlines()
    by_time = tmp_path / "etf.csv"
    by_time.write_text("\n".join([HEADER, *sorted(lines[1:], key=lambda line: int(line.split(",")[1]))]) + "\n")
    runs: list[list[tuple[Any, ...]]] = []
    for tape in (stage.switcher, by_time):
        desk = _desk(tape, stage.models)
        state_dir = tmp_path / f"state{len(runs)}"
        assert desk.run(state_dir).failure is None
        runs.append([row[3:6] for row in table(state_dir, "fills")])
    assert runs[0] == runs[1]


# --- crashes ------------------------------------------------------------------------------------------------------


def _desk(tape: Path, models: Path, strategy: str = "regime_switcher", **overrides: object) -> Desk:
    defaults: dict[str, object] = {
        "desk__strategy": strategy,
        "paths__models_dir": models,
        "policy__version": VERSION,
        "paper__cash_usd": 100_000,
    }
    return Desk(tape, **(defaults | overrides))


def _crash(name: str, count: int) -> Callable[[str], None]:
    steps_left = count

    def hook(boundary: str) -> None:
        nonlocal steps_left
        steps_left -= boundary == name
        if steps_left == 0:
            raise Crash(f"{name}, the {count}. time")

    return hook


def test_crashes_anywhere_come_to_the_same_orders_fills_and_state(stage: Stage, tmp_path: Path) -> None:
    print(f"seed {SEED}")
    draw, desk = random.Random(SEED), _desk(stage.switcher, stage.models)
    undisturbed = tmp_path / "undisturbed"
    expected = desk.run(undisturbed)
    assert expected.failure is None
    crashes = number = 0
    while crashes < CRASHES:
        state_dir, number = tmp_path / f"state{number}", number + 1
        while True:
            hook = _crash(draw.choice(BOUNDARIES), draw.randint(1, 500)) if crashes < CRASHES else None
            again = desk.run(
                state_dir,
                group_events=draw.choice((1, 4, 40)),
                snapshot_events=draw.choice((50, 700)),
                boundary=hook,
            )
            if again.failure is None:
                break
            assert isinstance(again.failure, Crash)
            crashes += 1
        assert again.digest == expected.digest
        assert read_models(state_dir) == read_models(undisturbed)
        assert chained(state_dir) == chained(undisturbed)
        assert verified(state_dir).difference == ""


def test_killed_in_the_middle_of_a_basket_it_ends_where_nobody_disturbed_it(stage: Stage, tmp_path: Path) -> None:
    undisturbed, state_dir = tmp_path / "undisturbed", tmp_path / "killed"
    expected = summary_of(stage.run("daily_rebalancer", stage.rebalancer, undisturbed))
    assert expected["decisions"] == 406 - 400
    assert expected["actions"] == {}
    assert expected["fills"] > 60
    prove_trades(undisturbed)
    env = stage.environment(RLTRADER_LOG__LEVEL="debug", RLTRADER_JOURNAL__GROUP_EVENTS="8")
    arguments = ("--dry-run", "--strategy", "daily_rebalancer", "--bars", stage.rebalancer, "--state-dir", state_dir)
    for orders in (20, 45):
        process = subprocess.Popen(
            command("daemon", *arguments), cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        assert process.stderr
        fills = 0
        for line in process.stderr:
            fills += json.loads(line)["event"] == "order_filled"
            if fills == orders:
                process.kill()
                break
        process.stderr.close()
        assert process.wait() == -signal.SIGKILL
    finished = stage.run("daily_rebalancer", stage.rebalancer, state_dir)
    summary = summary_of(finished)
    for key in ("state_digest", "journal_events", "orders", "fills", "equity_usd", "fees_usd"):
        assert summary[key] == expected[key], key
    assert read_models(state_dir) == read_models(undisturbed)
    assert verified(state_dir).difference == ""
    assert_every_leg_is_shown(state_dir, tmp_path)


def test_baskets_that_no_cash_covers_are_named_at_the_end_of_the_run_and_where_decisions_are_listed(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """10,000 USD of each stock are wanted, and a share of the cheapest costs more than the 4 USD of the account."""
    why = "the cash covered no share of it, or a halt, a pause or a missing price kept it back"
    state_dir = tmp_path / "state"
    env = stage.environment() | {"RLTRADER_PAPER__CASH_USD": "4", "RLTRADER_BASKET__NOTIONAL_PER_UNIT_USD": "10000"}
    env |= {"RLTRADER_BASKET__FRACTIONS": "off"}
    arguments = ("--dry-run", "--strategy", "daily_rebalancer", "--bars", stage.rebalancer, "--state-dir", state_dir)
    summary = summary_of(rltraderd(*arguments, cwd=tmp_path, env=env))
    assert (summary["decisions"], summary["orders"], summary["denials"]) == (6, 0, {})
    assert summary["remarks"][-1] == f"6 of 6 ordered baskets sent no order: {why}; rltraderctl decisions names them."
    assert ctl.main(["decisions", "--state-dir", str(state_dir), "--limit", "2"]) == 0
    assert f"no order followed decision 5, 6: {why}\n" in capsys.readouterr().out
    row = table(state_dir, "decisions")[-1]
    assert ctl.main(["decisions", "--state-dir", str(state_dir), "--bar", str(row[2])]) == 0
    legs = json.loads(row[9])
    reason = f"it wanted to buy {len(legs)} symbols with $4.00 of cash"
    assert f"no order followed: {reason}\n" in capsys.readouterr().out


def assert_every_leg_is_shown(state_dir: Path, folder: Path) -> None:
    """The last decision is explained with a line for each stock: what it closed at, and what the basket wants of it."""
    row = table(state_dir, "decisions")[-1]
    target = next(json.loads(cell) for cell in row if isinstance(cell, str) and cell.startswith('[{"symbol"'))
    explained = rltraderctl("decisions", "--bar", str(row[2]), "--state-dir", state_dir, cwd=folder).stdout
    first = {
        cells[0]: cells
        for line in explained.splitlines()[:55]  # the first of three tables
        if len(cells := [cell.strip() for cell in line.strip("│").split("│")]) > 2
    }
    assert set(daily_rebalancer.SYMBOLS) <= set(first)
    for leg in target:
        assert first[leg["symbol"]][-1] == f"{leg['goal']:,}"
    assert "weekday" in explained


def test_without_bars_a_daily_desk_plays_the_made_up_daily_tape(stage: Stage, tmp_path: Path) -> None:
    arguments = ("--check", "--dry-run", "--strategy", "regime_switcher", "--state-dir", tmp_path / "state")
    finished = rltraderd(*arguments, cwd=tmp_path, env=stage.environment())
    assert finished.returncode == 0, finished.stderr
    assert "daily_synthetic_500.csv.gz" in finished.stdout


def test_a_tape_without_a_fund_that_the_desk_needs_is_named_for_that_and_not_for_its_length(
    stage: Stage, tmp_path: Path
) -> None:
    tape = write_days(tmp_path / "days.csv", ["SPY", "IWM"], 300)
    arguments = ("--dry-run", "--strategy", "regime_switcher", "--bars", tape, "--state-dir", tmp_path / "state")
    checked = rltraderd(*arguments, "--check", cwd=tmp_path, env=stage.environment())
    assert "warn: the tape has no bars of QQQ, of 3 symbols of regime_switcher" in checked.stdout
    assert "too short" not in checked.stdout
    summary = summary_of(rltraderd(*arguments, cwd=tmp_path, env=stage.environment()))
    assert summary["decisions"] == 0
    assert summary["remarks"] == ["No decision was made: the tape has no bars of QQQ. Pass one that has them."]


# --- refusals -----------------------------------------------------------------------------------------------------


def test_a_tape_that_cannot_be_decided_on_before_the_close_is_refused_in_one_line(stage: Stage, tmp_path: Path) -> None:
    finished = rltraderd(
        "--dry-run", "--strategy", "regime_switcher", "--bars", stage.switcher, "--state-dir", tmp_path / "state",
        cwd=tmp_path, env=stage.environment(RLTRADER_BASKET__DECIDE="before_close"),
    )  # fmt: skip
    (line,) = log_of(finished.stderr)
    assert finished.returncode == 2
    assert 'basket.decide is "before_close" and the tape has daily bars' in line["problem"]
    assert not (tmp_path / "state").exists()


# --- never at a known price ---------------------------------------------------------------------------------------

DATES = ("2024-07-01", "2024-07-02", "2024-07-03")


def _small_desk(rules: Trading) -> Machine:
    """Three symbols, whose policy answers with the shares to hold; and 10,000 USD."""
    strategy: Any = Shelf()
    core = Core(strategy)
    market = desk_of(strategy).paper(rules, "replay")
    assert market is not None
    machine = Machine(core, core.start(IDENTITY, rules), market, market.start())
    machine.apply(ev.ModelVerified(0, "v1", "d", promoted=False, feed="sip"))
    machine.apply(broker_snapshot(machine.market_state, 0))
    return machine


def test_a_desk_that_decides_before_the_close_buys_at_the_next_minute_s_price(tmp_path: Path) -> None:
    calendar = SessionCalendar.load(DATES[0], DATES[1])
    first, second = (session for session in calendar.sessions if session.date in DATES[:2])
    moments: dict[int, object] = {first.open_ns: 100, first.open_ns + MINUTE: 100}
    due_ns = second.close_ns - 10 * MINUTE
    moments |= {due_ns - MINUTE: 100, due_ns: Decimal("100.05"), due_ns + MINUTE: Decimal("100.01")}
    tape = tmp_path / "minutes.csv"
    tape.write_text("\n".join([HEADER, *(f"AAA,{at},{price},101,99,100,5" for at, price in moments.items())]) + "\n")
    rules = Trading(basket=Basket(decide="before_close"), paper=Paper(cash_usd=Decimal(10_000)))
    machine = _small_desk(rules)
    fills: list[tuple[int, Decimal, Quantity, Decimal]] = []

    def answer(question: AskPolicy, now_ns: int) -> ev.PolicyAnswered:
        assert now_ns == due_ns
        return ev.PolicyAnswered(now_ns, question.decision, (10.0, -1.0, -1.0), b"", "v1")

    def watch(event: ev.Event, _: Step) -> None:
        if isinstance(event, ev.OrderFilled):
            fills.append((event.filled_ns, event.price, event.quantity, event.cumulative_fees))

    machine.run(DailyTapeSource(tape, scan_daily(tape, SYMBOLS), calendar, rules.basket), answer, watch)
    # 100.01 x 1.0002 = 100.030002, rounded up; 10 of them cost 0.1 % of 1000.301, and a cent for CAT at the end
    assert fills == [(due_ns + MINUTE, Decimal("100.0301"), 10, Decimal("1.000301"))]
    assert machine.state.book.cash == Decimal(10000) - Decimal("1000.301") - Decimal("1.000301") - Decimal("0.01")


STEPS = st.lists(st.integers(-60, 60), min_size=60, max_size=60)


@given(walks=st.lists(STEPS, min_size=3, max_size=3), goals=st.lists(st.integers(0, 90), min_size=9, max_size=9))
@settings(max_examples=examples(40))
@pytest.mark.parametrize("decide", ["before_close", "after_close"])
def test_nobody_trades_at_a_price_known_before_the_decision(
    tmp_path_factory: pytest.TempPathFactory, decide: Any, walks: list[list[int]], goals: list[int]
) -> None:
    calendar = SessionCalendar.load(DATES[0], DATES[-1])
    days = [session for session in calendar.sessions if session.date in DATES]
    prices: dict[tuple[str, int], Decimal] = {}
    lines = [HEADER]
    for symbol, walk in zip(SYMBOLS, walks, strict=True):
        cents = 10_000
        for session, steps in zip(days, (walk[:20], walk[20:40], walk[40:]), strict=True):
            moments = [session.open_ns + n * MINUTE for n in range(4)]
            moments += [session.close_ns - n * MINUTE for n in range(16, 0, -1)]
            for moment, step in zip(moments, steps, strict=True):
                cents += step
                prices[symbol, moment] = Decimal(cents) / 100
                lines.append(f"{symbol},{moment},{cents / 100},{cents / 100 + 1},{cents / 100 - 1},{cents / 100},5")
    tape = tmp_path_factory.mktemp("tape") / "minutes.csv"
    tape.write_text("\n".join(lines) + "\n")
    rules = Trading(basket=Basket(decide=decide), paper=Paper(cash_usd=Decimal(10_000)))
    machine = _small_desk(rules)
    question_ns: dict[int, int] = {}  # decision -> when

    def answer(question: AskPolicy, now_ns: int) -> ev.PolicyAnswered:
        at = 3 * (len(question_ns) % 3)
        question_ns[question.decision] = now_ns
        return ev.PolicyAnswered(now_ns, question.decision, tuple(map(float, goals[at : at + 3])), b"", "v1")

    def watch(event: ev.Event, step: Step) -> None:
        assert step.state.book.cash >= 0
        if isinstance(event, ev.OrderFilled):
            decided_ns = question_ns[int(event.client_order_id.split("-")[2])]
            printed = prices[event.symbol, event.filled_ns]
            dearer = (printed * Decimal("1.0002")).quantize(Decimal("0.0001"), ROUND_CEILING)
            assert event.filled_ns > decided_ns
            assert event.price == (printed if event.side < 0 else dearer)

    feed = DailyTapeSource(tape, scan_daily(tape, SYMBOLS), calendar, rules.basket)
    machine.run(feed, answer, watch)
    assert machine.state.book.cash == machine.market_state.cash
    assert len(question_ns) == 2  # the first session has no bar before it
    for decision, when in question_ns.items():
        session = days[decision]
        due = session.close_ns - 10 * MINUTE if decide == "before_close" else session.open_ns - 15 * MINUTE
        assert when == due > midnight_ns(session.date)
