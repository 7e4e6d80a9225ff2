"""The errors of files and arguments that training raises; each text names the value found and the cure."""

from __future__ import annotations

from daemon.host.time.calendar import CalendarError
from daemon.tapes.files import TapeError
from training.desks.trial import Diverged
from training.export.export import ExportError
from training.export.import_sb3 import ImportSb3Error
from training.runs.folder import RunFolderError
from training.runs.ledger import LedgerError
from training.study.folds import HistoryError

ERRORS = (
    TapeError, CalendarError, HistoryError, RunFolderError, ExportError, LedgerError, ImportSb3Error, Diverged,
    OSError, ValueError, RuntimeError, MemoryError, OverflowError,
)  # fmt: skip
