"""The bar of long work on a terminal: how far, how fast, how much longer."""

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from fininfra_db import events


class Bar:
    """One bar for each task, which disappears at the end: the answer says what was done."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), _Rate(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False)
        self._tasks: dict[str, TaskID] = {}
        self._progress.start()

    def show(self, event: events.Progress) -> None:
        """Move the bar of the event's task."""
        if event.task not in self._tasks:
            self._tasks[event.task] = self._progress.add_task(event.task, total=event.total)
        self._progress.update(self._tasks[event.task], completed=event.done, total=max(event.total, event.done))

    def end(self) -> None:
        """Take everything off the screen."""
        self._progress.stop()


class _Rate(ProgressColumn):
    """Rows a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} rows/s" if task.speed else "")
