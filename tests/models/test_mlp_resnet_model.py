"""The residual MLP: its structure, its draws and its formula."""

import numpy as np
import pytest

import needle as ndl
from needle import nn
from needle.models import MLPResNet, ResidualBlock


def kinds(module):
    return [type(inner).__name__ for inner in module.modules]


def test_residual_block_is_built_as_the_contract_has_it():
    block = ResidualBlock(6, 4, norm=nn.LayerNorm1d, drop_prob=0.3)
    assert kinds(block) == ["Residual", "ReLU"]
    inner = block.modules[0].fn
    assert kinds(inner) == ["Linear", "LayerNorm1d", "ReLU", "Dropout", "Linear", "LayerNorm1d"]
    assert inner.modules[0].weight.shape == (6, 4)
    assert inner.modules[4].weight.shape == (4, 6)
    assert (inner.modules[1].dim, inner.modules[5].dim) == (4, 6)
    assert inner.modules[3].p == 0.3
    assert type(ResidualBlock(6, 4).modules[0].fn.modules[1]) is nn.BatchNorm1d
    assert ResidualBlock(6, 4).modules[0].fn.modules[3].p == 0.1


def test_mlp_resnet_is_built_as_the_contract_has_it():
    model = MLPResNet(784)
    assert kinds(model) == ["Linear", "ReLU", "Sequential", "Sequential", "Sequential", "Linear"]
    assert model.modules[0].weight.shape == (784, 100)
    assert model.modules[2].modules[0].fn.modules[0].weight.shape == (100, 50)
    assert model.modules[5].weight.shape == (100, 10)
    small = MLPResNet(7, 5, 2, 3, nn.LayerNorm1d, 0.25)
    assert kinds(small) == ["Linear", "ReLU", "Sequential", "Sequential", "Linear"]
    assert small.modules[2].modules[0].fn.modules[0].weight.shape == (5, 2)
    assert small.modules[2].modules[0].fn.modules[3].p == 0.25
    assert kinds(MLPResNet(7, num_blocks=0)) == ["Linear", "ReLU", "Linear"]


def test_mlp_resnet_draws_in_the_order_in_which_data_flow():
    np.random.seed(1)
    model = MLPResNet(7, 6, 1, 3)
    np.random.seed(1)
    inner = model.modules[2].modules[0].fn
    layers = [model.modules[0], inner.modules[0], inner.modules[4], model.modules[3]]
    for layer, (fan_in, fan_out) in zip(layers, [(7, 6), (6, 3), (3, 6), (6, 3)], strict=True):
        bound = np.sqrt(6 / fan_in)
        weight = np.random.rand(fan_in, fan_out) * 2 * bound - bound
        bound = np.sqrt(6 / fan_out)
        bias = np.random.rand(fan_out, 1) * 2 * bound - bound
        np.testing.assert_allclose(layer.weight.numpy(), weight, rtol=1e-6)
        np.testing.assert_allclose(layer.bias.numpy(), bias.T, rtol=1e-6)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.LayerNorm1d])
def test_mlp_resnet_is_its_formula(norm):
    np.random.seed(0)
    model = MLPResNet(5, 4, 2, 3, norm).to(dtype="float64").eval()
    x = np.random.randn(6, 5)

    def linear(layer, h):
        return h @ layer.weight.numpy() + layer.bias.numpy()

    def normalize(h):
        if norm is nn.BatchNorm1d:  # running mean 0 and variance 1
            return h / np.sqrt(1 + 1e-5)
        return (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 1e-5)

    h = np.maximum(linear(model.modules[0], x), 0)
    for block in model.modules[2:4]:
        layers = block.modules[0].fn.modules
        inner = np.maximum(normalize(linear(layers[0], h)), 0)
        h = np.maximum(h + normalize(linear(layers[4], inner)), 0)
    np.testing.assert_allclose(model(ndl.Tensor(x)).numpy(), linear(model.modules[4], h), rtol=1e-8, atol=1e-12)


def test_steps_leave_no_tensors_behind():
    model, loss_fn = MLPResNet(8, 16, 1, 4), nn.SoftmaxLoss()
    x, y = ndl.Tensor(np.random.randn(12, 8), dtype="float32"), ndl.Tensor(np.arange(12) % 4)
    counts = []
    for _ in range(5):
        loss_fn(model(x), y).backward()
        for tensor in (*model.parameters(), x):
            tensor.grad = None
        counts.append(ndl.autograd.TENSOR_COUNTER)
    assert counts == [counts[0]] * 5


def test_mlp_resnet_learns_a_small_batch():
    np.random.seed(0)
    model, loss_fn = MLPResNet(8, 16, 1, 4, drop_prob=0.0), nn.SoftmaxLoss()
    x, y = ndl.Tensor(np.random.randn(12, 8), dtype="float32"), ndl.Tensor(np.arange(12) % 4)
    first = loss_fn(model(x), y).item()
    for _ in range(60):
        loss = loss_fn(model(x), y)
        loss.backward()
        for parameter in model.parameters():
            parameter.data = ndl.Tensor(parameter.numpy() - 0.1 * parameter.grad.numpy())
    assert loss.item() < 0.1 * first
