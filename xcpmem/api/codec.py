"""XML-RPC: bytes to plain values and back; no HTTP and no XenAPI in here.

The only importer of lxml. Reading goes through a gate first, because libxml2 keeps every element name
that it has ever seen (1.4 MB for each request of random names, with every parser kind): only the names of
XML-RPC pass, without attributes, and with them no doctype, entity, comment, processing instruction or
CDATA section ever reaches the parser. Writing joins strings, which beats building a tree several times
over, and never puts white space between tags: npm's xen-api and the C SDK cannot read it.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from lxml import etree

from xcpmem.api.values import (
    I4,
    MAX_DEPTH,
    DateTime,
    Nil,
    Record,
    Value,
    Wire,
    format_datetime,
    keeping_short,
    parse_double,
    parse_int64,
)
from xcpmem.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Callable

_NAMES = (
    rb"methodCall|methodName|params|param|value|string|int|i4|i8|boolean|double|dateTime\.iso8601|base64|array"
    rb"|data|struct|member|name|nil"
)
_BLANK = rb"[ \t\r\n]*+"
_TEXT = rb"(?:[^<&\x00]++|&(?:amp|lt|gt|quot|apos|#[0-9]{1,7}|#x[0-9A-Fa-f]{1,6});)*+"
_GATE: Final = re.compile(
    rb"(?:\xef\xbb\xbf)?(?P<declaration><\?xml[ \t\r\n][^<>&?\x00]*+\?>)?(?P<document>"
    + _TEXT
    + rb"(?:<(?:/(?:"
    + _NAMES
    + rb")"
    + _BLANK
    + rb"|(?:"
    + _NAMES
    + rb")"
    + _BLANK
    + rb"/?)>"
    + _TEXT
    + rb")*+)",
)
# Nearly all calls: nothing but texts, of printable ASCII without markup. They need no parser.
_PLAIN_TEXT = rb"[\t\n !-%'-;=?-~]*+"
_PLAIN_CALL: Final = re.compile(
    rb"(?:<\?xml version=[\"']1\.0[\"'](?: encoding=[\"'](?i:utf-8)[\"'])? ?\?>)?"
    rb"~<methodCall>~<methodName>(#)</methodName>"
    rb"~<params>((?:~<param>~<value>(?:<string>#</string>|#)</value>~</param>)*+)~</params>"
    rb"~</methodCall>~".replace(b"~", _BLANK).replace(b"#", _PLAIN_TEXT)
)
_PLAIN_VALUE: Final = re.compile(rb"<value>(?:<string>)?([^<]*+)")
_ENCODING = re.compile(rb"encoding[ \t\r\n]*=[ \t\r\n]*[\"']([^\"']*)[\"']")
_ENCODINGS: Final = frozenset({b"utf-8", b"utf8", b"us-ascii", b"ascii"})
# Names of VMs come from outside, and one control character makes a whole answer unreadable.
_UNSAFE: Final = re.compile('[&<>"\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]')
_ESCAPES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}

_BLANKS: Final = " \t\r\n"

_PARSER: Final = etree.XMLParser(
    encoding="utf-8",
    resolve_entities=False,
    no_network=True,
    load_dtd=False,
    dtd_validation=False,
    huge_tree=False,
    remove_comments=True,
    remove_pis=True,
    collect_ids=False,
)

_SUCCESS_HEAD: Final = (
    b'<?xml version="1.0"?><methodResponse><params><param><value><struct><member><name>Status</name>'
    b"<value>Success</value></member><member><name>Value</name>"
)
_FAILURE_HEAD: Final = (
    b'<?xml version="1.0"?><methodResponse><params><param><value><struct><member><name>Status</name>'
    b"<value>Failure</value></member><member><name>ErrorDescription</name>"
)
_ENVELOPE_TAIL: Final = b"</member></struct></value></param></params></methodResponse>"
_STRUCT: Final = b"<value><struct>"
_MEMBER_END: Final = b"</member>"
_STRUCT_END: Final = b"</struct></value>"
_BARE_HEAD: Final = b'<?xml version="1.0"?><methodResponse><params><param>'
_BARE_TAIL: Final = b"</param></params></methodResponse>"


@dataclass(frozen=True, slots=True)
class Call:
    """A request: the method's name as it was spelled and its parameters, still of any type."""

    method: str
    params: tuple[Value, ...]


