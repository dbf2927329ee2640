"""The rules: one pure function each, `Facts × Profile → what it found`, by area in one module each.

`RULES` holds them all by id. A rule that the profile gives no weight is not run.
"""

from diskfmt.readiness.rules.base import RULES, Rule, judge

__all__ = ["RULES", "Rule", "judge"]
