"""A hub id: what is read of it is downloaded and nothing else, or one line says why not."""

import os
import shlex
import shutil
import subprocess
import sys

import pytest

from edge.builder.models.checkpoint import read_checkpoint
from tests.builder.models.hub_server import Hub, serving

READ = """
import sys
from edge.builder.models.checkpoint import read_checkpoint
from edge.errors import EdgeError
try:
    for path in read_checkpoint(sys.argv[1]).files:
        print(path.name)
except EdgeError as error:
    print("refused:", error)
"""


@pytest.fixture(scope="module")
def hub(checkpoint, tmp_path_factory):
    """someone/vit has what folders of the Hub have beside what is read; the others are refused."""
    root = tmp_path_factory.mktemp("hub")
    vit = shutil.copytree(checkpoint, root / "vit")
    for name in (
        "open_clip_model.safetensors",
        "adapter_model.safetensors",
        "fp16/model.safetensors",
        "checkpoint-500/model.safetensors",
        "checkpoint-500/config.json",
        "onnx/tokenizer.json",
        "onnx/spiece.model",
        "pytorch_model.bin",
        "modeling_own.py",
        "training_args.json",
    ):
        (vit / name).parent.mkdir(exist_ok=True)
        (vit / name).write_bytes(b"never read")
    pickled = shutil.copytree(checkpoint, root / "pickled")
    (pickled / "model.safetensors").unlink()
    (pickled / "pytorch_model.bin").write_bytes(b"would run code")
    bare = shutil.copytree(checkpoint, root / "bare")
    (bare / "model.safetensors").unlink()
    models = {"someone/vit": vit, "someone/pickled": pickled, "someone/bare": bare}
    refused = {
        "someone/gated": (401, "GatedRepo"),
        "someone/closed": (403, "GatedRepo"),
        "someone/broken": (500, ""),
    }
    with serving(Hub(models, refused)) as server:
        yield server


def asked(name, home, endpoint, **more):
    """What a process with a cache of its own says of a hub id."""
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        **more,
    }
    return run("-c", READ, name, env=environment, cwd=home)


def run(*words, env, cwd):
    """What Python prints, given these words."""
    done = subprocess.run(
        [sys.executable, *words], env=env, cwd=cwd, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_is_read_is_downloaded_and_serves_offline(hub, tmp_path):
    hub.sent.clear()
    names = ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert asked("someone/vit", tmp_path, hub.address).split() == names
    assert sorted(hub.sent) == names
    again = asked("someone/vit", tmp_path, hub.address, HF_HUB_OFFLINE="1")
    assert again.split() == names
    assert asked("someone/vit", tmp_path, "http://127.0.0.1:9").split() == names
    assert sorted(hub.sent) == names


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("someone/gated", "is gated: its owners must grant you access; request access at"),
        ("someone/closed", "someone/closed, then: hf auth login"),
        ("someone/absent", "there is no folder someone/absent, and no model of that id"),
        ("someone/absent", "check the path or the id (for a private model: hf auth login)"),
        ("some one/vit", "there is no folder some one/vit, and it is not a valid hub id; check"),
        ("someone/broken", "failed (Server error '500 Internal Server Error'"),
        ("someone/pickled", "only has pickled weights"),
        ("someone/bare", "has no weights (model.safetensors, or"),
    ],
)
def test_a_hub_error_is_one_line(hub, tmp_path, name, said):
    line = asked(name, tmp_path, hub.address)
    assert line.startswith("refused: ")
    assert said in line
    assert "\n" not in line
    assert "Request ID" not in line


def test_offline_errors_name_the_cache_that_was_searched(hub, tmp_path):
    line = asked("someone/vit", tmp_path, hub.address, HF_HUB_OFFLINE="1")
    assert f"no complete copy of that id in {tmp_path / 'hub'}, and HF_HUB_OFFLINE is set" in line
    line = asked("someone/vit", tmp_path, "http://127.0.0.1:9")
    assert "and http://127.0.0.1:9 failed ([Errno 111] Connection refused); go on" in line
    assert "\n" not in line


def test_an_error_for_a_name_like_a_path_is_about_a_folder(hub, tmp_path):
    (tmp_path / "mine/my-vit").mkdir(parents=True)
    nowhere = "http://127.0.0.1:9"
    for name, said in (
        ("./mine/my-vti", "there is no checkpoint at ./mine/my-vti; did you mean mine/my-vit?"),
        ("a/b/c", "there is no checkpoint at a/b/c; check the path"),
        ("~/no such/vit", "there is no checkpoint at ~/no such/vit; check the path"),
        ("mine/my-vti", "there is no folder mine/my-vti (as a hub id: http://127.0.0.1:9 failed"),
        ("mine/my-vti", "[Errno 111] Connection refused)); did you mean mine/my-vit?"),
        ("mine/other", "Connection refused)); check the path"),
        ("mien", "there is no folder mien (as a hub id: "),
    ):
        assert said in asked(name, tmp_path, nowhere)
    assert asked("mine/my-vti", tmp_path, hub.address).endswith("; did you mean mine/my-vit?")


def test_a_folder_named_like_an_owner_does_not_matter(hub, tmp_path):
    (tmp_path / "someone").mkdir()
    assert "model.safetensors" in asked("someone/vit", tmp_path, hub.address).split()


@pytest.mark.slow
@pytest.mark.parametrize("by_id", [True, False])
def test_the_command_in_the_hint_converts_pickled_weights(
    by_id, hub, tmp_path, checkpoint, monkeypatch
):
    import torch
    from safetensors.torch import load_file

    weights = load_file(checkpoint / "model.safetensors")
    torch.save(weights, hub.models["someone/pickled"] / "pytorch_model.bin")
    name = "someone/pickled" if by_id else str(hub.models["someone/pickled"])
    line = asked(name, tmp_path, hub.address)
    command = shlex.split(line.partition("convert them to safetensors: ")[2])
    assert command[:2] == ["python", "-c"]
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path)}
    run(*command[1:], env=environment, cwd=tmp_path)
    found = read_checkpoint(str(tmp_path / "pickled-safetensors"))
    assert found.preprocess == read_checkpoint(str(checkpoint)).preprocess
    assert load_file(found.folder / "model.safetensors").keys() == weights.keys()
