"""The risk overlay in the tensor markets: the arithmetic of the desk (`daemon.core.risk.overlay`) on many accounts.

A decision before a session reads the closes up to the session before it, as the desk does. Nothing waits for a device.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from daemon.core.desks.shares.overlay import carried_closes
from daemon.core.limits import Trading
from daemon.core.risk.overlay import MODEL, cap_goals, exposure_cap, mix_of, return_count, volatility, without_new_risk
from strategies.kit.entry import Float64Array
from training.data.daily_table import CLOSE, DailyTable


class Overlay:
    """The risk overlay of the trading rules, for accounts that decide before sessions `first` to `last`."""

    def __init__(
        self,
        table: DailyTable,
        first: int,
        last: int,
        trading: Trading,
        device: torch.device | str,
        variances: Float64Array | None = None,
    ) -> None:
        """Make the lookup tables; none if the overlay is off.

        Args:
            table: the bars.
            first: first session (index) to decide for.
            last: last session (index) to decide for.
            trading: the rules; `basket.volatility_target` 0 leaves all goals as they are.
            device: of the accounts.
            variances: the policy's variance of each symbol's daily log returns after each session's close, (d, n);
                needed where the forecast is "model".

        Raises:
            ValueError: the forecast is "model" and there are no variances.
        """
        self._rules = trading.basket
        self.on = trading.basket.volatility_target > 0.0
        if not self.on:
            return
        if self._rules.volatility_forecast == MODEL and variances is None:
            raise ValueError(
                'basket.volatility_forecast is "model" and nothing here forecasts a variance: choose "ewma" or "har"'
            )
        needed = return_count(self._rules.volatility_forecast, self._rules.volatility_span)
        has_bars = table.present.any(axis=1)  # a session without any bar is none, as on the desk
        newest = np.maximum(np.cumsum(has_bars) - 1, 0)[first - 1 : last + 1]  # of those with bars, up to each decision
        closes = np.where(table.present, table.bars[CLOSE], np.nan)[has_bars]
        carried = carried_closes(closes)
        returns = np.zeros_like(carried)
        returns[1:] = np.nan_to_num(carried[1:] / carried[:-1] - 1.0)
        has_begun = np.zeros_like(closes, dtype=np.bool_)
        has_begun[needed:] = np.isfinite(carried[: max(len(carried) - needed, 0)])
        begin = int(newest[0]) + 1 - needed  # session of the oldest return used
        window = np.concatenate([np.zeros((max(-begin, 0), returns.shape[1])), returns[max(begin, 0) : newest[-1] + 1]])
        self._returns = torch.from_numpy(window).to(device)
        self._newest = torch.from_numpy(newest - newest[0]).to(device)
        self._known = torch.from_numpy((np.isfinite(closes) & has_begun)[newest]).to(device)
        self._past = torch.arange(needed, device=device)
        self._variances = None if variances is None else torch.from_numpy(variances[first - 1 : last + 1]).to(device)

    def __call__(
        self,
        day: Tensor,
        holdings: Tensor,
        goals: Tensor,
        prices: Tensor,
        equity: Tensor,
        *,
        whole: bool,
        shares: bool = True,
        places: Tensor | None = None,
    ) -> Tensor:
        """Return the goals under the overlay, float64 (n, s).

        Args:
            day: the decision of each account as a row of the market's tables, 0 before `first`, int64 (n,).
            holdings: shares if `shares`, else weights, float64 (n, s).
            goals: the strategy's targets, in the same unit.
            prices: USD a share at the last known closes, 0 where none is known.
            equity: USD, float64 (n,).
            whole: see `cap_goals`.
            shares: see `cap_goals`.
            places: the symbols of each account, int64 (n, s); None: all of the table in their order.
        """
        if not self.on:
            return goals
        rules = self._rules
        rows = self._newest[day].unsqueeze(1) + self._past  # the newest is the last session before the decision's
        returns = self._returns[rows]
        has_price = self._known[day]
        variances = None if self._variances is None else self._variances[day]
        if places is not None:
            returns = returns.gather(2, places.unsqueeze(1).expand(-1, rows.shape[1], -1))
            has_price = has_price.gather(1, places)
            variances = None if variances is None else variances.gather(1, places)
        has_goal = goals > 0.0
        annual = volatility(
            torch, mix_of(goals * prices), returns, rules.volatility_forecast, rules.volatility_span, variances
        )
        cap = exposure_cap(rules.volatility_target, annual)
        sure = ~(has_goal & ~(has_price & (prices > 0.0))).any(1) & annual.isfinite() & (annual > 0.0) & (equity > 0.0)
        most = torch.where(sure, cap * equity, 0.0)
        cut = cap_goals(
            torch, holdings, goals, prices, most=most, band=rules.volatility_band, whole=whole, shares=shares
        )
        none = without_new_risk(torch, holdings, goals)
        capped_goals: Tensor = torch.where(
            sure.unsqueeze(1), cut, torch.where(has_goal.any(1, keepdim=True), none, goals)
        )
        return capped_goals
