"""The YAMLs of `conf/` as functions: ``methods.ties(density=0.3)``.

A YAML is the registration: a file in `conf/method/` is a function of `soupkitchen.methods`, with the
defaults that stand in the file and nowhere else. Composing needs no Hydra, and nothing heavy is imported
before a function is called.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from soupkitchen.errors import ConfigError, did_you_mean
from soupkitchen.options import check_tree, resources, shown, unknown
from soupkitchen.options.building import TARGET, build
from soupkitchen.options.kinds import KINDS

CONF = resources.folder("conf")
MISSING = "???"
"""What stands in a YAML where an option has to be given."""

_MODULES = {"method": "methods", "task": "tasks"}
_SHORT = ("path", "name")
"""The options that text stands for where a part is wanted: ``metric="f1_macro"`` sets its name."""
_WORDS = {"null": "None", "true": "True", "false": "False"}


@dataclass(frozen=True)
class Option:
    """An option of a preset.

    Attributes:
        name: what it is called.
        place: the keys that lead to it: ("sparsifier", "density").
        default: what the YAML says; `MISSING` where it has to be given.
        comment: what the YAML says of it.
    """

    name: str
    place: tuple[str, ...]
    default: Any
    comment: str

    @property
    def required(self) -> bool:
        """Whether the YAML leaves it to whoever uses it."""
        return self.default == MISSING or self.default == {}

    @property
    def short(self) -> str | None:
        """The option below this one that text stands for, if this one is a part."""
        return _short(self.default)


def preset(group: str, name: str, /, *positional: Any, conf: str | Path | None = None, **options: Any) -> Any:
    """What `conf/<group>/<name>.yaml` describes, with these options.

    An option inside a part is found by its own name: `density` is the sparsifier's. A part may be given as
    a mapping of some of its options, as an object, or, where its first option is a name or a path, as text.

    Args:
        group: a folder of `conf/`.
        name: a file in it.
        positional: the options that the file leaves open, in its order.
        conf: a folder of one's own that is looked into first.
        options: further options, by name.

    Raises:
        ConfigError: for a preset or option that there is not, that is wrong, or that has to be given.
    """
    return _make(group, name, positional, options, conf)


def names(group: str) -> list[str]:
    """The presets of a group."""
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


@cache
def function(group: str, name: str) -> Callable[..., Any]:
    """The preset as a function, whose signature and docstring are the YAML's.

    Raises:
        ConfigError: where there is no such preset.
    """

    def made(*positional: Any, **options: Any) -> Any:
        return _make(group, name, positional, options)

    made.__name__ = made.__qualname__ = name
    made.__module__ = f"soupkitchen.{_MODULES.get(group, 'presets')}"
    made.__doc__ = documentation(group, name)
    made.__signature__ = _signature(options_of(group, name))  # type: ignore[attr-defined]
    return made


def attribute(group: str, name: str) -> Callable[..., Any]:
    """The preset called `name`, for a module's `__getattr__`.

    Raises:
        AttributeError: where there is none.
    """
    if name.startswith("_") or name not in names(group):
        module = f"soupkitchen.{_MODULES[group]}"
        hint = "" if name.startswith("_") else did_you_mean(name, names(group))
        raise AttributeError(f"module {module!r} has no attribute {name!r}{hint}")
    return function(group, name)


def compose(group: str, name: str, conf: str | Path | None = None) -> dict[str, Any]:
    """The options of a preset as its YAML has them, with those of the files that it takes in.

    References to the top level (`${cache_dir}`) are filled in, and what has to be given is `MISSING`.

    Raises:
        ConfigError: where there is no such preset.
    """
    top: Any = OmegaConf.to_container(_load(CONF / "config.yaml"))
    whole = OmegaConf.create({**top, group: _merged(group, name, conf)})
    tree: Any = OmegaConf.to_container(whole[group], resolve=True)
    return tree


def top_level() -> dict[str, Any]:
    """The options of `conf/config.yaml` that belong to no group, but for the run's name, filled in."""
    top: Any = OmegaConf.to_container(_load(CONF / "config.yaml"))
    own = {name: value for name, value in top.items() if name not in ("defaults", "hydra", "name")}
    filled: Any = OmegaConf.to_container(OmegaConf.create(own), resolve=True)
    return filled


