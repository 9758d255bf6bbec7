"""Plots of visited states in three dimensions, as an interactive page or as an image.

As in figure 4 of Mnih et al. 2015, states with similar features appear close to each other, and
their colors can show, for example, the action values. Features are the input of the network's
head, which computes the action values.
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

from dqn_lightning.checkpointing.files import check_output
from dqn_lightning.errors import ConfigError
from dqn_lightning.plots.screen import to_drawable

Method: TypeAlias = Literal["pca", "tsne"]
"""Method that reduces features to three dimensions."""

ColorBy: TypeAlias = Literal["value", "episode", "step", "action"]
"""Quantity shown by color: largest action value, episode number, step or greedy action."""

_COLORMAP = "rainbow"
_EXTRA = "pip install -e '.[plots]'"
_PERPLEXITY = 30.0
_MAX_SHOWN = 64
"""Maximum number of elements of an observation that the HTML page displays."""


class Points(NamedTuple):
    """P visited states, each embedded as a point in three dimensions.

    Attributes:
        positions: Coordinates [P, 3].
        axis_labels: Labels of the three axes.
        obs: Observations [P, …]; image observations have shape [P, C, H, W].
        q_values: Action values [P, A].
        episode: Indices [P] of the episodes, starting at 0.
        step: Environment steps from the start of the episode to each state [P].
    """

    positions: NDArray[np.float64]
    axis_labels: Sequence[str]
    obs: NDArray[Any]
    q_values: NDArray[np.float32]
    episode: NDArray[np.int64]
    step: NDArray[np.int64]

    @property
    def action(self) -> NDArray[np.int64]:
        """Greedy actions [P]."""
        actions: NDArray[np.int64] = self.q_values.argmax(axis=1)
        return actions

    def color_by(self, name: ColorBy) -> NDArray[Any]:
        """Return the values [P] of a quantity that can be shown by color."""
        values: NDArray[Any] = self.q_values.max(1) if name == "value" else getattr(self, name)
        return values


def check_embedding_paths(method: Method, files: Sequence[Path]) -> None:
    """Check that the files can be written; called before any episode is played.

    Args:
        method: Method that reduces features to three dimensions.
        files: Files to write, `.html` or `.png`.

    Raises:
        ConfigError: If a file cannot be written, or a required package is missing.
    """
    for file in files:
        check_output("--out", file, (".html", ".png"))
    needs_page = any(file.suffix == ".html" for file in files)
    if needs_page and find_spec("plotly") is None:
        raise ConfigError(f"--out: .html requires plotly ({_EXTRA}); .png does not")
    if method == "tsne" and find_spec("sklearn") is None:
        raise ConfigError(f"--method: tsne requires scikit-learn ({_EXTRA}); pca does not")


def embed_features(features: Tensor, method: Method) -> tuple[NDArray[np.float64], list[str]]:
    """Reduce features to three dimensions.

    Args:
        features: Features [P, D] of at least two states.
        method: `pca` projects the features onto the first three principal components. `tsne`
            preserves neighborhoods (van der Maaten and Hinton 2008).

    Returns:
        Positions [P, 3], and the labels of the three axes.

    Raises:
        ConfigError: If a feature is not finite, or if `method` is `tsne` and all states have the
            same features.
    """
    if not torch.isfinite(features).all():
        raise ConfigError("embed: the network's features are not finite")
    positions, labels = _principal_components(features)
    if method == "pca":
        return positions, labels
    return _t_sne(features, initial=positions), ["t-SNE 1", "t-SNE 2", "t-SNE 3"]


def _principal_components(features: Tensor) -> tuple[NDArray[np.float64], list[str]]:
    """Project features onto three principal components; return positions [P, 3] and axis labels.

    Each label contains the share of the variance that the component explains.
    """
    centered = features.double() - features.double().mean(0)
    _, singular_values, directions = torch.linalg.svd(centered, full_matrices=False)
    # The sign of a component is arbitrary: make its element of largest magnitude positive.
    largest = directions.abs().argmax(1, keepdim=True)
    directions *= directions.gather(1, largest).sign()
    shares = singular_values**2 / (singular_values**2).sum().clamp(min=1e-300)
    positions = torch.zeros(len(features), 3, dtype=torch.float64)
    num_components = min(3, len(directions))
    positions[:, :num_components] = centered @ directions[:num_components].T
    labels = [f"component {i + 1} ({share:.0%})" for i, share in enumerate(shares[:3].tolist())]
    return positions.numpy(force=True), labels + ["-"] * (3 - num_components)


def _t_sne(features: Tensor, initial: NDArray[np.float64]) -> NDArray[np.float64]:
    from sklearn.manifold import TSNE

    scale = initial[:, 0].std()
    if scale == 0:
        raise ConfigError("--method: tsne cannot embed states whose features are all equal")
    small = (1e-4 / scale * initial).astype(np.float32)
    perplexity = min(_PERPLEXITY, (len(features) - 1) / 3)
    t_sne = TSNE(3, init=small, perplexity=perplexity, random_state=0)
    positions: NDArray[np.float64] = t_sne.fit_transform(features.numpy(force=True)).astype(float)
    return positions


def draw_points(figure: Figure, points: Points, color_by: ColorBy) -> None:
    """Draw a 3D scatter plot of states; each marker shows the index of the greedy action.

    Args:
        figure: Figure to draw in.
        points: States to draw.
        color_by: Quantity shown by color.
    """
    axes: Any = figure.add_subplot(projection="3d")
    values = points.color_by(color_by)
    scale = Normalize(values.min(), values.max())
    for action in np.unique(points.action):
        is_action = points.action == action
        drawn = axes.scatter(
            *points.positions[is_action].T, c=values[is_action], cmap=_COLORMAP, norm=scale,
            marker=f"${action}$", s=24, linewidths=0.2, depthshade=False,
        )  # fmt: skip
    axes.set(
        xlabel=points.axis_labels[0], ylabel=points.axis_labels[1], zlabel=points.axis_labels[2]
    )
    axes.tick_params(labelsize=7)
    figure.colorbar(drawn, ax=axes, label=color_by, shrink=0.6, pad=0.1)


def write_page(path: Path, points: Points, color_by: ColorBy, title: str) -> None:
    """Write a self-contained HTML page with an interactive plot of states.

    The plot can be rotated. For the state under the mouse pointer, the page shows the observation
    and the action values. The page requires no other file and no internet connection.

    Args:
        path: File to write.
        points: States to plot.
        color_by: Quantity initially shown by color; it can be changed in a menu on the page.
        title: Title of the plot.

    Raises:
        OSError: If the file cannot be written.
    """
    import plotly.graph_objects as go

    colorings: list[ColorBy] = ["value", "episode", "step", "action"]
    updates = [_coloring_update(points, name) for name in colorings]
    first = colorings.index(color_by)
    x, y, z = points.positions.astype(np.float32).T
    scatter = go.Scatter3d(
        x=x, y=y, z=z, mode="text+markers", text=points.action.astype(str), hoverinfo="none",
        textposition="middle center", marker={"opacity": 0, "colorscale": _color_scale()},
    )  # fmt: skip
    figure = go.Figure(scatter)
    figure.update_traces(**{name.replace(".", "_"): v for name, v in updates[first].items()})
    buttons = [
        {"label": name, "method": "restyle", "args": [{k: [v] for k, v in update.items()}]}
        for name, update in zip(colorings, updates, strict=True)
    ]
    figure.update_layout(
        title=title,
        margin={"l": 0, "r": 0, "t": 50, "b": 0},
        scene={f"{d}axis_title_text": n for d, n in zip("xyz", points.axis_labels, strict=True)},
        scene_camera_eye={"x": 1.5, "y": 1.5, "z": 1.2},
        updatemenus=[{"buttons": buttons, "active": first, "x": 1, "xanchor": "right", "y": 1}],
    )
    script = _SCRIPT.replace("STATES", json.dumps(_describe_states(points)))
    figure.write_html(
        path, include_plotlyjs=True, post_script=script, config={"displaylogo": False},
        default_height="100vh",
    )  # fmt: skip


def _color_scale() -> list[tuple[float, str]]:
    """Return the colormap in plotly's format: pairs of a position in [0, 1] and a color."""
    shares = np.linspace(0, 1, 33).tolist()
    return [(share, to_hex(colormaps[_COLORMAP](share))) for share in shares]


