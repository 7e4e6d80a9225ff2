"""The client of served answers of a live desk, from its configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon.app.live.prepare import Live
from daemon.app.opening import OpenDesk
from daemon.brokers.api import LogEvent, Put
from daemon.config.load import ConfigError
from daemon.host.credential import CredentialProblem

if TYPE_CHECKING:
    from daemon.models.served import ServedAnswers


def served_answers(live: Live, opened: OpenDesk, put: Put, log: LogEvent) -> ServedAnswers | None:
    """Return the client where `policy.answers` is "served", else None. Raises ConfigError."""
    policy, meta, models = live.settings.policy, opened.state_dir.meta, opened.models
    if policy.answers != "served":
        return None
    try:
        from daemon.experience.link import link_of, password
        from daemon.models.served import ServedAnswers
    except ImportError as error:
        raise ConfigError(f'policy.answers is "served", {error}: install the extra online') from error
    try:
        link, secret = link_of(policy.redis, policy.redis_user, policy.redis_ca_file), password()
    except (CredentialProblem, ValueError) as error:
        raise ConfigError(f"policy.redis: {error}") from error
    return ServedAnswers(
        link,
        secret,
        (meta["desk"], meta["epoch"]),
        live.strategy.spec,
        lambda: models.running.version,
        put,
        live.clock.now_ns,
        log,
        deadline_s=policy.served_deadline_ms / 1000,
    )
