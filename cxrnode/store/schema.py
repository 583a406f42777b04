"""The tables. The queue row is the audit row: one source of truth about an image.

Times are seconds since 1970 in UTC by the database's clock. Identifiers of patients stand in `identity` alone, so
that they can be erased; `event` never holds one. JSON is stored as canonical text, so that digests can be checked.
Columns `...sha256` of files are older than their other kind of digest (`core.digests`) and keep their names: earlier
code works with them while a fleet is upgraded. Reports and events have SHA-256 alone.
"""

from __future__ import annotations

import sqlalchemy as sa

from cxrnode.core.quality import SCORE_BINS

#: Names of constraints, so that Alembic can address them on every database.
metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(column_0_N_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite only counts up by itself on INTEGER; PostgreSQL wants BIGINT for ten million events a year.
_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_Time: sa.Double[float] = sa.Double()


#: Conditions of partial indexes; a query uses the index where it says the same words.
UNCOUNTED = "counted = 0 AND report IS NOT NULL"
UNTIMED = "counted = 1"
DISPUTED = "disputed"
FAILED = "state = 'failed'"
#: Events that every film makes: of the others there are few, and an index leads to them.
USUAL_EVENTS = (
    *("received", "accepted", "ignored", "enqueued", "claimed", "reported", "delivered"),
    *("delivery_created", "delivery_claimed", "delivery_sent"),
)
UNUSUAL = "name NOT IN ({})".format(", ".join(f"'{name}'" for name in USUAL_EVENTS))


def _digest(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.String(64), nullable=False, default="")


instance = sa.Table(
    "instance",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("sop_instance_uid", sa.String(128), nullable=False),
    sa.Column("dataset_sha256", sa.String(64), nullable=False),
    sa.Column("sop_class_uid", sa.String(128), nullable=False),
    sa.Column("transfer_syntax_uid", sa.String(128), nullable=False),
    sa.Column("calling_aet", sa.String(16), nullable=False),
    sa.Column("called_aet", sa.String(16), nullable=False),
    sa.Column("received_at", _Time, nullable=False, index=True),
    sa.Column("verdict", sa.String(16), nullable=False, index=True),  # accepted | ignored
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("rule", sa.String(128), nullable=False, default=""),
    sa.Column("header", sa.Text, nullable=False),  # the routing header as JSON: no identifier
    sa.Column("spool_key", sa.String(64), index=True),  # NULL once retention took the bytes
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("sop_instance_uid", "dataset_sha256"),
    sa.Index("ix_instance_source", "calling_aet", "received_at"),
    sa.Index("ix_instance_walk", "id", "calling_aet"),  # as ix_job_walk below
)

identity = sa.Table(
    "identity",
    metadata,
    sa.Column("instance_id", _ID, sa.ForeignKey("instance.id"), primary_key=True, autoincrement=False),
    sa.Column("patient_id", sa.Text, nullable=False, index=True),
    sa.Column("issuer", sa.Text, nullable=False, default=""),
    sa.Column("patient_name", sa.Text, nullable=False),
    sa.Column("birth_date", sa.Text, nullable=False),
    sa.Column("sex", sa.Text, nullable=False),
    sa.Column("accession", sa.Text, nullable=False, index=True),
    sa.Column("study_instance_uid", sa.Text, nullable=False, index=True),
    sa.Column("series_instance_uid", sa.Text, nullable=False),
    # What outputs copy of the film's header, in its own bytes (dicom.kept_header): notices outlive the film.
    sa.Column("header", sa.LargeBinary, nullable=False, default=b""),
)

job = sa.Table(
    "job",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("instance_id", _ID, sa.ForeignKey("instance.id"), nullable=False),
    sa.Column("model", sa.String(64), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False, default=1),
    sa.Column("mode", sa.String(16), nullable=False),  # active | shadow
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("outcome", sa.String(16), nullable=False, default=""),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("rank", _Time, nullable=False),
    sa.Column("not_before", _Time, nullable=False, default=0.0),
    sa.Column("created_at", _Time, nullable=False),
    sa.Column("claimed_at", _Time),
    sa.Column("settled_at", _Time),
    # What the rule asked for, kept because rules change: {"outputs": [...], "send_to": [...]}.
    sa.Column("wanted", sa.Text, nullable=False),
    # Lease and fencing (design, rule 3); attempts and losses (rule 7).
    sa.Column("token", sa.Integer, nullable=False, default=0),
    sa.Column("lease_owner", sa.String(128)),
    sa.Column("lease_until", _Time),
    sa.Column("alone", sa.Boolean, nullable=False, default=False),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("losses", sa.Integer, nullable=False, default=0),
    # Provenance.
    _digest("bundle_digest"),
    _digest("config_digest"),
    _digest("rules_digest"),  # of the rules, the words and the modes of the models that were in force (store.changes)
    sa.Column("engine", sa.String(64), nullable=False, default=""),
    _digest("pixel_digest"),
    _digest("identity_digest"),
    sa.Column("duplicate_of", _ID, sa.ForeignKey("job.id")),
    sa.Column("predecessor", _ID, sa.ForeignKey("job.id"), index=True),
    # The same pixels came under another identity, and nobody decided yet: nothing of it is sent (design, rule 5).
    sa.Column("disputed", sa.Boolean, nullable=False, default=False),
    # Why its result was taken back, if it was: quality | patient-safety | worklist; in words; when.
    sa.Column("rejection", sa.String(16), nullable=False, default=""),
    sa.Column("rejection_note", sa.Text, nullable=False, default=""),
    sa.Column("rejected_at", _Time),
    sa.Column("report", sa.Text),
    _digest("report_sha256"),
    sa.Column("saliency_key", sa.String(64), index=True),
    _digest("saliency_sha256"),
    sa.Column("preview_key", sa.String(64), index=True),
    _digest("preview_sha256"),
    _digest("chain_head"),
    # What `store.tallies` has counted of it: 0 nothing, 1 what was said, 2 how long it took, too.
    sa.Column("counted", sa.SmallInteger, nullable=False, default=0, server_default=sa.text("0")),
    sa.UniqueConstraint("instance_id", "model", "revision"),
    sa.Index("ix_job_ready", "state", "model", "rank", "id"),
    sa.Index("ix_job_lease", "state", "lease_until"),
    sa.Index("ix_job_state_id", "state", "id"),  # the newest of a state: what the console lists
    sa.Index("ix_job_created", "created_at"),
    sa.Index("ix_job_settled", "settled_at"),
    sa.Index("ix_job_pixels", "pixel_digest"),
    # What the console's search walks: narrow, where a row with its report is a page on SQLite.
    sa.Index("ix_job_walk", "id", "state", "outcome", "model", "mode", "instance_id"),
    # Small however many jobs there are: those that failed, are in dispute, or are still to be counted.
    sa.Index("ix_job_failed", "settled_at", sqlite_where=sa.text(FAILED), postgresql_where=sa.text(FAILED)),
    sa.Index("ix_job_disputed", "id", sqlite_where=sa.text(DISPUTED), postgresql_where=sa.text(DISPUTED)),
    sa.Index("ix_job_uncounted", "id", sqlite_where=sa.text(UNCOUNTED), postgresql_where=sa.text(UNCOUNTED)),
    sa.Index("ix_job_untimed", "state", "id", sqlite_where=sa.text(UNTIMED), postgresql_where=sa.text(UNTIMED)),
)

#: One row a film (pixels and identity) and model: the guard that makes a second reading a duplicate.
film = sa.Table(
    "film",
    metadata,
    sa.Column("pixel_digest", sa.String(64), nullable=False),
    sa.Column("identity_digest", sa.String(64), nullable=False),
    sa.Column("model", sa.String(64), nullable=False),
    sa.Column("job_id", _ID, sa.ForeignKey("job.id"), nullable=False, index=True),
    sa.PrimaryKeyConstraint("pixel_digest", "identity_digest", "model"),
)

finding = sa.Table(
    "finding",
    metadata,
    sa.Column("job_id", _ID, sa.ForeignKey("job.id"), nullable=False),
    sa.Column("label", sa.String(64), nullable=False),
    sa.Column("score", sa.Double, nullable=False),
    sa.Column("scale", sa.String(16), nullable=False),
    sa.Column("decision", sa.String(16), nullable=False),
    sa.Column("rule_out", sa.Double),
    sa.Column("rule_in", sa.Double),
    sa.PrimaryKeyConstraint("job_id", "label"),
    # All that a search by finding asks, in the order in which it walks.
    sa.Index("ix_finding_walk", "label", "job_id", "decision", "score"),
)

output = sa.Table(
    "output",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("job_id", _ID, sa.ForeignKey("job.id"), nullable=False, index=True),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("label", sa.String(64), nullable=False, default=""),
    sa.Column("sop_class_uid", sa.String(64), nullable=False),
    sa.Column("sop_instance_uid", sa.String(64), nullable=False, unique=True),
    sa.Column("series_instance_uid", sa.String(64), nullable=False, default=""),
    sa.Column("transfer_syntax_uid", sa.String(64), nullable=False),
    sa.Column("instance_number", sa.Integer, nullable=False),
    sa.Column("spool_key", sa.String(64), index=True),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
)

delivery = sa.Table(
    "delivery",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("job_id", _ID, sa.ForeignKey("job.id"), nullable=False, index=True),
    sa.Column("destination", sa.String(64), nullable=False),
    sa.Column("act", sa.String(16), nullable=False),  # report | withdrawal | notice | study-N | retract-N
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("held", sa.Boolean, nullable=False, default=False),
    sa.Column("rank", _Time, nullable=False),
    sa.Column("not_before", _Time, nullable=False, default=0.0),
    sa.Column("created_at", _Time, nullable=False),
    sa.Column("settled_at", _Time),
    sa.Column("token", sa.Integer, nullable=False, default=0),
    sa.Column("lease_owner", sa.String(128)),
    sa.Column("lease_until", _Time),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    # When the destination is asked, or asked again, to commit to what was sent; NULL: nothing is awaited of it.
    sa.Column("commit_at", _Time),
    sa.UniqueConstraint("job_id", "destination", "act"),
    sa.Index("ix_delivery_ready", "destination", "state", "rank", "id"),
    sa.Index("ix_delivery_commit", "destination", "commit_at"),
    sa.Index("ix_delivery_lease", "state", "lease_until"),
)

delivery_output = sa.Table(
    "delivery_output",
    metadata,
    sa.Column("delivery_id", _ID, sa.ForeignKey("delivery.id"), nullable=False),
    sa.Column("output_id", _ID, sa.ForeignKey("output.id"), nullable=False),
    sa.Column("status", sa.Integer),  # the C-STORE status (PS3.7 Annex C); NULL: not yet answered
    sa.Column("done", sa.Boolean, nullable=False, default=False),
    # The destination has it, or may have it: set before it goes out, unset where the destination refused it.
    sa.Column("had", sa.Boolean, nullable=False, default=False),
    sa.Column("comment", sa.String(128), nullable=False, default=""),
    # What storage commitment said of it: committed, or the Failure Reason (PS3.3 C.14.1.1) of the last refusal.
    sa.Column("committed", sa.Boolean, nullable=False, default=False),
    sa.Column("commit_failure", sa.Integer),
    sa.PrimaryKeyConstraint("delivery_id", "output_id"),
)

#: Requests for storage commitment (PS3.4 annex J), one transaction each, written down before they are made.
commitment = sa.Table(
    "commitment",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("transaction_uid", sa.String(64), nullable=False, unique=True),
    sa.Column("delivery_id", _ID, sa.ForeignKey("delivery.id"), nullable=False, index=True),
    sa.Column("destination", sa.String(64), nullable=False),
    sa.Column("token", sa.Integer, nullable=False),  # the delivery's: the sending that it is about
    sa.Column("asked_at", _Time, nullable=False),
    sa.Column("answered_at", _Time),
)

#: What was said of a film that was not read, or not in time: at most one row a job (store.notices).
notice = sa.Table(
    "notice",
    metadata,
    sa.Column("job_id", _ID, sa.ForeignKey("job.id"), primary_key=True, autoincrement=False),
    sa.Column("cause", sa.String(16), nullable=False),  # parked | late | covered
    sa.Column("at", _Time, nullable=False),  # when the film was parked or came to be late: the outputs' clock
    sa.Column("created_at", _Time, nullable=False),
    sa.Column("report", sa.Text, nullable=False, default=""),
    _digest("report_sha256"),
)

#: Who reads under a model's name at the moment, as `infer` loaded it: core.findings.Reader as JSON.
reader = sa.Table(
    "reader",
    metadata,
    sa.Column("model", sa.String(64), primary_key=True),
    sa.Column("reader", sa.Text, nullable=False),
    sa.Column("loaded_at", _Time, nullable=False),
)

#: The pages that put the films of one study side by side; each revision takes the place of the one before.
study_summary = sa.Table(
    "study_summary",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    _digest("study_digest"),  # of patient and study: no identifier stands here
    sa.Column("revision", sa.Integer, nullable=False),
    _digest("readings_digest"),  # of the readings that it lists
    sa.Column("job_id", _ID, sa.ForeignKey("job.id"), nullable=False, index=True),  # under which it is sent
    sa.Column("act", sa.String(16), nullable=False),  # its deliveries' act
    sa.Column("created_at", _Time, nullable=False),
    sa.UniqueConstraint("study_digest", "revision"),
)

#: The state of the way to a destination (design, rule 6): no row, or `open` false, means deliveries flow.
circuit = sa.Table(
    "circuit",
    metadata,
    sa.Column("destination", sa.String(64), primary_key=True),
    sa.Column("open", sa.Boolean, nullable=False, default=False),
    sa.Column("opened_at", _Time),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("faults", sa.Integer, nullable=False, default=0),
    sa.Column("next_probe_at", _Time, nullable=False, default=0.0),
)

event = sa.Table(
    "event",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("at", _Time, nullable=False, index=True),
    sa.Column("instance_id", _ID, sa.ForeignKey("instance.id"), index=True),
    sa.Column("job_id", _ID, sa.ForeignKey("job.id"), index=True),
    sa.Column("delivery_id", _ID, sa.ForeignKey("delivery.id")),
    sa.Column("name", sa.String(32), nullable=False),
    sa.Column("detail", sa.Text, nullable=False, default="{}"),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.Index("ix_event_unusual", "name", "id", sqlite_where=sa.text(UNUSUAL), postgresql_where=sa.text(UNUSUAL)),
)

#: The processes of all machines, a row each, as they say it themselves and renew it while they live (store.fleet).
process = sa.Table(
    "process",
    metadata,
    sa.Column("owner", sa.String(128), primary_key=True),  # as in the leases that it holds
    sa.Column("node", sa.String(64), nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("version", sa.String(32), nullable=False),
    sa.Column("revision", sa.String(32), nullable=False),  # the schema that its code was written for
    sa.Column("device", sa.String(128), nullable=False, default=""),
    sa.Column("models", sa.Text, nullable=False, default="{}"),  # name -> bundle digest, of those that it has loaded
    _digest("config_digest"),
    sa.Column("started_at", _Time, nullable=False),
    sa.Column("beat_at", _Time, nullable=False),
)

#: One row about the database as a whole (store.upgrade).
standing = sa.Table(
    "standing",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),  # always 1
    sa.Column("oldest", sa.String(32), nullable=False),  # code written for an older schema may not work with this one
    sa.Column("moved_to", sa.Text, nullable=False, default=""),  # where all of it stands now, if not here
    # The kind of digest that its films and files began with (core.digests): it never changes.
    sa.Column("digests", sa.String(16), nullable=False, default="sha256", server_default="sha256"),
)

#: The steps of worklists that this node claimed, or is about to (store.workitems): their key is written down first.
workitem = sa.Table(
    "workitem",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("worklist", sa.String(64), nullable=False),  # its name in the configuration
    sa.Column("uid", sa.String(64), nullable=False),
    sa.Column("transaction_uid", sa.String(64), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),  # asked | ours | fetched | completed | canceled | lost
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("created_at", _Time, nullable=False),
    sa.Column("settled_at", _Time),
    sa.Column("not_before", _Time, nullable=False, default=0.0),
    sa.UniqueConstraint("worklist", "uid", "transaction_uid"),
    sa.Index("ix_workitem_state", "worklist", "state", "id"),
)

#: The films that came for a workitem, or had come before.
workitem_film = sa.Table(
    "workitem_film",
    metadata,
    sa.Column("workitem_id", _ID, sa.ForeignKey("workitem.id"), nullable=False),
    sa.Column("instance_id", _ID, sa.ForeignKey("instance.id"), nullable=False, index=True),
    sa.PrimaryKeyConstraint("workitem_id", "instance_id"),
)

#: Who does a periodic duty of `tend` at the moment: a lease by name.
duty = sa.Table(
    "duty",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("owner", sa.String(128), nullable=False),
    sa.Column("until", _Time, nullable=False),
)

#: What a model said, a row a day and group: rebuildable from `job` and `finding` (store.tallies).
#:
#: `part` says what the row is about: "all" of the day, one of "aet", "device", "view", "sex", "age" with that column
#: filled, or "cell": sender, view, sex and age band together. The other columns of the group are "". `label` "" is the
#: film as a whole: `films` reported, `refused` not analysed, and its bins hold plausibility distance over its limit.
daily = sa.Table(
    "daily",
    metadata,
    sa.Column("part", sa.String(8), nullable=False),
    sa.Column("model", sa.String(64), nullable=False),
    sa.Column("label", sa.String(64), nullable=False),
    sa.Column("day", sa.Integer, nullable=False),  # days since 1970-01-01 in UTC, of the claim
    sa.Column("mode", sa.String(16), nullable=False),
    sa.Column("bundle", sa.String(12), nullable=False),  # the first letters of its digest
    sa.Column("calling_aet", sa.String(16), nullable=False),
    sa.Column("device", sa.String(64), nullable=False),
    sa.Column("view", sa.String(16), nullable=False),
    sa.Column("sex", sa.String(8), nullable=False),
    sa.Column("age_band", sa.String(8), nullable=False),
    sa.Column("films", sa.Integer, nullable=False),
    sa.Column("refused", sa.Integer, nullable=False),
    sa.Column("present", sa.Integer, nullable=False),
    sa.Column("undetermined", sa.Integer, nullable=False),
    sa.Column("absent", sa.Integer, nullable=False),
    sa.Column("not_assessed", sa.Integer, nullable=False),
    # How many scores lie in each bin (core.quality.score_edges).
    *(sa.Column(f"b{number:02}", sa.Integer, nullable=False) for number in range(SCORE_BINS)),
    sa.PrimaryKeyConstraint(
        *("part", "model", "label", "day", "mode", "bundle", "calling_aet", "device", "view", "sex", "age_band")
    ),
    sqlite_with_rowid=False,
)

#: How long it took, a row a day, model, stage and bin (core.quality.time_ends); rebuildable as `daily` is.
daily_time = sa.Table(
    "daily_time",
    metadata,
    sa.Column("day", sa.Integer, nullable=False),
    sa.Column("model", sa.String(64), nullable=False),
    sa.Column("stage", sa.String(16), nullable=False),  # queue | reading | report | delivery | total
    sa.Column("bin", sa.SmallInteger, nullable=False),
    sa.Column("jobs", sa.Integer, nullable=False),
    sa.PrimaryKeyConstraint("day", "model", "stage", "bin"),
    sqlite_with_rowid=False,
)

#: How an active and a shadow model agree on the films that both read, a row a day and label; rebuildable.
daily_pair = sa.Table(
    "daily_pair",
    metadata,
    sa.Column("day", sa.Integer, nullable=False),
    sa.Column("active", sa.String(64), nullable=False),
    sa.Column("shadow", sa.String(64), nullable=False),
    sa.Column("label", sa.String(64), nullable=False),
    sa.Column("active_bundle", sa.String(12), nullable=False),
    sa.Column("shadow_bundle", sa.String(12), nullable=False),
    sa.Column("films", sa.Integer, nullable=False),
    sa.Column("both", sa.Integer, nullable=False),  # present in both
    sa.Column("only_active", sa.Integer, nullable=False),
    sa.Column("only_shadow", sa.Integer, nullable=False),
    sa.Column("difference", sa.Double, nullable=False),  # the sum of shadow's score less active's
    sa.Column("distance", sa.Double, nullable=False),  # the sum of its size
    sa.PrimaryKeyConstraint("day", "active", "shadow", "label", "active_bundle", "shadow_bundle"),
    sqlite_with_rowid=False,
)

#: What each sender sent, a row an hour (hours since 1970 in UTC); counted anew while the hour is young.
hourly = sa.Table(
    "hourly",
    metadata,
    sa.Column("calling_aet", sa.String(16), nullable=False),
    sa.Column("hour", sa.Integer, nullable=False),
    sa.Column("received", sa.Integer, nullable=False),
    sa.Column("accepted", sa.Integer, nullable=False),
    sa.PrimaryKeyConstraint("hour", "calling_aet"),
    sqlite_with_rowid=False,
)

#: What was found out later, or what a reader thinks, of one finding of one film. It never changes a result.
feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("given_at", _Time, nullable=False),
    sa.Column("instance_id", _ID, sa.ForeignKey("instance.id"), nullable=False),
    sa.Column("job_id", _ID, sa.ForeignKey("job.id"), index=True),  # which result a reader looked at
    sa.Column("label", sa.String(64), nullable=False),
    sa.Column("truth", sa.Boolean),  # whether the film shows it; NULL where only an opinion was given
    sa.Column("verdict", sa.String(8), nullable=False),  # "" | agree | disagree
    sa.Column("source", sa.String(64), nullable=False),  # where the truth comes from, as "CT"
    sa.Column("given_by", sa.String(64), nullable=False),
    sa.Index("ix_feedback_instance", "instance_id", "label"),
)

