"""Files that commands are asked to write."""

import re
from pathlib import Path

import pytest

from dqn_lightning.errors import ConfigError
from dqn_lightning.outputs import check_output, whole


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("x.gif", "--out: x.gif must end in .html, .svg or .png"),
        ("x", "--out: x must end in .html, .svg or .png"),
        ("nowhere/x.png", "--out: nowhere/x.png cannot be written: there is no folder nowhere"),
        ("folder.png", "--out: folder.png cannot be written: it is a folder"),
    ],
)
def test_what_cannot_be_written_is_said(path: str, words: str) -> None:
    Path("folder.png").mkdir()
    with pytest.raises(ConfigError, match=f"^{re.escape(words)}$"):
        check_output("--out", Path(path), [".html", ".svg", ".png"])
    check_output("--out", Path("x.png"), [".html", ".svg", ".png"])


def test_a_file_has_its_name_when_it_is_whole() -> None:
    path = Path("x.png")
    path.write_text("older")
    with whole(path) as unfinished:
        unfinished.write_text("newer")
        assert path.read_text() == "older"
        assert unfinished.suffix == ".png"  # which some writers go by
    assert path.read_text() == "newer"
    assert list(Path().iterdir()) == [path]


def test_nothing_is_left_of_what_failed() -> None:
    def fail(path: Path) -> None:
        with whole(path) as unfinished:
            unfinished.write_text("half")
            raise OSError("full")

    Path("x.png").write_text("older")
    with pytest.raises(OSError, match="full"):
        fail(Path("x.png"))
    assert [path.read_text() for path in Path().iterdir()] == ["older"]
