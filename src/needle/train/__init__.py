"""Training: the trainer and its callbacks, checkpoints, what a model predicts, pictures of a run, and saved models.

Small pieces that also serve a loop written by hand over `needle.nn`, `needle.optim` and `needle.data`. What trains a
particular model on particular data is not here but in `needle.cli`.
"""

from needle.train.averaging import ExponentialMovingAverage
from needle.train.callbacks import (
    Callback,
    Checkpoints,
    EarlyStopping,
    LayerStatistics,
    MetricsLog,
    SampleImages,
    TensorBoard,
)
from needle.train.checkpoint import Checkpoint, list_checkpoints, load_checkpoint, peek_checkpoint, save_checkpoint
from needle.train.comparison import compare_curves, default_metrics, known_metrics
from needle.train.files import check_writable, write_file
from needle.train.image_grid import image_grid_png
from needle.train.interruption import TrainingInterrupted, deferred_interrupt
from needle.train.language import LanguageTrainer, SequentialReader, text_loader
from needle.train.learning_rate import LearningRateSearch, find_learning_rate
from needle.train.metrics import F1, Accuracy, ConfusionMatrix, ErrorRate, Metric, Perplexity, TopKAccuracy
from needle.train.metrics_file import Metrics, read_metrics
from needle.train.plots import curves_png, curves_svg, worst_png
from needle.train.prediction import (
    Predictions,
    confusion_matrix,
    flat,
    predict_batches,
    predict_probabilities,
    worst_indices,
)
from needle.train.progress import Progress
from needle.train.recipe import Recipe
from needle.train.report import Report, ReportTable, report_html
from needle.train.run_record import RunRecord, begin_run, describe_run, read_run_record, write_run_record
from needle.train.running import Row, Running, metrics_jsonl
from needle.train.sampling import TokenSampler, sample_tokens
from needle.train.saving import SavedModel, load_model, read_recipe, save_model
from needle.train.step import LossFunction, Precision, TrainingStep
from needle.train.trainer import Batches, Trainer

__all__ = [
    "F1",
    "Accuracy",
    "Batches",
    "Callback",
    "Checkpoint",
    "Checkpoints",
    "ConfusionMatrix",
    "EarlyStopping",
    "EpochResult",
    "ErrorRate",
    "ExponentialMovingAverage",
    "LanguageRow",
    "LanguageTrainer",
    "LayerStatistics",
    "LearningRateSearch",
    "LossFunction",
    "Metric",
    "Metrics",
    "MetricsLog",
    "Perplexity",
    "Precision",
    "Predictions",
    "Progress",
    "Recipe",
    "Report",
    "ReportTable",
    "Row",
    "RunRecord",
    "Running",
    "SampleImages",
    "SavedModel",
    "SequentialReader",
    "TensorBoard",
    "TokenSampler",
    "TopKAccuracy",
    "Trainer",
    "TrainingInterrupted",
    "TrainingStep",
    "begin_run",
    "check_writable",
    "compare_curves",
    "confusion_matrix",
    "curves_png",
    "curves_svg",
    "default_metrics",
    "deferred_interrupt",
    "describe_run",
    "evaluate_epoch",
    "evaluate_language_model",
    "find_learning_rate",
    "fit",
    "flat",
    "image_grid_png",
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
    "report_html",
    "sample_tokens",
    "save_checkpoint",
    "save_model",
    "text_loader",
    "worst_indices",
    "worst_png",
    "write_file",
    "write_run_record",
]
