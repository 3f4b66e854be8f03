"""The manual pages, written from the declarations of commands and settings: ``deploy/man``.

``python -m xcpmem.manual deploy/man`` writes them anew; a test holds them to what is declared. The form is
man(7)'s.
"""

from __future__ import annotations

import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Final

from xcpmem.api.cli_catalog import COMMANDS, GROUPS, HOST_SELECTORS, VM_SELECTORS
from xcpmem.api.cli_help import selectors_help
from xcpmem.api.cli_keys import MEANINGS
from xcpmem.config import Settings, declared_settings
from xcpmem.xen.simulated import ACTED_OUT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from xcpmem.api.cli_catalog import Command
    from xcpmem.config import Setting

SIMULATED_CALLS: Final = tuple(sorted(ACTED_OUT))

COMMAND: Final = "make man"
"""What to run when a command or a setting has changed."""


_STATE_FILES: Final = {
    "state.db": "VM records, limits, users.",
    "journal.db": "What was decided; may be deleted while the daemon is down.",
    "root.password": "Root's password, made at the first start.",
    "audit.log": "Who changed what, from where, and what it was before, a JSON object a line; when it is "
    "full it becomes audit.log.1.",
    "audit.pending": "Changes that have begun and whose end is not noted yet.",
    "images/": "What suspended VMs held, a file each: it is all there is of their memory.",
    "lock": "Held by the daemon that has this folder.",
}


def make_pages() -> dict[str, str]:
    """Make the text of each page, by its file's name."""
    return {
        "xcpmem.1": _page("xcpmem", 1, _client_page()),
        "xcpmemd.8": _page("xcpmemd", 8, _daemon_page()),
        "xcpmem.toml.5": _page("xcpmem.toml", 5, _settings_page()),
    }


