"""Settings from variables: cleans values and reports problems.

This module does not read the environment; the caller passes a mapping. All problems become a single
`ConfigError` that names the variables and never quotes a value.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ModelWrapValidatorHandler,
    SecretStr,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from lean_resources.errors import ConfigError

_SIMILARITY = 0.81
_SHORTEST_WORD = 3
_BOUNDS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")
_WHAT = {
    "literal_error": "is not an allowed value",
    **dict.fromkeys(("int_parsing", "int_from_float"), "is not a whole number"),
    **dict.fromkeys(("float_parsing", "finite_number"), "is not a number"),
    **dict.fromkeys(_BOUNDS, "is out of range"),
    **dict.fromkeys(("string_too_short", "too_short"), "is empty"),
}
_QUOTES = {'"': '"', "'": "'", "`": "`", "\u201c": "\u201d", "\u2018": "\u2019"}
_SWITCH = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}
_NOT_UTF8 = re.compile(r"[\ud800-\udfff]")
"""Characters with which Python replaces bytes that are not UTF-8."""


def _switch(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if (found := _SWITCH.get(value.strip().lower())) is None:
        raise PydanticCustomError("switch", "is neither true nor false")
    return found


def _file_path(value: Any) -> Any:
    """A path as a shell would expand it, even if no shell has read the variables."""
    if not isinstance(value, str):
        return value
    if value[:1] in _QUOTES or value[-1:] in _QUOTES.values():
        raise PydanticCustomError("path", "begins or ends with a quote: remove it")
    if re.search(r"\$[A-Za-z_{(]", value):
        raise PydanticCustomError("path", "contains a variable ($…): write the whole path")
    if any(unicodedata.category(character) == "Cc" for character in value):
        raise PydanticCustomError("path", "contains a control character: write it again")
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise PydanticCustomError("path", "contains the home of an unknown user (~)") from None


Switch = Annotated[bool, BeforeValidator(_switch)]
"""true, 1, yes or on; false, 0, no or off; in any case."""

FilePath = Annotated[Path, BeforeValidator(_file_path)]
"""The path of a file or folder; `~` is the home of the user."""


class _Loading(NamedTuple):
    """Context of the validator: the problems found so far."""

    problems: tuple[str, ...] = ()
    is_complete: bool = True


class VariableSettings(BaseModel):
    """Settings from variables with a prefix; all problems become a single error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False
    )

    prefix: ClassVar[str]
    verbatim: ClassVar[frozenset[str]] = frozenset()
    """Fields whose values keep leading and trailing spaces."""
    foreign: ClassVar[tuple[str, ...]] = ()
    """Longer prefixes of names that belong to other settings."""

    @classmethod
    def load(cls, values: Mapping[str, str | None], *, is_complete: bool = True) -> Self:
        """Read the settings from a mapping such as an environment.

        A blank value counts as unset. White space around a value is removed, from the key's
        password only line ends. A value between quotes is refused, because the quotes have become
        part of it. Names without the prefix are ignored. So are names that resemble no known name,
        because they may belong to different settings.

        Args:
            values: Variable names to values, e.g. `{"LEAN_CLIENT_ID": "…"}`.
            is_complete: Whether the settings must be complete, as `complete` checks.

        Raises:
            ConfigError: There are problems; the message lists all of them.
        """
        known = {cls.variable(field): field for field in cls.model_fields}
        stems = {name: name.removeprefix(cls.prefix) for name in known}
        given: dict[str, str] = {}
        problems: list[str] = []
        for name, value in values.items():
            if not name.startswith(cls.prefix) or value is None or not value.strip():
                continue
            if name.startswith(cls.foreign):
                continue
            if field := known.get(name):
                given[field] = value.strip("\r\n" if field in cls.verbatim else None)
                if problem := _unreadable(given[field]):
                    problems.append(f"{name} {problem}")
                    del given[field]
            elif meant := _nearest(name, name.removeprefix(cls.prefix).upper(), stems):
                problems.append(f"{name} is unknown: did you mean {meant}")
        return cls.model_validate(given, context=_Loading(tuple(problems), is_complete))

    @classmethod
    def variable(cls, field: str) -> str:
        """The name of a field's variable."""
        return cls.prefix + field.upper()

    def _halved(self, left: str, right: str) -> str:
        """The problem of two fields that belong together, of which only one has a value."""
        there, missing = (left, right) if getattr(self, left) else (right, left)
        return f"{self.variable(there)} is set without {self.variable(missing)}: set both"

    @model_validator(mode="wrap")
    @classmethod
    def _one_clear_error(
        cls, values: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo
    ) -> Self:
        loading = info.context if isinstance(info.context, _Loading) else _Loading()
        problems = list(loading.problems)
        settings: Self | None = None
        try:
            settings = handler(values)
        except ValidationError as error:
            problems += _problems(cls, error)
        else:
            # A value may be missing only because of a problem above.
            is_complete = loading.is_complete and not problems
            problems += settings.contradictions()
            if is_complete:
                problems += settings.missing()
        # Raise it outside of the handler above. Otherwise its context would be the validation
        # error, which holds the input.
        if problems or settings is None:
            raise ConfigError("; ".join(problems))
        return settings

    def contradictions(self) -> Iterator[str]:
        """Problems between values that are each valid."""
        yield from ()

    def missing(self) -> Iterator[str]:
        """Problems with missing values and files that the settings need for use."""
        yield from ()

    def complete(self) -> Self:
        """Return these settings if no value or file is missing.

        Raises:
            ConfigError: A value or file is missing; the message names the variables.
        """
        if problems := list(self.missing()):
            raise ConfigError("; ".join(problems))
        return self


