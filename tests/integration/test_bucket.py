"""The spool in an object store, against a server that speaks S3: kept is what it acknowledged, and nothing else is."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from cxrnode.config import parse_config
from cxrnode.core.digests import Kind, digest_of
from cxrnode.core.routing import Association
from cxrnode.dicom.header import read_header
from cxrnode.dicom.listener import Received
from cxrnode.dicom.part10 import dataset_digest, dataset_offset
from cxrnode.errors import ConfigError, Rejected, Transient
from cxrnode.node import open_spool
from cxrnode.phantom.dicom import write_phantoms
from cxrnode.roles.context import Context
from cxrnode.roles.receive import Receiver
from cxrnode.spool import bucket as bucket_module
from cxrnode.spool.bucket import BucketSpool
from cxrnode.store import receipt, upgrade
from cxrnode.store.database import Database
from cxrnode.store.schema import instance
from tests.peers import Bucket, unused_port


@pytest.fixture
def spool(bucket: Bucket, tmp_path: Path) -> BucketSpool:
    return BucketSpool(bucket.url, scratch=tmp_path, endpoint=bucket.endpoint)


def lost(tmp_path: Path) -> BucketSpool:
    """A spool whose server is not there."""
    return BucketSpool("s3://films/node", scratch=tmp_path, endpoint=f"http://127.0.0.1:{unused_port()}")


def blake3_of(content: bytes) -> str:
    return digest_of(content, Kind.BLAKE3)


def test_what_is_put_is_read_as_it_was(spool: BucketSpool) -> None:
    contents = (b"film", b"", os.urandom(6 << 20))  # the last goes in parts
    kept = spool.put(*contents)
    assert contents == tuple(spool.read(one.key, digest=one.digest) for one in kept)
    assert [(blake3_of(c), len(c)) for c in contents] == [(one.digest, one.size) for one in kept]


def test_an_object_lies_where_a_folder_would_have_it(spool: BucketSpool, bucket: Bucket) -> None:
    (kept,) = spool.put(b"film")
    assert spool.answers()
    assert bucket.names() == [f"node/{kept.key[:2]}/{kept.key}"]


def test_a_received_file_is_gone_once_its_object_is_acknowledged(spool: BucketSpool) -> None:
    received = spool.incoming / "association-1"
    received.write_bytes(os.urandom(11 << 20))
    digest = blake3_of(received.read_bytes())
    kept = spool.adopt(received, digest=digest)
    assert list(spool.incoming.iterdir()) == []
    assert len(spool.read(kept.key, digest=digest)) == kept.size == 11 << 20


def test_a_film_is_borrowed_as_a_file_of_this_machine_and_given_back(spool: BucketSpool) -> None:
    content = os.urandom(300_000)
    (kept,) = spool.put(content)
    with spool.borrow(kept.key) as path:
        assert path.read_bytes() == content
    assert list(spool.incoming.iterdir()) == []


def test_a_missing_object_is_refused_with_what_to_do(spool: BucketSpool) -> None:
    assert not spool.has("0" * 32)
    with pytest.raises(Rejected, match="restore it from the backup, or send the film again"):
        spool.read("0" * 32, digest="")
    with pytest.raises(Rejected, match="restore it from the backup"), spool.borrow("0" * 32):
        pytest.fail("borrowed what is not there")
    assert list(spool.incoming.iterdir()) == []


def test_an_altered_object_is_refused(spool: BucketSpool, bucket: Bucket) -> None:
    (kept,) = spool.put(b"film")
    bucket.request("PUT", f"/{bucket.name}/node/{kept.key[:2]}/{kept.key}", b"Film")
    with pytest.raises(Rejected, match="was altered"):
        spool.read(kept.key, digest=kept.digest)


def test_a_bucket_that_is_gone_is_a_passing_fault_and_not_a_missing_film(bucket: Bucket, tmp_path: Path) -> None:
    spool = BucketSpool("s3://elsewhere", scratch=tmp_path, endpoint=bucket.endpoint)
    assert spool.has("0" * 32)
    assert not spool.answers()
    with pytest.raises(Transient, match="the spool does not answer"):
        spool.read("0" * 32, digest="")
    with pytest.raises(Transient, match="the spool cannot keep a file: NoSuchBucket"):
        spool.put(b"film")
    with pytest.raises(Transient):
        next(spool.keys_older_than(0))


def test_a_server_that_is_away_is_a_passing_fault_told_without_addresses(tmp_path: Path) -> None:
    spool = lost(tmp_path)
    received = spool.incoming / "association-1"
    received.write_bytes(b"film")
    with pytest.raises(Transient) as fault:
        spool.adopt(received, digest="")
    assert str(fault.value) == "the spool cannot keep a file: GenericError"
    assert received.exists()
    assert spool.has("0" * 32)
    assert not spool.remove("0" * 32)
    with pytest.raises(Transient, match="the spool does not answer"), spool.borrow("0" * 32):
        pytest.fail("borrowed from nowhere")


def test_a_server_that_is_silent_is_a_passing_fault_within_its_time(
    spool: BucketSpool, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kept,) = spool.put(b"film")
    monkeypatch.setattr(bucket_module, "REQUEST_SECONDS", 1)
    monkeypatch.setattr(bucket_module, "RETRY_SECONDS", 1)
    impatient = BucketSpool(bucket.url, scratch=tmp_path, endpoint=bucket.endpoint)
    bucket.pause()
    began = time.monotonic()
    try:
        with pytest.raises(Transient):
            impatient.put(b"a", b"b")
    finally:
        bucket.resume()
    assert time.monotonic() - began < 60  # it would be silent for ever
    assert spool.read(kept.key, digest=kept.digest) == b"film"


def test_of_several_objects_all_are_kept_or_none(
    spool: BucketSpool, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, asked = spool._obstore.put, []

    def refuse_the_second(*arguments: object, **named: object) -> object:
        asked.append(arguments)
        if len(asked) == 2:
            raise OSError("the server refused it")
        return put(*arguments, **named)

    monkeypatch.setattr(spool._obstore, "put", refuse_the_second)
    with pytest.raises(Transient, match="the spool cannot keep a file"):
        spool.put(b"a", b"b", b"c")
    assert bucket.names() == []


@pytest.mark.parametrize("key", ["", "..", "../../etc/passwd", "A" * 32, "0" * 31, "0" * 32 + "\n"])
def test_what_is_no_key_reaches_no_object(spool: BucketSpool, key: str) -> None:
    with pytest.raises(Rejected, match="this is no key of the spool"):
        spool.read(key, digest="")


def test_only_old_objects_with_a_key_for_a_name_are_listed(spool: BucketSpool, bucket: Bucket) -> None:
    kept = {one.key for one in spool.put(b"a", b"b")}
    bucket.request("PUT", f"/{bucket.name}/node/README", b"not ours")
    assert list(spool.keys_older_than(3600)) == []
    assert set(spool.keys_older_than(-5)) == kept
    assert all(spool.remove(key) for key in kept)
    assert bucket.names() == ["node/README"]


def test_the_configuration_opens_it(bucket: Bucket, tmp_path: Path) -> None:
    raw = {"node": {"data_dir": str(tmp_path)}, "spool": {"url": bucket.url, "endpoint": bucket.endpoint}}
    opened = open_spool(parse_config(raw))
    assert isinstance(opened, BucketSpool)
    (kept,) = opened.put(b"film")
    assert opened.incoming == tmp_path / "spool" / "incoming"
    assert bucket.names() == [f"node/{kept.key[:2]}/{kept.key}"]


@pytest.mark.parametrize(
    ("spool", "said"),
    [
        ({"url": "s3://"}, "s3://BUCKET/PREFIX"),
        ({"url": "s3://key:secret@films/x"}, "holds no secret"),
        ({"url": "s3://films/../x"}, "prefix"),
        ({"url": "gs://films"}, "a folder or s3://BUCKET/PREFIX"),
        ({"url": "/films", "endpoint": "http://127.0.0.1:1"}, "are for s3:// urls"),
        ({"url": "s3://films", "endpoint": "http://user:pw@h:1"}, "a secret belongs"),
    ],
)
def test_a_url_that_cannot_be_meant_is_refused(spool: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_config({"spool": spool})


def films_received(spool: BucketSpool, database: Database, film: Path) -> None:
    """Receive a copy of the film into this spool. Raises Transient as the listener would see it."""
    config = parse_config(
        {
            "models": {"chest": {"bundle": "demo"}},
            "rules": [{"name": "all", "unsure": "read", "models": ["chest"]}],
            "node": {"data_dir": str(spool.incoming.parent)},
            "spool": {"min_free": "1 MiB"},
        }
    )
    copy = spool.incoming / "association-1"
    shutil.copyfile(film, copy)
    source = read_header(film)
    context = Context(
        config=config,
        database=database,
        spool=spool,
        owner="test",
        stopping=threading.Event(),
        beat=lambda: None,
        ready=lambda: None,
    )
    Receiver(context).receive(
        Received(
            path=copy,
            sop_class_uid=source.SOPClassUID,
            sop_instance_uid=source.SOPInstanceUID,
            transfer_syntax_uid=source.file_meta.TransferSyntaxUID,
            association=Association(calling_aet="MODALITY", called_aet="CXRNODE", host="127.0.0.1"),
            size=film.stat().st_size,
            dataset_offset=dataset_offset(film),
            digest=dataset_digest(film),
        )
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite+pysqlite:///{tmp_path / 'test.sqlite'}")
    upgrade.upgrade(opened)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantoms(tmp_path_factory.mktemp("films"), range(1), rows=512, cols=424)[0]


def test_a_film_is_acknowledged_by_the_object_store_before_its_rows_stand(
    spool: BucketSpool, bucket: Bucket, store: Database, film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, objects = receipt.record, []

    def noted(*arguments: Any, **named: Any) -> receipt.Receipt:
        objects.extend(bucket.names())
        return record(*arguments, **named)

    monkeypatch.setattr(receipt, "record", noted)
    films_received(spool, store, film)
    with store.read() as transaction:
        (key,) = transaction.rows(sa.select(instance.c.spool_key))
    assert objects == [f"node/{key[0][:2]}/{key[0]}"]


def test_no_row_stands_for_a_film_that_the_object_store_did_not_acknowledge(
    tmp_path: Path, store: Database, film: Path
) -> None:
    with pytest.raises(Transient, match="the spool cannot keep a file"):
        films_received(lost(tmp_path), store, film)
    with store.read() as transaction:
        assert transaction.rows(sa.select(instance.c.id)) == []


def test_a_film_whose_rows_do_not_stand_leaves_no_object(
    spool: BucketSpool, bucket: Bucket, store: Database, film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_arguments: Any, **_named: Any) -> receipt.Receipt:
        raise Transient("the database does not answer")

    monkeypatch.setattr(receipt, "record", away)
    with pytest.raises(Transient, match="the database does not answer"):
        films_received(spool, store, film)
    assert bucket.names() == []
