"""Off-policy estimates against scope-rl's, against values worked out by hand and exact ones, and when none is given."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.planted.tabular_market import SIGNALS, STATES, TabularMarket, transitions
from training.evidence.off_policy import (
    Least,
    Logged,
    coefficients,
    corrected,
    effective_of,
    episodes_of,
    evaluate,
    moments,
    overlap_of,
    tail,
    weights,
    wis,
)
from training.evidence.resampling import pooled_intervals
from training.evidence.statistics import Series

ALL = Least(effective=0.0, sessions=2)


def made_up(episodes: int = 12, steps: int = 3) -> tuple[Logged, Series, Series]:
    """A log of random numbers, a target policy, and some Q values of the actions."""
    random, count = np.random.default_rng(5), episodes * steps
    behaviour, target = (np.round(random.dirichlet(np.full(3, alpha), count), 3) for alpha in (3.0, 2.0))
    for probabilities in (behaviour, target):
        probabilities[:, 2] = 1.0 - probabilities[:, 0] - probabilities[:, 1]
    actions = random.integers(3, size=count)
    rewards = np.round(random.normal(size=count), 2)
    q = np.round(random.normal(size=(count, 3)), 2)
    sessions = np.repeat(np.arange(episodes), steps)
    logged = Logged(sessions, actions, rewards, behaviour, np.ones((count, 1)), np.zeros(count, dtype=np.bool_))
    return logged, target, q


def small(behaviour: list[list[float]], actions: list[int], rewards: list[float], ends: list[int]) -> Logged:
    count = len(actions)
    return Logged(
        np.zeros(count, dtype=np.intp),
        np.array(actions),
        np.array(rewards),
        np.array(behaviour),
        np.ones((count, 1)),
        np.isin(np.arange(count), ends),
    )


def test_weighted_importance_sampling_is_that_of_scope_rl() -> None:
    logged, target, _ = made_up()
    parts, figure = wis(logged, target, episodes_of(logged, 3), 0.9)
    estimate = float(figure(parts.sum(axis=0, keepdims=True))[0])
    assert estimate == pytest.approx(1.107081429173441)  # SelfNormalizedPDIS of scope-rl 0.2.1


def test_the_doubly_robust_estimate_is_that_of_scope_rl() -> None:
    logged, target, q = made_up()
    episodes = episodes_of(logged, 3)
    values = (q * target).sum(axis=1)[episodes.rows]
    action_values = q[np.arange(len(q)), logged.actions][episodes.rows]
    parts, figure = corrected(logged, target, episodes, values, action_values, 0.9)
    estimate = float(figure(parts.sum(axis=0, keepdims=True))[0])
    assert estimate == pytest.approx(-0.3924231684568709)  # SelfNormalizedDR of scope-rl 0.2.1


def test_weights_and_episodes_are_those_worked_out_by_hand() -> None:
    logged = small([[0.5, 0.5]] * 5, [0, 1, 0, 0, 1], [1.0, 2.0, 3.0, 4.0, 5.0], ends=[2])
    target = np.array([[0.25, 0.75]] * 5)
    episodes = episodes_of(logged, 2)  # a run of three and one of two: 2 + 1, then 2
    assert episodes.rows[:, 0].tolist() == [0, 2, 3]
    assert episodes.inside.tolist() == [[True, True], [True, False], [True, True]]
    assert weights(logged, target, episodes).tolist() == [[0.5, 0.75], [0.5, 0.5], [0.5, 0.75]]
    parts, figure = wis(logged, target, episodes, 0.5)
    # first steps: (0.5 x 1 + 0.5 x 3 + 0.5 x 4) / 1.5 = 8 / 3; second: (0.75 x 2 + 0 + 0.75 x 5) / 2 = 2.625
    assert figure(parts.sum(axis=0, keepdims=True))[0] == pytest.approx(8.0 / 3.0 + 0.5 * 2.625)
    # Kish: (0.75 + 0.5 + 0.75)² / (0.5625 + 0.25 + 0.5625)
    assert effective_of(logged, target, episodes) == pytest.approx(4.0 / 1.375)


def test_fitted_q_evaluation_is_the_exact_recursion_where_all_pairs_are_known() -> None:
    """Rewards without noise, and each pair of state and action as often followed by each state as it should be."""
    moves, pays = transitions(TabularMarket())
    market, discount, horizon = TabularMarket(), 0.9, 4
    rows = [
        (state, action, after)
        for state in range(STATES)
        for action in range(3)
        for after in range(STATES)
        for _ in range(round(10 * moves[state, action, after]))
    ]
    count = len(rows)  # each row is a run of two decisions: the pair, and what it leads to
    states = np.array([[state, after] for state, _, after in rows]).ravel()
    actions = np.array([[action, 0] for _, action, _ in rows]).ravel()
    logged = Logged(
        np.zeros(2 * count, dtype=np.intp),
        actions,
        pays[states, actions],
        np.full((2 * count, 3), 1.0 / 3.0),
        np.eye(STATES)[states],
        np.arange(2 * count) % 2 == 1,
    )
    target = market.challenger[states]
    statistics = moments(logged, target, episodes_of(logged, horizon))
    sums = statistics.of_sums(statistics.flat().sum(axis=0, keepdims=True))
    q = coefficients(sums, discount)[:, 0].reshape(horizon, 3, STATES).transpose(0, 2, 1)
    exact, values = [], np.zeros(STATES)
    for _ in range(horizon):
        exact.append(pays + discount * moves @ values)
        values = (market.challenger * exact[-1]).sum(axis=1)
    assert q == pytest.approx(np.array(exact), abs=1e-4)  # the ridge


def test_the_three_estimators_meet_the_known_values_of_a_market() -> None:
    market, horizon = TabularMarket(sessions=400, epsilon=0.6), 3
    log, states = market.log(np.random.default_rng(1))
    evaluation = evaluate(
        log, market.challenger[states], market.champion[states], horizon=horizon, least=ALL, draws=200
    )
    assert (evaluation.sessions, evaluation.decisions, evaluation.episodes) == (400, 24_000, 8_000)
    assert evaluation.cannot_be_said == ""
    challenger_value, champion_value = market.value(market.challenger, horizon), market.value(market.champion, horizon)
    assert [estimate.name for estimate in evaluation.estimates] == ["wis", "dr", "fqe"]
    for estimate in evaluation.estimates:
        assert estimate.challenger.estimate == pytest.approx(
            challenger_value, abs=0.4
        )  # of whole sessions: a shock for all
        assert estimate.champion.estimate == pytest.approx(champion_value, abs=0.4)
        assert estimate.lead.estimate == pytest.approx(estimate.challenger.estimate - estimate.champion.estimate)
        assert estimate.lead.estimate == pytest.approx(challenger_value - champion_value, abs=0.25)
        assert estimate.lead.high - estimate.lead.low < 0.5  # paired: narrower than the values' own


def test_a_challenger_that_saves_the_costs_of_what_earns_later_is_behind() -> None:
    """By two decisions alone it leads: a purchase costs 2.5 at once and earns about 20 after them."""
    market = TabularMarket(sessions=1_500, stays=0.95, cost=2.5, noise=0.1)
    idle = market.explored(market.idle)
    assert market.session(idle) < market.session(market.behaviour) - 3.0
    after, before = (market.to_go(policy, np.zeros(STATES), 2)[-1][1] for policy in (idle, market.behaviour))
    assert after > before + 0.2  # two decisions alone, flat on the high signal
    log, states = market.log(np.random.default_rng(1))
    evaluated = evaluate(log, idle[states], market.behaviour[states], horizon=2, discount=0.99, least=ALL, draws=300)
    lead = market.value(idle, 2, 0.99) - market.value(market.behaviour, 2, 0.99)
    assert lead < 0.0
    for estimate in evaluated.estimates:
        assert estimate.lead.high < 0.0
        assert estimate.lead.low <= lead <= estimate.lead.high


def test_an_episode_that_ends_with_its_run_has_no_tail() -> None:
    logged, target, _ = made_up()
    parts, figure = tail(logged, target, episodes_of(logged, 3), 0.9)
    values = _start_values(logged, 0.9)
    weight = weights(logged, target, episodes_of(logged, 3))[:, -1]
    expected = values.mean() - (weight * values).sum() / weight.sum()  # the control variate is all that is left
    assert float(figure(parts.sum(axis=0, keepdims=True))[0]) == pytest.approx(expected, abs=1e-4)


def _start_values(logged: Logged, discount: float) -> Series:
    """The values of the episodes' first states by least squares of the Bellman equation, in plain loops."""
    states = np.stack([np.array([1.0, (3 - nth % 3) / 3.0]) for nth in range(len(logged.actions))])
    slope, earned = np.zeros((2, 2)), np.zeros(2)
    for nth, state in enumerate(states):
        following = np.zeros(2) if nth % 3 == 2 else states[nth + 1]
        slope += np.outer(state, state - discount * following)
        earned += state * logged.rewards[nth]
    return np.asarray(states[::3] @ np.linalg.solve(slope, earned))


