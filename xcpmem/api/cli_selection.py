"""Which objects a command is about, as `xe` lets them be selected, and the same done to each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from xcpmem.api.cli_fields import RECORD_CLASSES
from xcpmem.api.cli_frames import Print
from xcpmem.api.cli_records import keep_matching
from xcpmem.api.cli_run import STANDARD, Failed, describe
from xcpmem.errors import CommandError, XcpmemError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from xcpmem.api.cli_fields import RecordClass
    from xcpmem.api.cli_records import Item
    from xcpmem.api.cli_run import Run

_VM: Final = RECORD_CLASSES["vm"]


@dataclass(frozen=True, slots=True)
class VmCommand:
    """A command that makes one call for each selected VM.

    Args:
        method: the XenAPI call; after the VM come the sizes.
        sizes: keys of the command line, each a required size.
        with_control_domains: whether control domains may be selected.
        with_templates: whether templates may be selected.
    """

    method: str
    sizes: tuple[str, ...] = ()
    with_control_domains: bool = True
    with_templates: bool = False

    async def __call__(self, run: Run) -> None:
        """Make the call for each selected VM."""
        sizes = [run.words.size(key) for key in self.sizes]
        await self.for_each(run, lambda item: run.call(self.method, item.ref, *sizes))

    async def for_each(
        self,
        run: Run,
        act: Callable[[Item], Awaitable[object]],
        keys: Iterable[str] = (),
    ) -> None:
        """Let ``act`` have each selected VM; ``keys`` are further keys that select nothing."""
        items = await select(run, _VM, "vm", self._filters(), {*self.sizes, *keys})
        if not items:
            raise CommandError("No matching VMs found")
        if len(items) == 1:
            await act(items[0])
        elif run.words.flag("multiple"):
            await _act_on_all(run, items, act)
        else:
            raise CommandError("Multiple matches VMs found. --multiple required to complete the operation")

    def _filters(self) -> list[tuple[str, str]]:
        filters = [] if self.with_templates else [("is-a-template", "false")]
        return filters if self.with_control_domains else [*filters, ("is-control-domain", "false")]


async def select(
    run: Run,
    kind: RecordClass,
    selector: str,
    filters: Iterable[tuple[str, str]],
    keys: Iterable[str],
) -> list[Item]:
    """Find the objects that a command line selects.

    Args:
        run: with the words.
        kind: of which class.
        selector: the key that takes a uuid or a name instead of a field's value.
        filters: applied before those of the command line.
        keys: keys that belong to the command and select nothing.
    """
    items = await run.records.every(kind)
    if run.words.has(selector):
        wanted = run.words.get(selector)
        names = ("uuid", "name_label", "hostname")
        items = [item for item in items if wanted in [item.record.get(name) for name in names]]
    for name, value in (*filters, *run.words.without({selector, *STANDARD, *keys})):
        items = await keep_matching(run.records, items, name, value)
    return items


async def _act_on_all(run: Run, items: Sequence[Item], act: Callable[[Item], Awaitable[object]]) -> None:
    failures = []
    for item in items:
        try:
            await act(item)
        except XcpmemError as error:
            lines = await describe(run.records, error)
            failures.append((item.uuid, "\n".join(lines or [f"{error.code}: [ {'; '.join(error.params)} ]"])))
    for uuid, text in failures:
        await run.printer.send(Print(f"operation failed on {uuid}: {text}"))
    if failures:
        raise Failed
