"""What the references of the daily strategies claim. Every figure set against a claim comes from study and findings."""

from __future__ import annotations

from collections.abc import Callable

from strategies.regime_switcher import SYMBOLS
from training.evidence.findings import Claim, Findings, StrategyClaims
from training.evidence.wording import UNKNOWN, number, percent, share
from training.study.study import Study, ValidationCheck


def _annual(f: Findings, _: Study) -> str:
    return percent(f.policy.figures.annual_return)


def _sharpe(f: Findings, _: Study) -> str:
    return number(f.policy.figures.sharpe_annual)


def _drawdown(f: Findings, _: Study) -> str:
    return share(f.policy.figures.max_drawdown)


def _days_won(f: Findings, _: Study) -> str:
    return f"{share(f.policy.figures.hit_rate_sessions)} of the sessions"


def _turnover(f: Findings, _: Study) -> str:
    return f"{share(f.policy.figures.turnover)} of the equity a session"


def _over_spy(f: Findings, _: Study) -> str:
    spy = next((line for line in f.baselines if line.name in ("ALL_SPY", "SPY")), None)
    if spy is None:
        return UNKNOWN
    figures = f.policy.figures
    return f"Sharpe {number(figures.sharpe_annual)} against {number(spy.figures.sharpe_annual)}"


def _of_training(figure: Callable[[ValidationCheck], float]) -> Callable[[Findings, Study], str]:
    """A figure of the chosen trial's training, at its last look."""

    def figure_text(_: Findings, study: Study) -> str:
        curve = study.trials[study.chosen[-1]].curve
        return number(figure(curve[-1]), 3) if curve else UNKNOWN

    return figure_text


def _speed(_: Findings, study: Study) -> str:
    seconds = sum(trial.seconds for trial in study.trials)
    if not seconds:
        return UNKNOWN
    return f"{number(sum(t.steps for t in study.trials) / seconds, 0)} steps/s a trial, looks at validation included"


def _unmeasured(_: Findings, __: Study) -> str:
    return "not measured in a study"


REBALANCER = StrategyClaims(
    claims=(
        Claim("annual return", "17.32 %", _annual),
        Claim("Sharpe ratio", "0.51", _sharpe),
        Claim("largest drawdown", "20.66 %", _drawdown),
        Claim("win rate (of what is not stated)", "58.3 %", _days_won),
        Claim("explained variance at the end of training", "0.893", _of_training(lambda p: p.explained_variance)),
        Claim("clip fraction at the end of training", "0.087", _of_training(lambda p: p.clip_fraction)),
        Claim("training", "50 minutes on an A100 (167 steps/s)", _speed),
        Claim("a decision", "below 10 ms", _unmeasured),
    ),
    differs=(
        (
            "The reference's data are of 2020 to 2024, the days of its figures are not stated. "
            "Which sessions trained, chose and tested here stands fold by fold."
        ),
        (
            "The reference does not state its fill prices. Here they trade at the next open; what "
            "trading at the very close of the decision would flatter stands under the other times."
        ),
        "The reference does not list its 50 stocks.",
    ),
    survivorship=(
        "The 50 stocks were chosen from a list of companies that are large today, by a full history up to 2022 "
        "and their dollar volume of 2019. Who failed, shrank or was bought is missing, so every long position in "
        "them looks better than it was, the baselines' too: what the policy is worth shows against equal weight "
        "in the same 50, not against SPY."
    ),
)
_REGIME = StrategyClaims(
    claims=(
        Claim("Sharpe ratio", "target: above 1", _sharpe),
        Claim("largest drawdown", "target: below 15 %", _drawdown),
        Claim("turnover (over what time is not stated)", "target: below 10 %", _turnover),
        Claim("better than SPY after risk", "target: yes", _over_spy),
        Claim("training", "1,000 steps/s on a CPU, 15,000 on an RTX 3090, 40,000 on an H100", _speed),
    ),
    differs=(
        (
            "The reference trains on 2015 to 2019 and tests on 2020 to 2024. Which sessions trained, chose and "
            "tested here stands fold by fold; 2020 to 2022 lack the years of recovery."
        ),
        "The reference names three of its 16 portfolios; the weights of the others are ours.",
        "What is called a target is what the reference aims at, not a result that it shows.",
    ),
    survivorship=(
        "SPY, QQQ and IWM are three funds of which it is known today that they lived and that QQQ did best in "
        "most of these years. Who had to choose in 2015 did not know it."
    ),
)


def regime(symbols: tuple[str, ...]) -> StrategyClaims:
    """What the reference claims for `regime_switcher`, beside a study of these funds."""
    if symbols == SYMBOLS:
        return _REGIME
    return _REGIME._replace(
        differs=(
            f"The reference holds SPY, QQQ and IWM; here it is {', '.join(symbols)}.",
            *_REGIME.differs[:1],
            "The 16 portfolios follow from the list by a rule.",
            *_REGIME.differs[2:],
        ),
        survivorship=(
            f"{', '.join(symbols)}: whoever chose them knows today that they lived and how they did in these years. "
            "Who had to choose before did not know it."
        ),
    )
