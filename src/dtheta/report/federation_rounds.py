"""The rounds of a federation: what traveled, who took part, what the channel told, and the privacy that was spent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from dtheta.federate.history import Round
from dtheta.federate.message import REASONS
from dtheta.report.blocks import Block, Column, Panels, Prose, Table, Tile, Tiles, number, word
from dtheta.report.charts import heat_map
from dtheta.report.charts.line import Line, line_chart
from dtheta.report.charts.palette import styles
from dtheta.report.charts.svg import WIDTH
from dtheta.report.federated import Federated
from dtheta.report.page import Section
from dtheta.report.quantity import count, fixed, percent, plural, significant

_MANY = 40  # parties or rounds above which who took part is a table alone
_WIDE = 12  # rounds above which a drawing takes the whole width


# what traveled


def traveled(found: Federated) -> Section:
    """Return the section of bits and qubits."""
    rows = found.rounds
    scale, unit = unit_of(max(max(row.bits_up, row.bits_down) for row in rows) / 8)
    look = styles(["to the server", "to clients"])
    lines = [
        Line("to the server", [(float(row.round), row.bits_up / 8 / scale) for row in rows]),
        Line("to clients", [(float(row.round), row.bits_down / 8 / scale) for row in rows]),
    ]
    charts = [line_chart("Sent by round", lines, look, x_name="round", y_name=unit, zero=True, logarithmic=False)]
    if any(row.qubits for row in rows):
        look |= {"qubits": styles(["", " ", "qubits"])["qubits"]}
        qubits = Line("qubits", [(float(row.round), float(row.qubits)) for row in rows])
        charts.append(
            line_chart("Qubits by round", [qubits], look, x_name="round", y_name="qubits", zero=True, logarithmic=False)
        )
    lead = "Payloads are counted as they are sent, also those that were lost; headers of messages are not in it."
    if len(rows) == 1:
        return Section("What traveled", [_traffic(rows)], lead)
    return Section("What traveled", [Panels(charts, styles=look, lines=True, tables=[_traffic(rows)])], lead)


def unit_of(most: float) -> tuple[float, str]:
    """Return the bytes of the unit in which so many bytes read well, and its name."""
    return next((unit for unit in ((1e9, "gigabytes"), (1e6, "megabytes"), (1e3, "kilobytes")) if most >= unit[0]),
                (1.0, "bytes"))  # fmt: skip


def _traffic(rows: Sequence[Round]) -> Table:
    names = ("Round", "Asked", "Answered", "Bits to the server", "Bits to clients", "Qubits", "Simulated transfer, s",
             "Staleness", "Took, s")  # fmt: skip
    cells = [
        [
            number(row.round, count(row.round)), number(len(row.asked), count(len(row.asked))),
            number(len(row.answered), count(len(row.answered))), number(row.bits_up, count(row.bits_up)),
            number(row.bits_down, count(row.bits_down)), number(row.qubits, count(row.qubits)),
            number(row.transfer, significant(row.transfer, 3)), number(row.staleness, fixed(row.staleness, 1)),
            number(row.seconds, fixed(row.seconds, 2)),
        ]
        for row in rows
    ]  # fmt: skip
    return Table("Rounds as a table", [Column(name, True) for name in names], cells, folded=True)


# who took part


def took_part(found: Federated) -> Section:
    """Return the section of who answered and who was excluded."""
    names, rows = list(found.federation.config["names"]), found.rounds
    left = [(row.round, client, why) for row in rows for client, why in row.excluded.items()]
    skipped = [row for row in rows if row.skipped is not None]
    blocks: list[Block] = []
    if len(names) <= _MANY and len(rows) <= _MANY:
        wide = 2 * WIDTH if len(rows) > _WIDE else WIDTH
        cells = [[_part(row, name) for row in rows] for name in names]
        chart = heat_map(
            "Who answered", names, [str(row.round) for row in rows], cells, value_name="took part",
            column_name="round", full_width=wide,
        )  # fmt: skip
        blocks.append(
            Panels(
                [chart], "1 took part, 0 was asked and excluded; where the field is empty, the client was not asked."
            )
        )
    if left:
        blocks += [_reasons(left), _excluded(left)]
    else:
        blocks.append(Prose("Nobody was excluded: every client that was asked answered, and every answer counted."))
    if skipped:
        said = "; ".join(f"round {row.round}: {row.skipped}" for row in skipped[:_MANY])
        blocks.append(Prose(f"{plural(len(skipped), 'round')} left the global delta as it was: {said}."))
    lead = "Every answer is checked before it counts; whoever fails is left out of the round with a reason."
    return Section("Who took part", blocks, lead)


def _part(row: Round, name: str) -> float | None:
    if name in row.answered:
        return 1.0
    return 0.0 if name in row.excluded or name in row.asked else None


def _reasons(left: Sequence[tuple[int, str, str]]) -> Table:
    counts = Counter(why.partition(":")[0] for _, _, why in left)
    rows = [
        [word(reason), word(REASONS.get(reason, "")), number(times, count(times))]
        for reason, times in counts.most_common()
    ]
    return Table("Why clients were excluded", [Column("Reason"), Column("The client"), Column("Times", True)], rows)


def _excluded(left: Sequence[tuple[int, str, str]]) -> Table:
    rows = [[number(round, count(round)), word(client), word(why)] for round, client, why in left]
    return Table("Each exclusion", [Column("Round", True), Column("Client"), Column("Why")], rows, folded=True)


# the channel and privacy


def channel(found: Federated) -> list[Section]:
    """Return the section of the tests for eavesdropping; nothing where there was none."""
    points = [(float(row.round), 100 * row.qber) for row in found.rounds if row.qber is not None]
    if not points:
        return []
    lines = [Line("largest error rate of the round", points)]
    for name, rate in (("no key above", found.threshold), ("known of the channel", found.error)):
        if rate is not None:
            lines.append(Line(name, [(x, 100 * rate) for x in dict.fromkeys([points[0][0], points[-1][0]])]))
    look = styles([line.name for line in lines])
    chart = line_chart("Errors of qubits", lines, look, x_name="round", y_name="QBER, %", zero=True, logarithmic=False)
    aborted = sum(why.startswith("aborted") for row in found.rounds for why in row.excluded.values())
    tiles = Tiles([
        Tile("largest error rate", percent(max(y for _, y in points) / 100, 2), "of compared bits, any transmission"),
        Tile("given up", count(aborted), "transmissions"),
    ])  # fmt: skip
    columns = [Column("Round", True), Column("QBER, %", True)]
    table = Table(
        "Error rates as a table", columns, [[number(x, count(x)), number(y, fixed(y, 2))] for x, y in points],
        folded=True,
    )  # fmt: skip
    lead = (
        "Some bits of each transmission are compared, and whoever measures qubits on the way leaves errors there. A "
        "transmission is given up where a test finds more errors than are known of the channel, or clearly more than a "
        "secret key allows. So it may be given up below the upper line. This shows who listens to qubits; it says "
        "nothing of a server or client that misuses what it is sent."
    )
    return [Section("The channel", [tiles, Panels([chart], styles=look, lines=True, tables=[table])], lead)]


def privacy(found: Federated) -> list[Section]:
    """Return the section of the privacy spent; nothing without."""
    points = [(float(row.round), row.epsilon) for row in found.rounds if row.epsilon is not None]
    if not points:
        return []
    look = styles(["epsilon"])
    chart = line_chart(
        "Privacy spent", [Line("epsilon", points)], look, x_name="round", y_name="epsilon", zero=True, logarithmic=False
    )
    columns = [Column("Round", True), Column("Epsilon", True)]
    rows = [[number(x, count(x)), number(y, significant(y))] for x, y in points]
    table = Table("Privacy as a table", columns, rows, folded=True)
    tiles = Tiles([Tile("epsilon", significant(points[-1][1], 3), _delta(found))])
    lead = (
        "Differential privacy of a client's part in the global deltas, for whoever sees these; the server, which adds "
        "the noise, is trusted with the answers."
    )
    return [Section("Privacy", [tiles, Panels([chart], tables=[table])], lead)]


def _delta(found: Federated) -> str:
    privacy = found.federation.config.get("privacy")
    return f"at delta {privacy['delta']:g}" if isinstance(privacy, Mapping) and "delta" in privacy else ""
