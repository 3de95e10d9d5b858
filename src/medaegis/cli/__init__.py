"""The command line: one thin command per verb; what they do is in the other rooms.

Exit codes: 0 fine, 1 something was rejected or failed, 2 wrong usage, 130 stopped by Ctrl-C.
"""


def main() -> None:
    """Entry point of the `medaegis` program."""
    from medaegis.cli.app import app

    app(prog_name="medaegis")