def options_of(group: str, name: str, conf: str | Path | None = None) -> list[Option]:
    """The options that a preset takes by name: those to be given first, then in the YAML's order.

    Raises:
        ConfigError: where there is no such preset.
    """
    comments: dict[tuple[str, ...], str] = {}
    for file in _files(group, name, conf):
        comments |= _comments(file)
    tree: Any = OmegaConf.to_container(_merged(group, name, conf))
    found, known = [], _places(tree)
    for option, (place, *others) in known.items():
        if not others:
            default = _at(tree, place)
            short = _short(default)
            told = place if short is None or known.get(short) == [(*place, short)] else (*place, short)
            found.append(Option(option, place, default, comments.get(told, "")))
    return sorted(found, key=lambda option: not option.required)


def documentation(group: str, name: str) -> str:
    """What the YAML says it is for, and what it says of each option, in Python's words."""
    lines = _files(group, name)[-1].read_text(encoding="utf-8").splitlines()
    head = [line.removeprefix("#").strip() for line in takewhile(lambda line: line.startswith("#"), lines)]
    args = []
    for option in options_of(group, name):
        default = f"{shown_default(option)}, " if option.comment.startswith("or ") else ""  # "or rouge1, …"
        args += [f"    {option.name}: {default}{option.comment}"] if option.comment else []
    text = "\n".join([*head, "", "Args:", *args])
    return re.sub(r"\b(null|true|false)\b", lambda word: _WORDS[word[0]], text)


def _make(
    group: str,
    name: str,
    positional: Sequence[Any],
    options: Mapping[str, Any],
    conf: str | Path | None = None,
) -> Any:
    called = f"{_MODULES.get(group, group)}.{name}"
    tree = compose(group, name, conf)
    open_ones = [option.name for option in options_of(group, name, conf) if option.required]
    if len(positional) > len(open_ones):
        takes = f"takes {', '.join(open_ones)} without" if open_ones else "takes no options without"
        raise ConfigError(f"{called} {takes} a name; write the others as NAME=VALUE")
    given = dict(zip(open_ones, positional, strict=False))
    if twice := given.keys() & options.keys():
        raise ConfigError(f"{called}: {', '.join(twice)} is given twice, with and without its name")
    _fill(tree, {**given, **options}, called)
    for place in _missing(tree):
        raise ConfigError(f"{called} needs {place[-1]} ({'.'.join((group, *place))}): give {place[-1]}=…")
    _check(tree, group)
    return build(tree)


def _fill(tree: dict[str, Any], options: Mapping[str, Any], called: str) -> None:
    """Puts options where they belong in `tree`, parts before what is inside them."""
    known = _places(tree)
    places = {name: _place(name, known, called) for name in options}
    for name, place in sorted(places.items(), key=lambda item: len(item[1])):
        above = _at(tree, place[:-1])
        if not isinstance(above, dict):
            raise ConfigError(f"{called}: {name} has no place beside {place[0]}={shown(above)}; say it there")
        above[place[-1]] = _given(above.get(place[-1]), _plain(options[name]))


def _place(name: str, known: Mapping[str, Sequence[tuple[str, ...]]], called: str) -> tuple[str, ...]:
    """Where the option called `name` belongs."""
    if name not in known:
        hint = did_you_mean(name, known)
        raise ConfigError(f"{called} has no option {name!r}{hint}; it has {', '.join(known)}")
    if len(known[name]) > 1:
        ways = " or ".join(f"{'.'.join(place[:-1])}={{{name!r}: …}}" for place in known[name])
        raise ConfigError(f"{called}: {name} may belong to several parts; write {ways}")
    return known[name][0]


def _places(tree: Mapping[str, Any]) -> dict[str, list[tuple[str, ...]]]:
    """By name of option, where it stands: an outer one hides those in parts that are called alike."""
    found: dict[str, list[tuple[str, ...]]] = {}
    for name, value in tree.items():
        if name == TARGET:
            continue
        found[name] = [(name,)]
        if _is_part(value):
            for option, below in _places(value).items():
                if option not in tree:
                    found.setdefault(option, []).extend((name, *place) for place in below)
    return found


def _given(before: Any, value: Any) -> Any:
    """What an option becomes: of a part, options that are not given stay as they are."""
    if not _is_part(before):
        return value
    if isinstance(value, str) and (short := _short(before)):
        return {**before, short: value}
    if not isinstance(value, Mapping) or value.get(TARGET, before[TARGET]) != before[TARGET]:
        return value
    return {**before, **{name: _given(before.get(name), part) for name, part in value.items()}}


