"""What the policy suite makes of runs: means beside marks, losses to peers, tables."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from tests.bench.policies.columns import COLUMNS, OURS
from tests.bench.policies.marks import PRESSURE, PROPORTIONAL
from tests.bench.policies.runs import run_all
from tests.bench.policies.sweeps import Swept, rows_of_sweeps
from tests.bench.policies.verdicts import losses_of, marks_of, safety_of, table_of

if TYPE_CHECKING:
    from tests.bench.policies.runs import Results


def made(ours: float, theirs: float) -> Results:
    """Results of one case in which all peers come out the same."""
    figures = {"stall_pct": 0.0, "churn": 0.0, "bound_violations": 0.0, "overcommit_kib": -5.0}
    figures["entitlement_violations"] = figures["below_slush_s"] = 0.0
    return {
        ("burst", column): {
            name: [value + (ours if column == PRESSURE else theirs), value] for name, value in figures.items()
        }
        for column in COLUMNS
    }


def test_marks_judge_the_mean_over_the_seeds() -> None:
    good, bad = (list(marks_of(made(stall, 1.0), ["burst"])) for stall in (0.24, 0.26))
    assert [figure.verdict for figure in good] == ["pass", "pass"]
    assert [figure.verdict for figure in bad] == ["miss", "pass"]
    assert good[0].value == 0.12
    assert good[0].spread == "±1.5"
    assert dict(good[0].peers)["qmemman"] == "0.5"


def test_what_must_never_happen_is_judged_by_the_worst_run() -> None:
    assert [figure.verdict for figure in safety_of(made(0.0, 0.0))] == ["pass"] * 4
    assert [figure.verdict for figure in safety_of(made(1.0, 0.0))] == ["miss", "pass", "miss", "miss"]


def test_every_cell_in_which_a_peer_is_better_is_listed() -> None:
    assert losses_of(made(1.0, 2.0), ["burst"]) == []
    lost = losses_of(made(2.0, 1.0), ["burst"])
    assert {(loss.figure, loss.peer) for loss in lost} == set(
        product(("stall_pct", "churn"), ("squeezed", "qmemman", "Proxmox", "ESX", "MOM"))
    )
    assert lost[0].text == "burst, stall_pct: 1.00, squeezed 0.50"


def test_who_stalls_more_does_not_win_by_moving_less() -> None:
    results = {key: dict(found) for key, found in made(1.0, 2.0).items()}
    results["burst", "squeezed"]["churn"] = [0.0, 0.0]
    assert losses_of(results, ["burst"]) == []


def test_the_best_cell_of_a_row_is_bold_but_never_a_bound() -> None:
    table = table_of(made(1.0, 2.0), ["burst"], [PRESSURE, "qmemman", "oracle"], "stall_pct")
    row = table.splitlines()[2]
    assert row == "| burst | **0.50 ±6.35** | 1.00 ±12.7 | 1.00 ±12.7 |"


def test_of_progress_more_is_better() -> None:
    results = {("burst", PRESSURE): {"progress_jain": [0.9]}, ("burst", "ESX"): {"progress_jain": [0.8]}}
    row = table_of(results, ["burst"], [PRESSURE, "ESX"], "progress_jain").splitlines()[2]
    assert row == "| burst | **0.90 ±0** | 0.80 ±0 |"


def test_a_sweep_names_who_is_best_where_pressure_is_not() -> None:
    usual = Swept("as usual", "burst", {PRESSURE: 0.1, "qmemman": 0.2})
    slow = Swept("slow", "burst", {"qmemman": 0.3, PRESSURE: 0.4})
    assert list(rows_of_sweeps([usual, slow], ["burst"])) == [
        "| changed | burst |",
        "|---|---|",
        "| as usual | 0.10 / 0.20 |",
        "| slow | 0.40 / 0.30 **qmemman** |",
    ]


def test_none_of_ours_breaks_a_bound_or_takes_what_somebody_in_need_is_entitled_to() -> None:
    results = run_all(["admission", "overload", "osmix"], OURS, [5])
    assert [figure.name for figure in safety_of(results) if figure.verdict != "pass"] == []
    assert results["osmix", PRESSURE]["stall_pct"][0] < results["osmix", PROPORTIONAL]["stall_pct"][0]
