"""Layers that normalise by channel and may keep running averages: batch and instance normalisation.

In training both use the statistics of their input. Batch normalisation averages over the samples, so that in
evaluation, where an answer must not depend on the other samples, running averages stand in.
"""

from __future__ import annotations

from typing import ClassVar

from numpy.typing import DTypeLike

from needle import init
from needle.autograd import Tensor
from needle.device import Array, Device, array_namespace
from needle.errors import ShapeError
from needle.nn.module import Module
from needle.nn.normalization import by_channel, scale_and_shift
from needle.nn.parameter import Buffer, Parameter
from needle.ops import add, multiply
from needle.ops.normalization import Moments, Normalize
from needle.tracing import is_recomputing

__all__ = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d"]


class _ChannelNorm(Module):
    """What batch and instance normalisation share: a scale and a shift by channel, and running statistics."""

    # The ranks of input that the layer takes, and how they are written.
    ranks: ClassVar[dict[int, str]]

    weight: Parameter | None
    bias: Parameter | None
    running_mean: Buffer | None
    running_var: Buffer | None

    def __init__(
        self,
        dim: int,
        eps: float,
        momentum: float,
        *,
        affine: bool,
        tracked: bool,
        device: Device | None,
        dtype: DTypeLike,
    ) -> None:
        if dim < 1:
            raise ShapeError(f"{type(self).__name__}: there must be at least one channel, got dim = {dim}")
        self.weight = Parameter(init.ones(dim, device=device, dtype=dtype)) if affine else None
        self.bias = Parameter(init.zeros(dim, device=device, dtype=dtype)) if affine else None
        self.running_mean = Buffer(init.zeros(dim, device=device, dtype=dtype)) if tracked else None
        self.running_var = Buffer(init.ones(dim, device=device, dtype=dtype)) if tracked else None
        self.dim = dim
        self.eps = eps
        self.momentum = momentum

    def axes(self, ndim: int) -> tuple[int, ...]:
        """Return the axes to average over in training."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Normalise by the input's own statistics, or in evaluation by the running ones where there are any."""
        shape = x.shape
        if len(shape) not in self.ranks or shape[1] != self.dim:
            allowed = " or ".join(self.ranks.values()).replace("C", str(self.dim))
            raise ShapeError(f"{type(self).__name__} of {self.dim} channels takes {allowed}, got {shape}")
        if self.running_mean is not None and not self.training:
            return self._evaluate(x)
        op = Normalize(self.axes(len(shape)), self.eps)
        normalized = op(x)
        if self.running_mean is not None and not is_recomputing():
            self._track(op.moments, x.realize_cached_data())
        return scale_and_shift(normalized, self.weight, self.bias)

    def _evaluate(self, x: Tensor) -> Tensor:
        """Return (x − running mean) · (weight / √(running variance + eps)) + bias."""
        assert self.running_mean is not None
        assert self.running_var is not None
        mean, var = self.running_mean.realize_cached_data(), self.running_var.realize_cached_data()
        scale = Tensor.make_const(1 / array_namespace(var).sqrt(var + self.eps))
        if self.weight is not None:
            scale = multiply(self.weight, scale)
        centred = add(x, by_channel(Tensor.make_const(-mean), x.ndim))
        return scale_and_shift(centred, scale, self.bias)

    def _track(self, moments: Moments, x: Array) -> None:
        """Move the running statistics towards those of the input; nothing of this is in the graph."""
        mean, var, _ = moments.of(x)
        for running, observed in ((self.running_mean, mean), (self.running_var, var)):
            assert running is not None
            old = running.realize_cached_data()
            new = (1 - self.momentum) * old + self.momentum * _by_channel_alone(observed)
            running.cached_data = array_namespace(new).astype(new, old.dtype, copy=False)

    def extra_repr(self) -> str:
        """Return the number of channels."""
        return str(self.dim)


def _by_channel_alone(observed: Array) -> Array:
    """Return statistics (1 or B, C, 1, …) as (C,), averaged over the samples where each has its own."""
    xp = array_namespace(observed)
    samples = observed.shape[0]
    return xp.reshape(xp.sum(observed, axis=0) / samples if samples > 1 else observed, (-1,))