#: The seal of the events up to `last_event`: its digest covers the seal before it and every event since (store.seals).
seal = sa.Table(
    "seal",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("sealed_at", _Time, nullable=False),
    sa.Column("first_event", _ID, nullable=False),
    sa.Column("last_event", _ID, nullable=False),
    sa.Column("events", sa.Integer, nullable=False),
    _digest("before"),
    _digest("digest"),
)

#: What is wrong at the moment, or was: one row from the first time a condition is met until it is over.
alert = sa.Table(
    "alert",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("rule", sa.String(32), nullable=False),
    sa.Column("subject", sa.String(64), nullable=False),  # a model, node, sender: never a patient
    sa.Column("severity", sa.String(8), nullable=False),  # warning | critical
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("remedy", sa.Text, nullable=False),
    sa.Column("began_at", _Time, nullable=False),
    sa.Column("seen_at", _Time, nullable=False),
    sa.Column("raised_at", _Time),  # when it had held for long enough to be told
    sa.Column("quiet_since", _Time),  # when the condition was not met any more
    sa.Column("ended_at", _Time),
    sa.Index("ix_alert_open", "ended_at", "rule", "subject"),
)

#: Which channel was told of an alert: that it began, and that it is over.
alert_told = sa.Table(
    "alert_told",
    metadata,
    sa.Column("alert_id", _ID, sa.ForeignKey("alert.id"), nullable=False),
    sa.Column("channel", sa.String(16), nullable=False),  # email | webhook | syslog
    sa.Column("phase", sa.String(8), nullable=False),  # raised | ended
    sa.Column("told_at", _Time, nullable=False),
    sa.PrimaryKeyConstraint("alert_id", "channel", "phase"),
)

