"""Storage addresses, and keeping the passwords in them out of everything that anyone reads."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote, quote_plus, unquote, unquote_plus

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from thalweg.race.errors import StorageError

_SECRET_QUERY = ("password", "passwd", "pwd", "sslpassword", "token", "passfile")


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file."""
    return URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)


def normalize(storage: str) -> str:
    """A full SQLAlchemy URL: a file name becomes SQLite's, ``postgresql://`` names psycopg as its driver.

    Raises:
        StorageError: not a database URL.

    Example:
        >>> normalize("postgres://me:secret@db.example/races")
        'postgresql+psycopg://me:secret@db.example/races'
    """
    if "://" not in storage:
        return sqlite_url(Path(storage).expanduser().absolute())
    try:
        url = make_url(storage)
    except (ArgumentError, ValueError):
        raise StorageError(
            f"can't read the storage address {redact(storage, storage)!r}; write postgresql://user:password@host/database "
            "(with %40 for @ in a password) or the name of a SQLite file"
        ) from None
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+psycopg")
    return url.render_as_string(hide_password=False)


def shown(storage: str) -> str:
    """``storage`` as it may be shown: with ``***`` for every password.

    Example:
        >>> shown("postgresql://me:secret@db.example/races?sslpassword=hush")
        'postgresql://me:***@db.example/races?sslpassword=***'
    """
    return redact(storage, storage)


def redact(text: str, storage: str) -> str:
    """``text`` with every password of ``storage`` replaced by ``***``, however it is quoted."""
    for secret in _secrets(storage):
        for form in {secret, quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1]}:
            text = text.replace(form, "***")
    text = re.sub(r"(://[^/\s:@]*):[^\s]*@", r"\1:***@", text)
    return re.sub(rf"(?i)\b({'|'.join(_SECRET_QUERY)})=[^&\s]+", r"\1=***", text)


def _secrets(storage: str) -> list[str]:
    """Passwords in a URL, longest first, found by pattern so that a malformed URL has none left either."""
    found = set()
    match = re.search(r"://[^/\s:@]*:(.*)@", storage)
    if match:
        found.add(match.group(1))
    found.update(value for _, value in re.findall(rf"(?i)\b({'|'.join(_SECRET_QUERY)})=([^&\s]+)", storage))
    found |= {unquote(value) for value in found} | {unquote_plus(value) for value in found}
    # A one-letter password can't be told from ordinary text; the patterns of `redact` still hide it inside addresses.
    return sorted((value for value in found if len(value) > 2), key=len, reverse=True)
