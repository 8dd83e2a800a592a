"""One module per command of ``timeexpert``: HELP, add_arguments(parser), run(args) -> exit code."""
