"""XML-RPC on bytes: what comes in, what goes out, and the standard library's opinion of both."""

from __future__ import annotations

import xmlrpc.client
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xcpmem.api import codec
from xcpmem.api.values import I4, LONGEST_NAME_KEPT, DateTime, Record, Value
from xcpmem.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Callable

HEAD = b"<?xml version='1.0'?>\n<methodCall>\n<methodName>VM.get_record</methodName>\n<params>\n"
TAIL = b"</params>\n</methodCall>\n"


def call_with(value: str) -> bytes:
    return HEAD + f"<param>\n{value}</param>\n".encode() + TAIL


def decode_value(value: str) -> Value:
    return codec.decode_call(call_with(value)).params[0]


@pytest.mark.parametrize(
    ("xml", "value"),
    [
        ("<value>text</value>", "text"),
        ("<value> two  blanks </value>", " two  blanks "),
        ("<value></value>", ""),
        ("<value/>", ""),
        ("<value />", ""),
        ("<value><string></string></value>", ""),
        ("<value><string/></value>", ""),
        ("<value>\n<string>a\nb</string>\n</value>", "a\nb"),
        ("<value>&lt;&amp;&gt;&quot;&apos;&#228;&#xE4;</value>", "<&>\"'ää"),
        ("<value><int>-7</int></value>", -7),
        ("<value><i4>7</i4></value>", 7),
        ("<value><i8>8589934592</i8></value>", 8589934592),
        ("<value><int>0x10</int></value>", 16),
        ("<value><boolean>1</boolean></value>", True),
        ("<value><boolean>0</boolean></value>", False),
        ("<value><boolean>true</boolean></value>", False),
        ("<value><double>1.5</double></value>", 1.5),
        ("<value><double>2</double></value>", 2.0),
        (
            "<value><dateTime.iso8601>20240101T13:20:11Z</dateTime.iso8601></value>",
            DateTime("20240101T13:20:11Z"),
        ),
        ("<value><base64>\nAAEC\n</base64></value>", b"\x00\x01\x02"),
        ("<value><nil/></value>", None),
        ("<value><nil></nil></value>", None),
        ("<value><array><data></data></array></value>", []),
        ("<value>\n<array>\n<data/>\n</array>\n</value>", []),
        (
            "<value><array><data><value>a</value>\n<value><int>1</int></value></data></array></value>",
            ["a", 1],
        ),
        ("<value><struct></struct></value>", {}),
        ("<value><struct/></value>", {}),
        ("<value><struct><member><name>k</name>\n<value>v</value></member></struct></value>", {"k": "v"}),
        ("<value><struct><member><name/><value/></member></struct></value>", {"": ""}),
    ],
)
def test_decoder_reads_every_form_that_clients_send(xml: str, value: Value) -> None:
    decoded = decode_value(xml)
    assert decoded == value
    assert type(decoded) is type(value)


NO_PARAMS = "<methodCall><methodName>m</methodName><params></params></methodCall>"