class BatchNorm1d(_ChannelNorm):
    """Normalise each channel over the batch.

    Formula::

        training:    y = weight · (x − mean) / √(var + eps) + bias      mean, var: of the channel in this batch
                     running ← (1 − momentum) · running + momentum · observed
        evaluation:  y = weight · (x − running_mean) / √(running_var + eps) + bias

    Shapes:
        x: (B, dim) or (B, dim, L).
        result: the same.

    Args:
        dim: the number of channels.
        eps: added to the variance.
        momentum: the weight of the newest batch in the running statistics.
        device: where parameters and buffers live; the CPU where not given.
        dtype: of the parameters and buffers.

    State:
        weight: (dim,), ones.
        bias: (dim,), zeros.
        running_mean: (dim,), a buffer, zeros.
        running_var: (dim,), a buffer, ones.

    A single sample in training has variance 0: the result is the bias, and the running variance shrinks. Leave short
    last batches out (`drop_last`) where that can happen.

    Raises:
        ShapeError: another shape, or an empty batch in training.

    Reference:
        S. Ioffe, C. Szegedy, "Batch normalization: accelerating deep network training by reducing internal covariate
        shift", 2015, algorithm 1. They keep the unbiased variance for evaluation; here it is the biased one.
    """

    ranks: ClassVar[dict[int, str]] = {2: "(B, C)", 3: "(B, C, L)"}
    weight: Parameter
    bias: Parameter
    running_mean: Buffer
    running_var: Buffer

    def __init__(
        self,
        dim: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        device: Device | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        super().__init__(dim, eps, momentum, affine=True, tracked=True, device=device, dtype=dtype)

    def axes(self, ndim: int) -> tuple[int, ...]:
        """Return all axes but that of the channels."""
        return (0,) if ndim == 2 else (0, *range(2, ndim))


class BatchNorm2d(BatchNorm1d):
    """Normalise each channel of images over the batch and the pixels: `BatchNorm1d` for another shape.

    Shapes:
        x: (B, dim, H, W).
        result: the same.
    """

    ranks: ClassVar[dict[int, str]] = {4: "(B, C, H, W)"}


class BatchNorm3d(BatchNorm1d):
    """Normalise each channel of volumes over the batch and the voxels: `BatchNorm1d` for another shape.

    Shapes:
        x: (B, dim, D, H, W).
        result: the same.
    """

    ranks: ClassVar[dict[int, str]] = {5: "(B, C, D, H, W)"}


class InstanceNorm1d(_ChannelNorm):
    """Normalise each channel of each sample over its positions.

    Formula::

        y = (x − mean) / √(var + eps)      mean, var: of the channel in this sample

    Shapes:
        x: (B, dim, L).
        result: the same.

    Args:
        dim: the number of channels.
        eps: added to the variance.
        momentum: the weight of the newest batch in the running statistics.
        affine: whether to learn a weight and a bias for each channel.
        track_running_stats: whether to keep running averages of the samples' statistics, and use them in evaluation.
        device: where parameters and buffers live; the CPU where not given.
        dtype: of the parameters and buffers.

    State:
        weight, bias: (dim,), ones and zeros; None where not `affine`.
        running_mean, running_var: (dim,), buffers, zeros and ones; None where not `track_running_stats`.

    Raises:
        ShapeError: another shape, or no positions.

    Reference:
        D. Ulyanov et al., "Instance normalization: the missing ingredient for fast stylization", 2016.
    """

    ranks: ClassVar[dict[int, str]] = {3: "(B, C, L)"}

    def __init__(
        self,
        dim: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        *,
        device: Device | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        super().__init__(dim, eps, momentum, affine=affine, tracked=track_running_stats, device=device, dtype=dtype)

    def axes(self, ndim: int) -> tuple[int, ...]:
        """Return the axes of the positions."""
        return tuple(range(2, ndim))


class InstanceNorm2d(InstanceNorm1d):
    """Normalise each channel of each image over its pixels: `InstanceNorm1d` for another shape.

    Shapes:
        x: (B, dim, H, W).
        result: the same.
    """

    ranks: ClassVar[dict[int, str]] = {4: "(B, C, H, W)"}


class InstanceNorm3d(InstanceNorm1d):
    """Normalise each channel of each volume over its voxels: `InstanceNorm1d` for another shape.

    Shapes:
        x: (B, dim, D, H, W).
        result: the same.
    """

    ranks: ClassVar[dict[int, str]] = {5: "(B, C, D, H, W)"}
