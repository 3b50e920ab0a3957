"""Draw the learning-rate schedules.

    python docs/experiments/schedules.py FILE

Each has a highest rate of 0.1 and 100 steps.
"""

import argparse

from matplotlib.figure import Figure
from pictures import save

from needle.optim import CosineDecay, OneCycle, StepDecay

STEPS = 100
SCHEDULES = {
    "StepDecay(0.1, every=30, factor=0.3)": StepDecay(0.1, every=30, factor=0.3),
    "CosineDecay(0.1, steps=100, warmup=10)": CosineDecay(0.1, steps=STEPS, warmup=10),
    "OneCycle(0.1, steps=100)": OneCycle(0.1, steps=STEPS),
    "lambda step: 0.1 / (1 + step / 10)": lambda step: 0.1 / (1 + step / 10),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", metavar="FILE", help="the picture to write")
    options = parser.parse_args()
    figure = Figure(figsize=(6.0, 3.2), layout="constrained")
    axes = figure.subplots()
    steps = range(STEPS)
    for (name, schedule), style in zip(SCHEDULES.items(), ("-", "--", "-.", ":"), strict=True):
        axes.plot(steps, [schedule(step) for step in steps], style, label=name)
    axes.set(xlabel="step", ylabel="learning rate", ylim=(0, 0.105))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside upper center", fontsize="small", ncols=2)
    save(figure, options.file)


if __name__ == "__main__":
    main()
