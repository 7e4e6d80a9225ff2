"""The digest of trading rules: what is in it, and what a desk says of a model that was trained by others."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from daemon.core.limits import Trading
from daemon.core.strategy_rules import other_rules, rules_digest, with_rules

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
