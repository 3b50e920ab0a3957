"""Small PNG files: few colours are enough for lines."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image


def save(figure: Figure, path: str | Path, dpi: int = 110) -> None:
    """Draw a figure and save it with a palette of 64 colours."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    picture.quantize(64).save(path, optimize=True)
