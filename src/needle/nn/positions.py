"""Positions: telling attention, which sees a set, in which order things stand."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from needle import init, ops
from needle.autograd import Tensor
from needle.device import Device
from needle.dtype import as_dtype
from needle.errors import ShapeError
from needle.nn.module import Module
from needle.nn.parameter import Buffer, Parameter

__all__ = ["LearnedPositions", "RotaryPositions", "SinusoidalPositions"]


class SinusoidalPositions(Module):
    """Add waves of many lengths, whose phases tell the position.

    Formula, for position t and features 2i and 2i + 1::

        y[…, t, 2i] = x[…, t, 2i] + sin(t / 10000^(2i/D))
        y[…, t, 2i + 1] = x[…, t, 2i + 1] + cos(t / 10000^(2i/D))

    Shapes:
        x: (…, T, D).
        result: the same.

    Args:
        num_features: D, an even number.
        max_length: the longest T.
        device: where the waves live; the CPU where not given.
        dtype: of the waves.

    State:
        waves: (max_length, num_features), a buffer.

    Raises:
        ShapeError: an odd number of features, or when called an x of other features or more positions.

    Reference:
        A. Vaswani et al., "Attention is all you need", 2017, section 3.5.
    """

    waves: Buffer

    def __init__(
        self, num_features: int, max_length: int = 2048, device: Device | None = None, dtype: DTypeLike = "float32"
    ) -> None:
        angles = _angles("SinusoidalPositions", num_features, max_length)
        waves = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(max_length, num_features)
        self.waves = Buffer(Tensor(waves, device=device, dtype=dtype))

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """Return x with the waves of positions start, start + 1, … added."""
        return ops.add(x, _rows(type(self).__name__, self.waves, x, start))


class LearnedPositions(Module):
    """Add a learned vector for each position.

    Formula::

        y[…, t, :] = x[…, t, :] + weight[t, :]

    Shapes:
        x: (…, T, D).
        result: the same.

    Args:
        num_features: D.
        max_length: the longest T.
        device: where the weight lives; the CPU where not given.
        dtype: of the weight.

    State:
        weight: (max_length, num_features), drawn from N(0, 0.02²), so that it is small beside what it is added to.

    Raises:
        ShapeError: when called: an x of other features or more positions.

    Reference:
        A. Radford et al., "Language models are unsupervised multitask learners", 2019.
    """

    weight: Parameter

    def __init__(
        self, num_features: int, max_length: int = 2048, device: Device | None = None, dtype: DTypeLike = "float32"
    ) -> None:
        self.weight = Parameter(init.randn(max_length, num_features, std=0.02, device=device, dtype=dtype))

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """Return x with the vectors of positions start, start + 1, … added."""
        return ops.add(x, _rows(type(self).__name__, self.weight, x, start))


class RotaryPositions(Module):
    """Turn pairs of features by angles that grow with the position, so that q·k tells only how far apart the two are.

    Formula, for position t and the pair of features i and i + D/2, with θ = t / base^(2i/D)::

        y[…, t, i]       = x[…, t, i] · cos θ − x[…, t, i + D/2] · sin θ
        y[…, t, i + D/2] = x[…, t, i] · sin θ + x[…, t, i + D/2] · cos θ

    Shapes:
        x: (…, T, D), queries or keys.
        result: the same.

    Args:
        num_features: D, an even number: that of a head.
        max_length: the longest T.
        base: the longest wave takes about 2π · base positions.
        device: where the waves live; the CPU where not given.
        dtype: of the waves.

    State:
        cosines, sines: (max_length, num_features/2), buffers.

    Raises:
        ShapeError: an odd number of features, or when called an x of other features or more positions.

    Reference:
        J. Su et al., "RoFormer: enhanced transformer with rotary position embedding", 2021, equation 34. The halves are
        paired, and not neighbours: the same up to the order of features, and two slices instead of many.
    """

    cosines: Buffer
    sines: Buffer

    def __init__(
        self,
        num_features: int,
        max_length: int = 2048,
        base: float = 10_000.0,
        *,
        device: Device | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        angles = _angles("RotaryPositions", num_features, max_length, base)
        self.cosines = Buffer(Tensor(np.cos(angles), device=device, dtype=dtype))
        self.sines = Buffer(Tensor(np.sin(angles), device=device, dtype=dtype))

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """Return x turned by the angles of positions start, start + 1, …"""
        half = self.cosines.shape[-1]
        name = type(self).__name__
        if x.shape[-1:] != (2 * half,):
            raise ShapeError(f"{name}: takes (…, T, {2 * half}), got shape {x.shape}")
        first, second = x[..., :half], x[..., half:]
        cosines, sines = (_rows(name, one, first, start) for one in (self.cosines, self.sines))
        turned = [first * cosines - second * sines, first * sines + second * cosines]
        return ops.concatenate(turned, axis=-1)


def _angles(name: str, num_features: int, max_length: int, base: float = 10_000.0) -> np.ndarray:
    """Return t / base^(2i/D): (max_length, num_features/2), in float64."""
    if num_features < 2 or num_features % 2:
        raise ShapeError(f"{name}: takes an even number of features, which are paired, got {num_features}")
    exponents = np.arange(0, num_features, 2) / num_features
    angles: np.ndarray = np.arange(max_length)[:, None] / base**exponents
    return angles


def _rows(name: str, table: Tensor, x: Tensor, start: int) -> Tensor:
    """Return the rows of a table for the positions of x, in x's dtype."""
    length, features = table.shape
    if x.ndim < 2 or x.shape[-1] != features:
        raise ShapeError(f"{name}: takes (…, T, {features}), got shape {x.shape}")
    if start < 0 or start + x.shape[-2] > length:
        last = start + x.shape[-2] - 1
        raise ShapeError(f"{name}: knows positions 0 to {length - 1}, got {start} to {last}: make max_length larger")
    rows = table[start : start + x.shape[-2]]
    return rows if rows.dtype == as_dtype(x.dtype) else ops.astype(rows, x.dtype)
