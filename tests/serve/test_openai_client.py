"""Over the wire: the official client works unchanged, mistakes get OpenAI's errors, limits hold, and leaving is noticed."""

import base64
import io
import json
import socket
import threading
import time
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from jgpt.serve.app import Limits

HELLO = {"model": "tiny", "prompt": "hello", "temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def client(served: SimpleNamespace) -> Any:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=60)


def test_models(client: Any) -> None:
    (model,) = client.models.list().data
    assert model.id == "tiny" == client.models.retrieve("tiny").id
    with pytest.raises(openai.NotFoundError, match="'other' does not exist: this server has 'tiny'"):
        client.models.retrieve("other")


def test_a_stream_adds_up_to_the_whole(client: Any, expect) -> None:
    whole = client.completions.create(**HELLO, logprobs=2)
    pieces = list(client.completions.create(**HELLO, stream=True, stream_options={"include_usage": True}))
    assert "".join(piece.choices[0].text for piece in pieces[:-1]) == whole.choices[0].text
    assert [piece.choices[0].finish_reason for piece in pieces[:-1]][-1] == whole.choices[0].finish_reason
    assert pieces[-1].usage == whole.usage and pieces[-1].choices == []
    logprobs = whole.choices[0].logprobs
    assert "".join(logprobs.tokens) == whole.choices[0].text
    assert logprobs.text_offset == list(range(len(logprobs.tokens)))
    assert [max(top.values()) for top in logprobs.top_logprobs] == logprobs.token_logprobs


def test_several_prompts_and_samples_come_in_order_and_seeds_hold(client: Any) -> None:
    options = {"model": "tiny", "max_tokens": 9, "seed": 4, "temperature": 1.2}
    both = client.completions.create(prompt=["a", "b"], n=2, **options)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    alone = client.completions.create(prompt="b", n=2, **options)
    assert [choice.text for choice in both.choices[2:]] == [choice.text for choice in alone.choices]
    assert both.choices[2].text != both.choices[3].text
    options = {"model": "tiny", "max_tokens": 9, "temperature": 2.0}
    same = client.completions.create(prompt=["b"] * 6, **options)
    assert len({choice.text for choice in same.choices}) > 1, "without a seed each prompt draws by itself"


def test_extras_go_through_extra_body(client: Any) -> None:
    first = client.completions.create(**HELLO | {"temperature": 1}, extra_body={"top_k": 1, "repetition_penalty": 1.0})
    assert first.choices[0].text == client.completions.create(**HELLO).choices[0].text


def test_chat_and_its_stream(client: Any) -> None:
    turns = [{"role": "user", "content": [{"type": "text", "text": "how are"}, {"type": "text", "text": " you?"}]}]
    whole = client.chat.completions.create(model="tiny", messages=turns, logprobs=True, top_logprobs=3)
    said = whole.choices[0].message
    pieces = list(client.chat.completions.create(model="tiny", messages=turns, stream=True))
    assert pieces[0].choices[0].delta.role == "assistant"
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == said.content
    content = whole.choices[0].logprobs.content
    assert bytes(byte for token in content for byte in token.bytes).decode() == said.content
    assert all(token.top_logprobs[0].token == token.token for token in content)
    again = client.chat.completions.create(model="tiny", messages=[*turns, said, {"role": "user", "content": "ok"}])
    assert again.usage.prompt_tokens > whole.usage.prompt_tokens


def test_pictures_are_whole_or_grow_row_by_row(client: Any, served: SimpleNamespace) -> None:
    options = {"model": "tiny", "prompt": "two", "extra_body": {"seed": 3}}
    (picture,) = client.images.generate(**options).data
    whole = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.b64_json))))
    assert whole.shape == (4, 4)
    *partial, last = client.images.generate(**options, stream=True)
    assert last.type == "image_generation.completed" and last.b64_json == picture.b64_json
    assert last.usage.output_tokens == 16
    before = 0
    for event in partial:
        seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(event.b64_json))))
        drawn = seen[:, :, 3] == 255
        assert before < drawn.sum() and not drawn.all()
        before = drawn.sum()
        np.testing.assert_array_equal(seen[:, :, 0][drawn], whole[drawn])
    both = client.images.generate(model="tiny", prompt="two", n=2, size="4x4", response_format="b64_json")
    assert len(both.data) == 2


