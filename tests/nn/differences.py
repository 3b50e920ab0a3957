"""Gradients by central differences, of first and second order, in float64."""

import numpy as np

from needle.autograd import Tensor

STEP = 1e-5


def gradients(function, arrays, weights):
    """Return Σ weights · function's gradients, as Needle computes them: Tensors with graphs."""
    leaves = [Tensor(array) for array in arrays]
    (function(*leaves) * Tensor(weights, requires_grad=False)).sum().backward()
    return leaves, [leaf.grad for leaf in leaves]


def check_gradients(function, *arrays, seed=0):
    """Compare first and second derivatives of `function` of float64 arrays with differences."""
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal(function(*map(Tensor, arrays)).shape)

    def weighted(values):
        return float((function(*map(Tensor, values)).numpy() * weights).sum())

    leaves, first = gradients(function, arrays, weights)
    directions = [rng.standard_normal(array.shape) for array in arrays]
    forward, backward = ([a + sign * STEP * d for a, d in zip(arrays, directions, strict=True)] for sign in (1, -1))
    found = sum(float((g.numpy() * d).sum()) for g, d in zip(first, directions, strict=True))
    np.testing.assert_allclose(found, (weighted(forward) - weighted(backward)) / (2 * STEP), rtol=1e-6, atol=1e-8)
    for i, array in enumerate(arrays):
        np.testing.assert_allclose(first[i].numpy(), _differences(weighted, arrays, i), rtol=1e-5, atol=1e-7)
        assert first[i].shape == array.shape

    # The gradient of (gradient · directions), against differences of the first gradient along the directions.
    total = sum(((g * Tensor(d, requires_grad=False)).sum() for g, d in zip(first, directions, strict=True)), start=0.0)
    expected = [
        (up.numpy() - down.numpy()) / (2 * STEP)
        for up, down in zip(
            gradients(function, forward, weights)[1], gradients(function, backward, weights)[1], strict=True
        )
    ]
    for leaf in leaves:
        leaf.grad = None
    total.backward()
    for leaf, second in zip(leaves, expected, strict=True):
        found_second = np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.numpy()
        np.testing.assert_allclose(found_second, second, rtol=1e-5, atol=1e-7)


def _differences(weighted, arrays, i):
    slopes = np.zeros_like(arrays[i])
    for index in np.ndindex(slopes.shape):
        moved = [[array.copy() for array in arrays] for _ in range(2)]
        moved[0][i][index] += STEP
        moved[1][i][index] -= STEP
        slopes[index] = (weighted(moved[0]) - weighted(moved[1])) / (2 * STEP)
    return slopes
