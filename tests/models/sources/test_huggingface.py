"""The hub without a network: what the cache answers, what is asked, and what each failure says."""

import hashlib
import json
import sys
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from jaxinterp.base.errors import UserError
from jaxinterp.models.sources import huggingface as hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"config.json": b"{}", "model.safetensors": b"weights", "tokenizer.json": b"{} "}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache; asking the hub is a failure unless a test says otherwise."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    answer(monkeypatch, lambda *_: pytest.fail("the hub was asked"))
    return tmp_path


def answer(monkeypatch, model_info, snapshot=None):
    monkeypatch.setattr(
        huggingface_hub, "HfApi", lambda: SimpleNamespace(model_info=lambda repo, **given: model_info(repo, given))
    )
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", snapshot or (lambda *_, **__: pytest.fail("a download began"))
    )


def put(cache, files=FILES, *, branch=None):
    """A snapshot as the hub's client lays it out: links to blobs that have their hash for a name."""
    repo = cache / "models--org--name"
    snapshot = repo / "snapshots" / COMMIT
    (repo / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for name, data in files.items():
        digest = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        blob = repo / "blobs" / (hashlib.sha256(data).hexdigest() if name.endswith(".safetensors") else digest)
        blob.write_bytes(data)
        (snapshot / name).symlink_to(blob)
    if branch:
        (repo / "refs").mkdir()
        (repo / "refs" / branch).write_text(COMMIT)
    return snapshot


def refusal(kind, status):
    return kind("no", response=SimpleNamespace(status_code=status, headers={}, request=None))


def raising(error):
    def fail(*_, **__):
        raise error

    return fail


def test_pinned_commit_in_the_cache_needs_no_network(cache):
    snapshot = put(cache)
    assert hub.hub_folder("org/name", COMMIT) == snapshot
    assert hub.commit_of(snapshot) == COMMIT


@pytest.mark.parametrize("absent", ["config.json", "model.safetensors", "tokenizer.json"])
def test_half_a_snapshot_is_not_taken(cache, absent):
    put(cache, {name: data for name, data in FILES.items() if name != absent})
    assert hub.cached_folder("org/name", COMMIT) is None


def test_sharded_snapshot_needs_every_shard_beside_its_index(cache, tmp_path_factory):
    shards = ["model-1.safetensors", "model-2.safetensors"]
    index = json.dumps({"weight_map": dict(zip("ab", shards, strict=True))}).encode()
    files = {"config.json": b"{}", "vocab.txt": b"a", hub.INDEX: index, shards[0]: b"1", shards[1]: b"22"}
    snapshot = put(cache, files)
    assert hub.cached_folder("org/name", COMMIT) == snapshot
    (snapshot / shards[1]).unlink()
    assert hub.cached_folder("org/name", COMMIT) is None
    outside = tmp_path_factory.mktemp("outside") / "x.safetensors"
    outside.write_bytes(b"")
    for text in (json.dumps({"weight_map": {"a": str(outside)}}), "{", "[]", '{"weight_map": []}'):
        (snapshot / hub.INDEX).unlink()
        (snapshot / hub.INDEX).write_text(text)
        assert hub.cached_folder("org/name", COMMIT) is None, text


def test_download_asks_for_the_commit_and_no_pickles(cache, monkeypatch, capsys):
    asked = []
    names = [*FILES, "pytorch_model.bin", "onnx/model.safetensors", "extra.safetensors", "modeling.py", "README.md"]
    info = SimpleNamespace(sha=COMMIT, siblings=[SimpleNamespace(rfilename=name) for name in names])

    def snapshot(repo, **given):
        asked.append((repo, given))
        return str(cache)

    def model_info(repo, given):
        asked.append((repo, given))
        return info

    answer(monkeypatch, model_info, snapshot)
    assert hub.hub_folder("org/name") == cache
    assert asked == [
        ("org/name", {"revision": "main", "timeout": hub.SECONDS_FOR_THE_FIRST_ANSWER}),
        ("org/name", {"revision": COMMIT, "allow_patterns": sorted(FILES)}),
    ]
    told = capsys.readouterr()
    assert f"revision not pinned; 'main' is now commit {COMMIT}" in told.err and not told.out
    hub.hub_folder("org/name", COMMIT)
    assert "not pinned" not in capsys.readouterr().err


def test_shards_are_taken_with_their_index():
    names = ["config.json", "a.safetensors", "b.safetensors", hub.INDEX, "merges.txt", "pytorch_model.bin"]
    others = ["onnx/c.safetensors", "pytorch_model.bin.index.json"]
    assert hub.wanted_files("org/name", names + others) == sorted(set(names) - {"pytorch_model.bin"})


def test_repository_of_pickles_is_refused_before_a_download():
    with pytest.raises(UserError, match=r"org/name has no safetensors \(it has pytorch_model.bin\)"):
        hub.wanted_files("org/name", ["config.json", "pytorch_model.bin"])
    with pytest.raises(UserError, match=r"has no config\.json"):
        hub.wanted_files("org/name", ["model.safetensors"])


def test_an_adapter_is_refused_before_a_download():
    with pytest.raises(
        UserError, match=r"org/name has an adapter \(adapter_config\.json\) to another model, which is not"
    ):
        hub.wanted_files("org/name", [*FILES, "adapter_config.json", "adapter_model.safetensors"])


def test_a_sentencepiece_vocabulary_is_a_tokenizer(cache):
    files = {"config.json": b"{}", "model.safetensors": b"weights", "tokenizer.model": b"pieces"}
    assert hub.wanted_files("org/name", files) == sorted(files)
    snapshot = put(cache, files)
    assert hub.cached_folder("org/name", COMMIT) == snapshot


def test_without_network_a_branch_is_what_the_cache_saw_and_this_is_said(cache, monkeypatch, capsys):
    snapshot = put(cache, branch="main")
    answer(monkeypatch, raising(RuntimeError("ConnectError")))
    assert hub.hub_folder("org/name") == snapshot
    told = capsys.readouterr()
    assert f"the hub cannot be asked; taking 'main' as the cache has it, commit {COMMIT}" in told.err and not told.out
    # A hub that answers with a refusal is no reason to take what the cache has.
    answer(monkeypatch, raising(refusal(errors.RepositoryNotFoundError, 404)))
    with pytest.raises(UserError, match="no repository org/name"):
        hub.hub_folder("org/name")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("Name or service\nnot known"), r"hub did not answer \(RuntimeError: Name or service not known\)"),
        (refusal(errors.HfHubHTTPError, 503), "hub did not answer"),
        (refusal(errors.HfHubHTTPError, 403), "hub refused org/name"),
        (refusal(errors.GatedRepoError, 403), "org/name is gated: accept its licence"),
        (refusal(errors.RepositoryNotFoundError, 401), "no repository org/name that you may read"),
        (refusal(errors.RevisionNotFoundError, 404), "has no revision 'v1'"),
        (errors.OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE is set"),
        (OSError(28, "No space left on device"), "No space left on device; HF_HOME"),
        (ConnectionRefusedError(111, "Connection refused"), "hub did not answer"),
    ],
)
def test_every_failure_is_one_line_at_once(cache, monkeypatch, error, message):
    answer(monkeypatch, raising(error))
    with pytest.raises(UserError, match=message) as told:
        hub.hub_folder("org/name", "v1")
    assert "\n" not in str(told.value)


