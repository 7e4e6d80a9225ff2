"""The digest of trading rules: what is in it, and what a desk says of a model that was trained by others."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from daemon.config.load import load
from daemon.core.limits import Trading
from daemon.core.strategy_rules import (
    desk_keys,
    lines_to_claim,
    not_promoted_words,
    other_rules,
    promoted_under,
    rules_digest,
    trading_for,
    unkept,
    with_rules,
)
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
    manifest = _manifest(rules={"digest": rules_digest(rules)})
    assert other_rules(manifest, rules) == ""
    assert other_rules(_manifest(rules={}), rules) == ""
    words = other_rules(manifest, Trading())
    assert words.startswith(
        "it was trained by other sizes, limits, gates or costs: the rules of its tests (digest "
        f"{rules_digest(rules)[:12]}); this desk has others ({rules_digest(Trading())[:12]})"
    )
    assert "--config" in words


def test_where_a_manifest_has_the_keys_of_its_tests_the_words_name_them() -> None:
    usual = trading_for("regime_switcher")
    rules = with_rules(usual, {"risk.drawdown_max": "0.2"})
    keys = desk_keys("regime_switcher", rules)
    assert keys == {"risk.drawdown_max": "0.2"}
    manifest = _manifest(strategy="regime_switcher", rules={"digest": rules_digest(rules)}, desk=keys)
    drawdown_words = f"{usual.risk.drawdown_max:g}"
    assert f": [risk] drawdown_max = 0.2 (this desk: {drawdown_words}): " in other_rules(manifest, usual)


def test_an_overlay_that_is_off_leaves_the_digest_of_a_release_without_it() -> None:
    """The digest of the default rules as it was before there was an overlay; one that is chosen changes it."""
    rules = Trading()
    assert rules_digest(rules) == BEFORE_THE_OVERLAY
    assert rules_digest(replace(rules, basket=replace(rules.basket, volatility_span=30))) == BEFORE_THE_OVERLAY
    overlay_rules = replace(rules, basket=replace(rules.basket, volatility_target=0.1))
    longer = replace(rules, basket=replace(overlay_rules.basket, volatility_span=30))
    assert len({BEFORE_THE_OVERLAY, rules_digest(overlay_rules), rules_digest(longer)}) == 3


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
    manifest = Manifest(
        1, "s", "v", "00", "00", (1,), ("HOLD",), Golden((), ()), training, {}, {}, promoted=True,
        rules={"digest": rules_digest(OVERLAY)}, symbols=("SPY", "QQQ"), claim=CLAIM,
    )  # fmt: skip
    return msgspec.structs.replace(manifest, **changes)


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
    assert unkept(_manifest(), other, ("QQQ", "SPY")).startswith("no claim of risk is made: it holds with the rules of")


def test_a_promoted_risk_of_other_symbols_or_without_known_rules_trades_no_real_money() -> None:
    assert not promoted_under(_manifest(), OVERLAY, ("SPY",))
    assert not promoted_under(_manifest(rules={}), OVERLAY, ("SPY", "QQQ"))
    assert not promoted_under(_manifest(promoted=False), OVERLAY, ("SPY", "QQQ"))
    unproven = msgspec.structs.replace(CLAIM, proven=False)
    assert not promoted_under(_manifest(claim=unproven), OVERLAY, ("SPY", "QQQ"))
    assert not_promoted_words(_manifest(claim=unproven), OVERLAY, ("SPY", "QQQ")).endswith("that is not proven")


def test_a_version_promoted_by_its_lead_trades_under_other_rules_as_before() -> None:
    lead = StatedClaim(kind="lead", proven=True, sentence="Led.")
    for claim in (None, lead):
        assert promoted_under(_manifest(claim=claim), Trading(), ())
        assert not_promoted_words(_manifest(claim=claim, promoted=False), Trading(), ()) == "it is not promoted"


# --- what a desk would need -----------------------------------------------------------------------------------------

SWITCHER = trading_for("regime_switcher")
TESTED = with_rules(
    SWITCHER, {"basket.volatility_target": "0.1", "basket.auction": "False", "risk.drawdown_max": "0.3"}
)


def _tested() -> Manifest:
    rules = {"digest": rules_digest(TESTED)}
    return _manifest(strategy="regime_switcher", rules=rules, desk=desk_keys("regime_switcher", TESTED), symbols=())


def _loaded(lines: tuple[str, ...], tmp_path: Path) -> Trading:
    """The rules of a desk whose configuration has these lines."""
    path = tmp_path / "config.toml"
    path.write_text("\n".join(["[desk]", 'strategy = "regime_switcher"', *lines, ""]))
    return load(path, {}, environment={}).trading()


def test_the_lines_that_are_named_make_the_claim_hold(tmp_path: Path) -> None:
    desk = _loaded((), tmp_path)
    assert unkept(_tested(), desk, ()) == (
        "no claim of risk is made: it holds with [risk] drawdown_max = 0.3 (this desk: "
        f"{SWITCHER.risk.drawdown_max:g}), [basket] auction = false (this desk: true), [basket] "
        "volatility_target = 0.1 (this desk: 0)"
    )
    lines = lines_to_claim(_tested(), desk)
    assert lines == ("[risk]", "drawdown_max = 0.3", "[basket]", "auction = false", "volatility_target = 0.1")
    assert unkept(_tested(), _loaded(lines, tmp_path), ()) == ""
    assert lines_to_claim(_tested(), _loaded(lines, tmp_path)) == ()


def test_a_key_of_the_overlay_counts_once_there_is_one(tmp_path: Path) -> None:
    """A span that changes nothing without a target is named with it: the target alone would not make the claim hold."""
    lines = ("[basket]", "volatility_span = 30", 'volatility_forecast = "har"', "auction = false")
    desk = _loaded((*lines, "[risk]", "drawdown_max = 0.3"), tmp_path)
    assert lines_to_claim(_tested(), desk) == (
        "[basket]",
        "volatility_target = 0.1",
        'volatility_forecast = "ewma"',
        "volatility_span = 20",
    )
    assert desk_keys("regime_switcher", with_rules(SWITCHER, {"basket.volatility_span": "30"})) == {}


def test_keys_that_do_not_make_the_digest_are_not_named() -> None:
    """Of a release whose defaults were others nothing is known but that the rules differ."""
    elsewhere = msgspec.structs.replace(_tested(), rules={"digest": "0" * 64})
    assert lines_to_claim(elsewhere, SWITCHER) == ()
    assert "(digest 000000000000)" in unkept(elsewhere, SWITCHER, ())
    unheard = msgspec.structs.replace(_tested(), desk={"basket.unheard_of": "1"})
    assert lines_to_claim(unheard, SWITCHER) == ()
    assert unkept(_manifest(strategy="nobody's"), SWITCHER, ("SPY", "QQQ")) != ""


def test_other_symbols_are_named() -> None:
    assert unkept(_manifest(), OVERLAY, ("SPY",)) == (
        "no claim of risk is made: it holds for the symbols of its tests (SPY, QQQ); this desk has SPY"
    )
