"""Pictures of graphs: whole, named, without boxes on top of each other, and written whole."""

from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pytest

import needle as ndl
from needle import nn
from needle.errors import DTypeError, GradientError, SettingError

SVG = "{http://www.w3.org/2000/svg}"


def texts(drawing):
    return [one.text for one in ElementTree.fromstring(drawing.svg).iter(f"{SVG}text")]  # noqa: S314  our own text


def boxes(drawing):
    found = ElementTree.fromstring(drawing.svg).iter(f"{SVG}rect")  # noqa: S314  our own text
    return [rect for rect in found if rect.get("class") != "page"]


def edges(rect):
    x, y, width, height = (float(rect.get(name)) for name in ("x", "y", "width", "height"))
    return x, y, x + width, y + height


def make_loss():
    np.random.seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Residual(nn.Linear(4, 4)))
    x = ndl.init.rand(2, 3)
    return model, x, (model(x) ** 2).sum()


def test_every_node_has_a_box_and_leaves_have_names():
    model, x, loss = make_loss()
    drawing = ndl.draw(loss, model=model, names={"images": x})
    assert len(boxes(drawing)) == len(ndl.autograd.find_topo_sort([loss]))
    titles = texts(drawing)
    assert {"images", "matmul", "tanh", "summation", *(name for name, _ in model.named_parameters())} <= set(titles)
    assert "float32 (2, 4)" in titles


@pytest.mark.parametrize("gradients", [False, True])
def test_no_two_boxes_overlap_and_all_are_on_the_page(gradients):
    model, _, loss = make_loss()
    drawing = ndl.draw(loss, model=model, gradients=gradients)
    root = ElementTree.fromstring(drawing.svg)  # noqa: S314  our own text
    for one, other in combinations(map(edges, boxes(drawing)), 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    assert all(edges(rect)[2] <= float(root.get("width")) for rect in boxes(drawing))
    assert all(edges(rect)[3] <= float(root.get("height")) for rect in boxes(drawing))


def test_gradients_of_all_leaves_are_drawn_on_request_and_none_is_stored():
    model, _, loss = make_loss()
    titles = texts(ndl.draw(loss, model=model, gradients=True))
    assert [name for name, _ in model.named_parameters() if f"gradient of {name}" not in titles] == []
    assert all(p.grad is None for p in model.parameters())


def test_a_graph_of_tuples_is_drawn():
    layer = nn.LSTM(3, 4)
    outputs, _ = layer(ndl.init.rand(5, 2, 3))
    assert "lstm_cells.0.W_hh" in texts(ndl.draw(outputs.sum(), model=layer))


def test_a_leaf_is_one_box():
    assert texts(ndl.draw(ndl.Tensor([1.0]), names={"<w & b>": ndl.Tensor([2.0])})) == ["leaf", "float64 (1,)"]


def test_names_are_escaped():
    x = ndl.Tensor([1.0])
    assert texts(ndl.draw(x, names={"<w & b>": x}))[0] == "<w & b>"


def test_a_compiled_function_is_drawn_by_its_last_program():
    model, x, _ = make_loss()
    compiled = ndl.jit(lambda x: model(x).sum())
    with pytest.raises(SettingError, match="call it once"):
        ndl.draw(compiled)
    compiled(x)
    assert ndl.draw(compiled).svg == ndl.draw(compiled.lower(x)).svg
    assert any("matrix product" in one for one in texts(ndl.draw(compiled)))


def test_a_file_is_written_whole(tmp_path):
    _, _, loss = make_loss()
    drawing = ndl.draw(loss, tmp_path / "graph.svg")
    assert (tmp_path / "graph.svg").read_text() == drawing.svg == drawing._repr_svg_()
    assert [path.name for path in tmp_path.iterdir()] == ["graph.svg"]
    with pytest.raises(FileNotFoundError):
        ndl.draw(loss, tmp_path / "missing" / "graph.svg")


def test_what_cannot_be_drawn_is_told():
    with pytest.raises(DTypeError, match="draw takes a Tensor or a compiled function, got int"):
        ndl.draw(3)
    with pytest.raises(GradientError, match="requires no gradient"):
        ndl.draw(ndl.Tensor([1.0], requires_grad=False), gradients=True)
    with pytest.raises(SettingError, match="leave out gradients"):
        ndl.draw(ndl.jit(abs), gradients=True)
