"""`rltraderd --check` of a live desk: one line for each check of the trading host, exit code 0 or 2.

Reads only: nothing is written, no order is sent, no stream is opened but for its login. A line is `ok`, `warn` (it
would run) or `FAIL` with the cure.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

from daemon.app.live.feed_choice import FeedUnknown, choose_feed
from daemon.app.live.model_choice import WANTED, waits
from daemon.app.live.prepare import DRY_RUN, Live, prepare_live
from daemon.brokers.api import Broker, alone
from daemon.brokers.registry import broker_of
from daemon.cli.start.capital import capital_finding, entry_finding
from daemon.cli.start.checks import (
    FAIL,
    OK,
    WARN,
    CheckLine,
    account_findings,
    calendar_finding,
    clock_finding,
    feeds_findings,
    ledger_stream_findings,
    metrics_findings,
    operator_findings,
    other_desk_findings,
    protection_findings,
    state_dir_findings,
    trades_shares,
)
from daemon.config.clock import clock_of
from daemon.config.limits_shown import in_force, never_enters, odd_limits
from daemon.config.load import EXIT_CODE, ConfigError, Credentials, DeskSettings
from daemon.config.strategy import describe, strategy_of
from daemon.config.tables import OPTION_FEEDS, STOCK_FEEDS
from daemon.core.strategy_rules import not_promoted_words
from daemon.host.credential import CredentialProblem, credential
from daemon.host.time.calendar import CalendarError
from daemon.host.time.clock import Clock
from daemon.models.runtime import NO_MODEL
from daemon.models.store import ModelError, claim_words, how_to_claim, other_values, proof_words, warnings
from rltrader.install import install_line
from strategies.kit.manifest import RISK
from strategies.registry import configured

UNSIGNED = (
    "it is promoted by its manifest alone, and who can write the store can write that: set policy.public_key "
    "(rltraderctl models keygen)"
)
SUBJECT = "redis"


def redis_findings(settings: DeskSettings) -> list[CheckLine]:
    """Check address, user, password, permissions, eviction and log of `policy.redis`; nothing if it is empty.

    A fault that blocks served answers is a failure; with local answers it is a warning.
    """
    policy = settings.policy
    if not policy.redis:
        return []
    serious = FAIL if policy.answers == "served" else WARN
    try:
        from daemon.experience.examine import CHECKED, DAEMON, examine
        from daemon.experience.link import CREDENTIAL, link_of
    except ImportError as error:
        return [CheckLine(SUBJECT, serious, f"policy.redis = {policy.redis}: {error}: {install_line('online')}")]
    try:
        link = link_of(policy.redis, policy.redis_user, policy.redis_ca_file)
        secret, origin = credential(CREDENTIAL)
    except (CredentialProblem, ValueError) as error:
        return [CheckLine(SUBJECT, serious, f"policy.redis = {policy.redis}: {error}")]
    return [
        CheckLine(
            SUBJECT if check.subject == CHECKED else check.subject,
            OK if check.good else serious if check.subject == CHECKED else WARN,
            f"policy.redis = {policy.redis}: {check.text}" if check.subject == CHECKED else check.text,
        )
        for check in examine(link, secret, origin, settings.desk.name, DAEMON)
    ]


def examine(settings: DeskSettings, keys: Credentials, *, dry_run: bool) -> int:
    """Print all findings; returns 0, or 2 when one failed."""
    findings = asyncio.run(findings_of(settings, keys, dry_run=dry_run))
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        text = finding.text.replace("\n", f"\n{'':<{width + 8}}")
        sys.stdout.write(f"{finding.subject:<{width}}  {finding.verdict:<4}  {text}\n")
    failed_subjects = [finding.subject for finding in findings if finding.verdict == FAIL]
    sys.stdout.write(json.dumps({"check": "failed" if failed_subjects else "ok", "failed": failed_subjects}) + "\n")
    return EXIT_CODE if failed_subjects else 0


async def findings_of(settings: DeskSettings, keys: Credentials, *, dry_run: bool) -> list[CheckLine]:
    """Return all findings, in the order of display."""
    clock, broker = clock_of(settings), broker_of(settings)
    mode = DRY_RUN if dry_run else settings.desk.account
    sends = "orders are filled on paper here, nothing is sent" if dry_run else f"orders go to the {mode} account"
    lines = [CheckLine("configuration", OK, f"desk {settings.desk.name}, mode {mode}: {sends}")]
    lines.append(CheckLine("strategy", OK, describe(strategy_of(settings))))
    settings, feed = await _feed(settings, keys, clock)
    lines += [CheckLine("limits", OK, in_force(settings)), _addresses(settings, broker), *operator_findings(settings)]
    lines += [CheckLine("odd limits", WARN, odd)] if (odd := odd_limits(settings)) else []
    lines += [CheckLine("entries", WARN, never)] if (never := never_enters(settings)) else []
    lines += protection_findings(settings, dry_run=dry_run)
    lines += [*redis_findings(settings), *feed]
    live, model = _model(settings, keys, dry_run=dry_run)
    lines += [model, *_claim(settings, live), calendar_finding(clock), *state_dir_findings(settings, live)]
    lines += metrics_findings(settings)
    lines += other_desk_findings(settings, broker, keys, dry_run=dry_run)
    connection = alone(broker, settings, keys, clock)
    try:
        admin = connection.admin
        shares = trades_shares(settings)
        account, equity = await account_findings(settings, broker, admin, dry_run=dry_run, shares=shares)
        lines += account
        if account[0].verdict != FAIL:
            lines.append(await clock_finding(connection.clock_skew_max_s, admin, clock))
            lines += await ledger_stream_findings(settings, admin, clock)
        if not any(finding.verdict == FAIL for finding in feed):
            feeds, prices = await feeds_findings(settings, admin, clock)
            lines += feeds
            if all(finding.verdict != FAIL for finding in (account[0], feeds[0])):
                symbols, of_account = strategy_of(settings).spec.symbols, "" if dry_run else equity
                finding = capital_finding if shares else entry_finding
                lines.append(finding(settings, symbols, prices, of_account))
    finally:
        await connection.close()
    return lines


async def _feed(settings: DeskSettings, keys: Credentials, clock: Clock) -> tuple[DeskSettings, list[CheckLine]]:
    """Choose the feed if the configuration has `auto`, as a start would."""
    try:
        chosen = await choose_feed(settings, keys, clock)
    except (FeedUnknown, ConfigError) as error:
        return settings.with_feed(STOCK_FEEDS[0], OPTION_FEEDS[0]), [CheckLine("feed", FAIL, str(error))]
    feed = chosen.settings.feed
    text = f'feed.name = "{feed.name}", feed.options = "{feed.options}": {chosen.how}'
    return chosen.settings, [CheckLine("feed", OK, text)] if chosen.how else []


def _addresses(settings: DeskSettings, broker: Broker) -> CheckLine:
    hosts = ", ".join(dict.fromkeys(address.split("/")[2] for address in broker.services(settings)))
    text = f"{hosts}; simulated clock at {settings.clock.rate:g} times real time" if settings.clock.sim_start else hosts
    if hidden := settings.hidden_address:
        return CheckLine("addresses", WARN, f"{text}; {hidden}")
    return CheckLine("addresses", OK, text)


def _claim(settings: DeskSettings, live: Live | None) -> list[CheckLine]:
    """Report the model's risk claim, and whether it holds for this desk; nothing for a model without one."""
    claim = None if live is None else live.model.manifest.claim
    if live is None or claim is None or claim.kind != RISK:
        return []
    desk = live.model.manifest, settings.trading(), configured(live.strategy.spec)
    text = claim_words(*desk)
    if lines := how_to_claim(*desk):
        return [CheckLine("claim", WARN, "\n".join([f"{text}; to claim it, add", *lines]))]
    if not claim.proven:
        return [CheckLine("claim", WARN, f"{text}; it is not proven, and nobody watches it")]
    if text != claim.sentence:
        return [CheckLine("claim", WARN, text)]
    return [CheckLine("claim", OK, f'{text}; if it is broken: drift.claim_broken = "{settings.drift.claim_broken}"')]


