"""The command `export`."""

import json
import re
from pathlib import Path

import pytest
import torch

from dqn_lightning import DQNModule
from dqn_lightning.analysis import export as formats
from dqn_lightning.cli.main import main
from tests.helpers.commands import CARTPOLE, assert_rejected, copy_pretrained

pytestmark = pytest.mark.processes  # runs whole commands


@pytest.mark.parametrize("kind", ["onnx", "torch_export", "safetensors"])
def test_exported_network_computes_the_same_action_values(
    kind: formats.Format, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in formats.PACKAGES[kind]:
        pytest.importorskip(package)
    checkpoint = copy_pretrained("cartpole")
    assert main(["export", "--ckpt_path", checkpoint, f"--format={kind}"]) == 0
    file = Path("cartpole/best").with_suffix(formats.SUFFIXES[kind])
    assert re.search(rf"{file} \(\d+ kB\).* 256 visited", capsys.readouterr().out)
    module = DQNModule.load_from_checkpoint(checkpoint, map_location="cpu")
    obs = torch.randn(5, 4)
    if kind == "safetensors":
        assert json.loads(Path("cartpole/best.spaces.json").read_text()) == {
            "env_id": "CartPole-v1", "obs_shape": [4], "obs_dtype": "float32", "obs_classes": None,
            "frame_stack": 1, "num_actions": 2, "first_action": 0,
        }  # fmt: skip
    elif kind == "torch_export":
        q_values = torch.export.load(file).module()(obs)
        torch.testing.assert_close(q_values, module.q_values(obs))
    else:
        import onnxruntime

        (array,) = onnxruntime.InferenceSession(file).run(None, {"obs": obs.numpy()})
        torch.testing.assert_close(torch.from_numpy(array), module.q_values(obs))


def test_target_network_is_exported_if_it_acts() -> None:
    checkpoint = copy_pretrained("cartpole_pixels")
    assert main(["export", "--ckpt_path", checkpoint, "--format=torch_export"]) == 0
    module = DQNModule.load_from_checkpoint(checkpoint, map_location="cpu")
    obs = torch.randint(0, 256, (3, 4, 40, 90), dtype=torch.uint8)
    q_values = torch.export.load("cartpole_pixels/best.pt2").module()(obs)
    torch.testing.assert_close(q_values, module.q_values(obs))
    with torch.no_grad():
        assert not torch.allclose(q_values, module.online(obs).q_values, atol=1e-3)


def test_short_episodes_are_repeated_until_256_states_were_visited(
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--data.env.id=toy/Walk-v0", "--format=torch_export"]
    flags += ["--data.evaluation.env_kwargs.max_episode_steps=1"]
    assert main(["export", "--config", str(CARTPOLE), *flags]) == 0
    output = capsys.readouterr().out
    assert re.search(r"toy-Walk-v0\.pt2 \(.*untrained weights.* 256 visited", output)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--format=torch_export", "--out=x.onnx"], r"--out: x\.onnx .*\.pt2"),
        (["--format=torch_export", "--out=no/x.pt2"], r"--out: no/x\.pt2 .*directory no"),
        (["--format=nonsense"], r"format: .*'onnx', 'torch_export', 'safetensors'.*nonsense"),
    ],
)
def test_invalid_settings_are_rejected_and_nothing_is_written(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_rejected(["export", *flags, "--config", str(CARTPOLE)], words, capsys)
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], r"--format: onnx .*onnx, onnxscript, onnxruntime .*pip install -e '\.\[export\]'"),
        (["--format=safetensors"], r"--format: safetensors .*safetensors .*pip install"),
    ],
)
def test_missing_packages_are_named(
    flags: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda _: None)
    assert_rejected(["export", *flags, "--config", str(CARTPOLE)], words, capsys)
    assert not list(Path().iterdir())
