"""The check of `rltraderd --check` at Redis, where the configuration names one: it is tried as the daemon would."""

from __future__ import annotations

from daemon.cli.start.finding import FAIL, OK, WARN, Finding
from daemon.config.load import Settings
from daemon.host.credential import CredentialProblem, credential

SUBJECT = "redis"


def redis_findings(settings: Settings) -> list[Finding]:
    """Address, user, password, permissions, eviction and log of `policy.redis`; nothing where it is empty.

    What keeps served answers away is a failure; with local answers it is a warning.
    """
    policy = settings.policy
    if not policy.redis:
        return []
    serious = FAIL if policy.answers == "served" else WARN
    try:
        from daemon.experience.examine import CHECKED, DAEMON, examine
        from daemon.experience.link import CREDENTIAL, link_of
    except ImportError as error:
        return [Finding(SUBJECT, serious, f"policy.redis = {policy.redis}: {error}: install the extra online")]
    try:
        link = link_of(policy.redis, policy.redis_user, policy.redis_ca_file)
        secret, origin = credential(CREDENTIAL)
    except (CredentialProblem, ValueError) as error:
        return [Finding(SUBJECT, serious, f"policy.redis = {policy.redis}: {error}")]
    return [
        Finding(
            SUBJECT if found.subject == CHECKED else found.subject,
            OK if found.good else serious if found.subject == CHECKED else WARN,
            f"policy.redis = {policy.redis}: {found.text}" if found.subject == CHECKED else found.text,
        )
        for found in examine(link, secret, origin, settings.desk.name, DAEMON)
    ]
