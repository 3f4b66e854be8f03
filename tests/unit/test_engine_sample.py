from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from xcpmem.engine.sample import Sample
from xcpmem.errors import InvalidValue


def test_sample_is_fresh_for_three_of_its_periods() -> None:
    sample = Sample(seen_s=100.0, period_s=60.0, used_kib=1)
    assert sample.is_fresh(280.0)
    assert not sample.is_fresh(280.1)


@pytest.mark.parametrize("field", ["used_kib", "swapped_kib", "stall_us", "refault_kib"])
def test_negative_figure_is_refused_by_name(field: str) -> None:
    good = Sample(seen_s=0.0, period_s=1.0, used_kib=1)
    changes: dict[str, Any] = {field: -1}
    with pytest.raises(InvalidValue) as refusal:
        replace(good, **changes)
    assert refusal.value.params == (field, "-1")


def test_period_of_no_time_is_refused() -> None:
    with pytest.raises(InvalidValue):
        Sample(seen_s=0.0, period_s=0.0, used_kib=1)
