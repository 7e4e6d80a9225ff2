"""Studies without any training: one drawn from a seed, and two made by hand that a test can calculate.

The sessions of the drawn one are weekdays, its profits normal draws; `edge_usd` is what the policy earns a session on
average.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from strategies.kit.manifest import Training
from training.study.study import (
    Baseline,
    ClosedTrade,
    Fold,
    NetworkChange,
    PlayResult,
    SessionResult,
    Study,
    Trial,
    ValidationCheck,
)

CAPITAL_USD = 10_000.0
FEE_USD = 1.3  # a trade
DEVIATION_USD = 110.0  # of a session
DRAWS = 1000
CHECKS = 20

Dates = tuple[str, ...]


def example_study(
    *,
    folds: int = 3,
    seeds: int = 10,
    rewards: Sequence[str] = ("potential", "reference"),
    test_sessions: int = 20,
    edge_usd: float = 4.0,
    seed: int = 7,
    scenarios: bool = True,
    prior_sharpes: tuple[float, ...] = (),
    prior_openings: int = 0,
) -> Study:
    """A study of `folds` folds with `seeds` trials for each reward; the last reward earns half of the edge."""
    random = np.random.default_rng(seed)
    spans = tuple(_fold(index, test_sessions) for index in range(folds))
    trials = tuple(
        _trial(random, index, number, reward, span, edge_usd * (1.0 if reward == rewards[0] else 0.5))
        for index, span in enumerate(spans)
        for reward in rewards
        for number in range(1, seeds + 1)
    )
    chosen = tuple(_best(trials, index, rewards[0]) for index in range(folds))
    return Study(
        strategy="option_scalper",
        network="mlp",
        reward=rewards[0],
        capital_usd=CAPITAL_USD,
        code_version="0123456",
        settings={"steps": 2_000_000, "seeds": seeds, "learning_rate": 3e-4, "epochs": 10, "purge_sessions": 1},
        machine={"torch": "2.13.0", "threads": "1", "device": "cpu", "platform": "Linux-x86_64"},
        data=_training(spans),
        folds=spans,
        trials=trials,
        chosen=chosen,
        baselines=_baselines(random, spans),
        random_pnl_usd=tuple(
            tuple(random.normal(-8.0 * test_sessions, DEVIATION_USD * test_sessions**0.5, DRAWS).tolist())
            for _ in spans
        ),
        scenarios={
            "costs x 2": tuple(_poorer(trials[index].test, 6.0) for index in chosen),
            "one bar late": tuple(_poorer(trials[index].test, 2.5) for index in chosen),
        }
        if scenarios
        else {},
        prior_sharpes=prior_sharpes,
        prior_openings=prior_openings,
    )


def _fold(index: int, test_sessions: int) -> Fold:
    """Train on 120 weekdays, validate on 20, test on the next; one weekday is left out at each seam."""
    first = index * test_sessions
    days = [
        str(np.busday_offset("2023-01-02", first + offset, roll="forward")) for offset in range(142 + test_sessions)
    ]
    return Fold(train=tuple(days[:120]), validate=tuple(days[121:141]), test=tuple(days[142:]))


def _sessions(
    random: np.random.Generator, dates: Dates, mean_usd: float, deviation_usd: float = DEVIATION_USD
) -> tuple[SessionResult, ...]:
    trades = random.poisson(2.0, len(dates))
    pnl = random.normal(mean_usd, deviation_usd, len(dates)) * (trades > 0)
    wins = random.binomial(trades, np.where(pnl > 0, 0.75, 0.25))
    return tuple(
        SessionResult(
            date=date,
            pnl_usd=round(float(pnl[index]), 2),
            trades=int(trades[index]),
            wins=int(wins[index]),
            fees_usd=round(FEE_USD * int(trades[index]), 2),
            premium_usd=1200.0 * int(trades[index]),
            held_min=30 * int(trades[index]),
            minutes=360,
        )
        for index, date in enumerate(dates)
    )


def _entries(random: np.random.Generator, sessions: Sequence[SessionResult]) -> tuple[ClosedTrade, ...]:
    """Surer than right: a trade entered with confidence c wins with probability 0.25 + c / 3."""
    entries = []
    for session in sessions:
        for _ in range(session.trades):
            confidence = float(random.uniform(0.5, 0.98))
            won = random.random() < 0.25 + confidence / 3.0
            entries.append(ClosedTrade(session.date, round(confidence, 4), 62.0 if won else -58.0))
    return tuple(entries)


def _trial(random: np.random.Generator, index: int, number: int, reward: str, span: Fold, edge_usd: float) -> Trial:
    own = edge_usd + float(random.normal(0.0, 4.0))
    validate = _sessions(random, span.validate, own + 15.0)  # the best of many checkpoints flatters
    test = _sessions(random, span.test, own)
    return Trial(
        fold=index,
        seed=number,
        reward=reward,
        steps=2_000_000,
        seconds=75.0,
        chosen_steps=2_000_000 * int(random.integers(4, CHECKS + 1)) // CHECKS,
        stopped="",
        curve=_curve(random),
        learnt=NetworkChange(3040, 0.4, 0.6, 0.1, 0.3),
        validate=validate,
        test=PlayResult(
            test, {"cooldown": 12, "spread_too_wide": 5, "confidence_below_min": 41}, _entries(random, test)
        ),
    )


def _curve(random: np.random.Generator) -> tuple[ValidationCheck, ...]:
    walk: npt.NDArray[np.float64] = np.cumsum(random.normal(0.001, 0.012, CHECKS)) - 0.02
    return tuple(
        ValidationCheck(
            steps=2_000_000 * (check + 1) // CHECKS,
            reward=float(walk[check]) / 10.0,
            entropy=float(1.79 - 0.9 * (check + 1) / CHECKS + random.normal(0.0, 0.03)),
            kl=0.004,
            clip_fraction=0.05,
            explained_variance=0.3,
            validate_return=float(walk[check]),
            validate_trades=40,
        )
        for check in range(CHECKS)
    )


def _best(trials: Sequence[Trial], index: int, reward: str) -> int:
    own = [place for place, trial in enumerate(trials) if trial.fold == index and trial.reward == reward]
    return max(own, key=lambda place: sum(session.pnl_usd for session in trials[place].validate))


def _poorer(played: PlayResult, usd_a_trade: float) -> PlayResult:
    sessions = tuple(
        SessionResult(
            date=s.date,
            pnl_usd=s.pnl_usd - usd_a_trade * s.trades,
            trades=s.trades,
            wins=s.wins,
            fees_usd=s.fees_usd,
            premium_usd=s.premium_usd,
            held_min=s.held_min,
            minutes=s.minutes,
        )
        for s in played.sessions
    )
    return PlayResult(sessions, played.denials, played.entries)


def _baselines(random: np.random.Generator, spans: Sequence[Fold]) -> tuple[Baseline, ...]:
    def flat(dates: Dates) -> PlayResult:
        return PlayResult(tuple(SessionResult(date, 0.0, 0, 0, 0.0, 0.0, 0, 360) for date in dates))

    def hold(dates: Dates) -> PlayResult:
        pnl = random.normal(5.0, 80.0, len(dates)).round(2).tolist()
        first = [index == 0 for index in range(len(dates))]
        return PlayResult(
            tuple(
                SessionResult(date, value, int(new), int(new and value > 0), 0.0, 10_000.0 * new, 360, 360)
                for date, value, new in zip(dates, pnl, first, strict=True)
            )
        )

    players = (
        ("always flat", "the same desk, never trading", flat),
        ("buy and hold", "all of the capital in SPY from the first test session's open to the last one's close", hold),
        (
            "random",
            "a random side, as often and as long as the policy",
            lambda dates: PlayResult(_sessions(random, dates, -8.0)),
        ),
        (
            "simple rule",
            "buys the side of the last 20 minutes' move",
            lambda dates: PlayResult(_sessions(random, dates, -5.0)),
        ),
    )
    return tuple(Baseline(name, text, tuple(play(span.test) for span in spans)) for name, text, play in players)


def _training(spans: Sequence[Fold]) -> Training:
    first, last = spans[0], spans[-1]
    return Training(
        file="spy_1min.parquet",
        file_sha256="ab" * 32,
        feed="sip",
        synthetic=False,
        source="an example",
        sessions=len({*first.train, *(date for span in spans for date in (*span.validate, *span.test))}),
        first_session=first.train[0],
        last_session=last.test[-1],
        splits={
            "train": (last.train[0], last.train[-1]),
            "validate": (last.validate[0], last.validate[-1]),
            "test": (last.test[0], last.test[-1]),
        },
    )


def session(date: str, pnl_usd: float, trades: int = 1) -> SessionResult:
    """One trade of an hour for each of `trades`; money in USD."""
    return SessionResult(date, pnl_usd, trades, int(pnl_usd > 0), 1.0 * trades, 500.0 * trades, 60 * trades, 360)


def hand_study() -> Study:
    """Two folds of two test sessions, three seeds, everything small enough to calculate by hand; capital 1,000."""
    folds = (
        Fold(("2024-01-02", "2024-01-03"), ("2024-01-05",), ("2024-01-09", "2024-01-10")),
        Fold(("2024-01-02", "2024-01-05"), ("2024-01-10",), ("2024-01-16", "2024-01-17")),
    )
    tests = {(0, 1): (10.0, -4.0), (0, 2): (2.0, 1.0), (0, 3): (-5.0, -5.0)}
    tests |= {(1, 1): (-1.0, 0.0), (1, 2): (8.0, 12.0), (1, 3): (3.0, 3.0)}
    validates = {(0, 1): 9.0, (0, 2): 5.0, (0, 3): 1.0, (1, 1): 1.0, (1, 2): 7.0, (1, 3): 2.0}
    trials = tuple(
        Trial(
            fold=fold,
            seed=seed,
            reward="potential",
            steps=100,
            seconds=1.0,
            chosen_steps=50,
            stopped="",
            curve=(),
            validate=(session(folds[fold].validate[0], validates[fold, seed]),),
            test=PlayResult(
                tuple(session(date, pnl) for date, pnl in zip(folds[fold].test, earned, strict=True)),
                {"cooldown": fold + 1},
                (ClosedTrade(folds[fold].test[0], 0.6, earned[0]),),
            ),
        )
        for (fold, seed), earned in tests.items()
    )
    held = tuple(PlayResult(tuple(session(date, 2.0) for date in fold.test)) for fold in folds)
    return Study(
        strategy="option_scalper",
        network="mlp",
        reward="potential",
        capital_usd=1000.0,
        code_version="abc",
        settings={"note": "<script>alert(1)</script>"},
        machine={},
        data=Training(
            "bars.csv", "00" * 32, "sip", synthetic=True, sessions=9, first_session="", last_session="", splits={}
        ),
        folds=folds,
        trials=trials,
        chosen=(0, 4),  # seed 1 in the first fold, seed 2 in the second: the best on validation
        baselines=(Baseline("buy and hold", "shares", held),),
        random_pnl_usd=((0.0, 10.0, 20.0), (0.0, 16.0, 5.0)),
        scenarios={"costs x 2": tuple(PlayResult(tuple(session(date, 1.0) for date in fold.test)) for fold in folds)},
    )


FOLDS = (
    Fold(("2018-12-28",), ("2018-12-31",), ("2019-01-02", "2019-01-03")),
    Fold(("2018-12-31",), ("2019-01-02",), ("2019-01-04", "2019-01-07")),
)


def played(fold: int, *sessions: tuple[float, float]) -> PlayResult:
    """A fold's sessions: what the account began with and what it earned, in USD."""
    dates = FOLDS[fold].test
    return PlayResult(
        tuple(
            SessionResult(date, earned, 1, 0, 1.0, 10.0, 390, 390, capital_usd=began)
            for date, (began, earned) in zip(dates, sessions, strict=True)
        ),
        {"buying_power": fold + 1},
    )


