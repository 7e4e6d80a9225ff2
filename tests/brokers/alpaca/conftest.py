"""Virtual time for every asynchronous test of this folder; `host_time` keeps one at the machine's own."""

from tests.support.simulator.lone_loop import pytest_asyncio_loop_factories

__all__ = ["pytest_asyncio_loop_factories"]
