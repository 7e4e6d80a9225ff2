"""What befalls each of several desks in one session, drawn from (seed, date, desk); and each desk's settings.

Pure. Kinds are those of `tests.chaos.kinds` that an account in good standing can meet, and some of a desk's own: of a
daily one around its decision, between its sales and its buys, and over night; of shares by the minute one symbol's bars
and quotes.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache
from pathlib import Path

from simulator.trading.venue import Rounding, Rules
from strategies import daily_rebalancer, forecast_ensemble, online_dqn, option_scalper, regime_switcher
from tests.chaos.kinds import ANY, KINDS, TARGETS, Kind, Line
from tests.chaos.plan import Trouble

SCALPER = option_scalper.SPEC.name
REBALANCER, SWITCHER, FORECAST = DAILY = tuple(
    module.SPEC.name for module in (daily_rebalancer, regime_switcher, forecast_ensemble)
)
ONLINE = online_dqn.OnlineDqn().spec.name
DESKS = (SCALPER, *DAILY, ONLINE)
BY_MINUTE = ("SPY", "QQQ")  # what the online desk trades, by bars of five minutes that the feed builds of minutes
CASH_USD = {SCALPER: 100_000, REBALANCER: 150_000, SWITCHER: 100_000, FORECAST: 100_000, ONLINE: 100_000}
ROUNDED: tuple[Rounding, ...] = ("none", "fill", "order")  # cash to cents
SMALL_USD = (2_000, 8_000, 30_000)  # of desks of shares that may trade fractions
FIVE_MINUTES = "five_minutes.yaml"
DECIDE_MIN = 60  # minutes before the open: while orders wait for the auction, each second is a step
OF_A_SESSION = (2, 4)  # kinds of one desk
HOUR_S = 3600.0
BARS = {"method": "GET", "path": "/v2/stocks/bars"}
QUOTES = {"method": "GET", "path": "/v2/stocks/quotes/latest"}
REJECTIONS = frozenset({"reject_rate"})
OF_ONE_DESK = ("fee", "fee_late", "locked")  # acts of the campaign of one desk
BEFORE_THE_KEY = ("upgrade_refused", "mute_after_connect", "connection_limit", "clock_skew", "market_closed")
OF_THE_MARKET = ("bar_", "quote_", "trading_halt", "greeks_missing", "odd_symbol")
NOWHERE = BEFORE_THE_KEY + OF_THE_MARKET
"""How faults begin whose place in the server does not know the account: they befall whoever comes first."""

Table = Mapping[str, Mapping[str, object]]
Window = tuple[float, float]  # minutes from the session's open

NIGHT, BEFORE = (-500.0, -DECIDE_MIN - 60.0), (-DECIDE_MIN - 30.0, -DECIDE_MIN + 5.0)
AUCTION, DAY = (-DECIDE_MIN + 2.0, 2.0), (2.0, 240.0)


@dataclass(frozen=True, slots=True)
class Money:
    """A desk's cash at the begin in USD, and its `[basket] fractions`."""

    cash_usd: int
    fractions: str = "off"


def money(seed: int, desk: str) -> Money:
    """What the desk begins with: one of shares mostly with so little that `auto` takes fractions, or with them on."""
    chance = random.Random(f"money {seed} {desk}")
    if desk == SCALPER or chance.random() < 1 / 3:
        return Money(CASH_USD[desk])
    return Money(chance.choice(SMALL_USD), chance.choice(("auto", "auto", "on")))


def broker_rules(seed: int) -> Rules:
    """How the campaign's broker rounds cash, fills fractions, which share it trades whole alone, and its fees."""
    chance = random.Random(f"broker {seed}")
    rounding, in_parts = chance.choice(ROUNDED), chance.random() < 0.5
    whole = (
        frozenset({chance.choice(daily_rebalancer.SYMBOLS), chance.choice(BY_MINUTE)}) if chance.random() < 0.5 else ()
    )
    rules = Rules(
        seed=seed,
        fill_sizes=(1, 4),
        cash_rounding=rounding,
        fractions_in_parts=in_parts,
        not_fractionable=frozenset(whole),
    )
    return with_share_fees(rules) if chance.random() < 0.5 else rules