BAD = [
    ("completions", b"{", 400, "no JSON"),
    ("completions", b"\xff{}", 400, "no UTF-8 at byte 0"),
    ("completions", b"[]", 400, "a JSON list: it must be an object"),
    ("completions", b'{"model": "tiny", "prompt": "a", "temperature": NaN}', 400, "NaN is no number"),
    ("completions", b'{"model": "tiny", "prompt": "a", "temperature": 1e999}', 400, "temperature"),
    ("completions", b'{"model": "tiny", "prompt": "a", "seed": ' + b"9" * 3000 + b"}", 400, "seed"),
    ("completions", b'{"model": "tiny", "prompt": "\\ud800"}', 400, "surrogate"),
    ("completions", b"[" * 3000, 400, "the body is"),
    ("completions", {"prompt": "a"}, 400, "model: it is required"),
    ("completions", {"model": "other", "prompt": "a"}, 404, "this server has 'tiny'"),
    ("completions", {"model": 3, "prompt": "a"}, 400, "model: Input should be a valid string"),
    ("completions", {"model": "tiny", "prompt": [[1, 2]]}, 400, "prompt"),
    ("completions", {"model": "tiny", "prompt": []}, 400, "0 prompts"),
    ("completions", {"model": "tiny", "prompt": "A"}, 400, "character 'A'"),
    ("completions", {"model": "tiny", "prompt": "a" * 70}, 400, "the context of model 'tiny' is 64 tokens"),
    ("completions", {"model": "tiny", "prompt": "a" * 63, "max_tokens": 1}, 400, "the prompt must leave one"),
    ("completions", {"model": "tiny", "prompt": "a", "max_tokens": 64}, 400, "together 66"),
    ("completions", {"model": "tiny", "prompt": "a", "max_tokens": 0}, 400, "max_tokens"),
    ("completions", {"model": "tiny", "prompt": "a", "max_tokens": 2.0}, 400, "max_tokens"),
    ("completions", {"model": "tiny", "prompt": "a", "max_tokens": 10**12}, 400, "max_tokens"),
    ("completions", {"model": "tiny", "prompt": "a", "max_tokens": True}, 400, "max_tokens"),
    ("completions", {"model": "tiny", "prompt": "a", "n": 129}, 400, "n: "),
    ("completions", {"model": "tiny", "prompt": "a", "n": 11}, 400, "1 to 10 samples at once"),
    ("completions", {"model": "tiny", "prompt": "a", "temperature": "hot"}, 400, "temperature"),
    ("completions", {"model": "tiny", "prompt": "a", "temperature": -1}, 400, "temperature is -1"),
    ("completions", {"model": "tiny", "prompt": "a", "top_p": 0}, 400, "top_p is 0"),
    ("completions", {"model": "tiny", "prompt": "a", "min_tokens": 40}, 400, "min_tokens is 40"),
    ("completions", {"model": "tiny", "prompt": "a", "logit_bias": {"x": 1}}, 400, "keys are ids"),
    ("completions", {"model": "tiny", "prompt": "a", "logit_bias": {"50": 1}}, 400, "the vocabulary has 50 ids"),
    ("completions", {"model": "tiny", "prompt": "a", "logit_bias": {str(i): 1 for i in range(40)}}, 400, "at most 32"),
    ("completions", {"model": "tiny", "prompt": "a", "stop": ["a"] * 5}, 400, "at most 4"),
    ("completions", {"model": "tiny", "prompt": "a", "stop": ""}, 400, "stop has 1 strings of [0]"),
    ("completions", {"model": "tiny", "prompt": "a", "best_of": 4}, 400, "best_of is not implemented"),
    ("completions", {"model": "tiny", "prompt": "a", "echo": True}, 400, "echo is not implemented"),
    ("completions", {"model": "tiny", "prompt": "a", "topk": 4}, 400, "topk: this server knows no such parameter"),
    ("completions", {"model": "tiny", "prompt": "a", "logprobs": 21}, 400, "logprobs"),
    ("completions", {"model": "tiny", "prompt": "a", "stream_options": {}}, 400, "needs stream: true"),
    ("chat/completions", {"model": "tiny", "messages": []}, 400, "messages"),
    ("chat/completions", {"model": "tiny", "messages": [{"role": "tool", "content": "a"}]}, 400, "messages.0.role"),
    (
        "chat/completions",
        {"model": "tiny", "messages": [{"role": "user", "content": ""}]},
        400,
        "it must say something",
    ),
    (
        "chat/completions",
        {"model": "tiny", "messages": [{"role": "assistant", "content": "a"}]},
        400,
        "a turn of the user",
    ),
    ("chat/completions", {"model": "tiny", "messages": "hello"}, 400, "messages"),
    (
        "chat/completions",
        {"model": "tiny", "messages": [{"role": "user", "content": "a"}], "tools": [{}]},
        400,
        "tools is not implemented by this server; leave it out, or give []",
    ),
    (
        "chat/completions",
        {"model": "tiny", "messages": [{"role": "user", "content": "a"}], "top_logprobs": 2},
        400,
        "needs logprobs: true",
    ),
    (
        "chat/completions",
        {"model": "tiny", "messages": [{"role": "user", "content": "a"}], "max_tokens": 2, "max_completion_tokens": 3},
        400,
        "give one of them",
    ),
    ("images/generations", {"prompt": "nine"}, 400, "no picture was captioned 'nine'"),
    ("images/generations", {"prompt": ""}, 400, "the caption is empty"),
    ("images/generations", {"prompt": "two", "size": "1024x1024"}, 400, "this model draws 4x4"),
    ("images/generations", {"prompt": "two", "response_format": "url"}, 400, 'give "b64_json"'),
    ("images/generations", {"prompt": "two", "guidance": 2}, 400, "knows no such parameter"),
    ("images/generations", {"prompt": "two", "partial_images": 2}, 400, "needs stream: true"),
    ("completions", b" " * 4001, 413, "more than 4000 bytes"),
]


