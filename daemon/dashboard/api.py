"""Answers of the API: a desk and the query's values in, a structure of `views` out. Blocking: run it in a thread.

Every value from outside is checked here. A refusal names the value and the expected ones, and no path of this host.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from daemon.dashboard.bar_history import POINTS_MOST, STEPS
from daemon.dashboard.desks import FollowedDesk
from daemon.dashboard.pages.chart import PANES_MOST, Wish, chart_page
from daemon.dashboard.pages.decisions import FILTERS, LINES_MOST, decision_page, decision_row, decisions_page
from daemon.dashboard.pages.health import health_page
from daemon.dashboard.pages.history import DecisionHistory, Lookup, Transition
from daemon.dashboard.pages.learning import decision_wanted, learning_page, transition_page
from daemon.dashboard.pages.models import models_page
from daemon.dashboard.pages.now import followed, now_of
from daemon.dashboard.pages.occlusion import Explainer, Unexplained
from daemon.dashboard.pages.performance import performance_page
from daemon.dashboard.pages.price import NotThere, equity_page, price_page, spark_of
from daemon.dashboard.pages.risk import risk_page
from daemon.dashboard.pages.trades import LINES_MOST as TRADES_MOST
from daemon.dashboard.pages.trades import around_page, trades_file, trades_page
from daemon.dashboard.queries import (
    DATE,
    Query,
    RefusedRequest,
    date_of,
    end_of,
    one_of,
    step_in,
    wanted_trades,
    whole,
)
from daemon.dashboard.views import DeskLine, Now
from daemon.journal.rows import JournalError
from daemon.reports.performance.figures import RANGES

SECONDS_MOST = 2**33  # latest time: the year 2242


class AnswerContext(msgspec.Struct, frozen=True):
    """Data for the answers other than the desk."""

    history: DecisionHistory
    explainer: Explainer
    models_dir: Path
    own_code: str
    clients: int


Answer = Callable[[FollowedDesk, Query, AnswerContext], Any]


def desk_line(desk: FollowedDesk) -> DeskLine:
    """The desk's line of `GET /api/desks`."""
    picture = desk.picture
    return DeskLine(
        desk.name,
        picture.meta.get("strategy", ""),
        picture.meta.get("mode", ""),
        bool(picture.process),
        picture.problem,
    )


def now(desk: FollowedDesk) -> Now:
    """`GET /api/now`. Raises JournalError, sqlite3.Error, OSError if only the read models can answer."""
    picture = desk.picture
    if followed(picture) or not picture.readable:
        return now_of(picture)
    with desk.reader() as reader:
        return now_of(picture, reader)


def price(desk: FollowedDesk, query: Query, _: AnswerContext) -> Any:
    """`GET /api/price`."""
    session, symbol = query.get("session", ""), query.get("symbol", "")
    if session and DATE.fullmatch(session) is None:
        raise RefusedRequest(400, f"session is {session[:40]!r}, expected a date as 2024-08-05")
    with desk.reader() as reader:
        return price_page(desk.picture, reader, session, symbol[:40])


def bars(desk: FollowedDesk, query: Query, _: AnswerContext) -> Any:
    """`GET /api/bars`."""
    wish = Wish(
        symbol=query.get("symbol", "")[:40],
        begin=whole(query, "from", 0, SECONDS_MOST),
        end=whole(query, "to", 0, SECONDS_MOST),
        session=date_of(query, "session"),
        trade=one_of(query, "trade", ("next", "previous")),
        at=whole(query, "at", 0, SECONDS_MOST * 1000) / 1000,
        whole=one_of(query, "view", ("all",)) == "all",
        points=min(max(whole(query, "points", 600, POINTS_MOST), 10), POINTS_MOST),
        step_s=step_in(query, "step", STEPS),
        panes=tuple(name for name in query.get("panes", "").split(",")[:PANES_MOST] if name),
        sessions=one_of(query, "sessions", ("1",)) == "1",
    )
    with desk.reader() as reader:
        return chart_page(desk, reader, wish)


def equity(desk: FollowedDesk, _: Query, __: AnswerContext) -> Any:
    """`GET /api/equity`."""
    with desk.reader() as reader:
        return equity_page(reader, desk.picture.state)


def spark(desk: FollowedDesk) -> tuple[float, ...]:
    """A desk's part of `GET /api/sparks`; () if its journal is unreadable."""
    try:
        with desk.reader() as reader:
            return spark_of(reader)
    except (JournalError, sqlite3.Error, OSError):
        return ()