def with_share_fees(rules: Rules) -> Rules:
    """The same with what the regulators ask for of shares, booked at each session's close."""
    taf, reg, cat = Decimal("0.000166"), Decimal("0.0000278"), Decimal("0.000048")
    return replace(rules, taf_per_share=taf, reg_rate=reg, cat_per_share=cat)


@dataclass(frozen=True, slots=True)
class StreamTrouble:
    """One of `STREAM`: minutes from the session's open, and how long it lasts where it does."""

    name: str
    from_min: int
    lasts_min: int


@dataclass(frozen=True, slots=True)
class Own:
    """A daily desk's own kind, when it may begin, and the stage of the basket that it waits for ("" none).

    Stages: `sells` are at the broker; a sell has filled, no buy is there yet: `between`; some `buys` are there.
    """

    kind: Kind
    window: Window
    stage: str = ""


def _line(
    kind: str, where: Mapping[str, object], *, lasts_s: float = 0.0, times: int = 1, **parameters: object
) -> Line:
    return Line(kind, dict(where), dict(parameters), times, lasts_s)


def _row(name: str, family: str, window: Window, *lines: Line, act: str = "", stage: str = "") -> tuple[str, Own]:
    def draw(_: random.Random) -> tuple[Line, ...]:
        return lines

    return name, Own(Kind(name, family, draw, when=ANY, act=act), window, stage)


OWN: dict[str, Own] = dict(
    (
        _row("history: 503", "history fails", BEFORE, _line("http_error", BARS, times=3, status=503)),
        _row("history: hangs", "history fails", BEFORE, _line("http_hang", BARS, times=2, seconds=1.5)),
        _row("history: no JSON", "history fails", BEFORE, _line("malformed_json", BARS, times=2)),
        _row("history: reset", "history fails", BEFORE, _line("http_reset", BARS, times=2)),
        _row("history: slow", "history slow", BEFORE, _line("http_slow", BARS, times=3, seconds=0.4)),
        _row("history: out until noon", "history out", BEFORE, _line("http_error", BARS, lasts_s=5 * HOUR_S)),
        _row("quotes: 503", "quotes missing", AUCTION, _line("http_error", QUOTES, lasts_s=4 * HOUR_S, status=503)),
        _row("quotes: empty", "quotes missing", DAY, _line("http_empty_body", QUOTES, times=6)),
        _row("killed before the answer", "SIGKILL", (-DECIDE_MIN, -DECIDE_MIN + 2.0), act="kill"),
        _row("killed with sells on their way", "SIGKILL", AUCTION, act="kill", stage="sells"),
        _row("stopped with sells on their way", "restart", AUCTION, act="restart", stage="sells"),
        _row("killed between sells and buys", "SIGKILL", (0.0, 0.0), act="kill", stage="between"),
        _row("killed in the middle of the buys", "SIGKILL", (0.0, 0.0), act="kill", stage="buys"),
        _row("frozen in the middle of the buys", "frozen", (0.0, 0.0), act="freeze", stage="buys"),
        _row("stopped in the middle of the buys", "restart", (0.0, 0.0), act="restart", stage="buys"),
        _row("frozen at the decision", "frozen", (-DECIDE_MIN - 1.0, -DECIDE_MIN + 1.0), act="freeze"),
        _row("killed after the decision", "SIGKILL", (-DECIDE_MIN + 20.0, -10.0), act="kill"),
        _row("killed over night", "SIGKILL", NIGHT, act="kill"),
        _row("stopped over night", "restart", NIGHT, act="restart"),
        _row("away over the decision", "away", BEFORE, act="away"),
        _row("killed again while it starts", "SIGKILL", (-DECIDE_MIN - 2.0, -DECIDE_MIN + 30.0), act="kill_twice"),
        _row("killed while it stops", "SIGKILL", (0.0, 60.0), act="kill_stopping"),
    )
)  # fmt: skip
"""A daily desk's own kinds by name."""

