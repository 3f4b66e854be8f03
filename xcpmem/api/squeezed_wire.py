"""squeezed's two wires: JSON-RPC version 1 for the message switch, XML-RPC for the direct socket.

Both are rpc-light's (mirage/ocaml-rpc): a variant without payload is a bare string, one with a payload a
list of the two, a tuple a list. Answers on JSON always have both ``result`` and ``error`` and the id 0, as
squeezed's have: the switch relates them, clients ignore the id.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from xcpmem.api import codec, jsonrpc
from xcpmem.api.squeezed import Answer
from xcpmem.api.values import NIL
from xcpmem.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xcpmem.api.squeezed import SqueezedCalls


async def answer_json(calls: SqueezedCalls, body: bytes, *, name: str = "") -> bytes:
    """Answer a JSON-RPC request.

    Args:
        calls: carries it out.
        body: any bytes; what is no request is answered with an error as well.
        name: as for `SqueezedCalls.call`.
    """
    try:
        method, params = _decode_json(body)
    except WireError as error:
        return encode_json(Answer(error=["Internal_error", str(error)]))
    return encode_json(await calls.call(method, params, name=name))


def method_of_json(body: bytes) -> str:
    """Tell which method a JSON-RPC request is for; empty for what is no request."""
    try:
        return _decode_json(body)[0]
    except WireError:
        return ""


async def answer_xml(calls: SqueezedCalls, body: bytes) -> bytes:
    """Answer an XML-RPC request.

    Args:
        calls: carries it out.
        body: of the request.

    Raises:
        WireError: it is none.
    """
    call = codec.decode_call(body)
    answer = await calls.call(call.method, call.params)
    if answer.error is not None:
        return codec.encode_error(answer.error)
    return codec.encode_success(NIL if answer.value is None else answer.value)


def _decode_json(body: bytes) -> tuple[str, Sequence[object]]:
    request = jsonrpc.decode_request(body)
    return request.method, request.params


def encode_json(answer: Answer) -> bytes:
    """Write an answer on JSON."""
    envelope = {"result": answer.value, "error": answer.error, "id": 0}
    return json.dumps(envelope, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
