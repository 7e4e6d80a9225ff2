"""Labels of a decision's heads, from the bars that followed it in the stream.

The same rule as the cold start's: a label is known where each of the bars that it looks at is.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

from daemon.experience.experience import Experience, Prices
from strategies.kit.units import MINUTE_NS
from strategies.online_dqn.model_config import ModelConfig


class HeadLabels:
    """Labels of the heads that a model configuration names, in the policy's order; `ahead` bars are looked at."""

    def __init__(self, config: ModelConfig) -> None:
        direction, risk = config.heads.direction, config.heads.risk
        self._interval_ns = config.bar_minutes * MINUTE_NS
        self._direction = direction.bars if direction else 0
        self._risk = risk.bars if risk else 0
        self.ahead = max(self._direction, self._risk)

    def of(self, experience: Experience, following: Sequence[Experience]) -> list[tuple[float, ...]]:
        """Return the labels of each row of a decision, NaN where not known.

        `following` are the decisions after it without a gap, those of its session alone.
        """
        if len(experience.holdings) != len(experience.chosen):  # one row for all symbols has no price of its own
            return [(nan,) * self._count] * len(experience.chosen)
        return [self._of(place, experience, following) for place in range(len(experience.holdings))]

    @property
    def _count(self) -> int:
        return bool(self._direction) + bool(self._risk)

    def _of(self, place: int, experience: Experience, following: Sequence[Experience]) -> tuple[float, ...]:
        bar_now = experience.holdings[place].bar
        experiences = [experience, *following]
        bars = {
            bar.start_ns: bar
            for experience_then in experiences
            for bar in (experience_then.holdings[place].bar, experience_then.holdings[place].next_bar)
        }
        if bar_now.start_ns != experience.bar_ns:  # it had no bar of this minute
            return (nan,) * self._count
        labels = []
        if self._direction:
            later_bars = self._after(bars, experience.bar_ns, self._direction)
            labels.append(float(later_bars[-1].close > bar_now.close) if later_bars else nan)
        if self._risk:
            later_bars = self._after(bars, experience.bar_ns, self._risk)
            labels.append(max(0.0, 1.0 - min(bar.low for bar in later_bars) / bar_now.close) if later_bars else nan)
        return tuple(labels)

    def _after(self, bars: dict[int, Prices], bar_ns: int, count: int) -> list[Prices]:
        """Return the next `count` bars, none where one is missing."""
        following = [bars.get(bar_ns + nth * self._interval_ns) for nth in range(1, count + 1)]
        return [bar for bar in following if bar is not None] if None not in following else []
