"""What a refusal by an object store means, and how to mend it, in one line that holds no secret."""

from __future__ import annotations

import re

from sage_ray.errors import StoreFailed, StoreRefused

_CODE = re.compile(r"<Code>\s*(\w+)\s*</Code>")
_STATUS = re.compile(r"status code: (\d{3})")
_EXPECTED_REGION = re.compile(r"expecting '([\w-]+)'|<Region>([\w-]+)</Region>")

_KEY = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_SESSION_TOKEN, or AWS_PROFILE)",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT",
}
NO_RIGHT = "no right to do this"
_ENDPOINT = {"s3": "AWS_ENDPOINT_URL", "gs": "GOOGLE_BASE_URL"}

_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired", "InvalidToken"}
_UNKNOWN_KEY = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidSecurity", "NotSignedUp", "Unauthorized"}
_REGION = {
    "PermanentRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "TemporaryRedirect",
}


class StoreFault:
    """One failed request, read from the message of the client, which may hold key ids and signed strings.

    Attributes:
        what: the fault, in a few words.
        where: address of the store.
        mend: what to do.
        transient: the same request may succeed later without anybody's doing.
        no_bucket: there is no such bucket.
    """

    def __init__(self, message: str, where: str) -> None:
        code, status = _first(_CODE, message), _first(_STATUS, message)
        self.where = where
        self.no_bucket = code == "NoSuchBucket"
        self.transient = False
        self.what, self.mend = self._refusal(code, status, message) or self._silence(code, status, message)

    def _refusal(self, code: str, status: str, message: str) -> tuple[str, str] | None:
        """What an answer of the store means; None if it is none that we know."""
        scheme = self.where.partition("://")[0]
        key, endpoint = _KEY.get(scheme, "the credentials"), _ENDPOINT.get(scheme, "its address")
        if self.no_bucket:
            return "no such bucket", f"create it, or correct the address ({endpoint} says which server is asked)"
        if code in _EXPIRED:
            return "the key has expired", f"renew {key}, then repeat the command"
        if code in _UNKNOWN_KEY or status == "401":
            return "the store does not accept the key", f"check {key}"
        if code in _REGION or status in ("301", "307") or "redirect" in message:
            region = _first(_EXPECTED_REGION, message)
            return "the bucket is in another region", f"set AWS_REGION{f'={region}' if region else ' to its region'}"
        if code == "RequestTimeTooSkewed":
            return "the clock of this machine is wrong", "set it: the store refuses requests of another time"
        if "169.254.169.254" in message or "metadata.google" in message or "redential" in message:
            return "no credentials", f"set {key}"
        if status == "403":
            return NO_RIGHT, "give these credentials the rights to list, read, write and delete there"
        return None

    def _silence(self, code: str, status: str, message: str) -> tuple[str, str]:
        scheme = self.where.partition("://")[0]
        if status:
            self.transient = status[0] == "5" or status == "429"
            what = f"the store answered {status}{f' {code}' if code else ''}"
            return what, "repeat the command later" if self.transient else "the store's own log says why"
        if "HTTP error" in message or "imed out" in message or "timeout" in message:
            self.transient = True
            return "no answer", f"check {_ENDPOINT.get(scheme, 'the address')} and the network, then repeat the command"
        return "the request failed", "check the address and the settings of the store"

    def refused(self) -> StoreRefused:
        """As an error of the first contact, which ends a command with exit code 2."""
        return StoreRefused(self.what, self.where, self.mend)

    def failed(self, name: str) -> StoreFailed:
        """As an error of a later request, for the object `name`."""
        error = StoreFailed(f"{self.what}: {self.where.rstrip('/')}/{name}: {self.mend}")
        error.what, error.mend = self.what, self.mend
        return error


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return next((group for group in found.groups() if group), "") if found else ""
