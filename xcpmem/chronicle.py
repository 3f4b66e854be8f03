"""Tells the log and the journal what each turn of the ring decided, and on whose wish."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from xcpmem.engine.steps import portions
from xcpmem.journal import Decision, Entry
from xcpmem.sentences import Sentence

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from xcpmem.journal import Journal
    from xcpmem.narration import Narrator
    from xcpmem.report import CycleReport
    from xcpmem.wishbook import Wishbook

KEEP_LOOK_S: Final = 300.0
"""A look is kept at least so often even if nothing is decided, so that a stretch can be replayed."""

_log = logging.getLogger(__name__)


class Chronicle:
    """Follows the ring's reports.

    Args:
        narrator: finds what is worth telling.
        wishbook: knows who asked for what.
        journal: None: nothing is kept.
    """

    def __init__(self, narrator: Narrator, wishbook: Wishbook, journal: Journal | None) -> None:
        self._narrator = narrator
        self._wishbook = wishbook
        self._journal = journal
        self._kept_s = float("-inf")

    def absorb(self, report: CycleReport) -> Iterator[None]:
        """Tell of one turn, in steps; whatever goes wrong here is none of the ring's business."""
        try:
            yield from self._absorb(report)
        except Exception:  # noqa: BLE001 the ring must go on
            _log.exception("a turn could not be told of")

    def _absorb(self, report: CycleReport) -> Iterator[None]:
        sentences = yield from self._narrator.tell(report)
        has_decided = bool(sentences or report.verdicts)
        asked = tuple(map(str, self._wishbook.take())) if has_decided else ()
        for text in asked:
            log(Sentence(logging.INFO, "%s", (text,), "wish"), report)
        decisions: list[Decision] = []
        for some in portions(sentences):
            for sentence in some:
                log(sentence, report)
                decisions.append(Decision(sentence.level, sentence.kind, sentence.vm, sentence.text))
            yield
        is_due = report.monotonic_s - self._kept_s >= KEEP_LOOK_S
        if self._journal is not None and report.saw_host and (has_decided or is_due):
            self._kept_s = report.monotonic_s
            self._journal.put(self._entry(report, decisions, asked))

    def _entry(self, report: CycleReport, decisions: Sequence[Decision], asked: tuple[str, ...]) -> Entry:
        domains = report.look.host.domains
        return Entry(
            time_s=report.time_s,
            monotonic_s=report.monotonic_s,
            turn=report.number,
            policy=report.stance.policy.name,
            parameters=asdict(report.stance.policy.parameters),
            asked=asked,
            decisions=tuple(decisions),
            host=report.look.host,
            wishes=report.wishes,
            names={domain.uuid: self._narrator.name(domain.uuid, domain.domid) for domain in domains},
        )


def log(sentence: Sentence, report: CycleReport) -> None:
    """Write a sentence to the log, its figures as fields behind it."""
    fields: dict[str, object] = {"kind": sentence.kind, "turn": report.number, **sentence.fields}
    if sentence.vm:
        fields["vm"] = sentence.vm
    _log.log(sentence.level, sentence.template, *sentence.args, extra=fields)