@pytest.mark.parametrize(("path", "body", "status", "message"), BAD, ids=range(len(BAD)))
def test_mistakes_are_refused_in_openais_shape(
    served: SimpleNamespace, path: str, body, status: int, message: str
) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = httpx.post(f"{served.url}/v1/{path}", content=data, headers={"content-type": "application/json"})
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and message in error["message"]


def test_unknown_addresses_methods_and_types_have_the_same_shape(served: SimpleNamespace) -> None:
    for answer, status in (
        (httpx.get(f"{served.url}/v2"), 404),
        (httpx.get(f"{served.url}/v1/completions"), 405),
        (httpx.post(f"{served.url}/v1/completions", data={"model": "tiny"}), 415),
    ):
        assert answer.status_code == status and answer.json()["error"]["message"]


def test_a_token_is_needed_where_one_is_set(served: SimpleNamespace, monkeypatch) -> None:
    monkeypatch.setattr(served.service, "limits", Limits(body=4000, token="säcret-token"))
    asked = f"{served.url}/v1/models"
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": b"Bearer \xff"}):
        answer = httpx.get(asked, headers=headers)
        assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"
    assert httpx.get(asked, headers={"authorization": "Bearer säcret-token".encode()}).status_code == 200
    assert httpx.get(f"{served.url}/metrics").status_code == 401
    assert httpx.get(f"{served.url}/healthz").status_code == 200 == httpx.get(served.url).status_code


def busy(served: SimpleNamespace) -> int:
    return served.engine.busy + served.engine.waiting


