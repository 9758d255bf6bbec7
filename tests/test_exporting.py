import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dqn_lightning import exporting
from dqn_lightning.errors import ConfigError
from dqn_lightning.exporting import Format, check_export, export, write_spaces
from dqn_lightning.networks import (
    CNN,
    MLP,
    CategoricalHead,
    FrameAndDifferences,
    FrameDifference,
    ImplicitQuantileHead,
    QNetwork,
    QuantileHead,
    ValueHead,
)

PICTURES = 2, 12, 14
SMALL = partial(CNN, channels=(3,), kernel_sizes=((12, 3),), strides=(2,), widths=(8,))
HEADS = {
    "values": ValueHead,
    "C51": partial(CategoricalHead, v_min=0.0, v_max=10.0),
    "QR-DQN": partial(QuantileHead, num_quantiles=8),
    "IQN": ImplicitQuantileHead,
}
TORSOS = {
    "MLP": partial(MLP, widths=(8,)),
    "CNN": SMALL,
    "CNN with norms": partial(SMALL, batch_norm=True, layer_norm=True),
    "difference": partial(FrameDifference, torso=SMALL, scale=2.0),
    "frame and differences": partial(FrameAndDifferences, torso=SMALL, num_frames=2),
}
FORMATS: list[Format] = ["onnx", "torch_export", "safetensors"]


def observations(shape: tuple[int, ...], number: int = 20) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    if len(shape) == 3:
        return torch.randint(0, 256, (number, *shape), dtype=torch.uint8, generator=rng)
    return torch.randn(number, *shape, generator=rng)


def file_of(kind: Format) -> Path:
    return Path(f"network{exporting.SUFFIXES[kind]}")


def check(network: QNetwork, obs: Tensor, kind: Format) -> None:
    for package in exporting.PACKAGES[kind]:
        pytest.importorskip(package)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert export(network, obs, kind, file_of(kind)) <= 1e-5
    assert [path.name for path in Path().iterdir()] == [file_of(kind).name]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("noisy", [False, True])
def test_every_head_is_the_same_elsewhere(
    kind: Format, head: str, dueling: bool, noisy: bool
) -> None:
    torch.manual_seed(0)
    network = QNetwork(
        (4,), 3, TORSOS["MLP"], partial(HEADS[head], dueling=dueling),
        noisy_sigma=0.5 if noisy else None,
    )  # fmt: skip
    check(network, observations((4,)), kind)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("torso", TORSOS)
def test_every_torso_is_the_same_elsewhere(kind: Format, torso: str) -> None:
    torch.manual_seed(0)
    network = QNetwork(PICTURES, 3, TORSOS[torso], ValueHead)
    network.train()  # as training leaves it
    check(network, observations(PICTURES), kind)


@pytest.mark.parametrize("kind", FORMATS)
def test_numbers_of_classes_are_the_same_elsewhere(kind: Format) -> None:
    network = QNetwork((2,), 3, TORSOS["MLP"], ValueHead, obs_classes=(4, 3))
    check(network, torch.tensor([[0, 2], [3, 1], [2, 0]]), kind)


def test_an_onnx_file_acts_without_pytorch() -> None:
    onnxruntime: Any = pytest.importorskip("onnxruntime")
    network = QNetwork((4,), 3, TORSOS["MLP"], ValueHead)
    obs = observations((4,))
    export(network, obs, "onnx", Path("network.onnx"))
    session = onnxruntime.InferenceSession("network.onnx")
    assert [(i.name, i.shape[1:]) for i in session.get_inputs()] == [("obs", [4])]
    for part in (obs[:1], obs[:7]):  # of any number of rows
        (values,) = session.run(["q_values"], {"obs": part.numpy()})
        torch.testing.assert_close(torch.from_numpy(values), network(part).q_values)


def test_bare_weights_fit_a_network_of_the_same_kind() -> None:
    safetensors: Any = pytest.importorskip("safetensors.torch")
    network, other = (QNetwork((4,), 3, TORSOS["MLP"], ValueHead) for _ in range(2))
    obs = observations((4,))
    export(network, obs, "safetensors", Path("network.safetensors"))
    other.load_state_dict(safetensors.load_file("network.safetensors"))
    assert torch.equal(other(obs).q_values, network(obs).q_values)


def test_what_differs_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(module: nn.Module, obs: Tensor, path: Path) -> Any:
        path.write_text("a network")
        return lambda obs: module(obs) + 1e-4

    monkeypatch.setitem(exporting._WRITERS, "torch_export", write)
    network = QNetwork((4,), 3, TORSOS["MLP"], ValueHead)
    with pytest.raises(ConfigError, match=r"differ by 1\.0e-04, more than 1e-05; nothing was"):
        export(network, observations((4,)), "torch_export", Path("network.pt2"))
    assert list(Path().iterdir()) == []


def test_values_that_are_not_numbers_are_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    network = QNetwork((4,), 3, TORSOS["MLP"], ValueHead)
    monkeypatch.setitem(
        exporting._WRITERS, "torch_export", lambda *_: lambda obs: torch.full((20, 3), torch.nan)
    )
    with pytest.raises(ConfigError, match="differ by nan"):
        export(network, observations((4,)), "torch_export", Path("network.pt2"))


@pytest.mark.parametrize(
    ("kind", "file", "words"),
    [
        ("onnx", "network.pt", r"onnx files end in \.onnx, got network\.pt"),
        ("torch_export", "no/network.pt2", "there is no folder no"),
    ],
)
def test_files_that_cannot_be_are_refused(kind: Format, file: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_export(kind, Path(file))


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "find_spec", lambda _: None)
    check_export("torch_export", Path("network.pt2"))
    words = r"onnx needs onnx, onnxscript, onnxruntime: pip install -e '\.\[export\]'"
    with pytest.raises(ConfigError, match=words):
        check_export("onnx", Path("network.onnx"))


def test_spaces_are_plain_json() -> None:
    spaces = {"obs_shape": [4, 40, 90], "obs_dtype": "uint8", "num_actions": 2}
    write_spaces(Path("network.json"), spaces)
    assert json.loads(Path("network.json").read_text()) == spaces
