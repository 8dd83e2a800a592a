if __name__ != "timeexpert.stages":
    raise ImportError("import timeexpert.stages, not stages")
