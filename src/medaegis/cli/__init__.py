"""The command line: one thin command per verb; what they do is in the other rooms.

Exit codes: 0 fine, 1 something was rejected or failed, 2 wrong usage, 130 stopped by Ctrl-C.
"""

import gc
import os
import sys
import threading


def main() -> None:
    """Entry point of the `medaegis` program."""
    # PyTorch brings a heap of objects that live to the end. The collector would walk it again and again while it is
    # imported, and once more at the end: 1 s of every command.
    gc.set_threshold(50_000, 20, 20)
    from medaegis.cli.app import app
    from medaegis.guard.watch import NAME

    try:
        app(prog_name="medaegis")
    except SystemExit as end:
        if any(thread.name == NAME for thread in threading.enumerate()):
            # PyTorch aborts the process where a thread is still in the middle of a pass when Python ends.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code if isinstance(end.code, int) else 0 if end.code is None else 1)
        raise
    finally:
        gc.freeze()
