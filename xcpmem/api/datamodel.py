"""XenAPI as it is served: classes, fields, messages, types and roles, declared once in ``model.json``.

Dispatch, arity, marshalling, getters, defaults, the specification and the command line's completion all
come from here. ``model.json`` lists fields and the messages that do something of their own; what xapi
derives from fields (``get_all``, ``get_record``, ``get_uuid``, …) is derived here as well. Names, types,
order of parameters, roles and errors are xapi's (a test compares them with xapi's own model); class
``Memory`` is ours, the words are ours.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from xcpmem.api.typenames import MapOf, RecordOf, Ref, SetOf, Simple, default_of, parse_type

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from xcpmem.api.typenames import Type

ROLES: Final = (
    "pool-admin",
    "pool-operator",
    "vm-power-admin",
    "vm-admin",
    "vm-operator",
    "client-cert",
    "read-only",
)

History = tuple[tuple[str, str], ...]

UNDOCUMENTED: Final = ("get_all_records_where", "get_all_where")
"""Served for every class that can be listed; xapi has them too, and leaves them out of its documents."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a class.

    Args:
        name: as in records.
        type: of its value.
        access: ``RW``, ``RO/constructor`` or ``RO/runtime``.
        default: what a record has where nothing better is known, of the right type.
        lifecycle: ``published``, ``prototyped``, ``deprecated`` or ``removed``.
        history: how it came to that: pairs of a transition and xapi's release, the first one first.
        setter: the least role that may write it, empty where nobody may or a message of its own does it.
        doc: what it is, empty where the name says it all.
    """

    name: str
    type: Type
    access: str
    default: object
    lifecycle: str
    history: History
    setter: str
    doc: str

    @property
    def is_constructed(self) -> bool:
        """Whether it can be given when an object is made."""
        return self.access != "RO/runtime"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a message, the session not being one."""

    name: str
    type: Type
    optional: bool = False
    doc: str = ""


class Kind(StrEnum):
    """Where a message's answer comes from."""

    CUSTOM = "a handler of its own"
    GET_ALL = "the references of a class"
    GET_ALL_RECORDS = "the records of a class"
    GET_RECORD = "one record"
    GET_BY_UUID = "the reference for a uuid"
    GET_BY_NAME_LABEL = "the references for a name"
    GET_WHERE = "the references of a class to which an expression applies"
    GET_RECORDS_WHERE = "the records of a class to which an expression applies"
    GET_FIELD = "one field of one record"
    SET_FIELD = "a field that is the clients' own, written anew"
    ADD_KEY = "a key that is new in a map"
    REMOVE_KEY = "a key that is no longer in a map"
    ADD_MEMBER = "a member that is now in a set"
    REMOVE_MEMBER = "a member that is no longer in a set"


_EXPRESSION: Final = 'Such as: field "power_state"="Running" and not field "is_control_domain"="true".'

_OF_THE_HOST: Final = frozenset({"VM", "host", "Memory"})


@dataclass(frozen=True)
class Message:
    """A call.

    Args:
        class_name: its class.
        name: without the class.
        result: type of the answer.
        params: in the order of the wire, without the session.
        role: the least role that may call it.
        kind: who answers.
        field: for what reads or writes one, the field.
        needs_session: whether the first parameter on the wire is a session.
        errors: the codes that xapi declares, far from all that can happen.
        lifecycle: as for fields.
        history: as for fields.
        doc: what it does.
        is_async: whether there is an ``Async.`` form, which answers with a task.
        is_implicit: whether xapi derives it from the class, as it does most that are derived here.
        admits_client_cert: whether programs of other hosts may call it, which have a certificate and no role.
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
    history: History = ()
    doc: str = ""
    is_async: bool = False
    is_implicit: bool = False
    admits_client_cert: bool = False

    @cached_property
    def wire_name(self) -> str:
        """The name that clients call: ``VM.set_memory``."""
        return f"{self.class_name}.{self.name}"

    @cached_property
    def permission(self) -> str:
        """The name that roles are said to permit or deny: ``vm.set_memory``."""
        return self.wire_name.lower()

    @cached_property
    def roles(self) -> tuple[str, ...]:
        """All roles that may call it, the mightiest first; a client certificate reads, and little more."""
        allowed = ROLES[: ROLES.index(self.role) + 1]
        if self.role == "read-only":
            return allowed
        ordinary = tuple(role for role in allowed if role != "client-cert")
        return (*ordinary, "client-cert") if self.admits_client_cert else ordinary

    @cached_property
    def changes_host(self) -> bool:
        """Whether it changes VMs or what is reserved, or may: what is not done where we only observe."""
        return self.class_name in _OF_THE_HOST and self.role != "read-only"

    @cached_property
    def types(self) -> tuple[Type, ...]:
        """The parameters' types."""
        return tuple(param.type for param in self.params)

    @cached_property
    def required(self) -> int:
        """How many parameters must be there, the session not counted."""
        return sum(not param.optional for param in self.params)

    def accepts(self, count: int) -> bool:
        """Tell whether so many parameters will do; a message with optional ones takes any surplus."""
        return count >= self.required if self.required < len(self.params) else count == self.required


