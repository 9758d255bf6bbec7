"""Export of a Q-network to ONNX, to a `torch.export` program or to safetensors weights."""

import copy
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from dqn_lightning.checkpointing.files import atomic_write, check_output
from dqn_lightning.errors import ConfigError
from dqn_lightning.networks import QNetwork

Format: TypeAlias = Literal["onnx", "torch_export", "safetensors"]
"""Supported file formats."""

SUFFIXES: dict[Format, str] = {
    "onnx": ".onnx",
    "torch_export": ".pt2",
    "safetensors": ".safetensors",
}
"""File suffix for each format."""

PACKAGES: dict[Format, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "torch_export": (),
    "safetensors": ("safetensors",),
}
"""Python packages required for each format."""

TOLERANCE = 1e-5
"""Maximum difference between the action values of the original and the exported network.

If the largest absolute action value exceeds 1, the difference is divided by it. In single precision
the tolerance cannot be smaller: even the original network computes slightly different values for
batches of different sizes.
"""


class ExportComparison(NamedTuple):
    """Comparison of the action values of an exported network with those of the original network.

    Attributes:
        max_difference: Largest absolute difference between the action values of the two networks.
        max_value: Largest absolute action value of the original network.
    """

    max_difference: float
    max_value: float

    @property
    def within_tolerance(self) -> bool:
        """Whether the action values agree up to `TOLERANCE`; False if a value is NaN."""
        return self.max_difference <= TOLERANCE * max(1.0, self.max_value)


class ActionValues(nn.Module):
    """Module that wraps a Q-network and returns only the action values."""

    def __init__(self, network: QNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, obs: Tensor) -> Tensor:
        """Return action values [B, A] for observations [B, …]."""
        values: Tensor = self.network(obs).q_values
        return values


def check_export_path(kind: Format, path: Path) -> None:
    """Check that a file can be written, and that the packages for its format are installed.

    Args:
        kind: File format.
        path: File to write.

    Raises:
        ConfigError: If the path cannot be written or has the wrong suffix, or a required package is
            missing.
    """
    check_output("--out", path, [SUFFIXES[kind]])
    missing = [package for package in PACKAGES[kind] if find_spec(package) is None]
    if missing:
        raise ConfigError(
            f"--format: {kind} requires {', '.join(missing)} (pip install -e '.[export]')"
        )


def export_network(network: QNetwork, obs: Tensor, kind: Format, path: Path) -> ExportComparison:
    """Export a network to a file, load the file, and compare the loaded network with the original.

    The file is kept only if both networks compute the same action values up to `TOLERANCE`.

    Args:
        network: Network to export; it is not modified.
        obs: Observations [B, …] for which action values are compared, once for the whole batch and
            once for the first observation alone.
        kind: File format. A `safetensors` file contains the tensors of `network.state_dict()`.
        path: File to write.

    Raises:
        ConfigError: If the network cannot be exported to this format, or the loaded network
            computes different action values.
        OSError: If the file cannot be written.
    """
    module = ActionValues(copy.deepcopy(network).cpu()).eval()
    obs = obs.cpu()
    with atomic_write(path) as unfinished:
        try:
            loaded = _WRITERS[kind](module, obs[:1], unfinished)
            with torch.no_grad():
                expected = torch.cat([module(obs), module(obs[:1])])
                values = torch.cat([loaded(obs), loaded(obs[:1])])
        except OSError:
            raise
        except Exception as error:  # exporters raise errors of many types
            reason = str(error).strip().partition("\n")[0]
            raise ConfigError(
                f"--format: this network cannot be exported to {kind} ({type(error).__name__}: "
                f"{reason})"
            ) from error
        comparison = ExportComparison(
            float((values - expected).abs().max()), float(expected.abs().max())
        )
        if not comparison.within_tolerance:
            raise ConfigError(
                f"--format: the network exported to {kind} computes different action values: they "
                f"differ by up to {comparison.max_difference:.1e}, the largest is "
                f"{comparison.max_value:.3g}; no file was written"
            )
    return comparison


def write_spaces(path: Path, spaces: dict[str, Any]) -> None:
    """Write a description of the observation and action spaces to a JSON file.

    Args:
        path: File to write.
        spaces: Description that can be encoded as JSON.
    """
    with atomic_write(path) as unfinished:
        unfinished.write_text(json.dumps(spaces, indent=2) + "\n")


def _write_onnx(module: nn.Module, obs: Tensor, path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    torch.onnx.export(
        module, (_batch_of_two(obs),), path, dynamo=True, external_data=False, verbose=False,
        input_names=["obs"], output_names=["q_values"], dynamic_shapes=_dynamic_batch(),
    )  # fmt: skip
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda obs: torch.from_numpy(session.run(None, {"obs": obs.numpy()})[0])


def _write_program(module: nn.Module, obs: Tensor, path: Path) -> Callable[[Tensor], Tensor]:
    program = torch.export.export(module, (_batch_of_two(obs),), dynamic_shapes=_dynamic_batch())
    torch.export.save(program, path)
    loaded: Callable[[Tensor], Tensor] = torch.export.load(path).module()
    return loaded


def _batch_of_two(obs: Tensor) -> Tensor:
    """Return a batch [2, …] with two copies of an observation [1, …].

    When a network is traced with a batch size of 1, the exporter treats this size as a constant.
    """
    return obs.repeat(2, *[1] * (obs.ndim - 1))


def _dynamic_batch() -> dict[str, dict[int, Any]]:
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
