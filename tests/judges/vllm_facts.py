"""What the judge does over a real engine, found out in a process of its own: vLLM leaves threads, patches and warnings.

python -m tests.judges.vllm_facts MODEL_DIR [killed]      # one line of JSON on standard output

It asserts nothing; `test_vllm_engine.py` does.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable
from typing import Any

from judges.vllm import VLLMJudge
from ruler import Group, Ruler
from ruler.errors import JudgeError
from ruler.types import JudgeReply, JudgeRequest, Sampling

ENGINE = {"dtype": "float32", "enforce_eager": True, "max_num_seqs": 64, "gpu_memory_utilization": 0.3}
ITEM = {
    "type": "object",
    "properties": {"id": {"enum": ["KQX", "BDF"]}, "score": {"type": "integer", "minimum": 0, "maximum": 100}},
    "required": ["id", "score"],
    "additionalProperties": False,
}
SCORES = {
    "type": "object",
    "properties": {"scores": {"type": "array", "minItems": 2, "maxItems": 2, "items": ITEM}},
    "required": ["scores"],
    "additionalProperties": False,
}
DIGITS = {"type": "array", "minItems": 250, "maxItems": 250, "items": {"type": "integer", "minimum": 0, "maximum": 9}}
"""Takes some 700 tokens to fulfil: a second, or ten on a busy machine."""

batches: list[int] = []
"""Requests that ran together, at each step of the engine."""


def request(text: str = "hello", schema: Any = SCORES, *, repeat: int = 0, **sampling: Any) -> JudgeRequest:
    messages = ({"role": "system", "content": "You are a judge."}, {"role": "user", "content": text})
    return JudgeRequest(messages, schema, ("KQX", "BDF"), sampling=Sampling(**sampling), repeat=repeat)


async def refused(answer: Awaitable[object]) -> list[str]:
    try:
        return ["answered", str(await answer)]
    except JudgeError as error:
        return [type(error).__name__, str(error)]


async def running(number: int) -> None:
    """Waits until so many requests run together."""

    def wait() -> None:
        while number not in batches:
            time.sleep(0.005)

    batches.clear()
    await asyncio.to_thread(wait)


def fact(reply: JudgeReply) -> dict[str, Any]:
    usage = reply.usage
    return {
        "text": reply.text,
        "finish_reason": reply.finish_reason,
        "latency_seconds": reply.latency_seconds,
        "usage": [usage.calls, usage.input_tokens, usage.cached_input_tokens, usage.output_tokens, usage.cost_usd],
    }


def record_batches() -> None:
    from vllm.v1.engine.llm_engine import LLMEngine

    step = LLMEngine.step

    def recorded(engine: Any) -> Any:
        batches.append(len(engine.engine_core.engine_core.scheduler.running))
        return step(engine)

    LLMEngine.step = recorded


async def one_by_one(judge: VLLMJudge) -> dict[str, Any]:
    facts: dict[str, Any] = {"first": fact(await judge(request()))}
    seeds = [(5, 0), (5, 0), (5, 1), (5, 1)]
    facts["seeded"] = [(await judge(request(seed=seed, repeat=repeat))).text for seed, repeat in seeds]
    facts["greedy"] = [(await judge(request(temperature=0, seed=5, repeat=repeat))).text for repeat in range(2)]
    prompt = "the rollouts of one task " * 40
    facts["cached"] = [fact(await judge(request(prompt))) for _ in range(2)]
    facts["cut_off"] = fact(await judge(request(schema=DIGITS, max_tokens=20)))
    facts["too_long"] = await refused(judge(request("x" * 9000)))
    facts["no_such_type"] = await refused(judge(request(schema={"type": "nonsense"})))
    facts["unsupported"] = await refused(judge(request(schema={"type": "integer", "multipleOf": 7})))
    picture = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}
    facts["picture"] = await refused(judge(JudgeRequest((picture,), SCORES, ())))
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    facts["parts"] = fact(await judge(JudgeRequest(({"role": "user", "content": parts},), SCORES, ())))
    facts["whole"] = fact(await judge(JudgeRequest(({"role": "user", "content": "one two"},), SCORES, ())))
    return facts


async def together(judge: VLLMJudge) -> dict[str, Any]:
    batches.clear()
    texts: list[str] = []

    async def ask(name: str) -> None:
        replies = await asyncio.gather(*[judge(request(f"{name}{number}")) for number in range(16)])
        texts.extend(reply.text for reply in replies)

    loops = [threading.Thread(target=asyncio.run, args=(ask(name),)) for name in "ab"]
    for loop in loops:
        loop.start()
    for loop in loops:
        await asyncio.to_thread(loop.join)
    facts: dict[str, Any] = {"texts": texts, "largest_batch": max(batches)}

    long = [asyncio.create_task(judge(request(name, DIGITS))) for name in ("cancelled", "stays")]
    await running(2)
    late = await judge(request("late"))
    facts["late"] = {"text": late.text, "others_done": [task.done() for task in long], "batch": max(batches)}
    long[0].cancel()
    await asyncio.wait(long[:1])
    await running(1)
    facts["cancelled"] = {"cancelled": long[0].cancelled(), "other_done": long[1].done()}
    facts["stays"] = fact(await long[1])
    return facts


async def scored(judge: VLLMJudge) -> list[dict[str, Any]]:
    group = Group.of(["Four.", "I think it is five, because two and two are five.", "4"], task="What is 2 + 2?")
    results = []
    for notes in (True, False):
        (result,) = await Ruler(judge, notes=notes).score_many([group])
        reason, scores = getattr(result, "reason", None), getattr(result, "scores", None)
        message = getattr(result, "message", "")
        results.append({"status": result.status, "reason": reason, "scores": scores, "message": message})
    return results


async def failures(judge: VLLMJudge, folder: str) -> dict[str, Any]:
    from vllm.v1.engine.llm_engine import LLMEngine

    step = LLMEngine.step

    def broken(engine: Any) -> Any:
        raise RuntimeError("the device\nis gone")

    LLMEngine.step = broken
    facts: dict[str, Any] = {"dead": await asyncio.gather(*[refused(judge(request())) for _ in range(3)])}
    LLMEngine.step = step
    facts["after_death"] = fact(await judge(request()))
    for name, engine in (("argument", {"no_such_argument": 1}), ("dtype", {"dtype": "float31"})):
        facts[name] = await refused(VLLMJudge(folder, engine=ENGINE | engine)(request()))
    return facts


async def killed(folder: str) -> dict[str, Any]:
    """With the engine in a process of its own, as vLLM has it by default: that process dies."""
    judge = VLLMJudge(folder, engine=ENGINE)
    facts: dict[str, Any] = {"first": fact(await judge(request()))}
    long = asyncio.create_task(refused(judge(request(schema=DIGITS))))
    await asyncio.sleep(0.3)
    assert judge._worker is not None
    manager = judge._worker._llm.llm_engine.engine_core.resources.engine_manager
    (process,) = manager.processes
    os.kill(process.pid, signal.SIGKILL)
    started = time.monotonic()
    facts["killed"] = await long
    facts["seconds"] = time.monotonic() - started
    judge.close()
    return facts


async def all_facts(folder: str) -> dict[str, Any]:
    made = time.perf_counter()
    judge = VLLMJudge(folder, sampling=Sampling(max_tokens=150), engine=ENGINE)
    facts: dict[str, Any] = {
        "made_seconds": time.perf_counter() - made,
        "loaded_by_making": "vllm" in sys.modules or "torch" in sys.modules,
        "counted": judge.info.count_tokens("hello there") if judge.info.count_tokens else None,
    }
    await judge(request())
    record_batches()
    facts["one_by_one"] = await one_by_one(judge)
    facts["together"] = await together(judge)
    facts["scored"] = await scored(judge)
    facts["failures"] = await failures(judge, folder)
    judge.close()
    await asyncio.sleep(0)  # until then the event loop holds the last error, and that its judge
    gc.collect()
    await asyncio.sleep(0.5)
    facts["threads_after_close"] = [thread.name for thread in threading.enumerate()]
    facts["after_close"] = fact(await judge(request()))
    # Left open and at work: the process must end in good order all the same.
    facts["left"] = asyncio.create_task(judge(request(schema=DIGITS)))
    await running(1)
    return facts


if __name__ == "__main__":
    folder, *options = sys.argv[1:]
    facts = asyncio.run(killed(folder) if options else all_facts(folder))
    sys.stdout.write(json.dumps(facts, default=str) + "\n")
