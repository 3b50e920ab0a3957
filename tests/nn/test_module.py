"""What a module finds in itself, and what it does to all that it finds."""

import copy
import pickle

import numpy as np
import pytest

import needle as ndl
from needle import nn
from needle.errors import DeviceError, DTypeError, NeedleError, ShapeError


class Everything(nn.Module):
    """Parameters and modules in every place where they are looked for, and other things beside them."""

    def __init__(self):
        self.first = nn.Parameter([1.0])
        self.blocks = [nn.Linear(2, 3), (nn.Linear(3, 3, bias=False), {"inner": nn.Parameter([[2.0]])})]
        self.by_name = {"norm": nn.BatchNorm1d(3), 7: nn.Parameter([3.0, 4.0])}
        self.plain = ndl.Tensor([5.0])
        self.count = 3
        self.nothing = None
        self.average = nn.Buffer([6.0])
        self.last = nn.Parameter([7.0])


NAMES = [
    "first",
    "blocks.0.weight",
    "blocks.0.bias",
    "blocks.1.0.weight",
    "blocks.1.1.inner",
    "by_name.norm.weight",
    "by_name.norm.bias",
    "by_name.7",
    "last",
]


def test_parameters_are_found_in_the_order_of_definition():
    model = Everything()
    assert [name for name, _ in model.named_parameters()] == NAMES
    assert [id(p) for p in model.parameters()] == [id(p) for _, p in model.named_parameters()]
    assert all(type(p) is nn.Parameter for p in model.parameters())


def test_buffers_are_found_and_are_no_parameters():
    model = Everything()
    names = ["by_name.norm.running_mean", "by_name.norm.running_var", "average"]
    assert [name for name, _ in model.named_buffers()] == names
    assert [id(b) for b in model.buffers()] == [id(b) for _, b in model.named_buffers()]
    assert not any(buffer.requires_grad for buffer in model.buffers())


def test_modules_are_listed_before_what_they_hold():
    model = nn.Sequential(nn.Linear(2, 2), nn.Residual(nn.Sequential(nn.ReLU())))
    assert [(name, type(module).__name__) for name, module in model.named_modules()] == [
        ("", "Sequential"),
        ("modules.0", "Linear"),
        ("modules.1", "Residual"),
        ("modules.1.fn", "Sequential"),
        ("modules.1.fn.modules.0", "ReLU"),
    ]
    assert model.children() == [model[0], model[1]]
    assert [name for name, _ in model.named_children()] == ["modules.0", "modules.1"]


def test_a_shared_parameter_is_listed_twice_and_counted_once():
    layer = nn.Linear(2, 3)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    assert [id(p) for p in model.parameters()] == [id(p) for p in (layer.weight, layer.bias) * 2]
    names = ["modules.0.weight", "modules.0.bias", "modules.2.weight", "modules.2.bias"]
    assert [name for name, _ in model.named_parameters()] == names
    assert model.num_parameters() == 9


def test_the_helpers_look_into_any_nest_of_containers():
    layer = nn.Linear(2, 3)
    assert nn._unpack_params(layer.weight) == [layer.weight]
    assert nn._unpack_params({"a": [layer, (layer.bias,)], "b": 3}) == [layer.weight, layer.bias, layer.bias]
    assert nn._unpack_params(ndl.Tensor([1.0])) == []
    block = nn.Residual(layer)
    assert nn._child_modules([block, {"x": layer}]) == [block, layer, layer]
    assert nn._child_modules(layer.weight) == []
    assert block._children() == [layer]


def test_a_module_that_holds_its_owner_is_walked_once():
    model = nn.Sequential(nn.Linear(2, 2))
    model.modules[0].owner = model
    assert len(model.parameters()) == 2
    model.eval()
    assert not model[0].training
    model.apply(lambda module: None)
    assert "(owner): …" in repr(model)


def test_a_replaced_attribute_is_the_one_that_is_used():
    layer = nn.Linear(2, 1)
    weight = layer.weight = ndl.Tensor(np.array([[2.0], [3.0]], dtype="float32"))
    bias = layer.bias = ndl.Tensor(np.array([10.0], dtype="float32"))
    y = layer(ndl.Tensor(np.ones((1, 2), dtype="float32")))
    assert y.numpy() == [[15.0]]
    y.backward()
    np.testing.assert_array_equal(weight.grad.numpy(), [[1.0], [1.0]])
    np.testing.assert_array_equal(bias.grad.numpy(), [1.0])
    assert layer.parameters() == []


