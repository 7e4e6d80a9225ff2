"""Trading rules of a strategy: its defaults, and the digest that identifies the rules that a model was trained with."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from decimal import Decimal
from typing import Any

from msgspec import UNSET, UnsetType

from daemon.core.limits import AUTO, OVERLAY, Basket, Protection, Trading
from strategies.kit.entry import OwnStrategyError
from strategies.kit.manifest import RISK, Manifest
from strategies.registry import entry

DIGEST = "digest"  # key of the digest in a manifest's `rules`
TABLES = ("sizing", "contracts", "execution", "risk", "basket", "paper")
"""Tables of `Trading` in the digest; broker, exploration and serving are not."""


NAMED = 5  # most keys or symbols in one message
LATER = frozenset(
    {
        *("equity_per_unit", "fractions", "order_step", "min_order_usd"),
        *("share_fees_below_usd", "share_taf_usd", "share_cat_usd"),
        *("trailing_stop", "time_stop_min"),
    }
)
"""Keys added after models had digests: left out of the digest at their default, so older models keep theirs."""


def trading_for(strategy: str) -> Trading:
    """Return the default trading rules of a strategy. Raises ValueError for an unknown name."""
    rules = Trading()
    for table, keys in entry(strategy).defaults.items():
        if hasattr(rules, table):  # of the step; other tables belong to the shell
            try:
                changes: dict[str, Any] = {table: replace(getattr(rules, table), **keys)}
            except TypeError as error:
                raise ValueError(f"the defaults of {strategy} in [{table}]: {error}: see config.toml") from error
            rules = replace(rules, **changes)
    return replace(rules, protection=protection(strategy, Protection()))


def protection(strategy: str, rules: Protection) -> Protection | UnsetType:
    """Return the rules of resting stops, or UNSET if no stop may rest, whatever the broker.

    The user's own strategy keeps them if it cannot be imported: then its holdings decide.
    """
    if rules.rest_at_broker == AUTO:
        with contextlib.suppress(OwnStrategyError):
            return rules if rules.covers(entry(strategy).make().spec) else UNSET
    return rules if rules.rest_at_broker else UNSET


def rules_digest(trading: Trading) -> str:
    """Return the SHA-256, 64 hexadecimal digits, of the tables used in training; 0.50 and 0.5 are the same number."""
    tables = {table: getattr(trading, table) for table in TABLES}
    if not isinstance(trading.protection, UnsetType) and trading.protection.rest_at_broker is True:
        tables["protection"] = trading.protection  # a dry run applies it too
    text = json.dumps({f"{name}.{key}": value for name, table in tables.items() for key, value in _values(table)})
    return hashlib.sha256(text.encode()).hexdigest()


def with_rules(trading: Trading, rules: Mapping[str, str]) -> Trading:
    """Return the rules with these values, given by dotted keys, replaced."""
    for key, text in rules.items():
        table, _, name = key.partition(".")
        table_rules = getattr(trading, table)
        usual = getattr(table_rules, name)
        kind = json.loads if usual is UNSET else type(usual)
        value = text == "True" if isinstance(usual, bool) else kind(text)
        changes: dict[str, Any] = {table: replace(table_rules, **{name: value})}
        trading = replace(trading, **changes)
    return trading


def desk_keys(strategy: str, trading: Trading) -> dict[str, str]:
    """Return the desk's values by dotted key where they differ from the strategy's defaults: a manifest's `desk`."""
    return {key: desk_text for key, (_, desk_text) in _differing(trading_for(strategy), trading).items()}


def other_rules(manifest: Manifest, trading: Trading) -> str:
    """Return a message on how a desk's rules differ from the model's training; "" if equal or unknown."""
    if not manifest.rules.get(DIGEST) or _tested_by(manifest, trading):
        return ""
    return (
        f"it was trained by other sizes, limits, gates or costs: {_rules_of_the_tests(manifest, trading)}: train with "
        "this desk's configuration, --config, or expect other results than its report's"
    )


def unkept(manifest: Manifest, trading: Trading, symbols: tuple[str, ...]) -> str:
    """Return why the version's proven risk claim does not hold for a desk of these rules and symbols; "" if it does.

    A claim covers the policy together with the rules of its tests, the risk overlay included, and the symbols, if the
    configuration names any; without a digest it is unknown. Nothing else decides whether a claim holds.
    """
    if not _proves_a_risk(manifest):
        return ""
    if not _tested_by(manifest, trading):
        return f"no claim of risk is made: it holds with {_rules_of_the_tests(manifest, trading)}"
    if {*symbols} == {*manifest.symbols}:
        return ""
    tests, desk = _names_text(manifest.symbols), _names_text(symbols)
    return f"no claim of risk is made: it holds for the symbols of its tests ({tests}); this desk has {desk}"