OF_ONE = {"stream": "stock", "symbol": "QQQ"}
SHARES: dict[str, Own] = dict(
    (
        _row("one share: no bars for a while", "one share lost", DAY, _line("bar_gap", OF_ONE, times=12)),
        _row("one share: late bars", "one share lost", DAY, _line("bar_late", OF_ONE, times=4, delay_s=8)),
        _row("one share: corrected bars", "corrected bar", DAY, _line("bar_corrected", OF_ONE, times=3, shift=0.2)),
        _row("one share: an impossible bar", "impossible bar", DAY, _line("bar_absurd", OF_ONE, times=2, factor=40)),
        _row("one share: no quotes for a while", "quotes missing", DAY, _line("quote_gap", OF_ONE, times=90)),
        _row("one share: crossed quotes", "broken quote", DAY, _line("quote_crossed", OF_ONE, times=12)),
        _row("one share: one-sided quotes", "broken quote", DAY, _line("quote_one_sided", OF_ONE, times=12)),
        _row("one share: halted", "market closed", DAY, _line("trading_halt", OF_ONE, minutes=9)),
        _row("one share: a bid of a cent", "broken quote", DAY, _line("quote_absurd", OF_ONE, times=3)),
    )
)
"""Kinds of a desk that trades shares by the minute, by name."""
STREAM = (
    "redis: killed", "redis: frozen", "redis: full", "redis: emptied", "publisher: killed",
    "publisher: its checkpoint lost", "trainer: killed", "stream: foreign entries", "stream: an entry twice",
    "stream: an entry taken away",
)  # fmt: skip
"""What befalls the stream of experience of the desk that learns; see `tests.chaos.desks.stream`."""
STREAM_OF_A_SESSION = 4
LADDER = (
    "trained", "card", "shadow", "canary_10", "canary_25", "canary_50", "canary_100", "champion", "rolled_back",
)  # fmt: skip
IN_STEP = {f"trainer: killed, {step}": step for step in LADDER}
"""The trainer killed in a step of the ladder, each drawn in every session: it waits for a session in that step."""
SERVED_DEADLINE_MS = 3000
NOT_OF_SHARES = (
    "option: ", "quote_", "greeks_missing", "odd_symbol", "list of contracts", "split of the underlying",
    "refused: options", "refused: uncovered", "refused: level2", "refused: expire", "refused: position_intent",
)  # fmt: skip

ORDERS = (
    "rejected after acceptance", "fill_partial", "order_held_back", "fill before the reply", "fill unheard",
    "fill during socket_drop", "fill during socket_black_hole", "cancel_loses", "cancel_stuck", "cancel_rejected",
    "cancel_refused", "update_duplicated", "update_reordered", "update_replayed", "update_lost", "update_late",
    "stale_read", "dividend", "clock skew",
)  # fmt: skip


@cache
def shared_kinds(desk: str) -> tuple[Kind, ...]:
    """The campaign's kinds that this desk can meet and trade on after."""
    fit = [k for k in KINDS.values() if not (k.halts - REJECTIONS or k.alone or k.tables or k.act in OF_ONE_DESK)]
    if desk == SCALPER:
        return tuple(fit)
    if desk == ONLINE:
        return tuple(kind for kind in fit if not kind.name.startswith(NOT_OF_SHARES))
    targets = tuple(f"{target}: " for target in TARGETS)
    return tuple(kind for kind in fit if kind.name in ORDERS or kind.name.startswith(("trade: ", *targets)))


