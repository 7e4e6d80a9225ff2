"""The toys' lines in the registry, for as long as a test runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from strategies.registry import STRATEGIES


@contextmanager
def registered(**modules: str) -> Iterator[None]:
    """Strategy names -> modules, within the registry."""
    with pytest.MonkeyPatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(STRATEGIES, name, module)
        yield
