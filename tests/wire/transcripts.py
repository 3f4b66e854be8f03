"""Conversations written down: what a client sends, byte for byte, and what it is answered.

A transcript is a text file. Lines that begin with ``#`` are for readers; ``>`` begins what is sent (method,
path and headers, an empty line, the body), ``<`` what comes back (status, content type, an empty line, the
body). ``{{name}}`` stands for what differs each time: the first answer that has it says what it is, later
requests send it and later answers must repeat it.

``python -m tests.wire.transcripts`` sends the requests of all transcripts and writes the answers down anew;
what it writes is to be read before it is committed.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

import aiohttp

from tests.apistack import listening, running_stack
from xcpmem import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER: Final = Path(__file__).parents[2] / "api-spec" / "transcripts"

_HOLE: Final = re.compile(r"\{\{(\w+)\}\}")
_HOLES: Final = {
    "token": r"[0-9]{20},[0-9]{20}",
    "id": r"[0-9]+",
    "time": r"[0-9]{8}T[0-9:]{8}Z",
    "session": r"OpaqueRef:[0-9a-f-]{36}",
    "task": r"OpaqueRef:[0-9a-f-]{36}",
    "uuid": r"[0-9a-f-]{36}",
    "names": r"[^{}]*",
}
"""What each name may stand for; a name may have a number behind it."""

_PRODUCT_VERSION: Final = re.compile(r"(product_version(?:</name><value>|\":\"))" + re.escape(__version__))


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its answer, with holes.

    Args:
        words: what readers are told before.
        path: that is posted to.
        headers: beside those that HTTP needs.
        sent: the body.
        kind: status and content type of the answer.
        answered: its body.
    """

    words: tuple[str, ...]
    path: str
    headers: tuple[tuple[str, str], ...]
    sent: str
    kind: str = ""
    answered: str = ""

    def __str__(self) -> str:
        head = [f"POST {self.path}", *(f"{name}: {value}" for name, value in self.headers), ""]
        sent = [f"> {line}".rstrip() for line in (*head, *self.sent.split("\n"))]
        answered = [f"< {line}".rstrip() for line in (self.kind, "", self.answered)]
        return "\n".join([*self.words, *sent, *answered, ""])


def read(text: str) -> Iterator[Exchange]:
    """Read a transcript."""
    for block in re.split(r"\n{2,}", text.strip()):
        lines = block.split("\n")
        words = tuple(line for line in lines if line.startswith("#"))
        sent = [line[2:] for line in lines if line.startswith(">")]
        answered = [line[2:] for line in lines if line.startswith("<")]
        if not sent:
            continue
        gap = sent.index("")
        headers = tuple((name, value) for name, _, value in (line.partition(": ") for line in sent[1:gap]))
        yield Exchange(
            words,
            sent[0].split()[1],
            headers,
            "\n".join(sent[gap + 1 :]),
            answered[0] if answered else "",
            "\n".join(answered[2:]),
        )


class Conversation:
    """Sends requests with their holes filled, and fills holes from answers.

    Args:
        url: of the server.
        http: sends nothing by itself.
    """

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self._url = url
        self._http = http
        self.known: dict[str, str] = {"version": __version__}

    async def send(self, exchange: Exchange) -> tuple[str, str]:
        """Send a request; its status and content type, and its body."""
        async with self._http.post(
            self._url + exchange.path, data=self.fill(exchange.sent).encode(), headers=dict(exchange.headers)
        ) as answer:
            kind = f"{answer.status} {answer.headers['Content-Type']}"
            return kind, (await answer.read()).decode()

    def fill(self, text: str) -> str:
        """Put into the holes what is known."""
        return _HOLE.sub(lambda hole: self.known[hole[1]], text)

    def learn(self, expected: str, body: str) -> bool:
        """Compare an answer with what was written down, and learn what was in its holes."""
        names: list[str] = []

        def pattern(part: str) -> str:
            if part in self.known:
                return re.escape(self.known[part])
            if part in names:
                return f"(?P={part})"
            names.append(part)
            return f"(?P<{part}>{_HOLES[part.rstrip('0123456789')]})"

        parts = _HOLE.split(expected)
        found = re.fullmatch(
            "".join(pattern(part) if place % 2 else re.escape(part) for place, part in enumerate(parts)), body
        )
        if found is None:
            return False
        self.known |= found.groupdict()
        return True

    def dig(self, body: str) -> str:
        """Make holes in an answer where it would differ the next time."""
        for name, value in self.known.items():
            if name != "version":
                body = body.replace(value, f"{{{{{name}}}}}")
        return _PRODUCT_VERSION.sub(r"\1{{version}}", body)


async def _record(text: str) -> str:
    with TemporaryDirectory() as folder:
        async with (
            running_stack(Path(folder)) as stack,
            listening(stack.app()) as url,
            aiohttp.ClientSession(skip_auto_headers=["Content-Type", "User-Agent"]) as http,
        ):
            conversation = Conversation(url, http)
            preface = text[: text.index("\n\n")]
            blocks = [preface]
            for exchange in read(text[len(preface) :]):
                kind, body = await conversation.send(exchange)
                is_told = bool(exchange.answered) and conversation.learn(exchange.answered, body)
                answered = exchange.answered if is_told else conversation.dig(body)
                blocks.append(str(replace(exchange, kind=kind, answered=answered)))
            return "\n\n".join(block.rstrip("\n") for block in blocks) + "\n"


if __name__ == "__main__":
    for each in sorted(FOLDER.glob("*.txt")):
        each.write_text(asyncio.run(_record(each.read_text(encoding="utf-8"))), encoding="utf-8")