def point(agent: str, steps: int, of_critic: float) -> ValidationCheck:
    figures = {"gain": 1e-3, "cost": -2e-4, "bonus": 1e-4, "critic loss": of_critic, "Q mean": 3.0, "actor loss": -1.0}
    figures |= {"temperature": 0.2} if agent == "sac" else {}
    return ValidationCheck(
        steps=steps, reward=9e-4, entropy=0.5 if agent == "sac" else 0.0, kl=0.0, clip_fraction=0.0,
        explained_variance=0.0, validate_return=0.01, validate_trades=1, agent=agent,
        figures=figures | {"update_to_data": 0.002},
    )  # fmt: skip


def account_study() -> Study:
    """The account: 100 -> 110 -> 99, then 99 -> 118.8 -> 106.92; alone and from cash the second fold earned nothing."""
    curve = tuple(point(agent, steps, 100.0 / steps) for agent in ("sac", "td3") for steps in (100, 200, 300))
    trials = tuple(
        Trial(
            fold=fold,
            seed=1,
            reward="bonus",
            steps=600,
            seconds=2.0,
            chosen_steps=100,
            stopped="",
            curve=curve,
            validate=(SessionResult(FOLDS[fold].validate[0], 1.0, 1, 0, 1.0, 1.0, 390, 390, capital_usd=100.0),),
            test=played(fold, (100.0, 0.0), (100.0, 0.0)),
        )
        for fold in (0, 1)
    )
    account = played(0, (100.0, 10.0), (110.0, -11.0)), played(1, (99.0, 19.8), (118.8, -11.88))
    holds = played(0, (100.0, 1.0), (101.0, 1.01)), played(1, (102.01, 0.0), (102.01, 0.0))
    return Study(
        strategy="forecast_ensemble",
        network="cnn_lstm",
        reward="bonus",
        capital_usd=100.0,
        compounds=True,
        code_version="abc",
        settings={},
        machine={},
        data=Training(
            "stocks.csv", "00" * 32, "sip", synthetic=False, sessions=6, first_session="", last_session="", splits={},
            source="x",
        ),
        folds=FOLDS,
        trials=trials,
        chosen=(0, 1),
        baselines=(Baseline("buy and hold", "", holds),),
        # accounts of three random traders after each fold: 98, 100, 150, then 107.8, 104, 75
        random_pnl_usd=((-2.0, 0.0, 50.0), (9.8, 4.0, -75.0)),
        scenarios={"costs x 2": account},
        account=account,
    )  # fmt: skip
