"""The laws of xenstore, through pyxs, on the double."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.contract.store_laws import LAWS
from xcpmem.xen.simstore import StoreServer
from xcpmem.xen.storetree import Store
from xcpmem.xen.xenstore import Xenstore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Xenstore]:
    server = StoreServer(Store())
    await server.start(str(tmp_path / "s"))
    xenstore = Xenstore(str(tmp_path / "s"))
    await xenstore.connect()
    yield xenstore
    assert xenstore.reconnects == 0
    await xenstore.close()
    await server.close()


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
async def test_law_holds_on_the_double(
    law: Callable[[Xenstore, str], Awaitable[None]], store: Xenstore
) -> None:
    await law(store, "/xcpmem/scratch")
