"""The networks that whole steps are measured with: each in Needle, PyTorch and JAX, with the same parameters.

The parameters are Needle's, drawn with one seed. `torch_steps` copies them into PyTorch's modules, whose parameters are
made in the same order; the functions for JAX take them as they are, one after another. So all have the same loss in
the first step, and in the next ones up to rounding. JAX's keep no running statistics in batch normalisation: a little
less work than the others do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np

import needle as ndl
from needle import nn
from needle.models import MLPResNet, ResNet9

__all__ = ["NETWORKS", "Network", "jax_step", "needle_step", "torch_step"]

BATCHES = 8
LEARNING_RATE, DECAY = 0.001, 0.01
Step = Callable[[], float]
Data = list[tuple[np.ndarray, np.ndarray]]
Weights = Iterator[Any]


# ------------------------------------------------------------------------------------------------- Needle


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut, as in ResNet-18."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        self.first = nn.Sequential(nn.Conv(inputs, outputs, 3, stride, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())
        self.second = nn.Sequential(nn.Conv(outputs, outputs, 3, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = nn.Sequential()
        if inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: ndl.Tensor) -> ndl.Tensor:
        return ndl.relu(self.second(self.first(x)) + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 for small images: a stem of one convolution, four stages of 64 to 512 channels."""

    def __init__(self) -> None:
        self.stem = nn.Sequential(nn.Conv(3, 64, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        self.blocks = nn.Sequential(*(BasicBlock(*sizes) for sizes in STAGES))
        self.head = nn.Linear(512, 10)

    def forward(self, x: ndl.Tensor) -> ndl.Tensor:
        return self.head(ndl.mean(self.blocks(self.stem(x)), (2, 3)))


# Input channels, output channels and stride of each block of ResNet-18.
STAGES = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2)]
STAGES += [(512, 512, 1)]
WORDS, EMBEDDING, HIDDEN = 1000, 64, 128


class WordModel(nn.Module):
    """The next word at each place of a text: embedding, recurrent layer, linear layer."""

    def __init__(self, recurrent: type[nn.Module]) -> None:
        self.embedding = nn.Embedding(WORDS, EMBEDDING)
        self.recurrent = recurrent(EMBEDDING, HIDDEN)  # type: ignore[call-arg]
        self.head = nn.Linear(HIDDEN, WORDS)

    def forward(self, x: ndl.Tensor) -> ndl.Tensor:
        outputs, _ = self.recurrent(self.embedding(x))  # (T, B, HIDDEN)
        return self.head(outputs.reshape((-1, HIDDEN)))


