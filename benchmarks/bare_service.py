"""What the service is measured against: FastAPI endpoints that parse a body and give a fixed answer, and do no more.

python -m benchmarks.bare_service       # prints its address, then serves
"""

from __future__ import annotations

import json

import uvicorn
from fastapi import FastAPI, Request, Response

app = FastAPI()
_answers: dict[str, bytes] = {}


@app.post("/answer")
async def answer(request: Request, path: str) -> Response:
    """Sets the body that a path answers with."""
    _answers[path] = await request.body()
    return Response(status_code=204)


async def _post(request: Request) -> Response:
    json.loads(await request.body())
    return Response(_answers.get(request.url.path, b"{}"), media_type="application/json")


for _path in ("/v1/score", "/v1/rollouts"):
    app.post(_path)(_post)


def main() -> None:
    """Serves on a free port of the loopback, as `ruler serve` does."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, access_log=False, log_level="warning")
    listening = config.bind_socket()
    listening.listen(2048)
    print(f"bare http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
