"""Images and heat maps as pictures inside a page.

A map is a layer over its image whose opacity is its strength, so that anatomy
stays visible where the map is silent.
"""

import base64
import io
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LEAST_SIDE: Final = 160  # pixels that a picture has at least
MOST_SIDE: Final = 208  # and at most: dozens of pictures then fit into a few MB
FOR: Final = (196, 30, 30)  # what is positive
AGAINST: Final = (28, 84, 196)  # what is negative
OPAQUE: Final = 0.85
LEVELS: Final = 32  # of opacity: more cannot be told apart and does not compress


def picture(pixels: NDArray[np.uint8]) -> str:
    """Return an image, (H, W) or (H, W, 1 or 3), as a data URI."""
    flat = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    return data_uri(sized(Image.fromarray(flat)))


def layer(values: NDArray[Any], size: tuple[int, int]) -> str:
    """Return a map (h, w) in -1 to 1 as a data URI to lie over an image of (H, W) pixels.

    Red is positive, blue negative; a coarse map is enlarged smoothly.
    """
    known = np.nan_to_num(values.astype(np.float32)).clip(-1, 1)
    side = sized(Image.new("1", (size[1], size[0]))).size
    # Enlarged before it is coloured: red and blue do not mix.
    signed = np.asarray(Image.fromarray(known).resize(side, Image.Resampling.BILINEAR))
    strength = np.round(np.abs(signed) * LEVELS) / LEVELS
    coloured = np.empty((*signed.shape, 4), np.uint8)
    coloured[..., :3] = np.where((signed >= 0)[..., None], FOR, AGAINST)
    coloured[..., 3] = np.round(255 * OPAQUE * strength)
    return data_uri(Image.fromarray(coloured))


def sized(image: Image.Image) -> Image.Image:
    """Enlarge or reduce a picture to a side that reads well."""
    side = max(image.size)
    factor = min(max(LEAST_SIDE / side, 1.0), MOST_SIDE / side)
    width, height = (max(1, round(edge * factor)) for edge in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def data_uri(image: Image.Image) -> str:
    """Return a picture as PNG in a data URI."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def outline(mask: NDArray[np.bool_]) -> str:
    """Return the border of a mask (H, W) as a path along the edges of its pixels."""
    padded = np.pad(mask, 1)
    rows = padded[1:, 1:-1] != padded[:-1, 1:-1]  # an edge above pixel (y, x)
    columns = padded[1:-1, 1:] != padded[1:-1, :-1]  # an edge left of pixel (y, x)
    across = [f"M{start} {y}H{end}" for y, start, end in _spans(rows)]
    down = [f"M{x} {start}V{end}" for x, start, end in _spans(columns.T)]
    return "".join(across + down)


def _spans(lines: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    """List the runs of True in each line: line, start, end."""
    steps = np.diff(np.pad(lines, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    at, starts = np.nonzero(steps == 1)
    _, ends = np.nonzero(steps == -1)
    return list(zip(at.tolist(), starts.tolist(), ends.tolist(), strict=True))
