"""What is fuzzed: each target takes any bytes, and its first line says what must hold of them.

A target returns, or raises `Broken` (or whatever else it should not have raised).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from xcpmem.api import cli_frames, codec, jsonrpc
from xcpmem.api.cli_words import parse_words
from xcpmem.api.filters import parse_filter
from xcpmem.api.values import Record
from xcpmem.config import parse_command_line
from xcpmem.errors import CommandError, ConfigError, InvalidValue, WireError, XcpmemError
from xcpmem.scenario import parse_scenario
from xcpmem.xen import guestreports, storerequest, wire
from xcpmem.xen.domainkeys import read_size_kib
from xcpmem.xen.storedialogue import StoreDialogue
from xcpmem.xen.storetree import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from xcpmem.xen.wire import Message

CLI_LIMIT_BYTES: Final = 4096
SIZE_MOST_KIB: Final = 10**15
CORPUS: Final = Path(__file__).parent / "corpus"


class Broken(AssertionError):
    """An invariant does not hold."""


def require(holds: bool, what: str) -> None:
    """Raise Broken unless something holds."""
    if not holds:
        raise Broken(what)


def xml(data: bytes) -> None:
    """Any body is a call or a WireError, and a call's texts come back from what is written of them."""
    try:
        call = codec.decode_call(data)
    except WireError as error:
        str(error).encode()
        return
    texts = [_texts(param) for param in call.params]
    written = codec.encode_value(texts)
    again = codec.decode_call(
        b"<methodCall><methodName>m</methodName><params><param>" + written + b"</param></params></methodCall>"
    )
    require(again.params == (texts,), f"{texts} became {again.params}")
    codec.encode_failure("CODE", [call.method, repr(call.params)]).decode()


def _texts(value: object) -> object:
    """Keep the shape of a value; whatever is in it becomes text."""
    match value:
        case list():
            return [_texts(item) for item in value]
        case dict():
            return {name: _texts(item) for name, item in value.items()}
    return value if isinstance(value, str) else repr(value)


def json_rpc(data: bytes) -> None:
    """Any body is a request or a WireError, and what is answered is one JSON object with the request's id."""
    try:
        request = jsonrpc.decode_request(data)
    except WireError as error:
        str(error).encode("utf-8", "backslashreplace")
        return
    # An answer is UTF-8 whatever came in.
    own_id = request.id.encode("utf-8", "replace").decode() if isinstance(request.id, str) else request.id
    for answer in (
        jsonrpc.encode_failure(request, "CODE", [request.method]),
        jsonrpc.encode_success(request, request.method),
    ):
        decoded = json.loads(answer)
        require(isinstance(decoded, dict) and decoded["id"] == own_id, f"{answer!r}")


def xenstore(data: bytes) -> None:
    """Any stream is messages or a WireError; any request has a reply that the protocol allows."""
    store = Store()
    dialogue = StoreDialogue(store, lambda event: require(bool(wire.encode(event)), "an event has no bytes"))
    store.write("/local/domain/1/memory/target", "1")
    decoder = wire.Decoder()
    cut = data[0] + 1 if data else 1
    try:
        for start in range(0, len(data), cut):
            for message in decoder.feed(data[start : start + cut]):
                _ask(dialogue, message)
            require(decoder.pending_bytes < wire.HEADER_BYTES + wire.PAYLOAD_BYTES_MAX, "bytes are hoarded")
    except WireError:
        return
    finally:
        dialogue.end()
    storerequest.names(data)
    storerequest.text(data).encode()


def _ask(dialogue: StoreDialogue, message: Message) -> None:
    reply = dialogue.answer(message)
    require(len(reply.payload) <= wire.PAYLOAD_BYTES_MAX, "a reply is too long")
    require(reply.request_id == message.request_id, "a reply is for nobody")
    wire.encode(reply._replace(transaction_id=0))


