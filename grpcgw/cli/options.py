"""The settings of a command as flags, environment variables and help, made from the annotations of `grpcgw.settings`.

typer parses the flags and shows the help; pydantic-settings reads the environment and checks every value. A flag wins
over its environment variable, and grpcgw's variable over Ambassador's.
"""

from __future__ import annotations

import difflib
import inspect
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer
from rich.markup import escape

from grpcgw.settings import PANELS, CompileSettings, Settings
from grpcgw.settings.flag import Flag

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails
    from pydantic_settings import BaseSettings

S = TypeVar("S", bound=CompileSettings)
PREFIX = "GRPCGW_"

Directory = Annotated[
    Path,
    typer.Argument(metavar="DIR", exists=True, help="Directory of YAML files, read recursively, or one such file."),
]


@dataclass(frozen=True, slots=True)
class Option:
    """One setting that has a flag."""

    field: str
    kind: Any
    """Its type annotation."""
    default: Any
    flag: Flag

    @property
    def variables(self) -> tuple[str, ...]:
        """Its environment variables, the strongest first."""
        own = PREFIX + self.flag.name.removeprefix("--").replace("-", "_").upper()
        return (own, self.flag.ambassador) if self.flag.ambassador else (own,)

    def describe_default(self) -> str:
        """For help and the documentation; empty where nothing is set."""
        if self.flag.unset or self.flag.default:
            return self.flag.unset or self.flag.default
        if isinstance(self.default, float):
            return f"{self.default:g}"
        return "" if self.default in (None, False, ()) else str(self.default)


def list_options(settings: type[CompileSettings]) -> tuple[Option, ...]:
    """The settings of a command that have flags, grouped by panel."""
    hints = get_type_hints(settings, include_extras=True)
    found = []
    for field in fields(settings):
        hint = hints[field.name]
        flags = [note for note in getattr(hint, "__metadata__", ()) if isinstance(note, Flag)]
        if flags:
            assert field.default is not MISSING, f"{field.name} has no default"
            found.append(Option(field.name, hint.__origin__, field.default, flags[0]))
    inherited = {field.name for base in settings.__bases__ if is_dataclass(base) for field in fields(base)}
    return tuple(sorted(found, key=lambda option: (PANELS.index(option.flag.panel), option.field in inherited)))


# ---- flags and help


def takes(settings: type[CompileSettings], panel: str = "") -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Decorator of a command: its parameter `settings` is made from a flag for each setting, and from the environment.

    `panel`: the heading of all these flags in help; empty: each flag's own.
    """
    options = list_options(settings)

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        def with_flags(**arguments: object) -> int:
            given = {option.field: value for option in options if (value := _take(arguments, option)) is not None}
            return command(**arguments, settings=read_settings(settings, given))

        parameters = dict(inspect.signature(command, eval_str=True).parameters)
        del parameters["settings"]
        own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters.values()]
        signature = inspect.Signature([*own, *(make_parameter(option, panel) for option in options)])
        # typer reads a command's parameters from these.
        with_flags.__dict__["__signature__"] = signature
        with_flags.__annotations__ = {name: one.annotation for name, one in signature.parameters.items()}
        with_flags.__name__, with_flags.__doc__ = command.__name__, command.__doc__
        return with_flags

    return decorate


def _take(arguments: dict[str, object], option: Option) -> object:
    """The text of a flag; None: it is not given."""
    value = arguments.pop(option.field)
    if not option.flag.repeated:
        return value
    return "\n".join(value) if isinstance(value, list | tuple) and value else None


def make_parameter(option: Option, panel: str) -> inspect.Parameter:
    """typer's parameter for a flag: a text that is checked later, or a switch; None where it is not given."""
    flag = typer.Option(
        option.flag.name,
        metavar=option.flag.metavar or None,
        help=describe(option),
        rich_help_panel=panel or option.flag.panel,
        show_default=False,
    )
    kind: Any = bool if option.kind is bool else list[str] if option.flag.repeated else str
    return inspect.Parameter(
        option.field, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, flag]
    )


def describe(option: Option) -> str:
    """The help text, with the variables and the default."""
    notes = [f"env var: {', '.join(option.variables)}"]
    if default := option.describe_default():
        notes.append(f"default: {default}")
    text = escape(option.flag.help.replace("`", ""))
    return "\n\n".join([text, *(f"[dim]{escape(f'[{note}]')}[/dim]" for note in notes)])


