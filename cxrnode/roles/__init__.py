"""The roles: what a process of the node does. Claim, do, settle; they talk through the store and the spool alone."""
