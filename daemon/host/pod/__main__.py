"""`rltrader-pod [options] -- rltraderd …`: run a program in a container as its systemd unit runs it on a host.

It restarts the program, kills it when its watchdog is not fed, stops it cleanly, and with `--lease` runs it only while
a Kubernetes Lease is held. Exit codes: 0 stopped, 2 the operator erred.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from daemon.host.pod.keeper import MARGIN_S, OPERATOR_ERRED, Supervisor, Times, boot_time, handle_signals
from daemon.host.pod.lease import ApiError, ApiServer, Tenure
from daemon.host.version import CommandLine, add_version
from rltrader import called

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    times = Times()
    line = CommandLine(prog=called("rltrader-pod"), description="Run a program in a container as systemd does.")
    add_version(line)
    line.add_argument("--run-dir", type=Path, default=Path("/run/rltrader"), help="of socket and probes (%(default)s)")
    line.add_argument("--lease", metavar="NAME", default="", help="run only while this Lease of the namespace is held")
    line.add_argument("--lease-s", type=int, default=600, help="seconds that a Lease lasts unrenewed (%(default)s)")
    line.add_argument("--holder", default=os.environ.get("POD_UID", ""), help="this holder's name ($POD_UID)")
    line.add_argument("--account", type=Path, default=ACCOUNT, help="folder of the service account (%(default)s)")
    quiet = "seconds without progress after which the program is killed (%(default)g)"
    line.add_argument("--watchdog-s", type=float, default=times.watchdog_s, help=quiet)
    stop = "seconds that a clean stop may take (%(default)g)"
    line.add_argument("--stop-s", type=float, default=times.stop_s, help=stop)
    line.add_argument("command", nargs="+", metavar="-- PROGRAM", help="the program and its arguments")
    return line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `rltrader-pod`; returns the exit code."""
    options = parser().parse_args(arguments)
    times = Times(watchdog_s=options.watchdog_s, stop_s=options.stop_s)
    try:
        tenure = _tenure(options, times)
        keeper = Supervisor(options.command, options.run_dir, times, tenure)
    except (ApiError, OSError, ValueError) as error:
        sys.stderr.write(f"rltrader-pod: {error}\n")
        return OPERATOR_ERRED
    handle_signals(keeper)
    return keeper.run()


def _tenure(options: argparse.Namespace, times: Times) -> Tenure | None:
    """The Lease to hold, None without one. Raises ValueError, ApiError."""
    if not options.lease:
        return None
    if not options.holder:
        raise ValueError("--lease needs a name of this holder: set POD_UID from metadata.uid, or --holder")
    least = times.stop_s + MARGIN_S + 6 * times.renew_s
    if options.lease_s < least:
        raise ValueError(f"--lease-s is {options.lease_s}: expected {least:g} or more: a stop and six renewals")
    return Tenure(
        ApiServer.of_pod(os.environ, options.account, options.lease), options.holder, options.lease_s, boot_time
    )


if __name__ == "__main__":
    sys.exit(main())