def test_intervals_hold_the_truth_about_as_often_as_they_claim() -> None:
    """The small one of `bench.training.off_policy_coverage`: at 95 % fewer than 51 of 60 have a chance of 0.5 %."""
    market, horizon = TabularMarket(sessions=60, decisions=30, epsilon=0.7), 2
    lead = market.value(market.challenger, horizon) - market.value(market.champion, horizon)
    hits = dict.fromkeys(("wis", "dr", "fqe"), 0)
    for seed in range(60):
        log, states = market.log(np.random.default_rng(seed))
        policies = market.challenger[states], market.champion[states]
        for estimate in evaluate(log, *policies, horizon=horizon, least=ALL, draws=300).estimates:
            hits[estimate.name] += estimate.lead.low <= lead <= estimate.lead.high
    assert min(hits.values()) >= 51, hits


@pytest.mark.parametrize(
    ("least", "epsilon", "reason"),
    [
        (Least(), 0.0, "nothing was explored"),
        (Least(sessions=41), 0.5, "40 sessions, expected at least 41"),
        (Least(overlap=0.9, probability=0.4), 0.6, "overlap 0."),
        (Least(effective=1e6), 0.5, "effective sample of "),
    ],
)
def test_nothing_is_estimated_where_the_log_cannot_say_it(least: Least, epsilon: float, reason: str) -> None:
    market = TabularMarket(epsilon=epsilon)
    log, states = market.log(np.random.default_rng(0))
    evaluation = evaluate(log, market.challenger[states], market.champion[states], horizon=2, least=least)
    assert evaluation.cannot_be_said.startswith(reason)
    assert evaluation.estimates == ()


