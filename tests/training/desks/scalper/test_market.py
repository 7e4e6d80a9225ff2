"""Episodes of the tensor market worked by hand to the cent."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.core.limits import Paper, Risk, Trading
from daemon.core.paper.fees import fees
from strategies.option_scalper import SPEC
from tests.support.examples import examples
from tests.support.training.made_up import random_walk
from tests.support.training.scalper_markets import (
    BUY_CALL,
    BUY_PUT,
    EXIT,
    FIRST,
    FLATTEN,
    HOLD,
    LAST_ENTRY,
    TRIM_50,
    TRIM_70,
    HandMarket,
    cash,
    play,
)
from training.desks.scalper.history import price_table, read_history
from training.desks.scalper.market import Broker, Market
from training.desks.scalper.network import IDENTITY, build
from training.rl.coefficients import Coefficients
from training.rl.draws import GAMMA, mixed
from training.rl.ppo import Trainer, make_deterministic

# Fees by hand: a contract costs 0.05 USD to buy, 0.053 USD and 0.00003 of the proceeds to sell, rounded up an order.
NO_REST = Trading(risk=replace(Risk(), cooldown_trade_s=0, cooldown_loss_s=0))


def test_a_buy_is_sized_at_the_decision_s_ask_and_fills_at_the_next_open_s_ask() -> None:
    hand = HandMarket()
    hand.quote("open", FIRST + 1, 206, 210)
    market = hand.open()
    play(market, BUY_CALL)
    # limit 202 x 1.05 = 212.1 -> 212 cents: 2000.00 / 212.00 = 9 contracts; 9 x 210.00 = 1890.00, fee 9 x 0.05 = 0.45
    assert int(market.account.contracts[0]) == 9
    assert cash(market) == 1_000_000 - 189_000 - 45


def test_an_exit_fills_at_the_next_open_s_bid_after_fees() -> None:
    hand = HandMarket()
    hand.quote("open", FIRST + 2, 220, 224)
    market = hand.open()
    play(market, BUY_CALL, EXIT)
    # bought 9 x 202.00 = 1818.00 + 0.45
    # sold 9 x 220.00 = 1980.00, fees 9 x 0.053 + 1980 x 0.00003 = 0.5364 -> 0.54
    assert cash(market) == 1_000_000 - 181_800 - 45 + 198_000 - 54
    assert (int(market.account.contracts[0]), int(market.account.side[0])) == (0, 0)
    assert int(market.account.wins[0]) == 1


def test_trims_round_down_but_sell_at_least_one() -> None:
    market = HandMarket().open()
    contracts = []
    for action in (BUY_CALL, TRIM_50, TRIM_70, TRIM_50, TRIM_70):
        play(market, action)
        contracts.append(int(market.account.contracts[0]))
    assert contracts == [9, 5, 2, 1, 0]  # sells 4 of 9, 3 of 5, 1 of 2, and the last one
    # sold 4, 3, 1, 1 at 198: fees 0.23576 -> 0.24, 0.17682 -> 0.18, twice 0.05894 -> 0.06
    assert cash(market) == 1_000_000 - 181_800 - 45 + 9 * 19_800 - 24 - 18 - 6 - 6
    assert int(market.account.closed[0]) == 1


@pytest.mark.parametrize(("lowest", "leaves"), [(142, False), (141, True)])
def test_a_stop_counts_when_the_bar_s_mid_touches_it_and_sells_at_the_next_open_gap_included(
    lowest: int, *, leaves: bool
) -> None:
    hand = HandMarket()  # entry at 202: the stop is at 141.4
    hand.reach(FIRST + 3, lowest, 200)
    hand.quote("open", FIRST + 4, 50, 54)
    market = hand.open()
    play(market, BUY_CALL, HOLD, HOLD)
    assert int(market.account.contracts[0]) == 9
    play(market, HOLD)
    assert int(market.account.contracts[0]) == (0 if leaves else 9)
    if leaves:  # 9 x 50.00 = 450.00 - (0.477 + 0.0135 = 0.4905 -> 0.50)
        assert cash(market) == 1_000_000 - 181_800 - 45 + 45_000 - 50


def test_a_stop_touched_within_the_bar_of_the_fill_itself_counts() -> None:
    hand = HandMarket()
    hand.reach(FIRST + 1, 100, 200)
    market = hand.open()
    play(market, BUY_CALL, HOLD)
    assert int(market.account.contracts[0]) == 0


def trailing(part: float, minutes: int = 0) -> Trading:
    return replace(NO_REST, sizing=replace(NO_REST.sizing, trailing_stop=part, time_stop_min=minutes))


@pytest.mark.parametrize(("lowest", "leaves"), [(226, False), (225, True)])
def test_a_trailing_stop_follows_the_highest_mid_of_the_bars_before(lowest: int, *, leaves: bool) -> None:
    hand = HandMarket(trailing(0.1))  # entry at 202; a tenth below 250 is 225
    hand.reach(FIRST + 2, 200, 250)
    hand.quote("close", FIRST + 2, 248, 252)
    hand.reach(FIRST + 3, lowest, 250)
    hand.quote("close", FIRST + 3, 248, 252)
    market = hand.open()
    play(market, BUY_CALL, HOLD, HOLD)
    assert int(market.account.contracts[0]) == 9
    play(market, HOLD)
    assert int(market.account.contracts[0]) == (0 if leaves else 9)


@pytest.mark.parametrize(("close", "leaves"), [(226, False), (225, True)])
def test_the_close_of_the_bar_that_reached_the_high_counts_against_it(close: int, *, leaves: bool) -> None:
    hand = HandMarket(trailing(0.1))
    hand.reach(FIRST + 2, 190, 250)  # a low of 190 is above the stop of before that bar: 202 x 0.9 = 181.8
    hand.quote("close", FIRST + 2, close - 2, close + 2)
    market = hand.open()
    play(market, BUY_CALL, HOLD, HOLD)
    assert int(market.account.contracts[0]) == (0 if leaves else 9)


def test_a_trim_keeps_the_stop_that_followed_the_price() -> None:
    hand = HandMarket(trailing(0.1))
    hand.reach(FIRST + 2, 200, 250)
    hand.quote("close", FIRST + 2, 248, 252)
    hand.quote("open", FIRST + 3, 248, 252)
    hand.reach(FIRST + 3, 240, 250)
    hand.quote("close", FIRST + 3, 248, 252)
    hand.reach(FIRST + 4, 225, 250)
    market = hand.open()
    play(market, BUY_CALL, HOLD, TRIM_50, HOLD)
    assert int(market.account.contracts[0]) == 5
    play(market, HOLD)
    assert int(market.account.contracts[0]) == 0


def test_a_time_stop_leaves_at_the_open_after_its_minutes() -> None:
    market = HandMarket(trailing(0.0, 3)).open()
    play(market, BUY_CALL, HOLD, HOLD)  # bought at the open of the first minute after the decision
    assert int(market.account.contracts[0]) == 9
    play(market, HOLD)
    assert int(market.account.contracts[0]) == 0


@pytest.mark.parametrize(("highest", "leaves"), [(302, False), (304, True)])
def test_a_target_sells_everything_at_the_next_open(highest: int, *, leaves: bool) -> None:
    hand = HandMarket()  # entry at 202: the target is at 303
    hand.reach(FIRST + 2, 200, highest)
    market = hand.open()
    play(market, BUY_CALL, HOLD, TRIM_50)
    assert int(market.account.contracts[0]) == (0 if leaves else 5)


def test_the_position_is_flat_before_the_close_and_the_episode_ends_there() -> None:
    hand = HandMarket()
    hand.quote("open", FLATTEN + 1, 190, 194, right=1)
    market = hand.open()
    play(market, *[HOLD] * (LAST_ENTRY - FIRST), BUY_PUT)
    for _ in range(FLATTEN - LAST_ENTRY - 2):
        play(market, HOLD)
    assert bool(market.active[0])
    assert int(market.account.contracts[0]) == 9
    step = market.step(torch.tensor([HOLD]))
    assert bool(step.terminals[0])
    assert step.truncated is None
    assert (int(market.account.contracts[0]), bool(market.active[0])) == (0, False)
    # puts: 9 x 202.00 in, 9 x 190.00 = 1710.00 out, fees 0.45 and 0.477 + 0.0513 -> 0.53
    assert cash(market) == 1_000_000 - 181_800 - 45 + 171_000 - 53
    play(market, BUY_CALL)
    assert int(market.account.contracts[0]) == 0


def test_a_buy_with_thirty_minutes_or_less_to_the_close_is_denied() -> None:
    in_time, late = HandMarket().open(), HandMarket().open()
    play(in_time, *[HOLD] * (LAST_ENTRY - FIRST), BUY_CALL)
    play(late, *[HOLD] * (LAST_ENTRY - FIRST + 1), BUY_CALL)
    assert int(in_time.account.contracts[0]) == 9
    assert int(late.account.contracts[0]) == 0


def test_a_buy_of_the_same_side_holds_and_of_the_opposite_side_leaves_without_turning() -> None:
    market = HandMarket(NO_REST).open()
    play(market, BUY_CALL, BUY_CALL)
    assert (int(market.account.contracts[0]), int(market.account.bought[0])) == (9, 9)
    play(market, BUY_PUT)
    assert int(market.account.contracts[0]) == 0
    play(market, TRIM_50, TRIM_70, EXIT)  # flat: they mean HOLD
    assert int(market.account.orders[0]) == 2


@pytest.mark.parametrize(("exit_bid", "minutes"), [(210, 2), (190, 5)])
def test_after_a_win_two_minutes_and_after_a_loss_five_pass_before_the_next_entry(exit_bid: int, minutes: int) -> None:
    hand = HandMarket()
    hand.quote("open", FIRST + 2, exit_bid, exit_bid + 4)
    market = hand.open()
    play(market, BUY_CALL, EXIT)
    waited = 0
    while int(market.account.contracts[0]) == 0:
        play(market, BUY_CALL)
        waited += 1
    assert waited == minutes + 1  # known at the end of the exit's bar; the buy that passes is sent `minutes` later


def test_a_loss_of_a_tenth_of_the_capital_halts_and_leaves() -> None:
    big = Trading(sizing=replace(Trading().sizing, premium_fraction=0.9), risk=NO_REST.risk)
    hand = HandMarket(big)  # 10 contracts at 202: 2020 USD; at 98 / 102 the mid has lost 1020.50 of 10,000
    hand.quote("close", FIRST + 2, 98, 102)
    market = hand.open()
    play(market, BUY_CALL, HOLD)
    assert int(market.account.contracts[0]) == 10
    play(market, HOLD, BUY_CALL, BUY_CALL, BUY_CALL)
    assert (int(market.account.contracts[0]), int(market.account.bought[0])) == (0, 10)


def test_position_columns_hold_side_return_at_mid_and_age_as_they_were_at_each_row() -> None:
    hand = HandMarket()
    hand.quote("close", FIRST + 2, 222, 224, right=1)
    market = hand.open()
    play(market, BUY_PUT, HOLD, EXIT)
    rows = market.observe()[0, -4:, 20:].tolist()
    assert rows[0] == [0.0, 0.0, 0.0]
    assert rows[1] == pytest.approx([-1.0, 200 / 202 - 1, 1 / 60])
    assert rows[2] == pytest.approx([-1.0, 223 / 202 - 1, 2 / 60])
    assert rows[3] == [0.0, 0.0, 0.0]


def test_the_potential_reward_of_a_fill_is_its_change_of_equity_at_the_bid_and_of_drawdown() -> None:
    market = HandMarket().open()
    rewards = play(market, HOLD, BUY_CALL).tolist()
    loss = 9 * 4 + 0.45  # the spread of 9 contracts and the fee, in USD
    assert rewards[0] == 0.0
    assert rewards[1] == pytest.approx(-10 * loss / 10_000 + 0.99 * (-0.5 * loss / 10_000), rel=1e-5)


def test_the_reference_reward_pays_realised_profit_and_then_stands() -> None:
    hand = HandMarket()
    hand.quote("open", FIRST + 2, 240, 244)
    market = hand.open("reference")
    rewards = play(market, BUY_CALL, EXIT, HOLD).tolist()
    gain = 9 * (240 - 202) - 0.55  # fee: 0.477 + 2160 x 0.00003 = 0.5418 -> 0.55
    loss = 9 * 4 + 0.45
    assert rewards[0] == pytest.approx(-10 * 0.45 / 10_000 - 0.5 * loss / 10_000, rel=1e-5)
    assert rewards[1] == pytest.approx(10 * gain / 10_000 + 0.2, rel=1e-5)
    assert rewards[2] == pytest.approx(0.2, rel=1e-5)


def test_an_episode_that_ends_above_its_peak_ends_without_drawdown() -> None:
    hand = HandMarket()
    hand.quote("open", FLATTEN + 1, 240, 244)
    market = hand.open("reference")
    rewards = play(market, *[HOLD] * (LAST_ENTRY - FIRST), BUY_CALL, *[HOLD] * (FLATTEN - LAST_ENTRY - 1))
    gain = 9 * (240 - 202) - 0.55  # in USD; one closed trade, won: 0.2
    assert float(rewards[-1]) == pytest.approx(10 * gain / 10_000 + 0.2, rel=1e-5)


def test_the_daily_loss_leaves_also_where_the_drawdown_had_halted_before() -> None:
    big = Trading(sizing=replace(Trading().sizing, premium_fraction=0.9))
    hand = HandMarket(big)  # 10 contracts at 202
    hand.quote("close", FIRST + 2, 1200, 1200)  # equity 7979.50 + 12,000
    hand.quote("close", FIRST + 3, 330, 330)  # 11,279.50: 43 % below the peak, above the start
    hand.quote("close", FIRST + 4, 98, 102)  # 8979.50: the day has lost a tenth
    market = hand.open()
    play(market, BUY_CALL, HOLD, HOLD, HOLD)
    assert int(market.account.contracts[0]) == 10
    play(market, HOLD)
    assert int(market.account.contracts[0]) == 0


@settings(max_examples=examples(50))
@given(actions=st.lists(st.integers(0, 5), min_size=64, max_size=64), bids=st.lists(st.integers(1, 900), min_size=90))
def test_cash_always_equals_capital_plus_realised_when_flat(actions: list[int], bids: list[int]) -> None:
    hand = HandMarket(NO_REST)
    for bar, bid in enumerate(bids[:90]):
        hand.quote("open", bar, bid, bid + 4)
    market = hand.open()
    play(market, *actions)
    assert int(market.account.contracts[0]) == 0
    assert cash(market) == 1_000_000 + int(market.account.realised[0])


@given(quantity=st.integers(0, 50), bid=st.integers(0, 5_000))
def test_fees_of_a_sale_are_always_those_of_the_core(quantity: int, bid: int) -> None:
    proceeds = bid * 100 * quantity
    fee = Broker(Trading()).sell_fee(torch.tensor([quantity]), torch.tensor([proceeds]))
    assert int(fee[0]) == int(fees(quantity, Decimal(proceeds) / 100, -1, Paper()) * 100)


def _market(count: int = 8, seed: int = 1) -> Market:
    return Market(HISTORY, PRICES, HISTORY.usable, Trading(), count=count, seed=seed)


def _actions(steps: int, count: int = 8, seed: int = 3) -> torch.Tensor:
    return torch.randint(0, 6, (steps, count), generator=torch.Generator().manual_seed(seed))


def test_a_market_that_was_saved_and_loaded_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    actions = _actions(900)  # more than two sessions each
    market, other = _market(), _market(seed=2)
    for index in range(450):
        market.step(actions[index])
    torch.save(market.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for index in range(450, 900):
        one, again = market.step(actions[index]), other.step(actions[index])
        assert torch.equal(one.rewards, again.rewards)
        assert torch.equal(one.terminals, again.terminals)
    assert torch.equal(market.observe(), other.observe())


def test_a_saved_state_is_a_copy_and_fits_only_a_market_like_its_own() -> None:
    market = _market()
    state = market.state_dict()
    market.step(_actions(1)[0])
    assert not torch.equal(market.state_dict()["whole"], state["whole"])
    with pytest.raises(ValueError, match=r"'environments': 8.*'environments': 4.*same file and count"):
        _market(count=4).load_state_dict(state)


def test_training_on_it_that_was_stopped_and_continued_gives_the_same_weights_to_the_bit(tmp_path: Path) -> None:
    make_deterministic()
    small = Coefficients(environments=8, rollout_steps=16, batch=64, epochs=2)

    def trainer(seed: int) -> Trainer:
        return Trainer(build("mlp", IDENTITY, seed), _market(seed=seed), small, total_steps=8 * 16 * 4, seed=seed)

    through, first_part, continued = trainer(1), trainer(1), trainer(2)
    for _ in range(4):
        through.update()
    for _ in range(2):
        first_part.update()
    torch.save(first_part.state_dict(), tmp_path / "state.pt")
    continued.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in range(2):
        continued.update()
    for one, other in zip(through.network.parameters(), continued.network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_seed_gives_its_sessions_again_and_another_seed_other_ones() -> None:
    def rows(seed: int) -> list[list[int]]:
        market, values = _market(64, seed), []
        for action in _actions(300, 64):
            market.step(action)
            values.append(market.row.tolist())
        return values

    assert rows(1) == rows(1)
    assert rows(1)[0] != rows(2)[0]
    first = {row // 390 for row in rows(1)[0]}
    assert len(first) >= 4  # of the five usable sessions: 64 environments begin on all of them


@pytest.mark.parametrize(("reward_name", "days"), [("refrence", 1), ("potential", 0)])
def test_an_unknown_reward_and_a_history_without_sessions_are_refused(reward_name: str, days: int) -> None:
    with pytest.raises(ValueError, match=f"reward_name is '{reward_name}' over {days} sessions; expected one of pot"):
        Market(HISTORY, PRICES, HISTORY.usable[:days], Trading(), count=2, reward_name=reward_name)


def test_the_sessions_that_are_drawn_are_uniform() -> None:
    market = _market(20_000)
    counts = torch.bincount(market._draw(), minlength=len(HISTORY.usable)).double()
    expected = 20_000 / len(HISTORY.usable)
    statistic = float(((counts - expected).square() / expected).sum())  # chi-squared with 4 degrees of freedom
    assert statistic < 18.5  # its 0.1 % point is 18.47


def test_numbers_are_those_that_splitmix64_is_known_for() -> None:
    published = [  # for the seed 1234567, as Rosetta Code's "Pseudo-random numbers/Splitmix64" lists them
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    states = 1234567 + torch.arange(1, 6) * (GAMMA - 2**64)  # the same modulo 2^64, as an int64 holds it
    assert [number % 2**64 for number in mixed(states).tolist()] == published


def test_observations_are_the_history_s_rows_with_the_position_and_a_new_tensor_each_time() -> None:
    market = _market(4)
    market.step(torch.zeros(4, dtype=torch.int64))
    observations = market.observe()
    for place, row in enumerate(market.row.tolist()):
        assert observations[place, :, :20].tolist() == HISTORY.features[row - 19 : row + 1].astype("float32").tolist()
        assert observations[place, :, 20:].abs().sum() == 0.0
    copy_ = observations.clone()
    market.step(torch.ones(4, dtype=torch.int64))
    market.observe()
    assert torch.equal(observations, copy_)


HISTORY = read_history(random_walk(26), SPEC, Trading())
PRICES = price_table(HISTORY, HISTORY.usable, Trading())
"""Five usable sessions."""
