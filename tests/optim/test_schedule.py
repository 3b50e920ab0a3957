"""Schedules against their closed forms."""

import json
import math

import numpy as np
import pytest

from needle.errors import CheckpointError, SettingError
from needle.optim import Constant, CosineDecay, Joined, OneCycle, ReduceOnPlateau, StepDecay, Warmup


def rates(schedule, steps):
    return [schedule(step) for step in range(steps)]


def test_constant():
    assert rates(Constant(0.1), 3) == [0.1, 0.1, 0.1]


def test_step_decay_falls_at_multiples():
    np.testing.assert_allclose(rates(StepDecay(1.0, every=2, factor=0.5), 7), [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125])
    np.testing.assert_allclose(rates(StepDecay(1.0, every=1), 3), [1, 0.1, 0.01])


def test_cosine_decay_goes_up_then_down_and_stays():
    schedule = CosineDecay(0.8, steps=10, warmup=4, end=0.2)
    up = [0.2, 0.4, 0.6, 0.8]
    down = [0.2 + 0.6 * (1 + math.cos(math.pi * k / 6)) / 2 for k in range(6)]
    np.testing.assert_allclose(rates(schedule, 13), [*up, *down, 0.2, 0.2, 0.2])
    np.testing.assert_allclose(rates(CosineDecay(1.0, steps=2), 3), [1, 0.5, 0])
    np.testing.assert_allclose(rates(CosineDecay(1.0, steps=2, warmup=2), 3), [0.5, 1, 0])


def test_one_cycle_goes_up_and_down_along_half_cosines():
    schedule = OneCycle(1.0, steps=11, rise=0.4, start_factor=10, end_factor=100)
    up = [0.1 + 0.9 * (1 - math.cos(math.pi * k / 4)) / 2 for k in range(4)]
    down = [1 - 0.99 * (1 - math.cos(math.pi * k / 6)) / 2 for k in range(7)]
    np.testing.assert_allclose(rates(schedule, 13), [*up, *down, 0.01, 0.01])


@pytest.mark.parametrize(("rise", "steps"), [(0.0, 5), (1.0, 5), (0.3, 1), (0.5, 2)])
def test_one_cycle_at_its_edges(rise, steps):
    found = rates(OneCycle(1.0, steps, rise=rise), steps + 2)
    assert max(found) <= 1
    assert found[-1] == pytest.approx(1e-4)
    assert all(math.isfinite(rate) and rate > 0 for rate in found)


def test_one_cycle_is_pytorchs():
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=20, cycle_momentum=False)
    expected = []
    for _ in range(20):
        expected.append(theirs.get_last_lr()[0])
        optimizer.step()
        if len(expected) < 20:
            theirs.step()
    # Their lowest rate is a share of the first one, and they put the top at pct_start·steps − 1.
    ours = OneCycle(0.5, 20, rise=(0.3 * 20 - 1) / 19, end_factor=25 * 1e4)
    np.testing.assert_allclose(rates(ours, 20), expected, rtol=1e-6)


def test_warmup_lets_any_schedule_rise():
    np.testing.assert_allclose(rates(Warmup(2.0, steps=4), 6), [0.5, 1, 1.5, 2, 2, 2])
    np.testing.assert_allclose(rates(Warmup(2.0, steps=2, start=0.5), 3), [1.5, 2, 2])
    np.testing.assert_allclose(rates(Warmup(lambda step: step + 1.0, steps=2), 4), [0.5, 2, 3, 4])
    np.testing.assert_allclose(rates(Warmup(1.0, steps=4, start=1e-4, exponential=True), 5), [1e-3, 1e-2, 0.1, 1, 1])
    assert rates(Warmup(1.0, steps=0), 2) == [1, 1]


def test_joined_schedules_count_from_where_they_begin():
    schedule = Joined([Constant(5.0), StepDecay(1.0, every=1, factor=0.5), Constant(7.0)], [2, 5])
    assert rates(schedule, 7) == [5, 5, 1, 0.5, 0.25, 7, 7]
    assert schedule == Joined((Constant(5.0), StepDecay(1.0, every=1, factor=0.5), Constant(7.0)), (2, 5))


