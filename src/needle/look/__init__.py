"""Looking at a model: a table of its layers, and pictures of its graph."""

from needle.look.drawing import Drawing, draw
from needle.look.summary import Summary, SummaryRow, summary

__all__ = ["Drawing", "Summary", "SummaryRow", "draw", "summary"]
