"""A study of one account that goes through all sessions: everything compounds, checked against hand calculation."""

from __future__ import annotations

import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from strategies.kit.manifest import Training
from tests.support.training.page_words import page_words
from training.desks.registry import reference_of
from training.evidence.criteria import judge
from training.evidence.lead import lead_of
from training.evidence.statistics import annual_return, calmar, max_drawdown, running, summarise, total
from training.report.find import find
from training.report.report import files
from training.study.study import Baseline, Fold, PlayResult, SessionResult, Study, Trial, ValidationCheck, figures

DATES = ("2021-01-04", "2021-01-05", "2021-01-06", "2021-01-07")
UP_AND_DOWN = (0.10, -0.20, 0.50, -0.10)  # 100 -> 110 -> 88 -> 132 -> 118.8
DAILY = ("daily_rebalancer", "regime_switcher")


def account(returns: tuple[float, ...], start: float = 100.0) -> tuple[SessionResult, ...]:
    """One account through the sessions: half of it traded, all of it in shares, one trade a session."""
    results, equity = [], start
    for date, value in zip(DATES, returns, strict=True):
        gain = equity * value
        results.append(SessionResult(date, gain, 1, int(gain > 0), 0.1, equity / 2, 390, 390, capital_usd=equity))
        equity += gain
    return tuple(results)


def study(strategy: str = "regime_switcher") -> Study:
    fold = Fold(("2020-12-30",), ("2020-12-31",), DATES)
    point = ValidationCheck(
        steps=100, reward=0.0, entropy=1.0, kl=0.0, clip_fraction=0.087, explained_variance=0.893,
        validate_return=0.1, validate_trades=1,
    )  # fmt: skip
    trial = Trial(
        fold=0, seed=1, reward="weights", steps=100, seconds=2.0, chosen_steps=100, stopped="", curve=(point,),
        validate=(SessionResult("2020-12-31", 10.0, 1, 1, 0.1, 50.0, 390, 390, capital_usd=100.0),),
        test=PlayResult(account(UP_AND_DOWN)),
    )  # fmt: skip
    return Study(
        strategy=strategy,
        network="gru",
        reward="weights",
        capital_usd=100.0,
        compounds=True,
        code_version="abc",
        settings={},
        machine={},
        data=Training(
            "etf.csv", "00" * 32, "sip", synthetic=False, sessions=6, first_session="", last_session="", splits={},
            source="x",
        ),
        folds=(fold,),
        trials=(trial,),
        chosen=(0,),
        baselines=(Baseline("ALL_SPY", "", (PlayResult(account((0.01, 0.02, -0.01, 0.03))),)),),
        random_pnl_usd=((-5.0, 18.8, 40.0),),
        scenarios={"costs x 2": (PlayResult(account((0.09, -0.21, 0.49, -0.11))),)},
    )  # fmt: skip


def test_returns_of_one_account_multiply() -> None:
    values = np.array(UP_AND_DOWN)
    assert total(values, compounds=True) == pytest.approx(0.188)
    assert total(values) == pytest.approx(0.30)
    assert running(values, compounds=True) == pytest.approx([0.10, -0.12, 0.32, 0.188])
    assert max_drawdown(values, compounds=True) == pytest.approx(22 / 110)  # from 110 to 88
    assert annual_return(values, compounds=True) == pytest.approx(1.188**63 - 1)
    assert calmar(values, compounds=True) == pytest.approx((1.188**63 - 1) / 0.2)


def test_an_account_that_lost_all_has_lost_all_a_year() -> None:
    assert annual_return(np.array([0.1, -1.0]), compounds=True) == -1.0
    assert max_drawdown(np.array([0.1, -1.0]), compounds=True) == pytest.approx(1.0)


def test_a_session_counts_by_what_it_began_with() -> None:
    summary = summarise(account(UP_AND_DOWN), 100.0, compounds=True)
    assert (summary.mean, summary.worst_session) == pytest.approx((0.075, -0.2))
    assert (summary.turnover, summary.exposure) == pytest.approx((0.5, 1.0))
    quick = figures(account(UP_AND_DOWN), 100.0, compounds=True)
    assert (quick.net_return, quick.max_drawdown, quick.turnover) == pytest.approx((0.188, 0.2, 0.5))


