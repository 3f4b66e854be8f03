"""What the daemon is told: one frozen `Settings`, from defaults, a TOML file and the command line.

Later sources win. Each setting is declared once, as a field of `Settings` with its reader, its flag (if it
has one) and its help; the TOML file, the command line and ``--help`` come from the fields. A complaint
names the place (file and line, or the command line), the key and why, and fits one line.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Mapping  # noqa: TC003 read by get_type_hints
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple, get_origin, get_type_hints

from xcpmem import __version__
from xcpmem.errors import ConfigError, InvalidValue
from xcpmem.logs import LogFormat, LogLevel, LogTarget
from xcpmem.readers import ADDRESS, BOOLEAN, COUNT, KIB, PATH, SECONDS, TABLE, TABLES, TEXT, Address, choice
from xcpmem.squeezedconf import IMPORT_FLAG, import_squeezed_conf
from xcpmem.units import mib_to_kib
from xcpmem.usage import HELP

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from xcpmem.readers import Reader

DEFAULT_LISTEN: Final = Address("127.0.0.1", 8080)
_COMMAND_LINE: Final = "command line"
_UNIX_PATH_LIMIT: Final = 107  # sun_path of Linux unix(7), less the closing NUL


class DriverKind(StrEnum):
    """Which host is behind the driver."""

    SIMULATED = "simulated"
    XEN = "xen"


class OverheadFormula(StrEnum):
    """Which of xapi's formulas for a VM's memory overhead: since 26.3, or before."""

    NEW = "new"
    OLD = "old"


class Setting(NamedTuple):
    """What a field of `Settings` is beside its type and default.

    Args:
        reader: makes the value from TOML or text.
        about: one line for ``--help``.
        flag: what stands after the option on the command line (``FILE``, or ``switch`` for nothing); empty
            if it is no option.
        is_input: a file that must exist.
    """

    reader: Reader
    about: str
    flag: str = ""
    is_input: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything the daemon is told, checked.

    ``origins`` says by key where each was given that was: a file and line, or the command line.

    Raises:
        ConfigError: two settings contradict each other.
    """

    driver: Annotated[DriverKind, Setting(choice(DriverKind), "the host to balance", "simulated|xen")] = (
        DriverKind.SIMULATED
    )
    scenario: Annotated[
        str, Setting(TEXT, "simulated host: default, quiet, fleet:N or a scenario file", "NAME|FILE")
    ] = "default"
    host: Annotated[
        Path | None,
        Setting(PATH, "attach to what 'xcpmem simhost' runs, as it is unless a scenario is named", "PATH"),
    ] = None
    listen: Annotated[
        Address, Setting(ADDRESS, "TCP address to serve; port 0 takes a free one", "HOST:PORT")
    ] = DEFAULT_LISTEN
    socket: Annotated[
        Path | None, Setting(PATH, "Unix socket to serve; default <state-dir>/xcpmem.sock", "PATH")
    ] = None
    state_dir: Annotated[
        Path,
        Setting(
            PATH,
            "where state is kept; default /var/lib/xcpmem for root on Xen, else $XDG_STATE_HOME/xcpmem",
            "DIR",
        ),
    ]
    tls_cert: Annotated[
        Path | None, Setting(PATH, "certificate chain, PEM: TCP then speaks TLS", "FILE", is_input=True)
    ] = None
    tls_key: Annotated[
        Path | None, Setting(PATH, "its private key, PEM, without a passphrase", "FILE", is_input=True)
    ] = None
    root_password_file: Annotated[
        Path | None,
        Setting(
            PATH,
            "password of user root; default <state-dir>/root.password, made at first start",
            "FILE",
            is_input=True,
        ),
    ] = None
    pam_service: Annotated[
        str | None, Setting(TEXT, "PAM service that knows users without a password here; needs xcpmem[pam]")
    ] = None
    trusted_origins: Annotated[
        str | None, Setting(TEXT, "pages of browsers that may call beside our own: https://xo.example, ...")
    ] = None
    read_token_file: Annotated[
        Path | None,
        Setting(PATH, "token for other machines to read /metrics and pages", is_input=True),
    ] = None
    policy: Annotated[str, Setting(TEXT, "how memory is divided", "NAME")] = "proportional"
    policy_parameters: Annotated[
        Mapping[str, object] | None, Setting(TABLE, "its parameters, a table; see 'xcpmem policy-list'")
    ] = None
    shadow_parameters: Annotated[
        Mapping[str, Mapping[str, object]] | None,
        Setting(TABLES, "by policy, parameters that it has as a shadow, a table each"),
    ] = None
    observe: Annotated[
        bool, Setting(BOOLEAN, "look and plan beside another balancer, touch nothing", "switch")
    ] = False
    squeezed_socket: Annotated[
        Path | None, Setting(PATH, "serve squeezed's own protocol there; xapi's: /var/xapi/memory", "PATH")
    ] = None
    message_switch: Annotated[
        Path | None,
        Setting(PATH, "serve squeezed's queue; xapi's switch: /var/run/message-switch/sock", "PATH"),
    ] = None
    boot_memory_file: Annotated[
        Path, Setting(PATH, "in squeezed's place: what was free at boot, shared with it; bytes")
    ] = Path("/var/run/nonpersistent/xapi/boot_time_memory")
    allow_plain_beyond_loopback: Annotated[
        bool, Setting(BOOLEAN, "serve other machines without TLS: passwords cross the net readable")
    ] = False
    safety_look_s: Annotated[float, Setting(SECONDS, "look at the host at least this often")] = 30.0
    slush_kib: Annotated[int, Setting(KIB, "on Xen: memory always left free; as squeezed")] = 73728
    manage_domain_zero: Annotated[
        bool, Setting(BOOLEAN, "balance domain 0 as well, between domain_zero_dynamic_min_kib and its size")
    ] = False
    domain_zero_dynamic_min_kib: Annotated[
        int, Setting(KIB, "domain 0 is never asked below this; as squeezed")
    ] = mib_to_kib(1024)
    patience_s: Annotated[float, Setting(SECONDS, "a guest without progress for so long is set aside")] = 5.0
    overhead_formula: Annotated[
        OverheadFormula, Setting(choice(OverheadFormula), "xapi's overhead of a VM: since 26.3, or before")
    ] = OverheadFormula.NEW
    most_vms: Annotated[int, Setting(COUNT, "clients may create VM records until there are so many")] = 10_000
    removed_getters: Annotated[
        bool, Setting(BOOLEAN, "answer getters of fields that xapi has removed; xapi itself refuses")
    ] = True
    session_idle_s: Annotated[float, Setting(SECONDS, "an unused session ends after this; as xapi")] = 86400.0
    reservation_orphan_s: Annotated[
        float, Setting(SECONDS, "after a restart, reservations that nobody claims are given back")
    ] = 600.0
    journal_rows: Annotated[int, Setting(COUNT, "decisions kept for 'xcpmem history'; 0: none")] = 100_000
    journal_kib: Annotated[int, Setting(KIB, "what they take of the disk at most")] = mib_to_kib(64)
    log_level: Annotated[LogLevel, Setting(choice(LogLevel), "least severity that is logged")] = LogLevel.INFO
    log_format: Annotated[
        LogFormat, Setting(choice(LogFormat), "auto is text on a terminal, kv (key=value) elsewhere")
    ] = LogFormat.AUTO
    log_to: Annotated[LogTarget, Setting(choice(LogTarget), "auto: journald or stderr")] = LogTarget.AUTO
    check_config: bool = False
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("settings", "tls_cert", "needs tls_key, and tls_key needs tls_cert")
        if not (self.listen.is_loopback or self.tls_cert or self.allow_plain_beyond_loopback):
            why = (
                f"{self.listen} can be reached from other machines: needs tls_cert and tls_key, "
                "or allow_plain_beyond_loopback = true"
            )
            raise ConfigError("settings", "listen", why)
        if self.observe and self.is_drop_in:
            key = "squeezed_socket" if self.squeezed_socket else "message_switch"
            raise ConfigError("settings", key, "not with observe: squeezed itself serves there")
        if self.host is not None and self.driver is not DriverKind.SIMULATED:
            raise ConfigError("settings", "host", 'only with driver = "simulated"')
        length = len(os.fsencode(self.socket_path))
        if length > _UNIX_PATH_LIMIT:
            key = "state_dir" if self.socket is None else "socket"
            raise ConfigError(
                "settings", key, f"{self.socket_path} is {length} bytes, a socket's path at most 107"
            )

    @property
    def is_drop_in(self) -> bool:
        """Whether it serves in squeezed's place."""
        return self.squeezed_socket is not None or self.message_switch is not None

    @property
    def socket_path(self) -> Path:
        """The Unix socket: as set, else in the state dir."""
        return self.socket or self.state_dir / "xcpmem.sock"