def decisions(desk: FollowedDesk, query: Query, _: AnswerContext) -> Any:
    """`GET /api/decisions`."""
    last_number, limit = whole(query, "before", 0, 2**48), whole(query, "limit", 50, LINES_MOST)
    outcome, until_ns = one_of(query, "outcome", FILTERS), end_of(query, "day")
    with desk.reader() as reader:
        return decisions_page(desk.picture, reader, last_number, limit, outcome, until_ns)


def decision(desk: FollowedDesk, query: Query, around: AnswerContext) -> Any:
    """`GET /api/decision/N`; N comes as `number`."""
    number = whole(query, "number", 0, 2**48)
    picture = desk.picture
    spec = picture.spec
    with desk.reader() as reader:
        row = decision_row(picture, reader, number)
        lookup, contribution, why = Lookup(), None, ""
        if row["kind"] != "policy":
            why = "a rule decided, the policy was not asked"
        elif spec is None:
            why = "this code does not know the desk's strategy"
        else:
            lookup = around.history.find(number)
        if lookup.observation is not None and spec is not None:
            if row["logits"]:
                logits = tuple(msgspec.json.decode(row["logits"]))
                try:
                    contribution = around.explainer.explain(
                        spec, row["model"], lookup.observation, logits, row["action"]
                    )
                except Unexplained as error:
                    why = f"contributions: {error}"
            else:
                why = "contributions: the policy gave no answer"
        return decision_page(picture, reader, row, lookup, contribution, why)


def around(desk: FollowedDesk, query: Query, _: AnswerContext) -> Any:
    """`GET /api/around/N`; N comes as `number`."""
    number = whole(query, "number", 0, 2**48)
    with desk.reader() as reader:
        row = decision_row(desk.picture, reader, number)
        return around_page(desk.picture, reader, row, query.get("symbol", "")[:40])


class TextFile(msgspec.Struct, frozen=True):
    """An answer that the browser saves as a file."""

    name: str
    kind: str  # media type
    text: str


def trades(desk: FollowedDesk, query: Query, _: AnswerContext) -> Any:
    """`GET /api/trades`."""
    with desk.reader() as reader:
        return trades_page(reader, wanted_trades(query, TRADES_MOST))


def trades_csv(desk: FollowedDesk, query: Query, _: AnswerContext) -> Any:
    """`GET /api/trades.csv`: all matching trades as a file."""
    filters = msgspec.structs.replace(wanted_trades(query, TRADES_MOST), limit=0, offset=0)
    with desk.reader() as reader:
        return TextFile("trades.csv", "text/csv", trades_file(reader, filters))


def performance(desk: FollowedDesk, query: Query, _: AnswerContext) -> Any:
    """`GET /api/performance`."""
    range_name = one_of(query, "range", RANGES, RANGES[-1])
    spec = desk.picture.spec
    benchmark = one_of(query, "benchmark", spec.symbols if spec is not None else ())
    with desk.reader() as reader:
        return performance_page(reader, range_name, benchmark)


def models(desk: FollowedDesk, _: Query, around: AnswerContext) -> Any:
    """`GET /api/models`."""
    with desk.reader() as reader:
        return models_page(desk.picture, reader, around.models_dir)


def health(desk: FollowedDesk, _: Query, around: AnswerContext) -> Any:
    """`GET /api/health`."""
    with desk.reader() as reader:
        return health_page(desk.picture, reader, desk.file, around.own_code, around.clients)


def risk(desk: FollowedDesk, _: Query, __: AnswerContext) -> Any:
    """`GET /api/risk`."""
    return risk_page(desk.picture)


def learning(desk: FollowedDesk, _: Query, around: AnswerContext) -> Any:
    """`GET /api/learning`."""
    with desk.reader() as reader:
        return learning_page(desk.picture, reader, around.models_dir)


def transition(desk: FollowedDesk, query: Query, around: AnswerContext) -> Any:
    """`GET /api/transition/N`; N comes as `number`, 0 for the newest complete one."""
    spec = desk.picture.spec
    if spec is None or not spec.by_row:
        raise NotThere("a trainer learns nothing from this desk")
    with desk.reader() as reader:
        number = decision_wanted(reader, whole(query, "number", 0, 2**48))
        transition = around.history.followed(number) if number else Transition()
        return transition_page(desk.picture, reader, number, transition)


ANSWERS: dict[str, Answer] = {
    "/api/now": lambda desk, _, __: now(desk),
    "/api/price": price,
    "/api/bars": bars,
    "/api/equity": equity,
    "/api/decisions": decisions,
    "/api/decision/{number}": decision,
    "/api/around/{number}": around,
    "/api/performance": performance,
    "/api/trades": trades,
    "/api/trades.csv": trades_csv,
    "/api/models": models,
    "/api/learning": learning,
    "/api/transition/{number}": transition,
    "/api/risk": risk,
    "/api/health": health,
}
