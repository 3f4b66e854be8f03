"""``xcpmemd``: reads its settings, and serves until it is told to end.

What serves is imported once the settings are good, so that whoever mistyped one hears of it at once.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from xcpmem import logs, notify
from xcpmem.config import parse_command_line
from xcpmem.errors import ConfigError, XcpmemError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import FrameType


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon.

    Returns:
        Its exit status: 0 after SIGTERM, 2 for a setting that cannot be, 1 when it cannot serve. Where a
        service manager waits for it, which tries again after 1 alone, this is also the status of what may
        pass by itself, such as an address that another program has.
    """
    gc.disable()  # until `garbage.spare`: what a start imports and makes stays
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except ConfigError as error:
        sys.stderr.write(f"xcpmemd: {error}\n")
        return 1 if error.may_pass and notify.is_awaited() else 2
    except XcpmemError as error:
        sys.stderr.write(f"xcpmemd: cannot serve: {error}\n")
        return 1
    finally:
        gc.enable()


def _run(argv: Sequence[str]) -> int:
    settings = parse_command_line(argv)
    if not settings.check_config:
        _heed_signals()
    from xcpmem.plugins import load_policies  # noqa: PLC0415 - see the module
    from xcpmem.policybook import configure  # noqa: PLC0415 - see the module

    policies = configure(settings, load_policies())
    logs.configure(settings.log_level, settings.log_format, settings.log_to)
    from xcpmem.assembly import serve  # noqa: PLC0415 - see the module
    from xcpmem.preparation import check  # noqa: PLC0415 - see the module

    try:
        asyncio.run((check if settings.check_config else serve)(settings, policies))
    except ConfigError as error:
        raise _located(error, settings.origins) from error
    if settings.check_config:
        sys.stdout.write("xcpmemd: the configuration is good\n")
    return 0


def _heed_signals() -> None:
    """Be told to end while the program is still being read in; `serve` takes signals up from there."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end_at_once)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _end_at_once(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _located(error: ConfigError, origins: Mapping[str, str]) -> ConfigError:
    """Say of a setting that proved wrong later where it was given: a file and line, or the command line."""
    where = origins.get(error.key, error.where) if error.where == "settings" else error.where
    return ConfigError(where, error.key, error.why, may_pass=error.may_pass)


if __name__ == "__main__":
    sys.exit(main())
