if __name__ != "timeexpert.moe":
    raise ImportError("import timeexpert.moe, not moe")
