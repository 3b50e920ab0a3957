"""`needle train --text`: a language model on a text file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

import needle
from needle import nn
from needle.cli.architectures import ARCHITECTURES
from needle.cli.defaults import resolve_text
from needle.cli.optimization import make_optimizer
from needle.cli.runs import new_run_folder, remember_latest
from needle.cli.show import new_console
from needle.data import CharacterTokenizer, Tokenizer, WordTokenizer, encode_file, text_chunks
from needle.errors import DataError
from needle.train import (
    LanguageRow,
    Recipe,
    begin_run,
    check_writable,
    metrics_jsonl,
    save_model,
    train_language_model,
    write_file,
)

__all__ = ["TOKENS", "run"]

# How a text may be taken apart.
TOKENS: dict[str, type[Tokenizer]] = {"characters": CharacterTokenizer, "words": WordTokenizer}
_VALIDATION_SHARE = 0.1


def run(arguments: Any) -> int:
    """Train as the options say, and save the model and its figures."""
    options = resolve_text(vars(arguments))
    console = new_console()
    text = Path(options["text"])
    folder = Path(options["output_dir"]) if options["output_dir"] else new_run_folder(text.stem or "text")
    check_writable(folder)
    tokenizer = TOKENS[options["tokens"]].fit(text_chunks(text))
    ids = encode_file(text, tokenizer)
    end = len(ids) - round(len(ids) * _VALIDATION_SHARE)
    needle.seed(None)
    np.random.seed(options["seed"])
    architecture, hyperparameters = _architecture(options, tokenizer.vocab_size)
    model = ARCHITECTURES[architecture](**hyperparameters)
    console.print(
        f"{text}: {len(ids):,} {options['tokens']}, {tokenizer.vocab_size:,} different ones, the last "
        f"{_VALIDATION_SHARE:.0%} for validation",
        markup=False,
    )
    console.print(
        f"{options['model']}: {options['num_blocks']} layers, {options['hidden_dim']} wide, "
        f"{model.num_parameters():,} parameters; {options['optimizer']}, seed {options['seed']}"
    )
    rows = _train(console, options, model, ids[:end], ids[end:], folder)
    recipe = Recipe(
        architecture=architecture,
        hyperparameters=hyperparameters,
        input_shape=(options["seq_len"],),
        class_names=tokenizer.vocabulary,
        dataset=f"{options['tokens']} of {text.name}",
        options={name: options[name] for name in sorted(_KEPT)},
        seed=options["seed"],
        results={name: rows[-1][name] for name in ("epoch", "step", "train_loss", "valid_loss", "perplexity")},
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / "metrics.jsonl", metrics_jsonl(rows))
    write_file(folder / "tokenizer.json", json.dumps(tokenizer.to_json(), ensure_ascii=False).encode())
    save_model(folder, model, recipe)
    latest = remember_latest(folder)
    seconds = sum(row["seconds"] for row in rows)
    console.print(f"{seconds:.1f} s for {len(rows)} epochs. Saved in {folder}.", markup=False)
    console.print(f"Use it: needle sample{'' if latest else f' {folder}'}", markup=False)
    return 0


_KEPT = (
    *("model", "tokens", "seq_len", "batch_size", "epochs", "hidden_dim", "num_blocks", "dropout"),
    *("optimizer", "lr", "schedule", "warmup", "weight_decay", "momentum"),
)


def _architecture(options: dict[str, Any], vocab_size: int) -> tuple[str, dict[str, Any]]:
    """Return the model's name among the architectures, and what it is made with."""
    width, layers = options["hidden_dim"], options["num_blocks"]
    if options["model"] == "gpt":
        heads = next(count for count in (4, 2, 1) if width % count == 0)
        return "GPT", {
            "vocab_size": vocab_size,
            "max_length": options["seq_len"],
            "num_layers": layers,
            "width": width,
            "num_heads": heads,
            "dropout": options["dropout"],
        }
    return "LanguageModel", {
        "embedding_size": width,
        "output_size": vocab_size,
        "hidden_size": width,
        "num_layers": layers,
        "seq_model": options["model"],
        "dropout": options["dropout"],
    }


def _train(  # noqa: PLR0917  what a run is made of
    console: Console, options: dict[str, Any], model: nn.Module, train: Any, valid: Any, folder: Path
) -> list[LanguageRow]:
    batch_size, seq_len = options["batch_size"], options["seq_len"]
    steps = max(1, (len(train) - 1) // (batch_size * seq_len))
    optimizer = make_optimizer(options, model.parameters(), steps)
    rows: list[LanguageRow] = []
    console.print("   epoch  train loss  valid loss  perplexity  bits/token  tokens/s")
    progress = _Progress(console, len(train))
    epochs = train_language_model(
        model,
        optimizer,
        train,
        valid,
        seq_len=seq_len,
        batch_size=batch_size,
        epochs=options["epochs"],
        sequential=options["model"] != "gpt",
        after_batch=progress.after_batch if console.is_terminal else None,
    )
    begin_run(folder, options, "train")
    for row in epochs:
        progress.clear()
        rows.append(row)
        console.print(
            f"{row['epoch']:>4}/{options['epochs']:<3}  {row['train_loss']:>10.4f}  {row['valid_loss']:>10.4f}  "
            f"{row['perplexity']:>10.2f}  {row['bits_per_token']:>10.3f}  {row['tokens_per_second']:>8,.0f}"
        )
    if not rows:
        raise DataError("there was no epoch")
    return rows


class _Progress:
    """A line that says on a terminal how far an epoch has come."""

    def __init__(self, console: Console, tokens: int) -> None:
        self.status = console.status("")
        self.tokens = tokens
        self.running = False

    def after_batch(self, epoch: int, tokens: int, loss: float) -> None:
        """Say so."""
        if not self.running:
            self.status.start()
            self.running = True
        self.status.update(f"epoch {epoch}: {tokens / self.tokens:.0%}, loss {loss:.4f}")

    def clear(self) -> None:
        """Take the line away."""
        if self.running:
            self.status.stop()
            self.running = False