@pytest.mark.parametrize(
    "body",
    [
        NO_PARAMS,
        NO_PARAMS.replace("<params></params>", "<params />"),
        NO_PARAMS.replace(">", " >") + "\n",
        NO_PARAMS.replace(">m<", ">\n m\n<"),
        "\ufeff<?xml version='1.0'?>" + NO_PARAMS,
        '<?xml version="1.0" encoding="utf-8"?>' + NO_PARAMS,
        "<?xml version='1.0' encoding='US-ASCII' standalone='yes'?>\n\n" + NO_PARAMS,
    ],
)
def test_decoder_reads_a_call_without_params_however_it_is_dressed(body: str) -> None:
    assert codec.decode_call(body.encode()) == codec.Call("m", ())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"junk",
        b"{}",
        b"<methodCall>",
        b"<methodCall/>",
        b"<methodCall><methodName>m</methodName></methodCall>",
        b"<methodCall><params/><methodName>m</methodName></methodCall>",
        b"<methodCall><methodName>m</methodName><params/><params/></methodCall>",
        b"<methodCall><methodName><value>m</value></methodName><params/></methodCall>",
        b"<params/>",
        call_with("").replace(b"methodCall", b"methodcall"),
        call_with("<value>a</value><value>b</value>"),
        call_with("<string>a</string>"),
        call_with("<value>text<int>1</int></value>"),
        call_with("<value><int>1</int>text</value>"),
        call_with("<value><int>1</int><int>2</int></value>"),
        call_with("<value><int></int></value>"),
        call_with("<value><int> 1</int></value>"),
        call_with("<value><int>9223372036854775808</int></value>"),
        call_with("<value><int><string>1</string></int></value>"),
        call_with("<value><double>one</double></value>"),
        call_with("<value><base64>%%%</base64></value>"),
        call_with("<value><nil>x</nil></value>"),
        call_with("<value><param/></value>"),
        call_with("<value><array><value>a</value></array></value>"),
        call_with("<value><array><data/><data/></array></value>"),
        call_with("<value><array><data>text</data></array></value>"),
        call_with("<value><struct><member><value/><name>k</name></member></struct></value>"),
        call_with("<value><struct><member><name>k</name></member></struct></value>"),
        call_with("<value><struct><value/></struct></value>"),
        call_with("<value>&#0;</value>"),
        call_with("<value>&#1;</value>"),
        call_with("<value>&#xD800;</value>"),
        call_with("<value>\x00</value>"),
        call_with("<value>\x07</value>"),
        call_with("<value>]]></value>"),
        call_with("<value>\xff</value>").decode().encode("latin-1"),
        call_with("<value>a</value>").decode().encode("utf-16"),
        call_with("<value>a</value>").decode().encode("utf-16-le"),
        call_with("<value>a</value>").replace(b"version='1.0'", b"version='1.0' encoding='utf-16'"),
        b" " + call_with("<value>a</value>"),
    ],
)
def test_decoder_refuses_what_is_no_call(body: bytes) -> None:
    with pytest.raises(WireError):
        codec.decode_call(body)


@pytest.mark.parametrize(
    "xml",
    [
        "<value><![CDATA[a]]></value>",
        "<value><!-- a --></value>",
        "<value><?php a ?></value>",
        "<value a='1'>a</value>",
        "<value xmlns='urn:x'>a</value>",
        "<x:value>a</x:value>",
        "<value><ex:nil/></value>",
        "<value><unknown/></value>",
        "<value>&file;</value>",
        "<value>&nbsp;</value>",
        "<value>a & b</value>",
    ],
)
def test_gate_refuses_markup_that_xml_rpc_does_not_know(xml: str) -> None:
    with pytest.raises(WireError, match="markup that XML-RPC does not know"):
        decode_value(xml)


@pytest.mark.parametrize("depth", [65, 90, 20000])
def test_decoder_refuses_values_nested_too_deeply(depth: int) -> None:
    with pytest.raises(WireError):
        decode_value("<value><array><data>" * depth + "</data></array></value>" * depth)


def test_decoder_reads_values_nested_as_deep_as_allowed() -> None:
    value = decode_value("<value><array><data>" * 63 + "<value/>" + "</data></array></value>" * 63)
    for _ in range(63):
        assert isinstance(value, list)
        (value,) = value
    assert value == ""


