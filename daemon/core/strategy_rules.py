"""Trading rules of a strategy: its defaults, and the digest by which a desk knows those that a model was trained by."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, replace
from decimal import Decimal
from typing import Any

from msgspec import UNSET, UnsetType

from daemon.core.limits import AUTO, OVERLAY, Basket, Protection, Trading
from strategies.kit.entry import OwnStrategyError
from strategies.kit.manifest import RISK, Manifest
from strategies.registry import entry

DIGEST = "digest"  # the name among a manifest's rules
TABLES = ("sizing", "contracts", "execution", "risk", "basket", "paper")
"""Of `Trading`: sizes, contracts, orders, gates, baskets, costs; not those of broker, exploration and serving."""


LATER = frozenset({"equity_per_unit"})
"""Keys that came after models had digests: at its default one stays out, so no older model is told of other rules."""


def trading_for(strategy: str) -> Trading:
    """Return the default trading rules of a strategy. `ValueError` for an unknown name."""
    rules = Trading()
    for table, keys in entry(strategy).defaults.items():
        if hasattr(rules, table):  # of the step; other tables belong to the shell
            try:
                changed: dict[str, Any] = {table: replace(getattr(rules, table), **keys)}
            except TypeError as error:
                raise ValueError(f"the defaults of {strategy} in [{table}]: {error}: see config.toml") from error
            rules = replace(rules, **changed)
    return replace(rules, protection=protection(strategy, Protection()))


def protection(strategy: str, rules: Protection) -> Protection | UnsetType:
    """The rules of resting stops as a desk's rules have them: unset where none may rest, whatever the broker.

    A strategy of one's own that cannot be imported keeps them: what it holds decides then.
    """
    if rules.rest_at_broker == AUTO:
        with contextlib.suppress(OwnStrategyError):
            return rules if rules.covers(entry(strategy).make().spec) else UNSET
    return rules if rules.rest_at_broker else UNSET


def rules_digest(trading: Trading) -> str:
    """SHA-256, 64 hexadecimal digits, of the tables that training plays by; 0.50 and 0.5 are the same number."""
    tables = {table: getattr(trading, table) for table in TABLES}
    if not isinstance(trading.protection, UnsetType) and trading.protection.rest_at_broker is True:
        tables["protection"] = trading.protection  # a dry run plays by it too
    text = json.dumps({f"{name}.{key}": value for name, table in tables.items() for key, value in _values(table)})
    return hashlib.sha256(text.encode()).hexdigest()


def with_rules(trading: Trading, rules: Mapping[str, str]) -> Trading:
    """The rules with these values, by dotted keys, in place of their own."""
    for key, text in rules.items():
        table, _, name = key.partition(".")
        table_rules = getattr(trading, table)
        changed: dict[str, Any] = {table: replace(table_rules, **{name: type(getattr(table_rules, name))(text)})}
        trading = replace(trading, **changed)
    return trading


def other_rules(rules: Mapping[str, str], trading: Trading) -> str:
    """How a desk's rules differ from those a model was trained by, in words; "" where they do not or none are known."""
    trained, here = rules.get(DIGEST, ""), rules_digest(trading)
    if not trained or trained == here:
        return ""
    return (
        f"it was trained by other sizes, limits, gates or costs (digest {trained[:12]}) than this desk's "
        f"({here[:12]}): train with this desk's configuration, --config, or expect other results than its report's"
    )


def promoted_under(manifest: Manifest, trading: Trading, symbols: tuple[str, ...]) -> bool:
    """Whether a version may trade real money under a desk's rules: one that claims a risk only under its tests' own.

    Its claim is of the policy and its rules together, the risk overlay among them, and of its symbols, where a
    configuration names some; without a digest nothing is known.
    """
    if manifest.claim is None or manifest.claim.kind != RISK:
        return manifest.promoted
    same = manifest.rules.get(DIGEST) == rules_digest(trading) and {*symbols} == {*manifest.symbols}
    return manifest.promoted and same


def not_promoted_words(manifest: Manifest, trading: Trading, symbols: tuple[str, ...]) -> str:
    """Return in words why it may not trade real money under these rules; "" where it may."""
    if promoted_under(manifest, trading, symbols):
        return ""
    if not manifest.promoted:
        return "it is not promoted"
    return (
        "it is promoted by a stated risk, which it claims for the symbols, sizes, limits, gates, costs and overlay of "
        f"its tests alone (digest {manifest.rules.get(DIGEST, 'none')[:12]}, this desk's {rules_digest(trading)[:12]})"
    )


def changes_nothing(basket: Basket) -> frozenset[str]:
    """Return the basket's keys that change nothing: of an overlay that is off, and `LATER` ones at their default.

    They stay out of what names models' rules and replays, so that neither changes with a release that brings a key.
    """
    later = {it.name for it in fields(Basket) if it.name in LATER and getattr(basket, it.name) == it.default}
    return frozenset(later if basket.volatility_target else {*later, *OVERLAY})


def _values(table: Any) -> list[tuple[str, str]]:
    """The keys and values of a table, but those that change nothing."""
    left_out = changes_nothing(table) if isinstance(table, Basket) else ()
    return [(field.name, _text(getattr(table, field.name))) for field in fields(table) if field.name not in left_out]


def _text(value: Any) -> str:
    return format(value.normalize(), "f") if isinstance(value, Decimal) else str(value)
