"""Secrets of a run: given as references, and looked for in whatever the run leaves behind.

When it fails: a notebook that shows a secret in pieces, encrypted or reversed gets past it.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, quote_plus

from aegis_core.config import SECRET, secret
from aegis_core.errors import InputError

MASK: Final = "•••"
SHORTEST: Final = 8
"""A shorter secret could not be told from other text."""
_NAMED_SO: Final = re.compile(r"(^|_)(token|secret|password|passwd|api_?key|credentials?)(_|$)")
_IN_AN_ADDRESS: Final = re.compile(
    r"://(?:[^/?#\s]*@"
    r"|[^/?#\s:@\[]*:(?!\d*(?:[/?#\s]|$))\S*@)"  # a password with / ? # in it: no port, and then @
)


def secrets_of(parameters: Mapping[str, object]) -> dict[str, str]:
    """The secrets that parameters refer to: values by reference.

    Raises
    ------
    InputError
        A parameter with the name of a secret holds the secret itself, an address has a user or a
        password in it, a variable is not there, or its value is too short to be found again.

    >>> secrets_of({"token": "abc"})
    Traceback (most recent call last):
        ...
    aegis_core.errors.InputError: token looks like a secret, and parameters are kept in the ledger \
and in reports. Put it into a variable of the environment and give its name: -p token env:NAME.
    """
    for name, value in parameters.items():
        given = isinstance(value, str) and value and not value.startswith(SECRET)
        if given and _NAMED_SO.search(name.lower()):
            raise InputError(
                f"{name} looks like a secret, and parameters are kept in the ledger and in "
                "reports. Put it into a variable of the environment and give its name: "
                f"-p {name} env:NAME."
            )
        if given and _IN_AN_ADDRESS.search(str(value)):
            raise InputError(
                f"{name} is an address with a user or a password in it, and parameters are kept in "
                "the ledger and in reports. Leave out what stands before the @; where a token is "
                "needed, put it into a variable of the environment and give its name: "
                "-p token env:NAME."
            )
    references = {v for v in parameters.values() if isinstance(v, str) and v.startswith(SECRET)}
    found = {reference: secret(reference) for reference in sorted(references)}
    for reference, value in found.items():
        if len(value) < SHORTEST:
            raise InputError(
                f"The secret {reference} has fewer than {SHORTEST} characters, too few to look for "
                "it in a report. Choose a longer one."
            )
    return found


class Redactor:
    """Masks the values of secrets, also where they are escaped.

    Parameters
    ----------
    secrets : values by reference, of `secrets_of`.

    Attributes
    ----------
    found : references of the secrets that were found so far.

    >>> redactor = Redactor({"env:TOKEN": "s3cret&more"})
    >>> redactor.clean({"text": ["a s3cret&amp;more b", 1]}), redactor.found
    ({'text': ['a ••• b', 1]}, {'env:TOKEN'})
    """

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self.found: set[str] = set()
        self._forms = [(form, of) for of, value in secrets.items() for form in _hidden(value)]
        self._forms.sort(key=lambda pair: -len(pair[0]))  # a longer form may hold a shorter one

    def text(self, text: str) -> str:
        """`text` with a mask in the place of each secret."""
        for form, reference in self._forms:
            if form in text:
                self.found.add(reference)
                text = text.replace(form, MASK)
        return text

    def clean(self, node: Any) -> Any:
        """A tree of mappings, lists and texts with masks; mappings and lists change in place."""
        if not self._forms:
            return node
        if isinstance(node, str):
            return self.text(node)
        if isinstance(node, dict):
            for key in list(node):
                node[key] = self.clean(node[key])
        elif isinstance(node, list):
            node[:] = [self.clean(part) for part in node]
        return node


def forms(value: str) -> set[str]:
    """How a value may be written in a notebook, a page or an address."""
    return {
        value,
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        repr(value)[1:-1],
        html.escape(value),
        html.escape(value, quote=False),
        quote(value),
        quote_plus(value),
    }


def _hidden(value: str) -> set[str]:
    return forms(value) | {base64.b64encode(value.encode()).decode().rstrip("=")}