def test_train_and_eval_reach_every_module_and_return_the_module():
    class Forgetful(nn.Module):
        def __init__(self):
            self.layers = {"a": [nn.Dropout(), nn.Sequential(nn.BatchNorm1d(2))]}

    model = Forgetful()
    everything = [module for _, module in model.named_modules()]
    assert len(everything) == 4
    assert all(module.training for module in everything)
    assert model.eval() is model
    assert not any(module.training for module in everything)
    assert model.train() is model
    assert all(module.training for module in everything)
    assert model.train(False).training is False


def test_calling_the_base_constructor_is_allowed():
    class Old(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter([1.0])

        def forward(self, x, *, scale=1.0):
            return x * self.weight * scale

    assert Old()(ndl.Tensor([3.0]), scale=2.0).numpy() == [6.0]


def test_a_module_without_forward_says_so():
    class Empty(nn.Module):
        pass

    with pytest.raises(NotImplementedError, match=r"Empty\.forward is not written"):
        Empty()(1)


# ----------------------------------------------------------------------------------------- paths in messages


def test_an_error_names_the_path_of_the_innermost_module():
    class Model(nn.Module):
        def __init__(self):
            self.blocks = [nn.Identity(), nn.Sequential(nn.Residual(nn.Sequential(nn.ReLU(), nn.Linear(3, 3))))]

        def forward(self, x):
            for block in self.blocks:
                x = block(x)
            return x

    with pytest.raises(ShapeError) as raised:
        Model()(ndl.Tensor(np.ones((4, 5), dtype="float32")))
    assert str(raised.value) == (
        "matmul: inner dimensions differ: a.shape[-1] = 5, b.shape[-2] = 3\n"
        "  a: float32 (4, 5) on cpu      b: float32 (3, 3) on cpu      in blocks.1.modules.0.fn.modules.1 (Linear)"
    )
    assert raised.value.module_path == "blocks.1.modules.0.fn.modules.1"


def test_an_error_in_a_lone_module_names_its_type():
    with pytest.raises(ShapeError) as raised:
        nn.Linear(3, 3)(ndl.Tensor(np.ones((4, 5), dtype="float32")))
    assert str(raised.value).endswith("on cpu      in Linear")


def test_an_error_in_a_module_out_of_reach_keeps_what_is_known():
    hidden = nn.Sequential(nn.Linear(3, 3))

    class Model(nn.Module):
        def forward(self, x):
            return hidden(x)

    with pytest.raises(ShapeError) as raised:
        Model()(ndl.Tensor(np.ones((4, 5), dtype="float32")))
    assert str(raised.value).endswith("in modules.0 (Linear)")


def test_an_error_of_another_kind_passes_unchanged():
    class Broken(nn.Module):
        def forward(self, x):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as raised:
        nn.Sequential(Broken())(1)
    assert not isinstance(raised.value, NeedleError)


# ------------------------------------------------------------------------------------------ changes as a whole


def test_apply_calls_inner_modules_first_and_each_once():
    shared = nn.ReLU()
    model = nn.Sequential(nn.Residual(shared), nn.Linear(1, 1), shared)
    seen = []
    assert model.apply(seen.append) is model
    assert seen == [shared, model[0], model[1], model]


def test_requires_grad_freezes_all_parameters():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert model.requires_grad_(False) is model
    y = model(ndl.Tensor(np.ones((3, 2)), dtype="float32", requires_grad=False))
    assert not y.requires_grad
    model.requires_grad_()
    assert all(p.requires_grad for p in model.parameters())
    assert not any(b.requires_grad for b in model.buffers())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_to_changes_the_dtype_and_keeps_the_objects(dtype):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model.steps = nn.Buffer(np.array([3]))
    before = [*model.parameters(), *model.buffers()]
    values = [item.numpy() for item in before]
    before[0].grad = ndl.Tensor([1.0])
    assert model.to(dtype=dtype) is model
    after = [*model.parameters(), *model.buffers()]
    assert all(a is b for a, b in zip(after, before, strict=True))
    for item, old in zip(after[:-1], values, strict=False):
        assert item.dtype == dtype
        np.testing.assert_array_equal(item.numpy(), old.astype(item.dtype))
    assert after[-1].dtype == "int64"
    assert before[0].grad is None
    x = ndl.Tensor(np.ones((3, 2)), dtype=dtype)
    assert model(x).dtype == dtype


def test_to_where_it_is_already_changes_nothing():
    layer = nn.Linear(2, 2)
    array = layer.weight.cached_data
    layer.weight.grad = ndl.Tensor([1.0])
    layer.to(ndl.cpu(), "float32").to()
    assert layer.weight.cached_data is array
    assert layer.weight.grad is not None


def test_to_refuses_what_is_no_device_and_no_floating_dtype():
    layer = nn.Linear(2, 2)
    with pytest.raises(
        DeviceError, match=r"to\(device, dtype\): the device is a needle\.device\.Device, got 'float16'"
    ):
        layer.to("float16")
    with pytest.raises(DTypeError, match="a module is moved to floating-point dtypes, got int32"):
        layer.to(dtype="int32")
    assert layer.weight.dtype == "float32"


# ------------------------------------------------------------------------------------------------ repr, copies


def test_repr_shows_the_tree_with_shapes_and_counts():
    class Scaled(nn.Module):
        def __init__(self):
            self.scale = nn.Parameter([2.0])
            self.layer = nn.Linear(1000, 2, bias=False)

    model = nn.Sequential(nn.Flatten(), Scaled(), nn.Residual(nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.25))))
    assert repr(model) == "\n".join(
        [
            "Sequential · 2,005 parameters",
            "  (0): Flatten()",
            "  (1): Scaled(scale (1,)) · 2,001 parameters",
            "    (layer): Linear(1000 → 2, bias=False) · 2,000 parameters",
            "  (2): Residual · 4 parameters",
            "    (fn): Sequential · 4 parameters",
            "      (0): BatchNorm1d(2) · 4 parameters",
            "      (1): Dropout(p=0.25)",
        ]
    )


