"""A model as a folder: config.json and model.safetensors, and the Hugging Face hub."""

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import mlx.core as mx
import mlx.nn as nn
import mlx_ncps
import pytest
from mlx.utils import tree_flatten
from mlx_ncps import LTC, CfC, CfCRNN, LiquidCell, from_pretrained, save_pretrained
from mlx_ncps.pretrained import push_to_hub
from mlx_ncps.wirings import AutoNCP

from tests.package.test_public_names import OBJECTS

LAYERS = [name for name in OBJECTS if name != "NCPDense"]


def same(one, other):
    first, second = (dict(tree_flatten(model.parameters())) for model in (one, other))
    assert list(first) == list(second)
    return all(mx.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_and_cell_comes_back_from_its_folder(name, tmp_path):
    model = OBJECTS[name][0]()
    where = model.save_pretrained(tmp_path / "deep" / "model")
    assert where == tmp_path / "deep" / "model"
    assert sorted(file.name for file in where.iterdir()) == ["config.json", "model.safetensors"]
    for again in (from_pretrained(str(where)), type(model).from_pretrained(where)):
        assert type(again) is type(model)
        assert again.get_config() == model.get_config()
        assert same(again, model)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_an_edited_trained_and_stacked_model_computes_the_same(bidirectional, tmp_path):
    wiring = AutoNCP(12, 2)
    model = CfCRNN(3, wiring, 2, bidirectional=bidirectional, mixed_memory=True)
    first = model.layers[0].rnn_cell.wiring
    first.remove_synapse(*first.get_synapses()[0][:2])
    model.apply(lambda a: a * 1.5)
    x = mx.random.normal((2, 5, 3))
    save_pretrained(model, tmp_path)
    assert mx.array_equal(from_pretrained(tmp_path)(x)[0], model(x)[0])


def test_files_are_as_hugging_face_and_mlx_read_them(tmp_path):
    model = LTC(3, AutoNCP(8, 2))
    save_pretrained(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "mlx_ncps"
    assert config["architectures"] == ["LTC"] == [config["class"]]
    assert config["mlx_ncps_version"] == mlx_ncps.__version__
    arrays, metadata = mx.load(str(tmp_path / "model.safetensors"), return_metadata=True)
    assert metadata["format"] == "mlx"
    assert set(arrays) == set(dict(tree_flatten(model.parameters())))


def test_saving_again_replaces_and_a_failure_leaves_what_was_there(tmp_path):
    first, second = CfC(3, 4), LTC(3, 5)
    save_pretrained(first, tmp_path)
    save_pretrained(second, tmp_path)
    assert same(from_pretrained(tmp_path), second)
    with pytest.raises(ValueError, match="the weights must exist"):
        save_pretrained(CfC(None, AutoNCP(8, 2)), tmp_path)
    assert same(from_pretrained(tmp_path), second)
    assert len(list(tmp_path.iterdir())) == 2


@mlx_ncps.register
class Policy(nn.Module):
    """A user's model around a layer."""

    def __init__(self, inputs):
        super().__init__()
        self.inputs = inputs
        self.rnn, self.head = LTC(inputs, AutoNCP(8, 2), return_state=False), nn.Linear(2, 1)

    def get_config(self):
        return {"inputs": self.inputs}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def test_a_registered_module_of_a_user_is_saved_too(tmp_path):
    model = Policy(3)
    save_pretrained(model, tmp_path)
    again = from_pretrained(tmp_path)
    assert type(again) is Policy
    assert same(again, model)
    with pytest.raises(ValueError, match="must be a registered class"):
        save_pretrained(nn.Linear(2, 3), tmp_path)
    with pytest.raises(ValueError, match=r"config.json must be of a CfC, got Policy"):
        CfC.from_pretrained(tmp_path)
    assert isinstance(LiquidCell, type)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "config.json must be JSON"),
        ("[" * 100_000, "config.json must be JSON"),
        ("[]", "must have model_type 'mlx_ncps'"),
        ('{"model_type": "llama"}', "must have model_type 'mlx_ncps', got 'llama'"),
        ('{"model_type": "mlx_ncps"}', "class must be registered, got None"),
        ('{"model_type": "mlx_ncps", "class": "os.system", "config": {}}', "class must be regist"),
        ('{"model_type": "mlx_ncps", "class": "CfC", "config": 3}', "config of CfC must be a dict"),
    ],
)
def test_a_configuration_of_others_is_refused(text, message, tmp_path):
    save_pretrained(CfC(3, 4), tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        from_pretrained(tmp_path)


def test_weights_of_another_model_and_missing_files_are_refused(tmp_path):
    save_pretrained(CfC(3, 4), tmp_path / "a")
    save_pretrained(CfC(3, 5), tmp_path / "b")
    shutil.copy(tmp_path / "a" / "model.safetensors", tmp_path / "b")
    with pytest.raises(ValueError, match=r"\[load_weights\] .* must be"):
        from_pretrained(tmp_path / "b")
    for name in ("model.safetensors", "config.json"):
        (tmp_path / "a" / name).unlink()
        with pytest.raises(FileNotFoundError, match=name):
            from_pretrained(tmp_path / "a")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="folder must be a folder, got the file file"):
        save_pretrained(CfC(3, 4), tmp_path / "file")
    with pytest.raises(ValueError, match="folder must be a path, got 3"):
        from_pretrained(3)


