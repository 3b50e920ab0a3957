"""Looking at a model: a table of its layers, and pictures of its graph."""

from needle.look.summary import Summary, SummaryRow, summary

__all__ = ["Summary", "SummaryRow", "summary"]