def _model(settings: DeskSettings, keys: Credentials, *, dry_run: bool) -> tuple[Live | None, CheckLine]:
    try:
        live = prepare_live(settings, keys, dry_run=dry_run)
    except (ModelError, CalendarError) as error:
        named = settings.paths.models_dir / strategy_of(settings).spec.name / settings.policy.version
        if waits(settings) and not os.path.lexists(named):
            return None, CheckLine("model", WARN, f"none yet; {WANTED}")
        return None, CheckLine("model", FAIL, str(error))
    if live.model.version == NO_MODEL:
        return live, CheckLine("model", WARN, f"it starts halted (no_model), with exits by rules alone: {live.refused}")
    manifest = live.model.manifest
    text = f"{live.model.version} on {live.policy.provider}, hash and golden answers verified"
    problems = []
    if denial := not_promoted_words(manifest, settings.trading(), configured(live.strategy.spec)):
        unproven = proof_words(manifest)
        problems.append(f"{denial}{f' ({unproven})' if unproven else ''}")
    if manifest.training.feed != settings.feed.name:
        problems.append(f"it was trained on feed {manifest.training.feed}, this desk uses {settings.feed.name}")
    values = other_values(manifest, live.strategy.spec)
    if problems:
        real = live.mode == "live"
        cure = ": every entry would be denied; promote a model, or trade on paper" if real else ""
        words = f"{text}; {' and '.join(problems)}{cure}{f'; {values}' if values else ''}"
        return live, CheckLine("model", FAIL if real else WARN, words)
    told = list(warnings(manifest, live.strategy.spec, settings.trading())[:1])
    if live.refused:
        told.append(f"it answered last and would go on, because {live.refused}")
    if live.mode == "live" and not settings.policy.public_key:
        told.append(UNSIGNED)
    if told:
        return live, CheckLine("model", WARN, "; ".join([text, *told]))
    return live, CheckLine("model", OK, text)
