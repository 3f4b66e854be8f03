"""What must be right before a word is said to the host: settings, and the state dir and addresses they name.

Whoever starts and whoever only checks the settings go through the same, so that the one finds what the other
would; a check leaves nothing behind, and asks neither Xen nor xenstore.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from xcpmem.api.addresses import Addresses
from xcpmem.api.connections import ConnectionLimits
from xcpmem.api.dropin import DIRECT, DIRECTORY_MODE
from xcpmem.api.pam import open_pam
from xcpmem.api.passwords import read_token
from xcpmem.api.server import TCP, UNIX, make_ssl_context
from xcpmem.config import DriverKind
from xcpmem.errors import ConfigError, DriverError
from xcpmem.hosts import read_scenario
from xcpmem.policybook import PolicyChoices, configure
from xcpmem.rivals import refuse_rivals
from xcpmem.xen.hypervisor import find_binding

if TYPE_CHECKING:
    from contextlib import AsyncExitStack
    from pathlib import Path

    from xcpmem.config import Settings
    from xcpmem.scenario import Scenario

STATE_DIR_MODE: Final = 0o700


def read_settings(settings: Settings, policies: PolicyChoices) -> Scenario | None:
    """Read what the settings name, and find what of it cannot be.

    Returns:
        The scenario; None: on Xen, or where a host that runs elsewhere brings its own.

    Raises:
        ConfigError: certificate, token, PAM, scenario or its policy are none.
    """
    if settings.tls_cert is not None and settings.tls_key is not None:
        make_ssl_context(settings.tls_cert, settings.tls_key)
    read_token(settings.read_token_file)
    open_pam(settings.pam_service or "")
    scenario = read_scenario(settings)
    if scenario is not None:
        choose_policies(settings, policies, scenario.policy, settings.scenario)
    return scenario


def choose_policies(settings: Settings, policies: PolicyChoices, policy: str, scenario: str) -> PolicyChoices:
    """Let a scenario's policy be in force, unless the settings name one.

    Args:
        settings: as given.
        policies: what the settings say.
        policy: what the scenario says.
        scenario: its name, for complaints.

    Raises:
        ConfigError: there is no such policy.
    """
    if "policy" in settings.origins:
        return policies
    origins = {**settings.origins, "policy": scenario}
    return configure(replace(settings, policy=policy, origins=origins), policies.available)


async def check(settings: Settings, policies: PolicyChoices) -> None:
    """Find what keeps a daemon with these settings from starting on this machine, and change nothing.

    What a running daemon has, its state dir and its addresses, counts as good, since that may be the one
    which is to have these settings. Folders that systemd makes for a unit are not asked for.

    Raises:
        ConfigError: something does.
    """
    read_settings(settings, policies)
    if settings.driver is DriverKind.XEN:
        try:
            find_binding()
        except DriverError as error:
            raise ConfigError("settings", "driver", str(error)) from error
    _check_state_dir(settings.state_dir)
    addresses = Addresses(1)
    try:
        await addresses.take_tcp(TCP, settings.listen.host, 0)
    finally:
        addresses.release()


async def take_addresses(settings: Settings, stack: AsyncExitStack) -> Addresses:
    """Take all addresses at which the daemon is to serve, until the stack is unwound.

    Raises:
        ConfigError: another balancer is at work on the host, or an address cannot be had.
    """
    if settings.driver is DriverKind.XEN and not settings.observe:
        refuse_rivals()
    addresses = Addresses(ConnectionLimits().connections)
    stack.callback(addresses.release)
    if settings.squeezed_socket is not None:
        addresses.take_unix(DIRECT, settings.squeezed_socket, folder_mode=DIRECTORY_MODE)
    addresses.take_unix(UNIX, settings.socket_path)
    await addresses.take_tcp(TCP, settings.listen.host, settings.listen.port)
    return addresses


def own_state_dir(path: Path, stack: AsyncExitStack) -> None:
    """Make the state dir and lock it: two daemons on one would undo each other's work.

    Raises:
        ConfigError: it cannot be used, or another daemon has it, which may pass.
    """
    try:
        path.mkdir(mode=STATE_DIR_MODE, parents=True, exist_ok=True)
        lock = stack.enter_context((path / "lock").open("a", encoding="ascii"))
    except OSError as error:
        raise _unusable(path, error.strerror) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        why = f"{path} is in use by another xcpmemd"
        raise ConfigError("settings", "state_dir", why, may_pass=True) from None


def _check_state_dir(path: Path) -> None:
    """Find whether a state dir is there or could be made, and written to."""
    try:
        nearest = next(each for each in (path, *path.absolute().parents) if each.exists())
    except OSError as error:
        raise _unusable(path, error.strerror) from error
    if not nearest.is_dir():
        raise _unusable(path, f"{nearest} is no directory")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise _unusable(path, f"nothing may be written to {nearest}")


def _unusable(path: Path, why: str | None) -> ConfigError:
    return ConfigError("settings", "state_dir", f"{path} cannot be used: {why}")
