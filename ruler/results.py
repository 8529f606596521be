"""Scored groups as JSON lines, written and read; files of them are plain, gzip (`.gz`), or `-` for standard output.

A run into a file that stopped can be continued.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from typing import IO, Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ruler.errors import ConfigError
from ruler.packing import PackedPrompt
from ruler.records import copy_stream, first_fault, open_read
from ruler.types import FailedGroup, FailedOrder, Group, JudgedOrder, Juror, Score, ScoredGroup, Usage


def result_record(result: ScoredGroup | FailedGroup) -> dict[str, Any]:
    """The result as the JSON object of docs/formats.md; there is no `score` key where there is no score."""
    record: dict[str, Any] = {
        "group_id": result.group_id,
        "group_digest": result.group_digest,
        "rollouts_digest": result.rollouts_digest,
        "status": result.status,
    }
    if isinstance(result, FailedGroup):
        record |= {"reason": result.reason, "message": result.message}
        if result.raw_reply is not None:
            record["raw_reply"] = result.raw_reply
        record["rollouts"] = [{"id": name} for name in result.rollout_ids]
    else:
        record["rollouts"] = [{"id": score.id, **score_record(score)} for score in result.rollouts]
        record["model"] = result.model
        if result.answered_by is not None:
            record["answered_by"] = result.answered_by
        record["orders_used"] = result.orders_used
        if result.agreement is not None:
            record["agreement"] = result.agreement
        if result.absolute:
            record["absolute"] = True
        if result.clipped:
            record["clipped"] = result.clipped
        record["judged"] = [
            {name: value for name, value in asdict(judged).items() if name != "judge" or result.jury}
            for judged in result.judged
        ]
        if result.failed_orders:
            record["failed_orders"] = [asdict(failed) for failed in result.failed_orders]
        if result.jury:
            record["jury"] = [_juror_record(juror) for juror in result.jury]
    record |= {key: getattr(result, key) for key in _MADE_BY}
    record["usage"] = usage_record(result.usage)
    return record


def score_record(score: Score) -> dict[str, Any]:
    """What is said of one rollout, without its id; only what there is to say, and no `score` where there is none."""
    said = {
        "score": score.score,
        "stderr": score.stderr,
        "note": score.note,
        "same_as": score.same_as,
        "cut_chars": score.cut_chars or None,
        "flags": list(score.flags) or None,
    }
    return {key: value for key, value in said.items() if value is not None}


def _juror_record(juror: Juror) -> dict[str, Any]:
    record: dict[str, Any] = {"judge": juror.judge, "model": juror.model}
    if juror.answered_by is not None:
        record["answered_by"] = juror.answered_by
    record["scores"] = list(juror.scores)
    if juror.stderr is not None:
        record["stderr"] = list(juror.stderr)
    if any(note is not None for note in juror.notes):
        record["notes"] = list(juror.notes)
    record["usage"] = usage_record(juror.usage)
    return record


def failure_records(results: Iterable[ScoredGroup | FailedGroup]) -> list[dict[str, str]]:
    """Which groups failed and why, for a summary."""
    return [
        {"group_id": result.group_id, "reason": result.reason, "message": result.message}
        for result in results
        if isinstance(result, FailedGroup)
    ]


def prompt_record(
    group_id: str, prompt: PackedPrompt, count_tokens: Callable[[str], int], *, judge: str | None
) -> dict[str, Any]:
    """A prompt as it would be asked, with its token account.

    Args:
        group_id: whose.
        prompt: one of `Ruler.pack`.
        count_tokens: the tokenizer for the account.
        judge: named where several would be asked.
    """
    return {
        "group_id": group_id,
        **({"judge": judge} if judge else {}),
        "order": prompt.order,
        "block": prompt.block,
        "ids": list(prompt.labels),
        "rollouts": prompt.rollouts,
        "messages": prompt.messages,
        "tokens": prompt.tokens(count_tokens),
        **({"cut_chars": prompt.cut_chars} if any(prompt.cut_chars.values()) else {}),
    }


def usage_record(usage: Usage) -> dict[str, Any]:
    """The usage as a JSON object; `cost_usd` is null when a price is unknown, `wait_seconds` has 3 decimals."""
    record = {name: getattr(usage, name) for name in Usage.__dataclass_fields__}
    return record | {"wait_seconds": round(usage.wait_seconds, 3)}


_Count = Annotated[int, Field(ge=0)]
_Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Unit = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class _Record(BaseModel):
    # No text is taken for a number, and keys that a later version adds are left alone.
    model_config = ConfigDict(strict=True, extra="ignore")


class _UsageRecord(_Record):
    calls: _Count
    input_tokens: _Count
    cached_input_tokens: _Count
    output_tokens: _Count
    cost_usd: _Amount | None
    cache_hits: _Count
    retries: _Count
    wait_seconds: _Amount


class ScoreRecord(_Record):
    """One rollout of a result, as it stands in a file or in a reply of the service."""

    id: str
    score: _Unit | None = None
    stderr: _Amount | None = None
    note: str | None = None
    same_as: str | None = None
    cut_chars: _Count = 0
    flags: list[str] = []

    def read(self, field: str, status: str) -> Score:
        """The score, in a group with this status.

        Raises:
            ValueError: there is none where one must be, or one where none can be; `field` names it.
        """
        if status == "scored" and self.score is None:
            raise ValueError(f"{field}.score: missing; the status is 'scored'")
        for name in ("score", "stderr"):
            value = getattr(self, name)
            if status != "scored" and value is not None:
                raise ValueError(f"{field}.{name}: {value!r}, though the status is {status!r}")
        return Score(self.id, self.score, self.stderr, self.note, self.same_as, self.cut_chars, tuple(self.flags))


class _JudgedRecord(_Record):
    judge: str | None = None
    order: _Count
    block: _Count
    rollout_ids: list[str]
    scores: list[_Unit]

    def read(self, field: str, ids: Sequence[str], judge: str) -> JudgedOrder:
        _check_size(f"{field}.scores", self.scores, self.rollout_ids)
        if unknown := set(self.rollout_ids).difference(ids):
            raise ValueError(f"{field}.rollout_ids: {min(unknown)!r} is no rollout of this group")
        named = judge if self.judge is None else self.judge
        return JudgedOrder(named, self.order, self.block, tuple(self.rollout_ids), tuple(self.scores))


class _FailedOrderRecord(_Record):
    judge: str
    order: _Count
    reason: str
    message: str


class _JurorRecord(_Record):
    judge: str
    model: str
    answered_by: str | None = None
    scores: list[_Unit]
    stderr: list[_Amount] | None = None
    notes: list[str | None] | None = None
    usage: _UsageRecord

    def read(self, field: str, ids: Sequence[str]) -> Juror:
        notes = [None] * len(ids) if self.notes is None else self.notes
        for name, values in (("scores", self.scores), ("notes", notes), ("stderr", self.stderr)):
            if values is not None:
                _check_size(f"{field}.{name}", values, ids)
        return Juror(
            judge=self.judge,
            model=self.model,
            scores=tuple(self.scores),
            notes=tuple(notes),
            usage=Usage(**self.usage.model_dump()),
            answered_by=self.answered_by,
            stderr=None if self.stderr is None else tuple(self.stderr),
        )


class _ResultRecord(_Record):
    group_id: str
    group_digest: str
    rollouts_digest: str
    status: Literal["scored", "tied", "failed"]
    rollouts: Annotated[list[ScoreRecord], Field(min_length=1)]
    judge: str
    rubric: str
    orders: _Count | Literal["full"]
    adaptive: bool
    prompt_version: str
    usage: _UsageRecord


class _ScoredRecord(_ResultRecord):
    model: str | None
    answered_by: str | None = None
    orders_used: _Count
    agreement: Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)] | None = None
    absolute: bool = False
    clipped: _Count = 0
    judged: list[_JudgedRecord]
    failed_orders: list[_FailedOrderRecord] = []
    jury: list[_JurorRecord] = []


class _FailedRecord(_ResultRecord):
    reason: str
    message: str
    raw_reply: str | None = None


def read_result(record: Mapping[str, Any]) -> ScoredGroup | FailedGroup:
    """The result that `result_record` wrote; `wait_seconds` has 3 decimals. Unknown keys are left out.

    Raises:
        ValueError: it is no result; names the field and the value. Among others: a score outside [0, 1], a scored
            rollout without one, a score where the group is tied or failed, an id that stands twice.
    """
    if not isinstance(record, Mapping):
        raise ValueError(f"expected an object, got {record!r:.80}")
    try:
        read = (_FailedRecord if record.get("status") == "failed" else _ScoredRecord).model_validate(record)
    except ValidationError as error:
        raise ValueError(first_fault(error)) from None
    rollouts = tuple(one.read(f"rollouts[{place}]", read.status) for place, one in enumerate(read.rollouts))
    ids = tuple(score.id for score in rollouts)
    if len(set(ids)) < len(ids):
        raise ValueError(f"rollouts: the id {Counter(ids).most_common(1)[0][0]!r} stands twice")
    shared: dict[str, Any] = {
        key: getattr(read, key) for key in ("group_id", "group_digest", "rollouts_digest", *_MADE_BY)
    }
    shared["usage"] = Usage(**read.usage.model_dump())
    if isinstance(read, _FailedRecord):
        return FailedGroup(
            reason=read.reason, message=read.message, rollout_ids=ids, raw_reply=read.raw_reply, **shared
        )
    assert isinstance(read, _ScoredRecord)
    return ScoredGroup(
        status=cast(Literal["scored", "tied"], read.status),
        rollouts=rollouts,
        model=read.model,
        orders_used=read.orders_used,
        agreement=read.agreement,
        judged=tuple(one.read(f"judged[{place}]", ids, read.judge) for place, one in enumerate(read.judged)),
        failed_orders=tuple(FailedOrder(**one.model_dump()) for one in read.failed_orders),
        clipped=read.clipped,
        absolute=read.absolute,
        answered_by=read.answered_by,
        jury=tuple(one.read(f"jury[{place}]", ids) for place, one in enumerate(read.jury)),
        **shared,
    )


def read_usage(record: Mapping[str, Any]) -> Usage:
    """The usage that `usage_record` wrote.

    Raises:
        ValueError: it is none; names the field and the value.
    """
    try:
        return Usage(**_UsageRecord.model_validate(record).model_dump())
    except ValidationError as error:
        raise ValueError(first_fault(error)) from None


def _check_size(field: str, values: Sequence[object], ids: Sequence[str]) -> None:
    if len(values) != len(ids):
        raise ValueError(f"{field}: {len(values)} for {len(ids)} rollouts")


def json_line(record: Mapping[str, Any]) -> bytes:
    """The record as one line of UTF-8 JSON; half surrogate pairs, which UTF-8 cannot hold, stay escapes."""
    try:
        return (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8")
    except UnicodeEncodeError:
        return (json.dumps(record) + "\n").encode("ascii")


_MADE_BY = ("judge", "rubric", "orders", "adaptive", "prompt_version")


class ResultFile:
    """Scored groups, one JSON line each, written as they come; an existing file is continued.

    Lines that are scored or tied are kept; failed ones, a half-written last one and, where this run needs all orders,
    those with failed orders are dropped and asked again. After a kill at any moment the file can be continued; at most
    the line being written is lost.
    """

    def __init__(self, path: str, *, made_by: Mapping[str, object], keep_failed_orders: bool = False) -> None:
        """Opens the file and reads what is there.

        Args:
            path: the file; `.gz` is compressed, `-` is standard output, which is never read.
            keep_failed_orders: whether groups that were scored although orders failed count as done.
            made_by: judge, rubric, orders, adaptive and prompt_version of this run.

        Raises:
            ConfigError: the file cannot be written, holds something else, or was made with other settings.
        """
        self._path = path
        self._keep_failed_orders = keep_failed_orders
        self._kept: Counter[tuple[str, str]] = Counter()
        try:
            self._raw = copy_stream(sys.stdout, "wb") if path == "-" else _open_locked(path)
            try:
                if path != "-" and os.path.isfile(path):  # not a device or a pipe
                    self._continue(made_by)
                self._file = self._raw
                if path.endswith(".gz"):
                    self._file = cast(IO[bytes], gzip.GzipFile(fileobj=self._raw, mode="ab"))
            except BaseException:
                self._raw.close()
                raise
        except OSError as error:
            raise self._unwritable(error) from error

    def take(self, group: Group) -> bool:
        """Whether this group's result is already in the file; each kept line answers for one group."""
        key = (group.id, group.rollouts_digest)
        if not self._kept[key]:
            return False
        self._kept[key] -= 1
        return True

    def write(self, result: ScoredGroup | FailedGroup) -> None:
        """Appends one line and hands it to the operating system.

        Raises:
            ConfigError: it cannot be written, for example because the disk is full.
        """
        try:
            self._file.write(json_line(result_record(result)))
            self._file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise self._unwritable(error) from error

    def close(self) -> None:
        """Ends the file."""
        try:
            with self._raw:
                self._file.close()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> ConfigError:
        return ConfigError(f"--out {self._path}: cannot be written: {error.strerror or error}")

    def _continue(self, made_by: Mapping[str, object]) -> None:
        kept: list[bytes] = []
        dropped = False
        number = 1
        try:
            with open_read(self._path) as file:
                for number, line in enumerate(file, 1):
                    if not line.endswith(b"\n"):
                        dropped = True
                        if _is_cut(line):
                            break
                        line += b"\n"
                    record = self._existing(number, line, made_by)
                    if record["status"] == "failed" or (record["failed_orders"] and not self._keep_failed_orders):
                        dropped = True
                    else:
                        kept.append(line)
                        self._kept[record["group_id"], record["rollouts_digest"]] += 1
        except EOFError:  # compressed data that ends in the middle of a write
            dropped = True
        except (zlib.error, gzip.BadGzipFile) as error:
            raise ConfigError(
                f"--out {self._path}: is damaged after line {number}: {error}; choose another --out"
            ) from error
        if dropped:
            # The old file stays locked until the new one is.
            with self._raw:
                _replace(self._path, kept)
                self._raw = _open_locked(self._path)

    def _existing(self, number: int, line: bytes, made_by: Mapping[str, object]) -> dict[str, Any]:
        try:
            record = json.loads(line)
            found = {key: record[key] for key in ("group_id", "rollouts_digest", "status", *made_by)}
            found["failed_orders"] = record.get("failed_orders")
            ours = found["status"] in ("scored", "tied", "failed")
            ours = ours and isinstance(found["group_id"], str) and isinstance(found["rollouts_digest"], str)
        except (ValueError, RecursionError, KeyError, TypeError):
            ours = False
        if not ours:
            raise ConfigError(
                f"--out {self._path}: line {number} is not a scored group; this file is not one of ours to continue"
            )
        for key, value in made_by.items():
            if found[key] != value:
                raise ConfigError(
                    f"--out {self._path}: was made with {key} {found[key]!r}, this run has {value!r}; "
                    "choose another --out"
                )
        return found


