"""Writes the specification for authors of clients: what is served, in the shape of xapi's own model.

``python -m xcpmem.api.spec api-spec`` makes the files of that directory which come from the datamodel and
the tree of errors; with ``--check`` it writes nothing and fails if one of them says something else. SDK
generators that read xapi's ``xenapi.json`` read ours: the same members, plus ``async`` for each message.
"""

from __future__ import annotations

import json
import re
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from xcpmem import errors
from xcpmem.api.datamodel import ROLES, load_datamodel
from xcpmem.api.typenames import Simple
from xcpmem.api.values import format_datetime
from xcpmem.law import format_ocaml_float

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from xcpmem.api.datamodel import ApiClass, Datamodel, Field, History, Message

COMMAND: Final = "python -m xcpmem.api.spec api-spec"
"""What to run when the declaration has changed."""

_SESSION: Final = {
    "type": "session ref",
    "name": "session_id",
    "doc": "What a login answered with.",
    "required": True,
}
_KEPT: Final = "Kept as clients give it; means nothing here."
_CONSTANT: Final = "Means nothing here: as in an object that was just made."
_UNUSED: Final = "Means nothing here."
_STEPS: Final = {
    "changed": "Other than before from this release on.",
    "deprecated": "Better not used any more from this release on.",
    "extended": "More than before from this release on.",
    "removed": "No longer part of XenAPI from this release on.",
}
_NEVER_RAISED: Final = "Declared by xapi for this message; xcpmem has no reason to answer it."


def make_files(datamodel: Datamodel | None = None) -> dict[str, str]:
    """Make the text of each generated file, by its name.

    Args:
        datamodel: what is served.
    """
    served = datamodel or load_datamodel()
    known = {error["name"]: error for error in describe_errors()}
    return {
        "xenapi.json": _dump([_class(each, known) for each in served.classes.values()]),
        "errors.json": _dump(list(known.values())),
        "roles.json": _dump([_role(name, served) for name in ROLES]),
    }


def describe_errors() -> list[dict[str, Any]]:
    """List the codes that callers can be answered, with their parameters and the first sentence of each.

    Where several errors share a code, the one that stands first in the tree explains it.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, code, params in re.findall(
        r"(\w+) +([A-Z_]+|Fault) \[([^\]]*)\]$", errors.__doc__ or "", flags=re.MULTILINE
    ):
        sentence = re.sub(r": \[[^\]]*\]|; \[task\] on the wire", "", _sentence(getattr(errors, name)))
        names = [param for param in params.split(", ") if param]
        found.setdefault(code, {"name": code, "params": names, "doc": sentence})
    return sorted(found.values(), key=lambda error: str(error["name"]))


def _sentence(error: type[errors.XcpmemError]) -> str:
    return " ".join((error.__doc__ or "").split("\n\n")[0].split())


def _class(api_class: ApiClass, known: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    fields = api_class.fields.values()
    return {
        "name": api_class.name,
        "description": api_class.doc,
        "fields": [_field(field, field.doc or _meaning(api_class.name, field)) for field in fields],
        "messages": [_message(message, known) for message in api_class.messages.values()],
        "enums": [
            {"name": name, "values": [{"name": word, "doc": doc or _UNUSED} for word, doc in words.items()]}
            for name, words in api_class.enums.items()
        ],
        "lifecycle": _lifecycle("published", api_class.history, api_class.doc),
        "tag": "",
        **({"variants": _variants(api_class)} if api_class.variants else {}),
    }


def _variants(api_class: ApiClass) -> list[dict[str, Any]]:
    return [
        {"name": name, "cases": {case: str(value_type) for case, value_type in cases.items()}}
        for name, cases in api_class.variants.items()
    ]


def _meaning(class_name: str, field: Field) -> str:
    """Say of a field that has no words of its own what may be expected of it."""
    is_kept = field.setter or (class_name == "VM" and field.is_constructed)
    return _KEPT if is_kept else _CONSTANT


def _field(field: Field, doc: str) -> dict[str, Any]:
    described = {
        "name": field.name,
        "description": doc,
        "type": str(field.type),
        "qualifier": field.access,
        "tag": "",
        "lifecycle": _lifecycle(field.lifecycle, field.history, doc),
    }
    return described if field.default is None else {**described, "default": _default(field)}


def _default(field: Field) -> str:
    """Write a default as xapi's model does, which is OCaml's notation."""
    if isinstance(field.default, str):
        return f'"{field.default}"' if isinstance(field.type, Simple) else field.default
    return _literal(field.default)


def _literal(value: object) -> str:
    match value:
        case dict():
            text = f"{{{', '.join(f'{_literal(name)} -> {_literal(item)}' for name, item in value.items())}}}"
        case tuple():
            text = f"{{{', '.join(map(_literal, value))}}}"
        case datetime():
            text = format_datetime(value)
        case float():
            text = format_ocaml_float(value)
        case bool():
            text = str(value).lower()
        case str():
            text = f'"{value}"'
        case _:
            text = str(value)
    return text


def _message(message: Message, known: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    params = [
        {"type": str(param.type), "name": param.name, "doc": param.doc, "required": not param.optional}
        for param in message.params
    ]
    return {
        "name": message.name,
        "description": message.doc,
        "result": [str(message.result), message.doc] if str(message.result) != "void" else ["void"],
        "params": [_SESSION, *params] if message.needs_session else params,
        "errors": [
            {"name": code, "doc": known[code]["doc"] if code in known else _NEVER_RAISED}
            for code in message.errors
        ],
        "roles": list(message.roles),
        "tag": "",
        "lifecycle": _lifecycle(message.lifecycle, message.history, message.doc),
        "implicit": message.is_implicit,
        "async": message.is_async,
    }


def _lifecycle(state: str, history: History, doc: str) -> dict[str, Any]:
    """Tell how something came to be as it is; what ``doc`` says of it holds from the first step on."""
    return {
        "state": f"{state.capitalize()}_s",
        "transitions": [
            {"transition": transition, "release": release, "description": _STEPS.get(transition, "") or doc}
            for transition, release in history
        ],
    }


def _role(name: str, served: Datamodel) -> dict[str, Any]:
    return {
        "name": name,
        "permissions": [message.permission for message in served.messages() if name in message.roles],
    }


def _dump(document: object) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def differing(directory: Path) -> Iterator[str]:
    """Name the files of a directory that say something else than the declaration."""
    for name, text in make_files().items():
        path = directory / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            yield name


def main(words: Sequence[str]) -> int:
    """Write the files into a directory, or with ``--check`` compare them; 1 when that finds a difference."""
    is_check = "--check" in words
    directory = Path(next((word for word in words if word != "--check"), "api-spec"))
    if is_check:
        names = ", ".join(differing(directory))
        if names:
            sys.stderr.write(f"{directory}: {names}: not what is served; run: {COMMAND}\n")
        return 1 if names else 0
    for name, text in make_files().items():
        (directory / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
