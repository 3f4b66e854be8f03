"""The expressions of ``get_all_records_where``: ``field "power__state"="Running" and not field "domid"="0"``.

::

    expression  value = value | true | false | not expression | ( expression )
                | expression and expression | expression or expression
    value       "text" | field "name"

As in xapi's grammar ``and`` and ``or`` bind equally strongly, to the left, and ``not`` binds more weakly than
both: it takes all that follows. Blanks may be left out; texts have no escapes. Values are compared as texts,
written as xapi's database has them: ``true``, ``8589934592``, ``('a' 'b')``, ``(('key' 'value'))``. A field's
name may have two underscores where xapi's database has them (``name__label``); ``_ref`` is the reference.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from xcpmem.api.values import format_datetime
from xcpmem.errors import InternalError
from xcpmem.law import format_ocaml_float

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from xcpmem.api.values import Record

    Test = Callable[[str, Record], bool]
    """Whether an expression applies to an object, given its reference and its record."""

MAX_DEPTH: Final = 100
"""So deeply may expressions be nested, that a hostile one exhausts nothing."""

_REF: Final = "_ref"
_TOKEN: Final = re.compile(r'[ \t\n]*(?:(?P<word>true|false|field|and|or|not|[=()])|"(?P<text>[^"]*)")')
_END: Final = re.compile(r"[ \t\n]*\Z")


@dataclass(frozen=True, slots=True)
class _Token:
    """A word of the language, or, with an empty word, a text in quotes."""

    word: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class _Value:
    """A text, or the field that is to be looked up."""

    text: str
    is_field: bool

    def of(self, ref: str, record: Record) -> str:
        if not self.is_field:
            return self.text
        if self.text == _REF:
            return ref
        name = self.text if self.text in record else self.text.replace("__", "_")
        if name not in record:
            raise InternalError(f"Expression_error: there is no field {self.text!r}")
        return database_text(record[name])


def parse_filter(expression: str) -> Test:
    """Read an expression.

    Returns:
        What tells whether it applies to an object; raises InternalError for a field that the object has not.

    Raises:
        InternalError: it cannot be read; says where.
    """
    parser = _Parser(expression)
    test = parser.expression(0)
    parser.expect_end()
    return test


def database_text(value: object) -> str:
    """Write a field's value as xapi's database does, which is what expressions are compared with."""
    match value:
        case bool():
            text = str(value).lower()
        case float():
            text = format_ocaml_float(value)
        case datetime():
            text = format_datetime(value)
        case tuple():
            text = f"({' '.join(_quote(item) for item in value)})"
        case Mapping():
            text = f"({' '.join(f'({_quote(name)} {_quote(item)})' for name, item in value.items())})"
        case _:
            text = str(value)
    return text


def _quote(value: object) -> str:
    text = database_text(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


def _tokens(expression: str) -> Iterator[_Token]:
    position = 0
    while not _END.match(expression, position):
        match = _TOKEN.match(expression, position)
        if match is None:
            raise InternalError(f"Expression_error: cannot be read at character {position + 1}: {expression}")
        yield _Token(match["word"] or "", match["text"] or "")
        position = match.end()


class _Parser:
    """Goes through an expression once.

    Args:
        expression: as it came.
    """

    def __init__(self, expression: str) -> None:
        self._expression = expression
        self._tokens = list(_tokens(expression))
        self._next = 0

    def expression(self, depth: int) -> Test:
        """Read as much as is one expression."""
        if depth > MAX_DEPTH:
            raise InternalError(f"Expression_error: nested more than {MAX_DEPTH} deep")
        first, rest = self._term(depth), []
        while self._peek() in {"and", "or"}:
            operator = self._take().word
            rest.append((operator, self._term(depth)))
        return _chain(first, rest) if rest else first

    def expect_end(self) -> None:
        """Refuse what stands behind the expression."""
        if self._next < len(self._tokens):
            raise self._complaint("the end")

    def _term(self, depth: int) -> Test:
        match self._peek():
            case "true" | "false" as word:
                self._take()
                is_true = word == "true"
                return lambda _ref, _record: is_true
            case "not":
                self._take()
                denied = self.expression(depth + 1)
                return lambda ref, record: not denied(ref, record)
            case "(":
                self._take()
                inner = self.expression(depth + 1)
                self._expect(")")
                return inner
        left = self._value()
        self._expect("=")
        right = self._value()
        return lambda ref, record: left.of(ref, record) == right.of(ref, record)

    def _value(self) -> _Value:
        is_field = self._peek() == "field"
        if is_field:
            self._take()
        if self._peek() != "":
            raise self._complaint("a text in quotes")
        return _Value(self._take().text, is_field)

    def _peek(self) -> str | None:
        return self._tokens[self._next].word if self._next < len(self._tokens) else None

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        self._next += 1
        return token

    def _expect(self, word: str) -> None:
        if self._peek() != word:
            raise self._complaint(word)
        self._take()

    def _complaint(self, wanted: str) -> InternalError:
        token = self._tokens[self._next] if self._next < len(self._tokens) else _Token("the end")
        found = token.word or f'"{token.text}"'
        return InternalError(f"Expression_error: expected {wanted}, found {found}: {self._expression}")


def _chain(first: Test, rest: Sequence[tuple[str, Test]]) -> Test:
    """Join terms from left to right; a host with many guests is asked for by a long chain of uuids."""

    def test(ref: str, record: Record) -> bool:
        applies = first(ref, record)
        for operator, term in rest:
            if applies == (operator == "and"):
                applies = term(ref, record)
        return applies

    return test
