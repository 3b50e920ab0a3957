"""Saved models: round trip, damage of every kind, and saves that are cut short."""

import hashlib
import json
import os

import numpy as np
import pytest

import needle as ndl
from needle import nn
from needle.errors import CheckpointError
from needle.train import Recipe, load_model, read_recipe, save_model

ARCHITECTURES = {"net": lambda width: nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 3))}


def make_model(width=5):
    model = ARCHITECTURES["net"](width)
    model(ndl.Tensor(np.random.randn(8, 4).astype(np.float32)))  # moves the running statistics off their start
    return model


def make_recipe(width=5, **entries):
    return Recipe("net", {"width": width}, (2, 2), ("a", "b", "c"), dataset="toy", seed=3, **entries)


@pytest.fixture
def folder(tmp_path):
    np.random.seed(0)
    save_model(tmp_path, make_model(), make_recipe())
    return tmp_path


def weights_file(folder):
    (path,) = folder.glob("*.safetensors")
    return path


def rewrite(folder, change):
    """Change `model.json` and give it a sum that fits, as someone with ill intent would."""
    path = folder / "model.json"
    content = json.loads(path.read_text())
    change(content)
    rest = {key: value for key, value in content.items() if key != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    path.write_text(json.dumps({**rest, "sha256": hashlib.sha256(text.encode()).hexdigest()}))


def test_load_model_returns_the_same_weights_statistics_and_recipe(tmp_path):
    model = make_model()
    recipe = make_recipe(options={"lr": 0.1, "augment": True, "steps": {7: "int keys become text"}}, input_std=0.3)
    save_model(tmp_path, model, recipe)
    saved = load_model(tmp_path, ARCHITECTURES)
    before, after = model.state_dict(), saved.model.state_dict()
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])
    assert saved.recipe.class_names == ("a", "b", "c")
    assert saved.recipe.input_shape == (2, 2)
    assert saved.recipe.input_std == 0.3
    assert saved.recipe.options["steps"] == {"7": "int keys become text"}
    assert read_recipe(tmp_path) == saved.recipe


def test_load_model_gives_a_model_in_evaluation_mode(folder):
    assert not load_model(folder, ARCHITECTURES).model.training


def test_load_model_takes_the_folder_and_either_of_its_files(folder):
    for path in (folder, str(folder), folder / "model.json", weights_file(folder)):
        assert load_model(path, ARCHITECTURES).recipe.dataset == "toy"


def test_load_model_draws_nothing_from_the_random_generator(folder):
    np.random.seed(5)
    expected = np.random.rand(3)
    np.random.seed(5)
    load_model(folder, ARCHITECTURES)
    np.testing.assert_array_equal(np.random.rand(3), expected)


def test_save_model_names_the_weights_for_their_contents(folder):
    path = weights_file(folder)
    assert path.name == f"model-{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}.safetensors"


def test_save_model_replaces_the_model_that_was_there(folder):
    model = make_model(width=7)
    save_model(folder, model, make_recipe(width=7))
    assert len(list(folder.iterdir())) == 2
    loaded = load_model(folder, ARCHITECTURES).model
    np.testing.assert_array_equal(loaded.modules[0].weight.numpy(), model.modules[0].weight.numpy())


def test_save_model_of_the_same_weights_again_keeps_them(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    saved = load_model(folder, ARCHITECTURES)
    save_model(folder, saved.model, saved.recipe)
    assert {path.name for path in folder.iterdir()} == before.keys()
    again = load_model(folder, ARCHITECTURES)
    assert again.recipe == saved.recipe
    for name, value in saved.model.state_dict().items():
        np.testing.assert_array_equal(again.model.state_dict()[name], value)


@pytest.mark.parametrize("which_rename", [1, 2])
def test_save_model_that_is_cut_short_leaves_the_old_model_whole(folder, monkeypatch, which_rename):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    renames = []
    replace = os.replace

    def fail(source, target):
        renames.append(target)
        if len(renames) == which_rename:
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="Input/output"):
        save_model(folder, make_model(width=7), make_recipe(width=7))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    load_model(folder, ARCHITECTURES)


def test_save_model_killed_between_its_two_files_leaves_the_old_model_loadable(folder, tmp_path_factory):
    # A killed process cleans nothing up: the new weights lie there, model.json is still the old one.
    other = tmp_path_factory.mktemp("other")
    save_model(other, make_model(width=7), make_recipe(width=7))
    new = weights_file(other)
    (folder / new.name).write_bytes(new.read_bytes())
    assert load_model(folder, ARCHITECTURES).recipe.hyperparameters == {"width": 5}
    save_model(folder, make_model(), make_recipe())
    assert len(list(folder.glob("*.safetensors"))) == 1


