"""The endpoint's verdicts, through a real local server: batches, broken answers, the rules as a way out."""

import json

from tests.data.chat_server import completion, serving
from tests.data.filters.test_captions import sample
from timeexpert.data.endpoint import EndpointConfig
from timeexpert.data.filters.config import ConsistencyConfig
from timeexpert.data.filters.consistency import ConsistencyFilter, batches_of, parse_verdicts


def judge_like_a_model(number, request):
    """Calls answers with 'wrong' in them inconsistent and those with 'vague' generic."""
    items = json.loads(request["messages"][1]["content"])
    rows = [
        {"id": i["id"], "consistent": "wrong" not in i["answer"], "generic": "vague" in i["answer"], "reason": "so"}
        for i in items
    ]
    return completion(f"Here you are:\n```json\n{json.dumps(rows)}\n```")


def run(chat, cache, samples, **fields):
    endpoint = EndpointConfig(base_url=chat.base_url, model="tiny", backoff_s=0, retries=1)
    with ConsistencyFilter(ConsistencyConfig(endpoint=endpoint, **fields), cache) as stage:
        return stage.judge(samples), stage


def dogs(count):
    return [sample(f"dog number {i} runs", id=f"d{i}") for i in range(count)]


def test_samples_are_asked_about_in_batches_and_judged_one_by_one(tmp_path):
    samples = [*dogs(20), sample("a wrong dog", id="w"), sample("vague thing", id="v")]
    with serving(judge_like_a_model) as chat:
        verdicts, stage = run(chat, tmp_path / "a.jsonl", samples, batch=8)
        assert len(chat.requests) < 8
    assert [v.fault for v in verdicts] == [None] * 20 + ["inconsistent", "generic"]
    assert verdicts[20].reason == "the endpoint says: so"
    assert dict(stage.judged_by) == {"endpoint": 22}


def test_neither_ids_nor_paths_are_sent(tmp_path):
    with serving(judge_like_a_model) as chat:
        run(chat, tmp_path / "a.jsonl", [sample("a dog runs", id="secret-id")])
        sent = json.dumps(chat.requests)
    assert "secret-id" not in sent and "a.mp4" not in sent and "a dog runs" in sent


def test_one_sample_less_leaves_the_other_batches_in_the_cache(tmp_path):
    samples = dogs(100)
    with serving(judge_like_a_model) as chat:
        run(chat, tmp_path / "a.jsonl", samples, batch=4)
        first = len(chat.requests)
        run(chat, tmp_path / "a.jsonl", samples[1:], batch=4)
        assert first > 10 and len(chat.requests) - first <= 2


def test_batches_end_in_time_and_hold_everything_in_order():
    samples = dogs(200)
    groups = list(batches_of(samples, 4))
    assert [s.id for group in groups for s in group] == [s.id for s in samples]
    assert max(map(len, groups)) <= 16


def test_what_a_batch_did_not_answer_is_asked_alone_and_then_judged_by_the_rules(tmp_path):
    def reply(number, request):
        items = json.loads(request["messages"][1]["content"])
        if any("poison" in i["answer"] for i in items):
            return completion("I cannot help with that.")
        return judge_like_a_model(number, request)

    samples = [*dogs(3), sample("a poison dog", id="p"), sample("a poison cat", id="no times", times=False)]
    with serving(reply) as chat:
        verdicts, stage = run(chat, tmp_path / "a.jsonl", samples, batch=8)
    assert [v.fault for v in verdicts] == [None, None, None, None, "wrong kind of answer"]
    assert verdicts[4].detail["judged_by"] == "rules, for want of an answer"
    assert stage.judged_by["rules, for want of an answer"] == 2
    assert stage.failures.total() > 0


def test_without_an_endpoint_the_rules_judge(tmp_path):
    with ConsistencyFilter(ConsistencyConfig(), tmp_path / "a.jsonl") as stage:
        verdicts = stage.judge([*dogs(1), sample("a dog runs", times=False)])
    assert [v.fault for v in verdicts] == [None, "wrong kind of answer"]
    assert stage.usage is None and dict(stage.judged_by) == {"rules": 2}


def test_verdicts_that_are_missing_doubled_or_malformed_count_as_none():
    good = {"consistent": True, "generic": False, "reason": "ok"}
    rows = [{"id": 1, **good}, {"id": 2, **good}, {"id": 2, **good}, {"id": 3, "consistent": "yes"}, {"id": 9, **good}]
    assert parse_verdicts(json.dumps(rows), 4) == [good, None, None, None]
    assert parse_verdicts("[" * 100_000, 2) == [None, None]
    assert parse_verdicts("no idea", 1) == [None]
