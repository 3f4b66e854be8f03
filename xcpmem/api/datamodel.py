"""XenAPI as it is served: classes, fields, messages, types and roles, declared once in ``model.json``.

Dispatch, arity, marshalling, getters, defaults, the specification and the command line's completion all
come from here. ``model.json`` lists fields and the messages that do something of their own; what xapi
derives from fields (``get_all``, ``get_record``, ``get_uuid``, …) is derived here as well. Names, types,
order of parameters, roles and errors are xapi's (a test compares them with xapi's own model); class
``Memory`` is ours, the words are ours.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from xcpmem.refs import NULL_REF

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

EPOCH: Final = datetime.fromtimestamp(0, UTC)

ROLES: Final = (
    "pool-admin",
    "pool-operator",
    "vm-power-admin",
    "vm-admin",
    "vm-operator",
    "client-cert",
    "read-only",
)


@dataclass(frozen=True, slots=True)
class Simple:
    """``int``, ``string``, ``bool``, ``float``, ``datetime`` or ``void``."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Ref:
    """A reference to an object of a class, which need not be a served one."""

    of: str

    def __str__(self) -> str:
        return f"{self.of} ref"


@dataclass(frozen=True, slots=True)
class Enum:
    """A word out of a fixed set, spelled as it is stored."""

    name: str

    def __str__(self) -> str:
        return f"enum {self.name}"


@dataclass(frozen=True, slots=True)
class SetOf:
    """A set, which XenAPI sends as an array in a stable order."""

    of: Type

    def __str__(self) -> str:
        return f"{self.of} set"


@dataclass(frozen=True, slots=True)
class MapOf:
    """A map; its keys are strings on every wire."""

    key: Type
    value: Type

    def __str__(self) -> str:
        return f"({self.key} -> {self.value}) map"


@dataclass(frozen=True, slots=True)
class RecordOf:
    """All fields of an object of a class."""

    of: str

    def __str__(self) -> str:
        return f"{self.of} record"


@dataclass(frozen=True, slots=True)
class TupleOf:
    """A fixed number of values in an array; squeezed answers so, xapi never does."""

    of: tuple[Type, ...]

    def __str__(self) -> str:
        return f"({', '.join(str(part) for part in self.of)}) tuple"


@dataclass(frozen=True, slots=True)
class Variant:
    """``[name, value]``, the type of the value depending on the name; squeezed answers so."""

    name: str

    def __str__(self) -> str:
        return f"{self.name} variant"


Type = Simple | Ref | Enum | SetOf | MapOf | RecordOf | TupleOf | Variant

_SIMPLE: Final = frozenset({"int", "string", "bool", "float", "datetime", "void"})
_NAMED: Final[Mapping[str, Callable[[str], Type]]] = {"ref": Ref, "record": RecordOf, "variant": Variant}
_DEFAULTS: Final[Mapping[str, object]] = {
    "int": 0,
    "string": "",
    "bool": False,
    "float": 0.0,
    "datetime": EPOCH,
    "void": None,
}


@cache
def parse_type(text: str) -> Type:
    """Read a type as xapi's documents spell it: ``VM ref set``, ``(string -> string) map``.

    Raises:
        ValueError: no such spelling.
    """
    if text in _SIMPLE:
        return Simple(text)
    if match := re.fullmatch(r"\((.+?) -> (.+)\) map", text):
        return MapOf(parse_type(match[1]), parse_type(match[2]))
    if match := re.fullmatch(r"\((.+)\) tuple", text):
        return TupleOf(tuple(parse_type(part) for part in match[1].split(", ")))
    if match := re.fullmatch(r"(.+) set", text):
        return SetOf(parse_type(match[1]))
    if match := re.fullmatch(r"enum (\w+)", text):
        return Enum(match[1])
    if match := re.fullmatch(r"(\w+) (ref|record|variant)", text):
        return _NAMED[match[2]](match[1])
    raise ValueError(f"no XenAPI type: {text}")


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a class.

    Args:
        name: as in records.
        type: of its value.
        access: ``RW``, ``RO/constructor`` or ``RO/runtime``.
        default: what a record has where nothing better is known, of the right type.
        lifecycle: ``published``, ``prototyped``, ``deprecated`` or ``removed``.
        doc: what it is, empty where the name says it all.
    """

    name: str
    type: Type
    access: str
    default: object
    lifecycle: str
    doc: str


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a message, the session not being one."""

    name: str
    type: Type
    optional: bool = False


