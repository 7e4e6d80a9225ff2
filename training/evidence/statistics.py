"""Figures of a series of session returns: returns of a study's sessions, ratios, moments, and all figures of a player.

Pure functions over float64 arrays of returns per session, as fractions of the capital with which the session begins. On
the same capital every session nothing compounds; on one account through all of them (`compounds`) everything does.
Every figure is defined: where it has no meaning it is 0, and a note gives the reason.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from training.study.study import SESSIONS_A_YEAR, PlayResult, SessionResult, Study

Series = NDArray[np.float64]
"""float64 (sessions,): one return per session, in the order of time."""
NOTHING = 1e-12  # deviations below this part of the largest return count as rounding


class SessionStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one player over its sessions. Annual figures: 252 sessions a year."""

    sessions: int
    net_return: float  # the sum, or compounded
    annual_return: float = 0.0  # of 252 sessions: mean x 252, or compounded
    mean: float  # a session
    deviation: float  # sample deviation of a session
    sharpe: float  # mean / deviation, a session
    sharpe_annual: float
    sortino_annual: float
    calmar: float  # mean of a year / largest drawdown
    max_drawdown: float  # of the running sum, or of the account's highest equity
    worst_session: float
    skewness: float
    kurtosis: float  # raw: 3 for a normal distribution
    hit_rate_sessions: float  # sessions that earned / sessions that earned or lost
    hit_rate_trades: float
    trades: int
    sessions_traded: int = 0  # with at least one trade
    fees_usd: float
    turnover: float  # premium paid, or value traded / capital, a session
    exposure: float  # minutes with a position / minutes, of shares weighted with what they are of the equity
    notes: tuple[str, ...] = ()


def session_returns(results: Sequence[SessionResult], capital_usd: float) -> Series:
    """Returns per session, float64 (sessions,), as fractions of each session's own capital, else of `capital_usd`."""
    began = [result.capital_usd or capital_usd for result in results]
    return np.array([result.pnl_usd for result in results], dtype=np.float64) / np.array(began, dtype=np.float64)


def headline(study: Study) -> tuple[SessionResult, ...]:
    """The headline's sessions: the chosen trial of each fold on its test sessions, in order of time."""
    return tuple(result for fold in chosen_results(study) for result in fold.sessions)


def joined(folds: Sequence[PlayResult]) -> tuple[SessionResult, ...]:
    """All sessions of a player, fold after fold."""
    return tuple(session for fold in folds for session in fold.sessions)


def chosen_results(study: Study) -> tuple[PlayResult, ...]:
    """Each fold's chosen result on its test sessions; on the account of all tests where there is one."""
    return study.account or tuple(trial.test for trial in study.headline)


def trial_matrix(study: Study, reward: str = "") -> tuple[tuple[str, ...], Series]:
    """Names and test returns, float64 (sessions, N), of each seed, of all rewards or one, trained in every fold.

    Raises:
        ValueError: a trial's test sessions are not those of its fold.
    """
    runs: dict[str, list[list[Series]]] = {}
    for trial in study.trials:
        if reward not in {"", trial.reward}:
            continue
        fold_dates, trial_dates = study.folds[trial.fold].test, tuple(result.date for result in trial.test.sessions)
        if trial_dates != fold_dates:
            raise ValueError(
                f"the trial of fold {trial.fold}, reward {trial.reward} and seed {trial.seed} has {len(trial_dates)} "
                "test "
                f"sessions {trial_dates[:1]}…; expected the fold's {len(fold_dates)} {fold_dates[:1]}…: run the study "
                "again"
            )
        folds = runs.setdefault(f"{trial.reward}, seed {trial.seed}", [[] for _ in study.folds])
        folds[trial.fold].append(session_returns(trial.test.sessions, study.capital_usd))
    columns = {
        f"{name}, run {nth + 1}" if nth else name: np.concatenate(parts)
        for name, folds in runs.items()
        for nth, parts in enumerate(zip(*folds, strict=False))  # seeds missing in some fold are left out
    }
    sessions = sum(len(fold.test) for fold in study.folds)
    matrix = np.column_stack(list(columns.values())) if columns else np.empty((sessions, 0))
    return tuple(columns), matrix


def checked(returns: Series) -> Series:
    """The same numbers as float64. Raises `ValueError` when there is none or one is not finite."""
    values = np.asarray(returns, dtype=np.float64)
    if values.size == 0 or not np.isfinite(values).all():
        bad = int(values.size - np.isfinite(values).sum())
        raise ValueError(f"{values.size} returns of which {bad} are not finite; expected at least one, all finite")
    return values


def deviations(samples: Series) -> Series:
    """Sample deviations, (...) of (..., sessions); exactly 0 for one session or where only rounding differs."""
    if samples.shape[-1] < 2:
        return np.zeros(samples.shape[:-1])
    spread = samples.std(axis=-1, ddof=1)
    return np.where(spread > NOTHING * np.abs(samples).max(axis=-1), spread, 0.0)


def sharpes(samples: Series) -> Series:
    """Sharpe ratios per session, (...) of (..., sessions): mean / sample deviation, 0 without one (Sharpe 1994)."""
    deviation = deviations(samples)
    mean = samples.mean(axis=-1)
    ratios: Series = np.where(deviation > 0.0, mean / np.where(deviation > 0.0, deviation, 1.0), 0.0)
    return ratios