def test_overlap_is_what_the_log_also_does() -> None:
    logged = small([[1.0, 0.0], [0.96, 0.04]], [0, 1], [0.0, 0.0], ends=[])
    target = np.array([[0.25, 0.75], [0.5, 0.5]])
    assert overlap_of(logged, target, 0.001) == pytest.approx((0.25 + 1.0) / 2)
    assert overlap_of(logged, target, 0.05) == pytest.approx((0.25 + 0.5) / 2)


def test_a_log_that_is_none_is_refused() -> None:
    good = small([[0.5, 0.5]] * 2, [0, 1], [0.0, 1.0], ends=[])
    target = np.full((2, 2), 0.5)
    with pytest.raises(ValueError, match="as many decisions and actions"):
        evaluate(good, target[:1], target, horizon=1)
    with pytest.raises(ValueError, match="do not add up to 1"):
        evaluate(good, target * 1.1, target, horizon=1)
    with pytest.raises(ValueError, match="has the probability 0"):
        evaluate(small([[1.0, 0.0]] * 2, [0, 1], [0.0, 1.0], ends=[]), target, target, horizon=1)


def test_few_sessions_widen_an_interval_to_student_s() -> None:
    parts = np.stack([np.random.default_rng(4).normal(size=8), np.ones(8)], axis=1)
    of = [lambda sums: sums[:, 0] / sums[:, 1]]
    (plain,) = pooled_intervals(parts, of, blocks_of=parts[:, 0], seed=3)
    (wide,) = pooled_intervals(parts, of, blocks_of=parts[:, 0], seed=3, expanded=True)
    # t(0.975, 7) = 2.3646 of a table, x sqrt(8 / 7) = 2.5279 deviations instead of 1.96
    assert (wide.high - wide.low) / (plain.high - plain.low) == pytest.approx(2.5279 / 1.96, rel=0.1)
    assert wide.estimate == plain.estimate


def test_the_market_s_value_is_that_of_many_draws() -> None:
    """An exact value against the mean of what the challenger itself earns when it plays."""
    plays = TabularMarket(sessions=20_000, decisions=2, epsilon=0.0)
    log, states = plays.log(np.random.default_rng(2))
    assert set(states) <= set(range(2 * SIGNALS))
    earned = float(log.rewards.reshape(-1, 2).sum(axis=1).mean())
    assert earned == pytest.approx(plays.value(plays.champion, 2), abs=0.03)
