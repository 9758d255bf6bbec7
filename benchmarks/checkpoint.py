"""Measure time and memory of saving a checkpoint: CartPole, and a million Atari-sized frames.

    python -m benchmarks.checkpoint

Rows are random. The timing covers everything that a run does when it saves (`last.ckpt`, state and
new rows, synced to disk). For comparison, the same number of new bytes is written and synced alone.
"""

import os
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from lightning.pytorch import Callback, Trainer

from dqn_lightning import (
    DQNDataModule,
    DQNModule,
    EvaluationSettings,
    ReplaySettings,
    ScheduleSettings,
)
from dqn_lightning.callbacks import Checkpoints, FullState, TargetSync
from dqn_lightning.loggers.csv import CSVLogger
from dqn_lightning.networks import CNN, MLP


class Images(gym.Env[Any, Any]):
    """An environment with the observations of an Atari game and no dynamics."""

    observation_space = spaces.Box(0, 255, (1, 84, 84), np.uint8)
    action_space = spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.observation_space.low, {}

    def step(self, action: Any) -> Any:
        return self.observation_space.low, 0.0, False, False, {}


gym.register("Images-v0", Images)


class Memory:
    """Context manager that measures the peak growth of this process's resident memory, in bytes."""

    def __enter__(self) -> "Memory":
        self._start = self._now()
        self.more = 0
        self._over = False
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._over = True
        self._thread.join()

    def _watch(self) -> None:
        while not self._over:
            self.more = max(self.more, self._now() - self._start)
            time.sleep(0.002)

    def _now(self) -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


class Save(Callback):
    """Callback that repeatedly fills the replay and saves when training starts, then stops."""

    def __init__(self, first: int, new: int, times: int) -> None:
        self.first, self.new, self.times = first, new, times

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        checkpoints = next(c for c in trainer.callbacks if isinstance(c, Checkpoints))
        collector = trainer.datamodule.dataset.collector
        self._fill(collector, self.first)
        self.whole_s, self.whole_memory = self._save(checkpoints, trainer, pl_module)
        self.seconds, self.memory = [], []
        for _ in range(self.times):
            self._fill(collector, self.new)
            seconds, memory = self._save(checkpoints, trainer, pl_module)
            self.seconds.append(seconds)
            self.memory.append(memory)
        self.new_bytes = self.new * collector.replay.step_bytes
        trainer.should_stop = True

    def _fill(self, collector: Any, steps: int) -> None:
        replay = collector.replay
        shape, dtype = replay.read(replay.times[-1:])["obs"].shape[1:], replay.current_obs().dtype
        pool = np.random.default_rng(0).integers(0, 256, (64, *shape))
        pool = pool.astype(dtype)
        one, no = np.ones(1), np.zeros(1, np.bool_)
        for i in range(steps):
            replay.write(one, one, no, no, pool[i % 64])

    def _save(self, checkpoints: Any, trainer: Any, pl_module: Any) -> tuple[float, int]:
        pl_module.progress.env_steps += 1  # nothing is saved twice at the same step
        with Memory() as memory:
            started = time.perf_counter()
            checkpoints._save_last(trainer, pl_module)
            seconds = time.perf_counter() - started
        return seconds, memory.more


def raw_seconds(directory: Path, count: int) -> float:
    """Return the seconds to write and sync `count` random bytes."""
    content = os.urandom(count)
    started = time.perf_counter()
    with (directory / "raw").open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - started


def measure(env_id: str, network: Any, capacity: int, new: int, times: int) -> None:
    with tempfile.TemporaryDirectory(dir=".") as directory:
        data = DQNDataModule(
            env_id,
            replay=ReplaySettings(capacity=capacity),
            schedule=ScheduleSettings(total_env_steps=10),
            evaluation=EvaluationSettings(every_env_steps=None),
        )
        module = DQNModule(data.obs_shape, data.num_actions, network=network)
        save = Save(capacity + capacity // 10, new, times)
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=-1,
            logger=CSVLogger(Path(directory)),
            callbacks=[FullState(), Checkpoints(), save, TargetSync(every_n_grad_steps=100)],
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
        )
        trainer.fit(module, datamodule=data)
        raw = statistics.median(raw_seconds(Path(directory), save.new_bytes) for _ in range(3))
    print(
        f"{env_id}, {capacity:,} rows: whole replay {save.whole_s:.2f} s; after {new:,} new rows "
        f"({save.new_bytes / 1e6:.1f} MB) {1e3 * statistics.median(save.seconds):.0f} ms "
        f"({1e3 * min(save.seconds):.0f} to {1e3 * max(save.seconds):.0f}), the bytes alone "
        f"{1e3 * raw:.0f} ms; extra memory {max(save.memory) / 1e6:.0f} MB, "
        f"{save.whole_memory / 1e6:.0f} MB for the whole replay"
    )


def main() -> None:
    torch.set_num_threads(1)
    measure("CartPole-v1", MLP, 100_000, 2_560, times=20)
    measure("Images-v0", CNN, 1_000_000, 10_000, times=5)


if __name__ == "__main__":
    main()
