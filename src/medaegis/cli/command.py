"""What every command has in common: its example in the help, and how errors end."""

from __future__ import annotations

import functools
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import typer

from medaegis.cli import console
from medaegis.errors import ConfigError, DataError, MedaegisError

FAILED, USAGE, STOPPED = 1, 2, 130

Command = Callable[..., Any]


def add_commands(app: typer.Typer, *commands: tuple[Command, str], panel: str | None = None) -> None:
    """Add commands under their functions' names; the help of each ends with its example, given without the program."""
    for function, example in commands:
        app.command(epilog=f"Example: medaegis {example}", rich_help_panel=panel)(_ending_well(function))


def _ending_well(function: Command) -> Command:
    """The function, with every error turned into a line on stderr and an exit code."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        if not console.state.debug:
            warnings.simplefilter("ignore")  # libraries warn about themselves; a result never depends on it
        try:
            function(*args, **kwargs)
            sys.stdout.flush()
        except typer.Exit:
            raise
        except MedaegisError as error:
            console.complain(str(error))
            raise typer.Exit(USAGE if isinstance(error, ConfigError | DataError) else FAILED) from None
        except KeyboardInterrupt:
            console.complain("stopped. The long commands go on where they were when called again")
            raise typer.Exit(STOPPED) from None
        except BrokenPipeError:
            # The reader (head, less) has seen enough; without this, Python complains while it shuts down.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(FAILED) from None
        except Exception as error:  # the outermost boundary
            if console.state.debug:
                raise
            if isinstance(error, OSError) and error.strerror:  # of the system; libraries raise their own without
                place = "the disk or the output" if error.filename is None else error.filename
                console.complain(f"{place}: {error.strerror}; check the path, the rights on it and the disk's space")
                raise typer.Exit(FAILED) from None
            # Whatever else is a defect, and told as one.
            console.complain(
                f"unexpected {type(error).__name__}: {error}. This is a defect of medaegis, not of your input; please "
                "report it with the output of the same command after `medaegis --debug`, and of `medaegis doctor`"
            )
            raise typer.Exit(FAILED) from None

    return run
