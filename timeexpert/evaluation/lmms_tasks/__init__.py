"""Task definitions for lmms-eval: ``--include_path`` takes this folder. docs/evaluation.md says how to run them."""
