"""The rules: one pure function each, `Facts × Profile → what it found`, by area in one module each.

`RULES` holds them all by id. A rule that the profile gives no weight is not run.
"""

from diskfmt.readiness.rules import container, safety, size
from diskfmt.readiness.rules.base import CONTAINER_AREAS, RULES, Rule, judge, require_known

__all__ = ["CONTAINER_AREAS", "RULES", "Rule", "container", "judge", "require_known", "safety", "size"]
