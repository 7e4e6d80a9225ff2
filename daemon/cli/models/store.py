"""The model store of a command, and the rules that its models must meet."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from daemon.config.load import DEFAULT_CONFIG, DeskSettings, load
from daemon.config.strategy import strategy_of
from daemon.models.runtime import OnnxPolicy
from daemon.models.store import LoadedModel, check_rules
from daemon.models.store import load as load_model
from daemon.models.trial import try_model
from strategies.kit.contract import AnyStrategy
from strategies.registry import add, configured


class NotPossible(ValueError):
    """The request is impossible; the text names the cure."""


@dataclass(frozen=True, slots=True)
class ModelStore:
    """Models of one strategy, and the rules that they must meet."""

    settings: DeskSettings
    models_dir: Path
    strategy: AnyStrategy

    @property
    def shelf(self) -> Path:
        return self.models_dir / self.strategy.spec.name

    def load(self, version: str) -> LoadedModel:
        """Load a version as the daemon does, with signature and rules. Raises ModelError."""
        model = load_model(self.models_dir, self.strategy, version, self.settings.policy.public_key)
        check_rules(model, self.strategy, self.settings.trading())
        return model

    def proved(self, version: str) -> LoadedModel:
        """Load a version and run all of the daemon's checks before an activation. Raises ModelError."""
        model = self.load(version)
        try_model(model, symbols=configured(self.strategy.spec), config=self.strategy.spec.config)
        OnnxPolicy.open(model, self.strategy, "cpu", 1)
        return model


def store_of(options: argparse.Namespace) -> ModelStore:
    """Return the store that the options name. Raises NotPossible, ConfigError."""
    config = options.config or (DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else None)
    overrides = {"desk.strategy": options.strategy} if options.strategy else {}
    if options.strategy:
        try:
            overrides = {"desk.strategy": add(options.strategy)}
        except ValueError as error:
            raise NotPossible(f"--strategy: {error}") from error
    settings = load(config, overrides)
    strategy = strategy_of(settings)
    return ModelStore(settings, options.models_dir or settings.paths.models_dir, strategy)
