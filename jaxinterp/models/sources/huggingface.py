"""Folders of the Hugging Face hub: only weights without pickle, from the cache where it has them, never a long wait.

What is to be known of a folder is printed on stderr, since stdout may be JSON for programs.
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from jaxinterp.base.digests import file_digest
from jaxinterp.base.errors import UserError
from jaxinterp.models.sources.catalogue import is_commit

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "chat_template.jinja",
)
ADAPTER = "adapter_config.json"
INDEX = "model.safetensors.index.json"
SECONDS_FOR_THE_FIRST_ANSWER = 5.0


def hub_folder(repo: str, revision: str | None = None) -> Path:
    """The local folder of a model of the hub, downloaded if the cache does not have all of it.

    A commit that the cache has whole needs no network. Else one request asks the hub, and no answer is an error at
    once. Without network, or with HF_HUB_OFFLINE, a branch or tag means what the cache last saw it to be, and this is
    printed.

    Args:
      repo: `organisation/name`.
      revision: commit, branch or tag. None means "main"; the commit that this is today is printed, see `commit_of`.

    Returns:
      Folder with config.json, safetensors and tokenizer files.

    Raises:
      UserError: if the repository, the revision or the network is missing, access is refused, or there are no
        safetensors.
    """
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", repo):
        raise UserError(f"{repo!r} is not the name of a hub repository; give organisation/name")
    hub, wanted = _huggingface_hub(), revision or "main"
    cached = cached_folder(repo, wanted)
    if cached is not None and is_commit(wanted):
        return cached
    try:
        info = hub.HfApi().model_info(repo, revision=wanted, timeout=SECONDS_FOR_THE_FIRST_ANSWER)
    except Exception as error:  # the network errors of the hub's clients have no common base across versions
        if cached is None or not _no_answer(hub, error):
            raise _explained(hub, error, repo, wanted) from None
        words = f"{repo}: the hub cannot be asked; taking {wanted!r} as the cache has it, commit {cached.name}"
        print(words, file=sys.stderr)
        return cached
    if revision is None or not is_commit(wanted):
        words = f"{repo}: revision not pinned; {wanted!r} is now commit {info.sha}; to pin it: {repo}@{info.sha}"
        print(words, file=sys.stderr)
    files = wanted_files(repo, [file.rfilename for file in info.siblings])
    try:
        return Path(hub.snapshot_download(repo, revision=info.sha, allow_patterns=files))
    except Exception as error:  # as above
        raise _explained(hub, error, repo, wanted) from None


def cached_folder(repo: str, revision: str) -> Path | None:
    """The snapshot in the hub's cache; None where the cache has not all the files that a model needs."""
    config = _huggingface_hub().try_to_load_from_cache(repo, "config.json", revision=revision)
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    try:
        return folder if _is_whole(folder) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # an index that is damaged: download it again
        return None


def commit_of(folder: Path) -> str:
    """The commit of a folder that `hub_folder` returned: the name of its folder in the cache."""
    return folder.name


def wanted_files(repo: str, names: Iterable[str]) -> list[str]:
    """The files to take: config, tokenizer and safetensors of the top folder. Nothing that could be a pickle.

    Raises:
      UserError: if the config or all safetensors are missing, or there is an adapter.
    """
    top = {name for name in names if "/" not in name}
    if ADAPTER in top:
        raise UserError(
            f"{repo} has an adapter ({ADAPTER}) to another model, which is not applied; merge it into that model with "
            "peft's merge_and_unload and save_pretrained, and give the merged folder"
        )
    if "model.safetensors" in top:
        weights = {"model.safetensors"}
    else:
        weights = {name for name in top if name.endswith(".safetensors")}
    if not weights or "config.json" not in top:
        lacking = "config.json" if weights else "safetensors"
        others = sorted(name for name in top if name.endswith((".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack")))
        seen = f" (it has {', '.join(others)})" if others else ""
        raise UserError(f"{repo} has no {lacking}{seen}; only safetensors with a config.json are loaded from the hub")
    index = {INDEX} & top if "model.safetensors" not in top else set()
    return sorted({"config.json", *weights, *index, *top.intersection(TOKENIZER_FILES)})


def damaged_files(folder: Path) -> tuple[list[str], list[str], list[str]]:
    """Recomputes the hashes of a snapshot: the cache names each file's contents after its SHA-256 or git hash.

    Returns:
      Names of the files that are damaged, that are intact, and whose hash is not known (a cache without links).
    """
    damaged, intact, unknown = [], [], []
    for path in sorted(path for path in folder.iterdir() if not path.is_dir()):
        name = path.resolve().name
        if not path.exists():
            damaged.append(path.name)
        elif not path.is_symlink() or not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", name):
            unknown.append(path.name)
        else:
            (intact if _content_hash(path, git=len(name) == 40) == name else damaged).append(path.name)
    return damaged, intact, unknown


def _content_hash(path: Path, *, git: bool) -> str:
    if not git:
        return file_digest(path)
    with path.open("rb") as file:
        header = hashlib.sha1(b"blob %d\0" % path.stat().st_size)
        return hashlib.file_digest(file, lambda: header).hexdigest()


def _is_whole(folder: Path) -> bool:
    """Whether weights and a tokenizer are there, after downloads that were interrupted, or that were of a part only."""
    if not any((folder / name).exists() for name in ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model")):
        return False
    if (folder / "model.safetensors").exists():
        return True
    if not (folder / INDEX).exists():
        return False
    shards = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    return all(Path(shard).name == shard and (folder / shard).exists() for shard in shards)


def _huggingface_hub() -> ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError:
        raise UserError("models of the hub need huggingface_hub; run `python -m pip install huggingface_hub`") from None
    return huggingface_hub


def _no_answer(hub: ModuleType, error: Exception) -> bool:
    """Whether the hub did not answer, or is not to be asked: anything but an answer with an error status."""
    return not isinstance(error, hub.errors.HfHubHTTPError) or error.response.status_code >= 500


def _explained(hub: ModuleType, error: Exception, repo: str, revision: str) -> UserError:
    errors = hub.errors
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    words = " ".join(f"{type(error).__name__}: {error}".split())
    if isinstance(error, errors.GatedRepoError):
        return UserError(
            f"{repo} is gated: accept its licence at https://huggingface.co/{repo} and log in with `hf auth login`"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(f"{repo} has no revision {revision!r}; give a commit, branch or tag that it has")
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404):
        return UserError(f"the hub has no repository {repo} that you may read; check the name, or `hf auth login`")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return UserError(
            f"HF_HUB_OFFLINE is set and the cache does not have all of {repo} at {revision}; unset it once"
        )
    if status is not None and status < 500:
        return UserError(f"the hub refused {repo} ({words}); check the network and the account of `hf auth login`")
    if isinstance(error, OSError) and error.errno is not None and status is None and not _is_connection(error):
        return UserError(f"cannot write {repo} to the hub's cache: {error.strerror}; HF_HOME names another folder")
    return UserError(
        f"{repo} at {revision} is not in the cache and the hub did not answer ({words}); "
        "check the network, or take a model from `jaxinterp models list` that needs no hub"
    )


def _is_connection(error: OSError) -> bool:
    return isinstance(error, ConnectionError | TimeoutError)
