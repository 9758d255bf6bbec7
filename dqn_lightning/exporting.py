"""Takes the network that acts elsewhere: to ONNX, to a program of PyTorch's, or as bare weights."""

import copy
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from dqn_lightning.errors import ConfigError
from dqn_lightning.networks import QNetwork
from dqn_lightning.outputs import check_output, whole

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
"""Greatest difference of action values, as a share of the greatest of them where that is above 1.

Single precision has no more: of values of 64 the network itself gives others for a batch of one.
"""


class Parity(NamedTuple):
    """How near a file comes to the network.

    Attributes:
        difference: The greatest of all action values.
        largest: The greatest action value.
    """

    difference: float
    largest: float

    @property
    def holds(self) -> bool:
        """Whether both compute the same; not if there are values that are no numbers."""
        return self.difference <= TOLERANCE * max(1.0, self.largest)


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
        ConfigError: If it cannot, or a package is missing.
    """
    check_output("--out", path, [SUFFIXES[kind]])
    missing = [package for package in PACKAGES[kind] if find_spec(package) is None]
    if missing:
        raise ConfigError(
            f"--format: {kind} needs {', '.join(missing)}: pip install -e '.[export]'"
        )


def export(network: QNetwork, obs: Tensor, kind: Format, path: Path) -> Parity:
    """Write a network, read it again and compare the two; only then the file is there.

    Args:
        network: What acts; it is not changed.
        obs: Observations [B, …] to compare it with, together and the first one alone.
        kind: The format. Of `safetensors` the parameters are those of `network.state_dict()`.
        path: The file.

    Raises:
        ConfigError: If the network cannot be written in this format, or is another one then.
        OSError: If the file cannot be written.
    """
    module = ActionValues(copy.deepcopy(network).cpu()).eval()
    obs = obs.cpu()
    with whole(path) as unfinished:
        try:
            read = _WRITERS[kind](module, obs[:1], unfinished)
            with torch.no_grad():
                expected = torch.cat([module(obs), module(obs[:1])])
                values = torch.cat([read(obs), read(obs[:1])])
        except OSError:
            raise
        except Exception as error:  # exporters raise many kinds on what they cannot write
            reason = str(error).strip().partition("\n")[0]
            raise ConfigError(
                f"--format: this network cannot be written as {kind} ({type(error).__name__}: "
                f"{reason})"
            ) from error
        parity = Parity(float((values - expected).abs().max()), float(expected.abs().max()))
        if not parity.holds:
            raise ConfigError(
                f"--format: as {kind} action values up to {parity.largest:.3g} differ by "
                f"{parity.difference:.1e}; nothing was written"
            )
    return parity


def write_spaces(path: Path, spaces: dict[str, Any]) -> None:
    """Write down what a network is made for."""
    with whole(path) as unfinished:
        unfinished.write_text(json.dumps(spaces, indent=2) + "\n")


def _write_onnx(module: nn.Module, obs: Tensor, path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    torch.onnx.export(
        module, (_two(obs),), path, dynamo=True, external_data=False, verbose=False,
        input_names=["obs"], output_names=["q_values"], dynamic_shapes=_any_batch(),
    )  # fmt: skip
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda obs: torch.from_numpy(session.run(None, {"obs": obs.numpy()})[0])


def _write_program(module: nn.Module, obs: Tensor, path: Path) -> Callable[[Tensor], Tensor]:
    program = torch.export.export(module, (_two(obs),), dynamic_shapes=_any_batch())
    torch.export.save(program, path)
    read: Callable[[Tensor], Tensor] = torch.export.load(path).module()
    return read


def _two(obs: Tensor) -> Tensor:
    """A batch of two: a batch of one is traced as one that is never more."""
    return obs.repeat(2, *[1] * (obs.ndim - 1))


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
