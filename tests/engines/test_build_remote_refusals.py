"""Sources on a hub and in an object store that are refused, each with its reason, and tokens that stay secret."""

from __future__ import annotations

import json

import pytest

from ax_engines.build.__main__ import run
from ax_engines.build.places import Places
from ax_engines.contract import Source
from tests.engines.model_files import build_task, resolve_task
from tests.engines.remote_sources import SHARD, fetch, hub_source, planned, s3_source
from tests.engines.remote_stores import COMMIT, HubHandler, Remote, serving

TOKEN = "hf_standin0token"


def with_token(places: Places, source: Source, value: str = TOKEN) -> Source:
    (places.secret / "token").write_text(value + "\n")
    assert source.hugging_face is not None
    return Source(hugging_face=source.hugging_face.model_copy(update={"token_secret": "hub-token"}))


def refusal(source: Source, places: Places) -> tuple[str, str]:
    result = run("resolve", resolve_task(source), places)
    assert not result.ok
    return result.reason, result.message


def test_a_gated_repository_needs_the_token_of_its_account(places: Places, hub: Remote) -> None:
    hub.gated, hub.token = True, TOKEN
    reason, message = refusal(hub_source(hub), places)
    assert reason == "GatedRepository"
    assert "no tokenSecret is set" in message
    reason, message = refusal(with_token(places, hub_source(hub), "hf_wrong"), places)
    assert reason == "GatedRepository"
    assert "the token does not give access" in message
    spec = planned(with_token(places, hub_source(hub)), places)
    assert spec.revision == COMMIT


def test_a_private_repository_needs_a_token(places: Places, hub: Remote) -> None:
    hub.token = TOKEN
    reason, message = refusal(hub_source(hub), places)
    assert (reason, "private and no tokenSecret is set" in message) == ("RepositoryNotFound", True)
    assert planned(with_token(places, hub_source(hub)), places).revision == COMMIT


def test_the_token_stays_out_of_messages_and_of_other_hosts(
    places: Places, hub: Remote, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.token = "another"
    source = with_token(places, hub_source(hub))
    result = run("resolve", resolve_task(source), places)
    printed = capsys.readouterr()
    assert TOKEN not in result.to_json() + printed.out + printed.err
    hub.token = TOKEN
    with serving(HubHandler, Remote(hub.files)) as elsewhere:
        hub.redirect = elsewhere.url
        spec = planned(source, places)
        fetch(source, spec, places)
        assert elsewhere.requests
        assert not [h for _, h in elsewhere.requests if "authorization" in h]


def test_a_wrong_revision_or_repository_is_named(places: Places, hub: Remote) -> None:
    assert refusal(hub_source(hub, revision="v9"), places)[0] == "RevisionNotFound"
    assert "v9" in refusal(hub_source(hub, revision="v9"), places)[1]
    assert refusal(hub_source(hub, repo="skt/none"), places)[0] == "RepositoryNotFound"


def test_a_secret_without_its_key_is_named(places: Places, hub: Remote, s3: Remote) -> None:
    source = with_token(places, hub_source(hub), "")
    assert refusal(source, places) == (
        "SecretInvalid",
        "Secret hub-token has no key token or HF_TOKEN, or it is empty: add it",
    )
    assert refusal(with_token(places, hub_source(hub), "a\nb"), places)[0] == "SecretInvalid"
    reason, message = refusal(s3_source(s3, credentials_secret="s3-keys"), places)
    assert (reason, "AWS_ACCESS_KEY_ID" in message) == ("SecretInvalid", True)


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>login here</html>",
        b"[]",
        b'{"sha": 3}',
        json.dumps({"sha": COMMIT}).encode(),
        json.dumps({"sha": COMMIT, "siblings": [{"rfilename": "config.json"}]}).encode(),
        json.dumps({"sha": COMMIT, "siblings": [{"rfilename": "config.json", "size": -1}]}).encode(),
        json.dumps({"sha": COMMIT, "siblings": ["config.json"]}).encode(),
    ],
)
def test_an_endpoint_that_is_no_hub_is_told_so(places: Places, hub: Remote, answer: bytes) -> None:
    hub.answer = answer
    reason, message = refusal(hub_source(hub), places)
    assert (reason, hub.url in message) == ("SourceUnsupported", True)


@pytest.mark.parametrize("name", ["../../etc/cron.d/x.json", "/etc/x.json", "a\\..\\b.json", ".\u202e/../x"])
def test_names_that_leave_the_folder_are_refused(places: Places, hub: Remote, s3: Remote, name: str) -> None:
    hub.files[name] = b"{}"
    assert refusal(hub_source(hub), places)[0] == "UnsafeFiles"


def test_pickles_of_a_hub_are_never_downloaded(places: Places, hub: Remote) -> None:
    hub.files = {"config.json": b"{}", "pytorch_model.bin": b"\x80"}
    assert refusal(hub_source(hub), places)[0] == "UnsafeFiles"
    assert not [path for path, _ in hub.requests if path.endswith(".bin")]


def test_an_s3_store_refuses_in_its_own_words(places: Places, s3: Remote) -> None:
    assert refusal(s3_source(s3, uri="s3://models/none"), places)[0] == "SourceMissing"
    assert refusal(s3_source(s3, uri="s3://other-bucket/x"), places)[0] == "SourceMissing"
    assert refusal(s3_source(s3, uri="s3://models/ax/none.gguf"), places)[0] == "SourceMissing"
    s3.token = "AKIAREAL"
    assert refusal(s3_source(s3), places)[0] == "AccessDenied"
    (places.secret / "AWS_ACCESS_KEY_ID").write_text("AKIAREAL")
    (places.secret / "AWS_SECRET_ACCESS_KEY").write_text("very-s3cret")
    source = s3_source(s3, credentials_secret="s3-keys")
    assert planned(source, places).revision.startswith("sha256:")
    signed = s3.requests[-1][1]["authorization"]
    assert "AKIAREAL" in signed
    assert "very-s3cret" not in signed


def test_a_truncated_shard_on_a_remote_is_seen_before_the_build(places: Places, s3: Remote) -> None:
    s3.files[f"ax/tiny/{SHARD}"] = s3.files[f"ax/tiny/{SHARD}"][:-5]
    assert refusal(s3_source(s3), places)[0] == "Truncated"


def test_a_truncated_shard_of_a_hub_is_never_published(places: Places, hub: Remote) -> None:
    hub.files[SHARD] = hub.files[SHARD][:-5]
    spec = planned(hub_source(hub), places)
    fetch(hub_source(hub), spec, places)
    result = run("publish", build_task(spec), places)
    assert (result.ok, result.reason) == (False, "Truncated")
    assert not places.final(spec.name).exists()
