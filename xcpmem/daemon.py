"""``xcpmemd``: reads its settings, and serves until it is told to end.

Nearly all is imported only when it is needed: signals are heeded before, and what serves comes once the
settings are good, so that whoever mistyped one hears of it at once.
"""

from __future__ import annotations

import gc
import signal
import sys
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, NoReturn

from xcpmem import notify
from xcpmem.errors import ConfigError, XcpmemError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import FrameType


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon.

    Returns:
        Its exit status: 0 after SIGTERM, 2 for a setting that cannot be, 1 when it cannot serve. Where a
        service manager waits for it, which tries again after 1 alone, this is also the status of what may
        pass by itself, such as an address that another program has.
    """
    gc.disable()  # until `garbage.spare`: what a start imports and makes stays
    words = sys.argv[1:] if argv is None else argv
    try:
        # a check that was interrupted has found nothing good
        with nullcontext() if "--check-config" in words else _heeding_signals():
            return _run(words)
    except ConfigError as error:
        sys.stderr.write(f"xcpmemd: {error}\n")
        return 1 if error.may_pass and notify.is_awaited() else 2
    except XcpmemError as error:
        sys.stderr.write(f"xcpmemd: cannot serve: {error}\n")
        return 1
    finally:
        gc.enable()


def _run(argv: Sequence[str]) -> int:
    from xcpmem.config import parse_command_line  # noqa: PLC0415 - see the module

    settings = parse_command_line(argv)
    from xcpmem import logs  # noqa: PLC0415 - see the module
    from xcpmem.plugins import load_policies  # noqa: PLC0415 - see the module
    from xcpmem.policybook import configure  # noqa: PLC0415 - see the module

    policies = configure(settings, load_policies())
    logs.configure(settings.log_level, settings.log_format, settings.log_to)
    import asyncio  # noqa: PLC0415 - see the module

    from xcpmem.assembly import serve  # noqa: PLC0415 - see the module
    from xcpmem.preparation import check  # noqa: PLC0415 - see the module

    try:
        asyncio.run((check if settings.check_config else serve)(settings, policies))
    except ConfigError as error:
        raise _located(error, settings.origins) from error
    if settings.check_config:
        sys.stdout.write("xcpmemd: the configuration is good\n")
    return 0


@contextmanager
def _heeding_signals() -> Iterator[None]:
    """End well when that is wanted while the program is read in; `serve` takes signals up from there."""
    before = {number: signal.signal(number, _end_at_once) for number in (signal.SIGTERM, signal.SIGINT)}
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # else nohup has said that it ends nothing
        # A service manager sends it for a reload, a terminal when it is closed.
        hung_up = signal.SIG_IGN if notify.is_awaited() else _end_at_once
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, hung_up)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_at_once(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _located(error: ConfigError, origins: Mapping[str, str]) -> ConfigError:
    """Say of a setting that proved wrong later where it was given: a file and line, or the command line."""
    where = origins.get(error.key, error.where) if error.where == "settings" else error.where
    return ConfigError(where, error.key, error.why, may_pass=error.may_pass)


if __name__ == "__main__":
    sys.exit(main())
