"""Which policy is in force: over the store, and over restarts."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import uuid_of
from tests.replay import ReplayRing
from xcpmem.config import Settings
from xcpmem.engine.policies import POLICIES, find_policy
from xcpmem.errors import ConfigError, InvalidValue
from xcpmem.policybook import PolicyChoices, configure
from xcpmem.service import Service, ServiceSettings
from xcpmem.store import Store
from xcpmem.vm import Vm
from xcpmem.weights import read_weight

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping


@asynccontextmanager
async def daemon(
    state_dir: Path, policy: str = "proportional", parameters: Mapping[str, object] | None = None
) -> AsyncIterator[tuple[Service, ReplayRing]]:
    ring = ReplayRing()
    choices = PolicyChoices(POLICIES, find_policy(policy, parameters or {}))
    service = Service(Store(state_dir), ring, ServiceSettings(policies=choices), clock=ring.clock)
    await service.start()
    try:
        yield service, ring
    finally:
        await service.close()


async def test_settings_choose_at_first(tmp_path: Path) -> None:
    async with daemon(tmp_path, "shares", {"idle_tax_percent": 50}) as (service, ring):
        assert ring.policy == find_policy("shares", {"idle_tax_percent": 50})
        assert service.policies.get_policy()["idle_tax_percent"] == "50"


async def test_choice_at_run_time_is_in_force_and_outlives_the_daemon(tmp_path: Path) -> None:
    chosen = find_policy("pressure", {"reserve_percent": 1.5, "boost_is_need": False})
    async with daemon(tmp_path) as (service, ring):
        await service.policies.choose("pressure", {"reserve_percent": "1.5", "boost_is_need": "false"})
        assert ring.policy == chosen
    async with daemon(tmp_path) as (service, ring):
        assert ring.policy == chosen
        assert service.policies.current == chosen
        policy = service.policies.get_policy()
        assert (policy["name"], policy["reserve_percent"], policy["boost_is_need"]) == (
            *("pressure", "1.5", "false"),
        )


async def test_settings_that_changed_since_are_the_latest_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with daemon(tmp_path) as (service, _):
        await service.policies.choose("pressure", {})
    caplog.set_level(logging.INFO)
    async with daemon(tmp_path, "shares") as (_, ring):
        assert ring.policy == find_policy("shares")
    assert "the settings' policy changed since 'pressure' was chosen: they decide" in caplog.text


@pytest.mark.parametrize("kept", ["{}", "no json", '{"name": "gone", "parameters": {}, "instead_of": %s}'])
async def test_choice_that_cannot_be_used_any_more_leaves_it_to_the_settings(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kept: str
) -> None:
    store = Store(tmp_path)
    await store.load()
    await store.save(values={"policy": kept.replace("%s", '{"name": "proportional", "parameters": {}}')})
    await store.close()
    async with daemon(tmp_path) as (_, ring):
        assert ring.policy == find_policy("proportional")
    assert "the policy chosen before cannot be used" in caplog.text


@pytest.mark.parametrize(
    ("name", "parameters", "params"),
    [
        ("fair", {}, ("policy", "fair")),
        ("shares", {"tax": "1"}, ("tax", "1")),
        ("shares", {"idle_tax_percent": "100"}, ("idle_tax_percent", "100")),
        ("shares", {"idle_tax_percent": "much"}, ("idle_tax_percent", "much")),
        ("proportional", {"idle_tax_percent": "1"}, ("idle_tax_percent", "1")),
    ],
)
async def test_bad_choice_is_refused_and_changes_nothing(
    tmp_path: Path, name: str, parameters: dict[str, str], params: tuple[str, str]
) -> None:
    async with daemon(tmp_path) as (service, ring):
        with pytest.raises(InvalidValue) as refused:
            await service.policies.choose(name, parameters)
        assert refused.value.params == params
        assert ring.policy == find_policy("proportional")


async def test_book_tells_what_can_be_set(tmp_path: Path) -> None:
    async with daemon(tmp_path) as (service, _):
        assert list(service.policies.get_policies()) == ["proportional", "shares", "pressure"]
        assert service.policies.get_policy() == {"name": "proportional"}
        told = service.policies.get_policy_parameters("shares")["idle_tax_percent"]
        assert told.startswith("75 (a whole number from 0 to 99): ")
        with pytest.raises(InvalidValue):
            service.policies.get_policy_parameters("fair")


def settings(**given: Any) -> Settings:
    return Settings(state_dir=Path("/nowhere"), **given)


@pytest.mark.parametrize(
    ("name", "parameters", "text"),
    [
        ("fair", {}, "here:1: policy: no policy 'fair'; there are: proportional, shares, pressure"),
        (
            "shares",
            {"idle_tax_percent": 100},
            "settings: policy_parameters.idle_tax_percent: expected a whole number from 0 to 99, got '100'",
        ),
        (
            "proportional",
            {"tax": 1},
            "settings: policy_parameters.tax: policy proportional has no such parameter; it has: none",
        ),
    ],
)
def test_settings_are_checked_before_anything_starts(
    name: str, parameters: dict[str, object], text: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        configure(settings(policy=name, policy_parameters=parameters, origins={"policy": "here:1"}), POLICIES)
    assert str(refused.value) == text


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        (
            {"fair": {}},
            "here:7: shadow_parameters.fair: no policy 'fair'; there are: proportional, shares, pressure",
        ),
        (
            {"shares": {"period_s": -1}},
            "here:7: shadow_parameters.shares.period_s: expected a number from 0 to 3600, got '-1'",
        ),
    ],
)
def test_parameters_of_shadows_are_checked_as_well(
    parameters: dict[str, dict[str, object]], text: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        configure(settings(shadow_parameters=parameters, origins={"shadow_parameters": "here:7"}), POLICIES)
    assert str(refused.value) == text


VM = Vm(
    uuid=uuid_of(1),
    name_label="web",
    memory_static_min=0,
    memory_dynamic_min=0,
    memory_dynamic_max=1 << 30,
    memory_static_max=1 << 30,
    memory_target=1 << 30,
)


async def weigh(service: Service, text: str | None) -> None:
    notes = {} if text is None else {"xcpmem-weight": text}
    await service.labels.edit(VM.uuid, "other_config", lambda _: notes)


async def test_weight_of_a_vm_reaches_the_ring(tmp_path: Path) -> None:
    async with daemon(tmp_path) as (service, ring):
        await service.seed([VM])
        await weigh(service, "4000")
        assert ring.weights == {VM.uuid: 4000}
        await weigh(service, None)
        assert ring.weights == {VM.uuid: 1000}
        await weigh(service, "7")
    async with daemon(tmp_path) as (service, ring):
        assert ring.weights == {VM.uuid: 7}


async def test_weight_that_is_none_counts_as_the_default_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with daemon(tmp_path) as (service, ring):
        await service.seed([VM])
        await weigh(service, "heavy")
        assert ring.weights == {VM.uuid: 1000}
        told = f"VM {VM.uuid}: other_config:xcpmem-weight 'heavy' is no whole number from 1 to 10000"
        assert told in caplog.text
        assert told in service.get_diagnostics()
        await weigh(service, "10000")
        assert told not in service.get_diagnostics()


@pytest.mark.parametrize("text", ["", "0", "10001", "-1", "1.5", " 5", "٣", "1" * 100])
def test_weights_are_whole_numbers_within_bounds(text: str) -> None:
    assert read_weight(text) is None


def test_weights_at_their_bounds() -> None:
    assert (read_weight("1"), read_weight("0500"), read_weight("10000")) == (1, 500, 10000)
