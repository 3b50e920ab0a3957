"""What changes outside of a compiled function between its calls is seen by the next one."""

import datetime
import linecache
import os
import random
import secrets
import time
import uuid
import warnings
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import needle as ndl
from needle import nn, optim
from needle.jit import array_guard


def tensor(*values, **options):
    return ndl.Tensor(np.array(values, dtype=np.float32), **options)


@dataclass
class Inner:
    scale: float = 2.0


@dataclass
class Config:
    inner: Inner = field(default_factory=Inner)
    sizes: list = field(default_factory=lambda: [1.0, 2.0])
    shift: float = 0.0

    @property
    def factor(self):
        return self.inner.scale

    def apply(self, x):
        return x * self.factor


@dataclass(slots=True)
class Slotted:
    scale: float = 2.0


class Scaled(nn.Module):
    """Uses settings that lie in something else than itself."""

    def __init__(self, settings, read):
        self.settings = settings
        self.read = read

    def forward(self, x):
        return x * self.read(self.settings)


def set_key(settings):
    settings["a"]["scale"] = 3.0


def set_inner(settings):
    settings.inner.scale = 3.0


def replace_inner(settings):
    settings.inner = Inner(3.0)


def set_scale(settings):
    settings.scale = 3.0


def set_size(settings):
    settings.sizes[1] = 3.0


SETTINGS = {
    "attribute of an attribute": (Config, lambda c: c.inner.scale, set_inner),
    "replaced object": (Config, lambda c: c.inner.scale, replace_inner),
    "property": (Config, lambda c: c.factor, set_inner),
    "list in an object": (Config, lambda c: c.sizes[1], set_size),
    "slots": (Slotted, lambda c: c.scale, set_scale),
    "namespace": (lambda: SimpleNamespace(scale=2.0), lambda c: c.scale, set_scale),
    "dict in a dict": (lambda: {"a": {"scale": 2.0}}, lambda c: c["a"]["scale"], set_key),
    "object in a list": (lambda: [Inner()], lambda c: c[0].scale, lambda c: set_scale(c[0])),
    "object in a dict": (lambda: {"a": Inner()}, lambda c: c["a"].scale, lambda c: set_scale(c["a"])),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_a_module_that_change_where_they_lie_are_seen(name):
    make, read, change = SETTINGS[name]
    model = Scaled(make(), read)
    f = ndl.jit(model)
    for _ in range(2):
        assert f(tensor(1, 2)).numpy().tolist() == [2, 4]
    change(model.settings)
    for _ in range(2):
        assert f(tensor(1, 2)).numpy().tolist() == [3, 6]
    assert f.cache_info().traces == 2
    assert "Scaled.settings" in f.explain()


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in ("object in a list", "object in a dict")])
def test_settings_that_a_function_uses_are_seen(name):
    make, read, change = SETTINGS[name]
    settings = make()
    f = ndl.jit(lambda x: x * read(settings))
    for _ in range(2):
        assert f(tensor(1, 2)).numpy().tolist() == [2, 4]
    change(settings)
    for _ in range(2):
        assert f(tensor(1, 2)).numpy().tolist() == [3, 6]
    assert f.cache_info().traces == 2


def test_reasons_name_the_place():
    config = Config()
    model = Scaled({"net": config}, lambda settings: settings["net"].inner.scale)
    f = ndl.jit(model)
    f(tensor(1))
    config.inner.scale = 5.0
    f(tensor(1))
    assert f.explain() == "trace 2: Scaled.settings['net'].inner.scale: 2.0, now 5.0"
    model.settings["more"] = 1
    f(tensor(1))
    del model.settings["more"]
    f(tensor(1))
    assert f.explain().splitlines()[1] == "trace 3: Scaled.settings['more']: 'absent', now 1"
    assert f.cache_info().traces == 3  # the program before fits again


