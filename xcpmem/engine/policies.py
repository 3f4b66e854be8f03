"""The policies that exist, by their names."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from xcpmem.engine.parameters import read_parameters
from xcpmem.engine.policy import ChosenPolicy
from xcpmem.engine.pressure import Pressure
from xcpmem.engine.proportional import Proportional
from xcpmem.engine.shares import Shares
from xcpmem.errors import InvalidValue

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xcpmem.engine.policy import Policy

POLICIES: Final[Mapping[str, Policy]] = MappingProxyType(
    {policy.name: policy for policy in (Proportional(), Shares(), Pressure())}
)
"""The built-in ones; the composition root adds those of other packages (`xcpmem.plugins`)."""


def find_policy(
    name: str,
    parameters: Mapping[str, object] = MappingProxyType({}),
    policies: Mapping[str, Policy] = POLICIES,
) -> ChosenPolicy:
    """Find a policy by its name and give it its parameters.

    Args:
        name: as people write it.
        parameters: those that are not to have their default, as TOML values or text.
        policies: to choose from.

    Raises:
        InvalidValue: there is none of that name (field ``policy``), or a parameter is unknown or wrong (the
            parameter's name).
    """
    policy = policies.get(name)
    if policy is None:
        raise InvalidValue("policy", name)
    return ChosenPolicy(policy, read_parameters(policy.parameters, parameters))