def sharpe(returns: Series) -> float:
    """Sharpe ratio per session, not annualised; 0 without deviation."""
    return float(sharpes(checked(returns)))


def annual(session_sharpe: float) -> float:
    """A ratio per session as one per year: times the root of 252 (independent sessions; Lo 2002)."""
    return session_sharpe * math.sqrt(SESSIONS_A_YEAR)


def sortino(returns: Series) -> float:
    """Sortino ratio per session: mean / root of the mean of min(r, 0)² over all sessions; 0 without a loss.

    Sortino & Price 1994, J. Investing 3(3), with target 0.
    """
    values = checked(returns)
    downside = math.sqrt(float(np.square(np.minimum(values, 0.0)).mean()))
    return float(values.mean()) / downside if downside > 0.0 else 0.0


def running(returns: Series, *, compounds: bool = False) -> Series:
    """Net return after each session, float64 (sessions,): the running sum, or the account's growth."""
    values = checked(returns)
    if not compounds:
        return np.cumsum(values)
    return np.asarray(np.cumprod(1.0 + values) - 1.0, dtype=np.float64)


def total(returns: Series, *, compounds: bool = False) -> float:
    """Net return over all sessions: the sum, or compounded."""
    values = checked(returns).tolist()
    return math.prod(1.0 + value for value in values) - 1.0 if compounds else math.fsum(values)


def annual_return(returns: Series, *, compounds: bool = False) -> float:
    """Net return of 252 sessions: the mean times 252, or the growth rate; -1 where nothing is left."""
    if not compounds:
        return float(checked(returns).mean()) * SESSIONS_A_YEAR
    grown = max(1.0 + total(returns, compounds=True), 0.0)
    return float(grown ** (SESSIONS_A_YEAR / len(returns))) - 1.0


def max_drawdown(returns: Series, *, compounds: bool = False) -> float:
    """Largest fall from the highest point, the start among them.

    Of the running sum where every session has the same capital; of an account that compounds, as a part of its peak.
    """
    path = np.concatenate(([0.0], running(returns, compounds=compounds)))
    peak = np.maximum.accumulate(path)
    return float(((peak - path) / (1.0 + peak if compounds else 1.0)).max())


def calmar(returns: Series, *, compounds: bool = False) -> float:
    """Return of a year (252 sessions) / largest drawdown; 0 without a drawdown (Young 1991)."""
    drawdown = max_drawdown(returns, compounds=compounds)
    return annual_return(returns, compounds=compounds) / drawdown if drawdown > 0.0 else 0.0


def skewness(returns: Series) -> float:
    """Third standardised moment (divided by n); 0 without deviation."""
    return _moment(returns, 3, 0.0)


def kurtosis(returns: Series) -> float:
    """Fourth standardised moment (divided by n), raw: 3 for a normal distribution and without deviation."""
    return _moment(returns, 4, 3.0)


def _moment(returns: Series, power: int, without: float) -> float:
    values = checked(returns)
    if float(deviations(values)) <= 0.0:
        return without
    centred = values - values.mean()
    return float((centred**power).mean() / np.square(centred).mean() ** (power / 2))


def summarise(results: Sequence[SessionResult], capital_usd: float, *, compounds: bool = False) -> SessionStatistics:
    """All figures of at least one session. Raises `ValueError` without any."""
    returns = checked(session_returns(results, capital_usd))
    trades, moved = sum(result.trades for result in results), int(np.count_nonzero(returns))
    minutes = sum(result.minutes for result in results)
    deviation, drawdown = float(deviations(returns)), max_drawdown(returns, compounds=compounds)
    turned = (result.premium_usd / (result.capital_usd or capital_usd) for result in results)
    nights = sum(result.over_night for result in results)
    notes = (
        (nights > 0, f"{nights} trades were held over night, although the desk is flat before the close"),
        (deviation <= 0.0, "no deviation between sessions: the Sharpe ratio has no meaning and counts as 0"),
        (not (returns < 0.0).any(), "no losing session: the Sortino ratio has no meaning and counts as 0"),
        (drawdown <= 0.0, "no drawdown: the Calmar ratio has no meaning and counts as 0"),
        (trades == 0, "not one trade: hit rates have no meaning and count as 0"),
    )
    return SessionStatistics(
        sessions=len(returns),
        net_return=total(returns, compounds=compounds),
        annual_return=annual_return(returns, compounds=compounds),
        mean=float(returns.mean()),
        deviation=deviation,
        sharpe=sharpe(returns),
        sharpe_annual=annual(sharpe(returns)),
        sortino_annual=annual(sortino(returns)),
        calmar=calmar(returns, compounds=compounds),
        max_drawdown=drawdown,
        worst_session=float(returns.min()),
        skewness=skewness(returns),
        kurtosis=kurtosis(returns),
        hit_rate_sessions=float((returns > 0.0).sum()) / moved if moved else 0.0,
        hit_rate_trades=sum(result.wins for result in results) / trades if trades else 0.0,
        trades=trades,
        sessions_traded=sum(result.trades > 0 for result in results),
        fees_usd=math.fsum(result.fees_usd for result in results),
        turnover=math.fsum(turned) / len(returns),
        exposure=sum(result.held_min for result in results) / minutes if minutes else 0.0,
        notes=tuple(text for applies, text in notes if applies),
    )
