"""The settings: config.toml, then RLTRADER_SECTION__KEY from the environment, then the command line; later ones win.

Every problem is a `ConfigError` that names key, value, source, expectation and cure; unknown keys are errors. Secrets
come from the environment or systemd's credentials only and are never shown, not even in an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from daemon.config.checks import ADDRESSES, contradictions, sim_start_ns, values
from daemon.config.sources import (
    COMMAND_LINE,
    KEYS,
    OPERATOR_SECRETS,
    ConfigError,
    Merged,
    error_parts,
    refusal,
)
from daemon.config.tables import DeskSettings
from daemon.host.credential import CredentialProblem, credential
from daemon.host.state_place import CONFIG as DEFAULT_CONFIG
from strategies.registry import names

__all__ = (
    "ADDRESSES",
    "DEFAULT_CONFIG",
    "EXIT_CODE",
    "KEYS",
    "NO_STRATEGY",
    "ConfigError",
    "Credentials",
    "DeskSettings",
    "OperatorSecrets",
    "credentials",
    "defaults",
    "load",
    "no_keys",
    "operator_secrets",
    "sim_start_ns",
)

EXIT_CODE = 2
NO_STRATEGY = {"desk.strategy": names()[0], "desk.symbols": (), "desk.model_config": "", "desk.parameters": ()}
"""Overrides for a program that needs no strategy, as the file of one's own strategy may be missing."""
_KEY = re.compile(r"[!-~]+")  # characters allowed in a header: no line break or blank


class Credentials(BaseSettings):
    """Alpaca's keys, from APCA_API_KEY_ID and APCA_API_SECRET_KEY; None where unset or empty. Never printed."""

    model_config = SettingsConfigDict(env_prefix="APCA_", frozen=True, hide_input_in_errors=True)

    api_key_id: SecretStr | None = None
    api_secret_key: SecretStr | None = None

    @property
    def complete(self) -> bool:
        """True if both keys are set."""
        return not self.missing

    @property
    def missing(self) -> tuple[str, ...]:
        """Return the names of the keys that are not set."""
        return tuple(name for name, key in zip(KEYS, (self.key, self.secret), strict=True) if not key)

    @property
    def key(self) -> str:
        """Return the key id in plain text, "" where unset."""
        return self.api_key_id.get_secret_value() if self.api_key_id is not None else ""

    @property
    def secret(self) -> str:
        """Return the secret key in plain text, "" where unset."""
        return self.api_secret_key.get_secret_value() if self.api_secret_key is not None else ""


def no_keys(keys: Credentials) -> str:
    """Return the names of the missing keys, and the cure."""
    names, cure = " and ".join(keys.missing), "in the environment, or CREDENTIALS_DIRECTORY to the folder with"
    if len(keys.missing) == len(KEYS):
        return f"no broker keys: set {names} {cure} files of these names"
    return f"{names} is missing, the other broker key is there: set it {cure} a file of that name"


def credentials() -> Credentials:
    """Read the keys from systemd's credentials (files in $CREDENTIALS_DIRECTORY), else from the environment.

    Raises ConfigError for a credential that cannot be read or cannot be a key, without its content.
    """
    secrets: dict[str, SecretStr] = {}
    for name in KEYS:
        text, origin = _credential(name)
        if text and not _KEY.fullmatch(text):
            raise ConfigError(f"{origin}: this is no key: expected letters and digits alone: copy the key again")
        secrets[name.removeprefix("APCA_").lower()] = SecretStr(text)
    return Credentials(**secrets)


class OperatorSecrets(NamedTuple):
    """The MQTT broker's password, the keys that sign commands, the guard's; None where unset. Never printed."""

    mqtt_password: SecretStr | None
    mqtt_command_keys: SecretStr | None
    guard_key: SecretStr | None


def operator_secrets() -> OperatorSecrets:
    """Read the secrets from systemd's credentials, or the environment. Raises ConfigError, without their content."""
    secrets = [_credential(name)[0] for name in OPERATOR_SECRETS]
    return OperatorSecrets(*(SecretStr(text) if text else None for text in secrets))


def _credential(name: str) -> tuple[str, str]:
    try:
        return credential(name)
    except CredentialProblem as error:
        raise ConfigError(str(error)) from None


def defaults() -> dict[str, dict[str, object]]:
    """Return every key with its default, by section: what config.toml must show."""
    settings = DeskSettings()
    return {section: values(getattr(settings, section)) for section in DeskSettings.model_fields}


def load(
    config_file: Path | None,
    overrides: Mapping[str, object],
    environment: Mapping[str, str] | None = None,
    *,
    only: Collection[str] | None = None,
) -> DeskSettings:
    """Load the settings from `config_file` (None: defaults), the environment and `overrides`, in rising precedence.

    `environment` takes the place of the process's. With `only`, every source counts for these tables alone.

    The strategy's own defaults rank below the file. The file's tables for that strategy (`[daily_rebalancer.risk]`)
    rank with its other tables: a key in both with two values is an error. `overrides` maps dotted keys
    (`paths.state_dir`) to command line values; None means not given. Raises ConfigError with one line for each problem
    found.
    """
    sources = Merged(defaults(), only)
    if config_file is not None:
        sources.add_file(config_file)
    sources.add_environment(os.environ if environment is None else environment)
    for key, value in overrides.items():
        if value is not None:
            sources.put(key, value, "the command line", COMMAND_LINE)
    sources.name_strategy()
    sources.add_strategy()
    sources.add_calibration()
    if sources.problems:
        raise refusal(sources.problems)
    try:
        settings = DeskSettings.model_validate(sources.tables)
    except ValidationError as error:
        raise refusal(sources.problem(*parts) for parts in error_parts(error)) from None
    problems = [sources.problem(key, value, expected) for key, value, expected in contradictions(settings, only)]
    if problems:
        raise refusal(problems)
    return settings.came_from(sources.origins, sources.hidden)
