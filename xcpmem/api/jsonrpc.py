"""JSON-RPC 1.0 and 2.0: bytes to plain values and back, the second envelope around the same calls.

Each request chooses its version: without ``jsonrpc`` it is 1.0 (the C# SDK, PowerShell and XenCenter start
so), with ``"2.0"`` it is 2.0; clients are strict about which members an answer of either has. Integers are
numbers here, where XML-RPC has strings.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, Any, Final

from xcpmem.api.values import I4, MAX_DEPTH, Record, Value, Wire, format_datetime, keeping_short
from xcpmem.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Callable

_ERROR_CODE: Final = 1  # xapi's only one; older clients take 0 for success


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Args:
        method: as it was spelled.
        params: of any type.
        id: to be echoed.
        is_version_2: 2.0, else 1.0.
    """

    method: str
    params: tuple[Value, ...]
    id: int | str
    is_version_2: bool


def decode_request(body: bytes) -> Request:
    """Read a request.

    Bytes that are no UTF-8 become lone surrogates: xapi reads them too, and complains of the parameter.

    Args:
        body: the whole body, at most as long as the HTTP edge lets through.

    Raises:
        WireError: no JSON, a batch, another version, no id, or params that are none.
    """
    try:
        raw = json.loads(body.decode("utf-8-sig", "surrogateescape"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise WireError("the body is not JSON") from error
    if not isinstance(raw, dict):
        raise WireError("a request is an object; batches are not served")
    is_version_2 = "jsonrpc" in raw
    if is_version_2 and raw["jsonrpc"] != "2.0":
        raise WireError("jsonrpc must be 2.0, or absent for 1.0")
    request_id, method = raw.get("id"), raw.get("method")
    if not isinstance(request_id, int | str) or isinstance(request_id, bool):
        raise WireError("id must be a string or an integer")
    if not isinstance(method, str):
        raise WireError("method must be a string")
    params = _params(raw.get("params"), is_version_2=is_version_2)
    _check_depth(params)
    return Request(method, tuple(params), request_id, is_version_2=is_version_2)


def _refuse_constant(name: str) -> float:
    raise ValueError(name)


def _params(params: Value, *, is_version_2: bool) -> list[Value]:
    match params:
        case list():
            return params
        case None if is_version_2:
            return []
        case dict() if is_version_2:
            return [params]
    raise WireError("params must be an array")


def _check_depth(value: Value, depth: int = 0) -> None:
    if depth > MAX_DEPTH:
        raise WireError("values are nested too deeply")
    match value:
        case list():
            for item in value:
                _check_depth(item, depth + 1)
        case dict():
            for item in value.values():
                _check_depth(item, depth + 1)


def encode_success(request: Request, value: object) -> bytes:
    """Write the answer to a call that worked; None is void.

    Raises:
        TypeError: a value of a type that JSON-RPC has no place for.
    """
    return b"".join(success_parts(request, value))


def success_parts(request: Request, value: object) -> tuple[bytes, ...]:
    """Write the same in parts, so that a long value need not be copied into it."""
    head, middle = (
        (b'{"jsonrpc":"2.0","result":', b',"id":')
        if request.is_version_2
        else (b'{"result":', b',"error":null,"id":')
    )
    parts = value.parts(_WIRE) if isinstance(value, Record) else (encode_value(value),)
    return (head, *parts, middle + encode_value(request.id) + b"}")


def encode_failure(request: Request, code: str, params: Sequence[str]) -> bytes:
    """Write the answer to a call that failed."""
    if request.is_version_2:
        error = encode_value({"code": _ERROR_CODE, "message": code, "data": list(params)})
        return b'{"jsonrpc":"2.0","error":' + error + b',"id":' + encode_value(request.id) + b"}"
    return (
        b'{"result":null,"error":'
        + encode_value([code, *params])
        + b',"id":'
        + encode_value(request.id)
        + b"}"
    )


def encode_value(value: object) -> bytes:
    """Write one value: integers as numbers, void as an empty string, dates and all keys as strings.

    Args:
        value: None (void), bool, int, finite float, str, an aware datetime; or a list, tuple, mapping or
            `Record` of such.

    Raises:
        TypeError: a value of another type, which is a bug of whoever made it.
    """
    out: list[bytes] = []
    _write(value, out)
    return b"".join(out)


def _write(value: object, out: list[bytes]) -> None:
    write = _SCALAR_WRITERS.get(type(value))
    if write is not None:
        out.append(write(value))
    elif isinstance(value, Record):
        out.append(value.encoded(_WIRE))
    elif isinstance(value, Mapping):
        _write_object(value, out)
    elif isinstance(value, list | tuple):
        out.append(b"[")
        for number, item in enumerate(value):
            if number:
                out.append(b",")
            _write(item, out)
        out.append(b"]")
    elif isinstance(value, str):
        out.append(_encode_string(value))
    elif isinstance(value, int):
        out.append(b"%d" % value)
    else:
        raise TypeError(f"{type(value).__name__} has no place on JSON-RPC")


def _write_object(fields: Mapping[str, object], out: list[bytes]) -> None:
    mark = b"{"
    for name, value in fields.items():
        out += (mark, _open_member(str(name)))
        _write(value, out)
        mark = b","
    out.append(b"}" if fields else b"{}")


@keeping_short
def _open_member(name: str) -> bytes:
    return _encode_string(name) + b":"


_WIRE: Final = Wire(_open_member, encode_value, end=b"", opening=b"{", mark=b",", closing=b"}")


def _encode_float(number: float) -> bytes:
    if not math.isfinite(number):
        raise TypeError(f"{number} has no place on JSON-RPC")
    return repr(number).encode()


def _encode_string(text: str) -> bytes:
    return encode_basestring(text).encode("utf-8", "replace")


_SCALAR_WRITERS: Final[Mapping[type, Callable[[Any], bytes]]] = {
    str: _encode_string,
    int: b"%d".__mod__,
    I4: b"%d".__mod__,
    bool: lambda value: b"true" if value else b"false",
    float: _encode_float,
    datetime: lambda moment: _encode_string(format_datetime(moment)),
    type(None): lambda _: b'""',
}
