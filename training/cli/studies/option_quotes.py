"""The options of recorded option quotes, for every command that trains."""

from __future__ import annotations

import argparse
from pathlib import Path

from daemon.tapes.files import digest_of
from training.desks.kind import QuoteSource


def add_option_quotes(found: argparse.ArgumentParser) -> None:
    """Add the options in a group of their own."""
    group = found.add_argument_group("option quotes (see docs/DATA.md)")
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
        given = ("option_root", "closes", "synthetic_share")
        if alone := [f"--{name.replace('_', '-')}" for name in given if getattr(chosen, name)]:
            raise ValueError(f"{alone[0]} is given without --option-quotes: add the file of quotes, or leave it out")
        return None
    share = chosen.synthetic_share
    if not 0.0 <= share < 1.0:
        raise ValueError(f"--synthetic-share is {share:g}; expected 0 or more and below 1")
    closes_sha256 = digest_of(chosen.closes) if chosen.closes is not None else ""
    digest = digest_of(chosen.option_quotes)
    return QuoteSource(chosen.option_quotes, digest, chosen.option_root, chosen.closes, closes_sha256, share)
