"""What each trainer needs, all of it over one core: `groups` finds the groups, `rewarder` rewards them.

None imports its trainer before it is used. What each does when the judge fails is in docs/trainers.md.
"""
