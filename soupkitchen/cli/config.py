"""Prepares the command line's words for Hydra, and checks the result.

Imports no torch, so `--help`, `--cfg job` and misspelt options answer at once.
"""

from __future__ import annotations

import difflib
import errno
import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from soupkitchen.cli import config as conf
from soupkitchen.console import check_place
from soupkitchen.errors import ConfigError, SoupkitchenError
from soupkitchen.options import check_tree, files, shown
from soupkitchen.options.kinds import mended
from soupkitchen.store.files import NO_ROOM
from soupkitchen.store.settings import flat, is_ignored, slug, tail

CONF = files.CONF
PARTS = ("runtime", "executor", "report", "output", "evaluation", "search", "method", "model", "task", "pool")
"""The groups of a run, cheap ones first, so that their errors come first."""
_NAMED_BY = ("pool", "method", "search")
_LONGEST_NAME = 120
_REMEDIES = {
    **dict.fromkeys(NO_ROOM, "Nothing is lost: make room, and the same command continues"),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "Give yourself the right to it, or name another results_dir=. Nothing is lost",
    ),
    errno.ENOENT: "Put it back, or name another results_dir=. Nothing is lost",
    errno.ENAMETOOLONG: "Give this run a shorter name=",
    **dict.fromkeys(
        (errno.EEXIST, errno.ENOTDIR, errno.EISDIR),
        "A file is where a folder should be, or a folder where a file should be: move it, or give this run "
        "another name= or results_dir=",
    ),
    **dict.fromkeys(
        (errno.EIO, errno.ESTALE, errno.ENXIO, errno.EMFILE, errno.ENFILE),
        "That is the machine's fault, not the run's: once it is well, the same command continues",
    ),
}


def register_resolvers() -> None:
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)


def sweepable(words: Sequence[str]) -> list[str]:
    """Puts `-m` first, and makes each option of a swept group a sweep of one value.

    Otherwise, for ``-m method=ties,dare_ties method.sparsifier.density=0.3``, Hydra would look for the option
    in the default method. An experiment may sweep, too.
    """
    flags = {"-m", "--multirun"} & set(words)
    words = [word for word in words if word not in flags]  # amid other words it would end them
    try:
        parsed = {
            word: OverridesParser.create().parse_override(word) for word in words if not word.startswith("-")
        }
    except HydraException:  # Hydra itself will say so
        return ["-m", *words] if flags else words
    swept = {override.key_or_group for override in parsed.values() if override.is_sweep_override()}
    experiment = next((o.value() for o in parsed.values() if o.key_or_group == "experiment"), None)
    params = _sweep_of(_experiment(str(experiment)))
    if not flags and params is None:
        return words
    swept |= set(params or ())
    fixed = {
        word
        for word, override in parsed.items()
        if override.key_or_group.split(".")[0] in swept - {override.key_or_group}
        and not override.is_sweep_override()
        and "=" in word
    }
    words = ["{}=choice({})".format(*word.split("=", 1)) if word in fixed else word for word in words]
    return ["-m", *words] if flags else words


def _experiment(name: str) -> Mapping[str, Any]:
    return files.written(CONF / "experiment" / f"{name}.yaml")


def _sweep_of(experiment: Mapping[str, Any]) -> set[str] | None:
    ours = experiment.get("hydra", {})
    return set(ours.get("sweeper", {}).get("params", ())) if ours.get("mode") == "MULTIRUN" else None


def _only_sweeps(experiment: Mapping[str, Any]) -> bool:
    """Tells whether the experiment sets nothing beyond its sweep that names a run."""
    if _sweep_of(experiment) is None or experiment.keys() - {"defaults", "hydra"}:
        return False
    named = [f"override /{group}" for group in _NAMED_BY]
    entries = [next(iter(entry)) for entry in experiment.get("defaults", []) if entry != "_self_"]
    return all(entry in named or entry.startswith("override /hydra/") for entry in entries)


def in_our_words(words: Sequence[str]) -> list[str]:
    """Renames `method.coefficients` to `method.weights`, adds Hydra's plus signs to `model.options`, and the
    task that the pool `lm` is made for.
    """
    if "pool=lm" in words and not any(word.startswith(("task=", "experiment=")) for word in words):
        place = words.index("pool=lm")
        words = [*words[:place], "task=lm", *words[place:]]
    words = [re.sub(r"^([~+]*method\.)coefficients(?=[.=]|$)", r"\1weights", word) for word in words]
    return [re.sub(r"^(?=model\.options\.)", "++", word) for word in words]


def run_name(choices: Mapping[str, str], overrides: Sequence[str]) -> str:
    """Names a run by pool, method and search, then by other overrides, in any order.

    Options that only affect how it runs (device, workers) are left out, and so is an experiment that sweeps.
    """
    parts = {group: choices[group] for group in _NAMED_BY}
    others = []
    for override in OverridesParser.create().parse_overrides(overrides=list(overrides)):
        key = override.key_or_group
        if override.is_delete():
            others.append(f"~{key}")
            continue
        value = override.get_value_string().strip("'\"")
        if key == "experiment" and _only_sweeps(_experiment(value)):
            continue
        if key == "pool.path":
            parts["pool"] = tail(value)
        elif not is_ignored(key) and key not in _NAMED_BY:
            others.append(f"{key}={value}")
    name = slug("-".join(slug(part) for part in parts.values()) + "".join(f"+{o}" for o in sorted(others)))
    if len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: _LONGEST_NAME - 9]}-{digest}"


