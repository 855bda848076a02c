"""One server for all tests of interruption."""

from collections.abc import Iterator

import pytest
from interruption.commands import Server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    started = Server()
    yield started
    started.close()
