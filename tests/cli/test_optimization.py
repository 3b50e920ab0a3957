"""From options to an optimizer and the learning rate of each step."""

import math

import numpy as np
import pytest

from needle import nn, optim
from needle.cli.defaults import DEFAULTS, LEARNING_RATES, MOMENTA, WEIGHT_DECAYS, resolve
from needle.cli.optimization import make_optimizer, make_schedule
from needle.errors import SettingError

OPTIONS = ("dataset", "optimizer", "lr", "weight_decay", "momentum", "schedule", "warmup", "epochs")


def options_with(**given):
    return resolve({name: given.get(name) for name in OPTIONS})


def rates(**given):
    """The learning rate of each step of a run of 10 steps an epoch."""
    options = options_with(epochs=6, lr=0.3, warmup=2.0, **given)
    schedule = make_schedule(options, 10)
    return np.array([schedule(step) for step in range(60)])


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step", "one-cycle"])
def test_every_schedule_rises_over_the_warm_up_to_the_rate_that_was_given(schedule):
    found = rates(schedule=schedule)
    assert (np.diff(found[:20]) > 0).all()
    assert found[:20].max() <= 0.3
    assert found.max() == pytest.approx(0.3, rel=0.01)
    assert (np.diff(found[21:]) <= 0).all()


def test_constant_stays_after_its_warm_up():
    np.testing.assert_allclose(rates(schedule="constant"), [*(0.3 * (i + 1) / 20 for i in range(20)), *[0.3] * 40])


def test_cosine_falls_to_nothing():
    expected = [0.3 * (1 + math.cos(math.pi * i / 40)) / 2 for i in range(40)]
    np.testing.assert_allclose(rates(schedule="cosine")[20:], expected)


def test_step_falls_to_a_tenth_after_each_third():
    np.testing.assert_allclose(rates(schedule="step")[20:], [0.03] * 20 + [0.003] * 20)


def test_one_cycle_ends_at_almost_nothing():
    assert rates(schedule="one-cycle")[-1] == pytest.approx(0.3 / 1e4)


def test_no_warm_up_begins_at_the_highest_rate():
    for schedule in ("constant", "cosine", "step", "one-cycle"):
        assert make_schedule(options_with(schedule=schedule, lr=0.1, warmup=0.0), 7)(0) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("adamw", optim.AdamW),
        ("adam", optim.Adam),
        ("sgd", optim.SGD),
        ("rmsprop", optim.RMSprop),
        ("adagrad", optim.Adagrad),
    ],
)
def test_optimizer_has_the_settings_that_were_asked_for(name, kind):
    momentum = {"momentum": 0.4} if name in MOMENTA else {}
    options = options_with(optimizer=name, lr=0.25, weight_decay=0.125, schedule="constant", warmup=0.0, **momentum)
    optimizer = make_optimizer(options, nn.Linear(2, 2).parameters(), 5)
    assert type(optimizer) is kind
    assert optimizer.lr(3) == 0.25
    assert optimizer.weight_decay == 0.125
    assert getattr(optimizer, "momentum", 0.4) == 0.4


@pytest.mark.parametrize("name", LEARNING_RATES)
def test_optimizer_without_settings_has_its_own_defaults(name):
    options = options_with(optimizer=name)
    assert (options["lr"], options["weight_decay"]) == (LEARNING_RATES[name], WEIGHT_DECAYS[name])
    assert options["momentum"] == MOMENTA.get(name)
    make_optimizer(options, nn.Linear(2, 2).parameters(), 5)


def test_resolve_takes_the_data_sets_defaults_and_what_was_given():
    for dataset, defaults in DEFAULTS.items():
        assert options_with(dataset=dataset)["epochs"] == defaults["epochs"]
        assert options_with(dataset=dataset, epochs=3)["epochs"] == 3
    assert options_with()["dataset"] == "digits"


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 0.3), (2, 0.6), (10, 1.0)])
def test_warm_up_is_short_in_a_short_run(epochs, warmup):
    assert options_with(epochs=epochs)["warmup"] == pytest.approx(warmup)


def test_momentum_for_an_optimizer_without_it_is_an_error():
    with pytest.raises(SettingError, match="--momentum goes with sgd and rmsprop, not with adamw"):
        options_with(momentum=0.5)


def test_warm_up_longer_than_the_run_is_an_error():
    with pytest.raises(SettingError, match="--warmup: 3 epochs are more than the run's 2"):
        make_schedule(options_with(epochs=2, warmup=3.0), 10)
