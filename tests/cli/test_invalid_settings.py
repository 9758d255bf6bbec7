"""An invalid setting is reported in one message that names its flag; nothing is written."""

from pathlib import Path

import pytest

from dqn_lightning.cli.main import main
from tests.helpers.commands import CARTPOLE, SHORT, assert_rejected, fit, read_files

FIT = ["fit", "--config", str(CARTPOLE), *SHORT]

LINEAR_N_STEP = [
    "--data.replay.n_step=dqn_lightning.Linear",
    "--data.replay.n_step.start=1",
    "--data.replay.n_step.end=40",
    "--data.replay.n_step.steps=500",
]
CATEGORICAL = "--model.head=dqn_lightning.networks.CategoricalHead"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--data.env.id=CartPol-v1"], r"data\.env\.id: CartPol-v1 .*CartPole"),
        (["--data.env.id=Pendulum-v1"], r"data\.env\.id: .*discrete"),
        (["--data.env.kwargs.colour=red"], r"data\.env\.kwargs: CartPole-v1 .*colour"),
        (["--data.env.id=Blackjack-v1"], r"FlattenObservation"),
        (["--data.env.num_envs=0"], r"data\.env\.num_envs: must be at least 1, got 0"),
        (
            ["--data.env.kwargs.max_episode_steps=-3"],
            r"data\.env\.kwargs\.max_episode_steps: .* -1 for no limit, got -3",
        ),
        (
            ["--data.evaluation.env_kwargs.max_episode_steps=1.5"],
            r"data\.evaluation\.env_kwargs\.max_episode_steps: .* integer.* got 1\.5",
        ),
        (["--data.env.step_timeout_s=0"], r"data\.env\.step_timeout_s: must be positive, got 0"),
        (
            ["--data.env.step_timeout_s=5"],
            r"data\.env\.step_timeout_s: 5\.0 .*data\.env\.vectorization async.* got auto",
        ),
        (
            [
                "--data.env.id=tests.helpers.toy:toy/Images-v0",
                "--data.env.kwargs.dtype=int64",
                "--model.network=dqn_lightning.networks.CNN",
            ],
            r"data\.env\.id: .*toy/Images-v0 is invalid: environment 0 .*int64.*uint8",
        ),
        (
            [
                "--data.env.id=tests.helpers.toy:toy/Faulty-v0",
                "--data.env.kwargs={fault: nan obs, at: 0}",
            ],
            r"data\.env\.id: .*/Faulty-v0 is invalid: environment 0 .*not finite",
        ),
        (["--data.env.vectorization=none"], r"data\.env\.vectorization: .*'async'.*none"),
        (
            [
                "--data.replay.capacity=50",
                "--data.replay.sampler=dqn_lightning.replay.Uniform",
                "--data.replay.sampler.replacement=false",
                "--data.replay.batch_size=45",
            ],
            r"data\.replay\.batch_size: 45 .*replacement .*data\.replay\.capacity 50; .*\b91\b",
        ),
        (["--data.replay.capacity=2", "--data.replay.batch_size=2"], r"\.capacity: 2 .*\b3\b"),
        (
            [
                "--data.replay.capacity=30",
                "--data.replay.batch_size=8",
                "--data.env.num_envs=8",
                "--data.replay.n_step=4",
            ],
            r"data\.replay\.capacity: 30 .*\b48\b",
        ),
        (
            ["--data.replay.capacity=30", "--data.replay.batch_size=8", *LINEAR_N_STEP],
            r"data\.replay\.capacity: .*n_step 40 .*frame_stack 1 .*\b42\b",
        ),
        (
            ["--data.replay.batch_size=300", "--data.replay.capacity=200"],
            r"data\.replay\.batch_size: 300 .*data\.replay\.capacity 200",
        ),
        (["--data.replay.capacity=1000000000000"], r"data\.replay\.capacity: .*35 TB"),
        (["--data.replay.n_step=0"], r"data\.replay\.n_step: must be at least 1, got 0"),
        (["--data.replay.gamma=1.1"], r"data\.replay\.gamma: .*1\.1"),
        (["--data.replay.reward_clip=0"], r"data\.replay\.reward_clip: must be positive, got 0"),
        (["--data.replay.reward_scale=-1"], r"data\.replay\.reward_scale: .*-1"),
        (
            [
                "--data.replay.sampler=dqn_lightning.replay.Prioritized",
                "--data.replay.sampler.alpha=-1",
            ],
            r"data\.replay\.sampler\.alpha: must not be negative.* got -1",
        ),
        (["--data.schedule.total_env_steps=0"], r"data\.schedule\.total_env_steps: .*0"),
        (["--data.schedule.train_every_env_steps=0"], r"data\.schedule\.train_every_env_steps: "),
        (["--data.schedule.learning_starts_env_steps=-1"], r"learning_starts_env_steps: .*-1"),
        (
            ["--data.schedule.learning_starts_env_steps=601"],
            r"\.total_env_steps: .*600, .* 608 \(see data\.schedule\.learning_starts_env_steps\)",
        ),
        (["--data.exploration.epsilon=1.5"], r"data\.exploration\.epsilon: .*\[0, 1\].*1\.5"),
        (
            ["--data.exploration.epsilon.init_args.end=-0.1"],
            r"data\.exploration\.epsilon: .*-0\.\d+ at environment step",
        ),
        (
            ["--data.exploration.epsilon.init_args.steps=0"],
            r"data\.exploration\.epsilon: .*steps must be at least 1, got 0",
        ),
        (
            [*LINEAR_N_STEP[:-1], "--data.replay.n_step.steps=0"],
            r"data\.replay\.n_step: .*steps must be at least 1, got 0",
        ),
        (["--data.evaluation.every_env_steps=-5"], r"data\.evaluation\.every_env_steps: .*-5"),
        (["--data.evaluation.epsilon=2"], r"data\.evaluation\.epsilon: .*2"),
        (
            ["--data.evaluation.wrappers=[gymnasium.wrappers.TimeAwareObservation]"],
            r"data\.evaluation\.wrappers: .*\(5,\).*\(4,\)",
        ),
        (
            ["--data.evaluation.env_kwargs.colour=red"],
            r"data\.evaluation\.env_kwargs: CartPole-v1 .*colour",
        ),
        (
            ["--data.evaluation.wrappers=[gymnasium.wrappers.GrayscaleObservation]"],
            r"data\.evaluation\.wrappers: GrayscaleObservation does not fit .*3 channels",
        ),
        (
            [
                "--data.env.id=CliffWalking-v1",
                "--data.env.wrappers=[gymnasium.wrappers.TimeAwareObservation]",
            ],
            r"data\.env\.wrappers: TimeAwareObservation does not fit .*TimeLimit",
        ),
        (["--data.evaluation.episodes=0"], r"data\.evaluation\.episodes: .*0"),
        (["--data.seed=-1"], r"data\.seed: must not be negative, got -1"),
        (["--model.network.init_args.widths=[0]"], r"model\.network: .*widths .*at least 1"),
        (["--model.head={}"], r"model\.head: name the class"),
        ([CATEGORICAL, "--model.head.num_atoms=1"], r"model\.head: .*num_atoms 1"),
        (
            [
                "--model.optimizer.init_args.differentiable=true",
                "--model.optimizer.init_args.fused=null",
            ],
            r"model\.optimizer: differentiable",
        ),
        (
            ["--model.optimizer.init_args.capturable=true"],
            r"model\.optimizer: capturable must be false on a CPU",
        ),
        (["--model.optimizer.init_args.lr=-1"], r"model\.optimizer: .*learning rate"),
        (["--model.optimizer=SparseAdam"], r"model\.optimizer: SparseAdam needs sparse .*Adam"),
        (["--model.optimizer=LBFGS"], r"model\.optimizer: LBFGS needs .*use Adam"),
        (["--model.engine=cudagraph"], r"model\.engine: cudagraph .*auto"),
        (["--target_sync.every_n_env_steps=0"], r"target_sync\.every_n_env_steps: .*0"),
        (["--target_sync.every_n_episodes=5"], r"target_sync: .*exactly one"),
        (["--gradient_clamp.norm=0"], r"gradient_clamp\.norm: must be positive, got 0"),
        (["--episode_log.window=0"], r"episode_log\.window: must be at least 1, got 0"),
        (["--checkpoints.every_n_minutes=0"], r"checkpoints\.every_n_minutes: .*positive, got 0"),
        (["--checkpoints.monitor=nothing"], r"checkpoints\.monitor: no metric nothing; .*mean"),
        (["--num_threads=0"], r"num_threads: must be at least 1, got 0"),
        (["--seed_everything=-1"], r"seed_everything: -1 "),
        (["--run_name=../out"], r"run_name: .*\.\./out"),
        (["--run_name=a::b"], r"run_name: .*, without '::', .*got 'a::b'"),
        ([f"--run_name={'x' * 300}"], r"run_name: .*of at most 200 bytes, got 'xxx"),
        ([f"--run_name={'x' * 300}", "--ckpt_path=auto"], r"run_name: .*of at most 200 bytes"),
        (["--ckpt_path=nowhere.ckpt"], r"ckpt_path: nowhere\.ckpt "),
        (["--ckpt_path=."], r"ckpt_path: \. .*directory"),
        (["--trainer.gradient_clip_val=1"], r"trainer\.gradient_clip_val: .*gradient_clamp"),
        (["--trainer.accumulate_grad_batches=2"], r"accumulate_grad_batches: .*batch_size"),
        (["--trainer.precision=16-mixed"], r"trainer\.precision: 16-mixed .*bf16-mixed"),
        (["--trainer.precision=16"], r"trainer\.precision: .*bf16-mixed"),
        (["--trainer.min_steps=9"], r"trainer\.min_steps: .*data\.schedule\.total_env_steps"),
        (["--trainer.strategy=ddp_spawn"], r"trainer\.strategy: ddp_spawn .*ddp"),
        (["--trainer.accelerator=abacus"], r"trainer\.accelerator: .*abacus"),
        (["--trainer.accelerator=gpu", "--trainer.devices=1"], r"trainer\.accelerator: .*gpu"),
        (["--trainer.devices=0"], r"trainer\.devices: .*Trainer\(devices="),
        (["--trainer.devices=-2"], r"trainer\.devices: .*> 0"),
        (["--trainer.overfit_batches=1.5"], r"trainer\.overfit_batches: .*1\.5"),
        (
            [
                "--trainer.callbacks+=EarlyStopping",
                "--trainer.callbacks.monitor=x",
                "--trainer.callbacks.mode=median",
            ],
            r"trainer\.callbacks: .*median",
        ),
        (
            ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=train/loss"],
            r"trainer\.callbacks: EarlyStopping\.monitor: no metric train/loss; .*return_mean",
        ),
        (
            ["--trainer.callbacks+=LearningRateMonitor", "--trainer.fast_dev_run=true"],
            r"trainer: .*LearningRateMonitor.* no logger",
        ),
        (["--trainer.callbacks+=dqn_lightning.callbacks.Timing"], r"trainer\.callbacks: .*Timing"),
        (
            ["--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=1.0"],
            r"trainer\.callbacks: StochasticWeightAveraging",
        ),
        (
            ["--model.lr_scheduler=StepLR", "--model.lr_scheduler.step_size=0.5"],
            r"model\.lr_scheduler: .*step_size",
        ),
        (
            [
                "--model.lr_scheduler=ExponentialLR",
                "--model.lr_scheduler.gamma=0.9",
                "--model.lr_scheduler.last_epoch=2",
            ],
            r"model\.lr_scheduler: KeyError: .*initial_lr",
        ),
        (["--trainer.overfit_batches=0.5"], r"trainer\.overfit_batches: .* no part 0\.5"),
        (["--trainer.max_time=soon"], r"trainer\.max_time: .*soon"),
    ],
)
def test_setting_is_rejected(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_rejected([*FIT, *flags], words, capsys)
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--data.replay.n_stepp", "3"], r"--data\.replay\.n_stepp 3.*--data\.replay\.n_step\?"),
        (["--data.replay.capacit=3"], r"--data\.replay\.capacit=3.*--data\.replay\.capacity\?"),
        (["--data.colour=red"], r"--data\.colour=red"),
        (["--data.replay.capacity=many"], r"data\.replay\.capacity: expected int, got 'many'"),
        (
            ["--data.schedule.total_episodes=1.5"],
            r"data\.schedule\.total_episodes: expected int or None, got '1\.5'",
        ),
        (["--data.replay.capacity"], r"--data\.replay\.capacity: .*one argument"),
        (
            ["--data.exploration.epsilon.init_args.step=1"],
            r"data\.exploration\.epsilon: .*step",
        ),
        (["--model.network=nowhere.Net"], r"model\.network: .*nowhere"),
        (["--data.env", "Acrobot-v1", "--data.env.num_envs=2"], r"--data\.env: .*Acrobot-v1"),
        (["--config=nowhere.yaml"], r"config: .*nowhere\.yaml"),
    ],
)
def test_arguments_that_cannot_be_parsed_are_rejected_without_printing_the_usage(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_rejected([*FIT, *flags], words, capsys)
    assert not list(Path().iterdir())


def test_unknown_key_in_a_config_is_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    config = Path("mine.yaml")
    config.write_text(CARTPOLE.read_text().replace("capacity:", "capacitance:"))
    assert_rejected(["fit", "--config=mine.yaml"], "capacitance", capsys)
    assert [path.name for path in Path().iterdir()] == ["mine.yaml"]


def test_unusable_checkpoint_is_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    assert fit() == 0
    run = Path("checkpoints/cartpole")
    complete = (run / "last.ckpt").read_bytes()
    (run / "truncated.ckpt").write_bytes(complete[: len(complete) // 2])
    before = read_files(run)
    truncated = ["fit", "--ckpt_path", str(run / "truncated.ckpt")]
    assert_rejected(truncated, r"--ckpt_path: .*truncated\.ckpt ", capsys)
    last = ["--ckpt_path", str(run / "last.ckpt")]
    words = r"--ckpt_path: .*last\.ckpt .*\(4,\), 2 actions"
    assert_rejected(["test", *last, "--data.env.id=Acrobot-v1"], words, capsys)
    assert read_files(run) == before
    (run / "config.yaml").unlink()
    assert_rejected(["test", *last], r"--ckpt_path: .*config\.yaml", capsys)


def test_several_settings_of_a_group_can_be_given_as_a_mapping() -> None:
    flags = ["--data.env={id: Acrobot-v1, num_envs: 2}", "--trainer.fast_dev_run=true"]
    assert main([*FIT, *flags]) == 0
