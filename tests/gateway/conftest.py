"""Each test has a virtual time of its own, but for those marked `host_time`."""

from tests.support.simulator.lone_loop import pytest_asyncio_loop_factories

__all__ = ["pytest_asyncio_loop_factories"]