class Kind(StrEnum):
    """Where a message's answer comes from."""

    CUSTOM = "a handler of its own"
    GET_ALL = "the references of a class"
    GET_ALL_RECORDS = "the records of a class"
    GET_RECORD = "one record"
    GET_BY_UUID = "the reference for a uuid"
    GET_BY_NAME_LABEL = "the references for a name"
    GET_FIELD = "one field of one record"


@dataclass(frozen=True, slots=True)
class Message:
    """A call.

    Args:
        class_name: its class.
        name: without the class.
        result: type of the answer.
        params: in the order of the wire, without the session.
        role: the least role that may call it.
        kind: who answers.
        field: for a getter, the field.
        needs_session: whether the first parameter on the wire is a session.
        errors: the codes that xapi declares, far from all that can happen.
        lifecycle: as for fields.
        doc: what it does.
    """

    class_name: str
    name: str
    result: Type
    params: tuple[Parameter, ...]
    role: str
    kind: Kind = Kind.CUSTOM
    field: Field | None = None
    needs_session: bool = True
    errors: tuple[str, ...] = ()
    lifecycle: str = "published"
    doc: str = ""

    @property
    def wire_name(self) -> str:
        """The name that clients call: ``VM.set_memory``."""
        return f"{self.class_name}.{self.name}"

    @property
    def permission(self) -> str:
        """The name that roles are said to permit or deny: ``vm.set_memory``."""
        return self.wire_name.lower()

    @property
    def roles(self) -> tuple[str, ...]:
        """All roles that may call it, the mightiest first; a client certificate reads and no more."""
        allowed = ROLES[: ROLES.index(self.role) + 1]
        return allowed if self.role == "read-only" else tuple(r for r in allowed if r != "client-cert")

    @property
    def required(self) -> int:
        """How many parameters must be there, the session not counted."""
        return sum(not param.optional for param in self.params)

    def accepts(self, count: int) -> bool:
        """Tell whether so many parameters will do; a message with optional ones takes any surplus."""
        return count >= self.required if self.required < len(self.params) else count == self.required


@dataclass(frozen=True, slots=True)
class ApiClass:
    """A class: its fields and messages by name, its enumerations' words by name."""

    name: str
    doc: str
    fields: Mapping[str, Field]
    messages: Mapping[str, Message]
    enums: Mapping[str, tuple[str, ...]]
    variants: Mapping[str, Mapping[str, Type]]


class Datamodel:
    """All classes, the words of all enumerations, and every message under each of its spellings.

    Args:
        classes: in the order in which they are listed.
    """

    def __init__(self, classes: tuple[ApiClass, ...]) -> None:
        self.classes: Mapping[str, ApiClass] = {api_class.name: api_class for api_class in classes}
        self.enums: Mapping[str, tuple[str, ...]] = {
            name: words for api_class in classes for name, words in api_class.enums.items()
        }
        self._messages = {message.wire_name: message for message in self.messages()}
        self._spellings = {name.replace(".", "_"): message for name, message in self._messages.items()}
        self._spellings.update(self._messages)

    def messages(self) -> Iterator[Message]:
        """Go through all messages, class by class."""
        for api_class in self.classes.values():
            yield from api_class.messages.values()

    def find(self, name: str) -> Message | None:
        """Find a message by ``Class.message`` or by ``Class_message``, which Python's users write."""
        return self._spellings.get(name)

    def find_exactly(self, name: str) -> Message | None:
        """Find a message by ``Class.message`` alone, as it must stand behind ``Async.``."""
        return self._messages.get(name)


