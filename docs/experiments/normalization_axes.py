"""Draw which elements of a batch each normalisation averages over.

    python docs/experiments/normalization_axes.py FILE

Elements of one colour share a mean and a variance.
"""

import argparse

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from pictures import save

SAMPLES, CHANNELS, PIXELS, GROUPS = 3, 4, 2, 2
COLOURS = (
    *("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377"),
    *("#bbbbbb", "#997700", "#6699cc", "#ee99aa", "#44bb99", "#555555"),
)

# Elements with the same key are averaged together.
KEYS = {
    "batch": lambda sample, channel: channel,
    "layer": lambda sample, channel: sample,
    "instance": lambda sample, channel: sample * CHANNELS + channel,
    "group (2 groups)": lambda sample, channel: sample * GROUPS + channel * GROUPS // CHANNELS,
}


def draw_batch(axes, key):
    """Draw a batch: a row for each sample, a column for each channel, PIXELS × PIXELS squares in each."""
    gap = PIXELS + 0.5
    for sample in range(SAMPLES):
        for channel in range(CHANNELS):
            colour = COLOURS[key(sample, channel)]
            for pixel in range(PIXELS**2):
                corner = (channel * gap + pixel % PIXELS, -sample * gap - pixel // PIXELS)
                axes.add_patch(Rectangle(corner, 1, 1, facecolor=colour, edgecolor="white", linewidth=0.6))
    axes.set(xlim=(-0.3, CHANNELS * gap), ylim=(-SAMPLES * gap + 1.2, 1.3), aspect="equal")
    axes.set_xticks([PIXELS / 2 + i * gap for i in range(CHANNELS)], [f"{i + 1}" for i in range(CHANNELS)])
    axes.set_yticks([-i * gap for i in range(SAMPLES)], [f"{i + 1}" for i in range(SAMPLES)])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("channel")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", metavar="FILE", help="the picture to write")
    options = parser.parse_args()
    figure = Figure(figsize=(9.0, 2.4), layout="constrained")
    panels = figure.subplots(1, len(KEYS))
    for axes, (name, key) in zip(panels, KEYS.items(), strict=True):
        draw_batch(axes, key)
        axes.set_title(name)
    panels[0].set_ylabel("sample")
    save(figure, options.file, dpi=130)


if __name__ == "__main__":
    main()
