"""Checksums of files: what is there, and whether it is still the same."""

from __future__ import annotations

import hashlib
from pathlib import Path


def of_file(path: Path) -> str:
    """The SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_files(folder: Path) -> dict[str, str]:
    """The checksum of each file below a folder, by its path from there, in the order of paths."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): of_file(path) for path in files}


def of_folder(folder: Path) -> str:
    """One checksum of the names and contents of all files below a folder.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     before = of_folder(Path(name))
    ...     _ = (Path(name) / "a").write_text("")
    ...     before == of_folder(Path(name))
    False
    """
    told = "\n".join(f"{checksum} {name}" for name, checksum in of_files(folder).items())
    return hashlib.sha256(told.encode()).hexdigest()