@pytest.mark.parametrize("value", [float("nan"), np.zeros(2), object()])
def test_save_model_refuses_what_json_cannot_hold_and_writes_nothing(tmp_path, value):
    with pytest.raises(CheckpointError, match="cannot be written as JSON"):
        save_model(tmp_path / "run", make_model(), make_recipe(options={"x": value}))
    assert not (tmp_path / "run").exists()


# ----------------------------------------------------------------------------------------------------- damage


def test_load_model_reports_any_flipped_byte(folder):
    generator = np.random.default_rng(1)
    for path in list(folder.iterdir()):
        whole = path.read_bytes()
        for _ in range(40):
            position = int(generator.integers(len(whole)))
            flipped = whole[position] ^ int(generator.integers(1, 256))
            path.write_bytes(whole[:position] + bytes([flipped]) + whole[position + 1 :])
            try:
                load_model(folder, ARCHITECTURES)
            except CheckpointError as error:
                assert "\n" not in str(error)
            else:  # only white space between JSON's tokens carries nothing
                assert chr(whole[position]).isspace()
                assert chr(flipped).isspace()
        path.write_bytes(whole)
    load_model(folder, ARCHITECTURES)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_load_model_reports_truncated_files(folder, share):
    for path in list(folder.iterdir()):
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(CheckpointError, match="damaged or cut short"):
            load_model(folder, ARCHITECTURES)
        path.write_bytes(whole)


def test_load_model_names_the_file_that_is_missing(folder, tmp_path_factory):
    weights_file(folder).unlink()
    with pytest.raises(CheckpointError, match=r"there is no file .*model-[0-9a-f]{12}\.safetensors"):
        load_model(folder, ARCHITECTURES)
    with pytest.raises(CheckpointError, match=r"there is no file .*nowhere/model\.json"):
        load_model(tmp_path_factory.mktemp("x") / "nowhere", ARCHITECTURES)


def test_load_model_names_the_nearest_architecture_that_it_knows(folder):
    with pytest.raises(CheckpointError, match=r"unknown architecture 'net': did you mean nets\? Known are nets, other"):
        load_model(folder, {"nets": None, "other": None})


def test_load_model_lists_all_weights_that_do_not_fit(folder):
    rewrite(folder, lambda content: content["recipe"]["hyperparameters"].update(width=6))
    with pytest.raises(CheckpointError, match=r"modules\.0\.weight is float32 \(4, 6\), got float32 \(4, 5\)"):
        load_model(folder, ARCHITECTURES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["recipe"].update(hyperparameters={"size": 3}), "net cannot be built from its hyperparameters"),
        (lambda c: c["recipe"].update(hyperparameters={"width": "5"}), "net cannot be built from its hyperparameters"),
        (lambda c: c["recipe"].update(colour="red"), "unknown entries: colour"),
        (lambda c: c["recipe"].pop("class_names"), "missing entries: class_names"),
        (lambda c: c["recipe"].update(input_shape="28", seed="x"), "malformed entries: input_shape, seed"),
        (lambda c: c["recipe"].update(input_std=0), "malformed entries: input_std"),
        (lambda c: c.update(recipe=[1]), "a recipe is a JSON object, got list"),
        (lambda c: c["weights"].update(file="../../etc/passwd"), "plain name in the same folder"),
        (lambda c: c["weights"].update(file=".."), "plain name in the same folder"),
        (lambda c: c.update(weights={}), "must have exactly file, bytes and sha256"),
        (lambda c: c["format"].update(version=2), "not of a format that this version reads"),
    ],
)
def test_load_model_checks_every_entry(folder, change, message):
    rewrite(folder, change)
    with pytest.raises(CheckpointError, match=message):
        load_model(folder, ARCHITECTURES)


@pytest.mark.parametrize("text", ["[1, 2]", "NaN", '{"a": Infinity}', "[" * 100_000, "\xff", ""])
def test_load_model_reports_a_description_that_is_not_its_own(folder, text):
    (folder / "model.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"model\.json"):
        load_model(folder, ARCHITECTURES)


def test_load_model_reports_weights_that_are_no_safetensors_file(folder):
    path = weights_file(folder)
    data = b"\x80\x04cposix\nsystem\n"  # how a pickle that runs a command begins
    path.write_bytes(data)
    entry = {"file": path.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    rewrite(folder, lambda content: content.update(weights=entry))
    with pytest.raises(CheckpointError, match="is not a safetensors file that can be read"):
        load_model(folder, ARCHITECTURES)
