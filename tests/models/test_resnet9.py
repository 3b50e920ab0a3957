"""The convolutional network with shortcuts: its structure, its draws, and PyTorch's answer."""

import numpy as np
import pytest

import needle as ndl
from needle import nn
from needle.errors import ShapeError
from needle.models import ResNet9

# (in, out, kernel, stride) of each convolution, in the order in which data flow.
CONVOLUTIONS = [
    *((3, 16, 7, 4), (16, 32, 3, 2), (32, 32, 3, 1), (32, 32, 3, 1)),
    *((32, 64, 3, 2), (64, 128, 3, 2), (128, 128, 3, 1), (128, 128, 3, 1)),
]


def _walk(module, kind):
    if isinstance(module, kind):
        yield module
        return
    for inner in module.modules if isinstance(module, nn.Sequential) else [getattr(module, "fn", None)]:
        if inner is not None:
            yield from _walk(inner, kind)


def test_resnet9_is_built_as_the_contract_has_it():
    model = ResNet9()
    found = [(c.in_channels, c.out_channels, c.kernel_size, c.stride) for c in _walk(model, nn.Conv)]
    assert found == CONVOLUTIONS
    assert [norm.dim for norm in _walk(model, nn.BatchNorm2d)] == [row[1] for row in CONVOLUTIONS]
    assert [layer.weight.shape for layer in _walk(model, nn.Linear)] == [(128, 128), (128, 10)]
    assert len(list(_walk(model, nn.ReLU))) == 9
    assert model.num_parameters() == 431_946
    assert sum(np.prod(parameter.shape) for parameter in model.parameters()) == 431_946


def test_resnet9_draws_in_the_order_in_which_data_flow():
    np.random.seed(3)
    model = ResNet9()
    np.random.seed(3)
    for layer, (channels, out, side, _) in zip(_walk(model, nn.Conv), CONVOLUTIONS, strict=True):
        fan = channels * side * side
        bound = np.sqrt(6 / fan)
        weight = np.random.rand(side, side, channels, out) * 2 * bound - bound
        bias = (np.random.rand(out) * 2 - 1) / np.sqrt(fan)
        np.testing.assert_allclose(layer.weight.numpy(), weight, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(layer.bias.numpy(), bias, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_resnet9_makes_everything_in_the_dtype_asked_for(dtype):
    model = ResNet9(device=ndl.cpu(), dtype=dtype)
    assert {str(parameter.dtype) for parameter in model.parameters()} == {dtype}
    logits = model(ndl.init.rand(1, 3, 32, 32, dtype=dtype))
    assert (logits.shape, logits.dtype, logits.device) == ((1, 10), dtype, ndl.cpu())


def test_resnet9_agrees_with_pytorch():
    torch = pytest.importorskip("torch")
    model = ResNet9(dtype="float64")

    def peer(module):
        if isinstance(module, nn.Sequential):
            return torch.nn.Sequential(*map(peer, module.modules))
        if isinstance(module, nn.Residual):
            return Shortcut(peer(module.fn))
        return leaf(module)

    class Shortcut(torch.nn.Module):
        def __init__(self, fn):
            super().__init__()
            self.fn = fn

        def forward(self, x):
            return self.fn(x) + x

    def leaf(module):
        if isinstance(module, nn.Conv):
            side = module.kernel_size
            made = torch.nn.Conv2d(module.in_channels, module.out_channels, side, module.stride, side // 2)
            fill(made, module, (3, 2, 0, 1))
        elif isinstance(module, nn.BatchNorm2d):
            made = torch.nn.BatchNorm2d(module.dim)
        elif isinstance(module, nn.Linear):
            made = torch.nn.Linear(*module.weight.shape)
            fill(made, module, (1, 0))
        else:
            made = {nn.ReLU: torch.nn.ReLU, nn.Flatten: torch.nn.Flatten}[type(module)]()
        return made.double()

    def fill(made, module, order):
        made.weight.data = torch.tensor(module.weight.numpy().transpose(order).copy())
        made.bias.data = torch.tensor(module.bias.numpy().reshape(-1).copy())

    images, labels = np.random.default_rng(0).random((5, 3, 32, 32)), np.arange(5)
    reference = peer(model).double()
    loss = torch.nn.functional.cross_entropy(reference(torch.tensor(images)), torch.tensor(labels))
    loss.backward()
    found = nn.SoftmaxLoss()(model(ndl.Tensor(images, requires_grad=False)), ndl.Tensor(labels))
    found.backward()
    assert found.item() == pytest.approx(loss.item(), rel=1e-10)
    first, weight = next(_walk(model, nn.Conv)), next(reference.parameters())
    np.testing.assert_allclose(first.weight.grad.numpy(), weight.grad.numpy().transpose(2, 3, 1, 0), rtol=1e-6)


def test_resnet9_compiled_steps_are_the_eager_ones():
    images, labels = ndl.init.rand(4, 3, 32, 32, dtype="float64"), ndl.Tensor(np.arange(4))
    losses = {}
    for compiled in (False, True):
        np.random.seed(0)
        model, loss_fn = ResNet9(dtype="float64"), nn.SoftmaxLoss()
        # No Adam: a convolution's bias before a normalisation has a gradient of 0, of which Adam makes steps of ±lr.
        opt = ndl.optim.SGD(model.parameters(), lr=0.01)

        def step(x, y, model=model, loss_fn=loss_fn, opt=opt):
            opt.reset_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            opt.step()
            return loss

        run = ndl.jit(step) if compiled else step
        losses[compiled] = [run(images, labels).item() for _ in range(3)]
    np.testing.assert_allclose(losses[True], losses[False], rtol=1e-9)


def test_resnet9_names_the_shape_that_it_takes():
    with pytest.raises(ShapeError, match="expected x of shape"):
        ResNet9()(ndl.init.rand(2, 1, 28, 28))
