"""The option `--model-config`: the file that describes state vector and heads of what is trained.

Training reads it as the daemon does, once; its canonical text is part of the settings of a run.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from strategies.online_dqn.state_vector import read_file
from training.desks.registry import kind
from training.runs.desk_rules import model_config_of
from training.runs.settings import Settings


def add_model_config(command: Any) -> None:
    """Add the option to a parser, or to one of its groups."""
    text = "describes state vector and heads, where a file does (desk.model_config of --config, else the shipped one)"
    command.add_argument("--model-config", type=Path, metavar="FILE", help=text)


def with_model_config(settings: Settings, given: Path | None) -> Settings:
    """Return the settings with the file that is named, or that their desk's configuration names.

    Symbols that were asked for stay; else they are those of the file.

    Raises:
        ValueError: the file cannot be used, or the strategy has none; the text names key, value and cure.
    """
    path = given or model_config_of(settings.strategy, settings.config)
    if path is None:
        return settings
    if kind(settings.strategy).with_config is None:
        raise ValueError(f"{settings.strategy} has no model configuration: leave --model-config out")
    config = read_file(path)
    return replace(
        settings,
        model_config=config.text,
        model_config_file=path.name,
        symbols=settings.symbols or config.symbols,
    )
