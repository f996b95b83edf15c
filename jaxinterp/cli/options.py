"""Options that any command takes before it is parsed: `--import`, `--log`, `--mesh` and `--config`; imports no JAX."""

import dataclasses
import os
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxinterp.base.configs import changed, emptied, filled, option
from jaxinterp.base.errors import UserError, unknown
from jaxinterp.base.mesh_asked import VARIABLE as MESH
from jaxinterp.base.mesh_asked import parse_mesh
from jaxinterp.base.plugins import add_imports
from jaxinterp.base.writers import VARIABLE, asked_writers

ANYWHERE = (
    "Any command also takes --config FILE (YAML or JSON: options by name, nested as their names are; those of the "
    "command line come first), --import MODULE (plug-ins), --log WRITER (tensorboard, wandb) and --mesh MESH (devices "
    "that share the work, as data=2,fsdp=4; one: a single one; by default all)."
)
VALUES = {"--import": "the name of a module", "--log": "a writer", "--mesh": "a mesh", "--config": "a file"}
Commands = type | Mapping[str, type]  # a dataclass, or dataclasses by their names


@dataclasses.dataclass(frozen=True)
class Given:
    """A command line without the options that any command takes, and what those say."""

    arguments: list[str]
    files: list[Path]


@dataclasses.dataclass(frozen=True)
class Defaults:
    """A command's options before its command line is read."""

    name: str  # of the subcommand; "" if there is one command
    kind: type  # the command's dataclass
    values: Mapping[str, Any]  # of all of its fields; `tyro.MISSING` where the command line has to give one


def taken(arguments: Sequence[str]) -> Given:
    """Takes `--import`, `--log`, `--mesh` and `--config` out, and has all but the last do their work.

    Raises:
      UserError: if one lacks its value, a writer is unknown, or a mesh is none or given twice.
    """
    left: list[str] = []
    values: dict[str, list[str]] = {name: [] for name in VALUES}
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if name not in values:
            left.append(word)
            continue
        value = value if equals else next(words, "")
        if not value or (not equals and value.startswith("--")):
            raise UserError(f"{name} needs {VALUES[name]}")
        values[name].append(value)
    if values["--log"]:
        os.environ[VARIABLE] = ",".join(values["--log"])
    asked_writers()
    if len(values["--mesh"]) > 1:
        raise UserError(f"--mesh is given {len(values['--mesh'])} times; give it once")
    for text in values["--mesh"]:
        parse_mesh(text)
        os.environ[MESH] = text
    add_imports(values["--import"])
    return Given(left, [Path(file) for file in values["--config"]])


def configured(commands: Commands, given: Given) -> Defaults:
    """The command that a line asks for, and its options as its files have them.

    Raises:
      UserError: if a file cannot be read, or holds an option that there is not, or one of another kind.
    """
    name, kind = "", commands
    if isinstance(commands, Mapping):
        name = given.arguments[0] if given.arguments else ""
        if name not in commands:
            raise UserError(f"--config comes after a command: one of {', '.join(commands)}")
        kind = commands[name]
        if any(field.name == "command" for field in dataclasses.fields(kind)):
            raise UserError(f"`{name}` takes no --config; give its options themselves")
    values = {field.name: _default(field) for field in dataclasses.fields(kind)}
    for path in given.files:
        values |= _changed(kind, values, read_options(path), str(path))
    return Defaults(name, kind, values)


def opened(defaults: Defaults) -> Any:
    """A command for tyro to start from. Its configs have no entries in their mappings, so that tyro offers any; see
    `configs.emptied`. Nothing has checked it, for options that the command line has to give are `tyro.MISSING`.
    """
    command = object.__new__(defaults.kind)
    for name, value in defaults.values.items():
        object.__setattr__(command, name, emptied(value) if dataclasses.is_dataclass(value) else value)
    return command


def closed(parsed: Any, defaults: Defaults) -> Any:
    """What was parsed with `opened` defaults, its empty mappings those of the defaults."""
    configs = {
        name: filled(getattr(parsed, name), value)
        for name, value in defaults.values.items()
        if dataclasses.is_dataclass(value)
    }
    return dataclasses.replace(parsed, **configs)


def _default(field: dataclasses.Field) -> object:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    hint = _hint(field)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return hint()  # all of a config's fields have defaults
    return tyro.MISSING


def _hint(field: dataclasses.Field) -> Any:
    return typing.get_args(field.type)[0] if typing.get_origin(field.type) is Annotated else field.type


def _changed(kind: type, values: Mapping[str, Any], fields: Mapping, where: str) -> dict[str, Any]:
    """A command's options that a file changes. Those of a config whose options have no prefix stand beside its own."""
    own = {field.name: field for field in dataclasses.fields(kind)}
    bare = [name for name, field in own.items() if _is_bare(field)]
    inside: dict[str, dict] = {name: {} for name in bare}
    found = {}
    for given, value in fields.items():
        name = str(given).replace("-", "_")
        owner = next((of for of in bare if name in {field.name for field in dataclasses.fields(values[of])}), None)
        if owner is not None:
            inside[owner][name] = value
        elif name not in own or name in bare:
            known = [of for of in own if of not in bare]
            known += [field.name for of in bare for field in dataclasses.fields(values[of])]
            raise UserError(f"{where}: {unknown('option', name, known)}")
        else:
            found[name] = option(name, values[name], _hint(own[name]), value, where)
    return found | {name: changed(values[name], of, where) for name, of in inside.items() if of}


def _is_bare(field: dataclasses.Field) -> bool:
    """Whether a field is a config whose options have no prefix."""
    metadata = typing.get_args(field.type)[1:] if typing.get_origin(field.type) is Annotated else ()
    return any(getattr(of, "name", None) == "" for of in metadata)


def _loader() -> type:
    """YAML without aliases, by which a small file is an endless value, and keys that are repeated."""
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent, index):
            if self.check_event(yaml.AliasEvent):
                mark = self.peek_event().start_mark
                raise yaml.composer.ComposerError(None, None, "aliases, as *name, are not read; write values out", mark)
            return super().compose_node(parent, index)

        def construct_mapping(self, node, deep=False):
            found = super().construct_mapping(node, deep)
            if len(found) < len(node.value):
                raise yaml.constructor.ConstructorError(None, None, "an option stands twice", node.start_mark)
            return found

    return Loader


def read_options(path: Path) -> Mapping:
    """The options in a YAML or JSON file; of a run's config.json, those of the run.

    Raises:
      UserError: if it cannot be read, or holds no options.
    """
    import yaml

    try:
        with path.open("rb") as file:
            fields = yaml.load(file, _loader())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except RecursionError:
        raise UserError(f"{path}: not YAML: its values lie too deep in one another") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no date, a number of thousands of digits, no UTF-8
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = "" if line is None else f", line {line + 1}"
        raise UserError(f"{path}{where}: not YAML: {getattr(error, 'problem', None) or error}") from None
    if fields is None:
        return {}
    if not isinstance(fields, Mapping):
        raise UserError(f"{path} must hold options and their values, as `steps: 500`")
    if isinstance(fields.get("config"), Mapping) and "revision" in fields:
        return fields["config"]
    return fields
