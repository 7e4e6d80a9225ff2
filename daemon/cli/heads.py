"""`rltraderctl heads`: sign the newest head of a journal's chain with a key that the journal's writer lacks.

`newest` opens the journal and has no key; `sign` has the key and opens no journal. So the key is never in a process
that reads data of the desk's user.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from daemon.cli.arguments import NotFound, add_state_dir, lead_on
from daemon.host.ed25519 import KeyProblem
from daemon.journal.journal import FILE
from daemon.journal.published import heads_in, sign_head
from daemon.journal.reader import reading
from daemon.reports.end_of_day import newest_head

HEAD_BYTES_MAX = 4096


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the commands of `heads`."""
    command.set_defaults(run=run)
    words = command.add_subparsers(dest="word", required=True, metavar="COMMAND")
    text = "print ROW:HEAD of the newest row; reads only"
    add_state_dir(words.add_parser("newest", help=text, description=text))
    text = "sign the ROW:HEAD on standard input (Ed25519) and append it to a file of this user"
    sign = words.add_parser("sign", help=text, description=text)
    sign.add_argument("--key", type=Path, required=True, metavar="FILE", help="the private key (models keygen)")
    sign.add_argument("--to", type=Path, required=True, metavar="FILE", help="the file of signed heads")


def run(options: argparse.Namespace, console: Console) -> int:
    """Print or sign a head; returns 0. Raises JournalError, NotFound."""
    if options.word == "newest":
        with reading(options.state_dir / FILE):
            row, head = newest_head(options.state_dir / FILE)
        console.print(f"{row}:{head}")
        lead_on(options, "heads", "sign", "--key", "FILE", "--to", "FILE", about=())
        return 0
    heads = heads_in(sys.stdin.read(HEAD_BYTES_MAX))
    if len(heads) != 1:
        raise NotFound(f"{len(heads)} heads on standard input: expected one ROW:HEAD, as `heads newest` prints it")
    try:
        public_key = sign_head(*heads[0], options.key, options.to)
    except KeyProblem as error:
        raise NotFound(str(error)) from error
    except OSError as error:
        raise NotFound(f"{options.to}: the signed head cannot be written: {error.strerror}") from error
    lead_on(options, "verify", "--against", str(options.to), about=())
    console.print(f"signed row {heads[0][0]} by {public_key}")
    return 0
