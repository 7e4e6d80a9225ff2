"""The evaluation report beside a policy, in Markdown. Its first sentence says what the policy earns out of sample.

Formats figures; computes none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from strategies.manifest import Training
from training.evaluation import Figures

LUCK = 0.05  # above this part of the random traders doing as well, a result says nothing


@dataclass(frozen=True, slots=True)
class Comparison:
    """A policy on the test sessions beside those that it has to beat, all through the dry run."""

    policy: Figures
    hold: Figures
    random: tuple[Figures, ...]  # one for each draw
    random_beats: float  # the part of the tensor market's draws that earn at least as much as the policy
    random_draws: int
    denials: Mapping[str, int]
    validate: Figures  # the policy on the sessions that chose it, through the tensor market


def render(
    title: str, comparison: Comparison, training: Training, hyperparameters: Mapping[str, Any], capital_usd: float
) -> str:
    """The report on a policy of the strategy `title` whose every session began with `capital_usd`."""
    c, h, splits = comparison, hyperparameters, training.splits
    denied = ", ".join(f"{gate} {count}" for gate, count in c.denials.items()) or "none"
    table = "\n".join(_rows(c))
    return f"""{_first_sentence(c, splits["test"], capital_usd)}

{_verdict(c)}

# {title}

| {c.policy.sessions} test sessions, dry run | policy | always-HOLD | random, mean | random, worst to best |
|---|---|---|---|---|
{table}

On the {c.validate.sessions} validation sessions, which chose this checkpoint, the policy earned
{c.validate.net_return:+.2%} in sum with {c.validate.trades} trades; that figure is the best of many and flatters.

Entries that gates denied on the test sessions: {denied}.

- Trained on {training.file} ({splits["train"][0]} to {splits["train"][1]}) for {h["steps"]:,} steps with seed
  {h["seed"]} and the reward `{h["reward"]}`; the checkpoint after {h["checkpoint_steps"]:,} steps had the best net
  return on the validation sessions ({splits["validate"][0]} to {splits["validate"][1]}).
- Every session begins flat with its own account, so returns add up and do not compound. A halt lasts to its end.
- Option prices are Black-Scholes around the recorded underlying, with the spreads and fees of docs/PAPER.md. No option
  quote was recorded; market impact is left out.
- What each figure means: docs/TRAINING.md.
"""


def _first_sentence(c: Comparison, test: tuple[str, str], capital_usd: float) -> str:
    p, random_mean = c.policy, _random_mean(c)
    verb = "earns" if p.net_return > 0 else "loses" if p.net_return < 0 else "earns nothing:"
    return (
        f"Out of sample ({p.sessions} sessions, {test[0]} to {test[1]}) and after all costs this policy {verb} "
        f"{abs(p.net_return) * capital_usd:,.2f} USD on an account of {capital_usd:,.0f} USD a session "
        f"({p.net_return:+.2%} in sum, {p.session_return:+.3%} a session); always-HOLD earns "
        f"{c.hold.net_return * capital_usd:,.2f} USD and random trades of the same frequency "
        f"{random_mean * capital_usd:+,.2f} USD ({random_mean:+.2%})."
    )


def _random_mean(c: Comparison) -> float:
    return sum(draw.net_return for draw in c.random) / len(c.random)


def _verdict(c: Comparison) -> str:
    p = c.policy
    if p.trades == 0:
        return "It did not trade once, so it equals always-HOLD: nothing was learned that pays for its costs."
    over_hold = "beats" if p.net_return > c.hold.net_return else "does not beat"
    over_random = "beats" if p.net_return > _random_mean(c) else "does not beat"
    luck = f"{c.random_beats:.1%} of {c.random_draws:,} random traders did at least as well, so this is " + (
        "not distinguishable from luck" if c.random_beats > LUCK else "unlikely to be luck alone"
    )
    return f"It {over_hold} always-HOLD and {over_random} random trades; {luck}. It is no advice to trade real money."


def _rows(c: Comparison) -> list[str]:
    percent = "{:+.2%}".format
    plain = "{:.2f}".format
    table = (
        ("net return, sum of sessions", "net_return", percent),
        ("net return a session", "session_return", "{:+.3%}".format),
        ("deviation of a session", "session_deviation", "{:.3%}".format),
        ("Sharpe ratio, annual", "sharpe_annual", plain),
        ("worst session", "worst_session", percent),
        ("largest drawdown of the sum", "max_drawdown", "{:.2%}".format),
        ("trades", "trades", "{:.0f}".format),
        ("trades a session", "trades_per_session", plain),
        ("win rate", "win_rate", "{:.1%}".format),
        ("fees, USD", "fees_usd", "{:,.2f}".format),
        ("premium bought / capital, a session", "turnover", plain),
        ("minutes with a position", "exposure", "{:.1%}".format),
    )
    lines = []
    for label, name, show in table:
        draws = [float(getattr(draw, name)) for draw in c.random]
        mean = sum(draws) / len(draws)
        cells = (show(getattr(c.policy, name)), show(getattr(c.hold, name)), show(mean))
        lines.append(f"| {label} | {' | '.join(cells)} | {show(min(draws))} to {show(max(draws))} |")
    return lines