# ---- values


def read_settings(settings: type[S], given: Mapping[str, object]) -> S:
    """The settings by the flags that are `given` (by field), the environment and the defaults. Raises BadParameter."""
    from pydantic import ValidationError

    options = list_options(settings)
    check_environment(os.environ)
    try:
        texts: dict[str, Any] = {one.variables[0]: given[one.field] for one in options if one.field in given}
        values = make_model(options)(**texts)
    except ValidationError as error:
        raise typer.BadParameter("; ".join(explain(error, options, given))) from error
    return settings(**dict(values))


def make_model(options: tuple[Option, ...]) -> type[BaseSettings]:
    """A model of pydantic-settings whose fields have the names of variables as aliases.

    Imported and made here: workers and `--help` need none of it.
    """
    from pydantic import AliasChoices, BeforeValidator, Field, create_model
    from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

    class Variables(BaseSettings):
        model_config = SettingsConfigDict(case_sensitive=True, env_ignore_empty=True, extra="ignore")

    def make_field(option: Option) -> tuple[object, object]:
        parse = option.flag.parse
        default: Any = option.flag.default or option.default
        kind = Annotated[option.kind, NoDecode, BeforeValidator(parse)] if parse else Annotated[option.kind, NoDecode]
        # Only the default of a command line is a text to be checked.
        checked = bool(option.flag.default)
        return kind, Field(default, validation_alias=AliasChoices(*option.variables), validate_default=checked)

    made: dict[str, object] = {option.field: make_field(option) for option in options}
    return create_model("GatewayVariables", __base__=Variables, **made)  # type: ignore[call-overload, no-any-return]


def explain(error: ValidationError, options: tuple[Option, ...], given: Mapping[str, object]) -> Iterator[str]:
    """Each fault in plain words, after the flag or variable that it came from."""
    for fault in error.errors():
        (option,) = (option for option in options if fault["loc"][0] in option.variables)
        variable = next((name for name in option.variables if os.environ.get(name)), "")
        yield f"{option.flag.name if option.field in given else variable}: {explain_fault(fault)}"


def explain_fault(fault: ErrorDetails) -> str:
    match fault["type"]:
        case "value_error":
            return str(fault["ctx"]["error"])
        case "enum":
            return f"{fault['input']} is not one of {fault['ctx']['expected']}"
        case "bool_parsing":
            return f"{fault['input']} is neither true nor false"
        case _:
            return f"{fault['input']}: {fault['msg']}"


# ---- the environment

_SERVICE_LINK = re.compile(
    r"(_[A-Z0-9]+)*_(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
"""What Kubernetes sets in pods for Services called grpcgw or grpcgw-…, behind the prefix."""


def check_environment(environment: Mapping[str, str]) -> None:
    """Refuse a misspelt variable, as a misspelt flag is refused. Raises BadParameter."""
    known = sorted(name for option in list_options(Settings) for name in option.variables if name.startswith(PREFIX))
    for name in sorted(environment):
        if not name.startswith(PREFIX) or name in known or _is_service_link(name, environment[name]):
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        hint = f"did you mean {near[0]}?" if near else "grpcgw run --help names those that are"
        raise typer.BadParameter(f"{name} is in the environment and is no variable of grpcgw: {hint}")


def _is_service_link(name: str, value: str) -> bool:
    rest = name.removeprefix(PREFIX.removesuffix("_"))
    return _SERVICE_LINK.fullmatch(rest) is not None or (rest.endswith("_PORT") and "://" in value)


# ---- documentation


def draw_flag_table() -> str:
    """The settings of `grpcgw run` as a table in Markdown, for docs/command-line.md."""
    rows = ["| flag | variable | default | meaning |", "|---|---|---|---|"]
    for option in list_options(Settings):
        flag = f"{option.flag.name} {option.flag.metavar}".strip().replace("|", "\\|")
        default = option.describe_default()
        shown = default if option.flag.unset or not default else f"`{default}`"
        rows.append(
            f"| `{flag}` | {', '.join(f'`{name}`' for name in option.variables)} | {shown} | {option.flag.help} |"
        )
    return "\n".join(rows) + "\n"