@pytest.mark.parametrize(
    ("value", "xml"),
    [
        ("web1", "<value>web1</value>"),
        ("", "<value></value>"),
        (None, "<value></value>"),
        ("a & b < c > d \"e\" 'f'", "<value>a &amp; b &lt; c &gt; d &quot;e&quot; 'f'</value>"),
        ("tab\tline\ncr\rbell\x07nul\x00", "<value>tab\tline\ncr\rbellnul</value>"),
        ("\ud800\ufffe", "<value>\ufffd\ufffd</value>"),
        ("ä漢😀", "<value>ä漢😀</value>"),
        (8589934592, "<value>8589934592</value>"),
        (-1, "<value>-1</value>"),
        (I4(7), "<value><i4>7</i4></value>"),
        (True, "<value><boolean>1</boolean></value>"),
        (False, "<value><boolean>0</boolean></value>"),
        (1.0, "<value><double>1</double></value>"),
        (0.1, "<value><double>0.1</double></value>"),
        (1.2345678901234567e20, "<value><double>1.234567890123457e+20</double></value>"),
        (
            datetime(1970, 1, 1, tzinfo=UTC),
            "<value><dateTime.iso8601>19700101T00:00:00Z</dateTime.iso8601></value>",
        ),
        (
            datetime(2024, 1, 1, 1, 20, 11, 999999, tzinfo=timezone(timedelta(hours=2))),
            "<value><dateTime.iso8601>20231231T23:20:11Z</dateTime.iso8601></value>",
        ),
        ((), "<value><array><data></data></array></value>"),
        (["a", 1], "<value><array><data><value>a</value><value>1</value></data></array></value>"),
        ({}, "<value><struct></struct></value>"),
        (
            {0: 1.5},
            "<value><struct><member><name>0</name><value><double>1.5</double></value></member></struct></value>",
        ),
        (
            {"<&>": "v"},
            "<value><struct><member><name>&lt;&amp;&gt;</name><value>v</value></member></struct></value>",
        ),
    ],
)
def test_encoder_writes_each_type_to_the_byte(value: object, xml: str) -> None:
    assert codec.encode_value(value).decode() == xml


def test_encoder_refuses_a_type_that_has_no_place_on_the_wire() -> None:
    with pytest.raises(TypeError, match="bytes"):
        codec.encode_value([b"bytes"])


def test_success_has_status_first_and_a_value_even_when_void() -> None:
    assert codec.encode_success(None) == (
        b'<?xml version="1.0"?><methodResponse><params><param><value><struct><member><name>Status</name>'
        b"<value>Success</value></member><member><name>Value</name><value></value></member></struct></value>"
        b"</param></params></methodResponse>"
    )


def test_failure_lists_code_and_parameters() -> None:
    assert codec.encode_failure("VM_BAD_POWER_STATE", ("OpaqueRef:1", "halted", "running")) == (
        b'<?xml version="1.0"?><methodResponse><params><param><value><struct><member><name>Status</name>'
        b"<value>Failure</value></member><member><name>ErrorDescription</name><value><array><data>"
        b"<value>VM_BAD_POWER_STATE</value><value>OpaqueRef:1</value><value>halted</value>"
        b"<value>running</value></data></array></value></member></struct></value></param></params>"
        b"</methodResponse>"
    )


def test_bare_answer_has_no_envelope() -> None:
    assert codec.encode_bare(["system.listMethods"]) == (
        b'<?xml version="1.0"?><methodResponse><params><param><value><array><data>'
        b"<value>system.listMethods</value></data></array></value></param></params></methodResponse>"
    )


def test_record_is_encoded_once_and_joined_afterwards() -> None:
    fields: dict[str, object] = {"uuid": "u", "domid": 3}
    record = Record(fields)
    first = codec.encode_value(record)
    fields["domid"] = 4
    assert codec.encode_value({"ref": record}) == (
        b"<value><struct><member><name>ref</name>" + first + b"</member></struct></value>"
    )


def test_record_takes_the_bytes_of_equal_fields_from_its_blank() -> None:
    blank = Record({"uuid": "", "tags": (), "domid": -1})
    fields = {"uuid": "u", "tags": (), "domid": 3}
    assert codec.encode_value(Record(fields, blank)) == codec.encode_value(fields)
    assert codec.encode_value(blank) == codec.encode_value(dict(blank))