def test_methods_of_a_plain_object_are_followed():
    config = Config()
    f = ndl.jit(lambda x: config.apply(x) + 0)
    assert f(tensor(1, 2)).numpy().tolist() == [2, 4]
    config.inner.scale = 3.0
    assert f(tensor(1, 2)).numpy().tolist() == [3, 6]


FACTOR = 2.0


def by_factor(x):
    return sum([x * FACTOR for _ in range(1)], 0)


def test_globals_of_a_function_that_is_called_are_seen(monkeypatch):
    f = ndl.jit(lambda x: by_factor(x) + 0)
    assert f(tensor(1, 2)).numpy().tolist() == [2, 4]
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    assert f(tensor(1, 2)).numpy().tolist() == [3, 6]


class ByFactor(nn.Module):
    def forward(self, x):
        return x * FACTOR


def test_globals_of_a_module_are_seen(monkeypatch):
    model = nn.Sequential(ByFactor())
    f = ndl.jit(model)
    assert f(tensor(1, 2)).numpy().tolist() == [2, 4]
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    assert f(tensor(1, 2)).numpy().tolist() == [3, 6]


def test_objects_among_the_arguments_are_watched():
    config = Config()
    f = ndl.jit(lambda x, config: x * config.inner.scale)
    assert f(tensor(1, 2), config).numpy().tolist() == [2, 4]
    config.inner.scale = 3.0
    assert f(tensor(1, 2), config).numpy().tolist() == [3, 6]
    assert f(tensor(1, 2), config=config).numpy().tolist() == [3, 6]


def test_what_wrapped_functions_use_is_watched():
    config = Config()
    inner = ndl.jit(lambda x: x * config.inner.scale)
    for f in (ndl.jit(lambda x: inner(x) + 0), ndl.jit(partial(lambda c, x: x * c.inner.scale, config))):
        for scale in (2.0, 3.0):
            config.inner.scale = scale
            assert f(tensor(1, 2)).numpy().tolist() == [scale, 2 * scale]


def test_the_jitted_method_s_own_object_is_watched_deeply():
    class Trainer:
        def __init__(self):
            self.config = Config()

        def scaled(self, x):
            return x * self.config.inner.scale

        @ndl.jit
        def step(self, x):
            return self.scaled(x)

    trainer = Trainer()
    step = ndl.jit(trainer.scaled)
    for scale in (2.0, 3.0):
        trainer.config.inner.scale = scale
        assert step(tensor(1)).numpy().tolist() == [scale]
        assert trainer.step(tensor(1)).numpy().tolist() == [scale]


def test_equal_lists_in_the_place_of_others_need_no_trace():
    model = Scaled({"sizes": [1, 2]}, lambda settings: settings["sizes"][1])
    f = ndl.jit(model)
    f(tensor(1))
    model.settings["sizes"] = [1, 2]
    f(tensor(1))
    assert f.cache_info().traces == 1
    model.settings["sizes"][1] = 7
    assert f(tensor(1)).numpy().tolist() == [7]


def test_objects_that_hold_each_other_end():
    one, other = SimpleNamespace(scale=2.0), SimpleNamespace()
    one.other, other.one = other, one
    model = Scaled(one, lambda settings: settings.other.one.scale)
    f = ndl.jit(model)
    assert f(tensor(1)).numpy().tolist() == [2]
    one.scale = 3.0
    assert f(tensor(1)).numpy().tolist() == [3]


# ------------------------------------------------------------------------------------------------- optimizers


def make_step(opt, weights):
    @ndl.jit
    def step(x):
        opt.reset_grad()
        loss = sum((w * x).sum() for w in weights)
        loss.backward()
        opt.step()
        return loss

    return step


def test_a_replaced_parameter_of_an_optimizer_is_seen():
    first, second = tensor(1, 1), tensor(1, 1)
    opt = optim.SGD([first], lr=1.0)
    step = make_step(opt, [first, second])
    step(tensor(1, 2))
    opt.params[0] = opt.groups[0]["params"][0] = second
    step(tensor(1, 2))
    np.testing.assert_array_equal(first.numpy(), [0, -1])
    np.testing.assert_array_equal(second.numpy(), [0, -1])
    assert "an optimizer's" in step.explain()


