"""The tokens that open the service, each for one role, and what is kept of them.

`score` sends transactions, `casework` does an analyst's work under the name that its token was
given for, `view` reads and changes nothing. Tokens that were given to somebody lie beside the
database as hashes; a running service looks there four times a second, so that one which was added
counts, and one which was revoked ends, without a restart. Two more are the service's own: that of
the settings, or of a file that it makes, is for `score`; that of its endpoint file is for
`casework` under any name, as whoever can read that file can write to the database anyway.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from aegis_core.config import Settings
from aegis_core.errors import InputError, StoreError, did_you_mean
from aegis_core.machine import utc_now, written_whole
from aegis_core.review.answers import named
from aegis_core.store import Store, audit

SCORE, CASEWORK, VIEW = ROLES = ("score", "casework", "view")


@dataclass(frozen=True)
class Token:
    """A token, of which only the hash is known.

    Attributes
    ----------
    name : Whom it was given to; "" for the service's own.
    role : One of `ROLES`.
    hash : The SHA-256 of the secret, which is random and too long to be guessed.
    added_at, who : When (UTC) and by whom it was given.
    """

    name: str
    role: str
    hash: str
    added_at: str = ""
    who: str = ""

    def acts_as(self, analyst: str | None) -> str:
        """Who acts: whom the token was given to, or where it is nobody's own, who is named.

        Raises
        ------
        InputError : Nobody is named, or another than the token's analyst.
        """
        if self.name and analyst is not None and analyst.strip() != self.name:
            raise InputError(f"This token is that of {self.name}, who cannot act as {analyst!r}.")
        return self.name or named(analyst or "")


def given(path: Path) -> dict[str, Token]:
    """The tokens that were given for the service of the database at `path`, by name.

    Raises
    ------
    InputError : Others can read the file, or it is not what Aegis wrote.
    """
    return {token.name: token for token in _written(path) if token.hash}


def _written(path: Path) -> list[Token]:
    """Also those of analysts that were revoked, of which no hash is left."""
    file = given_file(path)
    try:
        return [Token(**row) for row in json.loads(_private(file) or "[]")]
    except (OSError, ValueError, TypeError, KeyError):
        raise InputError(
            f"{file} cannot be read as tokens. Delete it and give new ones: `aegis tokens add`."
        ) from None


def add(store: Store, name: str, role: str, *, who: str) -> str:
    """Give a token to somebody; its secret, which is nowhere kept.

    Raises
    ------
    InputError : There is no such role, the name is none, or it has a token.
    """
    name = named(name)
    if role not in ROLES:
        raise InputError(
            f"{role!r} is no role; there are {', '.join(ROLES)}." + did_you_mean(role, ROLES)
        )
    secret = f"{role}-{secrets.token_urlsafe(32)}"
    with store.reading() as session:
        session.last_seq()  # there is a database
    with store.changing() as session:  # one at a time, of all processes
        there = {token.name: token for token in _written(store.path)}
        if name in there and there[name].hash:
            raise InputError(
                f"{name} has a token for {there[name].role}; `aegis tokens revoke` takes it away."
            )
        there.pop(name, None)
        audit.record(session, who, "add token", name, {"role": role})
        now = utc_now().isoformat(timespec="seconds")
        _keep(store.path, [*there.values(), Token(name, role, hashed(secret), now, who)])
    return secret


def revoke(store: Store, name: str, *, who: str) -> Token:
    """Take a token away, which ends it at once; `InputError` where the name has none."""
    with store.changing() as session:
        there = {token.name: token for token in _written(store.path)}
        token = there.pop(name.strip(), None)
        if token is None or not token.hash:
            raise InputError(f"{name!r} has no token." + did_you_mean(name, given(store.path)))
        if token.role == CASEWORK:  # a name alone is never enough again
            there[token.name] = replace(token, hash="")
        audit.record(session, who, "revoke token", token.name, {"role": token.role})
        _keep(store.path, there.values())
    return token


def analyst(path: Path, said: str) -> str:
    """The analyst who brings a token, or where no analyst ever had one, who is named.

    Raises
    ------
    InputError : Analysts have tokens, and this is none of them; or the name is none.
    """
    theirs = [token for token in _written(path) if token.role == CASEWORK]
    if theirs:
        if (token := holder(said.strip().encode(), theirs)) is None:
            raise InputError("That is no analyst's token; `aegis tokens add` gives one.")
        return token.name
    return named(said)


def token_of(store: Store, settings: Settings) -> str:
    """The service's own token for `score`: of the settings, or of a file made on the first start.

    Raises
    ------
    InputError : The file can be read by others, or the token is too short.
    StoreError : The folder takes no file.
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
        raise InputError(
            "The token is too short to be safe; use 16 characters or more. That of "
            f"{token_file(store)} is made anew where the file is deleted."
        )
    return token


def kept_token(store: Store) -> str:
    """The token that a service on this database made on its first start, "" if there is none.

    Raises
    ------
    InputError : The file can be read by others, or is empty.
    """
    path = token_file(store)
    if not (token := _private(path).strip()) and path.exists():
        raise InputError(f"{path} is empty; delete it, and the next start makes a new token.")
    return token


def token_file(store: Store) -> Path:
    """Where a service keeps its token: beside the database, readable by its owner alone."""
    return store.path.with_name(store.path.name + ".token")


def given_file(path: Path) -> Path:
    """Where the hashes of the tokens lie that were given for the service of a database."""
    return path.with_name(path.name + ".tokens")


def hashed(secret: str) -> str:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def holder(secret: bytes, tokens: Iterable[Token]) -> Token | None:
    """The token that a secret opens; how long it takes to say so tells nothing of the others."""
    found, digest = None, hashlib.sha256(secret).hexdigest()
    for token in tokens:
        if hmac.compare_digest(token.hash, digest):
            found = token
    return found


def _private(path: Path) -> str:
    """The content of a file that its owner alone may read, "" without one; else `InputError`."""
    if not path.exists():
        return ""
    if path.stat().st_mode & 0o077:
        raise InputError(f"{path} can be read by others; `chmod 600` it or delete it.")
    return path.read_text("utf-8")


def _keep(path: Path, tokens: Iterable[Token]) -> None:
    file = given_file(path)
    try:
        with written_whole(file) as new:
            new.write_text(json.dumps([asdict(token) for token in tokens], indent=1), "utf-8")
    except OSError as e:
        raise StoreError(f"{file} cannot be written: {e.strerror}.") from None
