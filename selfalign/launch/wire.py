"""Frames between the controller and the inference worker: a length, then MessagePack, over a pair of pipes."""

from __future__ import annotations

import struct
from typing import Any, BinaryIO

import msgspec

from selfalign.engines.base import (
    Choice,
    ChoiceRequest,
    GenerateRequest,
    Generation,
    Rewarded,
    Score,
    ScoreRequest,
)

_LENGTH = struct.Struct("<I")
_MAX_FRAME = 1 << 30

RESULTS = {"generate": Generation, "choose": Choice, "score": Score, "reward": Rewarded}
REQUESTS = {"generate": GenerateRequest, "choose": ChoiceRequest, "score": ScoreRequest, "reward": ScoreRequest}


class Frame(msgspec.Struct, array_like=True):
    """One message. `call` numbers the call it belongs to, so that a late frame of a cancelled call is recognised."""

    op: str
    call: int
    body: msgspec.Raw = msgspec.Raw(b"\xc0")


def send(pipe: BinaryIO, op: str, call: int = 0, body: Any = None) -> None:
    """Write one frame and flush it. Raises BrokenPipeError when the other side is gone."""
    data = msgspec.msgpack.encode(Frame(op, call, msgspec.Raw(msgspec.msgpack.encode(body))))
    pipe.write(_LENGTH.pack(len(data)) + data)
    pipe.flush()


def receive(pipe: BinaryIO) -> Frame | None:
    """Read one frame; None when the other side has closed the pipe (also in the middle of a frame)."""
    header = pipe.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(header)
    if length > _MAX_FRAME:
        raise ValueError(f"a frame of {length} bytes: the stream between controller and worker is out of step")
    data = pipe.read(length)
    return msgspec.msgpack.decode(data, type=Frame) if len(data) == length else None


def decode(body: msgspec.Raw, kind: Any) -> Any:
    return msgspec.msgpack.decode(body, type=kind)
