"""The site's rules and words, from the configuration to the values that routing works with."""

from __future__ import annotations

from cxrnode.config import Config
from cxrnode.core.routing import Rule
from cxrnode.core.words import WordList


def configured_rules(config: Config) -> tuple[Rule, ...]:
    """The rules in their order. Raises ConfigError for a condition that routing does not know."""
    return tuple(
        Rule(
            name=rule.name,
            when=rule.when,
            unsure=rule.unsure,
            models=rule.models,
            outputs=rule.outputs,
            send_to=rule.send_to,
            priority=rule.priority,
        )
        for rule in config.rules
    )


def configured_words(config: Config) -> WordList:
    """The built-in words and those that this site adds."""
    more = config.words
    return WordList().extended(
        chest=more.chest, other_regions=more.not_chest, frontal=more.frontal, lateral=more.lateral
    )
