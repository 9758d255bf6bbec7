"""A config that comes with a checkpoint cannot run code, import modules or choose files."""

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
import yaml

from dqn_lightning import ConfigError
from dqn_lightning.cli import app, trust
from dqn_lightning.cli.main import main
from dqn_lightning.cli.registry import COMMANDS
from dqn_lightning.cli.trust import check_config, known_names
from tests.helpers.commands import CARTPOLE, CONFIGS, ROOT, assert_rejected, copy_pretrained, fit

EVIL_MODULE = """
from pathlib import Path
Path("imported").touch()

def call(*args, **kwargs):
    Path("called").touch()

class Anything:
    __init__ = call
"""
PIPE = {"class_path": "pydoc.pipepager", "init_args": {"text": "x", "cmd": "touch called"}}
CALL = {"class_path": "evil.call"}
OPTIMIZER = "model.optimizer.init_args"
MLP = "model.network.init_args"


@pytest.fixture
def stranger(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Directory of a checkpoint from a stranger, and an importable module that leaves traces."""
    copy_pretrained("cartpole")
    Path("evil.py").write_text(EVIL_MODULE)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    yield Path("cartpole")
    sys.modules.pop("evil", None)


def set_values(directory: Path, values: dict[str, Any]) -> None:
    """Change settings, given by dotted keys, in the config of a directory."""
    path = directory / "config.yaml"
    config = yaml.safe_load(path.read_text())
    for key, value in values.items():
        *parents, name = key.split(".")
        group = config
        for parent in parents:
            if not isinstance(group.get(parent), dict):
                group[parent] = {}
            group = group[parent]
        group[name] = value
    path.write_text(yaml.safe_dump(config))


def assert_nothing_ran() -> None:
    assert not [*Path().rglob("called"), *Path().rglob("imported")]
    assert "evil" not in sys.modules
    assert not Path("checkpoints").exists()


NAMED_CODE = {
    "a function where a head is created": ("model.head", PIPE),
    "a function where a head factory is expected": ("model.head", "evil.call"),
    "a function where a network is expected": ("model.network", "torch.hub.load"),
    "a class that is not on the list": ("model.network", {"class_path": "evil.Anything"}),
    "a module in the name of a module": (
        "model.objective",
        {"class_path": "torch.nn.parallel.distributed.os.system"},
    ),
    "a module that this project imports": (
        "model.objective",
        {"class_path": "dqn_lightning.cli.main.sys.exit"},
    ),
    "a nested class": (f"{MLP}.activation", CALL),
    "a nested function": (f"{MLP}.activation", "evil.call"),
    "a wrapper": ("data.env.wrappers", ["evil.call"]),
    "an evaluation wrapper": ("data.evaluation.wrappers", [CALL]),
    "a wrapper that takes a function": (
        "data.env.wrappers",
        [{"class_path": "gymnasium.wrappers.TransformReward", "init_args": {"func": "os.system"}}],
    ),
    "a wrapper that writes files": (
        "data.env.wrappers",
        [
            {
                "class_path": "gymnasium.wrappers.RecordVideo",
                "init_args": {"video_folder": "videos"},
            }
        ],
    ),
    "a class in keyword arguments of any type": ("data.env.kwargs", {"render_mode": CALL}),
    "a class deep in keyword arguments": ("data.evaluation.env_kwargs", {"a": [{"b": CALL}]}),
    "a class in dict_kwargs": (
        "model.network",
        {"class_path": "dqn_lightning.networks.MLP", "dict_kwargs": {"activation": CALL}},
    ),
    "an optimizer": ("model.optimizer", CALL),
    "a value for an optimizer": (f"{OPTIMIZER}.foreach", CALL),
    "a learning-rate function": (
        "model.lr_scheduler",
        {
            "class_path": "torch.optim.lr_scheduler.LambdaLR",
            "init_args": {"lr_lambda": "evil.call"},
        },
    ),
    "a sampler": ("data.replay.sampler", "evil.Anything"),
    "an augmentation": ("data.replay.augmentations", [CALL]),
    "a schedule": ("data.exploration.epsilon", CALL),
    "a callback that calls functions": (
        "trainer.callbacks",
        [
            {
                "class_path": "lightning.pytorch.callbacks.LambdaCallback",
                "init_args": {"setup": "evil.call"},
            }
        ],
    ),
    "a profiler": (
        "trainer.profiler",
        {"class_path": "lightning.pytorch.profilers.AdvancedProfiler", "init_args": {}},
    ),
    "a logger": ("trainer.logger", {"class_path": "lightning.pytorch.loggers.WandbLogger"}),
    "a plugin": ("trainer.plugins", [CALL]),
    "a strategy": ("trainer.strategy", CALL),
    "an accelerator": ("trainer.accelerator", "evil.Anything"),
    "a class in place of a group": ("data.env", CALL),
    "a name in place of a group": ("data", "evil.call"),
    "a name for the seed": ("seed_everything", "evil.call"),
}

OTHER_ATTACKS = {
    "an environment of another module": ("data.env.id", "evil:Env-v0"),
    "a module in an environment's arguments": ("data.env.kwargs", {"env_id": "evil:Env-v0"}),
    "a mapping in a string": ("model.head", "{class_path: evil.call}"),
    "a list in a string": ("data.env.wrappers", "[evil.call]"),
    "a list in lines of a string": ("data.env.wrappers", "- evil.call"),
    "a config in a file": ("model.head", "head.yaml"),
    "a config in a file beside the config": ("data.env", "env.txt"),
    "a config in a file with the name of a class": ("model.network", "torch.nn.GELU"),
    "a config at an address": ("model", "http://127.0.0.1:1/model.yaml"),
    "a config in an address": ("model", "data:,head: {class_path: evil.call}"),
    "an absolute path": ("trainer.default_root_dir", "/tmp"),
    "a parent directory": ("trainer.default_root_dir", "a/../.."),
    "only a parent directory": ("trainer.default_root_dir", ".."),
    "a home directory": ("trainer.default_root_dir", "~/x"),
    "a link to another directory": ("trainer.default_root_dir", "cartpole/link"),
    "a bucket": ("trainer.default_root_dir", "s3://bucket/x"),
    "a logger in another directory": (
        "trainer.logger",
        {
            "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
            "init_args": {"save_dir": "logs", "name": "../.."},
        },
    ),
    "observations from another directory": ("data.observations", "/etc/passwd"),
    "a registry to upload to": ("trainer.model_registry", "models"),
    "a file to write": ("out", "train.py"),
    "another config": ("config", "other.yaml"),
    "another checkpoint": ("ckpt_path", "other.ckpt"),
    "trust in itself": ("trust_config", True),
    "settings of a command": ("test", {"model": {"head": "evil.call"}}),
    "a private key": ("model.__path__", "x"),
    "a key that is not a name": ("data.env.kwargs", {"a: b": 1}),
    "a key that is a number": ("data.env.kwargs", {1: 1}),
}


@pytest.mark.parametrize("attack", [*NAMED_CODE, *OTHER_ATTACKS])
def test_config_of_a_stranger_is_refused_in_one_line(
    attack: str, stranger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, value = {**NAMED_CODE, **OTHER_ATTACKS}[attack]
    set_values(stranger, {key: value})
    Path("head.yaml").write_text("class_path: evil.call\n")
    (stranger / "env.txt").write_text("id: evil:Env-v0\n")
    (stranger / "torch.nn.GELU").write_text("class_path: evil.call\n")
    (stranger / "link").symlink_to(Path.cwd().parent)
    assert main(["test", "--ckpt_path", "cartpole/best.ckpt"]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(rf"error: {re.escape(key)}.*--trust_config trusts it\n", error), error
    assert_nothing_ran()


@pytest.mark.processes
@pytest.mark.parametrize("attack", NAMED_CODE)
def test_parser_refuses_names_even_if_the_config_was_not_checked(
    attack: str, stranger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "check_config", lambda path: None)
    key, value = NAMED_CODE[attack]
    set_values(stranger, {key: value, "data.evaluation.test_episodes": 1})
    main(["test", "--ckpt_path", "cartpole/best.ckpt"])
    assert_nothing_ran()


@pytest.mark.parametrize(
    "values",
    [
        {"trainer.callbacks": ["LambdaCallback"]},
        {"trainer.logger": "WandbLogger"},
        {"data.env.wrappers": ["TransformReward"]},
    ],
)
def test_short_names_refer_to_known_classes_only(
    values: dict[str, Any], stranger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_values(stranger, values)
    (key,) = values
    words = rf"{re.escape(key)}: .* is refused: .*--trust_config"
    assert_rejected(["test", "--ckpt_path", "cartpole/best.ckpt"], words, capsys)


@pytest.mark.parametrize(
    "name",
    ["test.json", "predictions.pt", "metrics.csv", "state", "state/rank-0", ".tmp-last.ckpt"],
)
def test_link_to_a_file_elsewhere_is_refused(
    name: str, stranger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine").mkdir()
    link = stranger / name
    link.unlink(missing_ok=True)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(Path("mine").resolve())
    words = rf"--ckpt_path: cartpole/{re.escape(name)} is a symbolic link.*--trust_config"
    assert_rejected(["test", "--ckpt_path=cartpole/best.ckpt"], words, capsys)


COMMANDS_WITH_CHECKPOINT = [
    name for name, command in COMMANDS.items() if not command.has_own_parser and name != "screen"
]


@pytest.mark.parametrize("command", COMMANDS_WITH_CHECKPOINT)
def test_every_command_refuses_the_config_of_a_stranger(
    command: str, stranger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_values(stranger, {"model.head": PIPE})
    before = sorted(Path().rglob("*"))
    arguments = [command, "--ckpt_path=cartpole/best.ckpt"]
    defaults = {"fit": CARTPOLE}
    assert_rejected(arguments, r"model\.head\.class_path: pydoc\.pipepager ", capsys, defaults)
    assert_nothing_ran()
    assert sorted(Path().rglob("*")) == before


def test_last_checkpoint_of_a_run_follows_the_same_rule(
    stranger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("checkpoints").mkdir()
    stranger.rename("checkpoints/cartpole").joinpath("best.ckpt").rename(
        "checkpoints/cartpole/last.ckpt"
    )
    set_values(Path("checkpoints/cartpole"), {"model.head": PIPE})
    arguments = ["fit", "--ckpt_path", "last"]
    assert_rejected(arguments, r"model\.head.*--trust_config", capsys, {"fit": CARTPOLE})
    assert not Path("called").exists()


def test_checkpoint_that_could_run_code_is_refused_without_advice_to_run_it(
    stranger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return Path.touch, (Path("called"),)

    torch.save({"state_dict": {}, "a": Hostile()}, stranger / "best.ckpt")
    words = r"^error: --ckpt_path: cartpole/best\.ckpt contains objects other than tensors .*\n$"
    for command in COMMANDS_WITH_CHECKPOINT:
        assert main([command, "--ckpt_path=cartpole/best.ckpt"]) == 2
        error = capsys.readouterr().err.removeprefix("Seed set to 1\n")
        assert re.search(words, error), error
        assert "weights_only" not in error
    assert_nothing_ran()


# What the user names is trusted -------------------------------------------------------------------

MY_MODULE = """
from __future__ import annotations

import gymnasium as gym
from torch import nn

class Torso(nn.Flatten):
    def __init__(self, shape):
        super().__init__()

class Same(gym.Wrapper):
    pass

def make_torso(shape) -> nn.Module:
    return Torso(shape)

def make_other(shape):
    return Torso(shape)
"""


@pytest.fixture
def my_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An importable module with a network and a wrapper."""
    Path("my_module.py").write_text(MY_MODULE)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    yield
    sys.modules.pop("my_module", None)


TEST = ["test", "--ckpt_path=cartpole/best.ckpt", "--data.evaluation.test_episodes=1"]


@pytest.mark.processes
@pytest.mark.usefixtures("my_module")
@pytest.mark.parametrize(
    "flag",
    [
        "--data.env.wrappers+=my_module.Same",
        "--data.env.wrappers=[{class_path: my_module.Same}]",
        "--data.env=env.yaml",
        "--data.env.wrappers+=gymnasium.wrappers.RecordEpisodeStatistics",
    ],
)
def test_flags_may_name_any_class(flag: str) -> None:
    copy_pretrained("cartpole")
    Path("env.yaml").write_text("wrappers: [my_module.Same]\n")
    assert main([*TEST, flag]) == 0


@pytest.mark.processes
@pytest.mark.usefixtures("my_module")
def test_trust_config_allows_any_name() -> None:
    copy_pretrained("cartpole")
    set_values(Path("cartpole"), {"data.env.wrappers": ["my_module.Same"]})
    assert main(TEST) == 2
    assert main([*TEST, "--trust_config"]) == 0


@pytest.mark.processes
@pytest.mark.usefixtures("my_module")
def test_commands_that_fit_prints_trust_the_config_if_it_names_a_class_of_the_user(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert fit("--model.network=my_module.Torso", "--data.evaluation.episodes=1") == 0
    printed = re.search(r"test it +python train\.py (.*)", capsys.readouterr().out)
    assert printed is not None
    arguments = [*printed[1].split(), "--data.evaluation.test_episodes=1"]
    assert "--trust_config" in arguments
    assert main(arguments) == 0
    arguments.remove("--trust_config")
    assert_rejected(arguments, r"model\.network.*my_module\.Torso.*--trust_config", capsys)
    resume = ["fit", "--ckpt_path=last", "--data.schedule.total_env_steps=700"]
    assert main(resume, {"fit": CARTPOLE}) == 2
    assert main([*resume, "--trust_config"], {"fit": CARTPOLE}) == 0
    assert "trust_config" not in Path("checkpoints/cartpole/config.yaml").read_text()


@pytest.mark.processes
def test_commands_that_fit_prints_need_no_trust_for_known_classes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert fit("--run_name=with space", "--data.evaluation.episodes=1") == 0
    printed = capsys.readouterr().out
    assert "test --ckpt_path 'checkpoints/with space/best.ckpt'\n" in printed
    assert "--trust_config" not in printed


# Functions in place of classes, given by the user ------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (["--model.network=torch.hub.load"], "torch.hub.load"),
        (["--model.head=pydoc.pipepager"], "pydoc.pipepager"),
        (["--model.head={class_path: pydoc.pipepager}"], "pydoc.pipepager"),
        (["--model.head.class_path=pydoc.pipepager"], "pydoc.pipepager"),
        (["--model.network.init_args.activation=torch.relu"], "torch.relu"),
        (["--model.network=my_module.make_other"], "my_module.make_other"),
        (["--data.env.wrappers+=my_module.make_torso"], "my_module.make_torso"),
        (["--model.optimizer=torch.hub.load"], "torch.hub.load"),
        (["--model.lr_scheduler=torch.hub.load"], "torch.hub.load"),
    ],
)
@pytest.mark.usefixtures("my_module")
def test_function_without_a_matching_return_annotation_is_refused(
    flags: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    key = flags[0].removeprefix("--").removesuffix("+").partition("=")[0].removesuffix("+")
    key = key.removesuffix(".class_path").removesuffix(".init_args.activation")
    arguments = ["test", "--config", str(CARTPOLE), *flags]
    words = rf"^error: {re.escape(key)}: '{re.escape(name)}' is refused: .*return annotation.*\n$"
    assert_rejected(arguments, words, capsys)


@pytest.mark.processes
@pytest.mark.usefixtures("my_module")
def test_function_with_a_matching_return_annotation_is_accepted() -> None:
    arguments = ["validate", "--config", str(CARTPOLE), "--data.evaluation.episodes=1"]
    assert main([*arguments, "--model.network=my_module.make_torso"]) == 0


# Texts that are read differently than they look --------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model: !!python/object/apply:os.system ['touch called']", "cannot be read"),
        ("model: &a [*a]", r"model\[0\].*more than 10000 values"),
        ("model: &a {b: *a}", r"model\.b.*more than 10000 values"),
        ("run_name: &a [evil.call]\ntrainer: {callbacks: *a}", r"run_name\[0\]: evil\.call"),
        ("data: {env.id: 'evil:Env-v0'}", r"data\.env\.id: 'evil:Env-v0'"),
        ("data.env.id: evil:Env-v0", r"data\.env\.id: 'evil:Env-v0'"),
        ("? [a, b]\n: 1", "cannot be read|not the name of a setting"),
        ("<<: {model: {head: evil.call}}", r"model\.head: evil\.call"),
        ("model: !!set {a}", "cannot be read|must be a plain value"),
        ("model: !!binary YQ==", "must be a plain value, got bytes"),
        ('"a\\nb": 1', r"^'a\\nb': is not a setting"),
        ('model: {"a\\e[0m": 1}', r"^'model\.a\\x1b\[0m': is not the name"),
        ("- model", "is not a mapping"),
        ("a: 1\n---\nb: 2", "cannot be read"),
        ("model: {head: 'os.system '}", "more than a plain word"),
        ('model: {head: "os.system\\n"}', "more than a plain word"),
        ("\N{REPLACEMENT CHARACTER}\x00", "cannot be read"),
    ],
)
def test_text_of_a_config_is_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        check_config(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("model: 2001-12-14", "2001-12-14"),
        ("model: 2001-12-14 21:59:43", "2001-12-14 21:59:43"),
        ("model: '12'", "12"),
        ("model: 1.5", "1.5"),
        ("model: .inf", ".inf"),
        ("model: '[0, 1]'", "[0, 1]"),
        ("model: 'null'", "null"),
    ],
)
def test_number_or_date_that_is_the_name_of_a_file_is_refused(
    text: str, name: str, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text(text)
    (tmp_path / name).write_text("head: {class_path: evil.call}")
    with pytest.raises(ConfigError, match="is the name of a file"):
        check_config(tmp_path / "config.yaml")


def test_integer_is_not_the_name_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("num_threads: 1")
    (tmp_path / "1").touch()  # the parser receives a number, too
    check_config(tmp_path / "config.yaml")


# What is accepted -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [*CONFIGS.rglob("*.yaml"), *(ROOT / "checkpoints/pretrained").rglob("config.yaml")],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_shipped_configs_need_no_trust(path: Path) -> None:
    check_config(path)


def test_common_settings_need_no_trust(tmp_path: Path) -> None:
    set_values(
        copy_of(CARTPOLE, tmp_path),
        {
            "run_name": "my run v1.2",
            "data.observations": "obs.npy",
            "data.env.kwargs": {"render_mode": "rgb_array", "desc": ["SF", "FG"], "size": 1e-3},
            "data.replay.reward_clip": float("inf"),
            "model.noisy_sigma": -0.5,
            "trainer.precision": "bf16-mixed",
            "trainer.devices": "0,1",
            "trainer.strategy": "ddp_find_unused_parameters_true",
            "trainer.max_time": "00:12:00:00",
            "trainer.profiler": "simple",
            "trainer.logger": [
                {
                    "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
                    "init_args": {"save_dir": "logs", "name": "", "version": None},
                }
            ],
            "trainer.callbacks": [
                {"class_path": "dqn_lightning.callbacks.Video", "init_args": {"fps": 10.0}},
                {
                    "class_path": "lightning.pytorch.callbacks.EarlyStopping",
                    "init_args": {"monitor": "eval/return_mean"},
                },
                {"class_path": "lightning.pytorch.callbacks.LearningRateMonitor"},
                {"class_path": "lightning.pytorch.callbacks.RichProgressBar"},
            ],
        },
    )
    check_config(tmp_path / "config.yaml")


def copy_of(config: Path, directory: Path) -> Path:
    (directory / "config.yaml").write_text(config.read_text())
    return directory


def test_known_names_are_names_of_classes() -> None:
    for name in known_names():
        module, _, attribute = name.rpartition(".")
        assert inspect.isclass(getattr(sys.modules[module], attribute)), name


def test_known_wrappers_take_no_function_module_or_path() -> None:
    for name in known_names():
        if name.startswith("gymnasium."):
            wrapper = getattr(gym.wrappers, name.rpartition(".")[2])
            signature = str(inspect.signature(wrapper.__init__))
            assert not re.search("Callable|ModuleType|Path|folder|file|path", signature), signature


@pytest.mark.parametrize(
    "name",
    [
        "dqn_lightning.DQNDataModule",
        "dqn_lightning.EnvSettings",
        "dqn_lightning.loggers.CSVLogger",
        "lightning.pytorch.callbacks.LambdaCallback",
        "lightning.pytorch.callbacks.ModelCheckpoint",
        "gymnasium.wrappers.RecordVideo",
        "gymnasium.wrappers.TransformObservation",
        "torch.nn.parallel.distributed.os.system",
        "dqn_lightning.callbacks.checkpoints.torch.hub.load",
    ],
)
def test_classes_that_make_environments_write_files_or_call_functions_are_not_known(
    name: str,
) -> None:
    assert name not in known_names()


def test_list_of_settings_contains_every_key_of_a_config_that_fit_writes() -> None:
    written = yaml.safe_load((ROOT / "checkpoints/pretrained/cartpole/config.yaml").read_text())
    assert set(written) == trust._SETTINGS
