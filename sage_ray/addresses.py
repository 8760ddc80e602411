"""Where a study keeps its trials, as a user writes it: a word, or the address of a Postgres server.

Secrets are taken off as soon as an address is read, so that whatever is written, shown or hashed of it has none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from urllib.parse import parse_qsl, quote, unquote, urlencode

AUTO, SQLITE, JOURNAL = "auto", "sqlite", "journal"
POSTGRES_PORT = 5432
_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9.-]*)(?:\+(?P<driver>\w+))?://(?P<rest>.*)", re.DOTALL)
# A password may hold any sign that its owner did not encode: it ends where what follows is a host, a path and a query.
_PLACE = re.compile(
    r"(?:(?P<user>[^:/@?]*)(?::(?P<password>.*?))?@)?(?P<host>\[[^\]@]*\]|[^:/@?]*)(?::(?P<port>\d+))?"
    r"(?:/(?P<database>[^/@?]*))?(?:\?(?P<query>[^@]*))?",
    re.DOTALL,
)
_SECRET = re.compile(r"pass|pwd|secret|token|api_?key|access_?key|credential", re.IGNORECASE)
_REMEDY = "give auto, sqlite, journal or postgresql://USER@HOST:PORT/DATABASE"


class StoreAddress(str):
    """A storage without its secrets: auto, sqlite, journal, or postgresql://USER@HOST:PORT/DATABASE?KEY=VALUE.

    Attributes:
        secrets: what was taken off, as keywords of a connection (`password`); never printed or stored.
    """

    secrets: Mapping[str, str] = MappingProxyType({})

    def __reduce__(self) -> tuple[type[StoreAddress], tuple[str]]:
        # What is pickled may get to a disk, or to another machine: without secrets.
        return type(self), (str(self),)

    def __deepcopy__(self, memory: object) -> StoreAddress:
        return self

    @property
    def is_server(self) -> bool:
        """Whether it is a database server's."""
        return "://" in self

    @property
    def place(self) -> tuple[str, int, str]:
        """Host in small letters, port and database of a server: addresses that agree in them are one storage."""
        match = _parts(self)
        return match["host"].lower(), int(match["port"] or POSTGRES_PORT), unquote(match["database"] or "")

    @property
    def user(self) -> str | None:
        """The user whom a server is asked as, if the address names one."""
        return unquote(_parts(self)["user"] or "") or None


def store_address(text: str) -> StoreAddress:
    """The address of a storage, its secrets apart.

    Raises:
        ValueError: unknown word or scheme, or no host or database; without secrets, and with the remedy.
    """
    word = text.strip()
    if "://" not in word:
        if word not in (AUTO, SQLITE, JOURNAL):
            # What is no word may be a part of an address with its password.
            raise ValueError(f"unknown storage {word if word.isalnum() else ''}".rstrip() + f"; {_REMEDY}")
        return StoreAddress(word)
    match = _SCHEME.fullmatch(word)
    scheme = match["scheme"].lower() if match else ""
    if match is None or scheme not in ("postgresql", "postgres"):
        known = "; a study's own sqlite file is `sqlite`" if scheme == SQLITE else ""
        raise ValueError(f"unknown scheme {scheme}://{known}; {_REMEDY}")
    if match["driver"] not in (None, "psycopg"):
        raise ValueError(f"unknown driver {match['driver']}; write postgresql://..., psycopg 3 is used")
    place = _PLACE.fullmatch(match["rest"])
    if place is None:
        raise ValueError("the address cannot be read; percent-encode its password, or leave that to PGPASSWORD")
    query = parse_qsl(place["query"] or "", keep_blank_values=True)
    if not place["database"] or not (place["host"] or any(key == "host" for key, _ in query)):
        raise ValueError(f"the address names no host or no database; {_REMEDY}")
    return _without_secrets(place, query)


def _without_secrets(place: re.Match[str], query: list[tuple[str, str]]) -> StoreAddress:
    user = quote(unquote(place["user"]), safe="") + "@" if place["user"] else ""
    port = f":{place['port']}" if place["port"] else ""
    kept = [(key, value) for key, value in query if not _SECRET.search(key)]
    tail = f"?{urlencode(kept)}" if kept else ""
    address = StoreAddress(f"postgresql://{user}{place['host']}{port}/{place['database']}{tail}")
    secrets = {key: value for key, value in query if _SECRET.search(key)}
    if place["password"]:
        secrets["password"] = unquote(place["password"])
    address.secrets = MappingProxyType(secrets)
    return address


def _parts(address: str) -> re.Match[str]:
    match = _PLACE.fullmatch(address.partition("://")[2])
    assert match is not None, "only addresses that were read are asked for their parts"
    return match
