"""The machine's own passwords: PAM, for users who are listed here without a password of ours.

An extra (``pip install 'xcpmem[pam]'``), since it needs a package that hardly anybody else does. PAM blocks,
and a wrong password may take it seconds: it belongs into a worker thread, where `sessions` calls it.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from xcpmem.errors import ConfigError

if TYPE_CHECKING:
    from xcpmem.api.passwords import PasswordCheck

_PACKAGE: Final = "pamela"

_log = logging.getLogger(__name__)


def open_pam(service: str) -> PasswordCheck | None:
    """Make the check of passwords by PAM.

    Args:
        service: a file of ``/etc/pam.d`` says what PAM asks for it; empty: PAM is not wanted.

    Returns:
        Tells whether user and password fit, and the account may be used; None if PAM is not wanted.

    Raises:
        ConfigError: it is wanted and the extra is not installed.
    """
    if not service:
        return None
    try:
        pamela: Any = import_module(_PACKAGE)
    except (ImportError, OSError) as error:  # OSError: the package is there, PAM's own library is not
        why = f"needs the extra: pip install 'xcpmem[pam]' ({error})"
        raise ConfigError("settings", "pam_service", why) from error

    def check(uname: str, pwd: str) -> bool:
        if "\0" in uname + pwd:
            return False
        try:
            pamela.authenticate(uname, pwd, service=service, resetcred=0)
        except (pamela.PAMError, UnicodeError) as error:
            _log.debug("PAM refuses a user", extra={"why": type(error).__name__})
            return False
        return True

    return check
