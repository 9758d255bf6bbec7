import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dqn_lightning import ConfigError
from dqn_lightning.envs import load_observations

VECTORS: Any = ((2,), torch.float32, None)
IMAGES: Any = ((1, 4, 4), torch.uint8, None)
CLASSES: Any = ((2,), torch.int64, (3, 5))


@pytest.mark.parametrize(
    ("kind", "content", "problem"),
    [
        (VECTORS, [torch.zeros(2)], "must contain a dense tensor, got list"),
        (VECTORS, torch.zeros(3, 2).to_sparse(), "must contain a dense tensor"),
        (VECTORS, torch.zeros(0, 2), "has shape [0, 2], expected [number, 2]"),
        (VECTORS, torch.tensor(1.0), "has shape [], expected [number, 2]"),
        (VECTORS, torch.zeros(3, 2) * 1j, "has dtype torch.complex64, expected real numbers"),
        (VECTORS, torch.tensor([[0, 1], [torch.inf, 0]]), "not finite in observation 1"),
        (IMAGES, torch.zeros(2, 1, 4, 4, dtype=torch.int64), "int64, expected torch.uint8"),
        (IMAGES, torch.zeros(2, 1, 4, 4), "has dtype torch.float32, expected torch.uint8"),
        (CLASSES, torch.zeros(3, 2), "has dtype torch.float32, expected torch.int64"),
        (CLASSES, torch.tensor([[2, 4], [0, 5]]), "has a class out of range in observation 1"),
        (CLASSES, torch.tensor([[-1, 4]]), "has a class out of range in observation 0"),
    ],
)
def test_invalid_observations_are_refused(
    kind: Any, content: Any, problem: str, tmp_path: Path
) -> None:
    path = str(tmp_path / "obs.pt")
    torch.save(content, path)
    with pytest.raises(ConfigError, match=rf"^data\.observations: .*{re.escape(problem)}"):
        load_observations(path, *kind)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    for name in ("obs.pt", "obs.npy"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 not a tensor")
        with pytest.raises(ConfigError, match=r"data\.observations: .* cannot be read"):
            load_observations(str(tmp_path / name), *VECTORS)


def test_valid_observations_are_loaded_with_the_dtype_of_the_environment(tmp_path: Path) -> None:
    path = str(tmp_path / "obs.npy")
    np.save(path, np.array([[0.5, 2]]))
    obs = load_observations(path, *VECTORS)
    assert obs.dtype == torch.float32
    assert obs.tolist() == [[0.5, 2.0]]
    np.save(path, np.array([[2, 4]], np.int32))
    assert load_observations(path, *CLASSES).tolist() == [[2, 4]]
