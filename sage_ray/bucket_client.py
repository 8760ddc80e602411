"""The client of one bucket: its address, settings from variables, first contact, time limits and repetitions."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from sage_ray.errors import StoreRefused, UserError
from sage_ray.store_faults import StoreFault

CONTACT_S = 10.0
"""How long the first request to a store may wait for an answer, and be repeated."""
PATIENCE_S = 120.0
"""How long a later request is repeated: a store that is away for a minute ends no run."""
STALLED_S = 60.0
"""How long a later request may go without any answer before it counts as lost."""
_ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "GOOGLE_BASE_URL")

SCHEMES = ("s3", "gs")
Options = tuple[tuple[str, str], ...]
"""Settings that an address has behind a question mark."""


@dataclass(frozen=True)
class BucketAddress:
    """An address taken apart: "s3://bucket", the prefix, and settings behind a question mark."""

    bucket: str
    prefix: str
    options: Options


def place_of_address(text: str) -> Path | BucketAddress:
    """The folder or bucket that an address names; nothing is asked of it.

    Raises:
        UserError: it names neither, or has credentials in it, which would be shown wherever it is.
    """
    scheme, _, rest = text.partition("://")
    if "://" not in text:
        return Path(text)
    if scheme == "file":
        return Path(unquote(urlsplit(text).path))
    scheme = {"gcs": "gs", "s3a": "s3"}.get(scheme, scheme)
    address, _, query = rest.partition("?")
    shown = f"{scheme}://{address.rpartition('@')[2]}"
    if scheme not in SCHEMES:
        raise UserError("no such kind of store", shown, "give a folder, s3:// or gs://")
    if "@" in address:
        mend = "leave them out of the address and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise UserError("credentials in the address of a store", shown, mend)
    bucket, _, prefix = address.strip("/").partition("/")
    if not bucket:
        raise UserError("the store has no bucket", shown, f"give {scheme}://BUCKET/PREFIX")
    return BucketAddress(f"{scheme}://{bucket}", prefix.strip("/"), tuple(sorted(parse_qsl(query))))


class BucketClient:
    """The requests to one bucket, with the settings of one moment."""

    def __init__(self, address: str, options: Options) -> None:
        self.address, self.options = address, options
        self.hasty = _obstore(address, options, answer_s=CONTACT_S, repeat_s=CONTACT_S)
        self.patient = _obstore(address, options, answer_s=STALLED_S, repeat_s=PATIENCE_S)
        self.met: set[str] = set()
        self.writable: set[str] = set()

    def meet(self, prefix: str) -> None:
        """Ask for some object below `prefix`, once. Raises StoreRefused if there is no answer, or a refusal."""
        from obstore.exceptions import BaseError

        if prefix in self.met:
            return
        try:
            next(iter(self.hasty.list(prefix or None, chunk_size=1)), None)
        except (BaseError, OSError, ValueError) as error:
            raise StoreFault(str(error), f"{self.address}/{prefix}".rstrip("/")).refused() from None
        self.met.add(prefix)


def bucket_client(address: str, options: Options) -> BucketClient:
    """The client of the bucket at `address` ("s3://bucket"); the same one for as long as no setting changes."""
    return _client(address, options, _settings())


@lru_cache(maxsize=32)
def _client(address: str, options: Options, settings: Options) -> BucketClient:
    """`settings` are the variables that a client reads when it is made: with others there is another client."""
    return BucketClient(address, options)


def _settings() -> Options:
    return tuple(sorted(item for item in os.environ.items() if item[0].startswith(("AWS_", "GOOGLE_"))))


def _obstore(address: str, options: Options, *, answer_s: float, repeat_s: float) -> Any:
    try:
        from obstore.store import from_url
    except ImportError as error:
        raise UserError("obstore is not installed", address, "pip install 'sage-ray[cluster]'") from error
    config = _options(address, dict(options))
    endpoints = _endpoints(config)
    settings: dict[str, Any] = {
        "config": config,
        "client_options": {
            "connect_timeout": timedelta(seconds=min(answer_s, 10.0)),
            "read_timeout": timedelta(seconds=answer_s),
            "timeout": timedelta(hours=6),  # a large object may take long; one that stalls ends by `read_timeout`
            # Whoever gives an http:// address means it: the lab's own server, or one on this machine.
            "allow_http": any(endpoint.startswith("http://") for endpoint in endpoints),
        },
        "retry_config": {
            "max_retries": 60,
            "retry_timeout": timedelta(seconds=repeat_s),
            "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=5), "base": 2},
        },
        **_provider(address),
    }
    try:
        return from_url(address, **settings)
    except Exception as error:  # a setting that the client cannot read, such as a malformed address or key file
        what = str(error).split("\n", 1)[0][:200] if "redential" not in str(error) else "its credentials cannot be read"
        raise StoreRefused(
            f"the store's settings are wrong ({what})", address, "check the variables that name it"
        ) from None


def _endpoints(config: dict[str, Any]) -> list[str]:
    """Addresses of servers that are set. Raises UserError if one is none: the client ends the process over it."""
    named = {name: value for name in _ENDPOINTS if (value := os.environ.get(name))}
    if "endpoint" in config:
        named["endpoint_override"] = str(config["endpoint"])
    for name, value in named.items():
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"[\s<>\"{}|\\^`]", value):
            raise UserError("no address of a server", name, "give http://HOST:PORT or https://HOST")
    return list(named.values())


def _options(address: str, query: dict[str, str]) -> dict[str, Any]:
    """Settings in an address, as releases before 0.4 took them: region, endpoint_override, scheme."""
    found: dict[str, Any] = {}
    scheme = query.pop("scheme", "https")
    if "region" in query:
        found["region"] = query.pop("region")
    if "endpoint_override" in query:
        host = query.pop("endpoint_override")
        found["endpoint"] = host if "://" in host else f"{scheme}://{host}"
    if query:
        mend = "only region, endpoint_override and scheme may stand behind a question mark"
        raise UserError(f"unknown setting {', '.join(sorted(query))}", address, mend)
    return found


def _provider(address: str) -> dict[str, Any]:
    """Credentials of the AWS command line's files, where no variable has any: the client does not read them itself."""
    files = (os.environ.get("AWS_SHARED_CREDENTIALS_FILE"), os.environ.get("AWS_CONFIG_FILE"))
    known = (Path.home() / ".aws" / "credentials", Path.home() / ".aws" / "config")
    in_files = "AWS_PROFILE" in os.environ or any(files) or any(path.is_file() for path in known)
    if not address.startswith("s3://") or "AWS_ACCESS_KEY_ID" in os.environ or not in_files:
        return {}
    try:
        import boto3
        from botocore.exceptions import BotoCoreError
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        mend = "pip install 'sage-ray[cluster]'"
        raise UserError(
            "boto3 is not installed, which reads the files of the AWS command line", address, mend
        ) from error
    try:
        session = boto3.Session()
        return {} if session.get_credentials() is None else {"credential_provider": Boto3CredentialProvider(session)}
    except BotoCoreError as error:
        raise StoreRefused(f"no credentials ({error})", address, "check AWS_PROFILE and the files in ~/.aws") from None
