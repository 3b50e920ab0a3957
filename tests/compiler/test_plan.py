"""Plans on disk: a graph that has been compiled before needs none of the compiler's stages, and is never mistaken."""

import os
import subprocess
import sys

import numpy as np
import pytest
from tests.compiler.compiled import compile_function

from needle.compiler import plan as plan_module
from needle.compiler import stages
from needle.compiler.plan import Plan, plan_name, read_plan, write_plan

X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NEEDLE_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("NEEDLE_CACHE", raising=False)
    return tmp_path


@pytest.fixture
def made(monkeypatch):
    """List the graphs that go through the compiler's stages."""
    graphs = []
    whole = stages.simplify
    monkeypatch.setattr(stages, "simplify", lambda graph: graphs.append(graph) or whole(graph))
    return graphs


def shifted(by):
    return lambda x: x.namespace.tanh(x) + x.namespace.asarray(by)


def test_a_known_graph_needs_no_stage(made):
    by = np.array([1, 2, 3], dtype=np.float32)
    first = compile_function(shifted(by), X)([X])[0]
    count = len(made)
    again = compile_function(shifted(by), X)
    np.testing.assert_array_equal(again([X])[0], first)
    np.testing.assert_array_equal(first, np.tanh(X) + by)
    assert count and len(made) == count
    assert "tanh" in again.program.show()  # made now
    assert len(made) > count


@pytest.mark.parametrize(
    "other",
    [
        lambda: compile_function(shifted(np.array([1, 2, 4], dtype=np.float32)), X),
        lambda: compile_function(shifted(np.array([[1, 2, 3]], dtype=np.float32)), X),
        lambda: compile_function(shifted(np.array([1, 2, 3], dtype=np.float32)), X[:1]),
        lambda: compile_function(shifted(np.array([1, 2, 3], dtype=np.float32)), X.astype(np.float64)),
        lambda: compile_function(lambda x: shifted(np.array([1, 2, 3], dtype=np.float32))(x).T, X),
    ],
    ids=["constant", "its shape", "shape", "dtype", "permuted"],
)
def test_another_graph_has_another_plan(made, other):
    compile_function(shifted(np.array([1, 2, 3], dtype=np.float32)), X)
    count = len(made)
    other()
    assert len(made) > count


def test_what_may_be_overwritten_is_part_of_the_name():
    graph = compile_function(lambda x: x + 1, X).graph
    assert plan_name(graph, {}) != plan_name(graph, {0: 0})
    assert plan_name(graph, {}) != plan_name(graph, {}, [0])
    assert plan_name(graph, {}) == plan_name(graph, {})


@pytest.mark.parametrize("what", ["plan", "code"])
def test_where_an_entry_is_lost_or_damaged_all_is_made_anew(folder, made, what):
    first = compile_function(shifted(np.float32(1)), X)
    plan = read_plan(plan_name(first.graph, {}))
    name = plan_name(first.graph, {}) if what == "plan" else plan.code
    path = folder / f"{name}.needle-object"
    for damage in (path.unlink, lambda: path.write_bytes(path.read_bytes()[:-1])):
        damage()
        count = len(made)
        np.testing.assert_array_equal(compile_function(shifted(np.float32(1)), X)([X])[0], np.tanh(X) + 1)
        assert len(made) > count


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "bool", "int64"])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_constants_come_back_as_they_were(dtype, shape):
    constants = (np.ones(3), np.arange(np.prod(shape)).reshape(shape).astype(dtype), np.ones(1))
    write_plan("ab" * 32, Plan("code", 64, 128, True, False, {1: 0}, constants))
    found = read_plan("ab" * 32)
    assert (found.code, found.arena_bytes, found.control_bytes) == ("code", 64, 128)
    assert (found.parallel, found.is_long) == (True, False)
    assert found.overwrites == {1: 0}
    for one, other in zip(found.constants, constants, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_array_equal(one, other)


def test_a_compiler_that_was_edited_while_it_runs_has_no_plans(monkeypatch, folder):
    graph = compile_function(lambda x: x * 3, X).graph
    name = plan_name(graph, {})
    monkeypatch.setattr(plan_module, "LOADED_AT", 0.0)
    write_plan("cd" * 32, read_plan(name))
    assert not (folder / f"{'cd' * 32}.needle-object").exists()
    plan_module._compiler_text.cache_clear()
    assert plan_name(graph, {}) is None
    np.testing.assert_array_equal(compile_function(lambda x: x * 3, X)([X])[0], X * 3)
    monkeypatch.undo()
    plan_module._compiler_text.cache_clear()


def test_settings_that_no_text_tells_apart_have_no_plan():
    with pytest.raises(TypeError, match="a setting of type object"):
        plan_module._plain(object())


PROGRAM = """
import sys
import needle as ndl

f = ndl.jit(lambda x: ndl.exp(x) * 2)
print(f(ndl.Tensor([0.0])).item(), "needle.compiler.schedule" in sys.modules)
"""


def test_the_next_process_loads_no_stage():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = [sys.executable, "-c", PROGRAM]
    found = [subprocess.run(run, capture_output=True, text=True, check=True, env=environment).stdout for _ in range(2)]
    assert found == ["2.0 True\n", "2.0 False\n"]


def test_processes_share_plans():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    running = [
        subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(4)
    ]
    assert all(process.communicate(timeout=60)[0].startswith("2.0 ") for process in running)
