"""Remote inference against NVIDIA's Triton and KServe: the scores of the reference, and every fault a server can have.

What passes parks nothing; another model is never believed; a film of its own fault is parked alone.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
import structlog.testing

from cxrnode.cli.check import _models
from cxrnode.config import Config, parse_config
from cxrnode.dicom.decoder import Decoded
from cxrnode.errors import BundleError, ConfigError, Rejected, Transient
from cxrnode.https import Away
from cxrnode.phantom.dicom import write_phantoms
from cxrnode.reading.admission import admit_remote, compare
from cxrnode.reading.bundle import Bundle, load_bundle
from cxrnode.reading.engine import TorchEngine
from cxrnode.reading.network import Architecture, Shape
from cxrnode.reading.oip import OipClient
from cxrnode.reading.readings import NotFinite
from cxrnode.reading.remote import RemoteEngine, WrongModel
from cxrnode.reading.triton import write_repository
from cxrnode.roles.infer import FilmReader
from cxrnode.roles.leases import LeaseKeeper
from cxrnode.sections import Server
from cxrnode.store import jobs
from cxrnode.store.jobs import Claim
from cxrnode.store.schema import event, instance, job
from tests.acceptance.test_architectures import write
from tests.integration.test_faults import Site
from tests.oip.server import KServe, Triton
from tests.peers import REPOSITORY, unused_port, wait_until

pytestmark = [pytest.mark.peers, pytest.mark.slow]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network with random weights, twice: the second is another bundle of the same shape."""
    folder = tmp_path_factory.mktemp("bundles")
    shape = Shape(architecture=Architecture.MOBILENET_V2, outputs=2, channels=3)
    for name in ("tiny", "other"):
        write(folder / name, name, shape, ("Effusion", "Pneumonia"), 64)
    return folder / "tiny"


@pytest.fixture(scope="module")
def bundle(tiny: Path) -> Bundle:
    return load_bundle(tiny)


@pytest.fixture(scope="module")
def triton(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    server = Triton(tmp_path_factory.mktemp("triton") / "repository")
    server.serve(write_repository(load_bundle(tiny), server.repository, name="tiny"))
    server.serve(write_repository(load_bundle(tiny.parent / "other"), server.repository, name="other"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def healthy(triton: Triton) -> Iterator[Triton]:
    yield triton
    for model in ("tiny", "other"):
        triton.fault(model, "")


def engine(bundle: Bundle, triton: Triton, data_dir: Path, **settings: object) -> RemoteEngine:
    server = Server.model_validate({"url": triton.url, "timeout": "4s", "connect_timeout": "1s", **settings})
    return RemoteEngine(bundle, server, data_dir)


def films(count: int = 3) -> list[np.ndarray]:
    """Films of other sizes than the model's, no two alike."""
    random = np.random.default_rng(4)
    return [random.integers(0, 256, (80 + number, 90), np.uint8) for number in range(count)]


# ------------------------------------------------------------------------------------------------ the engine


@pytest.mark.parametrize("binary", [True, False])
def test_a_server_reads_as_the_reference_does_in_bytes_and_in_json(
    bundle: Bundle, healthy: Triton, tmp_path: Path, binary: bool
) -> None:
    remote = engine(bundle, healthy, tmp_path)
    assert remote.look().startswith("kserve triton 2.")
    remote._client._binary = binary
    reference = TorchEngine(bundle, device="cpu", threads=1)
    scores, maps, changed = compare(bundle, reference.read(films(8)), remote.read(films(8)))
    assert (scores < 1e-4, maps < 0.01, changed) == (True, True, [])
    ours, theirs = (one.observe(films(8)) for one in (reference, remote))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.features, b.features, atol=1e-3)
        np.testing.assert_allclose(a.layout, b.layout, atol=1e-6)


def test_the_server_makes_batches_of_what_several_nodes_ask(bundle: Bundle, healthy: Triton, tmp_path: Path) -> None:
    before = len(healthy.batches("tiny"))
    healthy.fault("tiny", "slow")  # while the first batch is read the others wait, and are put together
    # One batch is read and at most one more lies ready, each with who came within 2 ms: of eight, three or more are
    # together in one of these or in what is made of the others.
    remotes = [engine(bundle, healthy, tmp_path, timeout="40s") for _ in range(8)]
    threads = [threading.Thread(target=one.read, args=(films(2),)) for one in remotes]
    for thread in threads:
        thread.start()
    wait_until(
        lambda: sum(requests for requests, _ in healthy.batches("tiny")[before:]) + healthy.waiting("tiny") == 8,
        seconds=30,
        what="eight requests at the server",
    )
    healthy.fault("tiny", "")
    for thread in threads:
        thread.join()
    made = healthy.batches("tiny")[before:]
    assert sum(films for _, films in made) == 16
    assert max(requests for requests, _ in made) >= 3


def test_only_what_was_admitted_reads_and_the_admission_is_of_one_server(
    bundle: Bundle, healthy: Triton, tmp_path: Path
) -> None:
    remote = engine(bundle, healthy, tmp_path)
    with pytest.raises(BundleError, match="was not admitted"):
        remote.require_admission()
    made = admit_remote(bundle, remote, films(), threads=1, rounds=1)
    remote.require_admission()
    assert remote.ready() and remote.name == made.name == remote.look()
    with pytest.raises(BundleError, match="was not admitted"):
        engine(bundle, healthy, tmp_path, model="other").require_admission()
    # The server was exchanged for another version.
    stands = json.loads(remote.path.read_text())
    remote.path.write_text(json.dumps({**stands, "name": "kserve triton 1.0.0 python"}))
    later = engine(bundle, healthy, tmp_path)
    later.require_admission()
    assert not later.ready()
    assert "`cxrnode model admit` anew" in later.trouble


def test_one_that_does_not_agree_is_not_admitted(bundle: Bundle, healthy: Triton, tmp_path: Path) -> None:
    louder = dataclasses.replace(
        bundle, weights={**bundle.weights, "classifier.bias": np.array([3.0, -3.0], np.float16)}
    )
    remote = engine(louder, healthy, tmp_path)
    with pytest.raises(Rejected, match="is not admitted for this bundle: a score is"):
        admit_remote(louder, remote, films(), threads=1, rounds=1)
    assert not remote.path.exists()


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        ("slow", Away, "is away: TimeoutError"),
        ("digest", WrongModel, "serves the bundle"),
        ("shape", Transient, None),
        ("nan", NotFinite, None),
    ],
)
def test_a_fault_of_the_server_is_of_its_kind_and_over_when_it_is_over(
    bundle: Bundle, healthy: Triton, tmp_path: Path, fault: str, error: type[Exception], said: str | None
) -> None:
    remote = engine(bundle, healthy, tmp_path)
    good = remote.read(films(1))[0].scores
    healthy.fault("tiny", fault)
    with pytest.raises(error, match=said):
        remote.read(films(1))
    healthy.fault("tiny", "")
    np.testing.assert_array_equal(remote.read(films(1))[0].scores, good)