@cache
def declared_settings() -> Mapping[str, Setting]:
    """Name every key of the TOML file, in the order of declaration."""
    hints = get_type_hints(Settings, include_extras=True)
    return {key: hint.__metadata__[0] for key, hint in hints.items() if get_origin(hint) is Annotated}


def _flag_of(key: str) -> str:
    return "--" + key.replace("_", "-")


class _Given(NamedTuple):
    """A value as a source gave it, and how to speak of the place."""

    value: object
    where: str
    name: str


def _suggestion(word: str, known: Iterable[str]) -> str:
    matches = get_close_matches(word, list(known), n=1)
    return f", did you mean {matches[0]}?" if matches else ""


def _read_argv(argv: Sequence[str]) -> dict[str, _Given]:
    flags = {"--config": "FILE", "--check-config": "switch"}
    flags |= {_flag_of(key): setting.flag for key, setting in declared_settings().items() if setting.flag}
    given: dict[str, _Given] = {}
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name not in flags:
            known = [*flags, "--help", "--version"]
            raise ConfigError(_COMMAND_LINE, name, f"unknown option{_suggestion(name, known)}")
        key = name.removeprefix("--").replace("-", "_")
        if key in given:
            raise ConfigError(_COMMAND_LINE, name, "given twice")
        if flags[name] == "switch":
            if equals:
                raise ConfigError(_COMMAND_LINE, name, "takes no value")
            given[key] = _Given(True, _COMMAND_LINE, name)
            continue
        if not equals:
            value = next(words, "")
        if not value or (not equals and value.startswith("--")):
            raise ConfigError(_COMMAND_LINE, name, f"needs a value, {flags[name]}")
        given[key] = _Given(value, _COMMAND_LINE, name)
    return given