def test_schedules_are_values():
    assert CosineDecay(0.1, 10) == CosineDecay(0.1, 10)
    assert len({StepDecay(0.1, 3), StepDecay(0.1, 3), StepDecay(0.1, 4)}) == 2
    assert repr(Constant(0.1)) == "Constant(lr=0.1)"
    with pytest.raises(AttributeError):
        Constant(0.1).lr = 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(-1), "Constant: lr is a number of 0 or more, got -1"),
        (lambda: Constant(float("nan")), "lr is a number of 0 or more, got nan"),
        (lambda: StepDecay("a", 1), "StepDecay: lr is a number of 0 or more, got 'a'"),
        (lambda: StepDecay(0.1, 0), "StepDecay: every is an integer of 1 or more, got 0"),
        (lambda: StepDecay(0.1, 1.5), "every is an integer of 1 or more, got 1.5"),
        (lambda: StepDecay(0.1, 1, -1), "factor is a number of 0 or more, got -1"),
        (lambda: CosineDecay(0.1, 0), "CosineDecay: steps is an integer of 1 or more, got 0"),
        (lambda: CosineDecay(0.1, 5, warmup=6), "warmup is an integer from 0 to 5, got 6"),
        (lambda: CosineDecay(0.1, 5, end=float("inf")), "end is a number of 0 or more, got inf"),
        (lambda: OneCycle(0.1, 5, rise=1.1), "OneCycle: rise is a number from 0 to 1, got 1.1"),
        (lambda: OneCycle(0.1, 5, start_factor=0), "start_factor is a number of 1 or more, got 0"),
        (lambda: OneCycle(0.1, 5, end_factor=0.5), "end_factor is a number of 1 or more, got 0.5"),
        (lambda: Warmup(0.1, -1), "Warmup: steps is an integer of 0 or more, got -1"),
        (lambda: Warmup(-0.1, 1), "Constant: lr is a number of 0 or more, got -0.1"),
        (lambda: Warmup(0.1, 1, start=2), "start is a number from 0 to 1, got 2"),
        (lambda: Warmup(0.1, 1, exponential=True), "an exponential rise has a start above 0"),
        (lambda: Joined([Constant(0.1)], [3]), r"1 schedules need 0 increasing boundaries above 0, got \[3\]"),
        (lambda: Joined([Constant(0.1)] * 3, [3, 3]), "3 schedules need 2 increasing boundaries"),
        (lambda: Joined([Constant(0.1)] * 2, [0]), "2 schedules need 1 increasing boundaries"),
        (lambda: Joined([], []), "0 schedules need -1"),
        (lambda: ReduceOnPlateau(-1), "ReduceOnPlateau: lr is a number of 0 or more"),
        (lambda: ReduceOnPlateau(0.1, factor=1.5), "factor is a number from 0 to 1"),
        (lambda: ReduceOnPlateau(0.1, patience=-1), "patience is an integer of 0 or more"),
        (lambda: ReduceOnPlateau(0.1, threshold=-1), "threshold is a number of 0 or more"),
        (lambda: ReduceOnPlateau(0.1, min_lr=-1), "min_lr is a number of 0 or more"),
    ],
)
def test_impossible_schedules_are_errors(make, message):
    with pytest.raises(SettingError, match=message):
        make()


# ------------------------------------------------------------------------------------------ reduce on plateau


def test_plateau_reduces_after_patience_and_not_below_the_minimum():
    plateau = ReduceOnPlateau(1.0, factor=0.5, patience=1, min_lr=0.3)
    assert [plateau(loss) for loss in (5, 4, 4, 4, 3, 3, 3, 3, 3)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.3, 0.3, 0.3]


def test_plateau_asks_for_a_relative_improvement():
    plateau = ReduceOnPlateau(1.0, factor=0.1, patience=0, threshold=0.1)
    assert [plateau(loss) for loss in (10, 9.5, 8.5)] == [1, 0.1, 0.1]


def test_plateau_takes_nan_for_no_improvement():
    plateau = ReduceOnPlateau(1.0, factor=0.1, patience=0)
    assert [plateau(loss) for loss in (float("nan"), 2.0, float("nan"), 1.0)] == pytest.approx([0.1, 0.1, 0.01, 0.01])


def test_plateau_is_pytorchs():
    torch = pytest.importorskip("torch")
    losses = np.round(np.abs(np.random.default_rng(0).standard_normal(60)), 1) + 1
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=3)
    ours = ReduceOnPlateau(1.0, factor=0.5, patience=3)
    for loss in losses:
        theirs.step(loss)
        assert ours(loss) == theirs.get_last_lr()[0]


def test_plateau_state_goes_on():
    losses = [3.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0]
    whole = ReduceOnPlateau(1.0, patience=1)
    expected = [whole(loss) for loss in losses]
    for stop in (0, 3):
        first = ReduceOnPlateau(1.0, patience=1)
        found = [first(loss) for loss in losses[:stop]]
        second = ReduceOnPlateau(9.0, patience=1)
        second.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False)))
        assert found + [second(loss) for loss in losses[stop:]] == expected
    with pytest.raises(CheckpointError, match="the state has lr, best and bad_epochs, got lr"):
        second.load_state_dict({"lr": 1.0})
    assert second.state_dict() == whole.state_dict()
