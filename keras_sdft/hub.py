"""Files of the Hugging Face Hub: `hf://owner/name@revision` to a local path.

Downloads what is needed alone, and tells what to do where that fails. Must
not know what is in a file.
"""

import functools
import logging
import os
import re
from pathlib import Path
from typing import Any

from keras_sdft.hub_files import PREFIX
from keras_sdft.hub_files import Address
from keras_sdft.hub_files import choose
from keras_sdft.hub_files import data_patterns
from keras_sdft.hub_files import parse

logger = logging.getLogger(__name__)

_COMMIT = re.compile(r"[0-9a-f]{40}")
# What is downloaded by hand, for `hf download`.
_BY_HAND = {
    "model": (
        *("*.json", "*.txt", "*/model.safetensors"),
        "*/diffusion_pytorch_model.safetensors",
    ),
    "vae": ("*config.json", "*diffusion_pytorch_model.safetensors"),
    "lora": ("*.safetensors",),
    "embedding": ("*.safetensors",),
    "data": (),
}


def is_address(path: Any) -> bool:
    """Returns whether a path is an address of the Hub."""
    return isinstance(path, str) and path.startswith(PREFIX)


def local(path: Any, kind: str = "model", variant: str | None = None) -> Any:
    """Returns the path on this machine of what an address stands for.

    What is not in the Hub's cache yet is downloaded. With `HF_HUB_OFFLINE=1`
    the cache alone is read.

    Args:
        path: An address, or anything else, which is returned as it is.
        kind: String, what it is for, see `Address`.
        variant: String, which weights of a pipeline, see `Address`.

    Returns:
        A string, the path of a file or folder.

    Raises:
        FileNotFoundError: If the Hub cannot be reached, and its cache does
            not have it.
        PermissionError: If access has to be asked for first.
        ValueError: If the address is malformed, or the Hub has no such
            repository, revision, variant or file.
    """
    return _fetch(path, kind, variant) if is_address(path) else path


def pinned(path: Any, kind: str = "model") -> Any:
    """Returns an address with the commit that it stands for now.

    Args:
        path: An address, or anything else, which is returned as it is.
        kind: As for `local`.
    """
    if not is_address(path):
        return path
    address = parse(path, kind)
    if _COMMIT.fullmatch(address.revision or ""):
        return path
    return str(address.at(_list(address)[0]))


def pinning(kind: str) -> dict[str, Any]:
    """Returns the metadata of a dataclass' field that takes an address.

    The command replaces its value by what `pinned` returns.

    Args:
        kind: As for `local`.
    """
    return {"pinned": functools.partial(pinned, kind=kind)}


@functools.cache
def _fetch(text: str, kind: str, variant: str | None) -> str:
    address = parse(text, kind, variant)
    commit, names, failure = _list(address)
    try:
        wanted = choose(names, address)
    except ValueError as error:
        raise (_not_here(address, error) if failure else error) from failure
    patterns = [re.sub(r"([*?[])", r"[\1]", name) for name in wanted]
    if failure and address.kind == "data" and wanted != [address.path]:
        # What is here may not be all: the library knows what there was.
        patterns = data_patterns(address)
    try:
        folder = _library().snapshot_download(
            address.repo,
            repo_type=address.repo_type,
            revision=commit,
            allow_patterns=patterns,
            local_files_only=failure is not None,
        )
    except Exception as error:
        raise _told(error, address) from error
    is_file = address.kind != "data" or wanted == [address.path]
    inside = wanted[0] if is_file and len(wanted) == 1 else address.path
    return os.path.join(folder, *inside.split("/")) if inside else folder


def upload(files: dict[str, Path], address: str, private: bool) -> str:
    """Uploads files in one commit, to a repository that may be new.

    Args:
        files: Dict of paths on this machine, by the path in the repository.
        address: String, where to.
        private: Boolean, whether only the owner may see it.

    Returns:
        The address of the commit.

    Raises:
        ConnectionError: If the Hub cannot be reached.
        PermissionError: If it does not let this user write there.
        ValueError: If the address is malformed, or the repository is public
            and must be private.
    """
    to, library = parse(address, "model"), _library()
    prefix = f"{to.path}/" if to.path else ""
    try:
        client = library.HfApi()
        client.create_repo(to.repo, private=private, exist_ok=True)
        if private and not client.repo_info(to.repo).private:
            raise ValueError(
                f"{to.repo!r} on the Hub is public already, so nothing was "
                "uploaded. Name another repository, or leave out `private`."
            )
        commit = client.create_commit(
            to.repo,
            [
                library.CommitOperationAdd(prefix + name, str(path))
                for name, path in files.items()
            ],
            commit_message="Upload weights of keras_sdft",
            revision=to.revision,
        )
    except Exception as error:
        raise _not_uploaded(error, to) from error
    return str(to.at(commit.oid))


def _not_uploaded(error: Exception, to: Address) -> Exception:
    errors = _library().errors
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.LocalTokenNotFoundError) or status == 401:
        return PermissionError(
            "The Hub does not know who you are. Log in with `hf auth login`, "
            "and a token that may write; then push again."
        )
    if status in (403, 404):
        return PermissionError(
            f"The Hub does not let you write to {to}: {error}. Check that "
            f"{to.repo.split('/')[0]!r} is you or your organisation, and log "
            "in with a token that may write: `hf auth login`."
        )
    if not _is_unreachable(error):
        return (
            error
            if status is None
            else ValueError(f"The Hub refused the upload to {to}: {error}")
        )
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return ConnectionError(
        f"The upload to {to} did not come to its end ({reason[0][:200]}). "
        "Nothing of it is to be seen there; push again."
    )


