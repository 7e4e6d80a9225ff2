"""Without torch the command says what to do, instead of showing where it broke."""

from __future__ import annotations

import subprocess
import sys

WITHOUT_TORCH = """
import sys
import training.__main__ as door

door.find_spec = lambda name: None if name == "torch" else name
sys.exit(door.main())
"""


def test_without_torch_the_command_names_what_is_missing_and_the_cure() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "train-and-export: torch is not installed; training needs more than the daemon: run `make training` in a "
        "checkout, or pip install -c constraints.txt -e '.[cpu,training]' (Python 3.11); a strategy that is a rule "
        "(new-strategy --template plain) needs none of it\n"
    )
