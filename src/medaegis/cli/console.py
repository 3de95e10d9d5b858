"""What the commands write: answers on stdout (tables, or JSON for programs), progress and complaints on stderr."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

    from medaegis.progress import Pace, Progress

PLAIN_SECONDS = 15.0  # between two progress lines where stderr is no terminal
PLAIN_WIDTH = 160  # of tables written to a file or a pipe


@dataclass
class State:
    """Global options."""

    debug: bool = False


state = State()


def shown(text: object) -> str:
    """Text from outside, safe to print: control characters and bytes that are no text appear as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in str(text))


def say(text: str) -> None:
    """A remark for the person at the terminal; stderr, so that it never mixes with an answer."""
    print(text, file=sys.stderr, flush=True)


def complain(text: str) -> None:
    """An error, in one line."""
    say(f"medaegis: {shown(text)}")


def write(renderable: RenderableType) -> None:
    """Print a rich object on stdout."""
    from rich.console import Console

    terminal = sys.stdout.isatty()
    Console(file=sys.stdout, width=None if terminal else PLAIN_WIDTH, highlight=False).print(renderable)


def write_json(value: object, *, lines: bool = False) -> None:
    """Print JSON on stdout; `lines` keeps it in one."""
    print(json.dumps(value, indent=None if lines else 2, allow_nan=False), flush=lines)


def table(
    *columns: str, rows: Sequence[Sequence[object]], title: str | None = None, whole: bool = False
) -> RenderableType:
    """A plain table; cells are text from outside and never markup.

    Args:
        whole: the first column holds names to be copied, and is never broken.
    """
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        made.add_column(column, overflow="fold", no_wrap=i == 0 and whole)
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(shown(cell)) for cell in row))
    # As a line of its own, a title may be wider than its table, and is never markup either.
    return made if title is None else Group(Text(title, style="italic"), made)


def facts(pairs: Mapping[str, object], title: str | None = None) -> RenderableType:
    """Names and values, a line each."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, show_header=False, title=title, title_justify="left", pad_edge=False)
    made.add_column(style="dim")
    made.add_column(overflow="fold")
    for name, value in pairs.items():
        made.add_row(name, Text(shown(value)))
    return made


@contextmanager
def progress(title: str) -> Iterator[Progress]:
    """A listener for long work: a bar at a terminal, elsewhere a line now and then, also where nothing is reported.

    Both tell what is left, and where work that was killed goes on.
    """
    from medaegis.progress import GOES_ON, Pace

    pace = Pace()
    with (_bar if sys.stderr.isatty() else _lines)(title, pace) as show:

        def listen(done: int, total: int, message: str) -> None:
            pace.report(done, total, message)
            if message == GOES_ON:
                say(f"{title} goes on at {done} of {total}")
            show(shown(message))

        yield listen


@contextmanager
def _bar(title: str, pace: Pace) -> Iterator[Callable[[str], None]]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Task, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    class Left(TextColumn):
        def render(self, task: Task) -> Any:
            self.text_format = left_in_words(pace.left)
            return super().render(task)

    columns = [
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        Left(""),
        TextColumn("[dim]{task.fields[message]}"),
    ]
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(title, total=None, message="")
        yield lambda message: bars.update(task, completed=pace.done, total=pace.total, message=escape(message))


@contextmanager
def _lines(title: str, pace: Pace) -> Iterator[Callable[[str], None]]:
    """A line every `PLAIN_SECONDS`, from a thread of its own: work that reports seldom is not silent for that."""
    over, doing = threading.Event(), ""

    def tell() -> None:
        while not over.wait(PLAIN_SECONDS):
            how_far = f"{pace.done}/{pace.total}, {doing}; " if pace.total else ""
            say(f"{title}: {how_far}{time_in_words(pace.seconds)} so far, {left_in_words(pace.left)}")

    def show(message: str) -> None:
        nonlocal doing
        doing = message

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield show
    finally:
        over.set()
        thread.join()


def left_in_words(seconds: float | None) -> str:
    """As `about 4 min left`."""
    return "not known yet how long" if seconds is None else f"about {time_in_words(seconds)} left"


def time_in_words(seconds: float) -> str:
    """As `40 s`, `4 min 5 s`, `25 min`, `2 h 5 min`: an estimate, no measurement."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def percent(share: Any) -> str:
    """A share as `97.3 %`, or a dash."""
    return "–" if share is None else f"{100 * share:.1f} %"


def percent_bounds(low: float, high: float) -> str:
    """An interval of shares as `80.0–90.6 %`."""
    return f"{100 * low:.1f}–{100 * high:.1f} %"


def decimal(value: Any) -> str:
    """An area under the curve as `0.973`, or a dash."""
    return "–" if value is None else f"{value:.3f}"
