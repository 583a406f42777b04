"""The command line: `cxrnode NOUN VERB`. One module a noun; a command loads what it alone needs.

Exit status: 0 good, 1 the answer is no, 2 usage. What cxrnode knows to be wrong is a line on stderr with its remedy,
never a traceback. Nothing here decides about a film: the commands ask the store, the sender and the node.
"""

from __future__ import annotations

from pathlib import Path

import click

from cxrnode import __version__
from cxrnode.cli.admit import admit_command
from cxrnode.cli.alerts import alerts
from cxrnode.cli.audit import audit
from cxrnode.cli.bench import bench_command
from cxrnode.cli.calibrate import calibrate_command
from cxrnode.cli.changes import activate_command, changes, disable_command, queue, shadow_command
from cxrnode.cli.check import check
from cxrnode.cli.corrections import decide_command, resend_command, retry_command, withdraw_command
from cxrnode.cli.database import db
from cxrnode.cli.demo import demo
from cxrnode.cli.dicom import echo, send
from cxrnode.cli.evaluate import evaluate
from cxrnode.cli.explain import explain
from cxrnode.cli.export import export_command
from cxrnode.cli.feedback import feedback
from cxrnode.cli.fleet import fleet
from cxrnode.cli.health import health
from cxrnode.cli.imports import import_command, pull_command
from cxrnode.cli.init import init
from cxrnode.cli.instances import instances
from cxrnode.cli.jobs import jobs
from cxrnode.cli.models import model
from cxrnode.cli.options import Commands, config_option
from cxrnode.cli.plan import plan_command
from cxrnode.cli.rules import rules
from cxrnode.cli.serve import serve
from cxrnode.cli.serving import export_model_command
from cxrnode.cli.stats import stats_command
from cxrnode.cli.trail import erase_command, rebuild_command, seal_command, verify_command
from cxrnode.cli.train import train
from cxrnode.cli.users import users


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="cxrnode")
@config_option
def main(config_path: Path | None) -> None:
    """Read chest radiographs beside a PACS: a film in, a structured report and heatmaps back.

    Research software, not a medical device.
    """


for _command in (
    init,
    check,
    serve,
    health,
    demo,
    echo,
    send,
    rules,
    instances,
    jobs,
    model,
    train,
    evaluate,
    explain,
    audit,
    users,
    queue,
    changes,
    alerts,
    db,
    bench_command,
    fleet,
    plan_command,
):
    main.add_command(_command)
for _command in (pull_command, import_command, calibrate_command, admit_command, export_model_command):
    model.add_command(_command)
for _command in (activate_command, shadow_command, disable_command):
    model.add_command(_command)
for _command in (retry_command, resend_command, withdraw_command, decide_command):
    jobs.add_command(_command)
for _audit_command in (
    *(export_command, stats_command, verify_command, seal_command, erase_command, rebuild_command, feedback),
):
    audit.add_command(_audit_command)

__all__ = ["main"]
