"""LeanResource: the settings of one Lean application as a Dagster resource."""

from typing import Any

import dagster as dg
from pydantic import Field, create_model

from lean_resources.client import Announced, LeanClient
from lean_resources.settings import VARIABLES, LeanSettings

__all__ = ["LeanResource"]


class _Lean(dg.ConfigurableResource):  # type: ignore[type-arg]
    """One application at Lean; every field is optional text, as an environment has it."""

    def settings(self) -> LeanSettings:
        """The validated settings.

        Raises:
            ConfigError: A setting is missing, half set or contradicts another.
        """
        return LeanSettings.load(
            {variable.name: getattr(self, variable.field) for variable in VARIABLES}
        )

    def client(self, announced: Announced | None = None) -> LeanClient:
        """A client, to be opened with `async with`.

        Args:
            announced: Waits for results that Lean promised, as `LeanClient` takes it.

        Raises:
            ConfigError: As `settings`.
        """
        return LeanClient(self.settings(), announced=announced)


_FIELDS: dict[str, Any] = {
    # repr=False on all of them: a secret must not depend on somebody's marking it.
    variable.field: (
        str | None,
        Field(default=None, description=variable.description, repr=False),
    )
    for variable in VARIABLES
}

LeanResource: type[_Lean] = create_model(
    "LeanResource", __base__=_Lean, __module__=__name__, __doc__=_Lean.__doc__, **_FIELDS
)
