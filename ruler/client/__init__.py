"""The same scores over HTTP, from a service that `ruler serve` runs. Needs the extra `client`.

client = Client("http://judge:8000", judge="careful")
scored = await client.score(group)
joined = await client.join(rollout, group_id="task-17/step-3", group_size=8, task=task)    # each rollout by itself
"""

from ruler.client.client import Client
from ruler.client.join import JoinedScore

__all__ = ["Client", "JoinedScore"]
