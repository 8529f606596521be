"""An audit as one JSON object."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ruler.audit.findings import findings
from ruler.audit.run import Audit
from ruler.results import failure_records, usage_record


def audit_record(audit: Audit) -> dict[str, Any]:
    """All figures by the names of `Audit`, with `findings`, as JSON can hold them: null is a figure there is not.

    An estimate has `value`, `interval` (two numbers), `groups` and `clusters`.
    """
    record = asdict(audit)
    record["noise"]["deterministic"] = audit.noise.deterministic
    record["questions"] |= {"total": audit.questions.total, "prompt_tokens": audit.questions.prompt_tokens}
    record["findings"] = [asdict(finding) for finding in findings(audit)]
    record["usage"] = usage_record(audit.usage)
    record["failures"] = failure_records(audit.failures)
    return record
