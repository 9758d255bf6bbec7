"""Private functions of jsonargparse still exist and act as `internals.jsonargparse` assumes."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jsonargparse
import pytest
from jsonargparse import ArgumentParser, _actions, _typehints, _util
from torch import nn

from dqn_lightning.internals.jsonargparse import refuse_imports, refuse_untyped_factories


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (_actions, "import_object"),
        (_typehints, "import_object"),
        (_typehints, "adapt_typehints"),
        (_util, "import_object"),
        (_util, "get_import_path"),
    ],
)
def test_the_private_function_exists(module: object, name: str) -> None:
    if not hasattr(module, name):
        pytest.fail(
            f"jsonargparse {jsonargparse.__version__} no longer has {name}, which "
            "dqn_lightning/internals/jsonargparse.py replaces to check names; adapt it there"
        )


@pytest.fixture
def parser() -> Iterator[ArgumentParser]:
    """A parser of a factory, and an importable module that must not be imported."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--network", type=Callable[[int], nn.Module])
    yield parser
    sys.modules.pop("other", None)


def test_only_allowed_names_are_imported(
    parser: ArgumentParser, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("other.py").write_text("from torch.nn import Flatten\nFlat = Flatten\n")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    with refuse_imports({"torch.nn.ReLU"}.__contains__, "it is not on the list"):
        parser.parse_args(["--network=torch.nn.ReLU"])
        with pytest.raises(Exception, match=r"'other\.Flat' is refused: it is not on the list"):
            parser.parse_args(["--network=other.Flat"])
    assert "other" not in sys.modules
    parser.parse_args(["--network=other.Flat"])  # outside the block, every name is allowed


def test_other_names_of_an_allowed_class_are_allowed_once_it_is_imported(
    parser: ArgumentParser, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("other.py").write_text("from torch.nn import Flatten\n")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    with refuse_imports({"other.Flatten"}.__contains__, "it is not on the list"):
        parser.instantiate_classes(parser.parse_args(["--network=other.Flatten"]))


def test_a_function_must_return_the_class_that_the_factory_returns(parser: ArgumentParser) -> None:
    with refuse_untyped_factories():
        for name in ("os.getenv", "torch.hub.load"):
            for value in (name, f"{{class_path: {name}}}"):
                with pytest.raises(Exception, match=rf"'{name}' is refused: .*annotation Module"):
                    parser.parse_args([f"--network={value}"])
        parser.parse_args(["--network=torch.nn.ReLU"])
