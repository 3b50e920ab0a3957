"""The way that each optimizer takes down a narrow valley.

    python docs/experiments/optimizer_paths.py [--figure FILE]

The loss is (x² + 25 y²) / 2: 25 times as curved across the valley as along it. All start at (−4, 1) and take 40 steps.
Nothing is random.
"""

import argparse

import numpy as np

import needle as ndl

START = (-4.0, 1.0)
STEPS = 40
OPTIMIZERS = {
    "SGD, lr 0.07": lambda p: ndl.optim.SGD(p, lr=0.07),
    "SGD, lr 0.07, momentum 0.5": lambda p: ndl.optim.SGD(p, lr=0.07, momentum=0.5),
    "SGD, lr 0.2, momentum 0.5": lambda p: ndl.optim.SGD(p, lr=0.2, momentum=0.5),
    "Adagrad, lr 0.7": lambda p: ndl.optim.Adagrad(p, lr=0.7),
    "RMSprop, lr 0.2, alpha 0.9": lambda p: ndl.optim.RMSprop(p, lr=0.2, alpha=0.9),
    "Adam, lr 0.2": lambda p: ndl.optim.Adam(p, lr=0.2),
}
CURVATURE = ndl.Tensor([1.0, 25.0], requires_grad=False)


def valley(point):
    """Return the loss at a point: Tensor (2,)."""
    return (CURVATURE * point**2).sum() / 2


def path(make_optimizer):
    """Return every point from the start on, (STEPS + 1, 2)."""
    point = ndl.nn.Parameter(np.array(START))
    optimizer = make_optimizer([point])
    points = [point.numpy()]
    for _ in range(STEPS):
        valley(point).backward()
        optimizer.step()
        points.append(point.numpy())
    return np.array(points)


def print_table(paths):
    print("| optimizer | loss after 10 steps | after 20 | after 40 |")
    print("| --- | ---: | ---: | ---: |")
    for name, points in paths.items():
        losses = [float(valley(ndl.Tensor(points[step])).numpy()) for step in (10, 20, 40)]
        print(f"| {name} | " + " | ".join(f"{loss:.2g}" for loss in losses) + " |")


def draw_figure(paths, file):
    from matplotlib.figure import Figure  # noqa: PLC0415  only where a figure is asked for
    from pictures import save  # noqa: PLC0415

    figure = Figure(figsize=(9.0, 4.4), layout="constrained")
    panels = figure.subplots(2, 3, sharex=True, sharey=True).ravel()
    x, y = np.meshgrid(np.linspace(-4.6, 2.2, 200), np.linspace(-1.7, 1.5, 150))
    loss = (x**2 + 25 * y**2) / 2
    for axes, (name, points) in zip(panels, paths.items(), strict=True):
        axes.contour(x, y, loss, levels=np.geomspace(0.1, 30, 9), colors="#bbbbbb", linewidths=0.7)
        axes.plot(*points.T, "o-", color="#4477aa", markersize=2.5, linewidth=1)
        axes.plot(0, 0, "x", color="#ee6677")
        axes.set_title(name, fontsize="medium")
    save(figure, file)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", metavar="FILE", help="draw the paths into this file")
    options = parser.parse_args()
    paths = {name: path(make) for name, make in OPTIMIZERS.items()}
    print_table(paths)
    if options.figure:
        draw_figure(paths, options.figure)


if __name__ == "__main__":
    main()
