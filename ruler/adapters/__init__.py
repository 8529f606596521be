"""One file per trainer, each over the same core: `groups` finds the groups, `rewarder` rewards them.

None imports its trainer before it is used. What each does when the judge fails is in docs/trainers.md.
"""
