"""The reward agent's terms, worked out by hand."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from daemon.experience.experience import ActionChoice, Experience, Prices, SymbolTransition
from tests.support.rl.stream_learner import make_experiences
from training.online.reward import RewardAgent

BAR = Prices(0, 50.0, 51.0, 48.0, 50.0, 1000.0)
SOLD = SymbolTransition("SPY", BAR, BAR, shares=10, next_shares=0, mark=50.0, next_mark=49.0, flow=499.0, fees=1.0)
KEPT = SymbolTransition("QQQ", BAR, BAR, shares=4, next_shares=4, mark=50.0, next_mark=52.0, flow=0.0, fees=0.0)


def of(*holdings: SymbolTransition, rows: int = 1, equity: float = 1000.0) -> Experience:
    choices = (ActionChoice(0, 0, (1.0,)),) * rows
    return replace(make_experiences(1)[0], holdings=holdings, chosen=choices, equity=equity)


@pytest.mark.parametrize(
    ("term", "sale_factor", "hold_factor"),
    [
        ("gain", (0 - 500.0 + 499.0) / 1000, 8.0 / 1000),
        ("fees", -1.0 / 1000, 0.0),
        ("turnover", -500.0 / 1000, 0.0),
        ("inventory", 0.0, -208.0 / 1000),
        ("adverse", 0.0, -8.0 / 1000),  # 48 is 2 below the mark, on 4 shares
    ],
)
def test_each_term_is_a_share_of_the_equity_times_its_weight(term: str, sale_factor: float, hold_factor: float) -> None:
    terms = RewardAgent({term: 3.0, "gain" if term != "gain" else "fees": 0.0}).terms(of(SOLD, KEPT, rows=2))
    assert [row[term] for row in terms] == pytest.approx([3.0 * sale_factor, 3.0 * hold_factor])
    assert [set(row) for row in terms] == [{term}, {term}]


def test_one_row_for_all_symbols_gets_their_sum() -> None:
    assert RewardAgent().terms(of(SOLD, KEPT)) == [{"gain": pytest.approx(7.0 / 1000)}]


def test_without_equity_there_is_no_reward() -> None:
    assert RewardAgent().terms(of(SOLD, equity=0.0)) == [{"gain": 0.0}]


def test_an_unknown_term_names_the_nearest_one() -> None:
    with pytest.raises(ValueError, match=r"'turnovr' is unknown: did you mean turnover\?"):
        RewardAgent({"turnovr": 1.0})
    with pytest.raises(ValueError, match="expected one of gain, fees, turnover, inventory, adverse"):
        RewardAgent({"zzz": 1.0})


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match=f"the weight of the reward term gain is {weight}: expected a finite number"):
        RewardAgent({"gain": weight})


def test_no_term_with_a_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="every term of the reward has the weight 0"):
        RewardAgent({"gain": 0.0, "fees": 0.0})
