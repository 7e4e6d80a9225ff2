"""Options that several commands share: symbols, `--model-config`, recorded quotes, `--precision` and `--device`."""

from __future__ import annotations

import argparse
from argparse import ArgumentTypeError
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon.tapes.bars import digest_of_bars
from daemon.tapes.files import digest_of
from daemon.tapes.span_options import chosen_bars
from daemon.tapes.spans import SpanBars, is_span
from strategies.kit.parameters import given_by, text_of
from strategies.registry import entry, strategy
from training.data.quotes.source import QuoteSource
from training.rl.coefficients import PRECISIONS
from training.runs.settings import Settings, model_config_of, parameters_of

if TYPE_CHECKING:
    from training.desks.kind import TrainingKind


def add_symbols(command: Any) -> None:
    """Add the option to a parser, or to one of its groups."""
    text = "the universe, where the strategy leaves it open (its own)"
    command.add_argument("--symbols", metavar="A,B,...", help=text)


def symbols_of(chosen: argparse.Namespace) -> tuple[str, ...]:
    """Return the symbols that were asked for; () for the strategy's own."""
    return tuple(chosen.symbols.split(",")) if chosen.symbols else ()


def leave_out_own_symbols(chosen: argparse.Namespace, training_kind: TrainingKind) -> None:
    """Drop `--symbols` where the universe is fixed and they are the strategy's own: then they have no effect."""
    if chosen.symbols and "symbols" in training_kind.procedure.lacks():
        own_symbols = sorted(strategy(chosen.strategy).spec.symbols)
        chosen.symbols = None if sorted(symbols_of(chosen)) == own_symbols else chosen.symbols


def with_span(settings: Settings, chosen: argparse.Namespace) -> Settings:
    """Return the settings with the span that the command line names, if it names one, and its feed.

    The span has the symbols of the desk. Raises TapeError, CalendarError, ValueError as `strategy`.
    """
    spec = strategy(settings.strategy, settings.symbols, settings.model_config).spec
    bars = chosen_bars(chosen, settings.bars, spec)
    if bars is None or not is_span(bars):
        return settings
    return replace(settings, bars=bars, feed=SpanBars(bars).feed)


def add_model_config(command: Any) -> None:
    """Add the option to a parser, or to one of its groups."""
    text = "describes state vector and heads, where a file does (desk.model_config of --config, else the shipped one)"
    command.add_argument("--model-config", type=Path, metavar="FILE", help=text)
    values = "of what your strategy declares, such as fast=20,slow=60 (desk.parameters of --config, else defaults)"
    command.add_argument("--parameters", default="", metavar="NAME=VALUE,…", help=values)


def with_parameters(settings: Settings, words: str) -> Settings:
    """Return the settings with these values of declared parameters, by default the desk configuration's.

    Raises:
        ValueError: a name or a value is none of what the strategy declares.
    """
    words_given = [word for word in words.split(",") if word.strip()] or parameters_of(
        settings.strategy, settings.config
    )
    text = text_of(entry(settings.strategy).parameters, given_by(words_given))
    return replace(settings, model_config=text) if text else settings


def with_model_config(settings: Settings, model_config: Path | None) -> Settings:
    """Return the settings with the file that is named, or that their desk's configuration names.

    Requested symbols stay; otherwise they are those of the file.

    Raises:
        ValueError: the file cannot be used, or the strategy has none; the text names key, value and cure.
    """
    path = model_config or model_config_of(settings.strategy, settings.config)
    if path is None:
        return settings
    if entry(settings.strategy).with_config is None:
        raise ValueError(f"{settings.strategy} has no model configuration: leave --model-config out")
    from strategies.online_dqn.state_vector import read_file  # loads TA-Lib, and with it pandas

    config = read_file(path)
    return replace(
        settings,
        model_config=config.text,
        model_config_file=path.name,
        symbols=settings.symbols or config.symbols,
    )


def add_option_quotes(options: argparse.ArgumentParser) -> None:
    """Add the options in a group of their own."""
    group = options.add_argument_group("option quotes (see docs/DATA.md)")
    recorded = "train and test on these recorded quotes in place of Black-Scholes prices"
    group.add_argument("--option-quotes", type=Path, metavar="FILE", help=recorded)
    group.add_argument("--option-root", default="", metavar="ROOT", help="of the contracts (the underlying's)")
    closes = "bars whose closes give the volatility where a minute has no quote (those of --bars)"
    group.add_argument("--closes", type=Path, metavar="FILE", help=closes)
    share = "of the training episodes on Black-Scholes prices, from 0 to below 1 (%(default)s)"
    group.add_argument("--synthetic-share", type=float, default=0.0, metavar="SHARE", help=share)


def quote_source(chosen: argparse.Namespace) -> QuoteSource | None:
    """Return the recorded quotes that were chosen, None for none.

    Raises OSError where a file cannot be read, ValueError for a share out of range, or an option without the quotes.
    """
    if chosen.option_quotes is None:
        names = ("option_root", "closes", "synthetic_share")
        if alone := [f"--{name.replace('_', '-')}" for name in names if getattr(chosen, name)]:
            raise ValueError(f"{alone[0]} is given without --option-quotes: add the file of quotes, or leave it out")
        return None
    share = chosen.synthetic_share
    if not 0.0 <= share < 1.0:
        raise ValueError(f"--synthetic-share is {share:g}; expected 0 or more and below 1")
    closes_sha256 = digest_of_bars(chosen.closes) if chosen.closes is not None else ""
    digest = digest_of(chosen.option_quotes)
    return QuoteSource(chosen.option_quotes, digest, chosen.option_root, chosen.closes, closes_sha256, share)


AUTO = "auto"
_NAMES = (*PRECISIONS, AUTO)


def add_computing(command: Any) -> None:
    """Add the options to a parser, or to one of its groups. The value of `auto` is the precision that it stands for."""
    precision = "of matrix products; auto: the faster one of this CPU (%(default)s)"
    names = "|".join(_NAMES)
    command.add_argument("--precision", type=_precision, default=PRECISIONS[0], metavar=names, help=precision)
    command.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (%(default)s)")


def _precision(text: str) -> str:
    if text not in _NAMES:
        raise ArgumentTypeError(f"{text!r}: expected one of {', '.join(_NAMES)}")
    if text != AUTO:
        return text
    from training.rl.kernels import fast_precision

    return fast_precision()
