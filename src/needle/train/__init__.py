"""Training: one epoch, many epochs, what a model predicts, pictures of a run, and saved models.

Plain functions over public pieces: a loop written by hand over `needle.nn`, `needle.optim` and `needle.data` does the
same, and these are short enough to copy. What trains a particular model on particular data is not here but in
`needle.cli`.
"""

from needle.train.checkpoint import Checkpoint, list_checkpoints, load_checkpoint, peek_checkpoint, save_checkpoint
from needle.train.comparison import compare_curves, default_metrics, known_metrics
from needle.train.epoch import EpochResult, evaluate_epoch, train_epoch
from needle.train.files import check_writable, write_file
from needle.train.fit import EarlyStopping, Row, fit, metrics_jsonl
from needle.train.language import LanguageRow, evaluate_language_model, train_language_model
from needle.train.metrics import Metrics, read_metrics
from needle.train.plots import curves_png, worst_png
from needle.train.prediction import (
    Predictions,
    confusion_matrix,
    predict_batches,
    predict_probabilities,
    worst_indices,
)
from needle.train.recipe import Recipe
from needle.train.run_record import RunRecord, begin_run, describe_run, read_run_record, write_run_record
from needle.train.sampling import TokenSampler, sample_tokens
from needle.train.saving import SavedModel, load_model, read_recipe, save_model

__all__ = [
    "Checkpoint",
    "EarlyStopping",
    "EpochResult",
    "LanguageRow",
    "Metrics",
    "Predictions",
    "Recipe",
    "Row",
    "RunRecord",
    "SavedModel",
    "TokenSampler",
    "begin_run",
    "check_writable",
    "compare_curves",
    "confusion_matrix",
    "curves_png",
    "default_metrics",
    "describe_run",
    "evaluate_epoch",
    "evaluate_language_model",
    "fit",
    "known_metrics",
    "list_checkpoints",
    "load_checkpoint",
    "load_model",
    "metrics_jsonl",
    "peek_checkpoint",
    "predict_batches",
    "predict_probabilities",
    "read_metrics",
    "read_recipe",
    "read_run_record",
    "sample_tokens",
    "save_checkpoint",
    "save_model",
    "train_epoch",
    "train_language_model",
    "worst_indices",
    "worst_png",
    "write_file",
    "write_run_record",
]
