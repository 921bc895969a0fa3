"""Makes a soup again by its recipe, without scoring anything.

    python -m soupkitchen.rebuild results/NAME/recipe.yaml FOLDER
    python -m soupkitchen.rebuild recipe.yaml FOLDER pool.path='moved/*' pool.base=llama runtime.device=cuda

The runs are held against the recipe's fingerprints. A YAML of mergekit's is taken as well. A recipe is
data: other packages' names in it are imported only with --trust NAME, and code that comes with
a model is run only with trust_remote_code=true, whatever the recipe says.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from soupkitchen.cli.startup import small_command
from soupkitchen.console import check_place, printable, say, warn_on_stderr
from soupkitchen.errors import ConfigError

_OPTIONS = ("pool.path", "pool.base", "runtime.device", "trust_remote_code")


@small_command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Rebuilds from the command line; exits with 1 and a message if that fails."""
    parser = argparse.ArgumentParser(
        prog="python -m soupkitchen.rebuild",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", type=Path, help="recipe.yaml of a run's folder, or a YAML of mergekit's")
    parser.add_argument("folder", type=Path, help="where the soup goes; it must not be there yet")
    parser.add_argument("options", nargs="*", help=f"{', '.join(f'{option}=…' for option in _OPTIONS)}")
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="NAME",
        help="import this, which the recipe names and "
        "soupkitchen does not have, and run its code; once for each such name",
    )
    given = parser.parse_intermixed_args(arguments)
    warn_on_stderr()
    check_place()
    same = _rebuild(given.recipe, given.folder, _options(given.options), given.trust)
    print(printable(str(given.folder)))
    if not same:
        say("its tensors differ in bits from those that were saved at first: on another kind of device?")


def _rebuild(file: Path, folder: Path, options: dict[str, str], trust: Sequence[str]) -> bool:
    from soupkitchen.evaluation import Runtime
    from soupkitchen.output.mergekit import read_recipe
    from soupkitchen.output.recipe_file import RecipeFile, rebuild
    from soupkitchen.store.files import read_yaml

    is_mergekits = "merge_method" in read_yaml(file, dict[str, Any])
    recipe = read_recipe(file) if is_mergekits else RecipeFile.read(file, trust)
    trusted = options.get("trust_remote_code", "false")
    if trusted not in ("true", "false"):
        raise ConfigError(f"trust_remote_code={trusted} should be true or false")
    runtime = Runtime(device=options.get("runtime.device", "auto"), trust_remote_code=trusted == "true")
    return rebuild(recipe, folder, options.get("pool.path"), options.get("pool.base"), runtime)


def _options(words: Sequence[str]) -> dict[str, str]:
    options = dict(word.split("=", 1) for word in words if "=" in word)
    wrong = [word for word in words if word.split("=", 1)[0] not in _OPTIONS or "=" not in word]
    if wrong:
        raise ConfigError(f"{wrong[0]}: there are {', '.join(f'{option}=…' for option in _OPTIONS)}")
    return options


if __name__ == "__main__":
    main()
