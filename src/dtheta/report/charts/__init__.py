"""Charts as inline SVG, one file a chart type; each function returns a `Chart` that a page can hold."""

from __future__ import annotations

from dtheta.report.charts.bars import Bar, bar_chart
from dtheta.report.charts.dots import Dot, dot_chart
from dtheta.report.charts.heat import heat_map
from dtheta.report.charts.line import Line, line_chart
from dtheta.report.charts.palette import Style, legend, styles
from dtheta.report.charts.scatter import Point, scatter_chart
from dtheta.report.charts.shots import shot_chart
from dtheta.report.charts.svg import Chart

__all__ = [
    "Bar",
    "Chart",
    "Dot",
    "Line",
    "Point",
    "Style",
    "bar_chart",
    "dot_chart",
    "heat_map",
    "legend",
    "line_chart",
    "scatter_chart",
    "shot_chart",
    "styles",
]
