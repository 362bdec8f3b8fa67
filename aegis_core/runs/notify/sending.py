"""Handing a message to Apprise: as plain text, within a time limit, without telling secrets."""

from __future__ import annotations

import hashlib
import logging
import logging.handlers
import re
import warnings
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from aegis_core.config import secret
from aegis_core.errors import InputError

if TYPE_CHECKING:
    import apprise

SEND_WITHIN_S: Final = 30.0
"""A service that takes longer is tried again later."""
_DROPPED: Final = re.compile(r"Dropped .*?\((.*)\)")  # what Apprise logs
_SHORT: Final = 1_000  # a service whose messages are shorter, such as SMS, gets only the beginning


def address_of(reference: str) -> str:
    """What the log calls an address: never a secret, the same for the same address.

    >>> address_of("env:MAIL"), address_of("mailto://anna:secret@example.org")
    ('env:MAIL', 'mailto:// 9ba280')
    """
    if reference.startswith("env:"):
        return reference
    scheme = reference.partition("://")[0][:20]
    return f"{scheme}:// {hashlib.sha256(reference.encode()).hexdigest()[:6]}"


def recipients(reference: str) -> dict[str, str]:
    """Whom an address reaches: what the log calls each, and its mark for `send`; "" if one alone.

    `InputError` where Apprise cannot use the address or would leave a recipient out without a word,
    or its variable is not set.
    """
    name = address_of(reference)
    marks = _marks(_service(secret(reference), SEND_WITHIN_S, name))
    if len(marks) < 2:
        return {name: ""}
    hints = {mark: re.search(r"(\w)[^@\s']*(@[\w.-]+)", str(one)) for mark, one in marks.items()}
    return {f"{name} {f'{h[1]}…{h[2]} ' if h else ''}{m}": m for m, h in hints.items()}


def send(
    reference: str, title: str, text: str, only: str = "", *, within_s: float = SEND_WITHIN_S
) -> str | None:
    """Send a message to all recipients of an address or to `only` one; None, or why it failed.

    A service that answers too late may have sent it all the same.
    """
    import apprise

    try:
        url = secret(reference)
        service = _service(url, within_s, address_of(reference))
        if only:
            _narrow(service, only)
    except InputError as e:
        return str(e)
    outlet = apprise.Apprise(asset=service.asset)
    outlet.add(service)
    with outlet.notify(body=text, title=title, body_format=apprise.NotifyFormat.TEXT) as result:
        if result:
            return None
        if result.timeout_count:
            return f"It did not answer within {within_s:g} s."
        told = [str(entry.message) for entry in result.logs() if entry.level != "INFO"]
    return without_secrets(" ".join(told) or "The service refused it.", url)


def without_secrets(text: str, url: str) -> str:
    """`text` without the parts of `url` that may be secret: all but scheme, host and port.

    >>> without_secrets("403 for token s3cret-4 of example.org", "json://example.org/s3cret-4")
    '403 for token … of example.org'
    """
    split = urlsplit(url)
    parts = {url, split.username or "", split.password or "", split.query, split.path.strip("/")}
    parts |= set(re.split(r"[/&=?,@:]", f"{split.path}&{split.query}"))
    if not split.username and "." not in (split.hostname or ""):
        parts.add(split.netloc)  # of some services the first part of the address is a token
    parts |= {unquote(part) for part in parts}
    for part in sorted((p for p in parts if len(p) > 3), key=len, reverse=True):
        text = text.replace(part, "…")
    return " ".join(text.split())[:400]


def _service(url: str, within_s: float, name: str) -> Any:
    import apprise

    logger = logging.getLogger("apprise")
    logger.propagate = False  # its messages may hold addresses; what matters goes to the log
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    asset = apprise.AppriseAsset(
        service_timeout=within_s,
        storage_mode=apprise.PersistentStoreMode.MEMORY,
        allow_templates=False,
        app_id="Aegis",
    )
    logger.addHandler(heard := logging.handlers.BufferingHandler(1_000))
    with warnings.catch_warnings():  # of what its plugins import when the first is asked for
        warnings.simplefilter("ignore", DeprecationWarning)
        service: apprise.NotifyBase | None = apprise.Apprise.instantiate(url, asset=asset)
    logger.removeHandler(heard)
    told = [found for r in heard.buffer if (found := _DROPPED.match(r.getMessage()))]
    if service is None:
        raise InputError(
            f"Apprise cannot use the address {name}. Its documentation has the form of each "
            "service's URL, such as mailto://user:password@example.org."
        )
    if dropped := [found[1] for found in told] or _lost(service, url):
        raise InputError(
            f"Of the address {name} Apprise would leave out {', '.join(map(repr, dropped))}. Write "
            "each recipient in full, such as anna@example.org, with a comma between two."
        )
    service.socket_connect_timeout = service.socket_read_timeout = min(within_s, 10.0)
    if "overflow=" not in url:
        mode = apprise.OverflowMode
        service.overflow_mode = mode.TRUNCATE if service.body_maxlen < _SHORT else mode.SPLIT
    return service


def _lost(service: Any, url: str) -> list[str]:
    """Recipients in an address that Apprise says nothing of and does not write to."""
    from apprise.utils.parse import is_email

    if not hasattr(service, "targets"):
        return []
    after = re.sub(r"^[^:]+://[^/?]*", "", url)
    lost = [unquote(part) for part in re.findall(r";([^&;/?]*)", after)]
    if hasattr(service, "cc"):  # mail
        read = service.parse_url(url) or {}
        fields = [*(read.get("targets") or ()), read.get("cc") or "", read.get("bcc") or ""]
        parts = [part.strip() for text in map(unquote, fields) for part in text.split(",")]
        lost += [part for part in parts if part and not is_email(part)]  # type: ignore[no-untyped-call]
    return lost


def _marks(service: Any) -> dict[str, Any]:
    """The recipients of a service, by a mark that tells them apart without telling who they are."""
    targets = getattr(service, "targets", None)
    found = [*targets] if isinstance(targets, list | tuple) else []
    found += [
        (False, copy) for name in ("cc", "bcc") for copy in getattr(service, name, None) or ()
    ]
    return {hashlib.sha256(repr(one).encode()).hexdigest()[:6]: one for one in found}


def _narrow(service: Any, mark: str) -> None:
    """Leave a service one recipient, so that what one refuses does not reach the others again."""
    marks = _marks(service)
    if mark not in marks:
        raise InputError("The address has this recipient no more.")
    service.targets = [marks[mark]]
    for name in ("cc", "bcc"):
        if hasattr(service, name):
            setattr(service, name, set())
