"""The digest of trading rules: what is in it, and what a desk says of a model that was trained by others."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import msgspec
import pytest

from daemon.core.limits import Trading
from daemon.core.strategy_rules import not_promoted_words, other_rules, promoted_under, rules_digest, with_rules
from strategies.kit.manifest import Golden, Manifest, StatedClaim, Training

BEFORE_THE_OVERLAY = "7c040e0e1da0e182f309c93f08dd3e865f6579cd4c421d1ff39f177807927268"


def test_a_limit_a_cost_and_a_size_change_it_and_the_broker_s_patience_does_not() -> None:
    rules = Trading()
    usual = rules_digest(rules)
    assert len(usual) == 64
    stricter = replace(rules, risk=replace(rules.risk, confidence_min=rules.risk.confidence_min + 0.1))
    dearer = replace(rules, paper=replace(rules.paper, cash_usd=rules.paper.cash_usd + 1))
    larger = replace(rules, basket=replace(rules.basket, shares_per_unit=rules.basket.shares_per_unit + 1))
    assert len({usual, *(rules_digest(other) for other in (stricter, dearer, larger))}) == 4
    assert rules_digest(replace(rules, broker=replace(rules.broker, on_stop="flatten"))) == usual


def test_the_same_number_written_otherwise_is_the_same() -> None:
    rules = Trading()
    longer = replace(rules, paper=replace(rules.paper, cash_usd=Decimal(f"{rules.paper.cash_usd}.00")))
    assert rules_digest(longer) == rules_digest(rules)


def test_a_desk_with_other_rules_says_so_and_one_with_the_same_or_an_older_model_does_not() -> None:
    rules = with_rules(Trading(), {"basket.notional_per_unit_usd": "10000"})
    assert rules.basket.notional_per_unit_usd == Decimal(10_000)
    trained = {"digest": rules_digest(rules)}
    assert other_rules(trained, rules) == ""
    assert other_rules({}, rules) == ""
    words = other_rules(trained, Trading())
    assert words.startswith(f"it was trained by other sizes, limits, gates or costs (digest {trained['digest'][:12]})")
    assert "--config" in words


def test_an_overlay_that_is_off_leaves_the_digest_of_a_release_without_it() -> None:
    """The digest of the default rules as it was before there was an overlay; one that is chosen changes it."""
    rules = Trading()
    assert rules_digest(rules) == BEFORE_THE_OVERLAY
    assert rules_digest(replace(rules, basket=replace(rules.basket, volatility_span=30))) == BEFORE_THE_OVERLAY
    chosen = replace(rules, basket=replace(rules.basket, volatility_target=0.1))
    longer = replace(rules, basket=replace(chosen.basket, volatility_span=30))
    assert len({BEFORE_THE_OVERLAY, rules_digest(chosen), rules_digest(longer)}) == 3


# --- real money ---------------------------------------------------------------------------------------------------

CLAIM = StatedClaim(
    kind="risk",
    proven=True,
    sentence="Risk kept.",
    volatility_target=0.1,
    volatility_low=0.075,
    volatility_high=0.125,
    probability=0.8,
    drawdown_max=0.25,
    drawdown_probability=0.95,
)
OVERLAY = with_rules(Trading(), {"basket.volatility_target": "0.1"})


def _manifest(**changes: object) -> Manifest:
    """A promoted version that was tested under the overlay."""
    training = Training("f", "00", "sip", False, 1, "2024-01-02", "2024-01-02", {})
    made = Manifest(
        1, "s", "v", "00", "00", (1,), ("HOLD",), Golden((), ()), training, {}, {}, promoted=True,
        rules={"digest": rules_digest(OVERLAY)}, symbols=("SPY", "QQQ"), claim=CLAIM,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("basket.volatility_target", "0"),
        ("basket.volatility_target", "0.12"),
        ("basket.volatility_span", "30"),
        ("basket.volatility_band", "0.2"),
        ("basket.volatility_forecast", "har"),
        ("risk.drawdown_max", "0.5"),
    ],
)
def test_a_version_promoted_by_its_risk_trades_real_money_under_the_rules_of_its_tests_alone(
    key: str, value: str
) -> None:
    assert promoted_under(_manifest(), OVERLAY, ("QQQ", "SPY"))
    assert not_promoted_words(_manifest(), OVERLAY, ("QQQ", "SPY")) == ""
    other = with_rules(OVERLAY, {key: value})
    assert not promoted_under(_manifest(), other, ("QQQ", "SPY"))
    assert rules_digest(other)[:12] in not_promoted_words(_manifest(), other, ("QQQ", "SPY"))


def test_a_promoted_risk_of_other_symbols_or_without_known_rules_trades_no_real_money() -> None:
    assert not promoted_under(_manifest(), OVERLAY, ("SPY",))
    assert not promoted_under(_manifest(rules={}), OVERLAY, ("SPY", "QQQ"))
    assert not promoted_under(_manifest(promoted=False), OVERLAY, ("SPY", "QQQ"))


def test_a_version_promoted_by_its_lead_trades_under_other_rules_as_before() -> None:
    lead = StatedClaim(kind="lead", proven=True, sentence="Led.")
    for claim in (None, lead):
        assert promoted_under(_manifest(claim=claim), Trading(), ())
        assert not_promoted_words(_manifest(claim=claim, promoted=False), Trading(), ()) == "it is not promoted"
