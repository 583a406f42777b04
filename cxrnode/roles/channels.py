"""The ways by which people hear of alerts: e-mail, a webhook, syslog. Each is told once of each beginning and end.

A way that fails is tried again at the next look, by itself: what was told by one is not told again because of another.
"""

from __future__ import annotations

import datetime
import email.message
import email.utils
import json
import smtplib
import ssl
import time
from collections.abc import Callable, Mapping, Sequence

import urllib3

from cxrnode import __version__, syslog
from cxrnode.config import Config
from cxrnode.dicom.destination import Credential
from cxrnode.dicom.tls import web_context
from cxrnode.errors import Transient
from cxrnode.sections import Auth, Email, Syslog, Webhook
from cxrnode.store.alerts import Alert, Untold

_TIMEOUT = 15.0
_PHASES = {"raised": "ALERT", "ended": "over"}


def configured(config: Config) -> Mapping[str, Callable[[Sequence[Untold]], None]]:
    """The channels of a configuration by name; each raises Transient or ConfigError where it cannot tell."""
    alerts = config.alerts
    found: dict[str, Callable[[Sequence[Untold]], None]] = {}
    if (mail := alerts.email) is not None:
        found["email"] = lambda news: send_email(mail, config, news)
    if (hook := alerts.webhook) is not None:
        found["webhook"] = lambda news: send_webhook(hook, config, news)
    if (server := alerts.syslog) is not None:
        found["syslog"] = lambda news: send_syslog(server, config, news)
    return found


def trial(config: Config, now: float) -> Untold:
    """What `cxrnode alerts test` tells."""
    text = f"this is a test of the alerts of {config.node.ae_title}; nothing is wrong"
    made = Alert(
        id=0,
        rule="test",
        subject=config.node.ae_title,
        severity="warning",
        text=text,
        remedy="none needed",
        began_at=now,
        seen_at=now,
        raised_at=now,
        quiet_since=None,
        ended_at=None,
    )
    return Untold(alert=made, phase="raised", since=now)


def line(one: Untold) -> str:
    """One alert on one line."""
    text = f"{_PHASES[one.phase]} {one.alert.rule} {one.alert.subject}: {one.alert.text}"
    return text if one.phase == "ended" or not one.alert.remedy else f"{text}. What to do: {one.alert.remedy}"


def send_email(mail: Email, config: Config, news: Sequence[Untold]) -> None:
    """One mail for all of it. Raises Transient, or ConfigError for its TLS files and secret."""
    message = email.message.EmailMessage()
    message["Subject"] = _subject(config, news)
    message["From"], message["To"] = mail.sender, ", ".join(mail.to)
    message["Date"] = email.utils.formatdate()
    message["Message-ID"] = email.utils.make_msgid(domain=mail.sender.rpartition("@")[2])
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no answers from holidays
    message.set_content("\n\n".join(_paragraph(one) for one in news) + f"\n\n-- \ncxrnode {__version__}\n")
    context = web_context(ca=mail.ca, cert=None, key=None)
    secret = _secret(mail.auth) if mail.auth else ""
    try:
        if mail.security == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(mail.server, mail.port, timeout=_TIMEOUT, context=context)
        else:
            server = smtplib.SMTP(mail.server, mail.port, timeout=_TIMEOUT)
        with server:
            if mail.security == "starttls":
                server.starttls(context=context)
            if mail.auth is not None:
                server.login(mail.auth.user, secret)
            server.send_message(message)
    except (OSError, smtplib.SMTPException, ssl.SSLError) as error:
        # What a server says may quote the secret or the mail.
        raise Transient(f"the mail server {mail.server}:{mail.port} took no mail: {_kind(error)}") from None


def _secret(auth: Auth) -> str:
    return Credential(user=auth.user, file=auth.file, variable=auth.variable).secret()


def _kind(error: Exception) -> str:
    code = getattr(error, "smtp_code", None)
    return f"{type(error).__name__} {code}" if code else (getattr(error, "strerror", None) or type(error).__name__)


def _subject(config: Config, news: Sequence[Untold]) -> str:
    first = news[0]
    more = f" and {len(news) - 1} more" if len(news) > 1 else ""
    word = _PHASES[first.phase]
    return f"[{config.node.ae_title}] {word}: {first.alert.rule.replace('_', ' ')} {first.alert.subject}{more}"


def _paragraph(one: Untold) -> str:
    at = datetime.datetime.fromtimestamp(one.since, datetime.UTC).astimezone().isoformat(timespec="seconds")
    word = "since" if one.phase == "raised" else "at"
    said = f"{_PHASES[one.phase]} ({one.alert.severity}) {word} {at}\n"
    said += f"{one.alert.rule} {one.alert.subject}: {one.alert.text}"
    if one.phase == "ended":
        return said
    return f"{said}\nWhat to do: {one.alert.remedy}" if one.alert.remedy else said


def send_webhook(hook: Webhook, config: Config, news: Sequence[Untold]) -> None:
    """One POST of JSON for all of it. Raises Transient, or ConfigError for its TLS files and secret."""
    body = {
        "node": config.node.ae_title,
        "version": __version__,
        # What chat systems show of a hook that they know nothing of.
        "text": "\n".join(line(one) for one in news),
        "alerts": [
            {
                "id": one.alert.id,
                "rule": one.alert.rule,
                "subject": one.alert.subject,
                "severity": one.alert.severity,
                "phase": one.phase,
                "since": one.since,
                "text": one.alert.text,
                "remedy": one.alert.remedy,
            }
            for one in news
        ],
    }
    headers = {"Content-Type": "application/json", "User-Agent": f"cxrnode/{__version__}"}
    if hook.auth is not None:
        secret = _secret(hook.auth)
        if hook.auth.user:
            headers |= urllib3.make_headers(basic_auth=f"{hook.auth.user}:{secret}")
        else:
            headers["Authorization"] = f"Bearer {secret}"
    tls = hook.tls
    context = web_context(ca=tls.ca, cert=tls.cert, key=tls.key) if tls else None
    with urllib3.PoolManager(ssl_context=context, retries=False, timeout=_TIMEOUT) as pool:
        try:
            answer = pool.request("POST", hook.url, body=json.dumps(body).encode(), headers=headers, redirect=False)
        except urllib3.exceptions.HTTPError as error:
            raise Transient(f"the webhook did not answer: {type(error).__name__}") from None
    if not 200 <= answer.status < 300:
        raise Transient(f"the webhook answered {answer.status}")


def send_syslog(server: Syslog, config: Config, news: Sequence[Untold]) -> None:
    """A message for each. Raises Transient, or ConfigError for its TLS files."""
    grave = {"critical": syslog.ERROR, "warning": syslog.WARNING}
    syslog.send(
        syslog_server(server),
        [
            syslog.Message(
                at=time.time(),
                severity=grave[one.alert.severity] if one.phase == "raised" else syslog.NOTICE,
                kind=f"alert-{one.alert.rule}",
                text=f"{config.node.ae_title} {line(one)}",
            )
            for one in news
        ],
    )


def syslog_server(server: Syslog) -> syslog.Server:
    """The server that a table of the configuration means."""
    tls = server.tls
    return syslog.Server(
        host=server.host,
        port=server.port,
        tls=tls is not None,
        ca=tls.ca if tls else None,
        cert=tls.cert if tls else None,
        key=tls.key if tls else None,
    )


__all__ = ["configured", "line", "send_email", "send_syslog", "send_webhook", "syslog_server", "trial"]
