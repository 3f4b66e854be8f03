"""squeezed's direct socket: XML-RPC over HTTP on a Unix socket, one call a connection.

Its clients (xenopsd with ``use-switch = false``) send one POST with a ``content-length`` and read until the
connection closes; the path means nothing.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import web

from xcpmem.api import codec
from xcpmem.api.squeezed_wire import answer_xml
from xcpmem.errors import WireError

if TYPE_CHECKING:
    from xcpmem.api.squeezed import SqueezedCalls

BODY_BYTES_MOST: Final = 300 * 2**10
"""As for XenAPI's own requests."""


def make_squeezed_app(calls: SqueezedCalls) -> web.Application:
    """Make the application that `Server` serves on the socket."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = await _answer(calls, request)
        response.force_close()
        return response

    app = web.Application(client_max_size=BODY_BYTES_MOST)
    app.router.add_route("*", "/{path:.*}", answer)
    return app


async def _answer(calls: SqueezedCalls, request: web.Request) -> web.Response:
    if request.method != "POST":
        return web.Response(status=HTTPStatus.NOT_FOUND)
    try:
        body = await answer_xml(calls, await request.read())
    except WireError as error:
        body = codec.encode_error(["Internal_error", str(error)])
    return web.Response(body=body, content_type="text/xml")
