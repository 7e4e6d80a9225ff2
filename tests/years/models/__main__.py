"""`python -m tests.years.models`: make the committed store and model configuration anew."""

from __future__ import annotations

import shutil
import sys

from tests.years.models import FIVE_MINUTES, STORE
from tests.years.models.policies import make

if __name__ == "__main__":
    shutil.rmtree(STORE, ignore_errors=True)
    make(STORE, FIVE_MINUTES)
    sys.stdout.write(f"{STORE}\n")
