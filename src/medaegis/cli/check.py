"""`medaegis verify`: whether a guard is whole, unchanged and from whom it should be; `keys`: a pair to sign with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medaegis.cli import console
from medaegis.cli.options import AsJson, Factory, GuardDir, check_out, factory
from medaegis.sizes import told_size

PublicKey = Annotated[
    Path | None,
    typer.Option("--public-key", help="Ed25519 public key that must have signed it.", show_default="not asked for"),
]
MinVersion = Annotated[
    int | None,
    typer.Option(
        "--min-version",
        metavar="VERSION",
        help="With --public-key: refuse an older guard, signed before this version.",
        show_default="any",
    ),
]


def verify(
    guard_dir: GuardDir,
    public_key: PublicKey = None,
    min_version: MinVersion = None,
    network: Factory = None,
    as_json: AsJson = False,
) -> None:
    """Check every byte of a guard, its signature, and that its parts fit together and its Cushion works as before.

    Without --public-key it says that the guard is whole, not that it is yours: whoever can write to the folder can put
    another whole guard there. Exit code 1 if it must not be used.
    """
    from medaegis.artefact import read_folder
    from medaegis.guard.guard import KIND, Guard
    from medaegis.guard.looks import FIT_AGAIN, unfinished
    from medaegis.guard.purpose import told_purpose

    guard = Guard.load(guard_dir, public_key=public_key, min_version=min_version, factory=factory(network))
    folder = read_folder(guard_dir, kind=KIND, public_key=public_key)
    doubts = unfinished(guard.training)
    told = {
        "guard": str(guard_dir),
        "digest": guard.digest,
        "signer": folder.signer,
        "signature_checked": public_key is not None,
        "version": guard.version,
        "classes": list(guard.classes),
        "purpose": None if guard.purpose is None else guard.purpose.model_dump(mode="json"),
        "backbone": guard.classifier.backbone,
        "size": guard.classifier.size,
        "channels": guard.classifier.channels,
        "cushion": guard.cushion.spec,
        "taps": list(guard.bank.taps),
        "tnr": guard.tnr,
        "tnr_reached": guard.calibration.get("tnr_reached"),
        "finished": not doubts,
        "unfinished": doubts,
        "versions": folder.manifest.get("versions"),
    }
    if as_json:
        console.write_json(told)
        return
    lines = {
        "Digest": guard.digest,
        "Signed": _signed(folder.signer, named=public_key is not None),
        "Version": "none" if guard.version is None else str(guard.version),
        "Classes": ", ".join(guard.classes),
        "For": told_purpose(guard.purpose),
        "Network": f"{guard.classifier.backbone}, {told_size(guard.classifier.size)} {guard.classifier.channels}",
        "Cushion": guard.cushion.spec,
        "Shields read": ", ".join(guard.bank.taps),
        "Training of Shields": f"not finished: {'; '.join(doubts)}. {FIT_AGAIN}." if doubts else "nothing against it",
        "Accepts of clean test images": f"{console.percent(told['tnr_reached'])} (chosen {console.percent(guard.tnr)})",
    }
    state = "unchanged and whole" + (", but not finished" if doubts else "")
    console.write(console.facts(lines, title=f"{console.shown(guard_dir)}: {state}"))


def _signed(signer: str | None, *, named: bool) -> str:
    if named:
        return f"by the key you named ({signer})"
    if signer is None:
        return "by nobody: anybody can have made or exchanged it"
    return f"by nobody you named, but by {signer}: anybody can have signed it; give --public-key"


def keys(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for the two files; made if absent.")],
) -> None:
    """Make an Ed25519 key pair: fit --sign takes the secret one, verify and screen --public-key the other."""
    from medaegis.artefact import generate_keypair

    check_out(folder, option="DIR")
    secret, public = generate_keypair(folder)
    lines = {"Secret, for fit --sign": secret, "Public, for verify and screen --public-key": public}
    console.write(console.facts(lines))
