"""A study small enough to calculate by hand: two folds of two test sessions, three seeds, a capital of 1,000 USD."""

from __future__ import annotations

from strategies.kit.manifest import Training
from training.study.study import Baseline, ClosedTrade, Fold, PlayResult, SessionResult, Study, Trial


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