XML_TEXT = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff")
    | st.sampled_from("\t\n")
)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**31), 2**31 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | XML_TEXT
    | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(XML_TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(st.lists(PLAIN, max_size=4))
def test_decoder_agrees_with_the_standard_library(params: list[Value]) -> None:
    body = xmlrpc.client.dumps(cast("Any", tuple(params)), "Class.method", allow_none=True)
    assert codec.decode_call(body.encode()) == codec.Call("Class.method", tuple(params))


def as_the_wire_has_it(value: object) -> object:
    """Integers travel as strings, void as the empty string, floats with 16 digits."""
    if isinstance(value, bool) or value is None:
        return "" if value is None else value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return float(f"{value:.16g}")
    if isinstance(value, list):
        return [as_the_wire_has_it(item) for item in value]
    if isinstance(value, dict):
        return {name: as_the_wire_has_it(item) for name, item in value.items()}
    return value


SENT = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | XML_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(XML_TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(SENT)
def test_standard_library_reads_what_the_encoder_writes(value: object) -> None:
    (answer,), _ = xmlrpc.client.loads(codec.encode_success(value))
    assert answer == {"Status": "Success", "Value": as_the_wire_has_it(value)}


@given(st.text())
def test_any_text_at_all_comes_out_as_well_formed_xml(text: str) -> None:
    (answer,), _ = xmlrpc.client.loads(codec.encode_bare(text))
    assert isinstance(answer, str)


FRAGMENTS = st.lists(
    st.sampled_from(
        [
            *("<value>", "</value>", "<array>", "</array>", "<data>", "</data>", "<struct>", "</struct>"),
            *(
                "<member>",
                "</member>",
                "<name>",
                "</name>",
                "<int>",
                "</int>",
                "<nil/>",
                "<boolean>",
                "</boolean>",
            ),
            *(
                "<base64>",
                "</base64>",
                "<double>",
                "</double>",
                "1",
                "-",
                "_",
                "0x",
                " ",
                "\n",
                "&amp;",
                "&#65;",
            ),
            *("&", "<", ">", "<!DOCTYPE a>", "<![CDATA[", "]]>", "<?x?>", "é", "\x00", "<param>", "</param>"),
        ],
    ),
    max_size=30,
).map("".join)


@given(st.binary() | FRAGMENTS.map(call_with) | FRAGMENTS.map(str.encode))
def test_any_garbage_is_a_call_or_a_wire_error(body: bytes) -> None:
    try:
        call = codec.decode_call(body)
    except WireError:
        return
    assert isinstance(call.method, str)
    assert isinstance(call.params, tuple)


TEXTS = st.text(st.sampled_from("aZ09:.- \t\n\r\v<>&;]\"'/\x7fé\ufffe"), max_size=6)
SHAPES = st.sampled_from(
    [
        "<param><value><string>%s</string></value></param>",
        "<param>\n<value>%s</value>\t</param>",
        "<param><value> <string>%s</string></value></param>",
        "<param><value><int>%s</int></value></param>",
        "<param><value><string>a<string>%s</string></string></value></param>",
    ]
)
HEADS = st.sampled_from(
    ["", "<?xml version='1.0'?>\n", '<?xml version="1.0" encoding="UTF-8"?>', "\v", "\ufeff", " \r\n"]
)


@given(HEADS, TEXTS, st.lists(st.tuples(SHAPES, TEXTS), max_size=3))
def test_calls_that_need_no_parser_are_read_as_the_parser_reads_them(
    head: str, method: str, params: list[tuple[str, str]]
) -> None:
    written = "".join(shape % text for shape, text in params)
    body = f"{head}<methodCall><methodName>{method}</methodName><params>{written}</params></methodCall>"

    def outcome(decode: Callable[[bytes], codec.Call]) -> codec.Call | str:
        try:
            return decode(body.encode())
        except WireError as error:
            return str(error)

    assert outcome(codec.decode_call) == outcome(codec._decode_any)


@pytest.mark.parametrize(
    "text", ["OpaqueRef:0c0ffee0-0000-4000-8000-000000000001", "", "a b\n", "4294967296"]
)
def test_references_names_and_sizes_need_no_parser(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body = xmlrpc.client.dumps((text, text), "VM.set_memory").encode()
    monkeypatch.delattr(codec, "_parse")
    assert codec.decode_call(body) == codec.Call("VM.set_memory", (text, text))


def test_encoded_names_are_kept_if_they_are_no_longer_than_those_of_fields_and_references(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short, long = "k" * LONGEST_NAME_KEPT, "k" * (LONGEST_NAME_KEPT + 1)
    made, escape = [], codec._escape

    def note(text: str) -> str:
        made.append(text)
        return escape(text)

    monkeypatch.setattr(codec, "_escape", note)
    for _ in range(2):
        written = codec.encode_value({short: "", long: ""}).decode()
        assert all(f"<name>{name}</name>" in written for name in (short, long))
    assert [text for text in made if text] == [short, long, long]
