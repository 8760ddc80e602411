"""What a database server has of a study that is forgotten."""

from __future__ import annotations

from dataclasses import dataclass, field

from sage_ray.errors import UserError
from sage_ray.record.home import Home
from sage_ray.record.optuna_store import OptunaStore, store_of_study


@dataclass
class ServerTrials:
    """The trials of a study on a server: those of now, and what was set aside when they were made anew.

    Attributes:
        store: where they are.
        names: of the studies there.
        not_reached: what is said where the server could not be asked.
    """

    store: OptunaStore
    names: list[str] = field(default_factory=list)
    not_reached: list[str] = field(default_factory=list)

    def listed(self) -> list[str]:
        """A line for what goes."""
        many = "trials" if len(self.names) == 1 else f"trials of {len(self.names)} times that they were made"
        return [f"{many} in {self.store.where} (removed there)"] if self.names else []

    def remove(self) -> list[str]:
        """Remove them; returns what is said if it could not be done."""
        if self.not_reached:
            return []
        try:
            self.store.remove_from_server()
        except UserError as error:
            return [_left(self.store, error)]
        return []


def server_trials_of(study: str, home: Home) -> ServerTrials | None:
    """What a server has of a study of the home; None if its trials are in its folder."""
    store = store_of_study(home, study)
    if not store.is_server:
        return None
    try:
        return ServerTrials(store, store.names_on_server())
    except UserError as error:
        return ServerTrials(store, not_reached=[_left(store, error)])


def _left(store: OptunaStore, error: UserError) -> str:
    # The folder, which knows the server, goes: the command is all that is left.
    command = f"optuna delete-study --study-name '{store.study_name}' --storage URL"
    return f"trials in {store.where}: not reached ({error.what}); `{command}` removes them there"
