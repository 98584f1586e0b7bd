"""A campaign's figures: one row for each thing that was attacked, and the table of them."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Row:
    """The tries of one attack: `tries` is `held + failed`, and `notes` names what failed."""

    campaign: str
    what: str
    tries: int
    held: int
    failed: int
    notes: str = ""


def table(rows: list[Row]) -> str:
    """Return the rows as a table in Markdown, the last line of which has the totals."""
    lines = ["| campaign | what | tries | held | failed | notes |", "|---|---|---|---|---|---|"]
    for row in rows:
        cells = (row.campaign, row.what, row.tries, row.held, row.failed, row.notes)
        lines.append(f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |")
    tries, held, failed = (
        sum(getattr(row, name) for row in rows) for name in ("tries", "held", "failed")
    )
    return "\n".join([*lines, f"| all | | {tries} | {held} | {failed} | |"])
