import copy
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dqn_lightning.analysis.export as export_file
from dqn_lightning.analysis.export import (
    ExportComparison,
    Format,
    check_export_path,
    export_network,
    write_spaces,
)
from dqn_lightning.errors import ConfigError
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

IMAGE_SHAPE = 2, 12, 14
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


def make_observations(shape: tuple[int, ...], number: int = 20) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    if len(shape) == 3:
        return torch.randint(0, 256, (number, *shape), dtype=torch.uint8, generator=rng)
    return torch.randn(number, *shape, generator=rng)


def path_of(kind: Format) -> Path:
    return Path(f"network{export_file.SUFFIXES[kind]}")


def check_parity(make: Callable[[], QNetwork], obs: Tensor, kind: Format) -> None:
    """Export a network, load it with the library of the format, and compare action values."""
    for package in export_file.PACKAGES[kind]:
        pytest.importorskip(package)
    torch.manual_seed(0)
    network, other = make(), make()
    with torch.no_grad():
        network.train()(obs)  # move batch statistics away from their initial values
    before = {name: value.clone() for name, value in network.state_dict().items()}
    comparison = export_network(network, obs, kind, path_of(kind))
    assert [path.name for path in Path().iterdir()] == [path_of(kind).name]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.training
    expected = q_values_of(network, obs)
    assert comparison.max_value == pytest.approx(float(expected.abs().max()), rel=1e-5)
    loaded = load_exported(kind, other)
    for part in (obs, obs[:1], obs[2:9]):
        torch.testing.assert_close(loaded(part), q_values_of(network, part), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(q_values_of(make(), obs), expected, atol=1e-3)


def q_values_of(network: QNetwork, obs: Tensor) -> Tensor:
    with torch.no_grad():
        values: Tensor = copy.deepcopy(network).eval()(obs).q_values
    return values


def load_exported(kind: Format, other: QNetwork) -> Callable[[Tensor], Tensor]:
    if kind == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path_of(kind))
        return lambda obs: torch.from_numpy(session.run(None, {"obs": obs.numpy()})[0])
    if kind == "torch_export":
        program: Callable[[Tensor], Tensor] = torch.export.load(path_of(kind)).module()
        return program
    from safetensors.torch import load_file

    other.load_state_dict(load_file(path_of(kind)))
    return partial(q_values_of, other)


@pytest.mark.parametrize("head", HEADS)
def test_a_network_in_double_precision_is_exported(head: str) -> None:
    def make() -> QNetwork:
        return QNetwork((4,), 3, TORSOS["MLP"], HEADS[head], noisy_sigma=0.5).double()

    check_parity(make, make_observations((4,)), "torch_export")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("noisy", [False, True])
def test_every_head_computes_the_same_values_after_export(
    kind: Format, head: str, dueling: bool, noisy: bool
) -> None:
    make = partial(
        QNetwork, (4,), 3, TORSOS["MLP"], partial(HEADS[head], dueling=dueling),
        noisy_sigma=0.5 if noisy else None,
    )  # fmt: skip
    check_parity(make, make_observations((4,)), kind)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("torso", TORSOS)
def test_every_torso_computes_the_same_values_after_export(kind: Format, torso: str) -> None:
    check_parity(
        partial(QNetwork, IMAGE_SHAPE, 3, TORSOS[torso], ValueHead),
        make_observations(IMAGE_SHAPE),
        kind,
    )


@pytest.mark.parametrize("kind", FORMATS)
def test_discrete_observations_give_the_same_values_after_export(kind: Format) -> None:
    make = partial(QNetwork, (2,), 3, TORSOS["MLP"], ValueHead, obs_classes=(4, 3))
    check_parity(make, torch.tensor([[0, 2], [3, 1], [2, 0]]), kind)


class DataDependentTorso(nn.Module):
    """Torso with data-dependent control flow, which no exporter supports."""

    def __init__(self, obs_shape: Sequence[int]) -> None:
        super().__init__()
        self.layer = nn.Linear(*obs_shape, 8)

    def forward(self, obs: Tensor) -> Tensor:
        features: Tensor = self.layer(obs)
        return features if obs.sum() > 0 else -features


