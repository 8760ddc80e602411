"""Addresses of stores: built from paths, told apart without passwords, and shown without them."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

NAMED_STORES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "SAGE_OPTUNA_URL")
"""Variables of the environment that hold the address of a store, and perhaps a password in it."""
BARE_SECRETS = ("PGPASSWORD", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
"""Variables of the environment that are a password or a token."""
HIDDEN = "***"

# In a database's URI they begin a query or a fragment, or stand for another character.
_SPECIAL = re.compile(r"[?#]|%[0-9A-Fa-f]{2}")
_SQLITE = re.compile(r"^(?P<scheme>sqlite(?:\+\w+)?):///(?P<path>[^?]*)(?P<query>\?.*)?$")
_PASSWORD = re.compile(r"(?P<before>://[^\s/?#:@]*:)[^\s/?#]*(?=@)")
# What stands alone before the @ of a web address, or with a password that says nothing, is a token and no name.
_LONE_USER = re.compile(r"(?P<before>https?://)[^\s/?#:@]+(?=@|:@|:x-oauth-basic@)", re.IGNORECASE)
_SECRET_NAME = (
    r"[\w.-]*(?:password|passwd|passphrase|pwd|token|secret|api[_-]?key|access[_-]?key|auth|credential|signature|jwt)"
    r"|(?:user[_-]?)?pass|key|sig"
)
# In a query, in a fragment, or, as the drivers of databases write it, after a blank.
_PARAMETER = re.compile(
    rf"(?P<before>(?:[?&;#]|\bamp;)(?:{_SECRET_NAME})=|(?<![\w.-])(?:ssl)?password=)[^&;\s'\"]+", re.IGNORECASE
)
_QUERY_SECRET = re.compile(rf"[?&;](?:{_SECRET_NAME})=(?P<value>[^&;#\s]+)", re.IGNORECASE)
_USER = re.compile(r"(?<=://)[^\s/?#]*@")
# Marks of stores are kept in homes: what is left out of them stays as it was.
_LEFT_OUT_OF_MARKS = re.compile(r"[?&][a-z_]*(?:password|passwd|token|secret|api_key)=[^&\s'\"]*", re.IGNORECASE)
# A shorter password could be part of any word of a message.
_LEAST_CHARS = 6


def sqlite_uri(file: Path) -> str:
    """The address of a database file, whatever characters its path has.

    The driver is named where the path has to be quoted: MLflow makes the folder of a plain sqlite address, as it is
    spelled there.
    """
    text = str(file)
    if _SPECIAL.search(text):
        return f"sqlite+pysqlite:///{quote(text)}"
    return f"sqlite:///{text}"


def sqlite_file(uri: str) -> Path | None:
    """The file that a database's address names; None for every other kind of store."""
    match = _SQLITE.match(uri)
    return None if match is None or not match["path"] else Path(unquote(match["path"]))


def absolute(uri: str) -> str:
    """The address with a relative database file made absolute.

    MLflow opens a relative file against the working directory, and Ray workers have another one.
    """
    match = _SQLITE.match(uri)
    if match is None or not match["path"] or match["path"].startswith(("/", "file:", ":memory:")):
        return uri
    place = quote(str(Path.cwd())) if _SPECIAL.search(str(Path.cwd())) else str(Path.cwd())
    return f"{match['scheme']}:///{place}/{match['path']}{match['query'] or ''}"


def is_http(uri: str) -> bool:
    """Whether a URI is a server's, and no database."""
    return urlsplit(uri).scheme in ("http", "https")


def is_server(uri: str) -> bool:
    """Whether a URI is a server's, or that of a database on one, and no file of this machine."""
    return "://" in uri and not uri.startswith("file:") and _SQLITE.match(uri) is None


def redacted(text: str) -> str:
    """A text without the secrets of the addresses in it, nor those of the environment wherever they stand.

    Secrets are passwords, tokens before the @ of a web address, and such parameters as `token=`, `api_key=` or
    `password=`; of the environment those in `NAMED_STORES` and `BARE_SECRETS`.
    """
    text = _LONE_USER.sub(rf"\g<before>{HIDDEN}", text)
    text = _PASSWORD.sub(rf"\g<before>{HIDDEN}", text)
    text = _PARAMETER.sub(rf"\g<before>{HIDDEN}", text)
    for secret in _secrets():
        text = text.replace(f":{secret}@", f":{HIDDEN}@")
        if len(secret) >= _LEAST_CHARS:
            text = text.replace(secret, HIDDEN)
    return text


def without_user(uri: str) -> str:
    """The address without user, password and secret parameters, as for a browser, which asks for them."""
    place, mark, query = _USER.sub("", uri, count=1).partition("?")
    kept = [part for part in query.split("&") if not _QUERY_SECRET.match(f"?{part}")]
    return f"{place}?{'&'.join(kept)}" if mark and any(kept) else place


def _secrets() -> Iterator[str]:
    """Secrets of the environment, as they are written there, decoded and encoded; longer ones first."""
    found = {os.environ.get(name, "") for name in BARE_SECRETS}
    for name in NAMED_STORES:
        uri = os.environ.get(name, "")
        user_and_secret, marked, _ = uri.partition("://")[2].rpartition("@")
        user, _, secret = user_and_secret.partition(":")
        if marked:
            found.add(secret or (user if uri.lower().startswith("http") else ""))
        found |= {match["value"] for match in _QUERY_SECRET.finditer(uri)}
    spelled = {each for secret in found if secret for each in (secret, unquote(secret), quote(secret, safe=""))}
    yield from sorted(spelled, key=lambda secret: (-len(secret), secret))


def store_mark(uri: str, experiment: str | None = None) -> str:
    """A name for one experiment of one store that holds neither user nor password, so that they may change.

    Args:
        uri: of the store; what is no URI (the name of a home's own database, or a mark) is its own mark.
        experiment: that runs are sent to; None for the usual one.
    """
    mark = uri
    if "://" in uri:
        plain = _LEFT_OUT_OF_MARKS.sub("", _USER.sub("", uri, count=1))
        mark = f"sha256:{hashlib.sha256(plain.rstrip('/').encode()).hexdigest()[:32]}"
    return mark if experiment is None else f"{mark} {experiment}"