def test_the_report_compounds_and_agrees_with_the_money_earned() -> None:
    findings = find(study())
    assert findings.policy.figures.net_return == pytest.approx(0.188)
    assert findings.policy.net_return.estimate == pytest.approx(0.188)
    assert findings.policy.net_return.low <= 0.188 <= findings.policy.net_return.high
    assert findings.folds[0].net_return == pytest.approx(0.188)  # 18.80 USD on 100
    assert findings.random_p == pytest.approx(3 / 4)  # one ties, one is ahead: (1 + 2) / (1 + 3)
    gap = [0.09, -0.22, 0.51, -0.13]
    assert findings.over_baselines["ALL_SPY"].estimate == pytest.approx(math.fsum(gap) / 4)


def test_the_page_says_what_an_account_of_shares_means() -> None:
    words = page_words(files(study(), find(study()))["report.html"].decode())
    assert "Everything compounds" in words
    assert "ln 16 = 2.77" in words
    assert "Nothing compounds" not in words
    assert "Option prices" not in words
    assert "Which setting trains better?" in words
    assert "a year" in words
    assert "no single outcome" in words
    assert "none reaches over a span's edge" in words


@pytest.mark.parametrize("strategy", DAILY)
def test_the_claims_of_the_reference_stand_beside_what_was_found_with_what_differs(strategy: str) -> None:
    words = page_words(files(study(strategy), find(study(strategy)))["report.html"].decode())
    assert "Against what the reference claims" in words
    reference = reference_of(strategy)
    assert reference is not None
    for claim in reference.claims:
        assert f"{claim.name} {claim.claimed}" in words
    for sentence in (*reference.differs, reference.survivorship):
        assert sentence in words
    assert "20.0 %" in words  # the drawdown by hand


def test_the_reference_of_the_rebalancer_is_compared_by_the_figures_of_training_too() -> None:
    words = page_words(files(study("daily_rebalancer"), find(study("daily_rebalancer")))["report.html"].decode())
    assert "explained variance at the end of training 0.893 0.893" in words
    assert "clip fraction at the end of training 0.087 0.087" in words
    assert "50 steps/s a trial" in words  # 100 steps in 2 seconds
    assert "below 10 ms" in words


def test_the_page_claims_neither_spans_nor_trades_won_that_are_not_this_study_s() -> None:
    for strategy in DAILY:
        example = study(strategy)
        words = page_words(files(example, find(example))["report.html"].decode())
        assert "trades that earned –" not in words
        assert "trades that earned 0" not in words
        assert "of the trades" not in words  # orders filled are no trades that could be won
        assert "2020 chooses" not in words
        assert "2019 chooses" not in words
        assert "ratios are over zero" in words


def test_what_the_market_alone_pays_a_basket_is_no_lead() -> None:
    random = np.random.default_rng(5)
    market = random.normal(0.002, 0.01, 800)  # a Sharpe ratio of 3 a year
    runs = np.column_stack([market + random.normal(0.0, 0.002, 800) for _ in range(10)])
    led = lead_of(runs[:, 0], {"always flat": np.zeros(800), "buy and hold": market}, runs, compounds=True)
    assert led is not None
    assert (led.baseline, led.trials) == ("buy and hold", 10)
    assert led.low is not None
    assert led.low < 0.0
    assert led.mean == pytest.approx(float(np.mean(runs[:, 0] - market)))
    ahead = lead_of(runs[:, 0] + 0.001, {"buy and hold": market}, runs + 0.001, earlier=5, compounds=True)
    assert ahead is not None
    assert ahead.low is not None
    assert ahead.low > 0.0
    assert (ahead.trials, ahead.loss) == (15, 0.0)


def test_many_orders_of_one_basket_are_one_session_with_trades() -> None:
    first, *rest = account(UP_AND_DOWN)
    sessions = (replace(first, trades=50), *(replace(session, trades=0) for session in rest))
    findings = find(study())
    one_basket = msgspec.structs.replace(findings.policy, figures=summarise(sessions, 100.0, compounds=True))
    findings = msgspec.structs.replace(findings, policy=one_basket)
    criteria = {one.name: one for one in judge(findings)}
    assert (criteria["trades"].found, criteria["trades"].passes) == ("1", False)
    by_minutes = {one.name: one for one in judge(msgspec.structs.replace(findings, compounds=False))}
    assert (by_minutes["trades"].found, by_minutes["trades"].passes) == ("50", True)
