"""The models that `infer` has loaded: a bundle with the engine that runs it, here or on a server.

Nothing here knows a job. Torch is loaded only where a model is read on this machine.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from cxrnode.config import Model
from cxrnode.errors import BundleError, ConfigError, CxrnodeError, Rejected
from cxrnode.reading.bundle import Bundle, find_bundle, load_bundle
from cxrnode.reading.readings import Engine
from cxrnode.reading.remote import RemoteEngine
from cxrnode.roles.context import Context
from cxrnode.store import loading, notices

log = structlog.get_logger()

#: A film that every engine in order can read.
_PLAIN = np.full((512, 512), 128, dtype=np.uint8)


class EngineBroken(CxrnodeError):
    """The engine fails on any film: the role ends, and a new process starts with a new engine."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model in use: its bundle, and the engine that runs it."""

    bundle: Bundle
    engine: Engine


def load_models(context: Context, *, warm: Callable[[Callable[[], Any]], Any]) -> dict[str, Loaded]:
    """Load every configured model; `warm` runs the first pass where later ones run. Raises BundleError."""
    loaded: dict[str, Loaded] = {}
    config = context.config
    for name, model in config.models.items():
        context.beat()
        try:
            bundle = load_bundle(find_bundle(model.bundle, config.node.data_dir, config.folder))
            engine = _opened(name, bundle, model, config.node.data_dir)
        except (BundleError, ConfigError) as error:
            # Its jobs wait; the other models go on.
            log.error("model_refused", model=name, reason=str(error))
            loading.refused(context.database, name, node=config.node_name, reason=str(error))
            continue
        loaded[name] = Loaded(bundle=bundle, engine=engine)
        if not isinstance(engine, RemoteEngine):
            # The first pass sets up kernels and memory: nobody's film should wait for that.
            warm(functools.partial(engine.read, [_PLAIN]))
        notices.loaded(context.database, name, bundle.reader(loaded[name].engine))
        log.info("model_loaded", model=name, bundle=bundle.digest, engine=loaded[name].engine.name)
    if not loaded:
        raise BundleError("no model can be used; `cxrnode check` says what is wrong with each")
    context.say(
        device=", ".join(sorted({one.engine.name for one in loaded.values()}))[:128],
        models={name: one.bundle.digest for name, one in loaded.items()},
    )
    return loaded


def _opened(name: str, bundle: Bundle, model: Model, data_dir: Path) -> Engine:
    """The engine of a model. Raises BundleError or ConfigError where there is none."""
    if model.server is not None:
        remote = RemoteEngine(bundle, model.server, data_dir)
        remote.require_admission()
        return remote
    # A process whose films are all read by servers never loads torch.
    from cxrnode.reading.admission import admission_of, open_engine

    if admission_of(bundle, data_dir) is None:
        remedy = f"`cxrnode model admit {name}` tries others, which may be several times faster here; then start again"
        log.info("engine_not_chosen", model=name, reason="torch in float32 reads", remedy=remedy)
    return open_engine(bundle, data_dir, beside_others=True)


def out_of_memory(fault: BaseException) -> bool:
    """Whether a device had no memory for a batch."""
    if "torch" not in sys.modules:
        return False
    from cxrnode.reading import engine

    return engine.out_of_memory(fault)


def require_engine(model: Loaded) -> None:
    """Raise EngineBroken unless a plain film can be read: one fault of a device must not park all that waits."""
    try:
        model.engine.read([_PLAIN])
    except (Rejected, RuntimeError) as fault:
        raise EngineBroken(
            f"the engine {model.engine.name} reads no film ({type(fault).__name__}); it starts anew"
        ) from None
