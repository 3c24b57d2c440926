"""The API judge against a real HTTP server on this machine that limits, fails, stalls, rambles and refuses."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai
import pytest

from selfalign.config import Judge
from selfalign.engines.base import ChoiceRequest, EngineError, GenerateRequest, Sampling
from selfalign.engines.openai import OpenAIEngine, retry_after
from selfalign.records import Message

KEY = "sk-secret-of-this-test"


def completion(tokens: dict[str, float] | None, content: str = "A", finish: str = "stop", **message: object) -> dict:
    top = [{"token": t, "logprob": p, "bytes": None} for t, p in (tokens or {}).items()]
    entry = {"token": (content or "")[:1], "logprob": -0.1, "bytes": None, "top_logprobs": top}
    return {
        "id": "x", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{
            "index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message},
            "logprobs": None if tokens is None else {"content": [entry]},
        }],
        "usage": {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8},
    }  # fmt: skip


def failure(code: str, message: str = "no") -> dict:
    return {"error": {"message": message, "type": code, "param": None, "code": code}}


GOOD = completion({"A": -0.2231435513142097, " B": -1.6094379124341003, "The": -9.0})


class Server:
    """Replies to a conversation by its first words: each name has a list of replies, the last one repeated.

    A reply is (status, headers, body); a body that is no dict is sent as it is; the status 0 stalls.
    """

    def __init__(self) -> None:
        self.replies: dict[str, list[tuple[int, dict, object]]] = {}
        self.asked: Counter[str] = Counter()
        self.bodies: list[dict] = []
        self.keys: set[str] = set()
        self.running = self.most = 0
        self.lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with server.lock:
                    name = body["messages"][-1]["content"].split()[0]
                    index = server.asked[name]
                    server.asked[name] += 1
                    server.bodies.append(body)
                    server.keys.add(self.headers["authorization"])
                    server.running += 1
                    server.most = max(server.most, server.running)
                replies = server.replies[name]
                status, headers, reply = replies[min(index, len(replies) - 1)]
                time.sleep(2.0 if status == 0 else 0.01)
                data = json.dumps(reply).encode() if isinstance(reply, dict) else reply
                with server.lock:
                    server.running -= 1
                try:
                    self.send_response(status or 200)
                    for key, value in {"content-type": "application/json", **headers}.items():
                        self.send_header(key, value)
                    self.send_header("content-length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:  # the client has gone
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/v1"


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def engine(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    judge = Judge(model="openai:judge-1", base_url=server.url, max_concurrency=3)
    engine = OpenAIEngine(judge, timeout=openai.Timeout(0.5), wait_initial=0.01)
    yield engine
    engine.close()


def ask(*names: str) -> list[ChoiceRequest]:
    return [ChoiceRequest(f"{n}-{i}", (Message("user", f"{n} {i}"),), ("A", "B")) for i, n in enumerate(names)]


def test_labels_are_read_from_the_first_token(server, engine):
    server.replies["good"] = [(200, {}, GOOD)]
    answers = list(engine.choose(ask("good", "good")))
    assert sorted(a.id for a in answers) == ["good-0", "good-1"]
    assert answers[0].probabilities == pytest.approx((0.8, 0.2))
    assert (answers[0].raw, answers[0].num_prompt_tokens) == ("A", 7)
    assert server.bodies[0]["model"] == "judge-1"
    assert {k: server.bodies[0][k] for k in ("max_tokens", "temperature", "logprobs", "top_logprobs")} == {
        "max_tokens": 1, "temperature": 0.0, "logprobs": True, "top_logprobs": 20,
    }  # fmt: skip
    assert server.keys == {f"Bearer {KEY}"}


@pytest.mark.parametrize(
    ("reply", "raw"),
    [
        (completion({"a": -0.1, "Answer": -2.0, "AB": -3.0, "[A]": -3.0}, "a"), "a"),
        (completion({"I": -0.1}, "I", refusal="cannot help"), "I"),
        (completion(None, ""), "no log-probabilities in the reply: stop"),
        (completion(None, "", finish="content_filter"), "no log-probabilities in the reply: content_filter"),
        (completion({}, "length"), "length"),
        (completion({"A": float("-inf")}, "x"), "x"),
    ],
)
def test_other_replies_are_no_verdict(server, engine, reply, raw):
    server.replies["odd"] = [(200, {}, reply)]
    (answer,) = engine.choose(ask("odd"))
    assert (answer.probabilities, answer.raw) == (None, raw)
    assert server.asked["odd"] == 1


@pytest.mark.parametrize(
    ("trouble", "raw"),
    [
        ((429, {"retry-after": "0.02"}, failure("rate_limit_exceeded")), "RateLimitError"),
        ((500, {}, b"<html>oops"), "InternalServerError"),
        ((503, {"retry-after": "soon"}, failure("overloaded")), "InternalServerError"),
        ((200, {"content-type": "text/html"}, b"<html>log in</html>"), "no chat completion"),
        ((200, {}, {"choices": []}), "no chat completion"),
        ((200, {}, b'{"choices": ['), "no JSON"),
        ((0, {}, GOOD), "APITimeoutError"),
    ],
)
def test_passing_trouble_is_retried_and_lasting_trouble_is_no_verdict(server, engine, trouble, raw):
    server.replies["passing"] = [trouble, trouble, (200, {}, GOOD)]
    server.replies["lasting"] = [trouble]
    server.replies["good"] = [(200, {}, GOOD)]
    answers = {a.id.split("-")[0]: a for a in engine.choose(ask("passing", "lasting", "good"))}
    assert answers["passing"].probabilities == pytest.approx((0.8, 0.2))
    assert answers["good"].probabilities == pytest.approx((0.8, 0.2))
    assert answers["lasting"].probabilities is None
    assert "no answer after 6 attempts" in answers["lasting"].raw
    assert raw in answers["lasting"].raw
    assert server.asked == {"passing": 3, "lasting": 6, "good": 1}


@pytest.mark.parametrize(
    "trouble",
    [
        (401, {}, failure("invalid_api_key", f"wrong key {KEY}")),
        (403, {}, failure("denied")),
        (404, {}, failure("model_not_found")),
        (400, {}, failure("invalid_request_error", "logprobs are not supported")),
        (429, {"retry-after": "1"}, failure("insufficient_quota", "You exceeded your current quota")),
    ],
)
def test_what_no_repetition_mends_ends_the_stage_at_once(server, engine, trouble):
    server.replies["bad"] = [trouble]
    with pytest.raises(EngineError, match="openai:judge-1 refuses") as caught:
        list(engine.choose(ask(*["bad"] * 30)))
    assert KEY not in str(caught.value)
    assert server.asked["bad"] <= 6


def test_a_prompt_too_long_for_the_server_is_a_matter_of_its_own(server, engine):
    server.replies["long"] = [(400, {}, failure("context_length_exceeded", "maximum context length is 8"))]
    server.replies["good"] = [(200, {}, GOOD)]
    answers = {a.id: a.probabilities for a in engine.choose(ask("long", "good"))}
    assert answers["long-0"] is None
    assert answers["good-1"] == pytest.approx((0.8, 0.2))


def test_requests_run_side_by_side_within_the_limit_and_lazily(server, engine):
    server.replies["good"] = [(200, {}, GOOD)]
    pulled = []

    def endless():
        while True:
            pulled.append(len(pulled))
            yield ChoiceRequest(str(pulled[-1]), (Message("user", "good"),), ("A", "B"))

    stream = engine.choose(endless())
    assert len({next(stream).id for _ in range(20)}) == 20
    stream.close()
    assert 1 < server.most <= 3
    assert len(pulled) <= 20 + 2 * 3


def test_generation_keeps_reasons_apart(server, engine):
    server.replies["stop"] = [(200, {}, completion(None, "Hello"))]
    server.replies["cut"] = [(200, {}, completion(None, "Hel", finish="length"))]
    server.replies["filtered"] = [(200, {}, completion(None, "", finish="content_filter"))]
    server.replies["down"] = [(500, {}, b"")]
    requests = [GenerateRequest(n, (Message("user", n),), 5) for n in ("stop", "cut", "filtered", "down")]
    answers = {g.id: g for g in engine.generate(requests, Sampling(0.5, 0.9, 16))}
    assert {i: g.finish_reason for i, g in answers.items()} == {
        "stop": "stop", "cut": "length", "filtered": "error", "down": "error",
    }  # fmt: skip
    assert answers["stop"].text == "Hello"
    assert answers["stop"].logprob is None
    assert (server.bodies[0]["seed"], server.bodies[0]["top_p"]) == (5, 0.9)


SCHEMA = '{"type": "object", "properties": {"verdict": {"enum": ["A", "B"]}, "reason": {"maxLength": 9}}}'


def test_a_schema_is_sent_without_limits_that_some_services_refuse(server, engine):
    server.replies["good"] = [(200, {}, completion(None, '{"verdict": "A"}'))]
    (answer,) = engine.generate([GenerateRequest("1", (Message("user", "good"),), 5)], Sampling(schema=SCHEMA))
    assert answer.text == '{"verdict": "A"}'
    sent = server.bodies[0]["response_format"]
    assert sent["type"] == "json_schema"
    assert sent["json_schema"]["schema"]["properties"] == {"verdict": {"enum": ["A", "B"]}, "reason": {}}


def test_a_server_that_takes_no_schema_is_asked_freely_and_that_is_said(server, engine):
    refusal = (400, {}, failure("invalid_request_error", "response_format json_schema is not supported"))
    server.replies["old"] = [refusal, (200, {}, completion(None, "free"))]
    with pytest.warns(UserWarning, match="does not take a JSON Schema.*free text"):
        (answer,) = engine.generate([GenerateRequest("1", (Message("user", "old"),), 5)], Sampling(schema=SCHEMA))
    assert answer.text == "free"
    list(engine.generate([GenerateRequest("2", (Message("user", "old"),), 5)], Sampling(schema=SCHEMA)))
    assert ["response_format" in body for body in server.bodies] == [True, False, False]


def test_refusals_are_told_from_errors(server, engine):
    server.replies["declined"] = [(200, {}, completion(None, None, refusal="I will not"))]
    server.replies["filtered"] = [(200, {}, completion(None, "", finish="content_filter"))]
    server.replies["odd"] = [(200, {}, completion({"x": -0.1}, "x"))]
    server.replies["empty"] = [(200, {}, completion({}, ""))]
    server.replies["down"] = [(500, {}, b"")]
    names = ("declined", "filtered", "odd", "empty", "down")
    kinds = {choice.id.split("-")[0]: choice.invalid for choice in engine.choose(ask(*names))}
    assert kinds == {
        "declined": "refused", "filtered": "refused", "odd": "malformed", "empty": "empty", "down": "error",
    }  # fmt: skip
    requests = [GenerateRequest(name, (Message("user", name),), 5) for name in ("declined", "filtered", "down")]
    answers = {answer.id: answer for answer in engine.generate(requests, Sampling())}
    assert {name: answer.refused for name, answer in answers.items()} == {
        "declined": True, "filtered": True, "down": False,
    }  # fmt: skip
    assert answers["declined"].text == "I will not"


def test_what_an_answer_begins_with_is_a_turn_and_the_label_is_asked_for(server, engine):
    server.replies["Now"] = [(200, {}, GOOD)]
    (answer,) = engine.choose([ChoiceRequest("1", (Message("user", "good"),), ("A", "B"), '{"reason": "x", "')])
    assert answer.probabilities == pytest.approx((0.8, 0.2))
    assert [(m["role"], m["content"]) for m in server.bodies[0]["messages"]] == [
        ("user", "good"),
        ("assistant", '{"reason": "x", "'),
        ("user", "Now give the verdict alone, as one of A, B."),
    ]


def test_it_holds_no_weights(engine):
    assert not engine.accepts("anything")
    with pytest.raises(EngineError, match="cannot take the weights of here"):
        engine.load("here")
    with pytest.raises(EngineError, match="no log-probabilities of given texts"):
        engine.score([])
    with pytest.raises(EngineError, match="not single characters"):
        engine.check_labels(("A", "Bee"))
    engine.check_labels(("A", "B"))


def test_the_key_is_asked_for_by_name(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(EngineError, match="set OPENAI_API_KEY"):
        OpenAIEngine(Judge(model="openai:judge-1"))


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("3", 3.0), ("0.5", 0.5), ("1e9", 60.0), ("0", None), ("-1", None), ("nan", None), ("inf", None),
        ("soon", None), ("", None), (None, None), ("Wed, 21 Oct 2026 07:28:20 GMT", 20.0),
        ("Wed, 21 Oct 2026 07:27:00 GMT", None),
        ("Wed, 21 Oct 2099 07:28:00 GMT", 60.0), ("Wed, 99 Oct 2026 07:28:00 GMT", None),
    ],
)  # fmt: skip
def test_waits_are_bounded_whatever_the_server_says(header, seconds):
    assert retry_after(header, datetime(2026, 10, 21, 7, 28, tzinfo=UTC)) == seconds