def _is_cut(line: bytes) -> bool:
    """Whether this is the beginning, and not the whole, of a line as we write them."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        opening = b'{"group_id": '
        return line[: len(opening)] == opening[: len(line)]
    return False


def _replace(path: str, lines: list[bytes]) -> None:
    """Puts these lines in place of the file's, all or none of them."""
    path = os.path.realpath(path)
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as raw:
        if path.endswith(".gz"):
            with gzip.GzipFile(fileobj=raw, mode="wb") as file:
                file.writelines(lines)
        else:
            raw.writelines(lines)
        raw.flush()
        os.fsync(raw.fileno())
    shutil.copymode(path, temporary)
    os.replace(temporary, path)


def _open_locked(path: str) -> IO[bytes]:
    """The file, open for appending and for no other run of ours; devices and pipes are shared."""
    with ExitStack() as on_error:
        file = on_error.enter_context(open(path, "ab"))
        if os.path.isfile(path):
            _lock(file, path)
        on_error.pop_all()
    return file


def _lock(file: IO[bytes], path: str) -> None:
    with suppress(ImportError):  # no fcntl on Windows: there two runs into one file are not noticed
        import fcntl

        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A run that dropped lines may have put a new file here since this one was opened.
            ours = os.path.samestat(os.fstat(file.fileno()), os.stat(path))
        except BlockingIOError:
            ours = False
        if not ours:
            raise ConfigError(f"--out {path}: another run is writing to this file")
