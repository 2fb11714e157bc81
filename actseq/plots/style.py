"""The look of all pictures: colours, font, frames; and writing them.

Everything uses matplotlib's object interface and sets its own font, sizes and colours, without pyplot and `rcParams`.
So a style set elsewhere has no effect, and the same input gives the same bytes.
"""

from collections.abc import Mapping
from io import BytesIO
from math import ceil
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from actseq.storage.store import write_file

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

DPI = 150
INK, SOFT, FAINT, PAPER = "#24292f", "#6e7781", "#d0d7de", "#f6f8fa"
WAVE, MARK, RED = "#3b4a6b", "#00a08a", "#cf222e"
BLUE, ORANGE = "#4878a8", "#d9622b"
FONT = "DejaVu Sans"
_NARROWEST, _LETTER = 6.5, 0.053
"""Size in inches of the sentence above a sheet's charts, and of one letter."""


def figure(width: float, height: float) -> "matplotlib.figure.Figure":
    """An empty picture; sizes in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, facecolor="white")


def quiet(axes: "matplotlib.axes.Axes") -> None:
    """Give axes a thin grey frame and small labels, without ticks."""
    axes.tick_params(
        left=False, bottom=False, labelleft=True, labelbottom=True, labelsize=6, labelcolor=SOFT, color=FAINT,
        labelfontfamily=FONT, length=2, width=0.5, pad=1.5,
    )  # fmt: skip
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set(color=FAINT, linewidth=0.5)


def text(
    where: "matplotlib.axes.Axes | matplotlib.figure.Figure", x: float, y: float, words: str, size: float, **more: Any
) -> None:
    """Draw text in the font of all pictures; dollar signs do not start formulas."""
    # File names may contain dollar signs, which matplotlib would read as formulas.
    where.text(x, y, words, **{"fontsize": size, "color": INK, "fontfamily": FONT, "parse_math": False, **more})


def signed(value: float, form: str) -> str:
    """`value` as text with a typographic minus sign."""
    return format(value, form).replace("-", "−")


def fit(words: str, inches: float, size: float) -> str:
    """`words` with the middle left out where they are too long, and boxes for letters that the font does not have."""
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont(FONT))
    words = "".join(letter if font.get_char_index(ord(letter)) else "□" for letter in " ".join(words.split()))
    room = max(3, int(inches * 72 / (size * 0.6)))
    if len(words) <= room:
        return words
    return words[: room // 2] + "…" + words[len(words) - (room - 1 - room // 2) :]


def write(drawn: "matplotlib.figure.Figure", path: Path) -> Path:
    """Write a picture as PNG, completely or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    image = BytesIO()
    # Without this tag, a new matplotlib that draws the same pixels writes the same bytes.
    FigureCanvasAgg(drawn).print_png(image, metadata={"Software": None})  # type: ignore[no-untyped-call]
    write_file(path, image.getvalue())
    return path


class Sheet:
    """A title, a sentence, a legend of coloured words, and a grid of charts below; all sizes in inches."""

    left, right, bottom = 0.55, 0.2, 0.42

    def __init__(
        self,
        title: str,
        sentence: str,
        n: int,
        columns: int,
        size: tuple[float, float],
        gaps: tuple[float, float] = (0.45, 0.5),
        legend: Mapping[str, str] | None = None,
    ) -> None:
        self.columns, self.size, self.gaps = min(columns, n), size, gaps
        lines = ceil(n / self.columns)
        self.width = self.left + max(_NARROWEST, self.columns * (size[0] + gaps[0]) - gaps[0]) + self.right
        words = wrap(sentence, int((self.width - self.left - self.right) / _LETTER))
        self.top = 0.64 + 0.14 * len(words)
        self.height = self.top + lines * (size[1] + gaps[1]) - gaps[1] + self.bottom
        self.figure = figure(self.width, self.height)
        end = self.width - self.right
        for name, colour in reversed(list((legend or {}).items())):
            self.text(end, 0.24, name, 8.0, color=colour, ha="right", weight="bold")
            end -= len(name) * 8 * 0.68 / 72 + 0.12
        self.text(self.left, 0.24, fit(title, end - self.left, 11.0), 11.0, weight="bold")
        for k, line in enumerate(words):
            self.text(self.left, 0.42 + 0.14 * k, line, 7.0, color=SOFT)

    def text(self, x: float, y: float, words: str, size: float, **more: Any) -> None:
        """Draw text at a position measured from the upper left corner."""
        text(self.figure, x / self.width, 1 - y / self.height, words, size, **more)

    def place(self, index: int) -> tuple[float, float]:
        """Upper left corner of a chart."""
        line, column = divmod(index, self.columns)
        return self.left + column * (self.size[0] + self.gaps[0]), self.top + line * (self.size[1] + self.gaps[1])

    def axes(self, index: int, title: str = "") -> "matplotlib.axes.Axes":
        """One chart of the grid, with its title above it."""
        x, y = self.place(index)
        w, h = self.size
        made = self.figure.add_axes(
            (x / self.width, 1 - (y + h) / self.height, w / self.width, h / self.height), facecolor="white"
        )
        quiet(made)
        for spine in ("top", "right"):
            made.spines[spine].set_visible(False)
        _ticks(made)
        if title:
            self.text(x, y - 0.06, fit(title, w, 7.0), 7.0, weight="bold")
        return made

    def write(self, path: Path) -> Path:
        """Write the sheet as PNG, completely or not at all."""
        return write(self.figure, path)


def _ticks(axes: "matplotlib.axes.Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.tick_params(left=True, bottom=True)
    axes.grid(color=FAINT, linewidth=0.4)


def names(axes: "matplotlib.axes.Axes", x: str = "", y: str = "") -> None:
    """Label the axes of a chart."""
    axes.set_xlabel(x, fontsize=6.5, color=SOFT, fontfamily=FONT, labelpad=2)
    axes.set_ylabel(y, fontsize=6.5, color=SOFT, fontfamily=FONT, labelpad=2)
