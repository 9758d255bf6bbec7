import logging
from pathlib import Path

import pytest
import torch

from tests.helpers import toy  # noqa: F401  (registers the toy environments)


@pytest.fixture(autouse=True)
def _one_thread_and_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small networks are fastest on one thread; what a run writes goes into a temporary folder."""
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    logging.getLogger("lightning.pytorch").setLevel(logging.INFO)
