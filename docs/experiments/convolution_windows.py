"""Draw which elements of an image two neighbouring windows meet, for four settings of a convolution.

    python docs/experiments/convolution_windows.py FILE

What a window meets is where the gradient of one element of the result is not 0.
"""

import argparse

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from pictures import save

import needle as ndl

SIZE, KERNEL = 6, 3
SETTINGS = {
    "stride 1": {"padding": 0},
    "padding 1": {"padding": 1},
    "stride 2": {"padding": 0, "stride": 2},
    "dilation 2": {"padding": 0, "dilation": 2},
}
PADDING, BOTH, FIRST, SECOND = "#dddddd", "#aa3377", "#ee6677", "#4477aa"


def met(column, options):
    """Return which elements of the padded image make the element (0, column) of the result, and the result's size."""
    image = ndl.init.zeros(1, *[SIZE + 2 * options["padding"]] * 2, 1, requires_grad=True)
    y = ndl.conv(image, ndl.init.ones(KERNEL, KERNEL, 1, 1), **{**options, "padding": 0})
    y[0, 0, column, 0].backward()
    return image.grad.numpy()[0, :, :, 0] != 0, y.shape[1]


def draw(axes, name, options):
    """Draw an image with its padding, and the first two windows in it."""
    first, count = met(0, options)
    second, _ = met(1, options)
    padding = options["padding"]
    for row, column in np.ndindex(*first.shape):
        outside = not (padding <= row < padding + SIZE and padding <= column < padding + SIZE)
        colour = PADDING if outside else "white"
        colour = {(1, 0): FIRST, (0, 1): SECOND, (1, 1): BOTH}.get((first[row, column], second[row, column]), colour)
        corner = (column - padding, row - padding)
        axes.add_patch(Rectangle(corner, 1, 1, facecolor=colour, edgecolor="#999999", linewidth=0.6))
    axes.add_patch(Rectangle((0, 0), SIZE, SIZE, fill=False, edgecolor="black", linewidth=1.4))
    axes.set(xlim=(-1.2, SIZE + 1.2), ylim=(SIZE + 1.2, -1.2), aspect="equal")
    axes.set_title(f"{name}: {count} by {count}", fontsize="medium")
    axes.set_axis_off()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", metavar="FILE", help="the picture to write")
    options = parser.parse_args()
    figure = Figure(figsize=(9.0, 2.6), layout="constrained")
    for axes, (name, settings) in zip(figure.subplots(1, len(SETTINGS)), SETTINGS.items(), strict=True):
        draw(axes, name, settings)
    save(figure, options.file)


if __name__ == "__main__":
    main()