def test_replaced_groups_of_an_optimizer_are_seen():
    w = tensor(1, 1)
    opt = optim.SGD([{"params": [w], "lr": 1.0}])
    step = make_step(opt, [w])
    step(tensor(1, 2))
    opt.groups[0] = {"params": [w], "lr": 2.0}
    step(tensor(1, 2))
    np.testing.assert_array_equal(w.numpy(), [-2, -5])
    opt.groups[0]["lr"] = 3.0
    step(tensor(1, 2))
    np.testing.assert_array_equal(w.numpy(), [-5, -11])
    assert step.cache_info().traces == 2  # a number in a group is an input


def test_a_parameter_that_moves_between_groups_is_seen():
    one, other = tensor(1.0), tensor(1.0)
    opt = optim.SGD([{"params": [one], "lr": 1.0}, {"params": [other], "lr": 2.0}])
    step = make_step(opt, [one, other])
    step(tensor(1))
    opt.groups[0]["params"], opt.groups[1]["params"] = [other], [one]
    step(tensor(1))
    assert (one.numpy().tolist(), other.numpy().tolist()) == ([-2], [-2])


def test_parameters_added_to_what_is_forgotten_are_seen():
    w, other = tensor(1.0), tensor(1.0)
    opt = optim.SGD([w], lr=1.0)
    step = make_step(opt, [w])
    step(tensor(1))
    other.grad = tensor(1.0)
    opt.params.append(other)
    opt.reset_grad()
    other.grad = tensor(1.0)
    step(tensor(1))
    assert other.grad is None


# ----------------------------------------------------------------------- however a function comes by what it uses


class OfClass:
    scale = 2.0
    table = {"scale": 2.0}  # noqa: RUF012  shared by all, which is what is tested


SETTING = Config()


def set_class_attribute():
    OfClass.scale = 3.0


def default_object():
    config = Config()

    def f(x, config=config):
        return x * config.inner.scale

    return f, lambda: set_inner(config)


def default_list():
    sizes = [2.0]

    def f(x, *, sizes=sizes):
        return x * sizes[0]

    return f, lambda: sizes.__setitem__(0, 3.0)


def function_in_a_list():
    sizes = [2.0]
    functions = [lambda x: x * sizes[0]]
    return lambda x: functions[0](x) + 0, lambda: sizes.__setitem__(0, 3.0)


def closures_of_one_code():
    def scaled_by(sizes):
        return lambda x: x * sizes[0]

    first, second = [1.0], [2.0]
    functions = [scaled_by(first), scaled_by(second)]
    return lambda x: functions[1](functions[0](x)), lambda: second.__setitem__(0, 3.0)


def function_of_a_module():
    sizes = [2.0]
    model = nn.Sequential(nn.Identity())
    model.act = lambda x: x * sizes[0]
    return lambda x: model.act(model(x)), lambda: sizes.__setitem__(0, 3.0)


def function_that_a_library_calls():
    sizes = [2.0]
    table = {"f": [partial(lambda scale, x: x * scale * sizes[0], 1.0)]}
    return lambda x: next(map(table["f"][0], [x])), lambda: sizes.__setitem__(0, 3.0)


def object_in_a_partial():
    config = Config()
    inner = partial(lambda config, x: x * config.inner.scale, config)
    return lambda x: inner(x) + 0, lambda: set_inner(config)


def attribute_of_a_python_module():
    module = ModuleType("settings_of_a_user")
    module.scale = 2.0
    return lambda x: x * module.scale, lambda: setattr(module, "scale", 3.0)


def attribute_by_name():
    config = Config()
    return lambda x: x * getattr(config.inner, "scale"), lambda: set_inner(config)  # noqa: B009