def explain(message: str) -> str:
    """Rewrites Hydra's message about the command line, with the nearest right word if there is one."""
    if match := re.search(r"Could not override '(?:[^']*@)?([^']+)'", message):
        wrong = match[1]
        if wrong in _known_keys():
            group = wrong.split(".")[0]
            return f"The {group} that is chosen has no option {wrong}; other choices of {group} have it."
        nearest = _nearest(wrong, _known_keys())
        hint = f" Did you mean {nearest}?" if nearest else ""
        return f"There is no option {wrong!r}.{hint} 'python -m soupkitchen --cfg job' shows all of them."
    if "Could not find 'hydra/sweeper/optuna'" in message:
        return "hydra/sweeper=optuna needs an extra: pip install 'soupkitchen[optuna]'"
    if match := re.search(r"Could not find '(\w+)/([^']+)'", message):
        group, wrong = match[1], match[2]
        choices = files.names(group)
        if group == "hydra":  # Hydra has choices of its own, which it lists
            within, wrong = wrong.rsplit("/", 1)
            group = f"hydra/{within}"
            choices = re.findall(r"^\t(\w+)$", message, re.MULTILINE)
        near = difflib.get_close_matches(wrong, choices, n=1)
        hint = f" Did you mean {group}={near[0]}?" if near else ""
        return f"There is no {group}={wrong}.{hint} There are: {', '.join(choices)}."
    if match := re.search(r"Missing mandatory value: (\S+)", message):
        return f"The option {match[1]} has to be given, as {match[1]}=VALUE."
    if match := re.search(r"Interpolation key '([^']+)' not found", message):
        return f"An option refers to ${{{match[1]}}}, and there is no option {match[1]}."
    if match := re.search(r"Error parsing override '([^=']+)'", message):
        return f"{match[1]!r} is no option: write NAME=VALUE. 'python -m soupkitchen --help' shows them."
    if "override_grammar" in message:
        first = message.splitlines()[0]
        return f"{first}\nA value with [ ] {{ }} , = or : needs quotes of its own, as in \"key='value[1]'\"."
    return message


def check_keys(config: DictConfig) -> None:
    """Checks a composition's keys and top level, without importing what it names.

    Raises:
        ConfigError: if an option is unknown, missing or, at the top level, wrong.
    """
    groups = {folder.name for folder in CONF.iterdir() if folder.is_dir()}
    for key in map(str, config):
        if key not in groups | files.load(CONF / "config.yaml").keys():
            raise ConfigError(explain(f"Could not override '{key}'"))
    if missing := sorted(OmegaConf.missing_keys(config)):
        raise ConfigError(" ".join(explain(f"Missing mandatory value: {key}") for key in missing))
    plain: Any = OmegaConf.to_container(config, resolve=True)
    for group in PARTS:
        if not (isinstance(plain.get(group), dict) and "_target_" in plain[group]):
            raise _names_nothing(group, plain.get(group))
    for key in files.unknown(plain):
        raise ConfigError(explain(f"Could not override '{key}'"))
    check_tree({name: value for name, value in plain.items() if name not in groups})


def check_words(words: Sequence[str]) -> None:
    """Checks for mistakes that Hydra does not explain.

    Raises:
        ConfigError: if a group is removed or has no name, a value needs quotes, or there is no working
            directory.
    """
    check_place()
    for word in words:
        if "=" not in word and word.lstrip("~+") not in PARTS:
            continue
        try:
            override = OverridesParser.create().parse_override(word)
        except HydraException as error:
            if not re.match(r"[~+]*[\w.@/]+=", word):  # Hydra itself will say so
                continue
            raise ConfigError(
                f"{word}: {str(error).splitlines()[0]}. A value with [ ] {{ }} , = or : needs quotes of its "
                f"own; if it is one name, write {mended(word)}"
            ) from error
        if override.key_or_group not in PARTS:
            continue
        value = None if override.is_delete() else override.value()
        if value is None or value == "" or isinstance(value, (bool, int, float, list, dict)):
            raise _names_nothing(override.key_or_group, value)


def _names_nothing(group: str, value: Any) -> ConfigError:
    choices = ", ".join(files.names(group))
    return ConfigError(f"{group}={shown(value)} is no name of a file; choose one of {choices}")


@cache
def _known_keys() -> list[str]:
    keys = set(flat(files.load(CONF / "config.yaml")))
    for file in CONF.glob("*/*.yaml"):
        keys.add(group := file.parent.name)
        if group != "experiment":
            keys |= {f"{group}.{key}" for key in flat(files.load(file))}
    return sorted(key for key in keys if not re.search(r"(^|\.)_target_$", key))


def _nearest(wrong: str, keys: Sequence[str]) -> str | None:
    """The likely key: one with a similar last word, preferably in the same group; else a similar one."""
    group, last = wrong.split(".")[0], wrong.rsplit(".", 1)[-1]
    for among in ([key for key in keys if key.split(".")[0] == group], keys):
        ends = {key.rsplit(".", 1)[-1]: key for key in reversed(among)}
        if near := difflib.get_close_matches(last, ends, n=1, cutoff=0.7):
            return ends[near[0]]
    return next(iter(difflib.get_close_matches(wrong, keys, n=1)), None)


def explained(error: BaseException) -> str | None:
    """The error in plain words; None if only a programmer can fix it."""
    if isinstance(error, SoupkitchenError):
        return str(error)
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return conf.explain(_messages(error))
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        cannot = "be written" if error.errno in NO_ROOM else "be used"
        return f"{error.filename or 'a file'} cannot {cannot} ({error.strerror}). {_REMEDIES[error.errno]}"
    return None


def _messages(error: BaseException | None) -> str:
    messages: list[str] = []
    while error is not None:
        if str(error) and str(error) not in messages:
            messages.append(str(error))
        error = error.__cause__
    return "\n".join(messages)
