"""Parse the HTML pages that `write_page` writes."""

import json
import re
from base64 import b64decode
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def states_of(page: str) -> list[dict[str, Any]]:
    """Return the descriptions of all states."""
    found = re.search(r"const states = (\[.*?\]);\n", page)
    assert found is not None
    states: list[dict[str, Any]] = json.loads(found[1])
    return states


def decode_image(url: str) -> NDArray[np.uint8]:
    """Decode the image of a state: [H, W] if it is grayscale, otherwise [H, W, 3]."""
    head, content = url.split(",")
    assert head == "data:image/webp;base64"
    with Image.open(BytesIO(b64decode(content))) as image:
        pixels = np.asarray(image.convert("RGB"))
    return pixels[..., 0] if (pixels == pixels[..., :1]).all() else pixels


def coordinates_of(page: str, axis: str) -> NDArray[np.float32]:
    """Return the coordinates of all points along axis x, y or z."""
    (found,) = re.findall(rf'"{axis}":{{"dtype":"f4","bdata":"([^"]*)"', page)
    return np.frombuffer(b64decode(json.loads(f'"{found}"')), np.float32)