def decode_call(body: bytes) -> Call:
    """Read a request.

    Args:
        body: the whole body, at most as long as the HTTP edge lets through.

    Raises:
        WireError: not UTF-8, refused by the gate, no XML, or no ``methodCall`` of XML-RPC's shape.
    """
    if plain := _PLAIN_CALL.fullmatch(body):
        texts = _PLAIN_VALUE.findall(plain[2])
        return Call(plain[1].decode().strip(_BLANKS), tuple(text.decode() for text in texts))
    return _decode_any(body)


def _decode_any(body: bytes) -> Call:
    root = _parse(_admit(body))
    if root.tag != "methodCall":
        raise WireError(f"expected methodCall, got {_name(root)}")
    parts = _children(root)
    if [part.tag for part in parts] != ["methodName", "params"]:
        raise WireError("a methodCall has a methodName and params")
    return Call(
        method=_text(parts[0]).strip(_BLANKS),
        params=tuple(_value(_only_child(param, "value")) for param in _children(parts[1], "param")),
    )


def _admit(body: bytes) -> bytes:
    """Let a document through the gate, without its XML declaration."""
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise WireError("the body is not UTF-8") from error
    match = _GATE.fullmatch(body)
    if match is None:
        raise WireError("the body has markup that XML-RPC does not know")
    encoding = _ENCODING.search(match["declaration"] or b"")
    if encoding is not None and encoding[1].lower() not in _ENCODINGS:
        raise WireError("the body must be UTF-8")
    return match["document"]


def _parse(document: bytes) -> etree._Element:
    try:
        return etree.fromstring(document, _PARSER)
    except etree.XMLSyntaxError as error:
        raise WireError(f"not well-formed: {error.msg}") from error


def _name(element: etree._Element) -> str:
    return str(element.tag)


def _children(element: etree._Element, tag: str = "") -> list[etree._Element]:
    """List an element's children, all of one name if one is given, with nothing but blanks around them."""
    children, text = element[:], element.text
    if text and text.strip(_BLANKS):
        raise WireError(f"text beside the elements of {_name(element)}")
    for child in children:
        tail = child.tail
        if tail and tail.strip(_BLANKS):
            raise WireError(f"text beside the elements of {_name(element)}")
        if tag and child.tag != tag:
            raise WireError(f"{_name(element)} holds {tag} elements only")
    return children


def _only_child(element: etree._Element, tag: str) -> etree._Element:
    children = _children(element, tag)
    if len(children) != 1:
        raise WireError(f"{_name(element)} holds exactly one {tag}")
    return children[0]


def _text(element: etree._Element) -> str:
    if len(element):
        raise WireError(f"{_name(element)} holds text only")
    return element.text or ""


def _value(element: etree._Element, depth: int = 1) -> Value:
    if depth > MAX_DEPTH:
        raise WireError("values are nested too deeply")
    if not len(element):
        return element.text or ""
    children = _children(element)
    if len(children) != 1:
        raise WireError("a value holds at most one element")
    child = children[0]
    name = _name(child)
    if name == "array":
        return [_value(item, depth + 1) for item in _children(_only_child(child, "data"), "value")]
    if name == "struct":
        return dict(_member(member, depth) for member in _children(child, "member"))
    read = _SCALARS.get(name)
    if read is None:
        raise WireError(f"no type of value: {name}")
    try:
        return read(_text(child))
    except ValueError as error:
        raise WireError(f"that is no {name}") from error


def _member(member: etree._Element, depth: int) -> tuple[str, Value]:
    parts = _children(member)
    if [part.tag for part in parts] != ["name", "value"]:
        raise WireError("a member has a name and a value")
    return _text(parts[0]), _value(parts[1], depth + 1)