def forget() -> None:
    """Asks the Hub again for what was asked for in this process."""
    _fetch.cache_clear()
    _list.cache_clear()


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError as error:
        raise ValueError(
            f"`{PREFIX}` needs the package huggingface_hub, which is not "
            'installed: `pip install ".[hub]"` in a checkout of keras_sdft, '
            "or `pip install huggingface_hub`. Or give a path on this machine."
        ) from error
    return huggingface_hub


@functools.cache
def _list(address: Address) -> tuple[str, list[str], Exception | None]:
    """Returns the commit and the files of a repository, or of its cache.

    And, of the cache, why the Hub could not be asked. Once in a process, in
    which an address so stands for one commit.
    """
    library = _library()
    failure: Exception = library.errors.OfflineModeIsEnabled(
        "HF_HUB_OFFLINE is set"
    )
    if not library.constants.HF_HUB_OFFLINE:
        try:
            found = library.HfApi().repo_info(
                address.repo,
                repo_type=address.repo_type,
                revision=address.revision,
            )
            names = [each.rfilename for each in found.siblings]
            return found.sha, names, None
        except Exception as error:
            if not _is_unreachable(error):
                raise _told(error, address) from error
            failure = error
    cached = _cached(address)
    if cached is None:
        raise _told(failure, address) from failure
    if not library.constants.HF_HUB_OFFLINE:
        logger.warning(
            "The Hub could not be reached (%s). The copy of %s in its cache "
            "is used, of commit %s.",
            type(failure).__name__,
            address,
            cached[0],
        )
    return *cached, failure


def _cached(address: Address) -> tuple[str, list[str]] | None:
    """Returns the commit and the files that the Hub's cache has."""
    library = _library()
    folder = Path(library.constants.HF_HUB_CACHE) / "--".join(
        [f"{address.repo_type}s", *address.repo.split("/")]
    )
    commit = address.revision or "main"
    reference = folder / "refs" / commit
    if reference.is_file():
        commit = reference.read_text(encoding="utf-8").strip()
    elif address.revision is None:
        # Fetched by its commit, which leaves no name.
        commit = _only_commit(folder / "snapshots", address)
    root = folder / "snapshots" / commit
    if not commit or not root.is_dir():
        return None
    # Those of which the content is there: the cache's files are links.
    files = [path for path in root.rglob("*") if path.is_file()]
    return commit, [path.relative_to(root).as_posix() for path in files]


def _only_commit(snapshots: Path, address: Address) -> str:
    commits = sorted(p.name for p in snapshots.glob("*") if p.is_dir())
    if len(commits) > 1:
        raise ValueError(
            f"The Hub could not be asked which commit of {address} is the "
            f"newest, and its cache has {len(commits)}: name one of them, as "
            f"in {address.at(commits[0])}. They are {', '.join(commits)}."
        )
    return commits[0] if commits else ""


def _is_unreachable(error: Exception) -> bool:
    """Whether the Hub gave no answer, and not one that refuses."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return (
        status >= 500
        if status is not None
        else not isinstance(error, ValueError)
    )


def _told(error: Exception, address: Address) -> Exception:
    """Returns an error of the Hub's library as what to do about it."""
    errors = _library().errors
    repo, revision = address.repo, address.revision
    if isinstance(error, errors.GatedRepoError):
        return PermissionError(
            f"The {address.what} is gated: its owner asks for agreement to "
            f"conditions. Open the page of {repo} on the Hub, agree to them, "
            "and log in on this machine with `hf auth login`."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        kind = address.repo_type.replace("dataset", "data set")
        return ValueError(
            f"The Hub has no {kind} {repo!r} that can be seen from here. "
            "Check owner and name; if it is private, log in with `hf auth "
            "login`."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return ValueError(
            f"{repo!r} on the Hub has no revision {revision!r}. Expected a "
            "branch, a tag or a whole commit hash; without one, the newest "
            "is taken."
        )
    if not _is_unreachable(error):
        return ValueError(f"The Hub refused {address}: {error}")
    if isinstance(error, OSError) and error.errno:
        # A full disk, for example.
        return error
    return _not_here(address, error)


def _not_here(address: Address, error: Exception) -> FileNotFoundError:
    reason = str(error).strip().splitlines() or [type(error).__name__]
    folder = address.repo.split("/")[-1]
    return FileNotFoundError(
        f"The {address.what} is not whole in this machine's cache of the Hub, "
        f"and the Hub could not be asked ({reason[0][:200]}). On a machine "
        f"with network run `{_command(address, folder)}`, copy the folder "
        f"{folder!r} to this one, and give its path in the place of {address}."
    )


def _command(address: Address, folder: str) -> str:
    """Returns the command that downloads by hand what is needed."""
    words = ["hf download", address.repo]
    if address.repo_type == "dataset":
        words.append("--repo-type dataset")
    if address.revision:
        words.append(f"--revision {address.revision}")
    if address.path:
        words.append(f"--include '{address.path}*'")
    else:
        dotted = f".{address.variant}" if address.variant else ""
        patterns = [
            pattern.replace("model.safetensors", f"model{dotted}.safetensors")
            for pattern in _BY_HAND[address.kind]
        ]
        words += [f"--include '{pattern}'" for pattern in patterns]
    return " ".join([*words, f"--local-dir {folder}"])