def _read_toml(path: Path) -> dict[str, _Given]:
    try:
        text = path.read_text(encoding="utf-8")
        table = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(str(path), "", f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # TOML's and UTF-8's errors, both with the place
        raise ConfigError(str(path), "", f"is not TOML: {' '.join(str(error).split())}") from error
    known = declared_settings()
    given: dict[str, _Given] = {}
    for key, value in table.items():
        line = next((n for n, row in enumerate(text.splitlines(), 1) if _names(row, key)), None)
        where = f"{path}:{line}" if line else str(path)
        if key not in known:
            raise ConfigError(where, key, f"unknown key{_suggestion(key, known)}")
        given[key] = _Given(value, where, key)
    return given


def _names(row: str, key: str) -> bool:
    return re.match(rf"\s*\[*\s*[\"']?{re.escape(key)}[\"']?\s*[.=\]]", row) is not None


def default_state_dir(driver: DriverKind, environ: Mapping[str, str], euid: int) -> Path:
    """Choose where state is kept when nobody says so.

    Args:
        driver: the real host's daemon keeps its state with the system's, a simulated one with the user's.
        environ: ``XDG_STATE_HOME`` and ``HOME`` are looked up.
        euid: effective user id; 0 is root.

    Raises:
        ConfigError: the user has no home directory.
    """
    if driver is DriverKind.XEN and euid == 0:
        return Path("/var/lib/xcpmem")
    state_home = environ.get("XDG_STATE_HOME", "")
    if state_home.startswith("/"):  # the XDG specification has relative paths ignored
        return Path(state_home) / "xcpmem"
    if not (home := environ.get("HOME", "")):
        raise ConfigError("environment", "HOME", "is not set: say where with --state-dir")
    return Path(home) / ".local/state/xcpmem"


def parse_command_line(
    argv: Sequence[str], environ: Mapping[str, str] | None = None, euid: int | None = None
) -> Settings:
    """Make the settings from ``xcpmemd``'s arguments and the TOML file that they name.

    Args:
        argv: without the program's name.
        environ: for the default state dir; the process's own if None.
        euid: as for `default_state_dir`; the process's own if None.

    Raises:
        ConfigError: one line for people; the program ends with status 2.
        SystemExit: with status 0, after ``--help``, ``--version`` or ``--import-squeezed-conf`` was answered
            on standard output.
    """
    if "--help" in argv or "-h" in argv:
        sys.stdout.write(help_text())
        raise SystemExit(0)
    if "--version" in argv:
        sys.stdout.write(f"xcpmemd {__version__}\n")
        raise SystemExit(0)
    if argv and argv[0] == IMPORT_FLAG:
        sys.stdout.write(import_squeezed_conf(Path(argv[1] if len(argv) > 1 else "/etc/squeezed.conf")))
        raise SystemExit(0)
    given = _read_argv(argv)
    check_config = given.pop("check_config", None) is not None
    config = given.pop("config", None)
    if config is not None:
        given = _read_toml(Path(str(config.value))) | given
    values = {key: _read_setting(declared_settings()[key], source) for key, source in given.items()}
    if "state_dir" not in values:
        values["state_dir"] = default_state_dir(
            values.get("driver", DriverKind.SIMULATED),
            os.environ if environ is None else environ,
            os.geteuid() if euid is None else euid,
        )
    try:
        return Settings(check_config=check_config, origins={k: v.where for k, v in given.items()}, **values)
    except ConfigError as error:
        origin = given.get(error.key)
        if origin is None:
            raise
        raise ConfigError(origin.where, origin.name, error.why) from error


def _read_setting(setting: Setting, given: _Given) -> Any:
    try:
        made = setting.reader.read(given.value)
        is_missing = setting.is_input and isinstance(made, Path) and not made.is_file()
    except (ValueError, InvalidValue, OSError, RuntimeError) as error:  # RuntimeError: ~ without a home
        why = f"expected {setting.reader.expected}, got {given.value!r}"
        raise ConfigError(given.where, given.name, why) from error
    if is_missing:
        raise ConfigError(given.where, given.name, f"no such file: {made}")
    return made


def help_text() -> str:
    """Write what ``--help`` shows: every option and key with its default, and examples."""
    options = [("--config FILE", "read settings from a TOML file; the command line wins")]
    keys = []
    defaults = {field.name: field.default for field in fields(Settings)}
    for key, (_, about, flag, _) in declared_settings().items():
        note = ""
        if defaults[key] not in (None, MISSING):
            note = f" [{str(defaults[key]).lower()}]"
        if flag:
            name = _flag_of(key)
            options.append((name if flag == "switch" else f"{name} {flag}", about + note))
        else:
            keys.append((key, about + note))
    options += [
        ("--check-config", "check the settings, say so and end: 0 if good, 2 if not"),
        ("--import-squeezed-conf FILE", "print the TOML file that says what squeezed's says, and end"),
        ("--version", "print the version and end"),
        ("--help", "print this and end"),
    ]
    return HELP.format(options=_columns(options), keys=_columns(keys))


def _columns(rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(left) for left, _ in rows)
    return "\n".join(f"  {left:<{width}}  {right}" for left, right in rows)
