"""JSON-RPC on bytes, both versions, to the letter of what clients check."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xcpmem.api import jsonrpc
from xcpmem.api.values import I4, LONGEST_NAME_KEPT, Record
from xcpmem.errors import WireError

V1 = jsonrpc.Request("m", (), 7, is_version_2=False)
V2 = jsonrpc.Request("m", (), "seven", is_version_2=True)


@pytest.mark.parametrize(
    ("body", "request_"),
    [
        (b'{"method":"m","params":[],"id":7}', V1),
        (b'{"jsonrpc":"2.0","method":"m","params":[],"id":"seven"}', V2),
        (b'{"jsonrpc":"2.0","method":"m","id":"seven"}', V2),
        (b'{"jsonrpc":"2.0","method":"m","params":null,"id":"seven"}', V2),
        (b'\xef\xbb\xbf \n{"method":"m","params":[],"id":7,"more":[]}\n', V1),
        (
            b'{"jsonrpc":"2.0","method":"m","params":{"a":1},"id":0}',
            jsonrpc.Request("m", ({"a": 1},), 0, is_version_2=True),
        ),
        (
            b'{"method":"m","params":["x",1,-9223372036854775808,1.5,true,null,["y"],{"k":{}}],"id":""}',
            jsonrpc.Request(
                "m", ("x", 1, -(2**63), 1.5, True, None, ["y"], {"k": {}}), "", is_version_2=False
            ),
        ),
        (
            b'{"method":"m","params":["\xff"],"id":1}',
            jsonrpc.Request("m", ("\udcff",), 1, is_version_2=False),
        ),
    ],
)
def test_request_is_read_whatever_its_version(body: bytes, request_: jsonrpc.Request) -> None:
    assert jsonrpc.decode_request(body) == request_


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"junk",
        b"null",
        b'"m"',
        b"[]",
        b'[{"jsonrpc":"2.0","method":"m","params":[],"id":1}]',
        b"{}",
        b'{"method":"m","params":[]}',
        b'{"method":"m","params":[],"id":null}',
        b'{"method":"m","params":[],"id":1.5}',
        b'{"method":"m","params":[],"id":true}',
        b'{"method":"m","params":[],"id":[1]}',
        b'{"params":[],"id":1}',
        b'{"method":5,"params":[],"id":1}',
        b'{"method":"m","id":1}',
        b'{"method":"m","params":null,"id":1}',
        b'{"method":"m","params":{},"id":1}',
        b'{"jsonrpc":"2.0","method":"m","params":"x","id":1}',
        b'{"jsonrpc":"1.0","method":"m","params":[],"id":1}',
        b'{"jsonrpc":2.0,"method":"m","params":[],"id":1}',
        b'{"jsonrpc":null,"method":"m","params":[],"id":1}',
        b'{"jsonrpc":["2.0"],"method":"m","params":[],"id":1}',
        b'{"method":"m","params":[NaN],"id":1}',
        b'{"method":"m","params":[-Infinity],"id":1}',
        b'{"method":"m","params":[' + b"9" * 5000 + b'],"id":1}',
        b'{"method":"m","params":' + b"[" * 70 + b"]" * 70 + b',"id":1}',
        b'{"method":"m","params":' + b"[" * 100_000 + b"]" * 100_000 + b',"id":1}',
        b'{"method":"m","params":[' + b'{"a":' * 70 + b"1" + b"}" * 70 + b'],"id":1}',
        '{"method":"m","params":[],"id":1}'.encode("utf-16"),
    ],
)
def test_what_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        jsonrpc.decode_request(body)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, '""'),
        ("", '""'),
        ('a"\\\n\x01ä<&>', '"a\\"\\\\\\n\\u0001ä<&>"'),
        (8589934592, "8589934592"),
        (I4(7), "7"),
        (True, "true"),
        (False, "false"),
        (1.0, "1.0"),
        (0.1, "0.1"),
        (datetime(2024, 1, 1, 13, 20, 11, tzinfo=UTC), '"20240101T13:20:11Z"'),
        ((), "[]"),
        (["a", 1, []], '["a",1,[]]'),
        ({}, "{}"),
        ({"k": "v", 0: 1.5}, '{"k":"v","0":1.5}'),
        (Record({"uuid": "u", "domid": -1}), '{"uuid":"u","domid":-1}'),
    ],
)
def test_value_is_written_to_the_byte(value: object, text: str) -> None:
    assert jsonrpc.encode_value(value).decode() == text


@pytest.mark.parametrize("value", [b"bytes", float("nan"), float("inf"), object()])
def test_value_without_a_place_in_json_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        jsonrpc.encode_value([value])


def test_version_1_answers_with_result_and_error_always() -> None:
    assert jsonrpc.encode_success(V1, None) == b'{"result":"","error":null,"id":7}'
    assert jsonrpc.encode_failure(V1, "CODE", ("p1", "p2")) == (
        b'{"result":null,"error":["CODE","p1","p2"],"id":7}'
    )
    assert jsonrpc.encode_failure(V1, "CODE", ()) == b'{"result":null,"error":["CODE"],"id":7}'


def test_version_2_answers_with_result_or_error_and_never_both() -> None:
    assert jsonrpc.encode_success(V2, 5) == b'{"jsonrpc":"2.0","result":5,"id":"seven"}'
    assert jsonrpc.encode_failure(V2, "CODE", ("p1",)) == (
        b'{"jsonrpc":"2.0","error":{"code":1,"message":"CODE","data":["p1"]},"id":"seven"}'
    )
    assert jsonrpc.encode_failure(V2, "CODE", ()) == (
        b'{"jsonrpc":"2.0","error":{"code":1,"message":"CODE","data":[]},"id":"seven"}'
    )


PLAIN = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(PLAIN)
def test_standard_library_reads_what_is_written(value: object) -> None:
    assert json.loads(jsonrpc.encode_success(V1, value)) == {"result": value, "error": None, "id": 7}


@given(st.text(st.characters(categories=("Cs", "Lu"))))
def test_lone_surrogates_come_out_as_valid_utf_8(text: str) -> None:
    jsonrpc.encode_value([text, {text: 1}]).decode("utf-8")


@given(st.binary() | st.text().map(str.encode) | PLAIN.map(lambda value: json.dumps(value).encode()))
def test_any_garbage_is_a_request_or_a_wire_error(body: bytes) -> None:
    try:
        request = jsonrpc.decode_request(body)
    except WireError:
        return
    assert isinstance(request.method, str)


def test_encoded_names_are_kept_if_they_are_no_longer_than_those_of_fields_and_references(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short, long = "k" * LONGEST_NAME_KEPT, "k" * (LONGEST_NAME_KEPT + 1)
    made, encode = [], jsonrpc._encode_string

    def note(text: str) -> bytes:
        made.append(text)
        return encode(text)

    monkeypatch.setattr(jsonrpc, "_encode_string", note)
    for _ in range(2):
        assert json.loads(jsonrpc.encode_value({short: "", long: ""})) == {short: "", long: ""}
    assert [text for text in made if text] == [short, long, long]
