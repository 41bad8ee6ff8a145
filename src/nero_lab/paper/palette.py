"""How each arm looks in pictures: the same in Matplotlib's and Plotly's."""

from collections.abc import Sequence
from dataclasses import dataclass

from nero_lab.paper.measured import Series

# Okabe and Ito's colours, told apart with any colour vision, and two more.
_OWN = {"nero": "#0072B2", "sgd": "#D55E00", "adam": "#E69F00", "lamb": "#009E73"}
_OTHERS = ("#CC79A7", "#56B4E9", "#000000", "#7F7F7F", "#8C564B", "#6A3D9A")
_DASHES = ("solid", "dash", "dot", "dashdot")
_MATPLOTLIB = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}


@dataclass(frozen=True)
class Style:
    """Colour and dashes of an arm's line."""

    colour: str
    dash: str
    """Plotly's name of it"""

    @property
    def linestyle(self) -> str:
        """Return Matplotlib's name of the dashes."""
        return _MATPLOTLIB[self.dash]

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
    """Return a style for each arm, by its name.

    An optimiser keeps its colour in all figures. Its further arms get colours of their own as long
    as there are any, and the same colour with other dashes where a figure has many arms.
    """
    every = {*_OWN.values(), *_OTHERS}
    few = len(series) <= len(every)
    firsts = {s.optimizer: s.name for s in reversed(series)}
    reserved = {_OWN[o] for o in firsts if o in _OWN}
    free = [c for c in (*_OTHERS, *_OWN.values()) if c not in reserved]
    colours = dict(_OWN)
    seen: dict[str, int] = {}
    found = {}
    for each in series:
        repeated = seen.get(each.optimizer, 0)
        seen[each.optimizer] = repeated + 1
        if each.optimizer not in colours or (repeated and few):
            colour = free.pop(0) if free else "#7F7F7F"
            colours.setdefault(each.optimizer, colour)
        else:
            colour = colours[each.optimizer]
        dash = "solid" if few else _DASHES[repeated % len(_DASHES)]
        found[each.name] = Style(colour, dash)
    return found
