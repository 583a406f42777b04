"""The console's server on a port."""

from __future__ import annotations

import statistics
import threading
import time
from pathlib import Path

import httpx2 as httpx
import pytest

from cxrnode.config import parse_config
from cxrnode.spool import FolderSpool
from cxrnode.store.database import Database
from cxrnode.store.upgrade import upgrade
from cxrnode.web import server
from tests.peers import unused_port


@pytest.mark.timeout(60)
def test_no_answer_waits_for_a_delayed_acknowledgement(tmp_path: Path) -> None:
    """Linux delays it by 40 ms; a healthy node answers `/healthz` in a few. The first answers never wait."""
    database = Database(f"sqlite+pysqlite:///{tmp_path / 'store.sqlite'}")
    upgrade(database)
    port = unused_port()
    config = parse_config({"node": {"data_dir": str(tmp_path)}, "web": {"port": port}})
    stopping, up = threading.Event(), threading.Event()
    thread = threading.Thread(
        target=server.run,
        args=(config, database, FolderSpool(tmp_path / "spool")),
        kwargs={"stopping": stopping, "beat": lambda: None, "ready": up.set},
    )
    thread.start()
    try:
        assert up.wait(30)
        taken = []
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            for _ in range(40):
                began = time.perf_counter()
                assert client.get("/healthz").status_code == 200
                taken.append(time.perf_counter() - began)
        assert statistics.median(taken[20:]) < 0.035
    finally:
        stopping.set()
        thread.join(20)
        database.close()
