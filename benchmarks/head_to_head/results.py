"""An experiment and what it shows as JSON: what is equal for equal experiments, and what they took, apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from benchmarks.head_to_head.findings import Findings
from benchmarks.head_to_head.outcomes import Experiment


def results(experiment: Experiment, findings: Findings) -> Mapping[str, Any]:
    """Everything but what runs took: the same on a machine however often they were interrupted."""
    described = asdict(experiment)
    for arm in described["arms"]:
        for run in arm["runs"]:
            del run["spent"]
    found = asdict(findings)
    arms = {arm["arm"]["name"]: {**arm, "findings": found["arms"][arm["arm"]["name"]]} for arm in described["arms"]}
    for name, arm in findings.arms.items():
        arms[name]["findings"] |= {"falls": arm.falls}
        arms[name]["findings"]["ceiling"] |= {"reported": arm.ceiling.reported}
    return {
        **{name: value for name, value in described.items() if name != "arms"},
        **{name: value for name, value in found.items() if name != "arms"},
        "arms": arms,
    }


def spent(experiment: Experiment) -> Mapping[str, Any]:
    """Arm -> seed -> what its run took."""
    return {outcome.arm.name: {str(run.seed): asdict(run.spent) for run in outcome.runs} for outcome in experiment.arms}
