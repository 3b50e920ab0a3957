"""`needle sample`: text from a trained language model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from needle.cli.architectures import ARCHITECTURES
from needle.cli.parser import add_command, number, whole
from needle.cli.runs import MODEL_OPTIONS, find_model
from needle.data import Tokenizer, tokenizer_from_json
from needle.errors import CheckpointError
from needle.train import TokenSampler, load_model, sample_tokens

__all__ = ["add_to", "beginning", "read_tokenizer", "run"]


def add_to(commands: Any) -> None:
    """Add the command, with its options."""
    parser = add_command(
        commands,
        "sample",
        run,
        help="write text with a trained language model",
        description="Write text with a language model that `needle train --text FILE` has made.",
        epilog='examples:\n  needle sample\n  needle sample runs/book-20260101-120000 --prompt "Once upon" --top-k 20',
    )
    parser.add_argument("model", nargs="?", **MODEL_OPTIONS)
    parser.add_argument("--prompt", metavar="TEXT", help="what the text begins with (default: a new line)")
    parser.add_argument("--length", type=whole(0), default=400, metavar="N", help="tokens to write (default: 400)")
    parser.add_argument(
        "--temperature",
        type=number(0),
        default=0.8,
        metavar="T",
        help="lower is more careful, 0 takes the likeliest token (default: 0.8)",
    )
    parser.add_argument("--top-k", type=whole(1), metavar="N", help="draw from the N likeliest tokens (default: all)")
    parser.add_argument(
        "--top-p",
        type=number(0, above=True, most=1),
        default=1.0,
        metavar="P",
        help="draw from the likeliest tokens that have this share of the probability (default: 1, all)",
    )
    parser.add_argument(
        "--seed", type=whole(0, 2**32 - 1), default=0, metavar="N", help="the same seed writes the same (default: 0)"
    )


def run(arguments: Any) -> int:
    """Print a prompt and what the model makes to follow it, token by token."""
    folder = find_model(arguments.model)
    saved = load_model(folder, ARCHITECTURES)
    tokenizer = read_tokenizer(folder)
    prompt = arguments.prompt or beginning(tokenizer)
    ids = tokenizer.encode(prompt).astype(np.int64)
    sampler = TokenSampler(
        arguments.temperature, arguments.top_k, arguments.top_p, np.random.default_rng(arguments.seed)
    )
    out = sys.stdout
    out.write(prompt)
    known = list(map(int, ids))
    shown = len(tokenizer.decode(known))
    for token in sample_tokens(saved.model, ids, arguments.length, sampler):
        known.append(token)
        text = tokenizer.decode(known)
        out.write(text[shown:])
        out.flush()
        shown = len(text)
    out.write("\n")
    return 0


def read_tokenizer(folder: Path) -> Tokenizer:
    """Return the tokenizer of a language model.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    path = folder / "tokenizer.json"
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder} holds no language model: it has no tokenizer.json. `needle train --text FILE` makes one"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from None
    return tokenizer_from_json(row)


def beginning(tokenizer: Tokenizer) -> str:
    """Return what a text may begin with where nobody says: a line's end, if there is one."""
    return "\n" if "\n" in tokenizer.vocabulary else tokenizer.vocabulary[0]
