"""What the steps cost: rows that a kill leaves, and money by the endpoint's prices."""

import pytest

from tests.data.media import read_rows
from timeexpert.commands.annotate import _print
from timeexpert.data.endpoint import Endpoint, EndpointConfig
from timeexpert.loomdata import AnnotateReport, cost
from timeexpert.loomdata.cost import StepCost, total_cost


def endpoint(folder, *prices):
    names = ("price_per_million_prompt_tokens", "price_per_million_completion_tokens")
    config = EndpointConfig(base_url="http://localhost:1/v1", model="m", **dict(zip(names, prices, strict=False)))
    return Endpoint(config, folder / "answers.jsonl")


def answered(asked, prompt, completion, without_usage=0):
    asked.usage.requests += 1
    asked.usage.prompt_tokens += prompt
    asked.usage.completion_tokens += completion
    asked.usage.without_usage += without_usage


def test_a_kill_loses_the_costs_since_the_last_row_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(cost, "EVERY_S", 0.0)
    with endpoint(tmp_path) as asked:
        spent = StepCost(tmp_path / "cost.jsonl", "actions", asked)
        answered(asked, 100, 10)
        spent.add(frames=8)
        answered(asked, 300, 30)
        spent.add(refused=True)
        rows = read_rows(tmp_path / "cost.jsonl")  # what a kill would leave now
        assert [(r["videos"], r["refused"], r["frames"], r["prompt_tokens"]) for r in rows] == [
            (1, 0, 8, 100),
            (1, 1, 0, 300),
        ]
        monkeypatch.setattr(cost, "EVERY_S", 3600.0)
        spent.add(frames=1)
        assert read_rows(tmp_path / "cost.jsonl") == rows
        spent.write()
    total = total_cost(tmp_path / "cost.jsonl")["actions"]
    assert (total["videos"], total["frames"], total["requests"], total["prompt_tokens"]) == (3, 9, 2, 400)


def test_prices_make_money_of_tokens_over_all_runs(tmp_path, capsys):
    path = tmp_path / "cost.jsonl"
    for _ in range(2):
        with endpoint(tmp_path, 0.5, 2.0) as asked:
            StepCost(path, "shots", asked).write()
            spent = StepCost(path, "actions", asked)
            answered(asked, 1000, 100)
            spent.write()
    assert total_cost(path)["actions"]["cost"] == pytest.approx(2 * (1000 * 0.5 + 100 * 2.0) / 1e6)
    assert total_cost(path)["shots"]["cost"] == 0
    _print(AnnotateReport("out", cost=total_cost(path)))
    assert "money" in (said := capsys.readouterr().out) and "0.0014" in said


@pytest.mark.parametrize(("prices", "without_usage"), [((), 0), ((0.5,), 0), ((0.5, 2.0), 1)])
def test_money_is_unknown_without_prices_or_tokens(tmp_path, capsys, prices, without_usage):
    with endpoint(tmp_path, *prices) as asked:
        spent = StepCost(tmp_path / "cost.jsonl", "actions", asked)
        answered(asked, 1000, 100, without_usage)
        spent.write()
        spent.write()
    total = total_cost(tmp_path / "cost.jsonl")
    assert total["actions"]["cost"] is None and total["actions"]["requests"] == 1
    _print(AnnotateReport("out", cost=total))
    assert "money" not in capsys.readouterr().out
