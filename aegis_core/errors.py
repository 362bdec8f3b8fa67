"""What can go wrong for a user, one class a situation.

AegisError
├── InputError          the data, file or parameter given is not usable
│   ├── FileUnreadable  not there, empty, or not what its name says
│   └── ColumnError     a column is missing or a map names one that is not there
├── StoreError          the database cannot be used
│   ├── StoreBusy       another process holds the file
│   │   └── QueueFull   more transactions wait than the service takes
│   └── StoreVersion    written by another version of Aegis
├── NotReady            an earlier step is missing (no transactions, no champion)
├── RunBusy             the same notebook is already running on this database
├── RunFailed           a notebook run ended with an error
│   └── RunRefused      what it was given, or what is there, cannot be used
├── NotVerifiable       what a run saw is not there any more
├── Unjudged            there is too little to judge by, such as labels
└── ServerFailed        the dashboard's server did not start, or ended by itself

Every message says what is wrong, what was there, and the next step. The command line prints the
message alone and ends with `exit_code`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AegisError(Exception):
    """Base of every error that Aegis raises on purpose."""

    exit_code = 2


class InputError(AegisError):
    """The data, file or parameter given is not usable."""


class FileUnreadable(InputError):
    """A file is not there, is empty, or is not what its name says."""


class ColumnError(InputError):
    """A column is missing, or a map names one that is not there."""


class StoreError(AegisError):
    """The database cannot be used."""


class StoreBusy(StoreError):
    """Another process holds the database file and did not let go in time."""


class QueueFull(StoreBusy):
    """More transactions wait for the disk than the service takes; a moment later it may."""


class StoreVersion(StoreError):
    """The database was written by another version of Aegis."""


class NotReady(AegisError):
    """An earlier step is missing: no transactions, or no champion model."""


class RunBusy(AegisError):
    """The same notebook is already running on this database."""

    exit_code = 3


class RunFailed(AegisError):
    """A notebook run ended with an error; the executed notebook shows the cell."""

    exit_code = 1


class RunRefused(RunFailed):
    """A run's parameters or data cannot be used: another attempt would end the same."""

    exit_code = 2


class NotVerifiable(AegisError):
    """What a run saw, or what it used, is not there any more, so it cannot be repeated."""

    exit_code = 4


class Unjudged(AegisError):
    """There is too little to judge by, so that no figure would mean anything."""

    exit_code = 5


class ServerFailed(AegisError):
    """The dashboard's server did not start, or ended by itself."""

    exit_code = 1


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Close names as the end of a message, or an empty string.

    >>> did_you_mean("amout", ["amount", "ts"])
    ' Did you mean amount?'
    >>> did_you_mean("zzz", ["amount"])
    ''
    """
    close = difflib.get_close_matches(word, list(known), n=3)
    return f" Did you mean {' or '.join(close)}?" if close else ""
