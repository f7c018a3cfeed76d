"""``data=hub`` and ``model=hf`` against a hub on the loopback address, through the hub's real clients."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
Client = Callable[[str, dict[str, Any]], dict[str, Any]]


def _module(name: str) -> Any:
    spec = spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


Process = _module("client").Process


def jsonl(start: int, count: int, text: str = "sentence") -> bytes:
    rows = [{"en": f"{text} {i}", "de": f"Satz {i}"} for i in range(start, start + count)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet

    sink = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


@pytest.fixture(scope="module")
def hub() -> Iterator[Any]:
    made = _module("server").Hub()
    plain = made.repository("datasets", "org/plain")
    files = {
        "README.md": b"# A data set\n",
        "train.jsonl": jsonl(0, 60),
        "validation.jsonl": jsonl(100, 5),
        "test.jsonl": jsonl(200, 7),
    }
    plain.commit({**files, "test.jsonl": jsonl(200, 3)}, ref="v1")
    plain.commit(files)
    # Two configurations, declared in the card; splits of other names; a nested column; no README beside it elsewhere.
    card = b"""---
configs:
- config_name: de
  data_files:
  - {split: fit, path: data/de/fit-*.parquet}
  - {split: check, path: data/de/check.parquet}
- config_name: fr
  data_files: data/fr/*.parquet
---
"""
    pairs = [{"translation": {"en": f"sentence {i}", "de": f"Satz {i}"}} for i in range(50)]
    made.repository("datasets", "org/many").commit(
        {
            "README.md": card,
            "data/de/fit-0.parquet": parquet(pairs[:20]),
            "data/de/fit-1.parquet": parquet(pairs[20:40]),
            "data/de/check.parquet": parquet(pairs[40:]),
            "data/fr/a.parquet": parquet(pairs[:3]),
        }
    )
    made.repository("datasets", "org/bare").commit(
        {"train.csv": b"en,de\n" + b"".join(b"w%d,x\n" % i for i in range(9))}
    )
    gated = made.repository("datasets", "org/gated")
    gated.commit(files)
    gated.gated = True
    preferred = [{"en": f"asked {i}", "good": "ja", "bad": "nein"} for i in range(30)]
    made.repository("datasets", "org/pairs").commit({"train.parquet": parquet(preferred)})
    made.repository("datasets", "org/broken").commit({"train.jsonl": b'{"en": "a", "de": "b"}\n{"en": \n'})
    made.repository("datasets", "org/empty").commit({"README.md": b"nothing"})
    yield made
    made.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hub-home")


@pytest.fixture(scope="module")
def client(hub: Any, home: Path) -> Iterator[Client]:
    process = Process(hub.url, home)
    yield process
    process.close()


def test_download_cache_and_commit(hub: Any, client: Client) -> None:
    answer = client("prepare", {"path": "org/plain"})
    repository = hub.repository("datasets", "org/plain")
    assert answer["test"] == [f"sentence {i}" for i in range(200, 207)]
    assert answer["report"]["counts"] == {
        **dict.fromkeys(("preference", "judge", "rl"), 0),
        "sft": 60,
        "validation": 5,
        "test": 7,
    }
    assert answer["report"]["hub"] == {
        "rows": {
            "name": "org/plain",
            "config": None,
            "revision": None,
            "commit": repository.refs["main"],
            "splits": {"train": "train", "validation": "validation", "test": "test"},
        }
    }
    hub.requests.clear()
    assert client("prepare", {"path": "org/plain"})["report"]["content_hash"] == answer["report"]["content_hash"]
    assert not [line for line in hub.requests if line.startswith("GET") and "train.jsonl" in line]


def test_a_revision_is_resolved_to_its_commit(hub: Any, client: Client) -> None:
    commit = hub.repository("datasets", "org/plain").refs["v1"]
    for revision in ("v1", commit):
        answer = client("prepare", {"path": "org/plain", "revision": revision})
        assert answer["report"]["hub"]["rows"]["commit"] == commit
        assert answer["report"]["counts"]["test"] == 3


def test_configurations_splits_and_nested_columns(hub: Any, client: Client) -> None:
    config = {
        "path": "org/many",
        "config": "de",
        "splits": {"train": "fit", "validation": "check[:4]", "test": "check[4:]"},
        "columns": {"source": "translation.en", "response": "translation.de"},
    }
    answer = client("prepare", dict(config))
    assert {split: answer["report"]["counts"][split] for split in ("sft", "validation", "test")} == {
        "sft": 40,
        "validation": 4,
        "test": 6,
    }
    missing = client("prepare", {**config, "config": None})
    assert missing["error"].startswith("data.config is missing; choose one")
    assert "'de', 'fr'" in missing["error"]
    wrong = client("prepare", {**config, "config": "es"})
    assert wrong["error"].startswith("data.config=es is no configuration of org/many; choose one")
    split = client("prepare", {**config, "splits": {"train": "train", "test": "check"}})
    assert split["error"] == "data.splits.train=train is no split of org/many; its splits are fit, check"
    names = client("prepare", {**config, "splits": {}})
    assert names["error"] == (
        "data.path=org/many has no split named train; it has fit, check; name them: data.splits.train=NAME"
    )
    column = client("prepare", {**config, "columns": {"source": "en", "response": "translation.de"}})
    assert column["error"] == (
        "data.columns.source=en is not a column; the columns are: translation, translation.en, translation.de"
    )


def test_files_of_a_repository_by_name(hub: Any, client: Client) -> None:
    files = {"train": "data/de/fit-*.parquet", "validation": "data/de/check.parquet", "test": "data/fr/a.parquet"}
    columns = {"source": "translation.en", "response": "translation.de"}
    answer = client("prepare", {"path": "org/many", "files": files, "columns": columns, "shares": {"sft": 1}})
    assert answer["report"]["rows"] == {"train": 40, "validation": 10, "test": 3}
    assert answer["report"]["overlap"]["exact"] == 3
    outside = client("prepare", {"path": "org/many", "files": {"train": "../../etc/passwd"}})
    assert outside["error"].startswith("data.files.train=../../etc/passwd is no path inside org/many")
    nothing = client("prepare", {"path": "org/many", "files": {"train": "data/es/*.parquet"}})
    assert nothing["error"].startswith("data.path=org/many has no data files that can be read")


def test_streaming_reads_the_same_rows(hub: Any, client: Client) -> None:
    whole = client("prepare", {"path": "org/plain"})
    streamed = client("prepare", {"path": "org/plain", "streaming": True})
    assert streamed["report"]["content_hash"] == whole["report"]["content_hash"]
    first = client("prepare", {"path": "org/plain", "streaming": True, "max_rows": {"train": 11, "test": 2}})
    assert first["report"]["rows"] == {"train": 11, "validation": 5, "test": 2}
    sliced = client("prepare", {"path": "org/plain", "streaming": True, "splits": {"train": "train[:5]"}})
    assert "data.splits.train=train[:5] cannot be sliced" in sliced["error"]


def test_pairs_of_another_repository(hub: Any, client: Client) -> None:
    config = {
        "path": "org/plain",
        "pairs_path": "org/pairs",
        "pairs_columns": {"source": "en", "chosen": "good", "rejected": "bad"},
    }
    report = client("prepare", config)["report"]
    assert sum(report["pair_counts"].values()) == 30
    assert report["hub"]["pairs"]["commit"] == hub.repository("datasets", "org/pairs").refs["main"]


def test_what_is_not_there(hub: Any, client: Client) -> None:
    cases = {
        ("org/none", None): f"data.path=org/none is no repository on {hub.url} that can be read; check the name",
        ("org/plain", "v9"): "data.revision=v9 is no revision of org/plain; give a branch, a tag or a commit",
        ("org/empty", None): "data.path=org/empty has no data files that can be read",
        ("../etc", None): "data.path=../etc is no repository on the hub; give ORGANISATION/NAME",
        ("a/b/c", None): "data.path=a/b/c is no repository on the hub; give ORGANISATION/NAME",
        ("org/broken", None): "data.path=org/broken cannot be read",
    }
    for (path, revision), message in cases.items():
        answer = client("prepare", {"path": path, "revision": revision})
        assert answer["error"].startswith(message), answer
        assert "\n" not in answer["error"]
        assert answer["seconds"] < 3


def test_the_commit_decides_the_fingerprint_whatever_names_it(hub: Any, client: Client) -> None:
    repository = hub.repository("datasets", "org/moving")
    first = repository.commit({"train.jsonl": jsonl(0, 8)})

    def fingerprint(*typed: str) -> str:
        return str(client("fingerprint", {"typed": ["data.path=org/moving", *typed]})["fingerprint"])

    before = fingerprint()
    assert fingerprint(f"data.revision={first}") == fingerprint("data.streaming=true") == before
    assert fingerprint("data.max_rows.train=10") != before
    repository.commit({"train.jsonl": jsonl(0, 9)})
    assert fingerprint() != before
    assert fingerprint(f"data.revision={first}") == before


def test_gated(hub: Any, client: Client, home: Path) -> None:
    without = client("prepare", {"path": "org/gated"})
    assert without["error"].startswith("data.path=org/gated is gated, and no login was sent; accept its terms")
    stranger = Process(hub.url, home, HF_TOKEN="hf_of_a_stranger")
    denied = stranger("prepare", {"path": "org/gated"})
    stranger.close()
    assert denied["error"].startswith("data.path=org/gated is gated, and this login has no access to it; accept")
    assert "hf_of_a_stranger" not in denied["error"]
    member = Process(hub.url, home, HF_TOKEN=_module("server").TOKEN)
    assert member("prepare", {"path": "org/gated"})["report"]["counts"]["test"] == 7
    member.close()


def model_files(make_lm: Callable[..., Any], folder: Path) -> dict[str, bytes]:
    from harness.models.loading import save

    save(make_lm(), folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.extended
def test_offline_and_without_connection(
    hub: Any, client: Client, home: Path, make_lm: Callable[..., Any], tmp_path: Path
) -> None:
    commit = hub.repository("models", "org/tiny").commit(model_files(make_lm, tmp_path / "tiny"))
    online = client("model", {"name": "org/tiny"})
    assert online["content"] == f"org/tiny@{commit}"
    assert online["parameters"] > 1000
    unknown = client("model", {"name": "org/none"})
    assert unknown["error"].startswith(f"model.name=org/none is no repository on {hub.url} that can be read")
    before = {revision: client("prepare", {"path": "org/plain", "revision": revision}) for revision in ("v1", None)}

    offline = Process("http://127.0.0.1:9", home, HF_HUB_OFFLINE="1")
    for revision, seen in before.items():  # the right commit of the two in the cache, not the latest
        again = offline("prepare", {"path": "org/plain", "revision": revision})
        assert again["report"] == seen["report"]
    assert offline("model", {"name": "org/tiny"})["parameters"] == online["parameters"]
    cold = offline("prepare", {"path": "org/bare"})
    offline.close()
    assert cold["error"] == (
        "data.path=org/bare is not in the cache at revision main, and HF_HUB_OFFLINE forbids to ask the hub;"
        " run once without HF_HUB_OFFLINE"
    )

    nobody = Process("http://127.0.0.1:9", home)  # nothing listens there
    for task, config, key in (
        ("prepare", {"path": "org/plain"}, "data.path"),
        ("model", {"name": "org/tiny"}, "model.name"),
    ):
        refused = nobody(task, config)
        assert refused["error"].startswith(
            f"{key}={next(iter(config.values()))} cannot be read: http://127.0.0.1:9 does"
        )
        assert refused["error"].endswith("or set HF_HUB_OFFLINE=1 to use what is in the cache")
        assert refused["seconds"] < 8
    nobody.close()


@pytest.mark.extended
@pytest.mark.parametrize(("broken", "seconds"), [("503", 3), ("hang", 12), ("cut", 60)])
def test_a_hub_that_does_not_answer(hub: Any, client: Client, broken: str, seconds: float) -> None:
    hub.broken = broken
    try:
        answer = client("prepare", {"path": "org/bare"})
    finally:
        hub.broken = None
    assert answer["error"].startswith("data.path=org/bare cannot be read")
    assert answer["seconds"] < seconds
