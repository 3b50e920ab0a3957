"""How far does one element of a network's result see, and how much of it comes from where?

    python docs/experiments/receptive_fields.py [--quick] [--figure FILE]

Stacks of 3 × 3 convolutions of 8 channels with ReLU between them, as they are drawn. Measured is the gradient of one
element of the last layer with respect to the image: its absolute values, averaged over networks and images. Shown: the
side of the square in which it is not 0, and of the square around its middle in which half of it lies.
"""

import argparse

import numpy as np

import needle as ndl
from needle import nn

SIZE, CHANNELS = 33, 8
# For each layer its stride and dilation.
STACKS = {
    "3 layers": [(1, 1)] * 3,
    "9 layers": [(1, 1)] * 9,
    "dilation 1, 2, 4": [(1, 1), (1, 2), (1, 4)],
    "stride 1, 2, 2, 1": [(1, 1), (2, 1), (2, 1), (1, 1)],
}


def network(stack):
    """Return the convolutions of a stack, each with padding that keeps the image in place, and ReLUs."""
    channels = [1, *[CHANNELS] * len(stack)]
    layers = []
    for before, (stride, dilation) in zip(channels[:-1], stack, strict=True):
        layers += [nn.Conv2d(before, CHANNELS, 3, stride, dilation, dilation), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def field(stack, repeats):
    """Return the mean of the gradient's absolute values, (SIZE, SIZE), with the sum 1."""
    total = np.zeros((SIZE, SIZE))
    for _ in range(repeats):
        x = ndl.init.randn(1, 1, SIZE, SIZE, requires_grad=True)
        y = network(stack)(x)
        middle = y.shape[-1] // 2
        y[0, :, middle, middle].sum().backward()
        total += np.abs(x.grad.numpy()[0, 0])
    return total / total.sum()


def side(field, share):
    """Return the side of the smallest square around the image's middle that holds a share of the field."""
    middle = SIZE // 2
    for reach in range(middle + 1):
        part = slice(middle - reach, middle + reach + 1)
        if field[part, part].sum() >= share - 1e-9:
            return 2 * reach + 1
    raise AssertionError("the whole image holds all of the field")


def draw(fields, path):
    from matplotlib.figure import Figure  # noqa: PLC0415  only where a figure is asked for
    from pictures import save  # noqa: PLC0415

    figure = Figure(figsize=(9.0, 2.6), layout="constrained")
    for axes, (name, values) in zip(figure.subplots(1, len(fields)), fields.items(), strict=True):
        axes.imshow(np.sqrt(values / values.max()), cmap="Blues")
        axes.set_title(name, fontsize="medium")
        axes.set_xticks([])
        axes.set_yticks([])
    save(figure, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10 networks each")
    parser.add_argument("--figure", metavar="FILE", help="draw the gradients into this file")
    options = parser.parse_args()
    np.random.seed(0)
    fields = {name: field(stack, 10 if options.quick else 300) for name, stack in STACKS.items()}
    print("| convolutions | parameters | side of the receptive field | side of half the gradient |")
    print("| --- | ---: | ---: | ---: |")
    for name, values in fields.items():
        count = network(STACKS[name]).num_parameters()
        whole, half = side(values, 1.0), side(values, 0.5)
        print(f"| {name} | {count:,} | {whole} | {half} |")
    if options.figure:
        draw(fields, options.figure)


if __name__ == "__main__":
    main()
