"""The report's files: atomic JSON, curves with odd values, and a page that needs nothing from outside."""

import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from internlm.data.skeleton import BONES
from internlm.eval.report import figures
from internlm.eval.report import page as report
from internlm.eval.report.page import Figure


def svgs(text):
    """Every inline SVG, parsed: broken markup raises."""
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.S)]


def test_json_holds_plain_values_and_null_for_what_json_lacks(tmp_path):
    content = {"a": {"nan": float("nan"), "t": torch.ones(2)}, "n": np.float32(2)}
    path = report.write_json(tmp_path / "deep" / "report.json", content)
    assert json.loads(path.read_text()) == {"a": {"nan": None, "t": [1.0, 1.0]}, "n": 2.0}
    assert [p.name for p in path.parent.iterdir()] == ["report.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = report.write_json(tmp_path / "report.json", {"a": 1})
    with pytest.raises(TypeError):
        report.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_figure_says_where_it_stands():
    assert Figure("x", 50.0, "%", {"a": 30.0, "b": 40.0}).verdict() == "10 points above b (1.25 × it)"
    assert Figure("x", 3.0, "cm", {"a": 4.0, "b": 6.0}, higher_is_better=False).verdict() == "1 cm below a (0.75 × it)"
    equal = Figure("x", 4.0, "cm", {"a": 4.0}, higher_is_better=False)
    assert not equal.beats_floors and equal.verdict().startswith("not better than a")
    assert Figure("x", 1.0, "%").verdict() == "" and not Figure("x", 1.0, "%").beats_floors


@pytest.mark.parametrize("y", [[1.0, 2.0, 4.0], [5.0, 5.0, 5.0], [1.0, float("nan"), 3.0], [0.0], [-1e-9, 1e-9, 0.0]])
def test_line_chart_places_its_points_inside_the_picture(y):
    chart = figures.line_chart({"loss <a>": (range(len(y)), y)}, title="t & t", x_label="step", y_label="nats")
    (svg,) = svgs(chart)
    _, _, width, height = map(float, svg.get("viewBox").split())
    assert any(text.text == "step" for text in svg.iter("text"))
    curve = next(group for group in svg.iter("g") if group.get("id") == "curve")
    points = [(float(x), float(y)) for x, y in re.findall(r"[ML] (\S+) (\S+)", curve.find("path").get("d"))]
    points += [(float(mark.get("x")), float(mark.get("y"))) for mark in curve.iter("use")]
    assert points and all(0 <= a <= width and 0 <= b <= height for a, b in points)
    if y == [1.0, 2.0, 4.0]:
        assert points[0][1] > points[1][1] > points[2][1]  # up is up
    assert chart == figures.line_chart({"loss <a>": (range(len(y)), y)}, title="t & t", x_label="step", y_label="nats")


def test_line_chart_without_points_says_so():
    assert "nothing was logged" in figures.line_chart({"a": ([], [])}, title="t", x_label="x", y_label="y")


def test_curves_skip_records_without_the_key():
    records = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": None}, {"step": 3, "loss": 1.0, "word": "x", "val/loss": 1.5}]
    expected = {"all": ([1, 3], [2.0, 1.0]), "all, held out": ([3], [1.5])}
    assert report.curves(records, {"all": "loss", "none": "other", "text": "word"}) == expected


def test_skeletons_draw_only_what_can_be_drawn():
    pixels = np.full((17, 2), 20.0)
    pixels[3], drawable = (np.nan, 1.0), np.ones(17, bool)
    drawable[0] = False
    picture = figures.skeletons(np.zeros((48, 64, 3), np.uint8), [(pixels, drawable, figures.TRUE)], caption="a < b")
    (svg,) = svgs(picture)
    assert len(list(svg.iter("circle"))) == 15
    bones = [b for b in BONES if not {0, 3} & set(b)]
    assert len(list(svg.iter("line"))) == len(bones)


def test_side_view_keeps_every_body_inside():
    joints = np.random.default_rng(0).normal(size=(2, 17, 3)) * [1.0, 4.0, 0.1]
    seen = np.ones(17, bool)
    (svg,) = svgs(figures.side_view([(joints[0], seen, figures.TRUE), (joints[1], seen, figures.FLOOR)]))
    dots = [(float(c.get("cx")), float(c.get("cy"))) for c in svg.iter("circle")]
    assert len(dots) == 34 and all(0 <= x <= 100 and 0 <= y <= 100 for x, y in dots)
    assert figures.side_view([(joints[0], ~seen, figures.TRUE)]) == ""


def test_bones_join_every_joint():
    assert {joint for bone in BONES for joint in bone} == set(range(17))


def test_page_is_self_contained(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    body = figures.strip([image, image], ["query", "1st: <kitchen>"], ["query", "right"])
    rows = [Figure("kNN top-1", 61.2, "%", {"pixels": 30.0}), Figure("odd", float("nan"), "%", {"pixels": float("nan")})]
    results = report.table_of_figures(rows) + report.facts({"seed": 1})
    sections = [report.Section("Results", results), report.Section("Pictures", body, "lead")]
    page = report.write_page(tmp_path / "report.html", title="A & B", summary="plain <text>", sections=sections).read_text()
    assert not re.search(r'(src|href)="(?!data:)', page) and "http" not in page and "<script" not in page
    assert "A &amp; B" in page and "plain &lt;text&gt;" in page and "&lt;kitchen&gt;" in page
    assert page.count("data:image/png;base64,") == 2
    assert "31.2 points above pixels" in page


def test_a_name_that_is_no_text_does_not_cost_the_page(tmp_path):
    report.write_page(tmp_path / "p.html", title="class \udcff", summary="", sections=[])
    assert "class \\udcff" in (tmp_path / "p.html").read_text()