@dataclass(frozen=True, slots=True)
class ApiClass:
    """A class: its fields and messages by name, its enumerations' words by name, each with what it means."""

    name: str
    doc: str
    history: History
    fields: Mapping[str, Field]
    messages: Mapping[str, Message]
    enums: Mapping[str, Mapping[str, str]]
    variants: Mapping[str, Mapping[str, Type]]


class Datamodel:
    """All classes, the words of all enumerations, and every message under each of its spellings.

    Args:
        classes: in the order in which they are listed.
    """

    def __init__(self, classes: tuple[ApiClass, ...]) -> None:
        self.classes: Mapping[str, ApiClass] = {api_class.name: api_class for api_class in classes}
        self.enums: Mapping[str, tuple[str, ...]] = {
            name: tuple(words) for api_class in classes for name, words in api_class.enums.items()
        }
        self._messages = {message.wire_name: message for message in self.messages()}
        self._spellings = {name.replace(".", "_"): message for name, message in self._messages.items()}
        self._spellings.update(self._messages)
        self._permissions: dict[str, tuple[str, ...]] = {}

    def messages(self) -> Iterator[Message]:
        """Go through all messages, class by class."""
        for api_class in self.classes.values():
            yield from api_class.messages.values()

    def permissions_of(self, role: str) -> tuple[str, ...]:
        """List what a role permits, in alphabetical order: ``vm.set_memory`` and the like."""
        if role not in self._permissions:
            self._permissions[role] = tuple(
                sorted(message.permission for message in self.messages() if role in message.roles)
            )
        return self._permissions[role]

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
    enums = {
        enum: words if isinstance(words, dict) else dict.fromkeys(words, "")
        for enum, words in raw["enums"].items()
    }
    fields = {entry["name"]: _read_field(entry, enums) for entry in raw["fields"]}
    history = _read_history(raw["history"])
    custom = [_read_message(name, entry, history) for entry in raw["messages"]]
    derived = _derive_messages(name, raw["generic"], fields, history)
    variants = {
        variant: {tag: parse_type(text) for tag, text in cases.items()}
        for variant, cases in raw.get("variants", {}).items()
    }
    messages = {message.name: message for message in (*derived, *custom)}
    return ApiClass(name, raw["doc"], history, fields, messages, enums, variants)


def _read_field(raw: Mapping[str, Any], enums: Mapping[str, Mapping[str, str]]) -> Field:
    field_type = parse_type(raw["type"])
    return Field(
        name=raw["name"],
        type=field_type,
        access=raw["access"],
        default=default_of(field_type, raw.get("default"), enums),
        lifecycle=raw.get("lifecycle", "published"),
        history=_read_history(raw["history"]),
        setter=raw.get("setter", ""),
        doc=raw.get("doc", ""),
    )


def _read_history(text: str) -> History:
    """Read a history: ``published rio, deprecated midnight-ride``."""
    steps = (step.partition(" ") for step in text.split(", ") if step)
    return tuple((transition, release) for transition, _, release in steps)


