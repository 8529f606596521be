"""What a judge does to positions, lengths and attacks, before anybody trains with it.

from ruler.audit import audit, findings
result = await audit(judge, groups)  # groups as read_labelled gives them
for finding in findings(result):
    print(finding.subject, finding.text)
"""

from ruler.audit.asking import Questions, Tell
from ruler.audit.findings import Finding, findings
from ruler.audit.positions import Positions, SizePositions, position_effects
from ruler.audit.record import audit_record
from ruler.audit.run import Audit, audit

__all__ = [
    "Audit",
    "Finding",
    "Positions",
    "Questions",
    "SizePositions",
    "Tell",
    "audit",
    "audit_record",
    "findings",
    "position_effects",
]