def _coloring_update(points: Points, name: ColorBy) -> dict[str, Any]:
    """Return the plotly properties that set the colors of the states and the color bar."""
    values = points.color_by(name)
    scale = Normalize(values.min(), values.max())
    colors = [to_hex(color) for color in colormaps[_COLORMAP](scale(values))]
    return {
        "textfont.color": colors,
        "marker.color": values,
        "marker.colorbar.title.text": name,
        "marker.showscale": True,
    }


def _describe_states(points: Points) -> list[dict[str, Any]]:
    """Return the text, action values and observation that the page shows for each state."""
    are_images = points.obs.ndim == 4
    if are_images:
        shown = map(_encode_image, _to_uint8(points.obs))
    else:
        shown = map(_format_numbers, points.obs)
    return [
        {
            "text": f"episode {episode}, step {step}, action {action}",
            "values": _format_numbers(values),
            "image" if are_images else "numbers": obs,
        }
        for episode, step, action, values, obs in zip(
            points.episode, points.step, points.action, points.q_values, shown, strict=True
        )
    ]


def _format_numbers(values: NDArray[Any]) -> str:
    """Format at most the first 64 elements as text; append the array size if some are omitted."""
    first = values.ravel()[:_MAX_SHOWN].tolist()
    texts = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in first]
    return ", ".join(texts) + (f", … ({values.size:,})" if values.size > len(first) else "")


def _to_uint8(images: NDArray[Any]) -> NDArray[np.uint8]:
    """Return uint8 images unchanged; rescale other images linearly to the range 0…255."""
    if images.dtype == np.uint8:
        return images
    scale = Normalize(images.min(), images.max())
    grayscale: NDArray[np.uint8] = np.rint(255 * scale(images).filled()).astype(np.uint8)
    return grayscale


def _encode_image(image: NDArray[np.uint8]) -> str:
    """Encode an image [C, H, W] as a data URL that contains a WebP file."""
    file = BytesIO()
    Image.fromarray(np.ascontiguousarray(to_drawable(image))).save(file, "WEBP", lossless=True)
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
  if (state.image) {
    const image = new Image();
    image.src = state.image;
    image.style.cssText = "display:block;width:270px;image-rendering:pixelated";
    lines.push(image);
  } else {
    lines.push(line("observation " + state.numbers));
  }
  panel.replaceChildren(...lines);
});
"""