def _check(tree: Mapping[str, Any], group: str) -> None:
    """Checks options before anything heavy is imported."""
    for key in unknown({group: tree}):
        of = _at({group: tree}, tuple(key.split(".")[:-1]))
        hint = did_you_mean(key.split(".")[-1], KINDS[of[TARGET]])
        raise ConfigError(f"there is no option {key}{hint}")
    check_tree({group: tree})


def _is_part(value: Any) -> bool:
    return isinstance(value, Mapping) and TARGET in value


def _short(part: Any) -> str | None:
    first = next((name for name in part if name != TARGET), None) if _is_part(part) else None
    return first if first in _SHORT else None


def _plain(value: Any) -> Any:
    """As YAML would have it: paths are text, whatever they are given as."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def _missing(tree: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _missing(value, (*above, name))
        elif isinstance(value, str) and value == MISSING:
            yield (*above, name)


def _at(tree: Any, place: Sequence[str]) -> Any:
    for key in place:
        tree = tree[key] if isinstance(tree, Mapping) else tree
    return tree


def _signature(options: Sequence[Option]) -> inspect.Signature:
    positional, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    needed = must_be_given(options)
    return inspect.Signature(
        [
            inspect.Parameter(
                option.name,
                positional if option.required else keyword,
                default=inspect.Parameter.empty if option.required and needed else shown_default(option),
            )
            for option in options
        ]
    )


def must_be_given(options: Sequence[Option]) -> bool:
    """Whether what is required can be given by its name only, and not as `data=` with all that is in it."""
    return all(len(option.place) == 1 for option in options if option.required)


def shown_default(option: Option) -> Any:
    """A default as a signature has it: of a part, what text stands for; "..." for what is not plain."""
    default = option.default if option.short is None else option.default[option.short]
    plain = not isinstance(default, Mapping) and default != MISSING and "${" not in str(default)
    return default if plain else ...


def _files(group: str, name: str, conf: str | Path | None = None) -> list[Path]:
    """The files that make up a preset, each of which may change what those before it say.

    Raises:
        ConfigError: where there is no such preset, or it takes in files in a way that only Hydra knows.
    """
    folders = [CONF] if conf is None else [Path(conf).expanduser(), CONF]
    found = (folder / group / f"{name}.yaml" for folder in folders)
    file = next((file for file in found if file.is_file()), None)
    if file is None:
        there = sorted({file.stem for folder in folders for file in (folder / group).glob("*.yaml")})
        hint = did_you_mean(name, there)
        raise ConfigError(f"there is no {group} {name!r}{hint}; there are: {', '.join(there) or 'none'}")
    files: list[Path] = []
    entries = _load(file).get("defaults", [])
    for entry in entries if "_self_" in entries else ["_self_", *entries]:
        if entry == "_self_":
            files.append(file)
        elif isinstance(entry, str) and (match := re.fullmatch(r"/([\w/]+)/(\w+)@_here_|(\w+)", entry)):
            files += _files(match[1] or group, match[2] or match[3], conf)
        else:
            raise ConfigError(f"{file}: defaults such as {entry} are for the command line")
    return files


def _load(file: Path) -> DictConfig:
    """The content of a file, which nobody may change.

    Raises:
        ConfigError: where it holds no options.
    """
    try:
        loaded = _parsed(file.read_text(encoding="utf-8"))
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    if not isinstance(loaded, DictConfig):
        raise ConfigError(f"{file} should hold options by name")
    return loaded


@cache
def _parsed(text: str) -> Any:
    return OmegaConf.create(text)


def _merged(group: str, name: str, conf: str | Path | None) -> Any:
    """What the files of a preset say together, references as they stand."""
    merged: Any = OmegaConf.merge(*map(_load, _files(group, name, conf)))
    merged.pop("defaults", None)
    return merged


def _comments(file: Path) -> dict[tuple[str, ...], str]:
    """What stands behind each option, by the keys that lead to it."""
    found: dict[tuple[str, ...], str] = {}
    above: list[tuple[int, str]] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"( *)(\w+):(?: .*?)??(?: # (.*))?", line):
            depth = len(match[1])
            above = [*(key for key in above if key[0] < depth), (depth, match[2])]
            if match[3]:
                found[tuple(name for _, name in above)] = match[3]
    return found
