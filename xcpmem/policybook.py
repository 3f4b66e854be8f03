"""Which policy is in force: chosen by the settings, changed at run time, remembered over restarts.

The latest word wins. A choice made at run time is kept together with what the settings said then; as long as
they say the same, it is in force after a restart as well, and once somebody changes the settings, those are
the latest word.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from xcpmem.engine.parameters import declared_parameters
from xcpmem.engine.policies import POLICIES, find_policy
from xcpmem.errors import ConfigError, InvalidValue
from xcpmem.weights import VmWeights

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xcpmem.config import Settings
    from xcpmem.engine.policy import ChosenPolicy, Policy
    from xcpmem.ledger import Ledger
    from xcpmem.ring import Ring

_log = logging.getLogger(__name__)

_CHOICE: Final = "policy"
_NAME: Final = "name"


@dataclass(frozen=True, slots=True)
class PolicyChoices:
    """What the composition root knows of policies.

    Args:
        available: all that can be chosen, by name.
        configured: what the settings say.
        shadow_parameters: by policy, those with which it is run beside the one in force.
    """

    available: Mapping[str, Policy] = field(default_factory=lambda: POLICIES)
    configured: ChosenPolicy = field(default_factory=lambda: find_policy("proportional"))
    shadow_parameters: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    @property
    def shadows(self) -> Mapping[str, ChosenPolicy]:
        """Every policy as it is run beside the one in force."""
        return {
            name: find_policy(name, self.shadow_parameters.get(name, {}), self.available)
            for name in self.available
        }


def configure(settings: Settings, available: Mapping[str, Policy]) -> PolicyChoices:
    """Make the choices from what the settings say.

    Args:
        settings: which policy, and the parameters of it and of the others.
        available: all policies, by name.

    Raises:
        ConfigError: no such policy, or a parameter that is unknown or wrong.
    """
    place = _Place("policy", "policy_parameters", settings.origins)
    chosen = _find(settings.policy, settings.policy_parameters or {}, available, place)
    shadow_parameters = settings.shadow_parameters or {}
    for name, parameters in shadow_parameters.items():
        key = f"shadow_parameters.{name}"
        _find(name, parameters, available, _Place(key, key, settings.origins))
    return PolicyChoices(available, chosen, shadow_parameters)


class _Place(NamedTuple):
    """The settings that name a policy and its parameters, and where settings were given."""

    name_key: str
    parameters_key: str
    origins: Mapping[str, str]

    def origin_of(self, key: str) -> str:
        return self.origins.get(key.partition(".")[0], "settings")


def _find(
    name: str, parameters: Mapping[str, object], available: Mapping[str, Policy], place: _Place
) -> ChosenPolicy:
    if name not in available:
        why = f"no policy {name!r}; there are: {', '.join(available)}"
        raise ConfigError(place.origin_of(place.name_key), place.name_key, why)
    known = {declared.name: declared for declared in declared_parameters(available[name].parameters)}
    try:
        return find_policy(name, parameters, available)
    except InvalidValue as error:
        key, value = error.params
        why = f"policy {name} has no such parameter; it has: {', '.join(known) or 'none'}"
        if key in known:
            why = f"expected {known[key].expected}, got {value!r}"
        where = place.origin_of(place.parameters_key)
        raise ConfigError(where, f"{place.parameters_key}.{key}", why) from error


class PolicyBook:
    """Keeps the choice, and tells the ring; the VMs' weights as well.

    Args:
        ledger: where a choice made at run time is kept.
        ring: divides memory by the policy.
        choices: what there is, and what the settings say.
    """

    def __init__(self, ledger: Ledger, ring: Ring, choices: PolicyChoices) -> None:
        self._ledger = ledger
        self._ring = ring
        self._choices = choices
        self._weights = VmWeights(ledger, ring)
        self.current = choices.configured
        """The policy in force, with its parameters."""

    @property
    def available(self) -> Mapping[str, Policy]:
        """All policies by their names."""
        return self._choices.available

    def start(self) -> None:
        """Take up what was chosen before, and tell the ring; follow the VMs' weights from now on."""
        self._weights.start()
        self._apply(self._remembered() or self._choices.configured)

    def diagnose(self) -> list[str]:
        """Name what cannot be read of the VMs' weights, a sentence each."""
        return self._weights.diagnose()

    async def choose(self, name: str, parameters: Mapping[str, str]) -> None:
        """Serve ``Memory.set_policy``: in force from the ring's next turn on, and after a restart.

        Args:
            name: of a policy.
            parameters: those that are not to have their default, as text.

        Raises:
            InvalidValue: no such policy (``policy``), or a parameter that is unknown or wrong (its name).
            HostError: it could not be stored.
        """
        chosen = find_policy(name, parameters, self.available)
        kept = {**spelled(chosen), "instead_of": spelled(self._choices.configured)}
        await self._ledger.post(
            lambda entry: entry.put_value(_CHOICE, json.dumps(kept)), lambda: self._apply(chosen)
        )
        _log.info("policy %s is in force, %s", name, _in_words(chosen))

    def get_policies(self) -> dict[str, str]:
        """Serve ``Memory.get_policies``: by name, what each does."""
        return {name: policy.about for name, policy in self.available.items()}

    def get_policy(self) -> dict[str, str]:
        """Serve ``Memory.get_policy``: the name of the one in force, and its parameters by theirs."""
        parameters = asdict(self.current.parameters)
        return {
            _NAME: self.current.name,
            **{name: _as_text(value) for name, value in parameters.items()},
        }

    def get_policy_parameters(self, name: str) -> dict[str, str]:
        """Serve ``Memory.get_policy_parameters``: by name, what may be set, its default and its meaning.

        Raises:
            InvalidValue: there is no such policy.
        """
        if name not in self.available:
            raise InvalidValue(_CHOICE, name)
        return {
            declared.name: f"{_as_text(declared.default)} ({declared.expected}): {declared.parameter.about}"
            for declared in declared_parameters(self.available[name].parameters)
        }

    def _apply(self, chosen: ChosenPolicy) -> None:
        self.current = chosen
        self._ring.choose_policy(chosen)

    def _remembered(self) -> ChosenPolicy | None:
        """Read what was chosen at run time; None: nothing, or the settings have had a later word."""
        text = self._ledger.values.get(_CHOICE)
        if text is None:
            return None
        try:
            kept: dict[str, Any] = json.loads(text)
            if kept["instead_of"] != spelled(self._choices.configured):
                _log.info("the settings' policy changed since %r was chosen: they decide", kept[_NAME])
                return None
            return find_policy(kept[_NAME], kept["parameters"], self.available)
        except (ValueError, KeyError, TypeError, InvalidValue) as error:
            _log.warning("the policy chosen before cannot be used (%s): the settings decide", error)
            return None


def spelled(chosen: ChosenPolicy) -> dict[str, Any]:
    """Spell a choice out for JSON: its name, and the parameters that differ from their defaults."""
    parameters = asdict(chosen.parameters)
    return {
        _NAME: chosen.name,
        "parameters": {
            declared.name: parameters[declared.name]
            for declared in declared_parameters(chosen.policy.parameters)
            if parameters[declared.name] != declared.default
        },
    }


def _in_words(chosen: ChosenPolicy) -> str:
    changed = spelled(chosen)["parameters"]
    if not changed:
        return "all parameters at their defaults"
    return ", ".join(f"{name} {_as_text(value)}" for name, value in changed.items())


def _as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
