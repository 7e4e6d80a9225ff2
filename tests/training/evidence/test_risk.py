"""A stated risk is proven where it is kept, and never by a constant share of cash or by wrong figures."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from strategies.kit.manifest import LEAD, RISK
from tests.support.training.studies import example_study
from training.evidence.criteria import RISK_CRITERIA, RISK_PROOF, claim_of, judge
from training.evidence.findings import Findings, decode, encode
from training.evidence.risk import (
    DRAWDOWN,
    RiskSeries,
    RiskStatement,
    deepest,
    deflated_confidence,
    evidence_words,
    kept_risk,
    rolling_volatility,
    share_bound,
)
from training.evidence.risk_power import KINDS, TARGET, OverlayRuns, failed_proofs, risk_rate, simulated
from training.evidence.statistics import Series
from training.report.find import find
from training.report.judging import with_verdict
from training.study.study import PASSIVE_WORDS, RiskRuns

SESSIONS = 2016
STATED = RiskStatement(TARGET, DRAWDOWN * TARGET)
MARKETS = 10


@pytest.fixture(scope="module")
def runs() -> OverlayRuns:
    return simulated(2, SESSIONS, np.random.default_rng(1), clustered=True)


@pytest.fixture(scope="module")
def proven(runs: OverlayRuns) -> Findings:
    """A passive policy, of which a study of made-up sessions says nothing, with a risk that one market keeps."""
    risk = kept_risk(_series(runs.policy[0], runs.market[0], runs.exposure[0]), STATED)
    findings = find(example_study(folds=1, seeds=1))
    return msgspec.structs.replace(findings, passive=True, risk=risk)


def _series(policy: Series, passive: Series, exposure: Series) -> RiskSeries:
    return RiskSeries(policy, exposure, passive, np.ones(len(policy)), policy, 0.01)


def _failed(findings: Findings) -> set[str]:
    return {one.name for one in judge(findings, RISK) if not one.passes}


def test_the_volatility_of_each_stretch_is_its_annual_sample_deviation() -> None:
    squares = ((0.0**2 + 0.02**2 + 0.02**2) / 2, (0.02**2 + 0.02**2 + 0.0**2) / 2)  # around means of 0.01
    volatility = rolling_volatility(np.array([0.01, -0.01, 0.03, 0.01]), 3)
    assert volatility == pytest.approx([math.sqrt(252 * square) for square in squares])


def test_the_largest_drawdown_counts_from_the_start_and_compounds() -> None:
    paths = np.array([[0.1, -0.5, 0.2], [-0.2, 0.5, -0.1], [0.1, 0.1, 0.1]])
    assert deepest(paths) == pytest.approx([0.5, 0.2, 0.0])


def test_so_many_trials_together_have_the_confidence_of_one() -> None:
    assert deflated_confidence(1) == deflated_confidence(0) == pytest.approx(0.95)
    assert deflated_confidence(20) ** 20 == pytest.approx(0.95)


def test_the_bound_of_a_share_is_that_of_the_exact_method() -> None:
    assert share_bound(1.0, 30, 0.95) == pytest.approx(0.05 ** (1 / 30))  # all came: bound ** 30 = 5 %
    assert share_bound(0.9, 10, 0.95) == pytest.approx(0.6058, abs=1e-4)  # 9 of 10
    assert share_bound(0.0, 30, 0.95) == 0.0


@pytest.mark.parametrize("share", [0.3, 0.5, 1.0])
def test_a_constant_share_of_cash_fails_whatever_target_it_states(runs: OverlayRuns, share: float) -> None:
    market = runs.market[0]
    policy = share * market
    for times in (0.8, 1.0, 1.2):
        target = times * float(rolling_volatility(policy).mean())
        statement = RiskStatement(target, DRAWDOWN * target)
        risk = kept_risk(_series(policy, market, np.full(SESSIONS, share)), statement)
        assert risk is not None
        assert risk.passive_level == pytest.approx(risk.level.estimate)
        assert risk.spread is not None
        assert risk.spread.estimate == pytest.approx(0.0, abs=1e-9)
        assert risk.sharpe_change == pytest.approx(0.0, abs=1e-9)
        without = msgspec.structs.replace(find(example_study(folds=1, seeds=1)), passive=True, risk=risk)
        assert {"apart", "spread", "spread interval"} <= _failed(without)


def test_a_risk_that_was_stated_and_not_proven_is_named_where_nothing_is_claimed(runs: OverlayRuns) -> None:
    market, study = runs.market[0], example_study(folds=1, seeds=1)
    risk = kept_risk(_series(0.5 * market, market, np.full(SESSIONS, 0.5)), STATED)
    nothing = RiskRuns(target=TARGET, drawdown=STATED.drawdown, policy=(), twice=(), passive=())
    findings = msgspec.structs.replace(find(study), passive=True, risk=risk)
    words = PASSIVE_WORDS + "holds nothing, and claims nothing: nothing was trained."
    again = with_verdict(msgspec.structs.replace(study, exported=words, claim="", risk=nothing), findings)
    assert risk is not None
    assert again.claim is None
    assert again.verdict.startswith(f"{words} A risk was stated and is not proven (fails ")
    assert f"spread and spread interval). {evidence_words(risk)}" in again.verdict


def test_a_kept_risk_is_claimed_and_proven_with_its_figures(proven: Findings) -> None:
    risk = proven.risk
    assert risk is not None
    claim = claim_of(proven, "", STATED)
    assert claim is not None
    assert (claim.kind, claim.proven) == (RISK, True)
    assert claim.sentence.startswith("Claims a risk, proven: a volatility of 10.0 % a year, ")
    assert (claim.volatility_target, claim.volatility_low, claim.volatility_high) == pytest.approx((0.1, 0.075, 0.125))
    assert claim.drawdown_max == pytest.approx(0.25)
    assert 0.5 < claim.probability < risk.inside
    assert claim.level_low <= claim.level <= claim.level_high
    assert "the smallest that this test would have found 4 times in 5 is" in evidence_words(risk)
    assert _failed(proven) == set()  # a rule needs no seeds
    assert decode(encode(proven)).risk == risk


def test_what_is_not_a_passive_policy_needs_its_seeds_and_an_import_counts_no_trials(proven: Findings) -> None:
    assert _failed(msgspec.structs.replace(proven, passive=False)) == {"seeds"}
    assert _failed(msgspec.structs.replace(proven, imported=True)) == {"weights"}
    assert _failed(msgspec.structs.replace(proven, refit=True)) == set()  # of a learned policy alone
    assert _failed(msgspec.structs.replace(proven, synthetic=True)) == {"data"}


def test_a_passive_policy_claims_no_lead_and_without_a_statement_nothing(proven: Findings) -> None:
    assert claim_of(proven, LEAD, STATED) is None
    assert claim_of(proven, "") is None
    active = msgspec.structs.replace(proven, passive=False)
    lead = claim_of(active, LEAD, STATED)
    assert lead is not None
    assert (lead.kind, lead.proven) == (LEAD, False)
    assert lead.sentence.startswith("Claims a lead over ")


def test_a_lead_is_claimed_as_proven_only_among_all_earlier_trials() -> None:
    """One trial in a hundred without skill has a bound above 0: after so many it proves nothing."""
    first = find(example_study(edge_usd=120.0))
    assert first.lead is not None
    assert first.lead.low is not None
    assert first.lead.low > 0.0
    claim = claim_of(first, "")
    assert claim is not None
    assert claim.proven
    late = find(msgspec.structs.replace(example_study(edge_usd=120.0), prior_sharpes=(0.0,) * 10_000))
    assert late.lead is not None
    assert late.lead.low == first.lead.low
    assert claim_of(late, "") is None
    lead_claim = claim_of(late, LEAD)
    assert lead_claim is not None
    assert not lead_claim.proven
    assert lead_claim.sentence.endswith(", not proven (fails deflated lead).")


def test_a_lead_on_fewer_sessions_than_a_promotion_asks_for_is_not_proven() -> None:
    few = find(example_study(test_sessions=19, edge_usd=200.0))
    assert few.policy.figures.sessions == 57  # 60 are asked for
    claim = claim_of(few, LEAD)
    assert claim is not None
    assert claim.sentence.endswith(", not proven (fails length).")
    assert claim_of(few, "") is None


def test_a_drawdown_that_no_account_of_that_volatility_reaches_states_nothing(runs: OverlayRuns) -> None:
    """A loss of a half in a year at 10 % is five deviations: to keep it says nothing."""
    findings = find(example_study(folds=1, seeds=1))
    series = _series(runs.policy[0], runs.market[0], runs.exposure[0])
    for drawdown, failed in ((0.25, set()), (0.26, {"stated drawdown"}), (0.99, {"stated drawdown"})):
        risk = kept_risk(series, RiskStatement(STATED.target, drawdown))
        assert _failed(msgspec.structs.replace(findings, passive=True, risk=risk)) == failed


def test_weights_that_no_session_tested_prove_no_claim(proven: Findings) -> None:
    """Of a refit the tests are of other weights; of an import nobody knows among how many it was chosen."""
    active = msgspec.structs.replace(proven, passive=False)
    for changes in ({"refit": True}, {"imported": True}):
        claim = claim_of(msgspec.structs.replace(active, **changes), RISK, STATED)
        assert claim is not None
        assert (claim.proven, "not proven (fails weights)" in claim.sentence) == (False, True)
    again = claim_of(msgspec.structs.replace(find(example_study(edge_usd=120.0)), refit=True), LEAD)
    assert again is not None
    assert again.sentence.endswith(", not proven (fails weights).")
    assert (
        claim_of(msgspec.structs.replace(proven, refit=True), "", STATED) is not None
    )  # a passive policy has no refit


def test_a_risk_that_is_not_kept_is_claimed_as_unproven_only_where_it_is_asked_for(runs: OverlayRuns) -> None:
    statement = RiskStatement(0.06, 0.15)
    risk = kept_risk(_series(runs.policy[0], runs.market[0], runs.exposure[0]), statement)
    findings = msgspec.structs.replace(find(example_study(folds=1, seeds=1)), passive=True, risk=risk)
    assert claim_of(findings, "", statement) is None
    claim = claim_of(findings, RISK, statement)
    assert claim is not None
    assert not claim.proven
    assert claim.sentence.startswith("Claims a risk, not proven (fails level, ")


def test_too_few_sessions_prove_nothing_and_say_so() -> None:
    few = np.random.default_rng(1).normal(0.0, 0.01, 239)  # four stretches are 240
    assert kept_risk(_series(few, few, np.ones(239)), STATED) is None
    findings = msgspec.structs.replace(find(example_study(folds=1, seeds=1)), passive=True)
    assert _failed(findings) >= {criterion.name for criterion in RISK_PROOF}
    claim = claim_of(findings, RISK, STATED)
    assert claim is not None
    assert not claim.proven
    assert "too short" in claim.sentence
    assert claim_of(findings, "", STATED) is None


def test_an_account_that_never_moves_is_no_kept_risk() -> None:
    flat, moves = np.zeros(SESSIONS), np.random.default_rng(1).normal(0.0, 0.01, SESSIONS)
    assert kept_risk(_series(flat, moves, flat), STATED) is None
    assert kept_risk(_series(moves, flat, np.ones(SESSIONS)), STATED) is None


def test_a_statement_without_a_number_and_series_of_other_sessions_are_refused(runs: OverlayRuns) -> None:
    series = _series(runs.policy[0], runs.market[0], runs.exposure[0])
    with pytest.raises(ValueError, match="above 0"):
        kept_risk(series, RiskStatement(0.0, 0.1))
    with pytest.raises(ValueError, match="the same sessions"):
        kept_risk(series._replace(passive=runs.market[0][1:]), STATED)


def test_more_trials_widen_every_interval_and_leave_the_loss_of_sharpe_as_it_is(runs: OverlayRuns) -> None:
    series = _series(runs.policy[0], runs.market[0], runs.exposure[0])
    one, many = kept_risk(series, STATED), kept_risk(series, STATED, trials=100)
    assert one is not None
    assert many is not None
    assert many.level.high > one.level.high
    assert many.probability < one.probability
    assert many.drawdown_kept <= one.drawdown_kept
    assert many.sharpe_change_high == one.sharpe_change_high  # a loss is no easier to deny after many trials


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_true_claims_are_mostly_proven_and_those_false_by_a_quarter_hardly_ever(kind: object) -> None:
    """Bounds are exact quantiles of binomial counts, 0.1 %; `make bench-promotion` has 40 markets of each."""
    from scipy.stats import binom

    risk_kind = next(one for one in KINDS if one is kind)
    rate = risk_rate(risk_kind, SESSIONS, MARKETS)
    if risk_kind.true:
        assert rate.proven >= binom.ppf(0.001, MARKETS, 0.9)
    else:
        assert rate.proven <= binom.ppf(0.999, MARKETS, 0.05)


def test_each_criterion_of_a_risk_is_named_once() -> None:
    names = [criterion.name for criterion in RISK_CRITERIA]
    assert len(names) == len(set(names))


def test_a_market_fails_for_the_drawdown_alone_where_only_that_is_false(runs: OverlayRuns) -> None:
    assert failed_proofs(runs, 0, STATED) == ()
    assert failed_proofs(runs, 0, RiskStatement(TARGET, 0.5 * TARGET)) == ("drawdown",)
