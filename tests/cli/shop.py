"""The command line called in this process, and the folders that the shared guard lies in."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner, Result

from medaegis.cli.app import app

SPEC = "phantom-xray?n=240"


def call(*arguments: object) -> Result:
    """The command line in this process: exit code, stdout and stderr."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@dataclass(frozen=True)
class Shop:
    """Where the shared classifier and guard lie, and the keys the guard is signed with."""

    root: Path

    @property
    def classifier(self) -> Path:
        return self.root / "classifier"

    @property
    def guard(self) -> Path:
        return self.root / "guard"

    @property
    def public_key(self) -> Path:
        return self.root / "keys" / "public-key.pem"

    def copy_of_guard(self, to: Path) -> Path:
        """A guard of one's own, to damage."""
        return shutil.copytree(self.guard, to / "guard")