def differing(folder: Path) -> Iterator[str]:
    """Name the pages in a folder that do not say what is declared."""
    for name, text in make_pages().items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            yield name


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pages into the folder that is named; return the exit status."""
    (folder,) = map(Path, sys.argv[1:] if argv is None else argv)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in make_pages().items():
        (folder / name).write_text(text, encoding="utf-8")
    return 0


def escape(text: str) -> str:
    """Keep a text from being read as a request or an escape of roff."""
    plain = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{plain}" if plain.startswith((".", "'")) else plain


def _page(name: str, section: int, lines: Iterable[str]) -> str:
    head = [f'.TH {name.upper()} {section} "" "xcpmem" "Memory control for Xen hosts"', ".nh", ".ad l"]
    return "\n".join([*head, *lines, ""])


def _paragraphs(*texts: str) -> Iterator[str]:
    for text in texts:
        yield ".PP"
        yield escape(text)


def _entry(tag: str, *texts: str) -> Iterator[str]:
    """Write a hanging paragraph: its tag in bold, then the texts."""
    yield ".TP"
    yield f".B {escape(tag)}"
    for at, text in enumerate(texts):
        if at:
            yield ".br"
        yield escape(text)


def _example(*lines: str) -> Iterator[str]:
    yield from (".PP", ".RS 4", ".nf", *(escape(line) for line in lines), ".fi", ".RE")


def _client_page() -> Iterator[str]:
    yield from (".SH NAME", escape("xcpmem - look at the memory of Xen guests and set its limits"))
    yield from (".SH SYNOPSIS", ".B xcpmem")
    yield escape("[-s server|socket] [-p port] [-u user] [-pw password | -pwf file] [--nossl] [--minimal]")
    yield escape("command [key=value ...]")
    yield ".SH DESCRIPTION"
    yield from _paragraphs(
        "xcpmem speaks as xe does: the same commands, arguments, output and exit codes for everything about "
        "memory. Without -s it asks the daemon on this machine, over its Unix socket, where root needs no "
        "password. Sizes are bytes unless they say KiB, MiB, GiB or TiB; KB, MB, GB and TB mean the same as "
        "these, as in xe."
    )
    yield ".SH OPTIONS"
    yield from _entry("-s server", "Host name, address, or the path of a Unix socket.")
    yield from _entry("-p port", "TCP port; 8080 unless said.")
    yield from _entry("-u user, -pw password", "Whom to log in as.")
    yield from _entry("-pwf file", "User on the first line, password on the second.")
    yield from _entry("--nossl", "Speak in clear to another machine as well.")
    yield from _entry("--minimal", "Print values alone, joined by commas, for scripts.")
    yield ".SH COMMANDS"
    for group in GROUPS:
        yield f".SS {escape(group)}"
        for command in COMMANDS.values():
            if command.group == group and not command.alias_of:
                yield from _command(command)
    yield ".SH SELECTORS"
    for selectors in (VM_SELECTORS, HOST_SELECTORS):
        yield from _entry(selectors, selectors_help(selectors, "xcpmem"))
    yield ".SH ENVIRONMENT"
    yield from _entry("XCPMEM_SOCKET", "The daemon's socket, if it is not /run/xcpmem/xcpmem.sock.")
    yield from _entry(
        "XE_SERVER, XE_PORT, XE_USERNAME, XE_PASSWORD, XE_PASSWORDFILE, XE_NOSSL, XE_DEBUG, XE_EXTRA_ARGS",
        "As for xe; options win over them, they win over ~/.xe, lines of key=value.",
    )
    yield from _entry("NO_COLOR", "If it is set, top uses no colours.")
    yield ".SH EXIT STATUS"
    yield from _paragraphs(
        "0 if the command did what it says, 1 if not; the reason is on standard error. The local tools "
        "simulate, simhost and replay end with 2 for words or a file that cannot be read."
    )
    yield ".SH EXAMPLES"
    yield from _example(
        "xcpmem vm-list params=name-label,memory-dynamic-min,memory-dynamic-max,memory-actual",
        "xcpmem plan vm=web1 dynamic-min=1GiB dynamic-max=2GiB",
        "xcpmem vm-memory-dynamic-range-set vm=web1 min=1GiB max=2GiB",
        "xcpmem history since=2h",
    )
    yield from (".SH SEE ALSO", ".BR xcpmemd (8),", ".BR xcpmem.toml (5)")


def _command(command: Command) -> Iterator[str]:
    texts = [command.summary]
    if command.required:
        texts.append(f"Required: {', '.join(command.required)}.")
    optional = [*command.optional, *filter(None, [command.selectors])]
    if optional:
        texts.append(f"Optional: {', '.join(optional)}.")
    texts += [f"{key}: {meaning}." for key, meaning in MEANINGS.get(command.name, {}).items()]
    texts.append(f"Example: xcpmem {command.name} {command.example}".rstrip())
    yield from _entry(command.name, *texts)


def _daemon_page() -> Iterator[str]:
    yield from (".SH NAME", escape("xcpmemd - balance the memory of a Xen host's domains"))
    yield from (".SH SYNOPSIS", ".B xcpmemd", escape("[--config FILE] [options]"))
    yield ".SH DESCRIPTION"
    yield from _paragraphs(
        "xcpmemd tells the balloon drivers of the running domains how much to hold, so that everybody has as "
        "much as fits and a new domain finds room. It serves XenAPI for everything about memory, the command "
        "line of xcpmem(1), a dashboard and metrics.",
        "When it serves, it prints one line on standard output: xcpmemd ready url=... socket=... state=... "
        "Logs go to standard error.",
        "Every option is also a key of the TOML file, with _ for -; the command line wins. The keys that are "
        "no options stand in xcpmem.toml(5).",
        "A simulated host runs in the daemon and begins anew with it, or by itself: xcpmem simhost "
        "--scenario NAME|FILE --socket PATH, to which daemons attach with --host PATH. Such a host is taken "
        "as it is: it hands over the VMs, the memory to be kept free and the policy of its scenario, unless "
        "--scenario names one to be believed instead.",
        f"Of a scenario file's script a simulated host acts out {', '.join(SIMULATED_CALLS)}; the daemon (or "
        "simhost) names the other calls in a warning, and leaves them to clients. xcpmem simulate FILE acts "
        "out all.",
    )
    yield ".SH OPTIONS"
    yield from _entry("--config FILE", "Read settings from a TOML file.")
    for key, setting in declared_settings().items():
        if setting.flag:
            flag = "" if setting.flag == "switch" else f" {setting.flag}"
            yield from _entry(f"--{key.replace('_', '-')}{flag}", *_about(key, setting))
    yield from _entry(
        "--check-config",
        "Check the settings and what they name, say so and end: 0 if they are good, 2 if not. The host is "
        "not asked, and what a running daemon has, its state dir and its addresses, counts as good.",
    )
    yield from _entry("--version", "Print the version and end.")
    yield from _entry("--help", "Print a summary and end.")
    yield ".SH ENVIRONMENT"
    yield from _entry(
        "XCPMEM_LOG",
        "Overrides log_level: debug, or info,xcpmem.xen=debug for one part of the program.",
    )
    yield ".SH SIGNALS"
    yield from _entry("SIGTERM, SIGINT", "End within 5 s: callers that wait are told, all domains stay.")
    yield from _entry(
        "SIGHUP",
        "Read the certificate again, for connections to come. Without TLS, end as after SIGTERM, for that "
        "is what a terminal sends that is closed; but where a service manager waits for the daemon "
        "(NOTIFY_SOCKET is set), or under nohup, say in the log that there is none. Other settings are read "
        "at a start alone.",
    )
    yield ".SH FILES"
    yield from _entry("/etc/xcpmem/xcpmem.toml", "Settings, where the systemd unit looks for them.")
    for name, about in _STATE_FILES.items():
        yield from _entry(f"/var/lib/xcpmem/{name}", about)
    yield from _entry("/run/xcpmem/xcpmem.sock", "The Unix socket.")
    yield ".SH EXIT STATUS"
    yield from _paragraphs(
        "0 after SIGTERM, 1 if it cannot serve, 2 for a setting that cannot be, with one line that says "
        "where it was given, its key and why; no domain was touched then. An address or a state dir that "
        "another program has is 2 as well, but 1 for a service manager (NOTIFY_SOCKET is set), which is to "
        "try again."
    )
    yield from (".SH SEE ALSO", ".BR xcpmem (1),", ".BR xcpmem.toml (5)")


def _settings_page() -> Iterator[str]:
    yield from (".SH NAME", escape("xcpmem.toml - settings of xcpmemd"))
    yield ".SH DESCRIPTION"
    yield from _paragraphs(
        "A TOML file that xcpmemd(8) reads with --config. A key that it does not know, or a value that "
        "cannot be, ends it with one line that names file, line, key and reason.",
    )
    yield from _example("xcpmemd --config /etc/xcpmem/xcpmem.toml --check-config")
    yield ".SH KEYS"
    for key, setting in declared_settings().items():
        yield from _entry(key, *_about(key, setting))
    yield from (".SH SEE ALSO", ".BR xcpmemd (8)")


def _about(key: str, setting: Setting) -> list[str]:
    """Explain a setting: what it is, what it may be, and its default."""
    texts = [f"{setting.about[0].upper()}{setting.about[1:]}.", f"Expected: {setting.reader.expected}."]
    default = {each.name: each.default for each in fields(Settings)}[key]
    if default is not None and default is not MISSING:
        texts.append(f"Default: {str(default).lower() if isinstance(default, bool) else default}.")
    return texts


if __name__ == "__main__":
    sys.exit(main())
