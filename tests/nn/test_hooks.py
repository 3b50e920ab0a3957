"""Hooks see what goes through a module, forward and backward, and may change it."""

import copy
import pickle

import numpy as np
import pytest

import needle as ndl
from needle import nn
from needle.errors import DTypeError, GradientError, ShapeError, TraceError


def rows(*values):
    return ndl.Tensor(np.array(values), dtype="float64")


def make_model():
    np.random.seed(0)
    return nn.Sequential(nn.Linear(3, 4, dtype="float64"), nn.Tanh(), nn.Linear(4, 2, dtype="float64"))


def test_forward_hooks_run_in_order_around_forward():
    layer, calls = nn.Identity(), []
    layer.register_forward_pre_hook(lambda module, args: calls.append(("before", module is layer, args)))
    layer.register_forward_hook(lambda module, args, result: calls.append(("first", args, result)))
    layer.register_forward_hook(lambda module, args, result: calls.append(("second", args, result)))
    assert layer(5) == 5
    assert calls == [("before", True, (5,)), ("first", (5,), 5), ("second", (5,), 5)]


def test_hooks_change_arguments_and_result():
    layer = nn.Identity()
    layer.register_forward_pre_hook(lambda module, args: args[0] + 1)
    layer.register_forward_pre_hook(lambda module, args: (args[0] * 10,))
    layer.register_forward_hook(lambda module, args, result: result - 1)
    assert layer(2) == 29


def test_a_removed_hook_is_not_called_and_leaves_no_trace():
    layer, calls = nn.ReLU(), []
    before = dict(vars(layer))
    handle = layer.register_forward_hook(lambda *_: calls.append("hook"))
    other = layer.register_forward_pre_hook(lambda *_: calls.append("other"))
    handle.remove()
    handle.remove()
    layer(rows(1.0))
    other.remove()
    layer(rows(1.0))
    assert calls == ["other"]
    assert vars(layer) == before


def test_one_function_registered_twice_is_called_twice_and_removed_once():
    layer, calls = nn.Identity(), []
    hook = lambda *_: calls.append(1)
    handles = [layer.register_forward_hook(hook), layer.register_forward_hook(hook)]
    layer(1)
    handles[0].remove()
    layer(1)
    assert len(calls) == 3


def test_a_forward_of_the_object_itself_is_kept():
    layer = nn.Identity()
    layer.forward = lambda x: x + 1
    own = layer.forward
    with layer.register_forward_hook(lambda module, args, result: result * 2):
        assert layer(1) == 4
    assert layer.forward is own


def test_a_hook_ends_with_its_block_also_after_an_error():
    layer = nn.Linear(3, 2)
    with pytest.raises(ShapeError, match="Linear"), layer.register_forward_hook(lambda *_: None):
        layer(rows([1.0]))
    assert "forward" not in vars(layer)


def test_copies_and_pickles_have_no_hooks():
    layer = nn.Linear(3, 2)
    layer.register_forward_hook(lambda module, args, result: result * 0)
    for other in (copy.copy(layer), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):  # noqa: S301  our own
        assert "forward" not in vars(other)
        x = ndl.init.rand(4, 3)
        expected = x.numpy() @ layer.weight.numpy() + layer.bias.numpy()
        np.testing.assert_allclose(other(x).numpy(), expected, rtol=1e-6)


def test_backward_hook_gets_the_gradients_on_both_sides():
    model, x = make_model(), rows([1.0, -2.0, 0.5])
    seen = {}
    model[1].register_backward_hook(lambda module, before, after: seen.update(before=before, after=after))
    model(x).sum().backward()
    after = model[2].weight.numpy().sum(axis=1)
    hidden = np.tanh(x.numpy() @ model[0].weight.numpy() + model[0].bias.numpy())
    np.testing.assert_allclose(seen["after"][0].numpy(), after[None])
    np.testing.assert_allclose(seen["before"][0].numpy(), after * (1 - hidden**2))


def test_backward_hook_leaves_gradients_as_they_are():
    model, x = make_model(), rows([1.0, -2.0, 0.5])
    model(x).sum().backward()
    expected = [p.grad.numpy() for p in [x, *model.parameters()]]
    for module in model.modules:
        module.register_backward_hook(lambda *_: None)
    model(x).sum().backward()
    for one, p in zip(expected, [x, *model.parameters()], strict=True):
        np.testing.assert_array_equal(p.grad.numpy(), one)


