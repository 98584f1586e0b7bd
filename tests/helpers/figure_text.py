"""Write figures as the documents write them."""

Saying = tuple[str, str]  # a document, and a sentence or table row
WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
KV_SECONDS = ("cached", "every step", "reading")


def row(*cells: object) -> str:
    """Return a table's row as documents.flat returns it."""
    return f"| {' | '.join(map(str, cells))} |".replace("|  |", "| |")


def bare(value: float, digits: int = 2) -> str:
    """Return a number without the zero before its point."""
    return f"{value:.{digits}f}".removeprefix("0")


def figure(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def spread(values: list[float]) -> str:
    """Return a spread as benchmarks/measure.py prints it: median and quartiles."""
    return "{} ({} to {})".format(*map(figure, values))
