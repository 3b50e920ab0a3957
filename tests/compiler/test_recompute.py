"""Activations that are computed again in the backward pass: the same results, with less in memory."""

from dataclasses import replace

import numpy as np
import pytest

import needle as ndl
from needle import nn
from needle.compiler import recompute
from needle.compiler.graph import verify
from needle.compiler.host import host
from needle.compiler.recompute import with_activations_again

# A processor of so small a cache that every array is large.
TINY = replace(host(), second_cache_bytes=0)


def graph_of(function, *arguments):
    return ndl.jit(function).lower(*arguments).program.executable.simplified


def count(graph, primitive):
    return sum(node.primitive == primitive for node in graph.nodes())


def tensor(*shape):
    return ndl.Tensor(np.random.default_rng(len(shape)).standard_normal(shape), dtype="float32")


def two_layers(activation):
    def loss_and_gradients(x, w, v):
        loss = ((activation(x @ w) @ v) ** 2).sum()
        loss.backward()
        return loss.detach(), w.grad, v.grad, x.grad

    return loss_and_gradients


def arguments():
    return tensor(40, 24), tensor(24, 33) / 5, tensor(33, 17) / 5


def test_an_activation_whose_source_is_kept_is_computed_again_for_the_weights_gradient():
    graph = graph_of(two_layers(ndl.gelu), *arguments())
    again = with_activations_again(graph, TINY)
    assert count(graph, "erf") == 1
    assert count(again, "erf") == 2
    assert count(again, "matmul") == count(graph, "matmul")
    verify(again)


def test_what_is_read_twice_is_computed_again_once():
    def activation(hidden):
        shifted = hidden + 0.5
        return shifted * ndl.gelu(shifted)

    graph = graph_of(two_layers(activation), *arguments())
    again = with_activations_again(graph, TINY)
    large = [node for node in graph.nodes() if recompute._is_large(node, TINY)]
    ((expression,),) = (found.values() for found in recompute._Uses(graph).again(large).values())
    assert len(again.nodes()) == len(graph.nodes()) + len(expression)


@pytest.mark.parametrize("large", [True, False])
def test_what_a_cache_holds_is_not_computed_again(large):
    graph = graph_of(two_layers(ndl.gelu), *arguments())
    size = 40 * 33 * 4 // 4  # of the activation, in quarters
    again = with_activations_again(graph, replace(host(), second_cache_bytes=size if large else size + 1))
    assert (again is not graph) is large


def test_an_activation_that_its_own_gradient_reads_stays():
    for activation in (ndl.tanh, ndl.exp):  # the gradient is made of the result, its source is read no more
        graph = graph_of(two_layers(activation), *arguments())
        assert with_activations_again(graph, TINY) is graph


def test_an_activation_that_is_returned_stays():
    def f(x, w, v):
        hidden = ndl.gelu(x @ w)
        (hidden @ v).sum().backward()
        return hidden.detach(), v.grad, x.grad

    graph = graph_of(f, *arguments())
    assert with_activations_again(graph, TINY) is graph


def test_two_products_side_by_side_share_an_activation():
    def f(x, w, v):
        hidden = ndl.gelu(x @ w)
        return hidden @ v, hidden.transpose() @ x, x @ w

    graph = graph_of(f, *arguments())
    assert with_activations_again(graph, TINY) is graph


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("activation", [ndl.gelu, ndl.silu, ndl.relu, nn.Mish()])
def test_steps_equal_eager_ones(monkeypatch, activation, dtype):
    monkeypatch.setattr(recompute, "_LARGE", 0)
    monkeypatch.setenv("NEEDLE_CACHE", "0")
    given = [one.astype(dtype) for one in arguments()]
    ndl.jit(two_layers(activation), check=2)(*given)


def test_a_transformers_step_takes_less_memory_and_equals_the_eager_one(monkeypatch):
    monkeypatch.setenv("NEEDLE_CACHE", "0")
    sizes = []
    for large in (4, 0):
        monkeypatch.setattr(recompute, "_LARGE", large)
        np.random.seed(0)
        layers = nn.Sequential(
            *(nn.TransformerEncoderLayer(32, 2, 128, activation="gelu", dropout=0) for _ in range(3))
        )
        optimizer = ndl.optim.Adam(layers.parameters())

        @ndl.jit(check=2)
        def step(x, layers=layers, optimizer=optimizer):
            optimizer.reset_grad()
            loss = (layers(x) ** 3).mean()
            loss.backward()
            optimizer.step()
            return loss

        for _ in range(3):
            step(tensor(4, 64, 32))
        sizes.append(step.last_program.executable._plan.arena_bytes)
    assert sizes[1] < 0.95 * sizes[0]
