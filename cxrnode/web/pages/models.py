"""Change control: which model does what, the queues, and who changed what and why. In force without a restart."""

from __future__ import annotations

from starlette.responses import RedirectResponse, Response

from cxrnode.core.access import Role
from cxrnode.errors import Rejected
from cxrnode.store import changes, loading
from cxrnode.web.asked import Asked
from cxrnode.web.console import Console
from cxrnode.web.pages.overview import seen
from cxrnode.web.view import View


def page(console: Console, asked: Asked) -> Response:
    """The models and queues with what is in force, and the changes."""
    found = console.in_force()
    config = console.config
    modes = dict(changes.modes(found, config.modes))
    return console.page(
        "models.html",
        asked,
        here="models",
        models=seen(console).models,
        configured=config.modes,
        bundles={name: model.bundle for name, model in config.models.items()},
        modes=modes,
        broken={one.model: one for one in loading.not_loaded(console.database)},
        found=found,
        queues=changes.QUEUES,
        changes=changes.list_changes(console.database, limit=50),
        consent=config.changes.consent,
        config_digest=config.digest,
        rules_digest=config.rules_digest(modes),
        shadows=[name for name, mode in modes.items() if mode == "shadow"],
        actives=[name for name, mode in modes.items() if mode == "active"],
    )


def ask(console: Console, asked: Asked) -> Response:
    """Ask for a change; without need of consent it is in force at once."""
    subject, value = asked.fields.get("subject", ""), asked.fields.get("value", "")
    wanted = {subject: value}
    if instead := asked.fields.get("instead_of", ""):
        wanted[changes.model(instead)] = "shadow"
    changes.ask(
        console.database,
        wanted,
        configured=console.config.modes,
        reason=asked.fields.get("reason", ""),
        by=asked.who.name,
        consent=console.config.changes.consent,
    )
    return RedirectResponse("/models", 303)


def decide(console: Console, asked: Asked) -> Response:
    """Consent to a change, or refuse it."""
    answer = asked.fields.get("answer", "")
    if answer not in ("consent", "refuse"):
        raise Rejected("say consent or refuse")
    changes.decide(
        console.database,
        asked.number("id"),
        agree=answer == "consent",
        configured=console.config.modes,
        reason=asked.fields.get("reason", ""),
        by=asked.who.name,
    )
    return RedirectResponse("/models", 303)


VIEWS = (
    View(path="/models", page=page),
    View(path="/models/change", page=ask, method="POST", role=Role.ADMIN),
    View(path="/models/changes/{id}", page=decide, method="POST", role=Role.ADMIN),
)
