"""LoomBench's questions: a language model writes them about described shots, rules hold them. See docs/loombench.md."""

from .checks import Refused, read_answer
from .run import QuestionsConfig, QuestionsReport, make_questions

__all__ = ["QuestionsConfig", "QuestionsReport", "Refused", "make_questions", "read_answer"]
