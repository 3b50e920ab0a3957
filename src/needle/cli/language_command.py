"""`needle train --text`: a language model on a text file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from needle import nn
from needle.cli.architectures import ARCHITECTURES
from needle.cli.defaults import resolve_text
from needle.cli.optimization import make_optimizer
from needle.cli.runs import new_run_folder, remember_latest
from needle.cli.show import new_console, run_time
from needle.cli.training import callbacks, remove_checkpoints, resumed_options, run_trainer, seed_run, settings
from needle.data import (
    ByteTokenizer,
    CharacterTokenizer,
    Tokenizer,
    WordTokenizer,
    default_data_folder,
    encode_file,
    text_chunks,
    tiny_shakespeare,
)
from needle.errors import DataError
from needle.train import (
    LanguageTrainer,
    Recipe,
    Row,
    SequentialReader,
    begin_run,
    check_writable,
    save_model,
    text_loader,
    write_file,
)

__all__ = ["SHAKESPEARE", "TOKENS", "run"]

# How a text may be taken apart.
TOKENS: dict[str, type[Tokenizer]] = {one.kind: one for one in (CharacterTokenizer, ByteTokenizer, WordTokenizer)}
_VALIDATION_SHARE = 0.1
_LARGE_TEXT_BYTES = 1 << 26
SHAKESPEARE = "tinyshakespeare"


def run(arguments: Any) -> int:
    """Train as the options say, and save the model and its figures."""
    given = vars(arguments)
    console = new_console()
    resumed = given["resume"]
    options = resumed_options(given) if resumed is not None else resolve_text(given)
    text = _text_path(options, console)
    folder = Path(resumed or options["output_dir"] or new_run_folder(_name(options["text"])))
    check_writable(folder)
    tokenizer = TOKENS[options["tokens"]].fit(text_chunks(text))
    with _encoded(text, tokenizer, folder) as ids:
        return _run(console, options, text, folder, tokenizer, ids)


@contextmanager
def _encoded(text: Path, tokenizer: Tokenizer, folder: Path) -> Iterator[Any]:
    """Give the ids of a text: those of a large one in a file beside the run, which is gone at the end."""
    if text.stat().st_size < _LARGE_TEXT_BYTES:
        yield encode_file(text, tokenizer)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as place:
        yield encode_file(text, tokenizer, Path(place) / "ids")


def _run(  # noqa: PLR0917
    console: Console, options: dict[str, Any], text: Path, folder: Path, tokenizer: Tokenizer, ids: Any
) -> int:
    """Train on the ids of a text, and save."""
    _check_text(ids, options)
    seed_run(options["seed"])
    architecture, hyperparameters = _architecture(options, tokenizer.vocab_size)
    model = ARCHITECTURES[architecture](**hyperparameters)
    _announce(console, options, model, ids, tokenizer)
    rows = _train(console, options, model, ids, folder)
    recipe = Recipe(
        architecture=architecture,
        hyperparameters=hyperparameters,
        input_shape=(options["seq_len"],),
        class_names=tokenizer.vocabulary,
        dataset=f"{options['tokens']} of {SHAKESPEARE if options['text'] == SHAKESPEARE else text.name}",
        options={name: options[name] for name in sorted(_KEPT)},
        seed=options["seed"],
        results={name: rows[-1][name] for name in ("epoch", "step", "train_loss", "valid_loss", "perplexity")},
    )
    write_file(folder / "tokenizer.json", json.dumps(tokenizer.to_json(), ensure_ascii=False).encode())
    save_model(folder, model, recipe)
    remove_checkpoints(folder)
    latest = remember_latest(folder)
    console.print(f"{run_time(rows)}. Saved in {folder}.", markup=False)
    console.print(f"Use it: needle sample{'' if latest else f' {folder}'}", markup=False)
    return 0


def _name(text: str) -> str:
    return Path(text).stem or "text"


def _text_path(options: dict[str, Any], console: Console) -> Path:
    """Return the file with the text; one text is known by name, and fetched where it is not there."""
    if options["text"] != SHAKESPEARE or Path(SHAKESPEARE).exists():
        return Path(options["text"])
    folder = options["data_dir"] or default_data_folder() / SHAKESPEARE
    if not (Path(folder) / "input.txt").exists():
        console.print(f"fetching 1.1 MB of Shakespeare's plays into {folder}", markup=False)
    return tiny_shakespeare(folder)


def _check_text(ids: Any, options: dict[str, Any]) -> None:
    """Tell where a run that goes on has another text than it had: it would not be the same run."""
    tokens = options.setdefault("num_tokens", len(ids))
    if tokens != len(ids):
        raise DataError(f"{options['text']} has {len(ids):,} tokens now; the run began with {tokens:,}")


def _announce(console: Console, options: dict[str, Any], model: nn.Module, ids: Any, tokenizer: Tokenizer) -> None:
    console.print(
        f"{options['text']}: {len(ids):,} {options['tokens']}, {tokenizer.vocab_size:,} different ones, the last "
        f"{_VALIDATION_SHARE:.0%} for validation",
        markup=False,
    )
    console.print(
        f"{options['model']}: {options['num_blocks']} layers, {options['hidden_dim']} wide, "
        f"{model.num_parameters():,} parameters; {options['optimizer']}, seed {options['seed']}"
    )


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
        "seq_len": options["seq_len"],
        "dropout": options["dropout"],
    }


def _train(console: Console, options: dict[str, Any], model: nn.Module, ids: Any, folder: Path) -> list[Row]:
    """Train, and return every epoch's figures."""
    seq_len, batch_size = options["seq_len"], options["batch_size"]
    sequential = options["model"] != "gpt"
    end = len(ids) - round(len(ids) * _VALIDATION_SHARE)
    train, valid = (
        text_loader(part, seq_len, batch_size, sequential=sequential, shuffle=shuffle)
        for part, shuffle in ((ids[:end], True), (ids[end:], False))
    )
    optimizer = make_optimizer(options, model.parameters(), math.ceil(len(train) / options["accumulate"]))
    reader = SequentialReader(model, batch_size) if sequential else model
    trainer = LanguageTrainer(reader, optimizer, callbacks=callbacks(console, options, folder), **settings(options))
    begin_run(folder, options, "train")
    rows = run_trainer(console, trainer, options, folder, train, {"valid": valid})
    if trainer.average is not None:
        reader.load_state_dict(trainer.average.state_dict(), strict=False)
    return rows
