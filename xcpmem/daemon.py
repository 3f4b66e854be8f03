"""``xcpmemd``: reads its settings, and serves until it is told to end.

What serves is imported once the settings are good, so that whoever mistyped one hears of it at once.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from typing import TYPE_CHECKING

from xcpmem import logs
from xcpmem.config import parse_command_line
from xcpmem.errors import ConfigError, XcpmemError

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon; return its exit status: 0 after SIGTERM, 2 for a bad option, 1 when it cannot serve."""
    gc.disable()  # until `garbage.spare`: what a start imports and makes stays
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except ConfigError as error:
        sys.stderr.write(f"xcpmemd: {error}\n")
        return 2
    except XcpmemError as error:
        sys.stderr.write(f"xcpmemd: cannot serve: {error}\n")
        return 1
    finally:
        gc.enable()


def _run(argv: Sequence[str]) -> int:
    settings = parse_command_line(argv)
    from xcpmem.plugins import load_policies  # noqa: PLC0415 - see the module
    from xcpmem.policybook import configure  # noqa: PLC0415 - see the module

    policies = configure(settings, load_policies())
    logs.configure(settings.log_level, settings.log_format, settings.log_to)
    if settings.check_config:
        sys.stdout.write("xcpmemd: the configuration is good\n")
        return 0
    from xcpmem.assembly import serve  # noqa: PLC0415 - see the module

    asyncio.run(serve(settings, policies))
    return 0


if __name__ == "__main__":
    sys.exit(main())
