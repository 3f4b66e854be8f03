"""PAM is an extra: what happens with it, without it, and when nobody asked for it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from xcpmem.api.pam import open_pam
from xcpmem.api.passwords import Accounts
from xcpmem.errors import ConfigError
from xcpmem.users import User

if TYPE_CHECKING:
    from pathlib import Path

PAMELA = """
class PAMError(Exception):
    pass

def authenticate(username, password, service, resetcred):
    if (username, password, service, resetcred) != ("alice", "right", "xcpmem", 0):
        raise PAMError
"""


class NoRoot:
    def authenticate(self, uname: str, pwd: str) -> str | None:
        raise AssertionError(uname + pwd)


@pytest.fixture
def pamela(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pamela.py").write_text(PAMELA)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pamela", raising=False)


def test_pam_is_not_touched_unless_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pamela", None)
    assert open_pam("") is None


def test_pam_without_its_extra_is_a_config_error_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pamela", None)
    with pytest.raises(ConfigError, match=r"pam_service: needs the extra: pip install 'xcpmem\[pam\]'"):
        open_pam("xcpmem")


@pytest.mark.usefixtures("pamela")
def test_pam_knows_the_password_of_users_who_have_none_here() -> None:
    users = {"alice": User("alice", ("vm-operator",)), "bob": User("bob", ("pool-admin",), "no hash at all")}
    accounts = Accounts(NoRoot(), users.get, open_pam("xcpmem"))
    assert accounts.authenticate("alice", "right") == "vm-operator"
    assert accounts.authenticate("alice", "wrong") is None
    assert accounts.authenticate("alice", "right\0") is None
    assert accounts.authenticate("bob", "right") is None
    assert accounts.authenticate("carol", "right") is None
