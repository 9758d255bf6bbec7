import copy
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dqn_lightning import exporting
from dqn_lightning.errors import ConfigError
from dqn_lightning.exporting import Format, Parity, check_export, export, write_spaces
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


def check(make: Callable[[], QNetwork], obs: Tensor, kind: Format) -> None:
    """What was written, read by its own library, is compared with the network."""
    for package in exporting.PACKAGES[kind]:
        pytest.importorskip(package)
    torch.manual_seed(0)
    network, other = make(), make()
    with torch.no_grad():
        network.train()(obs)  # so that statistics are not those that every network starts with
    before = {name: value.clone() for name, value in network.state_dict().items()}
    parity = export(network, obs, kind, file_of(kind))
    assert [path.name for path in Path().iterdir()] == [file_of(kind).name]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.training
    expected = values_of(network, obs)
    assert parity.largest == pytest.approx(float(expected.abs().max()), rel=1e-5)
    read = read_again(kind, other)
    for part in (obs, obs[:1], obs[2:9]):
        torch.testing.assert_close(read(part), values_of(network, part), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(values_of(make(), obs), expected, atol=1e-3)  # they do differ


def values_of(network: QNetwork, obs: Tensor) -> Tensor:
    with torch.no_grad():
        values: Tensor = copy.deepcopy(network).eval()(obs).q_values
    return values


def read_again(kind: Format, other: QNetwork) -> Callable[[Tensor], Tensor]:
    if kind == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(file_of(kind))
        return lambda obs: torch.from_numpy(session.run(None, {"obs": obs.numpy()})[0])
    if kind == "torch_export":
        program: Callable[[Tensor], Tensor] = torch.export.load(file_of(kind)).module()
        return program
    from safetensors.torch import load_file

    other.load_state_dict(load_file(file_of(kind)))
    return partial(values_of, other)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("noisy", [False, True])
def test_every_head_is_the_same_elsewhere(
    kind: Format, head: str, dueling: bool, noisy: bool
) -> None:
    make = partial(
        QNetwork, (4,), 3, TORSOS["MLP"], partial(HEADS[head], dueling=dueling),
        noisy_sigma=0.5 if noisy else None,
    )  # fmt: skip
    check(make, observations((4,)), kind)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("torso", TORSOS)
def test_every_torso_is_the_same_elsewhere(kind: Format, torso: str) -> None:
    check(partial(QNetwork, PICTURES, 3, TORSOS[torso], ValueHead), observations(PICTURES), kind)


@pytest.mark.parametrize("kind", FORMATS)
def test_numbers_of_classes_are_the_same_elsewhere(kind: Format) -> None:
    make = partial(QNetwork, (2,), 3, TORSOS["MLP"], ValueHead, obs_classes=(4, 3))
    check(make, torch.tensor([[0, 2], [3, 1], [2, 0]]), kind)


class Choosing(nn.Module):
    """What it computes depends on what it is given, which no exporter can follow."""

    def __init__(self, obs_shape: Sequence[int]) -> None:
        super().__init__()
        self.layer = nn.Linear(*obs_shape, 8)

    def forward(self, obs: Tensor) -> Tensor:
        features: Tensor = self.layer(obs)
        return features if obs.sum() > 0 else -features


@pytest.mark.parametrize("kind", ["onnx", "torch_export"])
def test_a_network_that_cannot_be_written_is_said(kind: Format) -> None:
    for package in exporting.PACKAGES[kind]:
        pytest.importorskip(package)
    network = QNetwork((4,), 3, Choosing, ValueHead)
    with pytest.raises(
        ConfigError, match=rf"^--format: this network cannot be written as {kind} "
    ) as e:
        export(network, observations((4,)), kind, file_of(kind))
    assert "\n" not in str(e.value)
    assert list(Path().iterdir()) == []


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
    with pytest.raises(ConfigError, match=r"up to \d\.\d+ differ by 1\.0e-04; nothing was"):
        export(network, observations((4,)), "torch_export", Path("network.pt2"))
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("difference", "largest", "holds"),
    [
        (0.9e-5, 0.1, True), (1.1e-5, 0.1, False), (5e-4, 64.0, True), (7e-4, 64.0, False),
        (float("nan"), 1.0, False),
    ],
)  # fmt: skip
def test_what_counts_as_the_same(difference: float, largest: float, holds: bool) -> None:
    assert Parity(difference, largest).holds == holds


def test_values_that_are_not_numbers_are_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    network = QNetwork((4,), 3, TORSOS["MLP"], ValueHead)
    monkeypatch.setitem(
        exporting._WRITERS,
        "torch_export",
        lambda *_: lambda obs: torch.full((len(obs), 3), torch.nan),
    )
    with pytest.raises(ConfigError, match="differ by nan"):
        export(network, observations((4,)), "torch_export", Path("network.pt2"))


@pytest.mark.parametrize(
    ("kind", "file", "words"),
    [
        ("onnx", "network.pt", r"--out: network\.pt must end in \.onnx"),
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
