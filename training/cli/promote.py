"""`train-and-export promote`: let a version of the store trade real money, if its report passes every criterion."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from daemon.host.version import CommandLine
from rltrader import called
from strategies.kit.manifest import LEAD, MANIFEST_FILE, RISK
from training.cli.main import COMMANDS, DONE, NOT_PROMOTED, wrong
from training.runs.promotion import PromotionError, promote

EXAMPLE = "onnx_models/option_scalper/2024-12-31-0badcafe"


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code: 0, 1 not promoted, 2 no version of the store."""
    options = CommandLine(prog=f"{called('train-and-export')} promote", description=COMMANDS["promote"])
    options.add_argument("version", type=Path, metavar="FOLDER", help=f"of the version, such as {EXAMPLE}")
    options.add_argument(
        "--recorded",
        type=Path,
        metavar="FILE",
        help="of a policy that trades options: the JSON that `rltraderd --dry-run --option-quotes` printed",
    )
    kind = "judge the claim of a lead or of a risk (the one that the version makes)"
    options.add_argument("--claim", choices=(LEAD, RISK), default="", help=kind)
    chosen = options.parse_args(arguments)
    return promoted(chosen.version, chosen.recorded, chosen.claim)


def promoted(version: Path, recorded: Path | None = None, claim: str = "") -> int:
    """Promote this version; returns the exit code."""
    if not (version / MANIFEST_FILE).is_file():
        return wrong(ValueError(f"{version} is no version of the store: give its folder, such as {EXAMPLE}"))
    try:
        judgement = promote(version, recorded, claim)
    except (OSError, ValueError) as error:
        return wrong(error)
    except PromotionError as error:
        sys.stderr.write(f"{error}\n")
        return NOT_PROMOTED
    words = f"it passes all {len(judgement.criteria)} criteria of a {judgement.claim}"
    sys.stderr.write(f"{judgement.version} is promoted: {words}\n")
    return DONE