@pytest.mark.parametrize("kind", ["onnx", "torch_export"])
def test_a_network_that_cannot_be_exported_is_rejected(kind: Format) -> None:
    for package in export_file.PACKAGES[kind]:
        pytest.importorskip(package)
    network = QNetwork((4,), 3, DataDependentTorso, ValueHead)
    with pytest.raises(
        ConfigError, match=rf"^--format: this network cannot be exported to {kind} "
    ) as e:
        export_network(network, make_observations((4,)), kind, path_of(kind))
    assert "\n" not in str(e.value)
    assert list(Path().iterdir()) == []


def test_an_onnx_file_runs_in_onnxruntime_with_any_batch_size() -> None:
    onnxruntime: Any = pytest.importorskip("onnxruntime")
    network = QNetwork((4,), 3, TORSOS["MLP"], ValueHead)
    obs = make_observations((4,))
    export_network(network, obs, "onnx", Path("network.onnx"))
    session = onnxruntime.InferenceSession("network.onnx")
    assert [(i.name, i.shape[1:]) for i in session.get_inputs()] == [("obs", [4])]
    for part in (obs[:1], obs[:7]):
        (values,) = session.run(["q_values"], {"obs": part.numpy()})
        torch.testing.assert_close(torch.from_numpy(values), network(part).q_values)


def test_safetensors_weights_can_be_loaded_into_an_equal_network() -> None:
    safetensors: Any = pytest.importorskip("safetensors.torch")
    network, other = (QNetwork((4,), 3, TORSOS["MLP"], ValueHead) for _ in range(2))
    obs = make_observations((4,))
    export_network(network, obs, "safetensors", Path("network.safetensors"))
    other.load_state_dict(safetensors.load_file("network.safetensors"))
    assert torch.equal(other(obs).q_values, network(obs).q_values)


def test_a_file_with_different_action_values_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(module: nn.Module, obs: Tensor, path: Path) -> Any:
        path.write_text("a network")
        return lambda obs: module(obs) + 1e-4

    monkeypatch.setitem(export_file._WRITERS, "torch_export", write)
    network = QNetwork((4,), 3, TORSOS["MLP"], ValueHead)
    with pytest.raises(ConfigError, match=r"--format: .*1\.0e-04"):
        export_network(network, make_observations((4,)), "torch_export", Path("network.pt2"))
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("difference", "largest", "holds"),
    [
        (0.9e-5, 0.1, True), (1.1e-5, 0.1, False), (5e-4, 64.0, True), (7e-4, 64.0, False),
        (float("nan"), 1.0, False),
    ],
)  # fmt: skip
def test_the_tolerance_is_relative_for_action_values_above_1(
    difference: float, largest: float, holds: bool
) -> None:
    assert ExportComparison(difference, largest).within_tolerance == holds


def test_a_file_with_nan_values_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    network = QNetwork((4,), 3, TORSOS["MLP"], ValueHead)
    monkeypatch.setitem(
        export_file._WRITERS,
        "torch_export",
        lambda *_: lambda obs: torch.full((len(obs), 3), torch.nan),
    )
    with pytest.raises(ConfigError, match=r"--format: .*nan"):
        export_network(network, make_observations((4,)), "torch_export", Path("network.pt2"))


@pytest.mark.parametrize(
    ("kind", "file", "words"),
    [
        ("onnx", "network.pt", r"--out: network\.pt must end in \.onnx"),
        ("torch_export", "no/network.pt2", "there is no directory no"),
    ],
)
def test_files_that_cannot_be_written_are_rejected(kind: Format, file: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_export_path(kind, Path(file))


def test_error_messages_name_the_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_file, "find_spec", lambda _: None)
    check_export_path("torch_export", Path("network.pt2"))
    words = r"onnx, onnxscript, onnxruntime \(pip install -e '\.\[export\]'\)"
    with pytest.raises(ConfigError, match=words):
        check_export_path("onnx", Path("network.onnx"))


def test_spaces_are_written_as_json() -> None:
    spaces = {"obs_shape": [4, 40, 90], "obs_dtype": "uint8", "num_actions": 2}
    write_spaces(Path("network.json"), spaces)
    assert json.loads(Path("network.json").read_text()) == spaces