#: How far a duty that follows the events has come.
follower = sa.Table(
    "follower",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("last_event", _ID, nullable=False),
)

#: Associations that peers asked for, the newest of them: what was proposed, and why it was refused.
association = sa.Table(
    "association",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("at", _Time, nullable=False),  # when it was asked for, or the last of `times`
    sa.Column("calling_aet", sa.String(16), nullable=False),
    sa.Column("called_aet", sa.String(16), nullable=False),
    sa.Column("address", sa.String(64), nullable=False),
    sa.Column("outcome", sa.String(16), nullable=False),  # accepted | rejected | failed
    sa.Column("cause", sa.String(16), nullable=False, default=""),  # why not, as core.associations names it
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("contexts", sa.Text, nullable=False, default="{}"),
    sa.Column("objects", sa.Integer, nullable=False, default=0),
    sa.Column("refused", sa.Integer, nullable=False, default=0),
    sa.Column("seconds", sa.Double, nullable=False, default=0.0),
    sa.Column("times", sa.Integer, nullable=False, default=1),
    sa.Index("ix_association_outcome", "outcome", "id"),
)

#: Who may use the console. The password stands as an argon2 hash; "" where a proxy says who somebody is.
account = sa.Table(
    "account",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("role", sa.String(16), nullable=False),  # viewer | operator | admin
    sa.Column("password", sa.String(256), nullable=False, default=""),
    sa.Column("created_at", _Time, nullable=False),
    sa.Column("seen_at", _Time),
    sa.Column("disabled", sa.Boolean, nullable=False, default=False),
)

