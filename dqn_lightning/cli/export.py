"""The command `export`, which writes the network to a file for other programs."""

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from dqn_lightning.analysis.export import (
    SUFFIXES,
    Format,
    check_export_path,
    export_network,
    write_spaces,
)
from dqn_lightning.cli.checkpoint import untrained_note
from dqn_lightning.cli.visited_states import visit_test_states
from dqn_lightning.datamodule import DQNDataModule
from dqn_lightning.errors import ConfigError

if TYPE_CHECKING:
    from dqn_lightning.cli.app import DQNCLI

_NUM_COMPARED = 256
"""Number of visited states on which the exported network is compared with the original."""


def export(
    cli: "DQNCLI",
    ckpt_path: str | None = None,
    format: Format = "onnx",
    out: str | None = None,
) -> None:
    """Export the network, which maps observations to action values, for use in other programs.

    The exported file is loaded again, and its action values are compared with those of the original
    network on states visited in test episodes.

    Args:
        cli: The command line.
        ckpt_path: Checkpoint to export; if null, use untrained weights (requires `--config`).
        format: `onnx`; `torch_export`, a program for `torch.export.load`; or `safetensors`, only
            the weights, with a description of the spaces in a `.spaces.json` file beside them.
            `onnx` and `safetensors` require the extra `export`.
        out: File to write; if null, the checkpoint's path with the suffix of the format.

    Raises:
        ConfigError: If a required package is missing, the network cannot be exported, the file
            cannot be written, or the reloaded network computes different action values.
    """
    data = cli.datamodule
    path = Path(out) if out is not None else _default_path(cli, format)
    check_export_path(format, path)
    states = islice(visit_test_states(cli, episodes=_NUM_COMPARED), _NUM_COMPARED)
    obs = torch.stack([state.obs for state in states])
    try:
        comparison = export_network(cli.model.acting_network, obs, format, path)
        if format == "safetensors":
            write_spaces(path.with_suffix(".spaces.json"), _describe_spaces(data))
    except OSError as error:
        raise ConfigError(f"--out: {path} cannot be written ({error})") from error
    kilobytes = path.stat().st_size / 1_000
    cli.console.print(
        f"written to {path} ({kilobytes:,.0f} kB{untrained_note(cli)}); on {len(obs)} visited "
        f"states, action values of up to {comparison.max_value:.3g} differ by at most "
        f"{comparison.max_difference:.1e}",
        highlight=False,
    )


def _default_path(cli: "DQNCLI", format: Format) -> Path:
    name = cli.datamodule.env.id.replace("/", "-").replace(":", "-")
    stem = Path(name) if cli.checkpoint is None else cli.checkpoint.path.with_suffix("")
    return stem.with_name(stem.name + SUFFIXES[format])


def _describe_spaces(data: DQNDataModule) -> dict[str, Any]:
    """Return the environment id and the spaces that the network was built for.

    `first_action` is the environment's action that corresponds to action 0 of the network.
    """
    env = data.collectors.env_factory.make()
    first_action = int(cast(Any, env.action_space).start)
    env.close()
    return {
        "env_id": data.env.id,
        "obs_shape": list(data.obs_shape),
        "obs_dtype": str(data.collectors.obs_dtype).removeprefix("torch."),
        "obs_classes": data.obs_classes,
        "frame_stack": data.replay.frame_stack,
        "num_actions": data.num_actions,
        "first_action": first_action,
    }
