"""The pages for people. Each module has its VIEWS; the words stand in `templates`."""

from __future__ import annotations

from cxrnode.web.pages import account, associations, bulk, feedback, films, job, jobs, models, nodes, overview, qa

VIEWS = (
    *account.VIEWS,
    *overview.VIEWS,
    *jobs.VIEWS,
    *bulk.VIEWS,
    *job.VIEWS,
    *films.VIEWS,
    *associations.VIEWS,
    *models.VIEWS,
    *nodes.VIEWS,
    *qa.VIEWS,
    *feedback.VIEWS,
)
