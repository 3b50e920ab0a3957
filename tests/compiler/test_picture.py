"""The picture of a program: valid, whole, and without boxes on top of each other."""

from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pytest

import needle as ndl
from needle import nn, optim
from needle.models import MLPResNet

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def lowered():
    np.random.seed(0)
    model = MLPResNet(12, hidden_dim=8, num_blocks=1, num_classes=3)
    opt = optim.Adam(model.parameters())
    loss_fn = nn.SoftmaxLoss()

    @ndl.jit
    def step(x, y):
        opt.reset_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        opt.step()
        return loss

    return step.lower(ndl.init.rand(4, 12), ndl.Tensor(np.array([0, 1, 2, 0]), requires_grad=False))


def boxes(svg):
    found = ElementTree.fromstring(svg).iter(f"{SVG}rect")  # noqa: S314  our own text
    return [rect for rect in found if rect.get("class") != "page"]


def test_every_kernel_has_a_box(lowered):
    kinds = [rect.get("class") for rect in boxes(lowered.picture())]
    assert kinds.count("array") == 2
    assert len(kinds) == 2 + len(lowered.program.executable.program.steps)


def test_boxes_do_not_overlap_and_lie_on_the_page(lowered):
    svg = lowered.picture()
    page = ElementTree.fromstring(svg)  # noqa: S314  our own text
    places = [tuple(float(rect.get(key)) for key in ("x", "y", "width", "height")) for rect in boxes(svg)]
    for (x, y, w, h), (x2, y2, w2, h2) in combinations(places, 2):
        assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y
    for x, y, w, h in places:
        assert min(x, y) >= 0
        assert x + w <= float(page.get("width"))
        assert y + h <= float(page.get("height"))


def test_text_fits_its_box(lowered):
    root = ElementTree.fromstring(lowered.picture())  # noqa: S314  our own text
    for group in root.iter(f"{SVG}g"):
        width = float(group.find(f"{SVG}rect").get("width"))
        assert all(6.7 * len(text.text) <= width for text in group.findall(f"{SVG}text"))


def test_file_is_written_whole(lowered, tmp_path):
    lowered.save_picture(tmp_path / "step.svg")
    assert [path.name for path in tmp_path.iterdir()] == ["step.svg"]
    assert (tmp_path / "step.svg").read_text().startswith("<svg")
