"""Root's password file and password hashes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from xcpmem.api.passwords import RootPasswordFile, hash_password, verify_password

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("content", ["geheim", "geheim\n", "geheim\r\n", "geheim\nsecond line\n"])
def test_password_in_plain_text_lets_root_in(tmp_path: Path, content: str) -> None:
    path = tmp_path / "root.password"
    path.write_text(content, encoding="utf-8", newline="")
    file = RootPasswordFile(path)
    assert file.authenticate("root", "geheim") == "pool-admin"
    assert file.authenticate("root", "Geheim") is None
    assert file.authenticate("root", "") is None
    assert file.authenticate("admin", "geheim") is None


def test_password_as_a_hash_lets_root_in(tmp_path: Path) -> None:
    path = tmp_path / "root.password"
    path.write_text(hash_password("pässwörd") + "\n", encoding="utf-8")
    file = RootPasswordFile(path)
    assert file.authenticate("root", "pässwörd") == "pool-admin"
    assert file.authenticate("root", "password") is None
    assert file.authenticate("root", path.read_text(encoding="utf-8").strip()) is None


def test_new_password_holds_from_the_next_login_on(tmp_path: Path) -> None:
    path = tmp_path / "root.password"
    path.write_text("old", encoding="utf-8")
    file = RootPasswordFile(path)
    path.write_text("new", encoding="utf-8")
    assert file.authenticate("root", "old") is None
    assert file.authenticate("root", "new") == "pool-admin"


@pytest.mark.parametrize("content", [b"", b"\n", b"\nsecond", b"\xff\xfe", b"scrypt$", b"scrypt$15$8$1$!$!"])
def test_file_without_a_password_lets_nobody_in(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "root.password"
    path.write_bytes(content)
    file = RootPasswordFile(path)
    for pwd in ("", "root", "scrypt$", "scrypt$15$8$1$!$!"):
        assert file.authenticate("root", pwd) is None


def test_missing_file_lets_nobody_in(tmp_path: Path) -> None:
    assert RootPasswordFile(tmp_path / "missing").authenticate("root", "") is None


def test_hash_fits_its_password_only_and_is_salted() -> None:
    hashed = hash_password("a")
    assert hashed.startswith("scrypt$15$8$1$")
    assert verify_password("a", hashed)
    assert not verify_password("b", hashed)
    assert hash_password("a") != hashed


@pytest.mark.parametrize(
    "hashed", ["", "scrypt$15$8$1$AAAA", "scrypt$x$8$1$AAAA$AAAA", "scrypt$40$8$1$AAAA$AAAA"]
)
def test_broken_hash_fits_no_password(hashed: str) -> None:
    assert not verify_password("", hashed)
