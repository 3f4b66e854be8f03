"""The messages about policies: which there are, which is in force, with which parameters.

They are of class ``Memory``, ours. Parameters are text by name, as XenAPI has no better map; ``name`` stands
among them for the policy's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xcpmem.api.dispatch import Caller, Handler
    from xcpmem.policybook import PolicyBook


class PolicyMethods:
    """The messages of class Memory that are about policies.

    Args:
        book: keeps the choice.
    """

    def __init__(self, book: PolicyBook) -> None:
        self._book = book

    def handlers(self) -> dict[str, Handler]:
        """Give the handlers by ``Class.message``."""
        return {
            "Memory.get_policies": self._get_all,
            "Memory.get_policy": self._get,
            "Memory.get_policy_parameters": self._get_parameters,
            "Memory.set_policy": self._set,
        }

    async def _get_all(self, _: Caller) -> Mapping[str, str]:
        return self._book.get_policies()

    async def _get(self, _: Caller) -> Mapping[str, str]:
        return self._book.get_policy()

    async def _get_parameters(self, _: Caller, name: str) -> Mapping[str, str]:
        return self._book.get_policy_parameters(name)

    async def _set(self, _: Caller, name: str, parameters: Mapping[str, str]) -> None:
        await self._book.choose(name, parameters)
