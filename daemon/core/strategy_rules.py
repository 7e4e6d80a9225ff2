"""Trading rules of a strategy: its defaults, and the digest by which a desk knows those that a model was trained by."""

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

DIGEST = "digest"  # the name among a manifest's rules
TABLES = ("sizing", "contracts", "execution", "risk", "basket", "paper")
"""Of `Trading`: sizes, contracts, orders, gates, baskets, costs; not those of broker, exploration and serving."""


NAMED = 5  # keys and symbols that a text names
LATER = frozenset(
    {
        *("equity_per_unit", "fractions", "order_step", "min_order_usd"),
        *("share_fees_below_usd", "share_taf_usd", "share_cat_usd"),
        *("trailing_stop", "time_stop_min"),
    }
)
"""Keys that came after models had digests: at its default one stays out, so no older model is told of other rules."""


def trading_for(strategy: str) -> Trading:
    """Return the default trading rules of a strategy. `ValueError` for an unknown name."""
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
        usual = getattr(table_rules, name)
        kind = json.loads if usual is UNSET else type(usual)
        value = text == "True" if isinstance(usual, bool) else kind(text)
        changes: dict[str, Any] = {table: replace(table_rules, **{name: value})}
        trading = replace(trading, **changes)
    return trading


def desk_keys(strategy: str, trading: Trading) -> dict[str, str]:
    """The keys, dotted, in which rules differ from the strategy's defaults, and their values: a manifest's `desk`."""
    return {key: desk_text for key, (_, desk_text) in _differing(trading_for(strategy), trading).items()}


def other_rules(manifest: Manifest, trading: Trading) -> str:
    """How a desk's rules differ from those a model was trained by, in words; "" where they do not or none are known."""
    if not manifest.rules.get(DIGEST) or _tested_by(manifest, trading):
        return ""
    return (
        f"it was trained by other sizes, limits, gates or costs: {_rules_of_the_tests(manifest, trading)}: train with "
        "this desk's configuration, --config, or expect other results than its report's"
    )


def unkept(manifest: Manifest, trading: Trading, symbols: tuple[str, ...]) -> str:
    """Why a desk of these rules and symbols makes no claim of risk, though the version proves one; "" otherwise.

    A claim is of the policy and the rules of its tests together, the risk overlay among them, and of its symbols, where
    a configuration names some; without a digest nothing is known. Nothing else decides whether a claim holds.
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
    """The lines, in TOML, by which a desk's rules become those of the version's tests; () where they are not known."""
    test_rules = _tests_rules(manifest)
    tables: dict[str, list[str]] = {}
    for key, (test_text, _) in ({} if test_rules is None else _differing(test_rules, trading)).items():
        tables.setdefault(f"[{key.partition('.')[0]}]", []).append(_line(key, test_text))
    return tuple(line for table, lines in tables.items() for line in (table, *lines))


def _proves_a_risk(manifest: Manifest) -> bool:
    return manifest.claim is not None and manifest.claim.kind == RISK and manifest.claim.proven


def _tested_by(manifest: Manifest, trading: Trading) -> bool:
    """Whether these are the rules of the version's tests."""
    return manifest.rules.get(DIGEST) == rules_digest(trading)


def _tests_rules(manifest: Manifest) -> Trading | None:
    """The rules of a version's tests; None where its manifest does not have them, or defaults changed since."""
    with contextlib.suppress(ValueError, AttributeError, ArithmeticError):  # a strategy or key that this release lacks
        test_rules = with_rules(trading_for(manifest.strategy), manifest.desk)
        return test_rules if _tested_by(manifest, test_rules) else None
    return None


def _differing(test_rules: Trading, desk_rules: Trading) -> dict[str, tuple[str, str]]:
    """The keys, dotted, in which two rules differ, with the value of each."""
    differing = {}
    for table in TABLES:
        unused_keys = changes_nothing(getattr(test_rules, table)) & changes_nothing(getattr(desk_rules, table))
        for name in (field.name for field in fields(getattr(desk_rules, table))):
            one, other = (_text(getattr(getattr(rules, table), name)) for rules in (test_rules, desk_rules))
            if one != other and name not in unused_keys:
                differing[f"{table}.{name}"] = one, other
    return differing


def _rules_of_the_tests(manifest: Manifest, trading: Trading) -> str:
    """The rules of a version's tests beside the desk's, in words: by their keys, or by digests where none is known."""
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
    """A key and its value as a line of TOML."""
    return f"{key.partition('.')[2]} = {_in_toml(text)}"


def _in_toml(text: str) -> str:
    """A value as TOML has it, a number without zeros that say nothing."""
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
    """Whether a version may trade real money under a desk's rules: one that claims a risk where its claim holds."""
    if manifest.claim is None or manifest.claim.kind != RISK:
        return manifest.promoted
    return manifest.promoted and _proves_a_risk(manifest) and not unkept(manifest, trading, symbols)


def not_promoted_words(manifest: Manifest, trading: Trading, symbols: tuple[str, ...]) -> str:
    """Return in words why it may not trade real money under these rules; "" where it may."""
    if promoted_under(manifest, trading, symbols):
        return ""
    if not manifest.promoted:
        return "it is not promoted"
    return f"it is promoted by a stated risk, and {unkept(manifest, trading, symbols) or 'that is not proven'}"


def changes_nothing(table: Any) -> frozenset[str]:
    """Return a table's keys that change nothing: `LATER` ones at their default, and of an overlay that is off.

    They stay out of what names models' rules and replays, so that neither changes with a release that brings a key.
    """
    later = {it.name for it in fields(table) if it.name in LATER and getattr(table, it.name) == it.default}
    off = isinstance(table, Basket) and not table.volatility_target
    return frozenset({*later, *OVERLAY} if off else later)


def _values(table: Any) -> list[tuple[str, str]]:
    """The keys and values of a table, but those that change nothing."""
    left_out = changes_nothing(table)
    return [(field.name, _text(getattr(table, field.name))) for field in fields(table) if field.name not in left_out]


def _text(value: Any) -> str:
    if value is UNSET:
        return "0"
    return format(value.normalize(), "f") if isinstance(value, Decimal) else str(value)
