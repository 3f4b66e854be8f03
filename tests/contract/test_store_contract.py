"""The laws of xenstore, through pyxs, on the double; and through a proxy that has no fault to play."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.contract.store_laws import LAWS
from tests.faultproxy import StoreProxy
from xcpmem.xen.simstore import StoreServer
from xcpmem.xen.storetree import Store
from xcpmem.xen.xenstore import Xenstore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path


@pytest.fixture(params=[False, True], ids=["direct", "proxied"])
async def store(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Xenstore]:
    server, proxy = StoreServer(Store()), StoreProxy(str(tmp_path / "s"))
    await server.start(proxy.upstream)
    await proxy.start(str(tmp_path / "p"))
    xenstore = Xenstore(proxy.path if request.param else proxy.upstream)
    await xenstore.connect()
    yield xenstore
    assert xenstore.reconnects == 0
    await xenstore.close()
    await proxy.close()
    await server.close()


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
async def test_law_holds_on_the_double(
    law: Callable[[Xenstore, str], Awaitable[None]], store: Xenstore
) -> None:
    await law(store, "/xcpmem/scratch")