def test_backward_hook_changes_what_goes_further_back():
    model, x = make_model(), rows([1.0, -2.0, 0.5])
    model(x).sum().backward()
    expected = x.grad.numpy()
    model[1].register_backward_hook(lambda module, before, after: 2 * before[0])
    model(x).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 2 * expected)


def test_backward_hook_of_a_first_layer_whose_input_needs_no_gradient():
    layer, seen = nn.Linear(3, 2), []
    layer.register_backward_hook(lambda module, before, after: seen.append((before, after[0].shape)))
    layer(ndl.Tensor(np.ones((4, 3), "float32"), requires_grad=False)).sum().backward()
    assert seen == [((None,), (4, 2))]


def test_backward_hook_of_a_module_with_several_inputs_and_results():
    class Both(nn.Module):
        def forward(self, pair, scale):
            a, b = pair
            return {"product": a * b, "scaled": a * scale}

    module, seen = Both(), []
    module.register_backward_hook(lambda module, before, after: seen.append((before, after)))
    a, b = rows(2.0), rows(3.0)
    module((a, b), 5.0)["product"].sum().backward()
    ((before, after),) = seen
    assert [one.numpy().tolist() for one in before] == [[3.0], [2.0]]
    assert [one.numpy().tolist() for one in after] == [[1.0], [0.0]]
    assert (a.grad.numpy(), b.grad.numpy()) == ([3.0], [2.0])


def test_backward_hook_is_differentiable():
    layer, x = nn.Tanh(), rows(0.5)
    layer.register_backward_hook(lambda *_: None)
    layer(x).sum().backward()
    x.grad.sum().backward()
    t = np.tanh(0.5)
    np.testing.assert_allclose(x.grad.numpy(), [-2 * t * (1 - t * t)])


@pytest.mark.parametrize(
    ("returned", "error"),
    [((rows(1.0), rows(1.0)), GradientError), (rows(1.0, 2.0), ShapeError), (1.0, DTypeError)],
    ids=["count", "shape", "kind"],
)
def test_a_backward_hook_that_returns_something_else_is_told(returned, error):
    layer = nn.Tanh()
    layer.register_backward_hook(lambda *_: returned)
    with pytest.raises(error, match="a backward hook of Tanh"):
        layer(rows(1.0)).backward()


def test_no_backward_hook_under_no_grad():
    layer = nn.Tanh()
    layer.register_backward_hook(lambda *_: None)
    with ndl.no_grad():
        assert layer(rows(1.0)).is_leaf()


def test_hooks_work_inside_a_compiled_function():
    model, x = make_model(), rows([1.0, -2.0, 0.5])
    mean, norm = nn.Buffer(np.zeros(())), nn.Buffer(np.zeros(()))

    def note_mean(module, args, result):
        mean.data = result.mean()

    def note_norm(module, before, after):
        norm.data = (before[0] ** 2).sum().detach()

    model[1].register_forward_hook(note_mean)
    model[1].register_backward_hook(note_norm)

    def step(x):
        model(x).sum().backward()
        return model[0].weight.grad

    compiled = ndl.jit(step)
    for value in (x, 2 * x.detach(), 3 * x.detach()):
        got = compiled(value).numpy(), float(mean), float(norm)
        expected = step(value).numpy(), float(mean), float(norm)
        np.testing.assert_allclose(got[0], expected[0], rtol=1e-9)
        np.testing.assert_allclose(got[1:], expected[1:], rtol=1e-9)


def test_a_compiled_function_is_traced_again_where_hooks_change():
    layer = nn.Identity()
    compiled = ndl.jit(layer)
    x = rows(1.0)
    assert compiled(x).numpy() == [1.0]
    with layer.register_forward_hook(lambda module, args, result: result * 7):
        assert compiled(x).numpy() == [7.0]
    assert compiled(x).numpy() == [1.0]
    assert compiled.cache_info().traces == 2


def test_a_hook_that_keeps_a_traced_tensor_is_told():
    layer, kept = nn.Tanh(), []
    layer.register_forward_hook(lambda module, args, result: kept.append(result))
    with pytest.raises(TraceError, match="kept outside"):
        ndl.jit(lambda x: layer(x) * 2)(rows(1.0))
