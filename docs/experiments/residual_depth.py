"""Does a network train when it gets deeper, with and without residual connections?

    python docs/experiments/residual_depth.py [--quick] [--figure FILE] [--gradients FILE]

A network of blocks Linear-BatchNorm-ReLU-Linear-BatchNorm of width 32 learns the embedded digits: once with
ReLU(fn(x) + x) for each block, once with ReLU(fn(x)), all else the same. Adam, learning rate 0.001, batches of 50, 30
epochs. Shown: mean error over the seeds, in percent. The second table has the norm of the gradient of each block's
first weight before training, divided by that of the last block.
"""

import argparse
import time

import numpy as np
from digits import evaluate, train

from needle import data, nn

WIDTH = 32
SEEDS = 3


def block(residual):
    """Return a block of two layers, with or without the addition."""
    fn = nn.Sequential(
        nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH)
    )
    return nn.Sequential(nn.Residual(fn) if residual else fn, nn.ReLU())


def network(blocks, residual):
    """Return Linear-ReLU, the blocks, Linear."""
    return nn.Sequential(
        nn.Linear(64, WIDTH), nn.ReLU(), *(block(residual) for _ in range(blocks)), nn.Linear(WIDTH, 10)
    )


def errors(blocks, residual, *, seeds, epochs):
    """Return training and test error, means over the seeds."""
    found = []
    for seed in range(seeds):
        np.random.seed(seed)
        model = network(blocks, residual)
        train(model, data.DigitsDataset(train=True), epochs)
        found.append([evaluate(model, data.DigitsDataset(train=part))["error"] for part in (True, False)])
    return np.mean(found, axis=0)


def gradient_norms(blocks, residual, seeds):
    """Return the gradient's norm at each block's first weight, before any training: the mean over the seeds."""
    found = []
    for seed in range(seeds):
        np.random.seed(seed)
        model = network(blocks, residual)
        images, labels = next(iter(data.DataLoader(data.DigitsDataset(), 200)))
        nn.SoftmaxLoss()(model(images), labels).backward()
        weights = [p for p in model.parameters() if p.shape == (WIDTH, WIDTH)][::2]  # the first of each block's two
        norms = np.array([np.linalg.norm(weight.grad.numpy()) for weight in weights])
        found.append(norms)
    return np.mean(found, axis=0)


def print_errors(rows):
    print("| blocks | layers | plain: train | plain: test | residual: train | residual: test |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for blocks, plain, residual in rows:
        figures = " | ".join(f"{100 * error:.1f} %" for error in (*plain, *residual))
        print(f"| {blocks} | {2 * blocks + 2} | {figures} |")


def print_norms(plain, residual):
    print("| block | plain | residual |")
    print("| ---: | ---: | ---: |")
    shown = sorted({0, *(2**i - 1 for i in range(1, 10) if 2**i <= len(plain))})
    for i in shown:
        print(f"| {i + 1} | {plain[i] / plain[-1]:.3g} | {residual[i] / residual[-1]:.3g} |")


def figure_with_axes():
    from matplotlib.figure import Figure  # noqa: PLC0415  only where a figure is asked for

    figure = Figure(figsize=(6.0, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    return figure, axes


def draw_errors(rows, path):
    from pictures import save  # noqa: PLC0415  only where a figure is asked for

    figure, axes = figure_with_axes()
    layers = [2 * blocks + 2 for blocks, _, _ in rows]
    for column, (name, colour) in enumerate((("plain", "#ee6677"), ("residual", "#4477aa")), start=1):
        train_errors, test_errors = (100 * np.array([row[column][i] for row in rows]) for i in (0, 1))
        axes.plot(layers, train_errors, "o--", color=colour, label=f"{name}, training", markersize=4)
        axes.plot(layers, test_errors, "o-", color=colour, label=f"{name}, test", markersize=4)
    axes.set_xscale("log", base=2)
    axes.set_xticks(layers, [str(n) for n in layers])
    axes.set(xlabel="layers with weights", ylabel="error in percent", ylim=(0, None))
    axes.legend(fontsize="small")
    save(figure, path)


def draw_norms(plain, residual, path):
    from pictures import save  # noqa: PLC0415  only where a figure is asked for

    figure, axes = figure_with_axes()
    blocks = range(1, len(plain) + 1)
    axes.plot(blocks, plain, color="#ee6677", label="plain")
    axes.plot(blocks, residual, color="#4477aa", label="residual")
    axes.set(yscale="log", xlabel="block (1 is next to the input)", ylabel="norm of the gradient")
    axes.legend(fontsize="small")
    save(figure, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1 and 4 blocks, 1 epoch, 1 seed")
    parser.add_argument("--figure", metavar="FILE", help="draw error against depth into this file")
    parser.add_argument("--gradients", metavar="FILE", help="draw the gradients' norms into this file")
    options = parser.parse_args()
    depths, seeds, epochs = ((1, 4), 1, 1) if options.quick else ((1, 2, 4, 8, 16, 32), SEEDS, 30)
    start = time.perf_counter()
    rows = [
        (blocks, *(errors(blocks, residual, seeds=seeds, epochs=epochs) for residual in (False, True)))
        for blocks in depths
    ]
    print_errors(rows)
    norms = [gradient_norms(depths[-1], residual, seeds) for residual in (False, True)]
    print()
    print_norms(*norms)
    print(f"\n{time.perf_counter() - start:.0f} s")
    if options.figure:
        draw_errors(rows, options.figure)
    if options.gradients:
        draw_norms(*norms, options.gradients)


if __name__ == "__main__":
    main()
