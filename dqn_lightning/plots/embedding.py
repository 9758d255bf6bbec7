"""Visited states as points in three dimensions: a page that turns, and a picture.

As figure 4 of Mnih et al. 2015: points near each other are states that the network's features, the
last hidden layer before the head, tell little apart, coloured by what it expects of them.
"""

import json
from base64 import b64encode
from collections.abc import Sequence
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.colors import Normalize, to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dqn_lightning.errors import ConfigError
from dqn_lightning.outputs import check_output
from dqn_lightning.plots.screen import flat

Method: TypeAlias = Literal["pca", "tsne"]
Colouring: TypeAlias = Literal["value", "episode", "step", "action"]

_COLOURS = "rainbow"
_EXTRA = "pip install -e '.[plots]'"
_PERPLEXITY = 30.0
_MOST_NUMBERS = 64
"""Of an observation; what is more is not shown."""


class Points(NamedTuple):
    """Visited states in three dimensions.

    Attributes:
        places: Where they are [P, 3].
        axes: What the three dimensions are.
        obs: What was seen there [P, …]; pictures are [P, C, H, W].
        q_values: Action values [P, A].
        episode: The episode they are of [P].
        step: Environment steps since its start [P].
    """

    places: NDArray[np.float64]
    axes: Sequence[str]
    obs: NDArray[Any]
    q_values: NDArray[np.float32]
    episode: NDArray[np.int64]
    step: NDArray[np.int64]

    @property
    def action(self) -> NDArray[np.int64]:
        """The greedy action of each [P]."""
        actions: NDArray[np.int64] = self.q_values.argmax(axis=1)
        return actions

    def colouring(self, name: Colouring) -> NDArray[Any]:
        """The numbers that stand for colours [P]."""
        numbers: NDArray[Any] = self.q_values.max(1) if name == "value" else getattr(self, name)
        return numbers


def check_embedding(method: Method, files: Sequence[Path]) -> None:
    """See whether these can be written, before anything is played.

    Raises:
        ConfigError: If they cannot, or a package is missing.
    """
    for file in files:
        check_output("--out", file, (".html", ".png"))
    needs_page = any(file.suffix == ".html" for file in files)
    if needs_page and find_spec("plotly") is None:
        raise ConfigError(f"--out: pages need plotly ({_EXTRA}); .png does not")
    if method == "tsne" and find_spec("sklearn") is None:
        raise ConfigError(f"--method: tsne needs scikit-learn ({_EXTRA}); pca does not")


def embed(features: Tensor, method: Method) -> tuple[NDArray[np.float64], list[str]]:
    """Features [P, D] → places [P, 3], and names of the three dimensions.

    Args:
        features: Of at least two states.
        method: `pca`: the three directions in which features vary most. `tsne`: places whose
            neighbours are those of the features (van der Maaten and Hinton 2008).

    Raises:
        ConfigError: If features are not finite; for t-SNE, if they are all the same.
    """
    if not torch.isfinite(features).all():
        raise ConfigError("embed: the network's features are not finite")
    places, names = _components(features)
    if method == "pca":
        return places, names
    return _t_sne(features, start=places), ["t-SNE 1", "t-SNE 2", "t-SNE 3"]


def _components(features: Tensor) -> tuple[NDArray[np.float64], list[str]]:
    centred = features.double() - features.double().mean(0)
    _, sizes, directions = torch.linalg.svd(centred, full_matrices=False)
    most = directions.abs().argmax(1, keepdim=True)  # a direction's sign is no matter, but one is
    directions *= directions.gather(1, most).sign()
    shares = sizes**2 / (sizes**2).sum().clamp(min=1e-300)
    places = torch.zeros(len(features), 3, dtype=torch.float64)
    found = min(3, len(directions))
    places[:, :found] = centred @ directions[:found].T
    names = [f"component {i + 1} ({share:.0%})" for i, share in enumerate(shares[:3].tolist())]
    return places.numpy(force=True), names + ["-"] * (3 - found)


def _t_sne(features: Tensor, start: NDArray[np.float64]) -> NDArray[np.float64]:
    from sklearn.manifold import TSNE

    spread = start[:, 0].std()
    if spread == 0:
        raise ConfigError("--method: tsne finds nothing: features are the same in all states")
    small = (1e-4 / spread * start).astype(np.float32)
    perplexity = min(_PERPLEXITY, (len(features) - 1) / 3)
    t_sne = TSNE(3, init=small, perplexity=perplexity, random_state=0)
    places: NDArray[np.float64] = t_sne.fit_transform(features.numpy(force=True)).astype(float)
    return places


def draw_points(figure: Figure, points: Points, colouring: Colouring) -> None:
    """Draw each point as the number of its action."""
    axes: Any = figure.add_subplot(projection="3d")
    numbers = points.colouring(colouring)
    scale = Normalize(numbers.min(), numbers.max())
    for action in np.unique(points.action):
        of_action = points.action == action
        drawn = axes.scatter(
            *points.places[of_action].T, c=numbers[of_action], cmap=_COLOURS, norm=scale,
            marker=f"${action}$", s=24, linewidths=0.2, depthshade=False,
        )  # fmt: skip
    axes.set(xlabel=points.axes[0], ylabel=points.axes[1], zlabel=points.axes[2])
    axes.tick_params(labelsize=7)
    figure.colorbar(drawn, ax=axes, label=colouring, shrink=0.6, pad=0.1)


