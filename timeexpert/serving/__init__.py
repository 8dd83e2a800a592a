"""An OpenAI-compatible server that says when things happen: ``timeexpert serve RUN`` (see docs/serving.md)."""
