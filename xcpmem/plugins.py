"""Policies of other packages: found by their entry points, and kept apart from the built-in ones.

A package offers one in its ``pyproject.toml``, as the page ``api-spec/policies.md`` shows::

    [project.entry-points."xcpmem.policies"]
    generous = "generous:Generous"

One that cannot be used is left out and said why; the daemon starts without it.
"""

from __future__ import annotations

import logging
import re
from functools import cache
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from xcpmem.engine.parameters import Parameters, declared_parameters
from xcpmem.engine.policies import POLICIES, find_policy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from importlib.metadata import EntryPoint

    from xcpmem.engine.policy import ChosenPolicy, Policy

_log = logging.getLogger(__name__)

GROUP: Final = "xcpmem.policies"
_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")
RESERVED: Final = "name"
"""No parameter may be called so: it stands beside them for the policy's own name."""


def load_policies(points: Iterable[EntryPoint] | None = None) -> Mapping[str, Policy]:
    """Find all policies, the built-in ones first.

    Args:
        points: where others are; default: what is installed.
    """
    found = dict(POLICIES)
    for point in entry_points(group=GROUP) if points is None else points:
        try:
            policy = point.load()()
            _check(point.name, policy)
        except Exception as error:  # noqa: BLE001 -- foreign code may raise anything
            _log.warning(
                "policy %s of %s is left out: %s: %s", point.name, point.value, type(error).__name__, error
            )
            continue
        if point.name in found:
            _log.warning("policy %s of %s is left out: there is one of that name", point.name, point.value)
            continue
        found[point.name] = policy
    return found


@cache
def installed_policies() -> Mapping[str, Policy]:
    """Give all policies that are installed; looked for once per process."""
    return MappingProxyType(dict(load_policies()))


def find_installed(name: str, parameters: Mapping[str, object] = MappingProxyType({})) -> ChosenPolicy:
    """Find a policy by its name, whoever brought it; as `find_policy`, and it raises the same.

    Other packages are only looked at for a name that is not built in.
    """
    return find_policy(name, parameters, POLICIES if name in POLICIES else installed_policies())


def _check(name: str, policy: Policy) -> None:
    """Refuse what does not play the role of a policy. Raises TypeError or AttributeError."""
    if policy.name != name or not _NAME.fullmatch(name):
        raise TypeError(f"its name is {policy.name!r}, expected {name!r}: small letters, digits, _ and -")
    if not (isinstance(policy.parameters, type) and issubclass(policy.parameters, Parameters)):
        raise TypeError("its parameters must be a class derived from Parameters")
    if any(declared.name == RESERVED for declared in declared_parameters(policy.parameters)):
        raise TypeError(f"no parameter may be called {RESERVED!r}")
    policy.parameters()
    if not callable(policy.plan) or not isinstance(policy.about, str):
        raise TypeError("it needs a method plan and a text about")