def _base64(text: str) -> bytes:
    return binascii.a2b_base64("".join(text.split()), strict_mode=True)


def _nil(text: str) -> None:
    if text:
        raise ValueError(text)


_SCALARS: Final[Mapping[str, Callable[[str], Value]]] = {
    "string": str,
    "int": parse_int64,
    "i4": parse_int64,
    "i8": parse_int64,
    "boolean": "1".__eq__,
    "double": parse_double,
    "dateTime.iso8601": DateTime,
    "base64": _base64,
    "nil": _nil,
}


def encode_value(value: object) -> bytes:
    """Write one ``<value>`` by xapi's table: integers as decimal strings, strings and void without a type.

    Args:
        value: None (void), bool, int, float, str, an aware datetime; or a list, tuple, mapping or `Record`
            of such.

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
        _write_struct(value, out)
    elif isinstance(value, list | tuple):
        out.append(b"<value><array><data>")
        for item in value:
            _write(item, out)
        out.append(b"</data></array></value>")
    elif isinstance(value, str):
        out.append(_encode_string(value))
    else:
        raise TypeError(f"{type(value).__name__} has no place on XML-RPC")


def _encode_string(text: str) -> bytes:
    return f"<value>{_escape(text)}</value>".encode()


def _encode_datetime(moment: datetime) -> bytes:
    return f"<value><dateTime.iso8601>{format_datetime(moment)}</dateTime.iso8601></value>".encode()


_SCALAR_WRITERS: Final[Mapping[type, Callable[[Any], bytes]]] = {
    str: _encode_string,
    int: b"<value>%d</value>".__mod__,
    I4: b"<value><i4>%d</i4></value>".__mod__,
    bool: b"<value><boolean>%d</boolean></value>".__mod__,
    float: b"<value><double>%.16g</double></value>".__mod__,
    datetime: _encode_datetime,
    type(None): lambda _: b"<value></value>",
    Nil: lambda _: b"<value><nil/></value>",
}


def _write_struct(fields: Mapping[str, object], out: list[bytes]) -> None:
    out.append(_STRUCT)
    for name, value in fields.items():
        out.append(_open_member(str(name)))
        _write(value, out)
        out.append(_MEMBER_END)
    out.append(_STRUCT_END)


@keeping_short
def _open_member(name: str) -> bytes:
    return f"<member><name>{_escape(name)}</name>".encode()


_WIRE: Final = Wire(
    _open_member, encode_value, end=_MEMBER_END, opening=_STRUCT, mark=b"", closing=_STRUCT_END
)


def _escape(text: str) -> str:
    return _UNSAFE.sub(_escape_one, text)


def _escape_one(match: re.Match[str]) -> str:
    """Escape as xapi does; drop the controls that XML forbids; replace what is no character at all."""
    character = match[0]
    return _ESCAPES.get(character) or ("" if character < " " else "\N{REPLACEMENT CHARACTER}")


def encode_success(value: object) -> bytes:
    """Write the answer to a call that worked; None is void."""
    return b"".join(success_parts(value))


def success_parts(value: object) -> tuple[bytes, ...]:
    """Write the same in parts, so that a long value need not be copied into it."""
    parts = value.parts(_WIRE) if isinstance(value, Record) else (encode_value(value),)
    return (_SUCCESS_HEAD, *parts, _ENVELOPE_TAIL)


def encode_failure(code: str, params: Sequence[str]) -> bytes:
    """Write the answer to a call that failed: a success of HTTP and XML-RPC, as in xapi never a fault."""
    return encode_error((code, *params))


def encode_error(description: object) -> bytes:
    """Write the answer to a call that failed, with any value for its ``ErrorDescription``."""
    return b"".join((_FAILURE_HEAD, encode_value(description), _ENVELOPE_TAIL))


def encode_bare(value: object) -> bytes:
    """Write an answer without ``Status`` and ``Value``: only ``system.listMethods`` has one."""
    return b"".join((_BARE_HEAD, encode_value(value), _BARE_TAIL))
