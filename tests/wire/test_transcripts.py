"""What ``api-spec/`` writes down is what happens: every transcript to the byte, and the grammar."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import aiohttp
import pytest
from lxml import etree

from tests.apistack import Stack, listening, running_stack
from tests.wire.transcripts import FOLDER, Conversation, Exchange, read
from xcpmem.api import codec
from xcpmem.api.datamodel import load_datamodel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

TEXTS = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.txt"))}
GRAMMAR = etree.RelaxNG(etree.parse(FOLDER.parent / "xmlrpc.rng"))
RECORD = "if that is right: python -m tests.wire.transcripts, and commit what it writes"
CLIENTS = {"c", "csharp", "go", "java", "memory", "python", "xen-orchestra"}


@pytest.fixture
async def conversation(tmp_path: Path) -> AsyncIterator[Conversation]:
    async with (
        running_stack(tmp_path) as stack,
        listening(stack.app()) as url,
        aiohttp.ClientSession(skip_auto_headers=["Content-Type", "User-Agent"]) as http,
    ):
        yield Conversation(url, http)


def follows(body: str) -> bool:
    return GRAMMAR.validate(etree.fromstring(body.encode()))


@pytest.mark.parametrize("name", TEXTS)
async def test_transcript_is_what_happens(conversation: Conversation, name: str) -> None:
    exchanges = list(read(TEXTS[name]))
    assert len(exchanges) >= 5
    for exchange in exchanges:
        kind, body = await conversation.send(exchange)
        assert kind == exchange.kind
        assert conversation.learn(exchange.answered, body), f"{exchange.sent}\nis answered\n{body}\n{RECORD}"
        if exchange.path != "/jsonrpc":
            assert follows(body)
            assert follows(conversation.fill(exchange.sent))


def test_each_kind_of_client_has_a_transcript() -> None:
    assert TEXTS.keys() == CLIENTS


def test_transcripts_are_read_as_they_are_written() -> None:
    for text in TEXTS.values():
        preface, exchanges = text.split("\n\n", 1)
        assert preface.startswith("# ")
        assert "\n\n".join(str(each).rstrip("\n") for each in read(exchanges)) + "\n" == exchanges


def test_hole_that_is_known_must_hold_the_same_again() -> None:
    conversation = Conversation("", None)  # type: ignore[arg-type]  # nothing is sent
    assert conversation.learn("a {{id}} b {{id}}", "a 5 b 5")
    assert not conversation.learn("a {{id2}} b {{id2}}", "a 5 b 6")
    assert not conversation.learn("a {{id}}", "a 6")
    assert not conversation.learn("{{id3}}", "five")
    assert str(Exchange((), "/", (), "x {{id}}")).startswith("> POST /\n>\n> x {{id}}")


async def test_every_answer_of_every_class_follows_the_grammar(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as stack:
        session = await stack.login()
        for api_class in load_datamodel().classes.values():
            if "get_all_records" in api_class.messages:
                records = await stack.call(f"{api_class.name}.get_all_records", session)
                assert follows(codec.encode_success(records).decode())
        await _follow_events(stack, session)
    assert follows(codec.encode_failure("TOO_BUSY", []).decode())
    assert follows(codec.encode_bare(["VM.start"]).decode())


async def _follow_events(stack: Stack, session: str) -> None:
    body = codec.encode_success(await stack.call("event.from", session, ["*"], "", 0.0)).decode()
    assert follows(body)
    assert re.search(r"<name>vm</name><value><i4>4</i4></value>", body)


@pytest.mark.parametrize(
    "body",
    [
        "<value><string>a</string></value>",
        "<value><int>1</int></value>",
        "<value><boolean>true</boolean></value>",
        "<value><dateTime.iso8601>2024-01-01T00:00:00Z</dateTime.iso8601></value>",
        "<value><nil/></value>",
    ],
)
def test_grammar_knows_what_is_never_answered(body: str) -> None:
    head, tail = codec.encode_success("x").decode().split("<value>x</value>")
    assert follows(f"{head}<value>x</value>{tail}")
    assert not follows(head + body + tail)


def test_grammar_knows_no_faults_and_no_answer_without_value() -> None:
    success = codec.encode_success(None).decode()
    assert not follows("<methodResponse><fault><value>x</value></fault></methodResponse>")
    assert not follows(success.replace("<member><name>Value</name><value></value></member>", ""))
    assert not follows(success.replace("Success", "Failure"))


def test_transcripts_in_json_are_json() -> None:
    for text in TEXTS.values():
        for exchange in read(text):
            if exchange.path == "/jsonrpc":
                assert json.loads(exchange.sent)["method"]
                assert "id" in json.loads(exchange.answered.replace("{{names}}", ""))