# --- the hub ---


class Hub(ModuleType):
    """As much of `huggingface_hub` as is used, over a local folder."""

    def __init__(self, root):
        super().__init__("huggingface_hub")
        self.root, self.calls = Path(root), []
        self.HfApi = lambda: self

    def create_repo(self, repo_id, *, private=None, exist_ok=False):
        self.calls.append(("create_repo", repo_id, private))
        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)

    def upload_folder(self, *, repo_id, folder_path, commit_message, revision):
        self.calls.append(("upload_folder", repo_id, commit_message, revision))
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)
        return "done"

    def snapshot_download(self, repo_id, *, revision=None, allow_patterns=None):
        self.calls.append(("snapshot_download", repo_id, revision, tuple(allow_patterns)))
        return str(self.root / repo_id)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    made = Hub(tmp_path / "hub")
    monkeypatch.setitem(sys.modules, "huggingface_hub", made)
    return made


def test_a_model_goes_to_the_hub_and_comes_back(hub):
    model = CfC(3, AutoNCP(8, 2))
    assert model.push_to_hub("me/policy", private=True, message="first") == "done"
    assert hub.calls == [
        ("create_repo", "me/policy", True),
        ("upload_folder", "me/policy", "first", None),
    ]
    again = CfC.from_pretrained("me/policy", download=True, revision="v1")
    assert same(again, model)
    files = ("config.json", "model.safetensors")
    assert hub.calls[-1] == ("snapshot_download", "me/policy", "v1", files)


def test_nothing_is_fetched_unless_asked(hub):
    push_to_hub(CfC(3, 4), "me/policy")
    hub.calls.clear()
    with pytest.raises(FileNotFoundError, match=r"from_pretrained\(name, download=True\)"):
        from_pretrained("me/policy")
    with pytest.raises(ValueError, match="revision must be None without download=True"):
        from_pretrained("me/policy", revision="v1")
    assert hub.calls == []


def test_a_model_that_can_not_be_saved_makes_no_repository(hub):
    with pytest.raises(ValueError, match="the weights must exist"):
        push_to_hub(CfC(None, AutoNCP(8, 2)), "me/policy")
    with pytest.raises(ValueError, match="repository must be a string, got 3"):
        push_to_hub(CfC(3, 4), 3)
    assert hub.calls == []


def test_without_the_package_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (
        lambda: from_pretrained("me/policy", download=True),
        lambda: push_to_hub(CfC(3, 4), "me/policy"),
    ):
        with pytest.raises(ImportError, match="pip install huggingface_hub"):
            call()
    save_pretrained(CfC(3, 4), tmp_path)
    assert isinstance(from_pretrained(tmp_path), CfC)