def misspelt(
    values: Mapping[str, str | None], known: Collection[str], owned: Collection[str]
) -> Iterator[str]:
    """Problems with the names of variables in an environment, a sentence each.

    Args:
        values: Variable names to values; names with a blank value are ignored.
        known: The names of all settings, with every prefix.
        owned: Prefixes for which all unknown names are refused. With a different prefix, a name
            is refused only if it resembles a known name.
    """
    stems = {name: _stem(name, owned) for name in sorted(known)}
    for name, value in values.items():
        if name in known or value is None or not value.strip():
            continue
        plain = re.sub(r"[^A-Z0-9]+", "_", name.upper()).strip("_")
        if not plain.startswith("LEAN"):
            continue
        if plain in known:
            meant: str | None = plain
        else:
            meant = _nearest(plain, _stem(plain, owned), stems)
        if meant:
            yield f"{name!a} is unknown: did you mean {meant}".replace("'", "")
        elif plain.startswith(tuple(owned)):
            yield f"{name!a} is unknown: .env.example lists the names".replace("'", "")


def _stem(name: str, owned: Iterable[str]) -> str:
    """A name without its prefix, which may be misspelt."""
    for prefix in sorted((*owned, "LEAN_HOUSE_", "LEAN_"), key=len, reverse=True):
        words = prefix.strip("_")
        if name.startswith(words) and len(name) > len(words):
            return name.removeprefix(words).removeprefix("S_").strip("_")
    return name


def _unreadable(value: str) -> str | None:
    """Why a value cannot be right for any setting; None if it can."""
    if len(value) > 1 and _QUOTES.get(value[0]) == value[-1]:
        return "is between quotes, which became part of the value: remove them"
    if _NOT_UTF8.search(value):
        return "contains bytes that are not UTF-8: write it again"
    return None


def _nearest(name: str, stem: str, stems: Mapping[str, str]) -> str | None:
    """The known name that was probably meant: a similar name, or a name that contains this name.

    Args:
        name: The name as written.
        stem: The name without its prefix.
        stems: Known names, each with its stem.
    """

    def likeness(known: str) -> tuple[float, float]:
        return _likeness(stem, stems[known]), _likeness(name, known)

    nearest = max(stems, key=likeness)
    if likeness(nearest)[0] >= _SIMILARITY:
        return nearest
    words = stem.split("_")
    parts = [known for known in stems if _is_part(words, stems[known].split("_"))]
    return max(parts, key=lambda known: _likeness(name, known), default=None)


def _likeness(left: str, right: str) -> float:
    return difflib.SequenceMatcher(None, left, right).ratio()


def _is_part(left: list[str], right: list[str]) -> bool:
    """Whether the longer list begins or ends with the words, or abbreviations, of the shorter."""
    short, long = sorted((left, right), key=len)
    return any(
        all(map(_is_same_word, short, part)) for part in (long[: len(short)], long[-len(short) :])
    )


def _is_same_word(left: str, right: str) -> bool:
    short, long = sorted((left, right), key=len)
    return short == long or (len(short) >= _SHORTEST_WORD and long.startswith(short))


def _problems(of: type[VariableSettings], error: ValidationError) -> Iterator[str]:
    for detail in error.errors(include_url=False, include_context=True, include_input=False):
        if detail["type"] != "default_factory_not_called":
            yield _problem(of, detail)


def _problem(of: type[VariableSettings], detail: ErrorDetails) -> str:
    field = str(detail["loc"][0]) if detail["loc"] else ""
    if field not in of.model_fields:
        return f"there is no setting {field}: .env.example lists the settings"
    name, description = of.variable(field), of.model_fields[field].description or ""
    what = detail["msg"]
    if detail["type"] not in {"url", "header", "network", "switch", "path"}:
        # pydantic's own messages name types instead of remedies.
        what = _WHAT.get(detail["type"], "has the wrong type")
    return f"{name} {what} ({description.removesuffix('.')})"


class Variable(NamedTuple):
    """An environment variable for the documentation."""

    name: str
    field: str
    description: str
    default: str
    secret: bool


def variables_of(of: type[VariableSettings]) -> tuple[Variable, ...]:
    """The variables of a settings class, in the order of its fields."""
    return tuple(
        Variable(
            name=of.variable(field),
            field=field,
            description=about.description or "",
            default=_shown(None if about.default_factory else about.default),
            secret=SecretStr.__name__ in str(about.annotation),
        )
        for field, about in of.model_fields.items()
    )


def _shown(default: Any) -> str:
    if default is None or default == ():
        return ""
    return str(default).lower() if isinstance(default, bool) else str(default)
