"""Frame: the plot area of a panel with its axes, grid, tick labels and axis names."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree.ElementTree import Element

from dtheta.report.charts.scale import Scale
from dtheta.report.charts.svg import WIDTH, label, node, text_width


@dataclass(frozen=True)
class Frame:
    """Edges of the plot area, in pixels."""

    left: float
    right: float
    top: float
    bottom: float

    @property
    def height(self) -> float:
        """Of the plot area."""
        return self.bottom - self.top

    def x_axis(self, scale: Scale, name: str, percent: bool = False, grid: bool = False) -> list[Element]:
        """Baseline, ticks and the axis name, centered below; labels that would collide are left out."""
        parts = [node("path", d=f"M{self.left:.2f} {self.bottom:.2f}H{self.right:.2f}", class_="axis")]
        taken = float("-inf")
        for tick, text in zip(scale.ticks, scale.labels(percent), strict=True):
            x, half = scale(tick), text_width(text, 11) / 2
            top = self.top if grid else self.bottom
            parts.append(node("path", d=f"M{x:.2f} {top:.2f}V{self.bottom + 4:.2f}", class_="grid" if grid else "axis"))
            if x - half > taken + 6 and x + half <= WIDTH:
                parts.append(label(x, self.bottom + 17, text, "middle"))
                taken = x + half
        middle = (self.left + self.right) / 2
        return [*parts, label(middle, self.bottom + 35, name, "middle", "axis-name")]

    def y_axis(self, scale: Scale, name: str, percent: bool = False) -> list[Element]:
        """Grid lines, tick labels, and the axis name on top, so that nobody has to tilt the head."""
        parts = [label(0, self.top - 11, name, "start", "axis-name")]
        for tick, text in zip(scale.ticks, scale.labels(percent), strict=True):
            y = scale(tick)
            parts.append(node("path", d=f"M{self.left:.2f} {y:.2f}H{self.right:.2f}", class_="grid"))
            parts.append(label(self.left - 6, y + 4, text, "end"))
        return parts


def left_margin(scale: Scale, percent: bool = False) -> float:
    """Room for the tick labels of a y axis."""
    return max(text_width(text, 11) for text in scale.labels(percent)) + 8
