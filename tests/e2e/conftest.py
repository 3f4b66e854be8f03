"""What every end-to-end test may ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.clients import XenApi, Xenstore, logged_in, xenstore
from tests.e2e.programs import Daemon, Workshop, workshop

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def shop() -> Iterator[Workshop]:
    """A folder and processes of the test's own."""
    with workshop() as opened:
        yield opened


@pytest.fixture(scope="session")
def shared_shop() -> Iterator[Workshop]:
    """A folder and processes that all tests share."""
    with workshop() as opened:
        yield opened


@pytest.fixture(scope="session")
def quiet(shared_shop: Workshop) -> Daemon:
    """A daemon on the quiet host; whoever changes something puts it back."""
    return shared_shop.daemon()


@pytest.fixture
def api(quiet: Daemon) -> Iterator[XenApi]:
    with logged_in(quiet) as opened:
        yield opened


@pytest.fixture
def store(quiet: Daemon) -> Iterator[Xenstore]:
    with xenstore(quiet.store) as opened:
        yield opened
