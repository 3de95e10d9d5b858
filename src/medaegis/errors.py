"""Every error that the package raises on purpose, each naming what was given, what is wrong and what to do.

A caller that handles `MedaegisError` handles all of them; anything else that escapes is a defect of the package.
"""


class MedaegisError(Exception):
    """Base of all typed errors; its text reads `<source>: <problem>; <remedy>`.

    >>> import medaegis as ma
    >>> try:
    ...     ma.read_image("no/such/file.png")
    ... except ma.MedaegisError as error:
    ...     print(f"{type(error).__name__}: {error}")
    ImageError: no/such/file.png: no such file or directory; check the path and your right to read it

    Args:
        source: what was being worked on (a file, a spec, an option).
        problem: what is wrong with it, what was expected.
        remedy: what the user can do about it.
    """

    def __init__(self, source: object, problem: str, remedy: str) -> None:
        # The three arguments go to Exception, so that copying between processes rebuilds the error unchanged.
        super().__init__(str(source), problem, remedy)
        self.source = str(source)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.source}: {self.problem}; {self.remedy}"


class ImageError(MedaegisError):
    """A picture that cannot be read or must not be (damaged, unsupported, too large, too small)."""


class UnsupportedError(ImageError):
    """A picture that can be read, but is of another kind than the guard is for."""


class DataError(MedaegisError):
    """A data-set spec, folder, table or split that does not fit."""


class ArtefactError(MedaegisError):
    """A folder on disk that is changed, incomplete, foreign or of another version."""


class ConfigError(MedaegisError):
    """An option or a value that is unknown or out of its range."""
