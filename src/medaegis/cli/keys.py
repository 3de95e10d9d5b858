"""`medaegis keys`: a key pair to sign guards with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medaegis.cli import console
from medaegis.cli.options import check_out


def keys(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for the two files; made if absent.")],
) -> None:
    """Make an Ed25519 key pair: fit --sign takes the secret one, verify and screen --public-key the other."""
    from medaegis.artefact import generate_keypair

    check_out(folder, option="DIR")
    secret, public = generate_keypair(folder)
    lines = {"Secret, for fit --sign": secret, "Public, for verify and screen --public-key": public}
    console.write(console.facts(lines))
