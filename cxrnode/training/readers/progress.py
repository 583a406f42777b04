"""A progress bar for what takes a while, on stderr alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def bar(what: str, total: int, *, show: bool, fewest: int = 500) -> Iterator[Callable[[int], None]]:
    """Yield what is told how many more are over; a bar with the time left, where stderr is a terminal.

    Without `show`, and for less than `fewest`, nothing is drawn: a terminal bears one bar at a time.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    quiet = not (show and console.is_terminal and total >= fewest)
    with Progress(*columns, console=console, transient=True, disable=quiet) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)
