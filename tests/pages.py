"""Read pages of `write_page`."""

import json
import re
from base64 import b64decode
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def states_of(page: str) -> list[dict[str, Any]]:
    """What it shows of each point."""
    found = re.search(r"const states = (\[.*?\]);\n", page)
    assert found is not None
    states: list[dict[str, Any]] = json.loads(found[1])
    return states


def picture_of(url: str) -> NDArray[np.uint8]:
    """Pixels of a picture that a state has: [H, W] if all are grey, or [H, W, 3]."""
    head, content = url.split(",")
    assert head == "data:image/webp;base64"
    with Image.open(BytesIO(b64decode(content))) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    return pixels[..., 0] if (pixels == pixels[..., :1]).all() else pixels


def coordinates_of(page: str, axis: str) -> NDArray[np.float32]:
    """Where its points are along x, y or z."""
    (found,) = re.findall(rf'"{axis}":{{"dtype":"f4","bdata":"([^"]*)"', page)
    return np.frombuffer(b64decode(json.loads(f'"{found}"')), np.float32)