def test_another_bundle_under_the_name_is_found_out_by_its_first_answer(
    bundle: Bundle, healthy: Triton, tmp_path: Path
) -> None:
    with pytest.raises(WrongModel, match=f"{bundle.digest[:12]} is wanted"):
        engine(bundle, healthy, tmp_path, model="other").read(films(1))


def test_a_model_that_is_not_there_and_a_request_that_is_wrong(bundle: Bundle, healthy: Triton, tmp_path: Path) -> None:
    with pytest.raises(Away, match=r"nix at 127\.0\.0\.1"):
        engine(bundle, healthy, tmp_path, model="nix").read(films(1))
    client = OipClient(Server(url=healthy.url), "tiny")
    with pytest.raises(Rejected, match="HTTP 400"):
        client.infer({"film": np.zeros((1, 32, 32), np.uint8)}, ["logits"])


def test_a_server_that_is_away_is_asked_less_and_less_often_and_found_when_it_is_back(
    bundle: Bundle, healthy: Triton, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = engine(bundle, healthy, tmp_path)
    admit_remote(bundle, remote, films(), threads=1, rounds=1)
    remote.require_admission()
    asked = 0
    real = RemoteEngine.look

    def counted(self: RemoteEngine) -> str:
        nonlocal asked
        asked += 1
        return real(self)

    monkeypatch.setattr(RemoteEngine, "look", counted)
    assert remote.ready()
    healthy.stop()
    try:
        with pytest.raises(Away, match="ConnectionRefusedError"):
            remote.read(films(1))
        began = time.monotonic()
        while time.monotonic() - began < 4:
            assert not remote.ready()
            time.sleep(0.05)
        assert 1 <= asked - 1 <= 3
    finally:
        healthy.start()
    deadline = time.monotonic() + 60
    while not remote.ready() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert remote.trouble == ""
    assert len(remote.read(films(2))) == 2


@pytest.fixture(scope="module")
def kserve(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KServe]:
    folder = write_repository(load_bundle(tiny), tmp_path_factory.mktemp("kserve"), name="tiny")
    server = KServe(folder / "1" / "model.onnx")
    server.start()
    yield server
    server.stop()


@pytest.mark.parametrize("binary", [False, True])
def test_kserve_reads_as_the_reference_does_in_json_as_it_offers_and_in_bytes_as_it_can(
    bundle: Bundle, kserve: KServe, tmp_path: Path, binary: bool
) -> None:
    server = Server.model_validate({"url": kserve.url, "timeout": "20s", "connect_timeout": "1s"})
    remote = RemoteEngine(bundle, server, tmp_path)
    assert remote.look().startswith("kserve kserve 0.") and not remote._client._binary
    admit_remote(bundle, remote, films(), threads=1, rounds=1)
    remote.require_admission()
    assert remote.ready() and remote.name == remote.look()
    remote._client._binary = binary
    reference = TorchEngine(bundle, device="cpu", threads=1)
    scores, maps, changed = compare(bundle, reference.read(films(8)), remote.read(films(8)))
    assert (scores < 1e-4, maps < 0.01, changed) == (True, True, [])


def test_kserve_that_is_away_or_without_the_model_makes_films_wait(
    bundle: Bundle, kserve: KServe, tmp_path: Path
) -> None:
    server = Server.model_validate({"url": kserve.url, "model": "nix", "timeout": "20s", "connect_timeout": "1s"})
    with pytest.raises(Away, match="does not give nix at"):
        RemoteEngine(bundle, server, tmp_path).read(films(1))
    remote = RemoteEngine(bundle, server.model_copy(update={"model": "tiny"}), tmp_path)
    admit_remote(bundle, remote, films(), threads=1, rounds=1)
    remote.require_admission()
    kserve.stop()
    with pytest.raises(Away, match="is away"):
        remote.read(films(1))
    assert not remote.ready()
    kserve.start()
    deadline = time.monotonic() + 60
    while not remote.ready() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(remote.read(films(2))) == 2


def test_a_bundle_whose_maps_need_a_gradient_is_not_exported(tmp_path: Path) -> None:
    shape = Shape(architecture=Architecture.CNN2, outputs=2, channels=1, hidden=(8,))
    write(tmp_path / "deep", "deep", shape, ("Effusion", "Pneumonia"), 64)
    with pytest.raises(BundleError, match="need a gradient"):
        write_repository(load_bundle(tmp_path / "deep"), tmp_path / "repository", name="deep")


# ------------------------------------------------------------------------------------------------- the role


class RemoteSite(Site):
    """A node whose model is on the server."""

    def __init__(self, folder: Path, triton: Triton, bundle: Path) -> None:
        super().__init__(folder, {}, send_to=(), bundle=str(bundle))
        server = {"url": triton.url, "timeout": "2s", "connect_timeout": "1s"}
        raw = self.config.model_dump(mode="json", by_alias=True, exclude_unset=True)
        raw["models"] = {"chest": {"bundle": str(bundle), "engine": "kserve", "server": server}}
        raw["reading"] = {"implausible": "read"}
        raw["spool"], raw["send"] = {"min_free": "1 MiB"}, {}
        self.raw = raw
        self.config: Config = parse_config(raw)

    def engines(self) -> set[str]:
        return {str(row.engine) for row in self.all(sa.select(job.c.engine))}


@pytest.fixture
def site(bundle: Bundle, tiny: Path, healthy: Triton, tmp_path: Path) -> Iterator[RemoteSite]:
    made = RemoteSite(tmp_path, healthy, tiny)
    admit_remote(bundle, engine(bundle, healthy, tmp_path), films(), threads=1, rounds=1)
    yield made
    made.stopping.set()
    made.database.close()


def turned(site: RemoteSite, reader: FilmReader, keeper: LeaseKeeper[Claim], *, seconds: float, until: str) -> None:
    """Turns of the role until every job is in this state."""
    deadline = time.monotonic() + seconds
    while set(site.states()) != {until}:
        assert time.monotonic() < deadline, site.states()
        if not reader.turn(keeper):
            time.sleep(0.05)


def test_films_wait_for_a_server_with_every_fault_and_are_read_when_it_is_good(
    site: RemoteSite, healthy: Triton, tmp_path: Path
) -> None:
    reader = FilmReader(site.context())
    with LeaseKeeper[Claim](lambda held: jobs.renew(site.database, held, lease=60.0), lease=60.0) as keeper:
        paths = write_phantoms(tmp_path / "films", range(5), rows=640, cols=530)
        site.receive(paths[0])
        turned(site, reader, keeper, seconds=60, until="reported")
        for path, fault in zip(paths[1:5], ("digest", "shape", "slow", "away"), strict=True):
            if fault == "away":
                healthy.stop()
            else:
                healthy.fault("tiny", fault)
            site.receive(path)
            with structlog.testing.capture_logs() as lines:
                for _ in range(20):
                    reader.turn(keeper)
                    time.sleep(0.05)
            told = [line["event"] for line in lines if line["event"] in ("engine_away", "engine_back")]
            # Told when it goes and when it is back, not at every turn. On a busy machine it is tried meanwhile.
            assert told == [("engine_away", "engine_back")[number % 2] for number in range(len(told))]
            if fault != "shape":  # Triton itself sees that it is not what the configuration says
                assert told, fault
            assert site.states()[-1] == "queued"
            if fault == "away":
                healthy.start()
            else:
                healthy.fault("tiny", "")
            turned(site, reader, keeper, seconds=90, until="reported")
    reader.close()
    names = {row.name for row in site.all(sa.select(event.c.name))}
    assert "parked" not in names
    assert {name.split()[1] for name in site.engines()} == {"triton"}
    assert {row.attempts for row in site.all(sa.select(job.c.attempts))} == {0}


def test_a_film_of_which_the_server_says_no_number_is_parked_alone(
    site: RemoteSite, healthy: Triton, tmp_path: Path
) -> None:
    reader = FilmReader(site.context())
    healthy.fault("tiny", "nan for bright films")
    real = reader._decoder.decode

    def decode(path: Path, *, dataset_digest: str) -> Decoded:
        film = real(path, dataset_digest=dataset_digest)
        return dataclasses.replace(film, display=np.full_like(film.display, 255)) if dataset_digest == bright else film

    reader._decoder.decode = decode  # type: ignore[method-assign]
    with LeaseKeeper[Claim](lambda held: jobs.renew(site.database, held, lease=60.0), lease=60.0) as keeper:
        for path in write_phantoms(tmp_path / "films", range(3), rows=640, cols=530):
            site.receive(path)
        (bright, *_) = [row[0] for row in site.all(sa.select(instance.c.dataset_sha256).order_by(instance.c.id))]
        deadline = time.monotonic() + 60
        while "queued" in site.states() and time.monotonic() < deadline:
            reader.turn(keeper)
    reader.close()
    assert site.states() == ["failed", "reported", "reported"]


def test_the_role_loads_no_torch_where_a_server_reads(site: RemoteSite, tmp_path: Path) -> None:
    (path,) = write_phantoms(tmp_path / "films", range(1), rows=640, cols=530)
    site.receive(path)
    (tmp_path / "config.json").write_text(json.dumps(site.raw))
    program = (
        "import sys, json, threading; from pathlib import Path\n"
        "from cxrnode.config import parse_config; from cxrnode.roles.infer import FilmReader\n"
        "from cxrnode.roles.leases import LeaseKeeper; from cxrnode.roles.context import Context\n"
        "from cxrnode.store.database import Database; from cxrnode.spool import FolderSpool\n"
        "folder = Path(sys.argv[1]); config = parse_config(json.loads((folder / 'config.json').read_text()))\n"
        "database = Database(f\"sqlite+pysqlite:///{folder / 'test.sqlite'}\")\n"
        "context = Context(config=config, database=database, spool=FolderSpool(folder / 'spool'), owner='o',\n"
        "                  stopping=threading.Event(), beat=lambda: None, ready=lambda: None)\n"
        "reader = FilmReader(context)\n"
        "with LeaseKeeper(lambda held: len(held), lease=60.0) as keeper: assert reader.turn(keeper)\n"
        "reader.close(); print('torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    assert done.stdout.splitlines()[-1:] == ["False"], done.stderr
    assert site.states() == ["reported"]


def test_check_says_whether_the_server_is_the_one_that_was_admitted(site: RemoteSite, healthy: Triton) -> None:
    assert [one.ok for one in _models(site.config)] == [True, True]
    healthy.fault("tiny", "digest")
    found = list(_models(site.config))[1]
    assert (found.ok, found.name) == (False, "server of chest") and "serves the bundle" in found.detail
    model = site.config.models["chest"]
    assert model.server is not None
    gone = model.server.model_copy(update={"url": f"http://127.0.0.1:{unused_port()}"})
    away = site.config.model_copy(update={"models": {"chest": model.model_copy(update={"server": gone})}})
    assert "was not admitted" in list(_models(away))[1].detail


def test_the_configuration_wants_engine_and_server_together() -> None:
    for model in ({"engine": "kserve"}, {"server": {"url": "http://triton:8000"}}):
        with pytest.raises(ConfigError, match="belong together"):
            parse_config({"models": {"chest": {"bundle": "demo", **model}}})
    secret = {"url": "http://triton:8000", "auth": {"variable": "TOKEN"}}
    with pytest.raises(ConfigError, match="tells the secret to the network"):
        parse_config({"models": {"chest": {"bundle": "demo", "engine": "kserve", "server": secret}}})