def _read_message(class_name: str, raw: Mapping[str, Any], of_class: History) -> Message:
    return Message(
        class_name=class_name,
        name=raw["name"],
        result=parse_type(raw["result"]),
        params=tuple(
            Parameter(param["name"], parse_type(param["type"]), param.get("optional", False), param["doc"])
            for param in raw["params"]
        ),
        role=raw["role"],
        needs_session=raw.get("session", True),
        errors=tuple(raw.get("errors", ())),
        lifecycle=raw.get("lifecycle", "published"),
        history=_read_history(raw["history"]) if "history" in raw else of_class,
        doc=raw["doc"],
        is_async=raw.get("async", False),
        is_implicit=raw.get("implicit", False),
        admits_client_cert=raw.get("client_cert", False),
    )


def _derive_messages(
    class_name: str, generic: list[str], fields: Mapping[str, Field], history: History
) -> Iterator[Message]:
    """Derive what xapi calls implicit messages; the words for their parameters are xapi's.

    Only objects that one can ask for have getters: an event has fields, but comes and goes.
    """
    ref = Ref(class_name)
    record = RecordOf(class_name)
    this = Parameter("self", ref, doc="The object.")
    text = Simple("string")
    expression = Parameter("expr", text, doc=_EXPRESSION)
    label = Parameter("label", text, doc="The name.")
    shapes: Mapping[str, tuple[Kind, Type, tuple[Parameter, ...]]] = {
        "get_all": (Kind.GET_ALL, SetOf(ref), ()),
        "get_all_records": (Kind.GET_ALL_RECORDS, MapOf(ref, record), ()),
        "get_record": (Kind.GET_RECORD, record, (this,)),
        "get_by_uuid": (Kind.GET_BY_UUID, ref, (Parameter("uuid", text, doc="Of the object."),)),
        "get_by_name_label": (Kind.GET_BY_NAME_LABEL, SetOf(ref), (label,)),
        "get_all_where": (Kind.GET_WHERE, SetOf(ref), (expression,)),
        "get_all_records_where": (Kind.GET_RECORDS_WHERE, MapOf(ref, record), (expression,)),
    }
    filtered = UNDOCUMENTED if "get_all_records" in generic else ()
    for name in (*generic, *filtered):
        kind, result, params = shapes[name]
        yield Message(
            class_name,
            name,
            result,
            params,
            "read-only",
            kind,
            history=history,
            doc=f"Get {kind}.",
            is_implicit=True,
        )
    for field in fields.values() if "get_record" in generic else ():
        yield Message(
            class_name,
            f"get_{field.name}",
            field.type,
            (this,),
            "read-only",
            Kind.GET_FIELD,
            field,
            lifecycle=field.lifecycle,
            history=field.history,
            doc=field.doc or f"Get the field {field.name}.",
            is_implicit=True,
        )
    for field in fields.values():
        if field.setter:
            yield from _derive_setters(class_name, this, field)


def _derive_setters(class_name: str, this: Parameter, field: Field) -> Iterator[Message]:
    """Derive what writes a field that is the clients' own: one message, and two more for a part of it."""
    name = field.name
    parts: tuple[tuple[str, Kind, tuple[Parameter, ...], str], ...] = ()
    match field.type:
        case MapOf(key_type, value_type):
            key = Parameter("key", key_type, doc="The key.")
            value = Parameter("value", value_type, doc="Its value.")
            parts = (
                (f"add_to_{name}", Kind.ADD_KEY, (key, value), f"Add a key that is new to the map {name}."),
                (f"remove_from_{name}", Kind.REMOVE_KEY, (key,), f"Remove a key from the map {name}."),
            )
        case SetOf(of):
            member = Parameter("value", of, doc="The member.")
            parts = (
                (f"add_{name}", Kind.ADD_MEMBER, (member,), f"Add a member to the set {name}."),
                (f"remove_{name}", Kind.REMOVE_MEMBER, (member,), f"Remove a member of the set {name}."),
            )
    new = Parameter("value", field.type, doc="The new value.")
    whole = (f"set_{name}", Kind.SET_FIELD, (new,), f"Write the field {name}.")
    for message, kind, params, doc in (whole, *parts):
        yield Message(
            class_name,
            message,
            Simple("void"),
            (this, *params),
            field.setter,
            kind,
            field,
            lifecycle=field.lifecycle,
            history=field.history,
            doc=doc,
            is_implicit=field.access == "RW",
        )
