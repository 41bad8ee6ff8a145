"""How each variant looks in pictures: the same in Matplotlib's and Plotly's."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from nero_lab.analysis.measured import Series

# Okabe and Ito's colours, distinct with any colour vision, and two more.
_OWN = {"nero": "#0072B2", "sgd": "#D55E00", "adam": "#E69F00", "lamb": "#009E73"}
_OTHERS = ("#CC79A7", "#56B4E9", "#000000", "#7F7F7F", "#8C564B", "#6A3D9A")
_DASHES = ("solid", "dash", "dot", "dashdot")
_MATPLOTLIB = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
# Variants of one optimiser share its colour, so that marks without a line need shapes.
_SYMBOLS = {"solid": "circle", "dash": "square", "dot": "triangle-up", "dashdot": "diamond"}
_MARKERS = {"circle": "o", "square": "s", "triangle-up": "^", "diamond": "D"}


@dataclass(frozen=True)
class Style:
    """Colour and dashes of a variant's line."""

    colour: str
    dash: str
    """Plotly's name of it"""

    @property
    def linestyle(self) -> str:
        """Return Matplotlib's name of the dashes."""
        return _MATPLOTLIB[self.dash]

    @property
    def symbol(self) -> str:
        """Return Plotly's name of the mark of a single run."""
        return _SYMBOLS[self.dash]

    @property
    def marker(self) -> str:
        """Return Matplotlib's name of that mark."""
        return _MARKERS[self.symbol]

    @property
    def svg_dashes(self) -> str:
        """Return SVG's name of the dashes."""
        return {"solid": "", "dash": "6 4", "dot": "2 3", "dashdot": "6 3 2 3"}[self.dash]

    @property
    def translucent(self) -> str:
        """Return the colour for a range, in CSS."""
        red, green, blue = (int(self.colour[start : start + 2], 16) for start in (1, 3, 5))
        return f"rgba({red},{green},{blue},0.15)"


def styles(series: Sequence[Series]) -> dict[str, Style]:
    """Return a style for each variant, by its name.

    An optimiser keeps its colour in all figures, and its further variants get other dashes. Where
    there is one optimiser alone, its variants get colours instead.
    """
    optimizers = list(dict.fromkeys(each.optimizer for each in series))
    if len(optimizers) == 1:
        colours = (*_OWN.values(), *_OTHERS)
        return {each.name: Style(_nth(colours, i), "solid") for i, each in enumerate(series)}
    others = [name for name in optimizers if name not in _OWN]
    colour_of = _OWN | {name: _nth(_OTHERS, i) for i, name in enumerate(others)}
    seen: Counter[str] = Counter()
    found = {}
    for each in series:
        dash = _nth(_DASHES, seen[each.optimizer])
        found[each.name] = Style(colour_of[each.optimizer], dash)
        seen[each.optimizer] += 1
    return found


def _nth(values: Sequence[str], index: int) -> str:
    """Return an entry, starting over where there are no more."""
    return values[index % len(values)]