@cache
def load_datamodel() -> Datamodel:
    """Read the declaration, once per process."""
    raw = json.loads(Path(__file__).with_name("model.json").read_text(encoding="utf-8"))
    return Datamodel(tuple(_read_class(name, entry) for name, entry in raw.items()))


def _read_class(name: str, raw: Mapping[str, Any]) -> ApiClass:
    enums = {enum: tuple(words) for enum, words in raw["enums"].items()}
    fields = {entry["name"]: _read_field(entry, enums) for entry in raw["fields"]}
    custom = [_read_message(name, entry) for entry in raw["messages"]]
    derived = _derive_messages(name, raw["generic"], fields)
    variants = {
        variant: {tag: parse_type(text) for tag, text in cases.items()}
        for variant, cases in raw.get("variants", {}).items()
    }
    messages = {message.name: message for message in (*derived, *custom)}
    return ApiClass(name, raw["doc"], fields, messages, enums, variants)


def _read_field(raw: Mapping[str, Any], enums: Mapping[str, tuple[str, ...]]) -> Field:
    field_type = parse_type(raw["type"])
    return Field(
        name=raw["name"],
        type=field_type,
        access=raw["access"],
        default=_read_default(field_type, raw.get("default"), enums),
        lifecycle=raw.get("lifecycle", "published"),
        doc=raw.get("doc", ""),
    )


def _read_default(field_type: Type, raw: Any, enums: Mapping[str, tuple[str, ...]]) -> object:
    """Give xapi's default, or where it has none what its type starts from."""
    match field_type:
        case SetOf():
            return tuple(raw or ())
        case MapOf():
            return dict(raw or {})
        case Ref():
            return raw or NULL_REF
        case Enum(name):
            return raw or enums[name][0]
        case _:
            return raw if raw is not None else _DEFAULTS[str(field_type)]


def _read_message(class_name: str, raw: Mapping[str, Any]) -> Message:
    return Message(
        class_name=class_name,
        name=raw["name"],
        result=parse_type(raw["result"]),
        params=tuple(
            Parameter(param["name"], parse_type(param["type"]), param.get("optional", False))
            for param in raw["params"]
        ),
        role=raw["role"],
        needs_session=raw.get("session", True),
        errors=tuple(raw.get("errors", ())),
        lifecycle=raw.get("lifecycle", "published"),
        doc=raw["doc"],
    )


def _derive_messages(class_name: str, generic: list[str], fields: Mapping[str, Field]) -> Iterator[Message]:
    """Derive what xapi calls implicit messages; the words for their parameters are xapi's."""
    ref = Ref(class_name)
    record = RecordOf(class_name)
    this = Parameter("self", ref)
    text = Simple("string")
    shapes: Mapping[str, tuple[Kind, Type, tuple[Parameter, ...]]] = {
        "get_all": (Kind.GET_ALL, SetOf(ref), ()),
        "get_all_records": (Kind.GET_ALL_RECORDS, MapOf(ref, record), ()),
        "get_record": (Kind.GET_RECORD, record, (this,)),
        "get_by_uuid": (Kind.GET_BY_UUID, ref, (Parameter("uuid", text),)),
        "get_by_name_label": (Kind.GET_BY_NAME_LABEL, SetOf(ref), (Parameter("label", text),)),
    }
    for name in generic:
        kind, result, params = shapes[name]
        yield Message(class_name, name, result, params, "read-only", kind, doc=f"Get {kind}.")
    for field in fields.values():
        yield Message(
            class_name,
            f"get_{field.name}",
            field.type,
            (this,),
            "read-only",
            Kind.GET_FIELD,
            field,
            lifecycle=field.lifecycle,
            doc=field.doc or f"Get the field {field.name}.",
        )
