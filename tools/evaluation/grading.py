"""Read answers, and grade them by both verifiers, the robust one and JustRL's strict box."""

from pathlib import Path
from statistics import fmean

import rewards
from tools.evaluation.statistics import majority
from trainer.data import Problem
from trainer.errors import Refused
from trainer.run.files import read_jsonl
from trainer.sources.logic import logic_score, tagged_answer
from verifier import equal

# What a line of generations.jsonl has, and each of its answers.
RECORD = {"benchmark", "index", "task", "text", "answer", "answers", "verify"}
ANSWER = {"text", "tokens", "truncated", "distinct_4gram"}


def read_answers(folder: Path) -> dict[tuple[str, int], dict]:
    """{(benchmark, index): record} of the problems of an evaluation that any rank has finished.

    Raises Refused for a record that evaluate.py did not write.
    """
    records = {}
    for path in sorted(folder.glob("generations*.jsonl")):
        for record in read_jsonl(path):
            answers = record.get("answers") or [{}]
            if missing := (RECORD - record.keys()).union(*(ANSWER - one.keys() for one in answers)):
                raise Refused(f"{path} has a line without {min(missing)}: delete that line")
            records[record["benchmark"], record["index"]] = record
    return records


def verdicts(texts: list[str], gold: str, verify: dict | None) -> tuple[list[bool], list[bool]]:
    """(robust, strict): which answers each verifier accepts.

    A logic puzzle has its own verifier instead. Partial credit does not count as solved.
    """
    if verify:
        solved = [logic_score(text, verify) == 1 for text in texts]
        return solved, solved
    robust = [score > 0 for score in rewards.robust_many(texts, [gold] * len(texts))]
    return robust, [rewards.strict_box(text, gold) > 0 for text in texts]


def graded_texts(record: dict) -> list[str]:
    """The answers of a line of generations.jsonl, each with the prefill of its prompt."""
    problem = Problem(record["text"], record["answer"], prefill=record.get("prefill", ""))
    return [problem.completed(answer["text"]) for answer in record["answers"]]


def grade(record: dict) -> dict:
    """How many of a problem's n answers each verifier accepts, and means over its answers.

    record: a line of generations.jsonl.
    """
    answers, gold, verify = record["answers"], record["answer"], record["verify"]
    texts = graded_texts(record)
    robust, strict = verdicts(texts, gold, verify)
    found = [tagged_answer(text) if verify else rewards.last_answer(text) for text in texts]
    return {
        **{key: record[key] for key in ("benchmark", "index", "task", "text", "answer")},
        **{"n": len(texts), "robust": sum(robust), "strict": sum(strict)},
        **{
            key: fmean(answer[key] for answer in answers)
            for key in ("truncated", "tokens", "distinct_4gram")
        },
        "majority": majority(found, robust, str.__eq__ if verify else equal),
        "no_answer": fmean(text is None for text in found),
    }
