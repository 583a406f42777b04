"""The demonstration: a node as it would be served, an archive in the PACS's place, and films sent to it."""

from cxrnode.demo.run import run

__all__ = ["run"]