def test_failure_in_the_middle_of_a_download_is_one_line(cache, monkeypatch):
    info = SimpleNamespace(sha=COMMIT, siblings=[SimpleNamespace(rfilename=name) for name in FILES])
    answer(monkeypatch, lambda *_: info, raising(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="cannot write org/name to the hub's cache: No space left"):
        hub.hub_folder("org/name", COMMIT)


def test_offline_mode_is_honoured_without_a_mock(cache, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set and the cache does not have all of org/name"):
        hub.hub_folder("org/name", COMMIT)


@pytest.mark.parametrize("repo", ["gpt2", "a/b/c", "../x", "a/..", "org/na me", ""])
def test_names_that_are_no_repository(cache, repo):
    with pytest.raises(UserError, match="organisation/name"):
        hub.hub_folder(repo)


def test_missing_library_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="pip install huggingface_hub"):
        hub.hub_folder("org/name")


def test_hashes_of_a_snapshot_are_recomputed(cache):
    snapshot = put(cache)
    assert hub.damaged_files(snapshot) == ([], sorted(FILES), [])
    (snapshot / "model.safetensors").resolve().write_bytes(b"weighty")
    (snapshot / "config.json").resolve().write_bytes(b"[]")
    (snapshot / "tokenizer.json").resolve().unlink()
    (snapshot / "copied.json").write_bytes(b"")
    assert hub.damaged_files(snapshot) == (sorted(FILES), [], ["copied.json"])
