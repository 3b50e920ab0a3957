"""How strong is the signal after each layer, for several ways to draw the weights?

    python docs/experiments/initialisation.py [--quick] [--figure FILE]

Random inputs go through 50 layers of width 256, each a product with a fresh weight matrix and a ReLU (or a tanh). No
training: this is the state in which training starts. The table shows the root mean square of the activations,
averaged over the seeds.
"""

import argparse

import numpy as np

import needle as ndl

WIDTH = 256
SHOWN = (1, 5, 10, 20, 50)


def small(n):
    """Half of Kaiming's standard deviation."""
    return ndl.init.kaiming_normal(n, n) * 0.5


def large(n):
    """One and a half times Kaiming's standard deviation."""
    return ndl.init.kaiming_normal(n, n) * 1.5


def xavier(n):
    """Glorot's: std = √(2 / (fan_in + fan_out))."""
    return ndl.init.xavier_normal(n, n)


def kaiming(n):
    """He's: std = √(2 / fan_in)."""
    return ndl.init.kaiming_normal(n, n)


CASES = {
    "half of Kaiming, ReLU": (small, ndl.relu),
    "Xavier, ReLU": (xavier, ndl.relu),
    "Kaiming, ReLU": (kaiming, ndl.relu),
    "1.5 times Kaiming, ReLU": (large, ndl.relu),
    "Xavier, tanh": (xavier, ndl.tanh),
    "Kaiming, tanh": (kaiming, ndl.tanh),
}


@ndl.no_grad()
def strengths(draw, activation, depth, seed):
    """Return the root mean square of the activations after each layer."""
    ndl.seed(seed)
    x = ndl.init.randn(64, WIDTH)  # (B, width)
    found = []
    for _ in range(depth):
        x = activation(x @ draw(WIDTH))  # (B, width)
        found.append(float(np.sqrt((x.numpy() ** 2).mean())))
    return found


def measure(depth, seeds):
    """Return, for each case, the mean strength after each layer."""
    return {
        name: np.mean([strengths(*case, depth, seed) for seed in range(seeds)], axis=0) for name, case in CASES.items()
    }


def print_table(rows, depth):
    shown = [layer for layer in SHOWN if layer <= depth]
    print("| weights, activation | " + " | ".join(f"layer {layer}" for layer in shown) + " |")
    print("| --- |" + " ---: |" * len(shown))
    for name, values in rows.items():
        print(f"| {name} | " + " | ".join(f"{values[layer - 1]:.2g}" for layer in shown) + " |")


def draw_figure(rows, path):
    from matplotlib.figure import Figure  # noqa: PLC0415  only where a figure is asked for
    from pictures import save  # noqa: PLC0415

    figure = Figure(figsize=(6.0, 3.4), layout="constrained")
    axes = figure.subplots()
    for name, values in rows.items():
        style = "--" if "tanh" in name else "-"
        axes.plot(range(1, len(values) + 1), values, style, label=name)
    axes.set(yscale="log", xlabel="layer", ylabel="root mean square of the activations")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    save(figure, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10 layers and 1 seed")
    parser.add_argument("--figure", metavar="FILE", help="draw the curves into this file")
    options = parser.parse_args()
    depth, seeds = (10, 1) if options.quick else (50, 5)
    rows = measure(depth, seeds)
    print_table(rows, depth)
    if options.figure:
        draw_figure(rows, options.figure)


if __name__ == "__main__":
    main()
