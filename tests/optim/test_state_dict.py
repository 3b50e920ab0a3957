"""Saved state: going on as if never interrupted, or an error that changes nothing."""

import copy
import json

import numpy as np
import pytest

import needle as ndl
from needle import optim
from needle.errors import CheckpointError

MAKERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1),
    "momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: optim.Adam(p, lr=0.1, l1_decay=0.01),
    "adamw": lambda p: optim.AdamW(p, lr=0.1),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.1),
    "rmsprop momentum": lambda p: optim.RMSprop(p, lr=0.1, momentum=0.9),
    "adagrad": lambda p: optim.Adagrad(p, lr=0.1),
    "schedule": lambda p: optim.Adam(p, lr=optim.CosineDecay(0.1, 20, warmup=3)),
    "groups": lambda p: optim.Adam([{"params": p[:1], "lr": 0.3}, {"params": p[1:]}], lr=0.1),
}


def parameters(dtype="float32"):
    rng = np.random.default_rng(0)
    a, b = ndl.Tensor(rng.standard_normal((3, 2)), dtype=dtype), ndl.Tensor(rng.standard_normal(4), dtype=dtype)
    return [a, b, a] if dtype == "float32" else [a, b]


def train(opt, steps, first=0):
    params = list(dict.fromkeys(opt.params))
    for step in range(first, first + steps):
        rng = np.random.default_rng(step)
        for p in params:
            p.grad = ndl.Tensor(rng.standard_normal(p.shape), dtype=p.dtype)
        if step == 0:
            params[1].grad = None  # its state begins later
        opt.step()


def make(name, dtype="float32"):
    params = parameters(dtype)
    return MAKERS[name](params[:2] if name == "groups" else params)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stop", [0, 1, 4])
@pytest.mark.parametrize("name", MAKERS)
def test_resumed_training_is_the_same_bit_for_bit(name, stop, dtype):
    whole = make(name, dtype)
    train(whole, 8)
    first = make(name, dtype)
    train(first, stop)
    state = first.state_dict()
    numbers = json.loads(json.dumps({key: state[key] for key in ("t", "groups")}, allow_nan=False))
    values = [p.numpy() for p in first.params]
    train(first, 8 - stop, stop)  # what is saved does not change with it
    second = make(name, dtype)
    for p, value in zip(second.params, values, strict=True):
        p.cached_data = value
    train(make(name, dtype), 2)
    second.load_state_dict({**numbers, "arrays": state["arrays"]})
    train(second, 8 - stop, stop)
    assert second.t == whole.t == 8
    for p, q, r in zip(whole.params, second.params, first.params, strict=True):
        assert p.numpy().tobytes() == q.numpy().tobytes() == r.numpy().tobytes()


def test_state_names_arrays_by_position_and_holds_plain_numbers():
    opt = make("adam")
    train(opt, 3)
    state = opt.state_dict()
    assert set(state["arrays"]) == {"m.0", "m.1", "v.0", "v.1"}
    assert state["t"] == 3
    assert state["groups"] == [
        {"params": 2, "lr": 0.1, "weight_decay": 0.0, "l1_decay": 0.01, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
    ]
    state["arrays"]["m.0"][:] = 7  # a copy
    assert not (opt.m[opt.params[0]].numpy() == 7).any()


def test_loading_restores_settings_where_they_were_and_lets_groups_follow():
    old = make("groups")
    old.lr, old.groups[0]["lr"] = 0.7, 0.9
    new = make("groups")
    new.load_state_dict(old.state_dict())
    assert (new.lr, new.groups[0]["lr"], "lr" in new.groups[1]) == (0.7, 0.9, False)
    new.lr = 0.2
    assert new._hyperparameters(new.groups[1]).lr == 0.2


def test_loaded_arrays_are_copies():
    opt = make("momentum")
    train(opt, 2)
    state = opt.state_dict()
    opt.load_state_dict(state)
    state["arrays"]["u.0"][:] = 7
    assert not (opt.u[opt.params[0]].numpy() == 7).any()


def trained_adam_state():
    opt = make("adam")
    train(opt, 2)
    return opt.state_dict()


def changed(change):
    state = copy.deepcopy(trained_adam_state())
    change(state)
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("t"), "Adam: the saved state lacks t"),
        (lambda s: s.update(t=-1), "t is a number of steps, got -1"),
        (lambda s: s.update(t=1.5), "t is a number of steps, got 1.5"),
        (lambda s: s["groups"].append({}), "it has 2 parameter groups, this optimizer 1"),
        (lambda s: s["groups"][0].update(params=3), "group 0: it has 3 parameters, here it has 2"),
        (lambda s: s["groups"][0].pop("beta1"), "group 0: beta1 is missing"),
        (lambda s: s["groups"][0].pop("lr"), "group 0: lr is missing: it was a schedule"),
        (lambda s: s["groups"][0].update(momentum=0.5), "group 0: momentum is unexpected"),
        (lambda s: s["groups"][0].update(lr=float("nan")), "group 0: lr is 0 or more and finite, got nan"),
        (lambda s: s["groups"][0].update(beta1=1), "group 0: beta1 is below 1"),
        (lambda s: s["arrays"].update({"m.2": np.zeros(1)}), "m.2 is unexpected"),
        (lambda s: s["arrays"].update({"q.0": np.zeros(1)}), "q.0 is unexpected"),
        (lambda s: s["arrays"].pop("v.1"), "v.1 is missing"),
        (
            lambda s: s["arrays"].update({"m.1": np.zeros(5, dtype="float32")}),
            r"m.1 is float32 \(5,\), here it is float32 \(4,\)",
        ),
        (lambda s: s["arrays"].update({"m.1": np.zeros(4)}), r"m.1 is float64 \(4,\), here it is float32 \(4,\)"),
    ],
)
def test_state_that_does_not_fit_is_an_error_that_changes_nothing(change, message):
    opt = make("adam")
    train(opt, 3)
    opt.lr = 0.25
    before = opt.state_dict()
    with pytest.raises(CheckpointError, match=message):
        opt.load_state_dict(changed(change))
    after = opt.state_dict()
    assert (before["t"], before["groups"]) == (after["t"], after["groups"])
    for name, array in before["arrays"].items():
        np.testing.assert_array_equal(array, after["arrays"][name])


def test_error_lists_all_that_differs():
    def change(state):
        state["arrays"].pop("v.1")
        state["groups"][0].pop("eps")

    with pytest.raises(CheckpointError) as caught:
        make("adam").load_state_dict(changed(change))
    assert len(str(caught.value).splitlines()) == 3


def test_number_and_schedule_are_not_mixed_up():
    number, schedule = make("adam"), make("schedule")
    with pytest.raises(CheckpointError, match="lr is unexpected: here it is a schedule"):
        schedule.load_state_dict(number.state_dict())
    with pytest.raises(CheckpointError, match="lr is missing: it was a schedule"):
        number.load_state_dict(schedule.state_dict())


def test_group_with_a_setting_of_its_own_is_not_mixed_up_with_one_without():
    params = parameters()[:2]
    plain = optim.Adam([{"params": params[:1]}, {"params": params[1:]}], lr=0.1)
    with pytest.raises(CheckpointError, match="group 1: it had a lr of its own, and has none here"):
        plain.load_state_dict(make("groups").state_dict())


def test_state_of_another_optimizer_is_an_error():
    with pytest.raises(CheckpointError, match=r"m\.0 is unexpected"):
        make("sgd").load_state_dict(trained_adam_state())
