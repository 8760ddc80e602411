"""Why a Postgres server cannot be used, in one line without a password, and how a connection to it is made."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sage_ray.addresses import StoreAddress
from sage_ray.errors import UserError
from sage_ray.record.store_uris import redacted

CONNECT_TIMEOUT_S = 10
# A host that vanishes without a word is noticed within half a minute, not after the system's quarter of an hour.
_KEYWORDS: dict[str, str | int] = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "application_name": "sage-ray",
}
_PASSWORD = "set SAGE_OPTUNA_URL with the password, PGPASSWORD or ~/.pgpass"
_REASONS = (
    (r"password authentication failed|no password supplied", "Postgres wants another password", _PASSWORD),
    (r"no pg_hba.conf entry|authentication failed", "Postgres does not let this user in", "ask who runs the server"),
    (r'role "[^"]*" does not exist', "no such user in Postgres", "create it with createuser, or name another"),
    (r'database "[^"]*" does not exist', "no such database in Postgres", "create it with createdb, or name another"),
    (r"permission denied", "Postgres gives no right to make tables", "grant CREATE on the schema to its user"),
    (r"too many connections|remaining connection slots", "Postgres has no connection free", "raise max_connections"),
    (r"Connection refused|could not connect", "Postgres refuses connections", "start it, or mend host and port"),
    (r"resolve host|not known|Name or service", "unknown host of Postgres", "mend the address"),
    (r"timeout|timed out", "Postgres does not answer", "start it, or mend host and port"),
    (r"starting up|shutting down|terminating connection", "Postgres is starting or ending", "try again soon"),
)
_OTHER_TABLES = "no longer compatible with the table schema"


def check_driver(where: str) -> None:
    """Raise UserError unless the driver of Postgres is installed."""
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise UserError("psycopg is missing", where, "pip install 'sage-ray[cluster]'") from None


def connection_keywords(address: StoreAddress, secrets: Mapping[str, str]) -> dict[str, str | int]:
    """What a connection gets beside its address: secrets, and limits of time unless the address has its own."""
    query = address.partition("?")[2]
    limits = {key: value for key, value in _KEYWORDS.items() if f"{key}=" not in query}
    return {**limits, **secrets}


def refuse_tables_of_others(address: StoreAddress, secrets: Mapping[str, str], where: str) -> None:
    """Raise UserError if a database has the tables of MLflow, before Optuna's are put among them, or cannot be asked.

    Both note the version of their tables in one table of the same name.
    """
    import psycopg

    try:
        with psycopg.connect(str(address), **connection_keywords(address, secrets)) as connection:  # type: ignore[arg-type]
            found = connection.execute(_VERSIONED_BY_OTHERS).fetchone()
    except psycopg.Error as error:
        raise refused(error, where) from None
    if found is not None and found[0]:
        raise _others(where)


_VERSIONED_BY_OTHERS = "SELECT to_regclass('alembic_version') IS NOT NULL AND to_regclass('version_info') IS NULL"


def _others(where: str) -> UserError:
    mend = "give Optuna a database of its own (one with MLflow's tables will not do), or upgrade its tables"
    return UserError("the database has tables of another program or release", where, mend)


def refused(error: BaseException, where: str) -> UserError:
    """The error of a user whose server cannot be used, with its reason and remedy."""
    reason = _first_line(error)
    if _OTHER_TABLES in str(error):
        return _others(where)
    for pattern, what, mend in _REASONS:
        if re.search(pattern, reason, re.IGNORECASE):
            return UserError(what, where, mend)
    return UserError(f"Postgres cannot be used ({reason})", where, "mend the address, or ask who runs the server")


def _first_line(error: BaseException) -> str:
    """What the server or its driver said, without what SQLAlchemy and Optuna add."""
    cause: BaseException = error
    while (deeper := getattr(cause, "orig", None) or cause.__cause__) is not None:
        cause = deeper
    return redacted(" ".join(str(cause).split()))[:300] or type(cause).__name__