def guest_report(data: bytes) -> None:
    """Any text is a report or none; none says that a guest uses less than nothing or more than it holds."""
    text, _, swap = storerequest.text(data).partition("\x1f")
    size_kib = read_size_kib(text)
    require(size_kib is None or 0 <= size_kib < SIZE_MOST_KIB, f"{text!r} is {size_kib} KiB")
    for report in (
        guestreports.read_own(text),
        guestreports.read_available(text),
        guestreports.read_used(text, swap or None),
    ):
        if report is None:
            continue
        for actual_kib in (0, 1, 1 << 20, 1 << 40):
            used_kib = report.used_of(actual_kib)
            require(used_kib is None or 0 <= used_kib <= actual_kib, f"{text!r} of {actual_kib}: {used_kib}")


_FILE: Final = Path(f"/proc/self/fd/{os.memfd_create('settings')}")
"""A file of this process alone, without a disk."""


def toml(data: bytes) -> None:
    """Any file of settings is settings or a ConfigError of one line that names the file."""
    _FILE.write_bytes(data)
    try:
        parse_command_line(["--config", str(_FILE)], environ={"HOME": "/nowhere"}, euid=1000)
    except ConfigError as error:
        require("\n" not in str(error) and str(_FILE) in str(error), f"{error}")


def scenario(data: bytes) -> None:
    """Any scenario file is a host whose guests fit or a ConfigError that names the file."""
    text = data.decode("utf-8", "replace")
    try:
        host = parse_scenario(text, where="story.toml", name="story")
    except ConfigError as error:
        require(str(error).startswith("story.toml"), f"{error}")
        return
    held_kib = sum(guest.actual_kib for guest in host.guests)
    require(held_kib + host.host.free_kib <= host.host.total_kib, "more memory than there is")


def filter_expression(data: bytes) -> None:
    """Any text is an expression that tells yes or no of a record, or an error in words."""
    record = Record({"name_label": "web", "domid": 1, "tags": ("a", "'b"), "other_config": {"k": "v"}})
    try:
        verdict = parse_filter(data.decode("utf-8", "replace"))("OpaqueRef:x", record)
    except XcpmemError as error:
        codec.encode_failure(error.code, error.params)
        return
    require(verdict in {True, False}, f"{verdict!r}")


def command_line(data: bytes) -> None:
    """Any words are a command with its parameters, or a complaint in words."""
    words = data.decode("utf-8", "replace").split("\n")
    try:
        parsed = parse_words(words)
        require(isinstance(parsed.command, str), f"{parsed!r}")
        for key, _ in parsed.params:
            parsed.get(key)
            parsed.size(key)
    except (CommandError, InvalidValue) as error:
        require(bool(str(error)), "an error says nothing")


def cli(data: bytes) -> None:
    """Any stream is messages or a WireError, however it is cut, and a message's own bytes give it back."""
    found = _decode_cli(data, len(data) or 1)
    pieces = _decode_cli(data, data[0] % 16 + 1 if data else 1)
    require(pieces == found, f"{pieces} is not {found}")
    for message in found or []:
        encoded = cli_frames.encode(message)
        greeting = (
            b"" if isinstance(message, cli_frames.Greeting) else cli_frames.encode(cli_frames.Greeting())
        )
        again = cli_frames.Decoder().feed(greeting + encoded)
        require(again[-1] == message, f"{message} became {again[-1]}")


def _decode_cli(data: bytes, cut: int) -> list[cli_frames.Message] | None:
    decoder, found = cli_frames.Decoder(CLI_LIMIT_BYTES), []
    try:
        for start in range(0, len(data), cut):
            found += decoder.feed(data[start : start + cut])
    except WireError:
        return None
    return found


TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {
    target.__name__: target
    for target in (
        xml,
        json_rpc,
        xenstore,
        guest_report,
        toml,
        scenario,
        cli,
        command_line,
        filter_expression,
    )
}


def corpus(name: str) -> Iterator[bytes]:
    """The committed inputs of a target, by file name."""
    for path in sorted((CORPUS / name).iterdir()):
        yield path.read_bytes()
