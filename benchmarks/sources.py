"""What is known of the published sources of groups: how their truth has to be read."""

from __future__ import annotations

APART = ("tau2-bench-telecom", "tau2-bench-telecom-solo")
"""Two agents only, one of which nearly always wins: a judge that likes its style would look good. Outside all means."""

MIN_GAPS = {"intercode-bash": 0.15}
"""Its partial rewards are coarse: smaller differences of truth say nothing."""
