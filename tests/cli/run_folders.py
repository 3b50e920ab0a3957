"""Folders of runs, written without training."""

import json
import os

from needle.train import describe_run, write_run_record

IMAGES = {"dataset": "digits", "text": None, "model": "mlp", "epochs": 4, "lr": 0.003, "seed": 0, "output_dir": None}
TEXT = {**IMAGES, "dataset": None, "text": "books/fox.txt", "model": "gpt", "epochs": 2, "tokens": "characters"}


def image_row(epoch, loss):
    train = {"train_loss": loss, "train_error": loss / 10}
    test = {"test_loss": loss + 0.1, "test_error": loss / 8}
    return {"epoch": epoch, "step": 10 * epoch, "lr": 0.003, **train, **test, "seconds": 1.5, "samples_per_second": 1e3}


def text_row(epoch, loss):
    measured = {"train_loss": loss, "valid_loss": loss + 0.2, "perplexity": 20 * loss, "bits_per_token": 1.4 * loss}
    return {"epoch": epoch, "step": 10 * epoch, "lr": 0.003, **measured, "seconds": 70.0, "tokens_per_second": 500.0}


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_run(folder, rows=(), options=None, *, finished=True, **changes):
    """Write a run's folder; with no options one that has no record."""
    folder.mkdir(parents=True)
    if options is not None:
        write_run_record(folder, describe_run({**options, **changes}, "train"))
    if rows:
        (folder / "metrics.jsonl").write_text(lines(rows))
    if finished:
        (folder / "model.json").write_text("{}")
    return folder


def make_old(folder, seconds=1e6):
    """Let all that is in a folder have been written long ago."""
    for path in (*folder.iterdir(), folder):
        then = path.stat().st_mtime - seconds
        os.utime(path, (then, then))
