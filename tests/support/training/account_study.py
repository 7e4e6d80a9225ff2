"""A study made by hand whose chosen policies trade one account through the tests of two folds."""

from __future__ import annotations

from strategies.kit.manifest import Training
from training.study.study import Baseline, Fold, PlayResult, SessionResult, Study, Trial, ValidationCheck

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