def lines_to_claim(manifest: Manifest, trading: Trading) -> tuple[str, ...]:
    """Return the lines, in TOML, that set a desk's rules to those of the version's tests; () if unknown."""
    test_rules = _tests_rules(manifest)
    tables: dict[str, list[str]] = {}
    for key, (test_text, _) in ({} if test_rules is None else _differing(test_rules, trading)).items():
        tables.setdefault(f"[{key.partition('.')[0]}]", []).append(_line(key, test_text))
    return tuple(line for table, lines in tables.items() for line in (table, *lines))


def _proves_a_risk(manifest: Manifest) -> bool:
    return manifest.claim is not None and manifest.claim.kind == RISK and manifest.claim.proven


def _tested_by(manifest: Manifest, trading: Trading) -> bool:
    """Return whether these are the rules of the version's tests."""
    return manifest.rules.get(DIGEST) == rules_digest(trading)


def _tests_rules(manifest: Manifest) -> Trading | None:
    """Return the rules of a version's tests; None if its manifest lacks them, or the defaults have changed since."""
    with contextlib.suppress(ValueError, AttributeError, ArithmeticError):  # a strategy or key that this release lacks
        test_rules = with_rules(trading_for(manifest.strategy), manifest.desk)
        return test_rules if _tested_by(manifest, test_rules) else None
    return None


def _differing(test_rules: Trading, desk_rules: Trading) -> dict[str, tuple[str, str]]:
    """Return the dotted keys in which two sets of rules differ, with both values."""
    differing = {}
    for table in TABLES:
        unused_keys = changes_nothing(getattr(test_rules, table)) & changes_nothing(getattr(desk_rules, table))
        for name in (field.name for field in fields(getattr(desk_rules, table))):
            one, other = (_text(getattr(getattr(rules, table), name)) for rules in (test_rules, desk_rules))
            if one != other and name not in unused_keys:
                differing[f"{table}.{name}"] = one, other
    return differing


def _rules_of_the_tests(manifest: Manifest, trading: Trading) -> str:
    """Compare the rules of a version's tests with the desk's, as a message: by keys, or by digests if unknown."""
    test_rules = _tests_rules(manifest)
    if test_rules is None or not (differing := _differing(test_rules, trading)):
        digest = manifest.rules.get(DIGEST, "none")[:12]
        return f"the rules of its tests (digest {digest}); this desk has others ({rules_digest(trading)[:12]})"
    pairs = differing.items()
    return _names_text(
        [
            f"[{key.partition('.')[0]}] {_line(key, one)} (this desk: {_in_toml(desk_text)})"
            for key, (one, desk_text) in pairs
        ]
    )


def _line(key: str, text: str) -> str:
    """Return a key and its value as a line of TOML."""
    return f"{key.partition('.')[2]} = {_in_toml(text)}"


def _in_toml(text: str) -> str:
    """Return a value as TOML, a number without trailing zeros."""
    if text in {"True", "False"}:
        return text.lower()
    try:
        return format(Decimal(text).normalize(), "f")
    except ArithmeticError:
        return f'"{text}"'


def _names_text(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more or "none"


def promoted_under(manifest: Manifest, trading: Trading, symbols: tuple[str, ...]) -> bool:
    """Return whether a version may trade real money under a desk's rules; a risk claim must hold for them."""
    if manifest.claim is None or manifest.claim.kind != RISK:
        return manifest.promoted
    return manifest.promoted and _proves_a_risk(manifest) and not unkept(manifest, trading, symbols)


def not_promoted_words(manifest: Manifest, trading: Trading, symbols: tuple[str, ...]) -> str:
    """Return why a version may not trade real money under these rules; "" if it may."""
    if promoted_under(manifest, trading, symbols):
        return ""
    if not manifest.promoted:
        return "it is not promoted"
    return f"it is promoted by a stated risk, and {unkept(manifest, trading, symbols) or 'that is not proven'}"


def changes_nothing(table: Any) -> frozenset[str]:
    """Return a table's keys that change nothing: `LATER` keys at their default, and those of an overlay that is off.

    They are left out of digests of models' rules and replays, so that a release with a new key changes neither.
    """
    later = {it.name for it in fields(table) if it.name in LATER and getattr(table, it.name) == it.default}
    off = isinstance(table, Basket) and not table.volatility_target
    return frozenset({*later, *OVERLAY} if off else later)


def _values(table: Any) -> list[tuple[str, str]]:
    """Return the keys and values of a table, without those that change nothing."""
    left_out = changes_nothing(table)
    return [(field.name, _text(getattr(table, field.name))) for field in fields(table) if field.name not in left_out]


def _text(value: Any) -> str:
    if value is UNSET:
        return "0"
    return format(value.normalize(), "f") if isinstance(value, Decimal) else str(value)
