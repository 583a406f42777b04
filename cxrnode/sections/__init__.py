"""The tables of the configuration file, one frozen class each, with every default. Values only: nothing is opened.

Durations are seconds and sizes are bytes once read; in the file both carry their unit.
"""

from __future__ import annotations

from cxrnode.sections.console import LOOPBACK, Changes, Proxy, Web, WebTls
from cxrnode.sections.fields import (
    AETitle,
    Hl7Name,
    Host,
    NamedPath,
    Networks,
    OutputKind,
    Port,
    RoleName,
    Section,
    TimeZone,
    Words,
    without_secrets,
)
from cxrnode.sections.machine import Database, Log, Node, Retention, Spool
from cxrnode.sections.peers import (
    NODE_KINDS,
    AnyNode,
    Auth,
    ClientTls,
    Hl7Node,
    Listen,
    RemoteNode,
    Server,
    StowNode,
    Tls,
    Worklist,
)
from cxrnode.sections.reading import Model, Reading, Rule, WordLists
from cxrnode.sections.results import Corrections, Heatmap, Hl7, KeyObject, Notices, Send, Sr, Study
from cxrnode.sections.watching import Alerts, Atna, Audit, Email, Syslog, Webhook

__all__ = [
    "LOOPBACK",
    "NODE_KINDS",
    "AETitle",
    "Alerts",
    "AnyNode",
    "Atna",
    "Audit",
    "Auth",
    "Changes",
    "ClientTls",
    "Corrections",
    "Database",
    "Email",
    "Heatmap",
    "Hl7",
    "Hl7Name",
    "Hl7Node",
    "Host",
    "KeyObject",
    "Listen",
    "Log",
    "Model",
    "NamedPath",
    "Networks",
    "Node",
    "Notices",
    "OutputKind",
    "Port",
    "Proxy",
    "Reading",
    "RemoteNode",
    "Retention",
    "RoleName",
    "Rule",
    "Section",
    "Send",
    "Server",
    "Spool",
    "Sr",
    "StowNode",
    "Study",
    "Syslog",
    "TimeZone",
    "Tls",
    "Web",
    "WebTls",
    "Webhook",
    "WordLists",
    "Words",
    "Worklist",
    "without_secrets",
]
