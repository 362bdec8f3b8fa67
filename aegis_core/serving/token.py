"""The token that opens the service: of the settings, or kept in a file beside the database."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from aegis_core.config import Settings
from aegis_core.errors import InputError, StoreError
from aegis_core.store import Store


def token_of(store: Store, settings: Settings) -> str:
    """The token that requests must bring: of the settings, or of a file made on the first start.

    Raises
    ------
    InputError
        The file can be read by others, or the token is too short.
    StoreError
        The folder takes no file.
    """
    token = settings.token.get_secret_value() or kept_token(store)
    if not token:
        token = secrets.token_urlsafe(32)
        try:
            new = os.open(token_file(store), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(new, "w") as f:
                f.write(token + "\n")
        except OSError as e:
            raise StoreError(f"{token_file(store)} cannot be written: {e.strerror}.") from None
    if len(token) < 16:
        raise InputError("The token is too short to be safe; use 16 characters or more.")
    return token


def kept_token(store: Store) -> str:
    """The token that a service on this database made on its first start, "" if there is none.

    Raises
    ------
    InputError
        The file can be read by others.
    """
    path = token_file(store)
    if not path.exists():
        return ""
    if path.stat().st_mode & 0o077:
        raise InputError(f"{path} can be read by others; `chmod 600` it or delete it.")
    return path.read_text().strip()


def token_file(store: Store) -> Path:
    """Where a service keeps its token: beside the database, readable by its owner alone."""
    return store.path.with_name(store.path.name + ".token")
