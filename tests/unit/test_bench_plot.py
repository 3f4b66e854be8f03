"""The suite's plots: SVG that any program reads, with both axes logarithmic."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from tests.bench.figures import Curve
from tests.bench.plot import HEIGHT, LABEL_GAP, WIDTH, Axis, draw

SVG = "{http://www.w3.org/2000/svg}"


def a_curve() -> Curve:
    ours = {10: (1.0, 2.0), 100: (10.0,), 1000: (100.0,)}
    return Curve("look & see", "ms", "VMs", {"ours": ours, "theirs": {1000: (101.0,)}}, "bound")


def drawn() -> ET.Element:
    return ET.fromstring(draw(a_curve()))  # noqa: S314 - our own plot


def test_axis_gives_each_power_of_ten_the_same_room() -> None:
    axis = Axis(0, 2, 100.0, 0.0)
    assert axis.ticks == (1.0, 10.0, 100.0)
    assert [axis.place(tick) for tick in axis.ticks] == pytest.approx([100.0, 50.0, 0.0])


def test_plot_has_a_line_for_each_curve_and_a_dot_for_each_size() -> None:
    svg = drawn()
    assert len(svg.findall(f"{SVG}polyline")) == 2
    assert len(svg.findall(f"{SVG}circle")) == 4
    assert {"look & see, ms", "VMs", "ours", "theirs", "1,000"} <= {
        text.text for text in svg.iter(f"{SVG}text")
    }


def test_everything_lies_inside_the_picture() -> None:
    svg = drawn()
    across = [float(each.get(name, "0")) for each in svg.iter() for name in ("x", "x1", "x2", "cx")]
    up = [float(each.get(name, "0")) for each in svg.iter() for name in ("y", "y1", "y2", "cy")]
    assert 0 <= min(across) <= max(across) <= WIDTH
    assert 0 <= min(up) <= max(up) <= HEIGHT


def test_names_of_lines_that_end_together_do_not_cover_each_other() -> None:
    places = {text.text: float(text.get("y", "")) for text in drawn().iter(f"{SVG}text")}
    assert abs(places["ours"] - places["theirs"]) >= LABEL_GAP