def troubles(seed: int, date: str, desk: str) -> list[tuple[Trouble, str]]:
    """What befalls the desk in the session of `date`, with the stage that each waits for, by the minute from the open.

    Lines act on the account whose key is filled in by `bound`.
    """
    chance = random.Random(f"desks {seed} {date} {desk}")
    many = chance.randint(*OF_A_SESSION)
    pairs: list[tuple[Trouble, str]] = []
    if desk != SCALPER:
        owned = chance.sample(list((OWN if desk in DAILY else SHARES).values()), 1 + many // 3)
        pairs += [(_trouble(choice.kind, choice.window, chance, desk), choice.stage) for choice in owned]
    for kind in chance.sample(shared_kinds(desk), many - len(pairs) + 1):
        window = chance.choice((AUCTION, DAY)) if desk in DAILY else DAY
        pairs.append((_trouble(kind, window, chance, desk), ""))
    return sorted(pairs, key=lambda pair: pair[0].from_min)


def stream_troubles(seed: int, date: str) -> list[StreamTrouble]:
    """What befalls the stream of experience in the session of `date`."""
    chance = random.Random(f"stream {seed} {date}")
    names = chance.sample(STREAM, STREAM_OF_A_SESSION)
    return [StreamTrouble(name, chance.randint(10, 200), chance.randint(2, 12)) for name in (*names, *IN_STEP)]


def _trouble(kind: Kind, window: Window, chance: random.Random, desk: str) -> Trouble:
    desk_kind = replace(kind, name=f"{desk}: {kind.name}", family=kind.family)
    return Trouble(desk_kind, kind.draw(chance), round(chance.uniform(*window), 2))


def bound(trouble: Trouble, key: str) -> Trouble:
    """The trouble with its lines acting on this account alone."""

    def on_it(line: Line) -> Line:
        return line if line.kind.startswith(NOWHERE) else replace(line, where={**line.where, "key": key})

    return replace(trouble, lines=tuple(map(on_it, trouble.lines)))


def tables(desk: str, folder: Path, redis: str = "", fractions: str = "off") -> Table:
    """The desk's settings: waits in proportion to a fast clock, no limit that the campaign's troubles meet.

    `fractions` is of `[basket]`. `folder` has the model configuration of the online desk, whose answers are served at
    `redis`, "" for its own.
    """
    sections: dict[str, dict[str, object]] = {
        "desk": {"name": desk, "strategy": desk},
        "alpaca": {"ping_s": 30, "report_every_s": 300},
        "feed": {"silence_s": 600},
        "service": {"archives": 1},
        "journal": {"ballast_mib": 1, "snapshot_events": 2000},
        "execution": {"policy_valid_s": 3600},
        "broker": {"blind_min": 240, "look_up_s": 120, "on_stop": "keep", "on_blind": "alarm"},
        "risk": {"stale_bar_s": 1800, "quote_age_max_s": 1800, "gap_min": 240, "reject_rate_max": 1.0},
    }
    if desk == SCALPER:
        sections["execution"] |= {"entry_reprice_s": 300, "entry_deadline_s": 900, "exit_reprice_s": 200}
    elif desk == ONLINE:
        sections["desk"] |= {"symbols": list(BY_MINUTE), "model_config": str(folder / FIVE_MINUTES)}
        sections["execution"] |= {"entry_deadline_s": 900}
        sections["basket"] = {"reprice_s": 200, "price_collar": 0.15}
        sections["policy"] = {"poll_s": 300}
        sections["ladder"] = {
            "promotion": "automatic",
            "replay_sessions": 0,  # its process has the lowest priority, and time would wait for it
            "shadow_sessions": 1,
            "canary_sessions": 1,
            "shadow_behind_max": 1.0,
            "shadow_failures_max": 1.0,
            "drawdown_max": 1.0,
        }
        if redis:
            sections["policy"] |= {"answers": "served", "redis": redis, "served_deadline_ms": SERVED_DEADLINE_MS}
    else:
        sections["basket"] = {
            "before_open_min": DECIDE_MIN,
            "reprice_s": 3600 if desk == SWITCHER else 6000,  # how long an order that never arrived is sent again
            "end_before_close_min": 30,
            "price_collar": 0.15,
            "equity_per_unit": 0,  # as the policies of `policy.py` were made: in shares
        }
        if desk == REBALANCER:
            sections["broker"]["foreign_orders"] = "ignore"  # a person holds shares beside it
    if desk != SCALPER:
        sections["basket"]["fractions"] = fractions
    return sections


def family(name: str) -> str:
    """The family of a kind by its name."""
    families = {**OWN, **SHARES}
    return families[name].kind.family if name in families else KINDS[name].family