def small_array():
    scales = np.array([2.0, 5.0])
    return lambda x: x * float(scales[0]), lambda: scales.__setitem__(0, 3.0)


REACHED = {
    "class attribute": lambda: (lambda x: x * OfClass.scale, lambda: setattr(OfClass, "scale", 3.0)),
    "class attribute of an instance": lambda: (lambda x: x * OfClass().scale, lambda: setattr(OfClass, "scale", 3.0)),
    "dict of a class": lambda: (lambda x: x * OfClass.table["scale"], lambda: OfClass.table.update(scale=3.0)),
    "default": default_object,
    "keyword default": default_list,
    "function in a list": function_in_a_list,
    "closures of one code": closures_of_one_code,
    "function of a module": function_of_a_module,
    "function that a library calls": function_that_a_library_calls,
    "partial": object_in_a_partial,
    "attribute of a Python module": attribute_of_a_python_module,
    "attribute by name": attribute_by_name,
    "global by name": lambda: (lambda x: x * globals()["FACTOR"], lambda: globals().update(FACTOR=3.0)),
    "environment": lambda: (
        lambda x: x * float(os.environ.get("NEEDLE_TEST_SCALE", "2")),
        lambda: os.environ.update(NEEDLE_TEST_SCALE="3"),
    ),
    "array": small_array,
}


@pytest.mark.parametrize("name", REACHED)
def test_what_a_function_comes_by_in_any_way_is_seen(name, monkeypatch):
    monkeypatch.setattr(OfClass, "scale", 2.0)
    monkeypatch.setitem(OfClass.table, "scale", 2.0)
    monkeypatch.setitem(globals(), "FACTOR", 2.0)
    monkeypatch.delenv("NEEDLE_TEST_SCALE", raising=False)
    fn, change = REACHED[name]()
    f = ndl.jit(fn)
    for _ in range(2):
        assert f(tensor(1, 2)).numpy().tolist() == [2, 4]
    change()
    for _ in range(2):
        assert f(tensor(1, 2)).numpy().tolist() == [3, 6]
    assert f.cache_info().traces == 2
    monkeypatch.delenv("NEEDLE_TEST_SCALE", raising=False)


@pytest.mark.parametrize("fn", [lambda x: x * 2, ndl.relu], ids=["users", "needles"])
def test_what_the_callers_use_is_no_reason(fn):
    epoch = [0]
    f = ndl.jit(fn)

    def train():
        epoch[0] += 1
        return f(tensor(1)) if epoch else None

    for _ in range(3):
        train()
    assert f.cache_info().traces == 1


def test_arrays_that_a_program_reads_anew_may_change():
    array = np.array([2.0], dtype=np.float32)
    f = ndl.jit(lambda x: x * ndl.Tensor(array))
    f(tensor(1))
    array[0] = 3
    assert f(tensor(1)).numpy().tolist() == [3]
    assert f.cache_info().traces == 1


ARRAYS = {"small": 3, "one piece": 8_000, "pieces": 100_001, "large": 300_000, "very large": 300_001}


@pytest.fixture
def without_checksums(request, monkeypatch):
    if request.node.callspec.params["name"] == "very large":
        monkeypatch.setattr(array_guard, "_MOST", 1 << 18)


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_whose_values_are_read_into_python_are_compared(name, without_checksums):
    array = np.zeros(ARRAYS[name])
    held = {"scale": array, "list": [array]}
    config = SimpleNamespace(scale=array)
    model = nn.Identity()
    model.scale = array
    functions = [
        lambda x: x * float(array[0]),
        lambda x: x * array.item(0),
        lambda x: x * held["list"][0][0],
        lambda x: x * config.scale[0],
        lambda x: model(x) * float(model.scale[0]),
    ]
    for f in map(ndl.jit, functions):
        array[:] = 2
        assert f(tensor(1)).item() == 2
        assert f(tensor(1)).item() == 2
        assert f.cache_info().traces == 1
        array += 1
        assert f(tensor(1)).item() == 3
        assert "array float64" in f.explain()


