"""`python -m rltrader COMMAND …`: the command `rltrader`, also where its file is not on the path."""

from __future__ import annotations

import sys

from rltrader import main

if __name__ == "__main__":
    sys.argv[0] = "rltrader"
    sys.exit(main())
