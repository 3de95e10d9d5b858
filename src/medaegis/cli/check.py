"""`medaegis verify`: whether a guard folder is whole, unchanged and, with a key, from whom it should be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medaegis.cli import console
from medaegis.cli.options import AsJson, Factory, GuardDir, factory

PublicKey = Annotated[
    Path | None,
    typer.Option("--public-key", help="Ed25519 public key that must have signed it.", show_default="not asked for"),
]


def verify(guard_dir: GuardDir, public_key: PublicKey = None, network: Factory = None, as_json: AsJson = False) -> None:
    """Check every byte of a guard, its signature, and that its parts fit together and its Cushion works as before.

    Exit code 1 if it must not be used.
    """
    from medaegis.artefact import read_folder
    from medaegis.guard.guard import KIND, Guard
    from medaegis.guard.looks import FIT_AGAIN, unfinished
    from medaegis.guard.purpose import told_purpose

    guard = Guard.load(guard_dir, public_key=public_key, factory=factory(network))
    folder = read_folder(guard_dir, kind=KIND, public_key=public_key)
    doubts = unfinished(guard.training)
    told = {
        "guard": str(guard_dir),
        "digest": guard.digest,
        "signer": folder.signer,
        "signature_checked": public_key is not None,
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
    signed = "no" if folder.signer is None else f"by {folder.signer}"
    if folder.signer is not None:
        signed += ", the key asked for" if public_key is not None else "; give --public-key to check who that is"
    lines = {
        "Digest": guard.digest,
        "Signed": signed,
        "Classes": ", ".join(guard.classes),
        "For": told_purpose(guard.purpose),
        "Network": f"{guard.classifier.backbone}, {guard.classifier.size} px {guard.classifier.channels}",
        "Cushion": guard.cushion.spec,
        "Shields read": ", ".join(guard.bank.taps),
        "Training of Shields": f"not finished: {'; '.join(doubts)}. {FIT_AGAIN}." if doubts else "nothing against it",
        "Accepts of clean test images": f"{console.percent(told['tnr_reached'])} (chosen {console.percent(guard.tnr)})",
    }
    state = "unchanged and whole" + (", but not finished" if doubts else "")
    console.write(console.facts(lines, title=f"{console.shown(guard_dir)}: {state}"))
