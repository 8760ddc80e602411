"""What a user may write for a storage, and that no part of a password is left in what is kept of it."""

from __future__ import annotations

import copy
import pickle

import pytest
import yaml

from sage_ray.addresses import StoreAddress, store_address
from sage_ray.study.design_schema import DesignFile
from sage_ray.study.file_schema import SpaceFile, parse_file

SPACE = {"name": "x", "space": {"adversarial.lr": {"float": [0.1, 1]}}, "trials": 2}


@pytest.mark.parametrize(
    ("text", "kept", "secrets"),
    [
        ("auto", "auto", {}),
        (" journal ", "journal", {}),
        ("postgresql://h/d", "postgresql://h/d", {}),
        ("postgres://u:pw@h/d", "postgresql://u@h/d", {"password": "pw"}),
        ("postgresql+psycopg://u:p%40s%2Fw@H:55/d", "postgresql://u@H:55/d", {"password": "p@s/w"}),
        ("postgresql://u:p@s/w?x#y@h/d", "postgresql://u@h/d", {"password": "p@s/w?x#y"}),
        ("postgresql://u:a@b?c@h/d?sslmode=require", "postgresql://u@h/d?sslmode=require", {"password": "a@b?c"}),
        (
            "postgresql://u@h/d?sslmode=require&password=pw&sslpassword=key",
            "postgresql://u@h/d?sslmode=require",
            {"password": "pw", "sslpassword": "key"},
        ),
        ("postgresql://u:pw@[::1]:5433/d", "postgresql://u@[::1]:5433/d", {"password": "pw"}),
        ("postgresql:///d?host=/run/postgresql", "postgresql:///d?host=%2Frun%2Fpostgresql", {}),
    ],
)
def test_an_address_is_kept_without_its_secrets(text: str, kept: str, secrets: dict[str, str]) -> None:
    address = store_address(text)
    assert address == kept and dict(address.secrets) == secrets
    assert store_address(str(address)) == address, "what is kept can be read again"
    assert address.is_server == ("://" in kept)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mysql://u:hidden@h/d", "unknown scheme mysql://"),
        ("sqlite:///hidden.db", "unknown scheme sqlite://; a study's own sqlite file is `sqlite`"),
        ("postgresql+psycopg2://u:hidden@h/d", "psycopg 3 is used"),
        ("postgresql://u:hidden@h", "names no host or no database"),
        ("postgresql://u:hidden@/d", "names no host or no database"),
        ("postgresql://u:hidden@h:port/d", "cannot be read"),
        ("u:hidden@h/d", "unknown storage"),
        ("postgres", "unknown storage postgres; give auto, sqlite, journal or postgresql://"),
    ],
)
def test_what_cannot_be_used_is_refused_without_its_secrets(text: str, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        store_address(text)
    assert words in str(caught.value) and "hidden" not in str(caught.value) and "\n" not in str(caught.value)


def test_one_storage_may_be_written_in_several_ways() -> None:
    one, other = store_address("postgresql://u:pw@Host/d"), store_address("postgres://host:5432/d?sslmode=require")
    assert one.place == other.place and (one.user, other.user) == ("u", None)
    assert store_address("postgresql://h/e").place != other.place


@pytest.mark.parametrize("model", [SpaceFile, DesignFile])
def test_no_file_that_is_made_of_a_study_has_a_password(model: type[SpaceFile]) -> None:
    tree = {**SPACE, "storage": "postgresql://u:hidden@h/d"}
    if model is not SpaceFile:
        tree = {"name": "x", "arms": {"a": {}, "b": {}}, "reference": "a", "storage": tree["storage"]}
    file = parse_file(model, tree, "here")
    assert file.store.secrets == {"password": "hidden"}, "this process may use it"
    assert file.model_copy(update={"name": "y"}).store.secrets == {"password": "hidden"}
    told = [yaml.safe_dump(file.model_dump(mode="json")), repr(file), str(file.model_dump()), file.model_dump_json()]
    assert all("postgresql://u@h/d" in text and "hidden" not in text for text in told)
    assert copy.deepcopy(file).store.secrets == {"password": "hidden"}
    assert b"hidden" not in pickle.dumps(file)
    sent = pickle.loads(pickle.dumps(file)).store
    assert isinstance(sent, StoreAddress) and sent == file.store and not sent.secrets