def test_repr_of_one_parameter_is_singular():
    class One(nn.Module):
        def __init__(self):
            self.a = nn.Parameter([1.0])

    assert repr(One()) == "One(a (1,)) · 1 parameter"


def test_repr_of_layers_says_what_they_are_made_with():
    shown = {
        "ModuleList": nn.ModuleList(),
        "ModuleDict": nn.ModuleDict(),
        "Sequential": nn.Sequential(),
    }
    for name, module in shown.items():
        assert repr(module) == f"{name}()"
    layers = [
        (nn.LeakyReLU(0.2), "LeakyReLU(slope=0.2)"),
        (nn.ELU(2.0), "ELU(alpha=2.0)"),
        (nn.GELU(), "GELU()"),
        (nn.GELU(approximate=True), "GELU(approximate=True)"),
        (nn.Softmax(0), "Softmax(axis=0)"),
        (nn.LogSoftmax(), "LogSoftmax(axis=-1)"),
        (nn.GroupNorm(2, 4, affine=False), "GroupNorm(2 groups, 4 channels)"),
        (nn.LayerNorm((2, 3), affine=False), "LayerNorm(2, 3)"),
        (nn.RMSNorm(3), "RMSNorm(3) · 3 parameters"),
        (nn.InstanceNorm2d(3), "InstanceNorm2d(3)"),
        (nn.SoftmaxLoss(), "SoftmaxLoss()"),
        (
            nn.CrossEntropyLoss(0.1, ignore_index=0, class_weights=[1, 2], reduction="sum"),
            "CrossEntropyLoss(label_smoothing=0.1, ignore_index=0, class_weights=[1, 2], reduction='sum')",
        ),
        (nn.NLLLoss(ignore_index=-1), "NLLLoss(ignore_index=-1)"),
        (nn.MSELoss("sum"), "MSELoss(reduction='sum')"),
        (nn.HuberLoss(2.0, "none"), "HuberLoss(delta=2.0, reduction='none')"),
    ]
    for layer, text in layers:
        assert repr(layer) == text


def through_pickle(model):
    return pickle.loads(pickle.dumps(model))  # noqa: S301  made in the line itself


@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_pickle])
def test_a_copy_has_tensors_of_its_own_and_shares_what_was_shared(duplicate):
    layer = nn.Linear(2, 2)
    model = nn.Sequential(layer, nn.BatchNorm1d(2), layer)
    model.eval()
    twin = duplicate(model)
    assert twin[0] is twin[2]
    assert not twin.training
    assert [type(t) for t in (*twin.parameters(), *twin.buffers())] == [nn.Parameter] * 6 + [nn.Buffer] * 2
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(twin.state_dict()[name], array)
    twin[0].weight.data = twin[0].weight.data * 0
    assert layer.weight.numpy().any()
