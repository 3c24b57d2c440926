"""One frozen tree of settings for a campaign: what each means, its default, and what is refused.

The tree is the only place where a setting is defined; the JSON Schema for editors is generated from it.
`load` fills it, in falling precedence, from `--set` flags, SELFALIGN_ variables, the campaign's file, a recipe, and the
tree's defaults, and remembers for each value where it came from.
"""

from selfalign.config.contradictions import NAME, contradictions, unread
from selfalign.config.loading import ConfigError, Loaded, load, schema_text, to_yaml
from selfalign.config.tree import (
    HIGHEST_LEVEL,
    Accept,
    Adapter,
    Campaign,
    EngineSettings,
    Evaluate,
    EvaluateJudge,
    Generate,
    Judge,
    Launch,
    Objective,
    Optimizer,
    Pairs,
    Phase,
    Policy,
    Ppo,
    Price,
    Prompts,
    Replay,
    Revise,
    RewardModel,
    Train,
    in_round,
)

__all__ = [
    "HIGHEST_LEVEL",
    "NAME",
    "Accept",
    "Adapter",
    "Campaign",
    "ConfigError",
    "EngineSettings",
    "Evaluate",
    "EvaluateJudge",
    "Generate",
    "Judge",
    "Launch",
    "Loaded",
    "Objective",
    "Optimizer",
    "Pairs",
    "Phase",
    "Policy",
    "Ppo",
    "Price",
    "Prompts",
    "Replay",
    "Revise",
    "RewardModel",
    "Train",
    "contradictions",
    "in_round",
    "load",
    "schema_text",
    "to_yaml",
    "unread",
]