def wait_until(holds, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.fixture
def slow(served: SimpleNamespace, monkeypatch) -> None:
    """Let every segment take a while."""
    advance = served.engine.slots.advance

    def later(most: int) -> None:
        time.sleep(0.1)
        advance(1)

    wait_until(lambda: busy(served) == 0)
    monkeypatch.setattr(served.engine.slots, "advance", later)


LONG = {"model": "tiny", "prompt": "a", "max_tokens": 60, "logit_bias": {"2": -100}}


@pytest.mark.parametrize("stream", [False, True])
def test_who_hangs_up_frees_the_slot(served: SimpleNamespace, slow: None, stream: bool) -> None:
    before = served.engine.counts["cancelled"]
    host, port = served.url.removeprefix("http://").split(":")
    body = json.dumps(LONG | {"stream": stream}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body)
        wait_until(lambda: busy(served) == 1)
    wait_until(lambda: busy(served) == 0)
    assert served.engine.counts["cancelled"] == before + 1


def test_a_full_line_answers_429_with_retry_after(served: SimpleNamespace, slow: None) -> None:
    with httpx.stream(
        "POST", f"{served.url}/v1/completions", json=LONG | {"stream": True, "n": 10}, timeout=60
    ) as first:
        assert first.status_code == 200
        answer = httpx.post(f"{served.url}/v1/completions", json=LONG)
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["code"] == "queue_full"
    wait_until(lambda: busy(served) == 0)


@pytest.mark.parametrize("path", ["completions", "chat/completions", "images/generations"])
def test_what_would_not_fit_an_idle_server_is_refused_for_good(served: SimpleNamespace, path: str) -> None:
    body = {"model": "tiny", "prompt": "seven", "messages": [{"role": "user", "content": "a"}], "n": 100}
    body = {key: value for key, value in body.items() if key != ("prompt" if path.startswith("chat") else "messages")}
    answer = httpx.post(f"{served.url}/v1/{path}", json=body)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "n", answer.text


def test_a_packed_body_is_refused(served: SimpleNamespace) -> None:
    answer = httpx.post(f"{served.url}/v1/completions", json=LONG, headers={"content-encoding": "gzip"})
    assert answer.status_code == 415 and "packed by 'gzip'" in answer.json()["error"]["message"]


def test_an_answer_that_takes_too_long_ends_cleanly(served: SimpleNamespace, slow: None, monkeypatch) -> None:
    monkeypatch.setattr(served.service, "limits", Limits(body=4000, seconds=0.4))
    answer = httpx.post(f"{served.url}/v1/completions", json=LONG)
    assert answer.status_code == 504 and answer.json()["error"]["code"] == "timeout"
    text = httpx.post(f"{served.url}/v1/completions", json=LONG | {"stream": True}).text
    assert '"code": "timeout"' in text.strip().splitlines()[-1] and "[DONE]" not in text


def test_metrics_count_and_nothing_compiles_under_mixed_load(served: SimpleNamespace, client: Any) -> None:
    def value(name: str) -> float:
        lines = httpx.get(f"{served.url}/metrics").text.splitlines()
        return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + " "))

    before, compiled = value('jgpt_samples_total{end="finished"}'), served.engine.programs.count
    texts = ["a", "b" * 30, "hello there", "x y z", "seven"]
    answers: list[str] = []

    def ask(text: str) -> None:
        answer = client.completions.create(model="tiny", prompt=text, max_tokens=20, temperature=0)
        answers.append(text + answer.choices[0].text)

    threads = [threading.Thread(target=ask, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together, answers = sorted(answers), []
    for text in texts:
        ask(text)
    assert sorted(answers) == together
    assert value('jgpt_samples_total{end="finished"}') == before + 10
    assert value("jgpt_compilations_total") == compiled == served.engine.programs.count
    assert value("jgpt_slots_busy") == 0 and value("process_resident_memory_bytes") > 0


def test_a_failure_within_is_a_500_and_not_told(served: SimpleNamespace, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret of the house")

    monkeypatch.setattr(served.planner, "complete", broken)
    answer = httpx.post(f"{served.url}/v1/completions", json=HELLO)
    assert answer.status_code == 500 and "secret" not in answer.text
    assert answer.json()["error"]["type"] == "server_error"


def test_while_stopping_new_requests_are_refused(served: SimpleNamespace, monkeypatch) -> None:
    monkeypatch.setattr(served.service, "draining", True)
    answer = httpx.post(f"{served.url}/v1/completions", json=HELLO)
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "stopping"
    assert httpx.get(f"{served.url}/healthz").status_code == 503
