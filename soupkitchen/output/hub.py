"""Puts a soup on the hub, if the user asks for it."""

from __future__ import annotations

from pathlib import Path

from soupkitchen.errors import ConfigError, MachineError, first_line


def check_hub(name: str) -> None:
    """Checks, before any work, that somebody is logged in who may be allowed to push.

    Raises:
        ConfigError: for a name that is none, if nobody is logged in, or if the hub cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(name)
        HfApi().whoami()
    except HFValidationError as error:
        raise ConfigError(f"output.push_to_hub={name} should be org/name ({first_line(error)})") from error
    except LocalTokenNotFoundError as error:
        raise ConfigError(
            f"output.push_to_hub={name} needs a token of the hub: 'hf auth login', or set HF_TOKEN"
        ) from error
    except Exception as error:  # the libraries below may raise anything
        raise ConfigError(
            f"output.push_to_hub={name}: the hub does not let us in ({first_line(error)}); leave the option "
            "out, and push the folder later"
        ) from error


def push(folder: Path, name: str, private: bool) -> str:
    """Pushes the soup in `folder` to the repository `name`, which is made if it does not exist.

    Files that are there already are not sent again.

    Returns:
        The address of the repository.

    Raises:
        MachineError: if that fails; the same command tries again.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="A soup")
    except Exception as error:  # the libraries below may raise anything
        raise MachineError(
            f"{folder} could not be pushed to {name} ({first_line(error)}). The soup is complete; the same "
            "command tries again, and without output.push_to_hub it ends without"
        ) from error
    return f"{api.endpoint}/{name}"
