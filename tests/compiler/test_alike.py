"""Steps that are alike are rendered once, and each keeps its own buffers."""

from dataclasses import replace

import numpy as np

from needle.compiler.alike import Renderings, form_of
from needle.compiler.ir import Function
from needle.compiler.loops import Buffer, Call, Kernel, Load, Number, Place, Store
from needle.compiler.rendered import RenderedKernel
from needle.compiler.sharing import share_packed

FLOAT = np.dtype(np.float32)
HERE = Place(0, (1,))


def a_buffer(name, size=8, dtype=FLOAT):
    return Buffer(name, (size,), dtype)


def add(source, other, out, name="k", shape=(8,)):
    value = Call("add", (Load(source, HERE, FLOAT), Load(other, HERE, FLOAT)), FLOAT)
    return Kernel(name, shape, (), (Store(out, HERE, value),), ("a.py:1",))


def test_buffers_and_labels_make_no_difference():
    one, other = (add(*(a_buffer(name) for name in names)) for names in ("abc", "def"))
    other = replace(other, name="another", sources=("b.py:2",))
    assert form_of(one)[0] == form_of(other)[0]
    assert [buffer.name for buffer in form_of(other)[1]] == ["f", "d", "e"]  # in the order of its parts


def test_what_is_computed_makes_a_difference():
    a, b, c = map(a_buffer, "abc")
    first = form_of(add(a, b, c))[0]
    others = [
        add(a, a, c),  # the same operand twice
        add(a, b, a),  # in place
        add(a, b, c, shape=(4,)),
        add(a, a_buffer("b", 9), c),
        add(a, a_buffer("b", dtype=np.dtype(np.int32)), c),
        Kernel("k", (8,), (), (Store(c, HERE, Number(b"\0\0\0\0", FLOAT)),)),
    ]
    forms = [form_of(one)[0] for one in others]
    assert first not in forms
    assert len(set(forms)) == len(forms)


def test_a_value_that_is_used_twice_is_told_from_two_equal_ones():
    a, out = map(a_buffer, "ab")
    once = Call("exp", (Load(a, HERE, FLOAT),), FLOAT)
    again = Call("exp", (Load(a, HERE, FLOAT),), FLOAT)
    kernels = [
        Kernel("k", (8,), (), (Store(out, HERE, Call("add", (once, second), FLOAT)),)) for second in (once, again)
    ]
    assert form_of(kernels[0])[0] != form_of(kernels[1])[0]


def test_a_long_chain_of_shared_values_has_a_short_form():
    a, out = map(a_buffer, "ab")
    value = Load(a, HERE, FLOAT)
    for _ in range(60):  # 2⁶⁰ paths lead to the load
        value = Call("add", (value, value), FLOAT)
    form, _ = form_of(Kernel("k", (8,), (), (Store(out, HERE, value),)))
    assert len(form) < 70


def test_what_functions_keep_between_them_is_not_shared_by_steps():
    made = []

    def render(step):
        packed = a_buffer("packed")
        made.append(step)
        source, out = step.stages[0].value.arguments[0].buffer, step.stages[0].buffer
        return [
            RenderedKernel("pack", (packed, source), 1, False, 1),
            RenderedKernel("work", (out, packed), 1, False, 1),
        ]

    renderings = Renderings(render)
    steps = [add(*(a_buffer(f"{name}{number}") for name in "abc")) for number in range(3)]
    phases = [renderings(step) for step in steps]
    assert made == steps[:1]
    packed = [pair[0].buffers[0] for pair in phases]
    assert len(set(packed)) == 3
    for step, (pack, work), between in zip(steps, phases, packed, strict=True):
        assert pack.buffers == (between, step.stages[0].value.arguments[0].buffer)
        assert work.buffers == (step.stages[0].buffer, between)


def test_an_operand_that_many_steps_pack_is_packed_once():
    weights, one, other, out = (a_buffer(name) for name in ("w", "x", "y", "out"))
    pack, work = Function("pack", ["ptr %p", "ptr %s"]), Function("work", ["ptr %o", "ptr %p", "ptr %x"])

    def step(source, begin=0):
        packed = a_buffer("packed")
        begins = {source: begin}
        return [
            RenderedKernel(pack, (packed, source), 1, False, 1, begins),
            RenderedKernel(work, (out, packed, one), 1, False, 1),
        ]

    phases = [*step(weights), *step(weights), *step(other), *step(weights, begin=4), *step(weights)]
    found = share_packed(phases, {weights, one, other, out})
    packs = [phase for phase in found if phase.function is pack]
    works = [phase for phase in found if phase.function is work]
    assert [(phase.buffers[1].name, phase.begins[phase.buffers[1]]) for phase in packs] == [
        ("w", 0),
        ("y", 0),
        ("w", 4),
    ]
    assert [packs.index(next(p for p in packs if p.buffers[0] is one.buffers[1])) for one in works] == [0, 0, 1, 2, 0]


def test_what_several_phases_write_is_not_shared():
    source, out = a_buffer("x"), a_buffer("out")
    fill = Function("fill", ["ptr %p", "ptr %s"])
    twice = a_buffer("own")
    phases = [RenderedKernel(fill, (twice, source), 1, False, 1)] * 2 + [
        RenderedKernel(fill, (out, source), 1, False, 1)
    ] * 2
    assert len(share_packed(phases, {source, out})) == 4
