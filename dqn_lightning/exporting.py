"""Takes the network that acts elsewhere: to ONNX, to a program of PyTorch's, or as bare weights."""

import copy
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from dqn_lightning.errors import ConfigError
from dqn_lightning.networks import QNetwork

Format: TypeAlias = Literal["onnx", "torch_export", "safetensors"]

SUFFIXES: dict[Format, str] = {
    "onnx": ".onnx",
    "torch_export": ".pt2",
    "safetensors": ".safetensors",
}
PACKAGES: dict[Format, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "torch_export": (),
    "safetensors": ("safetensors",),
}
TOLERANCE = 1e-5
"""Greatest difference of action values, relative to the greatest of them where that is above 1."""


class ActionValues(nn.Module):
    """A network with action values as its only output."""

    def __init__(self, network: QNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, obs: Tensor) -> Tensor:
        """Observations [B, …] → action values [B, A]."""
        values: Tensor = self.network(obs).q_values
        return values


def check_export(kind: Format, path: Path) -> None:
    """See whether a network can be written there.

    Raises:
        ConfigError: If the suffix is another format's, or a folder or package is missing.
    """
    if path.suffix != SUFFIXES[kind]:
        raise ConfigError(f"--out: {kind} files end in {SUFFIXES[kind]}, got {path}")
    if not path.parent.is_dir():
        raise ConfigError(f"--out: there is no folder {path.parent}")
    missing = [package for package in PACKAGES[kind] if find_spec(package) is None]
    if missing:
        raise ConfigError(
            f"--format: {kind} needs {', '.join(missing)}: pip install -e '.[export]'"
        )


def export(network: QNetwork, obs: Tensor, kind: Format, path: Path) -> float:
    """Write a network, read it again and compare the two; only then the file is there.

    Args:
        network: What acts; it is not changed.
        obs: Observations [B, …] to compare it with, at least two.
        kind: The format. Of `safetensors` the parameters are those of `network.state_dict()`.
        path: The file.

    Returns:
        The greatest difference of action values, relative to the greatest of them above 1.

    Raises:
        ConfigError: If the network cannot be written in this format, or is another one then.
        OSError: If the file cannot be written.
    """
    module = ActionValues(copy.deepcopy(network).cpu()).eval()
    obs = obs.cpu()
    with torch.no_grad():
        expected = module(obs)
    unfinished = path.with_name(f".tmp-{path.name}")
    try:
        read = _WRITERS[kind](module, obs, unfinished)
        with torch.no_grad():
            values = read(obs)
        difference = float((values - expected).abs().max() / expected.abs().max().clamp(min=1))
        if not difference <= TOLERANCE:
            raise ConfigError(
                f"--format: as {kind} the action values differ by {difference:.1e}, more than "
                f"{TOLERANCE:.0e}; nothing was written"
            )
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return difference


def write_spaces(path: Path, spaces: dict[str, Any]) -> None:
    """Write down what a network is made for."""
    path.write_text(json.dumps(spaces, indent=2) + "\n")


def _write_onnx(module: nn.Module, obs: Tensor, path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    torch.onnx.export(
        module, (obs[:2].clone(),), path, dynamo=True, external_data=False, verbose=False,
        input_names=["obs"], output_names=["q_values"], dynamic_shapes=_any_batch(),
    )  # fmt: skip
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda obs: torch.from_numpy(session.run(None, {"obs": obs.numpy()})[0])


def _write_program(module: nn.Module, obs: Tensor, path: Path) -> Callable[[Tensor], Tensor]:
    program = torch.export.export(module, (obs[:2].clone(),), dynamic_shapes=_any_batch())
    torch.export.save(program, path)
    read: Callable[[Tensor], Tensor] = torch.export.load(path).module()
    return read


def _any_batch() -> dict[str, dict[int, Any]]:
    return {"obs": {0: torch.export.Dim("batch")}}


def _write_weights(module: ActionValues, obs: Tensor, path: Path) -> Callable[[Tensor], Tensor]:
    from safetensors.torch import load_file, save_file

    save_file({k: v.contiguous() for k, v in module.network.state_dict().items()}, path)
    other = copy.deepcopy(module)
    for parameter in other.parameters():
        nn.init.constant_(parameter, float("nan"))
    other.network.load_state_dict(load_file(path))
    return other


_WRITERS: dict[Format, Callable[[Any, Tensor, Path], Callable[[Tensor], Tensor]]] = {
    "onnx": _write_onnx,
    "torch_export": _write_program,
    "safetensors": _write_weights,
}
