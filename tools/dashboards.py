"""Write observe/dashboards/*.json: `python -m tools.dashboards [FOLDER]`.

Turns the boards of `tools/boards` into Grafana's JSON with Grafana's own library, which knows
the schema. A unit test compares the files with what this writes; another asks a real Prometheus
every expression.
"""

from __future__ import annotations

import json
import sys
from itertools import count
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from tools.boards import cluster, decisions, host, instance
from tools.boards.parts import Board, Kind, Panel, Variable

TARGET = Path(__file__).parents[1] / "observe" / "dashboards"
_SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
_TAG = "unkai"
BOARDS: tuple[Board, ...] = (cluster.BOARD, host.BOARD, instance.BOARD, decisions.BOARD)


def rendered(board: Board) -> str:
    """Return a dashboard's JSON."""
    built = (
        builders.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags([_TAG])
        .refresh("30s")
        .time("now-3h", "now")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(
            builders.DatasourceVariable("datasource").label("Prometheus").type("prometheus")
        )
        .link(
            builders.DashboardLink("unkai")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags([_TAG])
            .as_dropdown(True)
            .include_vars(True)
            .keep_time(True)
        )
    )
    for variable in board.variables:
        built = built.with_variable(_variable(variable))
    numbers = count(1)  # Grafana wants an id in each panel, rows included
    for row in board.rows:
        built = built.with_row(builders.Row(row.title).id(next(numbers)))
        for panel in row.panels:
            built = built.with_panel(_panel(panel).id(next(numbers)))
    return json.dumps(built.build(), cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def _variable(variable: Variable) -> Any:
    made = (
        builders.QueryVariable(variable.name)
        .label(variable.label)
        .datasource(_SOURCE)
        .query(variable.query)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )
    return made.hide(models.VariableHide.HIDE_VARIABLE) if variable.hidden else made


def _panel(panel: Panel) -> Any:
    made: Any = {
        Kind.GRAPH: _graph,
        Kind.STAT: _stat,
        Kind.TABLE: _table,
    }[panel.kind]()
    made = (
        made.title(panel.title)
        .description(panel.description)
        .datasource(_SOURCE)
        .unit(panel.unit)
        .span(panel.width)
        .height(panel.height)
        .no_value("none")
    )
    if panel.thresholds:
        made = made.thresholds(_thresholds(panel)).color_scheme(
            builders.FieldColor().mode(models.FieldColorModeId.THRESHOLDS)
        )
    if panel.lowest is not None:
        made = made.min(panel.lowest)
    if panel.link:
        made = made.data_links([builders.DashboardLink(panel.link[0]).url(panel.link[1])])
    for number, query in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend)
        target = target.ref_id(chr(ord("A") + number)).datasource(_SOURCE)
        if panel.kind is Kind.TABLE:
            target = target.instant().format(PromQueryFormat.TABLE)
        elif panel.kind is Kind.STAT:
            target = target.instant()
        else:
            target = target.range()
        made = made.with_target(target)
    return made


def _graph() -> Any:
    legend = common_builders.VizLegendOptions()
    return (
        timeseries.Panel()
        .line_width(1)
        .fill_opacity(10)
        .show_points(common.VisibilityMode.NEVER)
        .legend(
            legend.display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI))
    )


def _stat() -> Any:
    return (
        stat.Panel()
        .graph_mode(common.BigValueGraphMode.NONE)
        .color_mode(common.BigValueColorMode.BACKGROUND)
        .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]))
    )


def _table() -> Any:
    return table.Panel().show_header(True)


def _thresholds(panel: Panel) -> Any:
    steps = [models.Threshold(value=value, color=color) for value, color in panel.thresholds]
    return builders.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


def files() -> dict[str, str]:
    """Return each file's name and text."""
    return {f"{board.uid}.json": rendered(board) for board in BOARDS}


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET
    folder.mkdir(exist_ok=True)
    for name, text in files().items():
        (folder / name).write_text(text)
