"""The state of models under PyTorch's names and in its layouts, both ways, without PyTorch.

::

    Needle                                          PyTorch
    Linear.weight (in, out), bias (1, out)          weight (out, in), bias (out,)
    convolutions' weight (*kernel, a, b)            weight (b, a, *kernel)
    cells' W_ih (I, gates·H), W_hh (H, gates·H)     weight_ih (gates·H, I), weight_hh (gates·H, H)
    LSTM.lstm_cells.1.W_ih                          weight_ih_l1, and weight_ih_l1_reverse of `reverse_cells`
    Attention.query, key_value (in, 2·out)          in_proj_weight (3·out, in), in_proj_bias: one below the other
        with context_features                       q_proj_weight, k_proj_weight, v_proj_weight, in_proj_bias
    Attention.output                                out_proj
    encoder's attention, attention_norm             self_attn, norm1
    decoder's cross_attention, its norm             multihead_attn, norm2
    feed_forward.hidden, .output, its norm          linear1, linear2, norm2 (the decoder's norm3)
    Sequential.modules.0                            0
    all else                                        the same

Gates are in the same order in both, and so are heads. A model of the user's own maps by the names of its attributes: it
loads where the class in PyTorch calls its parts the same. What PyTorch has no layer for keeps its own names: attention
with rotary positions, and the course's `AttentionLayer`, which normalises what comes in.

A state tells nothing of settings: `batch_first`, `norm_first`, `activation`, the number of heads and `eps` have to be
the same on both sides. Needle's batch comes first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from needle.errors import CheckpointError, DTypeError
from needle.nn import (
    Attention,
    Buffer,
    Linear,
    Module,
    Parameter,
    Sequential,
    TransformerDecoderLayer,
    TransformerEncoderLayer,
    UnmatchedNames,
)
from needle.nn.convolution import ConvolutionLayer
from needle.nn.recurrent import RecurrentCell, RecurrentLayer
from needle.nn.transformer_layers import FeedForward

__all__ = ["from_torch_state_dict", "load_torch_file", "save_torch_file", "to_torch_state_dict"]

# What PyTorch counts and Needle does not.
_IGNORED = ("num_batches_tracked",)
_CELL_NAMES = {"W_ih": "weight_ih", "W_hh": "weight_hh"}
# The feed-forward block is no module of its own there: its layers are the transformer layer's.
_ENCODER_NAMES = {"attention": "self_attn", "attention_norm": "norm1", "feed_forward": "", "feed_forward_norm": "norm2"}
_DECODER_NAMES = {
    **_ENCODER_NAMES,
    "cross_attention": "multihead_attn",
    "cross_attention_norm": "norm2",
    "feed_forward_norm": "norm3",
}
_FEED_FORWARD_NAMES = {"hidden": "linear1", "output": "linear2"}
# Why a name of PyTorch's attention may find nothing here, by the end of the name.
_REASONS = {
    "in_proj_weight": (
        "is of a MultiheadAttention whose keys have as many features as its queries: it maps to nn.Attention without "
        "context_features and without rotary positions, and not to nn.AttentionLayer, which normalises what comes in"
    ),
    "q_proj_weight": "is of a MultiheadAttention with kdim and vdim: it maps to nn.Attention with context_features",
    "in_proj_bias": "is of a MultiheadAttention with biases: it maps to nn.Attention(bias=True)",
    "bias_k": "is of a MultiheadAttention with add_bias_kv: nn.Attention has no learned key and value",
    "multihead_attn.in_proj_weight": "is of a TransformerDecoderLayer: it does not map to nn.TransformerEncoderLayer",
}


_Layout: TypeAlias = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True)
class _Part:
    """A parameter or buffer, and how its values go there and back."""

    path: str
    tensor: Parameter | Buffer
    there: _Layout
    back: _Layout


@dataclass(frozen=True)
class _Entry:
    """What goes there and back together: mostly one tensor that is one there too.

    Otherwise the rows of all of ours, one below the other, are those of all of theirs.
    """

    parts: tuple[_Part, ...]
    names: tuple[str, ...]

    def there(self) -> dict[str, NDArray[Any]]:
        """Return their arrays by name."""
        whole = _stacked([part.there(part.tensor.numpy()) for part in self.parts])
        pieces = [whole] if len(self.names) == 1 else np.split(whole, len(self.names))
        return {name: np.asarray(piece, order="C") for name, piece in zip(self.names, pieces, strict=True)}

    def back(self, state: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Return our arrays by path."""
        given = [_array(name, state[name]) for name in self.names]
        if len({array.shape[1:] for array in given}) > 1:
            shapes = " and ".join(f"{name} {array.shape}" for name, array in zip(self.names, given, strict=True))
            raise CheckpointError(f"{shapes} take different features: nn.Attention makes both of one context")
        whole = _stacked(given)
        if len(self.parts) == 1:
            return {self.parts[0].path: self.parts[0].back(whole)}
        whole = np.atleast_1d(whole)
        # Cut in proportion, so that of an array that does not fit each part is told with a shape that says why.
        rows = np.cumsum([part.tensor.shape[-1] for part in self.parts])
        pieces = np.split(whole, rows[:-1] * len(whole) // rows[-1])
        return {part.path: part.back(piece) for part, piece in zip(self.parts, pieces, strict=True)}


def to_torch_state_dict(model: Module) -> dict[str, NDArray[Any]]:
    """Return a model's parameters and buffers as PyTorch would name them and lay them out.

    In PyTorch: `theirs.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})`.

    Raises:
        CheckpointError: two different parameters or buffers have the same name there.

    Example:
        >>> from needle import nn
        >>> from needle.interchange import to_torch_state_dict
        >>> model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
        >>> {name: array.shape for name, array in to_torch_state_dict(model).items()}
        {'0.weight': (5, 3), '0.bias': (5,), '2.weight': (2, 5), '2.bias': (2,)}
    """
    state: dict[str, NDArray[Any]] = {}
    for entry in _by_name(model).values():
        state.update(entry.there())
    return state


def from_torch_state_dict(model: Module, state: Mapping[str, Any], strict: bool = True) -> UnmatchedNames:
    """Load a PyTorch model's state into a model that is built the same.

    Args:
        model: its parameters and buffers stay the same objects.
        state: `theirs.state_dict()`: tensors or arrays by PyTorch's names.
        strict: whether the names must be exactly those of this model. Shapes must fit in any case.

    Returns:
        What is missing, by Needle's names, and what is unexpected, by PyTorch's; both empty where strict.

    Raises:
        CheckpointError: something does not fit. Everything that does not is listed, of attention also why, and nothing
            was changed.
        DTypeError: `state` is no mapping.

    Example:
        >>> import numpy as np
        >>> from needle import nn
        >>> from needle.interchange import from_torch_state_dict
        >>> layer = nn.Linear(2, 1)
        >>> from_torch_state_dict(layer, {"weight": np.array([[1.0, 2.0]]), "bias": np.array([3.0])})
        UnmatchedNames(missing=[], unexpected=[])
        >>> layer.weight
        needle.Tensor([[1.] [2.]])
    """
    if not isinstance(state, Mapping):
        raise DTypeError(f"from_torch_state_dict takes arrays by name, got {type(state).__name__}")
    # A user's own class may call attention's parts as they are called here.
    entries = _by_name(model, own_names=True) | _by_name(model)
    ours: dict[str, Any] = {}
    for name, value in state.items():
        if name not in entries:
            ours |= {} if name.rpartition(".")[2] in _IGNORED else {name: value}
        elif all(other in state for other in entries[name].names):
            ours |= entries[name].back(state)
    try:
        return model.load_state_dict(ours, strict)
    except CheckpointError as error:
        reasons = "".join(f"\n    {reason}" for reason in _reasons(entries, state))
        raise CheckpointError(f"{error}{reasons}") from None


def save_torch_file(path: str | os.PathLike[str], model: Module) -> Path:
    """Write a model's state into a safetensors file, whole or not at all, for PyTorch.

    In PyTorch: `theirs.load_state_dict(safetensors.torch.load_file(path))`.

    Raises:
        OSError: the file cannot be written. What was there before is then still there.
    """
    import safetensors.numpy  # noqa: PLC0415  `import needle` needs no files

    from needle.train.files import write_file  # noqa: PLC0415

    write_file(path, safetensors.numpy.save(to_torch_state_dict(model)))
    return Path(path)


def load_torch_file(path: str | os.PathLike[str], model: Module, strict: bool = True) -> UnmatchedNames:
    """Load a safetensors file of a PyTorch model's state: see `from_torch_state_dict`.

    Raises:
        CheckpointError: the file is missing or damaged, or does not fit the model.
    """
    import safetensors  # noqa: PLC0415  `import needle` needs no files
    import safetensors.numpy  # noqa: PLC0415

    try:
        state = safetensors.numpy.load(Path(path).read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"there is no file {path}") from None
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is not a safetensors file that can be read: {error}") from None
    return from_torch_state_dict(model, state, strict)


def _array(name: str, value: Any) -> NDArray[Any]:
    """Return a value of a state as an array, a tensor of PyTorch's too."""
    try:
        array = np.asarray(value.detach() if hasattr(value, "detach") else value)
    except (TypeError, RuntimeError) as error:
        raise CheckpointError(f"the state holds no array of numbers under {name}: {error}") from None
    return array


# ------------------------------------------------------------------------------------------ names and layouts


def _by_name(model: Module, own_names: bool = False) -> dict[str, _Entry]:
    """Return what there is by PyTorch's names; with `own_names`, attention's parts by their names here."""
    entries: dict[str, _Entry] = {}
    for one in _entries(model, "", "", (), own_names):
        for name in one.names:
            other = entries.setdefault(name, one)
            if [id(part.tensor) for part in other.parts] != [id(part.tensor) for part in one.parts]:
                raise CheckpointError(f"{other.parts[0].path} and {one.parts[0].path} would both be called {name}")
    return entries


def _entries(module: Module, path: str, name: str, above: Sequence[Module], own_names: bool) -> Iterator[_Entry]:
    if any(module is one for one in above):
        return
    names = {} if own_names else _transformer_names(module, above)
    projections = isinstance(module, Attention) and not own_names and _is_torchs(module)
    if projections:
        assert isinstance(module, Attention)
        yield from _projections(module, path, name)
    for own, item in module._contents():
        if projections and own in ("query", "key_value"):
            continue
        there = names.get(own, "out_proj" if projections and own == "output" else _name_there(module, own))
        if isinstance(item, RecurrentCell) and isinstance(module, RecurrentLayer):
            number, direction = own.rpartition(".")[2], "_reverse" if own.startswith("reverse") else ""
            yield from _cell(item, f"{path}{own}.", name, f"_l{number}{direction}")
        elif isinstance(item, Module):
            below = f"{name}{there}." if there else name
            yield from _entries(item, f"{path}{own}.", below, (*above, module), own_names)
        else:
            yield _Entry((_part(module, path, own, item),), (name + there,))


def _cell(cell: RecurrentCell, path: str, name: str, suffix: str) -> Iterator[_Entry]:
    """Yield the parameters of one layer and direction, which are the recurrent layer's own there."""
    for own, item in cell._contents():
        assert not isinstance(item, Module)
        yield _Entry((_part(cell, path, own, item),), (f"{name}{_name_there(cell, own)}{suffix}",))


def _part(module: Module, path: str, own: str, tensor: Parameter | Buffer) -> _Part:
    return _Part(path + own, tensor, *_layout(module, own, tensor))


def _name_there(module: Module, own: str) -> str:
    if isinstance(module, Sequential):
        return own.removeprefix("modules.")
    return _CELL_NAMES.get(own, own) if isinstance(module, RecurrentCell) else own


def _transformer_names(module: Module, above: Sequence[Module]) -> Mapping[str, str]:
    """Return what PyTorch calls the parts of a transformer's layer; nothing where it has no such layer."""
    if isinstance(module, FeedForward):
        return _FEED_FORWARD_NAMES if above and _transformer_names(above[-1], ()) else {}
    if not isinstance(module, TransformerEncoderLayer) or not isinstance(module.feed_forward, FeedForward):
        return {}
    if not isinstance(module, TransformerDecoderLayer):
        return _ENCODER_NAMES if _is_torchs(module.attention) else {}
    return _DECODER_NAMES if _is_torchs(module.attention) and _is_torchs(module.cross_attention) else {}


def _is_torchs(attention: Module) -> bool:
    """Tell whether PyTorch's MultiheadAttention computes the same."""
    if not isinstance(attention, Attention) or attention.rotary is not None:
        return False
    linears = attention.query, attention.key_value, attention.output
    return all(type(one) is Linear for one in linears) and len({one.bias is None for one in linears}) == 1


def _projections(attention: Attention, path: str, name: str) -> Iterator[_Entry]:
    """Yield what makes queries, keys and values, which are parameters of the attention itself there."""
    query, both = (
        _part(linear, f"{path}{own}.", "weight", linear.weight)
        for own, linear in (("query", attention.query), ("key_value", attention.key_value))
    )
    if query.tensor.shape[0] == both.tensor.shape[0]:
        yield _Entry((query, both), (f"{name}in_proj_weight",))
    else:
        yield _Entry((query,), (f"{name}q_proj_weight",))
        yield _Entry((both,), (f"{name}k_proj_weight", f"{name}v_proj_weight"))
    if attention.query.bias is not None and attention.key_value.bias is not None:
        biases = (
            _part(attention.query, f"{path}query.", "bias", attention.query.bias),
            _part(attention.key_value, f"{path}key_value.", "bias", attention.key_value.bias),
        )
        yield _Entry(biases, (f"{name}in_proj_bias",))


def _reasons(entries: Mapping[str, _Entry], state: Mapping[str, Any]) -> Iterator[str]:
    """Say of names of PyTorch's attention that find nothing here, or are not there, why that may be."""
    for name in state:
        if name in entries:
            continue
        fitting = [end for end in _REASONS if name == end or name.endswith(f".{end}")]
        if fitting:
            yield f"{name} {_REASONS[max(fitting, key=len)]}"
    for name in entries:
        if name.endswith("in_proj_bias") and name not in state and f"{name.removesuffix('bias')}weight" in state:
            yield (
                f"{name} is not there, so PyTorch's layer has no biases: nn.Attention(bias=False) has none either, "
                "Needle's transformer layers always have them"
            )


def _layout(module: Module, own: str, tensor: Parameter | Buffer) -> tuple[_Layout, _Layout]:
    """Return how the values of a module's tensor go there and back."""
    if isinstance(module, ConvolutionLayer) and own == "weight":
        return _kernel_last, _kernel_first
    if (isinstance(module, Linear) and own == "weight") or (isinstance(module, RecurrentCell) and own in _CELL_NAMES):
        return np.transpose, np.transpose
    if isinstance(module, Linear) and own == "bias":
        shape = tensor.shape
        return np.ravel, lambda array: array.reshape(shape) if array.shape == shape[-1:] else array
    return np.asarray, np.asarray


def _stacked(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate([np.atleast_1d(array) for array in arrays])


def _kernel_last(weight: NDArray[Any]) -> NDArray[Any]:
    """Return (*kernel, a, b) as (b, a, *kernel)."""
    rank = weight.ndim - 2
    return weight.transpose(rank + 1, rank, *range(rank))


def _kernel_first(weight: NDArray[Any]) -> NDArray[Any]:
    """Return (b, a, *kernel) as (*kernel, a, b); what has no such axes as it is, to be found misshapen."""
    return weight.transpose(*range(2, weight.ndim), 1, 0) if weight.ndim > 2 else weight
