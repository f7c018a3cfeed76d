from __future__ import annotations

import shutil

from harness.config import ModelConfig
from harness.models.content import content_identity, model_identity


def folder(path, **files: str):
    path.mkdir(parents=True)
    for name, text in files.items():
        (path / name).write_text(text)
    return path


def test_the_same_files_elsewhere_are_the_same_model(tmp_path):
    one = folder(tmp_path / "a", config="x", weights="y")
    shutil.copytree(one, tmp_path / "b" / "moved")
    assert content_identity(str(one)) == content_identity(str(tmp_path / "b" / "moved"))


def test_a_changed_renamed_or_added_file_is_another_model(tmp_path):
    known = {content_identity(str(folder(tmp_path / "a", config="x", weights="y")))}
    for number, files in enumerate(
        ({"config": "x", "weights": "z"}, {"config": "x", "weight": "y"}, {"config": "x", "weights": "y", "more": ""})
    ):
        known.add(content_identity(str(folder(tmp_path / str(number), **files))))
    assert len(known) == 4


def test_what_moves_from_one_file_to_the_next_is_seen(tmp_path):
    """Names and contents are told apart: a boundary that shifts is a change."""
    assert content_identity(str(folder(tmp_path / "a", p="1", q="2"))) != content_identity(
        str(folder(tmp_path / "b", p="1q2", r=""))
    )
    assert content_identity(str(folder(tmp_path / "c", ab="c"))) != content_identity(
        str(folder(tmp_path / "d", a="bc"))
    )


def test_a_hub_id_counts_with_its_commit(tmp_path, monkeypatch):
    commits = {(None, "model"): "c1", ("v2", "model"): "c2"}
    monkeypatch.setattr("harness.hub.resolve_commit", lambda name, revision, kind, keys: commits[revision, kind])
    assert content_identity("some/model") == "some/model@c1"
    assert content_identity("some/model", "v2") == "some/model@c2"
    assert content_identity(str(folder(tmp_path / "a", x="1")), "v2") == content_identity(str(tmp_path / "a"), "v3")


def test_every_size_of_a_nano_decides_and_its_name_does_not():
    base = ModelConfig(kind="nano")
    changes = [
        {"architecture": "llama"},
        {"layers": 3},
        {"width": 64},
        {"heads": 8},
        {"vocab_size": 512},
        {"context": 9},
    ]
    identities = [model_identity(ModelConfig(kind="nano", **change)) for change in ({}, *changes)]
    assert len({str(identity) for identity in identities}) == 7
    assert model_identity(ModelConfig(kind="nano", name="unused")) == model_identity(base)


def test_an_hf_model_is_its_content(tmp_path):
    path = folder(tmp_path / "a", weights="y")
    identity = model_identity(ModelConfig(kind="hf", name=str(path)))
    assert identity == {"kind": "hf", "content": content_identity(str(path))}
    assert str(tmp_path) not in str(identity)
