"""Who may log in with which password: the file of user root, and the hashes of all others.

Everything here blocks (files, 0.2 s of scrypt) and belongs into a worker thread; `sessions` sees to that.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import os
import secrets
from typing import TYPE_CHECKING, Final, Protocol

from xcpmem.errors import ConfigError
from xcpmem.units import mib_to_bytes
from xcpmem.users import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from xcpmem.users import User

    PasswordCheck = Callable[[str, str], bool]

POOL_ADMIN: Final = "pool-admin"

# OWASP's cheat sheet on password storage: N = 2^15 with r = 8 takes 32 MiB.
_COST, _BLOCK_SIZE, _PARALLEL = 15, 8, 1
_MEMORY_LIMIT_BYTES: Final = mib_to_bytes(64)
_SALT_BYTES: Final = 16
_DIGEST_BYTES: Final = 64
_SCHEME: Final = "scrypt"
_FILE_MODE: Final = 0o600
_PASSWORD_BYTES: Final = 18

_log = logging.getLogger(__name__)


class Authenticator(Protocol):
    """Knows users, their passwords and their roles."""

    def authenticate(self, uname: str, pwd: str) -> str | None:
        """Give the role of a user whose password is right, else None; may block."""


class RootPasswordFile:
    """The one user root, whose password stands in a file.

    The file is read at every login, so a new password holds from then on. Its first line is the password
    itself, or what `hash_password` makes of it. A password in plain text is compared as it is: hashing what
    lies beside its own text protects nothing, and costs each login 0.2 s.

    Args:
        path: readable by the daemon only.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def authenticate(self, uname: str, pwd: str) -> str | None:
        """Give root's role if name and password are right; an unreadable or empty file lets nobody in."""
        try:
            expected = self._path.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
        except (OSError, UnicodeDecodeError) as error:
            text = "nobody can log in as root, the password cannot be read: %s"
            _log.warning(text, error, extra={"why": error})
            return None
        if not expected:
            return None
        is_right = (
            verify_password(pwd, expected) if expected.startswith(f"{_SCHEME}$") else _same(pwd, expected)
        )
        return POOL_ADMIN if is_right and uname == ROOT else None


class Accounts:
    """Root and all other users.

    An unknown user's password is compared with a hash as well, so that no stopwatch tells which names exist.

    Args:
        root: knows root.
        find_user: finds another user by name.
        outside: knows the passwords of users who have none here; None: such users cannot log in.
    """

    def __init__(
        self,
        root: Authenticator,
        find_user: Callable[[str], User | None],
        outside: PasswordCheck | None = None,
    ) -> None:
        self._root = root
        self._find_user = find_user
        self._outside = outside
        self._nobodys_hash = _format_hash(
            secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(_DIGEST_BYTES)
        )

    def authenticate(self, uname: str, pwd: str) -> str | None:
        """Give a user's mightiest role if the password is right."""
        if uname == ROOT:
            return self._root.authenticate(uname, pwd)
        user = self._find_user(uname)
        if user is not None and not user.password_hash:
            is_right = self._outside is not None and self._outside(uname, pwd)
        else:
            is_right = verify_password(pwd, user.password_hash if user else self._nobodys_hash)
        return (user.role or None) if user is not None and is_right else None


def make_password_file(path: Path) -> None:
    """Make a file with a random password that only its owner can read, unless there is a file already."""
    if path.exists():
        return
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with open(new, "x", opener=lambda name, flags: os.open(name, flags, _FILE_MODE)) as file:
        file.write(secrets.token_urlsafe(_PASSWORD_BYTES) + "\n")
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)


def read_token(path: Path | None) -> str:
    """Read the token that readers on other machines may bring; empty if no file is named.

    Raises:
        ConfigError: the file cannot be read, or says nothing.
    """
    if path is None:
        return ""
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("settings", "read_token_file", f"{path} cannot be read: {error}") from error
    if not token:
        raise ConfigError("settings", "read_token_file", f"{path} is empty")
    return token


def hash_password(pwd: str) -> str:
    """Hash a password for keeping.

    Returns:
        ``scrypt$15$8$1$<salt>$<hash>``: log2 of N, r, p, then salt and hash in base64.
    """
    salt = secrets.token_bytes(_SALT_BYTES)
    return _format_hash(salt, _scrypt(pwd, salt, _COST, _BLOCK_SIZE, _PARALLEL))


def verify_password(pwd: str, hashed: str) -> bool:
    """Compare a password with a hash of `hash_password`; what is no such hash fits no password."""
    try:
        _, cost, block_size, parallel, salt, digest = hashed.split("$")
        expected = base64.b64decode(digest, validate=True)
        found = _scrypt(pwd, base64.b64decode(salt, validate=True), int(cost), int(block_size), int(parallel))
    except (ValueError, binascii.Error) as error:
        _log.warning("a stored password hash is broken", extra={"why": type(error).__name__})
        return False
    return hmac.compare_digest(found, expected)


def _format_hash(salt: bytes, digest: bytes) -> str:
    parts = (base64.b64encode(salt).decode(), base64.b64encode(digest).decode())
    return "$".join((_SCHEME, str(_COST), str(_BLOCK_SIZE), str(_PARALLEL), *parts))


def _scrypt(pwd: str, salt: bytes, cost: int, block_size: int, parallel: int) -> bytes:
    return hashlib.scrypt(
        _bytes(pwd),
        salt=salt,
        n=2**cost,
        r=block_size,
        p=parallel,
        maxmem=_MEMORY_LIMIT_BYTES,
        dklen=_DIGEST_BYTES,
    )


def _same(pwd: str, expected: str) -> bool:
    return hmac.compare_digest(
        hashlib.sha256(_bytes(pwd)).digest(), hashlib.sha256(_bytes(expected)).digest()
    )


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