LAYOUTS = {
    "rows": lambda: np.zeros((300, 301)),
    "columns": lambda: np.zeros((300, 301), order="F"),
    "every other": lambda: np.zeros((300, 600))[:, ::2],
    "backwards": lambda: np.zeros((300, 301))[::-1],
    "not a number": lambda: np.full((300, 301), np.nan),
    "bytes": lambda: np.zeros((1000, 301), bool),
    "narrow": lambda: np.zeros((501, 301), np.float16),
    "objects": lambda: np.zeros((300, 301), object),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_one_changed_element_of_an_array_of_pieces_is_seen(name):
    array = LAYOUTS[name]()
    f = ndl.jit(lambda x: x * float(array[7, 100]))
    for place in [(7, 100), (0, 0), (-1, -1), (250, 33)]:
        f(tensor(1))
        traces = f.cache_info().traces
        f(tensor(1))
        assert f.cache_info().traces == traces
        array[place] = 1
        f(tensor(1))
        assert f.cache_info().traces == traces + 1
    assert f(tensor(1)).item() == 1


@pytest.mark.parametrize("name", LAYOUTS)
def test_one_changed_element_of_a_large_array_is_seen_when_its_turn_comes(name, monkeypatch):
    monkeypatch.setattr(array_guard, "_WHOLE", 1 << 17)
    monkeypatch.setattr(array_guard, "_SAMPLE", 10)
    array = LAYOUTS[name]()
    most = -(-array.nbytes // array_guard._PIECE)
    f = ndl.jit(lambda x: x * float(array[7, 100]))
    for _ in range(most + 1):
        f(tensor(1))
    assert f.cache_info().traces == 1
    array[7, 100] = 1
    with pytest.warns(UserWarning, match="has changed in place.*one of its .* pieces.*Pass it as an argument"):
        assert [f(tensor(1)).item() for _ in range(most)][-1] == 1
    with warnings.catch_warnings(action="error"):
        assert {f(tensor(1)).item() for _ in range(most + 1)} == {1}
    assert f.cache_info().traces == 2
    array[7, 100] = 0
    with pytest.warns(UserWarning, match="has changed in place"):
        assert [f(tensor(1)).item() for _ in range(most)][-1] == 0


def test_swapped_elements_of_an_array_of_pieces_are_seen():
    array = np.zeros(100_000)
    array[[10, 5000 + 10]] = 1, 2
    f = ndl.jit(lambda x: x * float(array[10]))
    assert f(tensor(1)).item() == 1
    array[[10, 5000 + 10]] = 2, 1
    assert f(tensor(1)).item() == 2


def test_an_array_in_the_place_of_one_that_is_read_anew_is_seen():
    config = SimpleNamespace(scale=np.array([2.0], np.float32))
    f = ndl.jit(lambda x: x * ndl.Tensor(config.scale))
    f(tensor(1))
    config.scale = np.array([3.0], np.float32)
    assert f(tensor(1)).item() == 3


def test_variables_of_the_environment_are_seen_by_whatever_name(monkeypatch):
    prefix = "NEEDLE_GUARD"
    f = ndl.jit(lambda x: x * float(os.environ.get(f"{prefix}_SCALE", "1")))
    assert f(tensor(1)).item() == 1
    monkeypatch.setenv("NEEDLE_GUARD_SCALE", "4")
    assert f(tensor(1)).item() == 4
    assert f.explain() == "trace 2: os.environ['NEEDLE_GUARD_SCALE']: 'absent', now '4'"


# -------------------------------------------------------------------------------- what gives another answer each time


def clock():
    return time.perf_counter()


def imported(x):
    from time import monotonic  # noqa: PLC0415  what is tested

    return x * monotonic()


OUTSIDE = {
    "time.time": lambda x: x * time.time(),
    "time.perf_counter": lambda x: x * clock(),
    "monotonic": imported,
    "datetime.datetime.now": lambda x: x * datetime.datetime.now().microsecond,
    "os.urandom": lambda x: x * os.urandom(1)[0],
    "secrets.randbelow": lambda x: x * secrets.randbelow(5),
    "uuid.uuid4": lambda x: x * (uuid.uuid4().int % 7),
    "np.random.default_rng": lambda x: x * np.random.default_rng().random(),
    "random.Random": lambda x: x * random.Random().random(),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_gives_another_answer_each_time_is_warned_of_at_its_line(name):
    with pytest.warns(UserWarning, match=rf"calls {name}\. .*only while it is followed.*pass the answer") as warned:
        ndl.jit(OUTSIDE[name])(tensor(1))
    assert [one.filename for one in warned] == [__file__]
    assert name.rpartition(".")[2] in linecache.getline(__file__, warned[0].lineno)


def test_generators_with_a_seed_and_clocks_that_are_not_reached_are_not_warned_of(recwarn):
    ndl.jit(lambda x: x * np.random.default_rng(0).random() + random.Random(1).random())(tensor(1))
    ndl.jit(lambda x: x * SimpleNamespace(time=2).time)(tensor(1))
    assert not recwarn.list


# ----------------------------------------------------------------------------- what a function changes in Python


class Counting(nn.Module):
    def __init__(self):
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


def test_a_count_that_a_program_would_not_go_on_with_is_warned_of():
    f = ndl.jit(Counting())
    with pytest.warns(UserWarning, match=r"Counting changes Counting.calls from 0 to 1\. .*nn\.Buffer") as warned:
        f(tensor(1))
    assert warned[0].filename == __file__
    calls = SimpleNamespace(count=0)
    seen = []

    def count(x):
        calls.count += 1
        seen.append(calls.count)
        return x

    with pytest.warns(UserWarning) as warned:
        ndl.jit(count)(tensor(1))
    texts = "\n".join(str(one.message) for one in warned)
    assert "count changes calls.count from 0 to 1" in texts
    assert "count sets seen[0] to 1" in texts


def test_what_is_made_once_is_not_warned_of(recwarn):
    class Lazy(nn.Module):
        size = None

        def forward(self, x):
            if self.size is None:
                self.size = x.shape
            return x * self.size[0]

    f = ndl.jit(Lazy())
    assert f(tensor(1, 2)).numpy().tolist() == [2, 4]
    assert not recwarn.list


# ------------------------------------------------------------------------------------------- what explain() says


def test_explain_names_arguments_and_places():
    class Kind:
        pass

    f = ndl.jit(lambda x, options=None, *, scale=1: x * scale)
    f(tensor(1))
    f(tensor(1, 2))
    f(tensor(1), {"a": [1, {"b": 2}]})
    f(tensor(1), {"a": [1, {"b": 3}]})
    f(tensor(1), {"a": [1]})
    f(tensor(1), {"z": [1]})
    f(tensor(1), scale=2)
    with pytest.warns(UserWarning, match="traced 9 times") as warned:
        f(tensor(1), Kind())
        f(tensor(1), Kind())
    assert warned[0].filename == __file__
    assert f.explain().splitlines() == [
        "trace 2: argument x: Tensor float32 (1,), requires_grad, now Tensor float32 (2,), requires_grad",
        "trace 3: argument x: Tensor float32 (2,), requires_grad, now Tensor float32 (1,), requires_grad",
        "trace 4: argument options['a'][1]['b']: 2, now 3",
        "trace 5: argument options['a']: list of 2, now list of 1",
        "trace 6: argument options: dict with 'a', now dict with 'z'",
        "trace 7: argument options: dict with 'z', now not given",
        "trace 8: argument scale: 2, now not given",
        "trace 9: argument options: Kind, now another Kind",
    ]
    g = ndl.jit(lambda x, n: x * n, static="n")
    g(tensor(1), 2)
    g(tensor(1), 3)
    assert g.explain() == "trace 2: argument n: 2, now 3"