#: Who is logged in: the SHA-256 of a secret that the browser, or a program, keeps.
session = sa.Table(
    "session",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("account", sa.String(64), sa.ForeignKey("account.name"), nullable=False, index=True),
    sa.Column("kind", sa.String(16), nullable=False),  # browser | token
    sa.Column("purpose", sa.String(128), nullable=False, default=""),
    sa.Column("created_at", _Time, nullable=False),
    sa.Column("seen_at", _Time, nullable=False),
    sa.Column("until", _Time, nullable=False),
)

#: What all consoles of one store share, and nobody else knows: made by the first of them (store.accounts).
secret = sa.Table(
    "secret",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("value", sa.String(64), nullable=False),
    sa.Column("made_at", _Time, nullable=False),
)

#: Tries to log in that failed of late, by a keyed digest of the name, the address or the browser (store.attempts).
attempt = sa.Table(
    "attempt",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("last_at", _Time, nullable=False, index=True),
    sa.Column("paused_until", _Time, nullable=False),
)

#: What people changed while the node runs, and who agreed; `switch` has what is in force (store.changes).
change = sa.Table(
    "change",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("subject", sa.String(80), nullable=False),  # model:NAME | queue:reading | queue:sending
    sa.Column("value", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("asked_by", sa.String(64), nullable=False),
    sa.Column("asked_at", _Time, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),  # asked | applied | refused
    sa.Column("decided_by", sa.String(64), nullable=False, default=""),
    sa.Column("decided_at", _Time),
    sa.Index("ix_change_state", "state", "id"),
)

#: What is in force instead of the configuration's word: no row means that the configuration's stands.
switch = sa.Table(
    "switch",
    metadata,
    sa.Column("subject", sa.String(80), primary_key=True),
    sa.Column("value", sa.String(16), nullable=False),
    sa.Column("before", sa.String(16), nullable=False),
    sa.Column("since", _Time, nullable=False),
    sa.Column("by", sa.String(64), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)