def write_page(path: Path, points: Points, colouring: Colouring, title: str) -> None:
    """Write a page that needs no other file and no network.

    It turns with the mouse, and shows what was seen at the point below it.

    Raises:
        OSError: If it cannot be written.
    """
    import plotly.graph_objects as go

    colourings: list[Colouring] = ["value", "episode", "step", "action"]
    looks = [_look(points, name) for name in colourings]
    first = colourings.index(colouring)
    x, y, z = points.places.astype(np.float32).T
    scatter = go.Scatter3d(
        x=x, y=y, z=z, mode="text+markers", text=points.action.astype(str), hoverinfo="none",
        textposition="middle center", marker={"opacity": 0, "colorscale": _colour_scale()},
    )  # fmt: skip
    figure = go.Figure(scatter)
    figure.update_traces(**{name.replace(".", "_"): v for name, v in looks[first].items()})
    buttons = [
        {"label": name, "method": "restyle", "args": [{k: [v] for k, v in look.items()}]}
        for name, look in zip(colourings, looks, strict=True)
    ]
    figure.update_layout(
        title=title,
        margin={"l": 0, "r": 0, "t": 50, "b": 0},
        scene={f"{d}axis_title_text": n for d, n in zip("xyz", points.axes, strict=True)},
        scene_camera_eye={"x": 1.5, "y": 1.5, "z": 1.2},
        updatemenus=[{"buttons": buttons, "active": first, "x": 1, "xanchor": "right", "y": 1}],
    )
    script = _SCRIPT.replace("STATES", json.dumps(_states(points)))
    figure.write_html(
        path, include_plotlyjs=True, post_script=script, config={"displaylogo": False},
        default_height="100vh",
    )  # fmt: skip


def _colour_scale() -> list[tuple[float, str]]:
    """The colours as plotly wants them."""
    return [(share, to_hex(colormaps[_COLOURS](share))) for share in np.linspace(0, 1, 33).tolist()]


def _look(points: Points, name: Colouring) -> dict[str, Any]:
    """What a choice of colours changes."""
    numbers = points.colouring(name)
    scale = Normalize(numbers.min(), numbers.max())
    colours = [to_hex(colour) for colour in colormaps[_COLOURS](scale(numbers))]
    return {
        "textfont.color": colours,
        "marker.color": numbers,
        "marker.colorbar.title.text": name,
        "marker.showscale": True,
    }


def _states(points: Points) -> list[dict[str, Any]]:
    """What the page shows of each point: besides text its picture, or its numbers."""
    is_picture = points.obs.ndim == 4
    shown = map(_as_url, _as_bytes(points.obs)) if is_picture else map(_numbers, points.obs)
    return [
        {
            "text": f"episode {episode}, step {step}, action {action}",
            "values": _numbers(values),
            "picture" if is_picture else "numbers": obs,
        }
        for episode, step, action, values, obs in zip(
            points.episode, points.step, points.action, points.q_values, shown, strict=True
        )
    ]


def _numbers(values: NDArray[Any]) -> str:
    first = values.ravel()[:_MOST_NUMBERS].tolist()
    texts = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in first]
    return ", ".join(texts) + (f", … ({values.size:,})" if values.size > len(first) else "")


def _as_bytes(pictures: NDArray[Any]) -> NDArray[np.uint8]:
    """Pictures as they are if they are uint8; others from black, the least, to white."""
    if pictures.dtype == np.uint8:
        return pictures
    scale = Normalize(pictures.min(), pictures.max())
    grey: NDArray[np.uint8] = np.rint(255 * scale(pictures).filled()).astype(np.uint8)
    return grey


def _as_url(picture: NDArray[np.uint8]) -> str:
    """A picture [C, H, W] as an address that holds it."""
    file = BytesIO()
    Image.fromarray(np.ascontiguousarray(flat(picture))).save(file, "WEBP", lossless=True)
    return f"data:image/webp;base64,{b64encode(file.getvalue()).decode()}"


_SCRIPT = """
const states = STATES;
const plot = document.getElementById("{plot_id}");
const panel = document.createElement("div");
panel.id = "state";
panel.style.cssText = "position:fixed;left:16px;bottom:16px;padding:8px;max-width:40vw;" +
  "max-height:80vh;overflow:hidden;" +
  "background:#fffd;border:1px solid #ccc;font:13px sans-serif;pointer-events:none";
panel.textContent = "Point at a number to see its state.";
document.body.append(panel);
function line(text) {
  const div = document.createElement("div");
  div.textContent = text;
  return div;
}
plot.on("plotly_hover", ({points: [{pointNumber}]}) => {
  const state = states[pointNumber];
  const lines = [line(state.text), line("action values " + state.values)];
  if (state.picture) {
    const image = new Image();
    image.src = state.picture;
    image.style.cssText = "display:block;width:270px;image-rendering:pixelated";
    lines.push(image);
  } else {
    lines.push(line("observation " + state.numbers));
  }
  panel.replaceChildren(...lines);
});
"""
