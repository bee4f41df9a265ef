"""What all tests without privileges share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from memcg import epoll
from unit.helpers import open_fds

if TYPE_CHECKING:
    from collections.abc import Iterator

settings.register_profile("memcg", deadline=None, derandomize=True, database=None)
settings.load_profile("memcg")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """The event loops that memcg can be awaited on."""
    return str(request.param)


@pytest.fixture(autouse=True)
def _leaves_nothing_open() -> Iterator[None]:
    """No test leaves a file descriptor behind."""
    epoll._always_readable()  # which stays open from the first wait on
    before = open_fds()
    yield
    after = open_fds()
    assert after <= before, f"left open: {after - before}"
