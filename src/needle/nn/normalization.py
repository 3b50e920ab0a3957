"""Layers that normalise one sample at a time: group, layer and root-mean-square normalisation.

All normalisations shift and scale to mean 0 and variance 1, and differ in what they average over:

    batch      one mean a channel, over the samples and positions
    instance   one mean a channel and sample, over the positions
    group      one mean a group of channels and sample, over those channels and the positions
    layer      one mean a sample, over its last axes
    RMS        as layer, without subtracting the mean

Variances are the biased ones (divided by the count) throughout. The first two, which can keep running averages, are
in `needle.nn.batch_normalization`.
"""

from __future__ import annotations

from collections.abc import Sequence

from numpy.typing import DTypeLike

from needle import init
from needle.autograd import Tensor
from needle.device import Device
from needle.errors import ShapeError
from needle.nn.module import Module
from needle.nn.parameter import Parameter
from needle.ops import add, multiply, reshape
from needle.ops.movement import as_shape
from needle.ops.normalization import normalize, rms_normalize

__all__ = ["GroupNorm", "LayerNorm", "LayerNorm1d", "RMSNorm"]


def scale_and_shift(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Return x · weight + bias, each with one number for each channel (axis 1)."""
    if weight is not None:
        x = multiply(x, by_channel(weight, x.ndim))
    return x if bias is None else add(x, by_channel(bias, x.ndim))


def by_channel(values: Tensor, ndim: int) -> Tensor:
    """Lay (C,) along axis 1 of `ndim` axes. With two axes, broadcasting does that by itself."""
    return values if ndim == 2 else reshape(values, (-1, *[1] * (ndim - 2)))


class GroupNorm(Module):
    """Normalise each group of channels of each sample.

    Formula::

        y = weight · (x − mean) / √(var + eps) + bias      mean, var: of the group's channels in this sample

    Shapes:
        x: (B, num_channels, …).
        result: the same.

    Args:
        num_groups: into how many groups of neighbouring channels to divide; it divides num_channels.
        num_channels: the number of channels.
        eps: added to the variance.
        affine: whether to learn a weight and a bias for each channel.
        device: where the parameters live; the CPU where not given.
        dtype: of the parameters.

    State:
        weight, bias: (num_channels,), ones and zeros; None where not `affine`.

    Raises:
        ShapeError: the groups do not divide the channels, or the input has another number of channels.

    Reference:
        Y. Wu, K. He, "Group normalization", 2018.
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        device: Device | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        if num_groups < 1 or num_channels < 1 or num_channels % num_groups:
            raise ShapeError(f"GroupNorm: {num_groups} groups do not divide {num_channels} channels")
        self.weight = Parameter(init.ones(num_channels, device=device, dtype=dtype)) if affine else None
        self.bias = Parameter(init.zeros(num_channels, device=device, dtype=dtype)) if affine else None
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise by the input's own statistics."""
        shape = x.shape
        if len(shape) < 2 or shape[1] != self.num_channels:
            raise ShapeError(f"GroupNorm takes (B, {self.num_channels}, …), got {shape}")
        grouped = reshape(x, (shape[0], self.num_groups, self.num_channels // self.num_groups, *shape[2:]))
        normalized = normalize(grouped, tuple(range(2, grouped.ndim)), self.eps)
        return scale_and_shift(reshape(normalized, shape), self.weight, self.bias)

    def extra_repr(self) -> str:
        """Return the numbers of groups and channels."""
        return f"{self.num_groups} groups, {self.num_channels} channels"


class LayerNorm(Module):
    """Normalise each sample over its last axes.

    Formula::

        y = weight · (x − mean) / √(var + eps) + bias      mean, var: over the last axes

    Shapes:
        x: (…, *normalized_shape).
        result: the same.

    Args:
        normalized_shape: the lengths of the last axes; an integer for one.
        eps: added to the variance.
        affine: whether to learn a weight and a bias for each element of `normalized_shape`.
        device: where the parameters live; the CPU where not given.
        dtype: of the parameters.

    State:
        weight, bias: normalized_shape, ones and zeros; None where not `affine`.

    Raises:
        ShapeError: the input's last axes have other lengths.

    Reference:
        J. Ba et al., "Layer normalization", 2016, equations 3 and 4.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        affine: bool = True,
        device: Device | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        self.normalized_shape = _checked_shape(type(self).__name__, normalized_shape)
        self.weight = Parameter(init.ones(*self.normalized_shape, device=device, dtype=dtype)) if affine else None
        self.bias = Parameter(init.zeros(*self.normalized_shape, device=device, dtype=dtype)) if affine else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise by the input's own statistics."""
        y = normalize(x, _last_axes(self, x.shape), self.eps)
        y = y if self.weight is None else multiply(y, self.weight)
        return y if self.bias is None else add(y, self.bias)

    def extra_repr(self) -> str:
        """Return the lengths of the normalised axes."""
        return ", ".join(map(str, self.normalized_shape))


class LayerNorm1d(LayerNorm):
    """Normalise each row: `LayerNorm` over the last axis.

    Shapes:
        x: (…, dim).
        result: the same.

    Args:
        dim: the length of a row.
        eps: added to the variance.
        device: where the parameters live; the CPU where not given.
        dtype: of the parameters.

    State:
        weight, bias: (dim,), ones and zeros.
    """

    def __init__(self, dim: int, eps: float = 1e-5, device: Device | None = None, dtype: DTypeLike = "float32") -> None:
        super().__init__(dim, eps, True, device, dtype)
        self.dim = dim


class RMSNorm(Module):
    """Scale each sample to mean square 1 over its last axes.

    Formula::

        y = weight · x / √(mean x² + eps)

    Shapes:
        x: (…, *normalized_shape).
        result: the same.

    Args:
        normalized_shape: the lengths of the last axes; an integer for one.
        eps: added to the mean square.
        affine: whether to learn a weight for each element of `normalized_shape`.
        device: where the parameters live; the CPU where not given.
        dtype: of the parameters.

    State:
        weight: normalized_shape, ones; None where not `affine`.

    Raises:
        ShapeError: the input's last axes have other lengths.

    Reference:
        B. Zhang, R. Sennrich, "Root mean square layer normalization", 2019, equation 4.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        affine: bool = True,
        device: Device | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        self.normalized_shape = _checked_shape(type(self).__name__, normalized_shape)
        self.weight = Parameter(init.ones(*self.normalized_shape, device=device, dtype=dtype)) if affine else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise by the input's own mean square."""
        y = rms_normalize(x, _last_axes(self, x.shape), self.eps)
        return y if self.weight is None else multiply(y, self.weight)

    def extra_repr(self) -> str:
        """Return the lengths of the normalised axes."""
        return ", ".join(map(str, self.normalized_shape))


def _checked_shape(layer: str, normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    shape = as_shape(normalized_shape)
    if not shape or min(shape) < 1:
        raise ShapeError(f"{layer}: normalized_shape has at least one axis and no empty one, got {shape}")
    return shape


def _last_axes(layer: LayerNorm | RMSNorm, shape: tuple[int, ...]) -> tuple[int, ...]:
    wanted = layer.normalized_shape
    if shape[-len(wanted) :] != wanted:
        listed = ", ".join(map(str, wanted))
        raise ShapeError(f"{type(layer).__name__} takes (…, {listed}), got {shape}")
    return tuple(range(-len(wanted), 0))
