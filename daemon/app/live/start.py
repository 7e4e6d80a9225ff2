"""Open a checked live desk: lock its account and its folder, recover it. An outage of the broker does not stop it."""

from __future__ import annotations

import contextlib
import os
import secrets

from daemon.app.live.prepare import Live
from daemon.app.opening import OpenDesk, open_desk
from daemon.engine.state_dir import wait_until_free
from daemon.host.account_lock import AccountLock, Holder, lock_folder
from daemon.operator.log import Log


def open_live(live: Live, log: Log) -> tuple[AccountLock, OpenDesk]:
    """Lock account and directory, recover the desk. Raises as `account_lock` and `open_desk` do."""
    account = account_lock(live)
    try:
        rotate_mib = live.settings.journal.rotate_mib
        return account, open_desk(live, live.meta(), secrets.token_hex(5), log, rotate_mib=rotate_mib)
    except BaseException:
        account.close()
        raise


def account_lock(live: Live) -> AccountLock:
    """Lock the desk's account by its key, unless it sends nothing. Raises StateDirError."""
    settings = live.settings
    holder = Holder(settings.desk.name, str(settings.paths.state_dir.absolute()), os.getpid())
    lock = AccountLock(lock_folder(), holder, live.broker.service(settings))
    with contextlib.suppress(OSError):  # the directory's own refusal has more details, here and where it is locked
        wait_until_free(settings.paths.state_dir)
    if not live.dry_run:
        lock.claim_key(live.credentials.key)
    return lock
