"""Bands: what reduces the columns of a product follows it in the same chunk, with the same results."""

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from needle.compiler import Graph, TracedArray, input_node, tiles
from needle.compiler.executable import Executable
from needle.compiler.graph import make_node
from needle.compiler.host import host
from needle.compiler.ir import Function
from needle.compiler.lanes import in_lanes
from needle.compiler.loops import Buffer, Place
from needle.compiler.program import _render_steps
from needle.compiler.rendered import Bands, RenderedKernel
from needle.compiler.rounds import Turn, make_rounds, shares_of
from needle.compiler.thread_count import available_processors, set_num_threads

ROWS, SUMS = 250, 240


def normalized(columns: int, dtype: str) -> Graph:
    """Return the graph of a product of which each column is normalised, scaled, masked and cut off below 0."""
    a, b = input_node((ROWS, SUMS), np.dtype(dtype)), input_node((SUMS, columns), np.dtype(dtype))
    scale, mask = input_node((columns,), np.dtype(dtype)), input_node((ROWS, columns), np.dtype(bool))
    x = TracedArray(make_node("matmul", (a, b)))
    centred = x - x.mean(axis=0)
    deviation = np.sqrt((centred * centred).mean(axis=0) + 1e-5)
    out = np.where(TracedArray(mask), np.maximum(centred / deviation * TracedArray(scale), 0), 0)
    return Graph((a, b, scale, mask), (out.node, deviation.node))


def numbers(columns: int, dtype: str) -> list[np.ndarray]:
    rng = np.random.default_rng(columns)
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in ((ROWS, SUMS), (SUMS, columns), (columns,))]
    return [*arrays, rng.random((ROWS, columns)) < 0.5]


def shares_of_program(executable: Executable) -> list[tuple[str, ...]]:
    """Return the steps of the chunks of all rounds."""
    phases, *_ = _render_steps(in_lanes(executable.program, available_processors()), host())
    shares = (share for turns in make_rounds(phases) for share in shares_of(turns, 4))
    return [tuple(phase.step for phase in share.phases) for share in shares]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("columns", [256, 250, 500, 509])
def test_normalised_products_are_those_of_numpy_for_every_number_of_threads(columns: int, dtype: str) -> None:
    executable = Executable(normalized(columns, dtype))
    arrays = numbers(columns, dtype)
    a, b, scale, mask = arrays
    x = a.astype("f8") @ b.astype("f8")
    deviation = np.sqrt(x.var(axis=0) + 1e-5)
    expected = np.where(mask, np.maximum((x - x.mean(axis=0)) / deviation * scale, 0), 0)
    found = []
    try:
        for threads in (1, 2):
            set_num_threads(threads)
            found.append(executable(arrays))
    finally:
        set_num_threads(None)
    np.testing.assert_allclose(found[0][0], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[0][1], deviation, rtol=1e-4)
    for one, other in zip(*found, strict=True):
        assert one.tobytes() == other.tobytes()


def test_what_reduces_the_columns_of_a_product_waits_for_no_other_chunk_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "available_processors", lambda: 2)
    executable = Executable(normalized(512, "float32"))
    product, reduction = (step.name for step in executable.program.steps)
    assert shares_of_program(executable) == [(product, reduction)]


def test_products_of_few_bands_are_shared_without_regard_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "available_processors", lambda: 100)
    executable = Executable(normalized(512, "float32"))
    assert len(shares_of_program(executable)) > 1


def test_what_is_not_a_number_stays_so_in_its_column_only() -> None:
    executable = Executable(normalized(250, "float32"))
    arrays = numbers(250, "float32")
    arrays[1][3, 7] = np.nan
    arrays[3][:] = True
    out, deviation = executable(arrays)
    assert np.isnan(deviation[7]) and np.isnan(out[:, 7]).all()
    assert np.isfinite(np.delete(out, 7, axis=1)).all()


def test_elementary_functions_are_left_to_loops_over_rows() -> None:
    a, b = input_node((ROWS, SUMS), np.dtype("f4")), input_node((SUMS, 256), np.dtype("f4"))
    x = TracedArray(make_node("matmul", (a, b)))
    compiled = Executable(Graph((a, b), ((np.tanh(x) - x).sum(axis=0).node, x.node)))
    left, right = numbers(256, "float32")[:2]
    product = left @ right
    sums, _ = compiled([left, right])
    np.testing.assert_allclose(sums, (np.tanh(product) - product).sum(axis=0), rtol=1e-3, atol=1e-2)


def phase(name: str, buffers: tuple[Buffer, ...], bands: Bands | None, banded: tuple[int, ...]) -> RenderedKernel:
    return RenderedKernel(Function(name, []), buffers, 8, True, 1, bands=bands, banded=banded)


@pytest.mark.parametrize(
    ("bands", "banded", "follows"),
    [
        (Bands(64, 16), (0, 1), True),
        (Bands(64, 16), (0,), False),  # it reads other columns
        (Bands(64, 8), (0, 1), False),  # of other bands
        (None, (), False),
    ],
)
def test_a_phase_follows_another_in_its_chunks_where_it_stays_in_its_bands(
    bands: Bands | None, banded: tuple[int, ...], follows: bool
) -> None:
    x, y = (Buffer(name, (4, 64), np.dtype("f4")) for name in "xy")
    first = phase("first", (x,), Bands(64, 16), (0,))
    rounds = make_rounds([first, phase("second", (y, x), bands, banded)])
    assert len(rounds) == (1 if follows else 2)


def test_a_phase_waits_for_what_writes_over_the_operand_of_the_one_that_it_would_follow() -> None:
    x, y, z = (Buffer(name, (4, 64), np.dtype("f4")) for name in "xyz")
    bands = Bands(64, 16)
    first = phase("first", (x, z), bands, (0,))  # reads all of z
    second = RenderedKernel(Function("second", []), (y, z, x), 8, True, 2, bands=bands, banded=(0, 1, 2))
    assert len(make_rounds([first, second])) == 2


def test_chunks_of_a_team_are_of_whole_bands() -> None:
    x = Buffer("x", (4, 176), np.dtype("f4"))
    tiles = RenderedKernel(Function("f", []), (x,), 22, True, 1, bands=Bands(176, 16), banded=(0,))
    after = RenderedKernel(Function("g", []), (x,), 11, True, 1, bands=Bands(176, 16), banded=(0,))
    (share,) = shares_of([Turn(tiles, None, 0), Turn(after, None, 0)], 4)
    assert share.count == 4
    assert [share.parts_together(one) for one in share.phases] == [2, 1]


@pytest.mark.parametrize(
    ("place", "stays"), [(Place(0, (64, 1)), True), (Place(0, (0, 1)), True), (Place(1, (64, 1)), False)]
)
def test_places_stay_in_their_column(place: Place, stays: bool) -> None:
    assert Bands(64, 16).keep(place) is stays
    assert not Bands(64, 16).keep(Place(0, (1, 64)))
