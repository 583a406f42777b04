"""The duties of alerts: look at what is wrong, remember it, tell people. What is looked at is `roles.conditions`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import structlog

from cxrnode.errors import CxrnodeError
from cxrnode.roles import channels, conditions
from cxrnode.roles.context import Context
from cxrnode.store import alerts, fleet
from cxrnode.store.alerts import Alert, Condition

log = structlog.get_logger()


def watch_alerts(context: Context) -> None:
    """Look at everything that may go wrong within minutes, but for what each node looks at itself."""
    _watch(context, conditions.OFTEN, hold=context.config.alerts.hold)
    living = {one.node for one in fleet.members(context.database) if one.alive}
    for one in alerts.open_alerts(context.database):
        if one.rule in conditions.OWN and one.subject not in living:  # a lost node ends none of its own
            _log(alerts.observe(context.database, (), rules={one.rule}, hold=0.0, subject=one.subject))


def watch_disk(context: Context) -> None:
    """Look at this node's own disk."""
    _watch(context, conditions.OWN, hold=context.config.alerts.hold, subject=context.config.node_name)


def watch_days(context: Context) -> None:
    """Look at what goes wrong within days: drift, certificates. It needs no time to hold."""
    _watch(context, conditions.SELDOM, hold=0.0)


def _watch(
    context: Context,
    rules: Mapping[str, Callable[[Context], Iterator[Condition]]],
    *,
    hold: float,
    subject: str | None = None,
) -> None:
    found = [one for rule in rules.values() for one in rule(context)]
    # What is silent was so for long already: it holds by itself.
    for names, seconds in (({"silence"}, 0.0), (set(rules) - {"silence"}, hold)):
        met = [one for one in found if one.rule in names]
        if not names & set(rules):
            continue
        _log(alerts.observe(context.database, met, rules=names & set(rules), hold=seconds, subject=subject))


def _log(changed: Iterable[Alert]) -> None:
    for one in changed:
        if one.ended_at is None:
            log.error("alert", rule=one.rule, subject=one.subject, reason=one.text, remedy=one.remedy)
        else:
            log.info("alert_over", rule=one.rule, subject=one.subject)


def tell_alerts(context: Context) -> None:
    """Tell each channel what it was not told of, once the first of it is `alerts.group` old."""
    for name, tell in channels.configured(context.config).items():
        news = alerts.untold(context.database, name)
        if not news:
            continue
        with context.database.read() as transaction:
            now = transaction.now
        if now - min(one.since for one in news) < context.config.alerts.group:
            continue
        try:
            tell(news)
        except CxrnodeError as fault:
            log.error("alert_not_told", channel=name, alerts=len(news), reason=str(fault))
            continue
        alerts.told(context.database, name, news)