class Attention(nn.Module):
    """Causal self-attention of several heads."""

    def __init__(self, width: int, heads: int) -> None:
        self.inputs = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.heads = heads

    def forward(self, x: ndl.Tensor) -> ndl.Tensor:
        batch, length, width = x.shape
        parts = self.inputs(x).reshape((batch, length, 3, self.heads, width // self.heads))
        parts = ndl.permute(parts, (2, 0, 3, 1, 4))  # (3, B, H, T, D)
        y = ndl.scaled_dot_product_attention(parts[0], parts[1], parts[2], causal=True)
        return self.output(ndl.permute(y, (0, 2, 1, 3)).reshape((batch, length, width)))


class GPT(nn.Module):
    """A transformer that predicts the next byte: layers normalise first, with GELU."""

    def __init__(self, layers: int, width: int, heads: int, length: int) -> None:
        self.tokens = nn.Embedding(BYTES, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.Sequential()
        for _ in range(layers):
            hidden = (nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
            attention = nn.Sequential(nn.LayerNorm(width), Attention(width, heads))
            network = nn.Sequential(nn.LayerNorm(width), *hidden)
            self.blocks = nn.Sequential(*self.blocks.modules, nn.Residual(attention), nn.Residual(network))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, BYTES)

    def forward(self, x: ndl.Tensor) -> ndl.Tensor:
        h = self.norm(self.blocks(self.tokens(x) + self.positions.weight))
        return self.head(h).reshape((-1, BYTES))


BYTES = 256


# ------------------------------------------------------------------------------------------------- PyTorch


def torch_mlp(torch: Any, hidden: int) -> Any:
    t, half = torch.nn, hidden // 2

    def block() -> Any:
        inner = [t.Linear(hidden, half), t.BatchNorm1d(half), t.ReLU(), t.Dropout(0.1)]
        return t.Sequential(torch_sum(torch, t.Sequential(*inner, t.Linear(half, hidden), t.BatchNorm1d(hidden))))

    blocks = [one for _ in range(3) for one in (block(), t.ReLU())]
    return t.Sequential(t.Linear(784, hidden), t.ReLU(), *blocks, t.Linear(hidden, 10))


def torch_sum(torch: Any, *terms: Any) -> Any:
    """Return a module that adds the results of others, and its input where there is one alone."""

    class Sum(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.terms = torch.nn.ModuleList(terms)

        def forward(self, x: Any) -> Any:
            first = self.terms[0](x)
            return first + (self.terms[1](x) if len(self.terms) > 1 else x)

    return Sum()


def torch_resnet9(torch: Any) -> Any:
    t = torch.nn

    def block(inputs: int, outputs: int, kernel: int, stride: int) -> Any:
        convolution = t.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
        return t.Sequential(convolution, t.BatchNorm2d(outputs), t.ReLU())

    def residual(channels: int) -> Any:
        return torch_sum(torch, t.Sequential(*(block(channels, channels, 3, 1) for _ in range(2))))

    layers = [block(3, 16, 7, 4), block(16, 32, 3, 2), residual(32)]
    layers += [block(32, 64, 3, 2), block(64, 128, 3, 2), residual(128)]
    return t.Sequential(*layers, t.Flatten(), t.Linear(128, 128), t.ReLU(), t.Linear(128, 10))


def torch_resnet18(torch: Any) -> Any:
    t = torch.nn

    def convolution(inputs: int, outputs: int, kernel: int, stride: int) -> list[Any]:
        return [t.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), t.BatchNorm2d(outputs)]

    def block(inputs: int, outputs: int, stride: int) -> Any:
        inner = [*convolution(inputs, outputs, 3, stride), t.ReLU(), *convolution(outputs, outputs, 3, 1)]
        short = [t.Sequential(*convolution(inputs, outputs, 1, stride))] if inputs != outputs else []
        return t.Sequential(torch_sum(torch, t.Sequential(*inner), *short), t.ReLU())

    head = [t.AdaptiveAvgPool2d(1), t.Flatten(), t.Linear(512, 10)]
    return t.Sequential(*convolution(3, 64, 3, 1), t.ReLU(), *(block(*sizes) for sizes in STAGES), *head)


def torch_words(torch: Any, layer: str) -> Any:
    class WordModel(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(WORDS, EMBEDDING)
            self.recurrent = getattr(torch.nn, layer)(EMBEDDING, HIDDEN)
            self.head = torch.nn.Linear(HIDDEN, WORDS)

        def forward(self, x: Any) -> Any:
            return self.head(self.recurrent(self.embedding(x))[0].reshape(-1, HIDDEN))

    return WordModel()


def torch_gpt(torch: Any, layers: int, width: int, heads: int, length: int) -> Any:
    t = torch.nn

    class Attention(t.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inputs = t.Linear(width, 3 * width)
            self.output = t.Linear(width, width)

        def forward(self, x: Any) -> Any:
            batch = x.shape[0]
            parts = self.inputs(x).view(batch, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
            y = t.functional.scaled_dot_product_attention(*parts.unbind(0), is_causal=True)
            return self.output(y.transpose(1, 2).reshape(batch, length, width))

    class GPT(t.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.tokens = t.Embedding(BYTES, width)
            self.positions = t.Embedding(length, width)
            self.blocks = t.Sequential()
            for _ in range(layers):
                hidden = (t.Linear(width, 4 * width), t.GELU(), t.Linear(4 * width, width))
                self.blocks.append(torch_sum(torch, t.Sequential(t.LayerNorm(width), Attention())))
                self.blocks.append(torch_sum(torch, t.Sequential(t.LayerNorm(width), *hidden)))
            self.norm = t.LayerNorm(width)
            self.head = t.Linear(width, BYTES)

        def forward(self, x: Any) -> Any:
            h = self.norm(self.blocks(self.tokens(x) + self.positions.weight))
            return self.head(h).reshape(-1, BYTES)

    return GPT()


# ----------------------------------------------------------------------------------------------------- JAX


def jax_convolution(jax: Any, weights: Weights, x: Any, stride: int, bias: bool) -> Any:
    """Convolve (N, H, W, C) and normalise by channel."""
    kernel = next(weights)
    padding = [(kernel.shape[0] // 2,) * 2] * 2
    forms = ("NHWC", "HWIO", "NHWC")
    x = jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=forms)
    if bias:
        x = x + next(weights)
    return jax_norm(jax, weights, x, (0, 1, 2))


def jax_norm(jax: Any, weights: Weights, x: Any, axes: Any) -> Any:
    mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(var + 1e-5) * next(weights) + next(weights)


def jax_linear(weights: Weights, x: Any) -> Any:
    return x @ next(weights) + next(weights)


def jax_resnet9(jax: Any, weights: Weights, x: Any) -> Any:
    def block(x: Any, stride: int) -> Any:
        return jax.nn.relu(jax_convolution(jax, weights, x, stride, bias=True))

    x = x.transpose(0, 2, 3, 1)
    for strides in ((4, 2), (2, 2)):
        for stride in strides:
            x = block(x, stride)
        x = x + block(block(x, 1), 1)
    return jax_linear(weights, jax.nn.relu(jax_linear(weights, x.reshape(len(x), -1))))


def jax_resnet18(jax: Any, weights: Weights, x: Any) -> Any:
    relu, convolution = jax.nn.relu, partial(jax_convolution, jax, weights, bias=False)
    x = relu(convolution(x.transpose(0, 2, 3, 1), stride=1))
    for inputs, outputs, stride in STAGES:
        y = convolution(relu(convolution(x, stride=stride)), stride=1)
        x = relu(y + (x if inputs == outputs else convolution(x, stride=stride)))
    return jax_linear(weights, x.mean((1, 2)))


def jax_words(jax: Any, weights: Weights, x: Any, layer: str) -> Any:
    jnp = jax.numpy
    x = next(weights)[x]
    w, u, b, c = (next(weights) for _ in range(4))
    start = jnp.zeros((x.shape[1], HIDDEN))

    def lstm(state: Any, now: Any) -> Any:
        h, memory = state
        i, f, g, o = jnp.split(now + h @ u + c, 4, axis=1)
        memory = jax.nn.sigmoid(f) * memory + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(memory)
        return (h, memory), h

    def gru(h: Any, now: Any) -> Any:
        (r, z, n), (hr, hz, hn) = jnp.split(now, 3, axis=1), jnp.split(h @ u + c, 3, axis=1)
        z = jax.nn.sigmoid(z + hz)
        h = (1 - z) * jnp.tanh(n + jax.nn.sigmoid(r + hr) * hn) + z * h
        return h, h

    cell, state = (lstm, (start, start)) if layer == "LSTM" else (gru, start)
    _, outputs = jax.lax.scan(cell, state, x @ w + b)
    return jax_linear(weights, outputs.reshape(-1, HIDDEN))


def jax_gpt(jax: Any, weights: Weights, x: Any, layers: int, heads: int) -> Any:
    jnp = jax.numpy
    h = next(weights)[x] + next(weights)
    batch, length, width = h.shape
    seen = jnp.tril(jnp.ones((length, length), bool))
    for _ in range(layers):
        parts = jax_linear(weights, jax_norm(jax, weights, h, -1)).reshape(batch, length, 3, heads, width // heads)
        q, k, v = parts.transpose(2, 0, 3, 1, 4)
        logits = jnp.where(seen, q @ k.swapaxes(2, 3) * (width // heads) ** -0.5, -jnp.inf)
        y = (jax.nn.softmax(logits) @ v).transpose(0, 2, 1, 3).reshape(batch, length, width)
        h = h + jax_linear(weights, y)
        y = jax.nn.gelu(jax_linear(weights, jax_norm(jax, weights, h, -1)), approximate=False)
        h = h + jax_linear(weights, y)
    return jax_linear(weights, jax_norm(jax, weights, h, -1)).reshape(-1, BYTES)


# ------------------------------------------------------------------------------------------------ networks


def images(batch: int, shape: tuple[int, ...], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return rng.random((batch, *shape), dtype=np.float32), rng.integers(0, 10, batch)


def text(symbols: int, shape: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return symbols, and for each the one that follows; laid out flat, as the logits are."""
    return rng.integers(0, symbols, shape), rng.integers(0, symbols, shape).reshape(-1)


@dataclass(frozen=True)
class Network:
    """One network and how it is trained.

    Attributes:
        target: the ratio to the best peer's time that Needle aims for.
        needle, torch: make the model; `torch` is given the module of that name.
        jax: computes logits from the module, an iterator over the parameters and the input; None where not written.
        data: makes a batch.
        decays: whether AdamW trains it, else Adam.
        of_images: whether PyTorch may lay it out channels last.
    """

    target: float
    needle: Callable[[], nn.Module]
    torch: Callable[[Any], Any]
    jax: Callable[[Any, Weights, Any], Any] | None
    data: Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]
    decays: bool = False
    of_images: bool = False

    def batches(self) -> Data:
        """Return the batches, always the same."""
        rng = np.random.default_rng(0)
        return [self.data(rng) for _ in range(BATCHES)]

    def model(self) -> nn.Module:
        """Return the model with the parameters of seed 0."""
        np.random.seed(0)
        return self.needle()


def _mlp(hidden: int, batch: int) -> Network:
    make = partial(MLPResNet, 784, hidden_dim=hidden)
    return Network(1.0, make, partial(torch_mlp, hidden=hidden), None, partial(images, batch, (784,)))


def _words(layer: str) -> Network:
    def make() -> nn.Module:
        return WordModel(getattr(nn, layer))

    jax = partial(jax_words, layer=layer)
    return Network(0.5, make, partial(torch_words, layer=layer), jax, partial(text, WORDS, (35, 32)))


def _gpt(target: float, batch: int, **sizes: int) -> Network:
    jax = partial(jax_gpt, layers=sizes["layers"], heads=sizes["heads"])
    data = partial(text, BYTES, (batch, sizes["length"]))
    return Network(target, partial(GPT, **sizes), partial(torch_gpt, **sizes), jax, data, decays=True)


NETWORKS = {
    "MLPResNet, small": _mlp(100, 100),
    "MLPResNet, large": _mlp(500, 250),
    "ResNet9": Network(0.7, ResNet9, torch_resnet9, jax_resnet9, partial(images, 128, (3, 32, 32)), of_images=True),
    "ResNet18": Network(0.8, ResNet18, torch_resnet18, jax_resnet18, partial(images, 32, (3, 32, 32)), of_images=True),
    "LSTM": _words("LSTM"),
    "GRU": _words("GRU"),
    "GPT, small": _gpt(0.5, 16, layers=4, width=128, heads=4, length=64),
    "GPT, large": _gpt(0.7, 8, layers=6, width=384, heads=6, length=256),
}


# --------------------------------------------------------------------------------------------------- steps


def needle_step(network: Network, compiled: bool = True, dtype: str = "float32") -> Step:
    """Return what makes one step on the next batch and tells the loss; products are of a dtype."""
    model, loss_fn = network.model(), nn.SoftmaxLoss()
    kind = ndl.optim.AdamW if network.decays else ndl.optim.Adam
    optimizer = kind(model.parameters(), lr=LEARNING_RATE, weight_decay=DECAY if network.decays else 0.0)
    is_narrow = dtype != "float32"
    batches = cycle([tuple(ndl.Tensor(one, requires_grad=False) for one in pair) for pair in network.batches()])

    def step(x: ndl.Tensor, y: ndl.Tensor) -> ndl.Tensor:
        optimizer.reset_grad()
        with ndl.autocast(dtype if is_narrow else "bfloat16", enabled=is_narrow):
            loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    run: Any = ndl.jit(step) if compiled else step
    return lambda: run(*next(batches)).item()


def torch_step(
    network: Network, compiled: bool, threads: int, channels_last: bool = False, dtype: str = "float32"
) -> Step:
    """Return the same for PyTorch."""
    import torch

    torch.manual_seed(0)
    model = network.torch(torch)
    parameters = [(module, one) for module in model.modules() for one in module.parameters(recurse=False)]
    for (module, own), given in zip(parameters, network.model().parameters(), strict=True):
        own.data.copy_(torch.from_numpy(_for_torch(given.numpy(), isinstance(module, torch.nn.Embedding))))
    data = [[torch.from_numpy(one) for one in pair] for pair in network.batches()]
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        data = [[x.contiguous(memory_format=torch.channels_last), y] for x, y in data]
    kind = torch.optim.AdamW if network.decays else torch.optim.Adam
    optimizer = kind(model.parameters(), lr=LEARNING_RATE, weight_decay=DECAY if network.decays else 0.0)
    batches = cycle(data)

    def loss_of(x: Any, y: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            return torch.nn.functional.cross_entropy(model(x), y)

    forward = torch.compile(loss_of, dynamic=False) if compiled else loss_of
    update = torch.compile(optimizer.step, dynamic=False) if compiled else optimizer.step

    def step() -> float:
        torch.set_num_threads(threads)
        optimizer.zero_grad()
        loss = forward(*next(batches))
        loss.backward()
        update()
        return float(loss.item())

    return step


def _for_torch(weight: np.ndarray, is_embedding: bool) -> np.ndarray:
    """Lay out a parameter as PyTorch does: what is multiplied by comes last."""
    if weight.ndim == 4:
        return np.ascontiguousarray(weight.transpose(3, 2, 0, 1))
    if weight.ndim == 2 and weight.shape[0] > 1 and not is_embedding:
        return np.ascontiguousarray(weight.T)
    return weight.reshape(-1) if weight.shape[0] == 1 else weight


def jax_step(network: Network) -> Step:
    """Return the same for JAX: one compiled function of the whole step, which may overwrite its state."""
    import jax
    from jax import numpy as jnp

    logits_of: Any = network.jax
    decay = DECAY if network.decays else 0.0

    def loss_of(weights: Any, x: Any, y: Any) -> Any:
        logits = logits_of(jax, iter(weights), x)
        picked = jnp.take_along_axis(logits, y[:, None], 1)[:, 0]
        return (jax.nn.logsumexp(logits, axis=1) - picked).mean()

    def step(state: Any, x: Any, y: Any) -> Any:
        weights, m, v, t = state
        loss, gradients = jax.value_and_grad(loss_of)(weights, x, y)
        t = t + 1
        m = [0.9 * a + 0.1 * g for a, g in zip(m, gradients, strict=True)]
        v = [0.999 * a + 0.001 * g * g for a, g in zip(v, gradients, strict=True)]
        root, rate = jnp.sqrt(1 - 0.999**t), LEARNING_RATE / (1 - 0.9**t)
        weights = [
            w * (1 - LEARNING_RATE * decay) - rate * a / (jnp.sqrt(b) / root + 1e-8)
            for w, a, b in zip(weights, m, v, strict=True)
        ]
        return (weights, m, v, t), loss

    weights = [jnp.asarray(one.numpy()) for one in network.model().parameters()]
    zeros = [[jnp.zeros_like(one) for one in weights] for _ in range(2)]
    state = [(weights, *zeros, jnp.float32(0))]
    batches = cycle([tuple(map(jnp.asarray, pair)) for pair in network.batches()])
    compiled = jax.jit(step, donate_argnums=0)

    def run() -> float:
        state[0], loss = jax.block_until_ready(compiled(state[0], *next(batches)))
        return float(loss)

    return run
